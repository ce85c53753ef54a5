"""Text that comes from a node or a broker reaches a person's terminal as text: no escape sequence, no markup, no traceback."""

import io
import json

import cbor2
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tools.report import plain
from tools.table import Board
from tools.wire import command as wire

NASTY = "\x1b]0;pwned\x07\x1b[2J\r\n[bold red]x[/]\x9b31m\u202e[/bold]"
CONTROLS = {chr(c) for c in (*range(32), *range(127, 160))} - {"\n"}


@given(st.text())
def test_plain_text_has_no_control_characters_and_keeps_everything_else(text: str) -> None:
    shown = plain(text)
    assert not CONTROLS & set(shown) and "\n" not in shown and "\u202e" not in shown
    assert plain("aq-01 ščž µg/m³") == "aq-01 ščž µg/m³"


def test_wire_decode_shows_the_escapes_of_a_node_as_text() -> None:
    payload = cbor2.dumps({5: NASTY, 99: {"a": NASTY}})
    done = CliRunner().invoke(wire, ["decode", payload.hex(), "--payload", "--type", "status"])
    assert done.exit_code == 0, done.output
    assert not CONTROLS & set(done.output)
    assert "pwned" in done.output and "[bold red]" in done.output


@pytest.mark.parametrize("leaf", ["alert/a", "meta", "q/pm10", "state"])
def test_the_live_table_shows_any_payload_as_text(leaf: str) -> None:
    board = Board()
    node = "[bold]n[/bold]\x1b[2J"
    body = {"code": "above", "limit": 5, "value": NASTY, "quantity": NASTY, "profile": NASTY, "v": NASTY, "u": NASTY}
    board.take(f"city/v1/node/{node}/{leaf}", json.dumps(body).encode())
    board.take(f"city/v1/node/y/{leaf}", b"\xff\xfe[/bold]")
    board.take(f"city/v1/node/y/{leaf}", b"[1, 2]")
    out = io.StringIO()
    Console(file=out, width=200).print(board.render("[/bold]"))
    assert not CONTROLS & set(out.getvalue())

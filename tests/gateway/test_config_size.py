"""Files of 25,000 nodes, sound and with mistakes: work grows with their length, not with its square. Counted, not timed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from gateway.config import ConfigError, load, mistakes, table

NODE = '[[node]]\nid = {n}\nname = "n-{n}"\nkey = "{key}"\nprofile = "air_quality"\ninterval_s = 600\n'


def lines_run(folder: Path, nodes: int, wrong: str) -> int:
    """Return how many lines of Python the loader runs for a registry of so many nodes."""
    folder.mkdir()
    text = "".join(NODE.format(n=n, key=f"{n * 2654435761 % 2**128:032x}") for n in range(1000, 1000 + nodes))
    (folder / "nodes.toml").write_text(wrong + text)
    (folder / "gateway.toml").write_text('[gateway]\nid = "g"\n[link.l]\nkind = "udp-forwarder"\nbind = "127.0.0.1:0"\n'
                                         '[output.c]\nkind = "mqtt"\nbroker = "127.0.0.1:1883"\n')  # fmt: skip
    count = 0

    def trace(_frame: FrameType, what: str, _arg: Any) -> Any:
        nonlocal count
        count += what == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        load(folder / "gateway.toml")
        assert not wrong
    except ConfigError as e:
        assert wrong and "nodes.toml" in str(e)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("wrong", ["", "oops\n", "[[node]]\nid = 1\nname =\n", "[[node]]\nid = 1\nnamme = 3\n"])
def test_a_registry_of_four_times_the_length_costs_about_four_times_as_much(tmp_path: Path, wrong: str) -> None:
    few, many = (lines_run(tmp_path / str(n), n, wrong) for n in (200, 800))
    assert many < 4.6 * few, (few, many)


def test_a_text_is_split_once_however_many_nodes_are_wrong(tmp_path: Path) -> None:
    """What a count of lines cannot see: one line that goes through the whole text."""
    table._index.cache_clear()
    lines_run(tmp_path / "x", 300, "".join(f"[[node]]\nid = {n}\nname = {n}\n" for n in range(1, 60)))
    assert table._index.cache_info().misses <= 2


def test_a_long_text_is_not_parsed_again_for_each_of_many_broken_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mistakes, "WORK", 100_000)
    parses: list[int] = []
    monkeypatch.setattr(mistakes, "parse", lambda f, t: (parses.append(len(t)), table.parse(f, t))[1])
    lines_run(tmp_path / "x", 200, "".join(f"[[node]]\nid = {n}\nname =\n" for n in range(1, 60)))
    assert sum(parses) < 200_000 and len(parses) > 2, parses

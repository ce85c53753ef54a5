"""What `check`, a start and `key` say of keys: what is no secret, what two nodes share, what the store knows otherwise; and none is ever quoted."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import signal
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from gateway import service
from gateway.config import ConfigError, keys, load
from gateway.config.keys import weak
from gateway.config.manual import KEYS
from gateway.config.table import masked
from gateway.core.model import NodeState, fingerprint
from gateway.store import states
from gateway.store.sqlite import SqliteEngine
from gateway.verbs import check
from gateway.verbs import key as make_keys
from tests.gateway.test_check import KEY, codes, fresh, node, write
from tests.gateway.world import REPO, Mote, Process
from tools.cli import cli


@pytest.mark.parametrize(
    "key",
    [
        "0" * 32, "f" * 32, "ab" * 16, "0123456789abcdef" * 2, "deadbeef" * 4, "000102030405060708090a0b0c0d0e0f", "101112131415161718191a1b1c1d1e1f",
        "00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100", "12345678901234567890123456789012", "0f0e0d0c0b0a09080706050403020100",
        "00000000000000000000000000000107", "636974796d6f74652d6b65792d303031", "2b7e151628aed2a6abf7158809cf4f3c", "2B7E151628AED2A6ABF7158809CF4F3C", "fedcba9876543210fedcba9876543210", "a1f3077b9c52e84d" * 2,
        *(h.example.strip('"') for section in KEYS.values() for key, h in section.items() if key in ("key", "next_key")),
    ],
)  # fmt: skip
def test_a_key_that_stands_in_a_document_or_follows_a_pattern_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    file = write(tmp_path, node(1, KEY) + node(2, key))
    assert codes(file) == [("weak_key", True)]
    assert check(file, as_json=True) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"] == "weak_key" and f"{tmp_path}/nodes.toml:5: key of 'node-2'" in err
    assert key.lower() not in (out + err).lower()
    file = write(tmp_path, node(1, KEY, f'next_key = "{key}"'))
    assert codes(file) == [("weak_next_key", True)]


@given(st.binary(min_size=16, max_size=16))
def test_every_key_is_judged_and_a_random_one_passes(key: bytes) -> None:
    why = weak(key)
    assert why is None or key.hex() not in why
    assert weak(secrets.token_bytes(16)) is None


def test_the_keys_of_a_registry_are_judged_once_at_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """25,000 of them were: for the log's lines, and again for the health of the gateway."""
    judged: list[bytes] = []
    monkeypatch.setattr(keys, "weak", lambda key: judged.append(key))
    monkeypatch.setattr(service.Service, "run", lambda self: asyncio.sleep(0))
    monkeypatch.setattr(service.logs, "setup", lambda _log: None)
    mine = [fresh() for _ in range(3)]
    before = signal.getsignal(signal.SIGHUP)
    try:
        assert service.run(write(tmp_path, "".join(node(i, k) for i, k in enumerate(mine, 1)))) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert [k.hex() for k in judged] == mine


def test_every_key_that_a_document_of_ours_shows_is_refused() -> None:
    """Whoever copies an example into nodes.toml must not get away with it."""
    import re

    shown = set()
    for page in (
        *REPO.glob("*.md"),
        *(REPO / "gateway").rglob("*.md"),
        *(REPO / "docs").rglob("*.md"),
        *(REPO / "firmware").rglob("*.md"),
    ):
        shown |= set(re.findall(r'key = "([0-9a-fA-F]{32})"', page.read_text()))
    assert shown and {key for key in shown if weak(bytes.fromhex(key)) is None} == set()


def test_two_nodes_of_one_key_are_refused_whichever_of_their_keys_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert codes(write(tmp_path, node(1, KEY) + node(2, KEY.upper()))) == [("duplicate_key", True)]
    assert codes(write(tmp_path, node(1, KEY) + node(2, fresh(), f'next_key = "{KEY}"'))) == [("duplicate_key", True)]
    file = write(tmp_path, node(1, fresh(), f'next_key = "{KEY}"') + node(2, KEY) + node(3, KEY))
    assert check(file) == 2
    err = capsys.readouterr().err
    assert err.count("is a key of 'node-1' too") == 2 and KEY not in err and "nodes.toml:6: " in err
    assert codes(write(tmp_path, node(1, KEY, f'next_key = "{fresh()}"') + node(2, fresh()))) == []
    counted = [KEY[:-4] + "d217", "d2" + KEY[2:], KEY[:24] + "00000001"]
    found = codes(write(tmp_path, node(1, KEY) + "".join(node(i, k) for i, k in enumerate(counted, 2))))
    assert found == [("related_key", True)] * 3


def test_what_ran_yesterday_starts_today_and_its_health_reports_it(tmp_path: Path) -> None:
    m = Mote(263)
    file = write(tmp_path, node(263, m.key.hex()) + node(264, m.key.hex(), 'name = "-1-1"') + node(265, "0" * 32))
    p = Process(file)
    try:
        told = [line for line in p.lines() if line["event"] == "configuration_doubtful"]
        assert {line["code"] for line in told} == {"duplicate_key", "weak_key", "bad_name"}
        health = p._await_ready(20)
        assert b"is all zeros" in health or b"is a key of" in health, health
        assert p.stop() == 0 and m.key.hex() not in p.log.read_text()
    finally:
        p.kill()


def test_a_key_written_into_any_other_place_is_never_quoted(tmp_path: Path) -> None:
    number = int(KEY, 16)
    spaced = " ".join(KEY[i : i + 2] for i in range(0, 32, 2))
    trials = [
        f'[[node]]\nid = 1\nname = "{KEY}-x"\nkey = "{KEY}"\n', f'[[node]]\nid = 1\nname = "{KEY.upper()}"\nkey = "{KEY}"\n',
        f'[[node]]\nid = "{KEY}"\nkey = "{KEY}"\n', f'[[node]]\nid = 0x{KEY}\nkey = "{KEY}"\n', f'[[node]]\nid = {number}\nkey = "{KEY}"\n',
        f'[[node]]\nid = 1\nkey = 0x{KEY}\n', f'[[node]]\nid = 1\n{KEY} = "key"\nkey = "{KEY}"\n', f'[[nodes]]\nid = 1\nkey = "{KEY}"\n',
        f'[[node]]\nid = 1\nkey = "{KEY}"\narea = "{KEY.upper()}"\n', f'[[node]]\nid = 1\nkey = "{KEY}"\nlat = "{KEY}"\nlon = 1\n',
        f'[[node]]\nid = 1\nkey = "{KEY}"\nvisibility = "{KEY}"\n', f'[[node]]\nid = 1\nkey = "{KEY}"\ninterval_s = {number}\n',
        f'[[node]]\nid = 1\nkey = "{KEY}"\nname = "{spaced}"\n', f'[[node]]\nid = 1\nname = "{KEY[:15]}G{KEY[16:]}"\nkey = "{KEY}"\n',
        f'[[node]]\nid = 1\nname = ["{"x" * 30}", "{KEY}"]\nkey = "{KEY}"\n', f'[[node]]\nid = 1\nkey = {KEY}\n', f'key = "{KEY}"\n',
        f'[[node]]\nid = 1\nkey = "{KEY}"\n[[node]]\nid = 1\nkey = "{KEY}"\n', f'node = "{KEY}"\n', f'{KEY}\n', f'[[node]]\n["{KEY}"]\nx = 1\n',
        f'[[node]]\nid = 1\nkey = "{KEY}\n',
    ]  # fmt: skip
    for nodes in trials:
        with pytest.raises(ConfigError) as e:
            load(write(tmp_path, nodes))
        for mistake in (e.value, *e.value.more):
            said = json.dumps(mistake.document()).lower()
            for secret in (KEY, KEY[:12], KEY[18:30], str(number)[:20], spaced[:20]):
                assert secret not in said, (nodes, said)


def test_what_is_no_key_stays_readable() -> None:
    for text in ("link.lora.allow holds 'aa555a000000000'", "holds 'aa555a0000000001'", "name is 'water-meter-koper-old-town-12'",
                 "environmentalmonitoringstation", "2026-03-01T00:00:00Z", "/var/lib/citymote/gateway.db"):  # fmt: skip
        assert masked(text) == text
    file = Path("/srv/0123456789abcdef0123456789abcdef/gateway.toml")
    assert str(ConfigError(f"{file}:3: node.name is {KEY!r}", "", file)) == f"{file}:3: node.name is '[32 hex digits]'"


def knows(store: Path, *nodes: tuple[int, dict[int, str]]) -> None:
    """Have a store know keys by node and epoch, as frames would have proven them."""
    with sqlite3.connect(store) as db:
        for number, proven in nodes:
            state = NodeState(
                max(proven), keys={epoch: fingerprint(bytes.fromhex(key)) for epoch, key in proven.items()}
            )
            db.execute("INSERT OR REPLACE INTO nodes VALUES (?, 0, ?)", (number, states.encode(state)))
    db.close()


@pytest.mark.parametrize("working", [True, False], ids=["gateway works", "gateway stopped"])
async def test_a_key_that_was_changed_under_its_epoch_is_named_before_a_gateway_refuses_its_frames(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], working: bool
) -> None:
    new, held, other = fresh(), fresh(), fresh()
    engine = SqliteEngine(tmp_path / "gateway.db", [])
    if not working:
        engine.close()
    file = write(tmp_path, node(1, KEY) + node(2, new) + node(3, other, "epoch = 2") + node(4, held) + node(5, fresh()))
    knows(tmp_path / "gateway.db", (1, {0: KEY}), (2, {0: KEY}), (3, {0: KEY, 1: new}), (9, {0: KEY}))

    def files() -> dict[str, int]:
        return {
            f.name: f.stat().st_mtime_ns for f in tmp_path.iterdir() if not f.name.endswith("-shm")
        }  # of readers, too

    before = files()
    assert check(file, as_json=True) == 2
    out, err = capsys.readouterr()
    (found,) = json.loads(out)["mistakes"]
    assert (
        found["code"] == "key_changed" and f"{tmp_path}/nodes.toml:5: " in found["text"] and "node-2" in found["text"]
    )
    assert "epoch = 1" in found["hint"] and new not in out + err
    assert files() == before, "the store is only read"
    file = write(tmp_path, node(1, KEY) + node(2, new, "epoch = 1") + node(3, new, "epoch = 1"))
    assert check(file) == 2, "two nodes with one key, and not more"
    assert "key_changed" not in capsys.readouterr().err
    file = write(tmp_path, node(1, KEY) + node(3, fresh()))
    knows(tmp_path / "gateway.db", (1, {0: KEY}), (3, {2: KEY, 4: new}))
    assert check(file, as_json=True) == 2
    (found,) = json.loads(capsys.readouterr().out)["mistakes"]
    assert found["code"] == "key_changed" and "a lower epoch than one before: node-3" in found["text"]
    assert "epoch = 5" in found["hint"]
    file = write(tmp_path, node(1, KEY, f'next_key = "{other}"', "next_epoch = 2") + node(2, new, "epoch = 1"))
    knows(tmp_path / "gateway.db", (1, {0: KEY, 2: held}))
    assert check(file) == 2, "also the key that is to come"
    assert "(epoch 2)" in capsys.readouterr().err
    if working:
        engine.close()


def test_a_store_that_is_new_absent_or_unreadable_does_not_stop_a_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, node(1, KEY))
    assert check(file) == 0
    (tmp_path / "gateway.db").write_bytes(b"")
    assert check(file) == 0 and "store_unread" not in capsys.readouterr().err
    (tmp_path / "gateway.db").write_bytes(b"no store at all" * 400)
    assert check(file, as_json=True) == 0
    out, err = capsys.readouterr()
    assert [w["code"] for w in json.loads(out)["warnings"]] == ["store_unread"] and "were not compared" in err


def test_a_key_is_made_that_check_takes_and_two_are_never_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_keys(200) == 0
    made = capsys.readouterr().out.split()
    assert len(set(made)) == 200 and all(
        re.fullmatch("[0-9a-f]{32}", k) and weak(bytes.fromhex(k)) is None for k in made
    )
    assert check(write(tmp_path, "".join(node(n, k) for n, k in enumerate(made, 1)))) == 0
    done = CliRunner().invoke(cli, ["gateway", "key", "--help"])
    assert done.exit_code == 0 and "--number" in done.output
    assert make_keys(0) == make_keys(10**9) == 2

"""What older gateways have kept of commands: their secrets are taken out once, and nothing else is changed."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.caretaker import Caretaker
from gateway.core.model import Event
from gateway.core.redact import HIDDEN, redact
from gateway.metrics import Metrics
from gateway.store import audit, redaction, schema
from gateway.store.recovery import open_sound
from gateway.store.sqlite import SqliteEngine
from tests.gateway.test_command_requests import holders, until, values
from tests.gateway.world import T0

SECRET = "hunter22"
ARGS = {"wifi": {"ssid": "city", "password": SECRET}, "log": 3}


def command(number: int, state: str, args: Any = ARGS, **more: Any) -> dict[str, Any]:
    return {"number": number, "id": f"a{number}", "requester": "ana", "node": 263, "name": "config", "args": args, "state": state,
            "detail": f"the node says: {SECRET} is short", **more}  # fmt: skip


def old_store(file: Path, rows: int = 1) -> None:
    """A store as an older gateway left it: audit rows, waiting events and notes with the arguments as they were asked for."""
    schema_of(file)
    db = schema.connect(file)
    for n in range(rows):
        c = command(n, "done")
        db.execute("INSERT INTO audit (t, node, requester, id, number, name, state, detail, body) VALUES (?, 'n-263', 'ana', ?, ?, 'config', 'done', ?, ?)",
                   (T0 + n, c["id"], n, c["detail"], json.dumps(c, separators=(",", ":"))))  # fmt: skip
    plain = {"state": "done", "name": "read_now", "args": [], "detail": "ok"}
    db.execute("INSERT INTO audit (t, node, requester, id, number, name, state, detail, body) VALUES (?, 'n-263', 'ana', 'p', 1, 'read_now', 'done', 'ok', ?)",
               (T0, json.dumps(plain)))  # fmt: skip
    event = Event("command", "263:0:commands:1:1", 263, "n-263", "restricted", T0, 1, command=command(1, "done"))
    report = Event("report", "263:0:7", 263, "n-263", "restricted", T0, 1, 7)
    for e in (event, report):
        db.execute("INSERT INTO spool (received, body) VALUES (?, ?)", (T0, msgspec.msgpack.encode(e)))
    for key, c in (
        ("commands:263:1", command(1, "done")),
        ("commands:263:2", command(2, "sent")),
        ("other:1", {"args": SECRET}),
    ):
        db.execute("INSERT INTO notes VALUES (?, ?)", (key, msgspec.msgpack.encode(c)))
    db.close()


def schema_of(file: Path) -> None:
    db = schema.connect(file)
    schema.migrate(db, file, T0)
    db.close()


def bodies(file: Path) -> list[dict[str, Any]]:
    with sqlite3.connect(file) as db:
        return [json.loads(b) for (b,) in db.execute("SELECT body FROM audit ORDER BY seq")]


async def test_a_store_of_an_older_gateway_loses_its_secrets_when_it_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "s.db"
    old_store(file, rows=3)
    assert SECRET in str(bodies(file)) and SECRET not in str(list(audit.entries(file))), (
        "also the verb beside an older gateway hides it"
    )
    engine = SqliteEngine(file, ["city"])
    try:
        (first, second) = [e.event for e in engine.fetch(0, 9)]
        assert first.command is not None and first.command["args"] == redact(ARGS) and first.id == "263:0:commands:1:1"
        assert second.kind == "report" and second.counter == 7
        notes = {k: msgspec.msgpack.decode(v) for k, v in engine.notes("commands:").items()}
        assert notes["commands:263:1"]["args"] == redact(ARGS)
        assert notes["commands:263:2"]["args"] == ARGS, "it is still to be sent"
        assert engine.note("other:1") == msgspec.msgpack.encode({"args": SECRET}), "no command's"
        found = list(audit.entries(file))
        assert [e.seq for e in found] == [1, 2, 3, 4] and [e.t for e in found] == [T0, T0 + 1, T0 + 2, T0]
        assert found[0].body == {
            **command(0, "done"),
            "args": redact(ARGS),
            "detail": f"the node says: {HIDDEN} is short",
        }
        assert found[0].detail == f"the node says: {HIDDEN} is short" and found[3].detail == "ok"
        assert SECRET not in str(bodies(file))
        engine._reader.execute("DELETE FROM notes WHERE key IN ('commands:263:2', 'other:1')")
        Caretaker(engine, Metrics(), lambda: None, lambda: T0).tick(100.0, False)
        await until(lambda: not holders(tmp_path))
    finally:
        engine.close()


def test_the_log_is_append_only_again_afterwards_and_looked_through_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "s.db"
    old_store(file)
    open_sound(file, "gw-1", T0, 1.0).close()
    with sqlite3.connect(file) as db, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute("UPDATE audit SET detail = 'x'")
    looked: list[Any] = []
    monkeypatch.setattr(redaction, "shown", lambda c: looked.append(c) or c)
    open_sound(file, "gw-1", T0, 1.0).close()
    assert looked == []
    monkeypatch.setattr(redaction, "RULES", b"2")
    open_sound(file, "gw-1", T0, 1.0).close()
    assert looked, "and again by a gateway that knows more of what a secret is"


def test_a_row_that_cannot_be_read_keeps_no_gateway_from_starting(tmp_path: Path) -> None:
    file = tmp_path / "s.db"
    old_store(file)
    with sqlite3.connect(file) as db:
        for body in (
            b'{"args":[1',
            b'{"args":["\xff\xfe"]}',
            b'["args":1]',
            b'{"args":{"password":"x"},"name":7,"detail":null}',
        ):
            db.execute(
                "INSERT INTO audit (t, node, requester, id, name, state, detail, body) VALUES (1, '', '', '', '', '', '', CAST(? AS TEXT))",
                (body,),
            )
        db.execute("INSERT INTO spool (received, body) VALUES (1, ?)", (b"\xa4kind\xa7command",))
        db.execute("INSERT INTO notes VALUES ('commands:1:1', x'c1')")
    db.close()
    open_sound(file, "gw-1", T0, 1.0).close()
    with sqlite3.connect(file) as db:
        kept = [b for (b,) in db.execute("SELECT CAST(body AS BLOB) FROM audit ORDER BY seq")]
    assert kept[2:5] == [b'{"args":[1', b'{"args":["\xff\xfe"]}', b'["args":1]'] and SECRET.encode() not in kept[0]


def test_without_room_the_store_is_opened_as_it_is_and_looked_through_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "s.db"
    old_store(file, rows=40)
    before = bodies(file)
    db = schema.connect(file)
    db.execute(f"PRAGMA max_page_count={db.execute('PRAGMA page_count').fetchone()[0]}")
    with monkeypatch.context() as m:
        m.setattr(redaction, "shown", lambda c: {**c, "args": ["x" * 4000]})
        redaction.apply(db, T0)
    assert not db.in_transaction and bodies(file) == before, "all of it or nothing"
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute("UPDATE audit SET detail = 'x'")
    db.close()
    open_sound(file, "gw-1", T0, 1.0).close()
    assert SECRET not in str(bodies(file))


@given(st.lists(values, min_size=1, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_whatever_was_asked_for_is_kept_as_a_newer_gateway_would_have_kept_it(tmp_path: Path, asked: list[Any]) -> None:
    file = tmp_path / "s.db"
    file.unlink(missing_ok=True)
    old_store(file, rows=0)
    kept: list[bytes] = []
    for args in asked:
        try:
            kept.append(msgspec.json.encode({"name": "own", "state": "done", "detail": "", "args": [args]}))
        except OverflowError:
            continue  # the log never held such
    with sqlite3.connect(file) as db:
        for body in kept:
            db.execute(
                "INSERT INTO audit (t, node, requester, id, name, state, detail, body) VALUES (2, '', '', '', '', '', '', ?)",
                (body.decode(),),
            )
    db.close()
    open_sound(file, "gw-1", T0, 1.0).close()
    for body, after in zip(kept, bodies(file)[1:], strict=True):
        before = json.loads(body)
        assert after == {**before, "args": redact(before["args"], "own")}

"""Both engines: one transaction, exactly once, in order, and nothing after a failure that was decided on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.core.model import Alarm, Column, Event, NodeState
from gateway.core.replay import Replay
from gateway.core.value import replace
from gateway.store.engine import RawFrame, StoreError, Write
from gateway.store.memory import MemoryEngine
from gateway.store.schema import MIGRATIONS, down_floor
from gateway.store.sqlite import QUARANTINE_MAX, SqliteEngine
from tests.gateway.world import T0

STATE = NodeState(
    replay=Replay(9, 2, ((3, 5),)), down=(1 << 31) + 4, heard=T0 + 0.5, online=True, latest={"pm10": T0}, marks={6: (T0, 3)}, schemas={200: (1, 2)},
    ids=(1, 2), boots=3, firmware="0.1", meta="x",
)  # fmt: skip


def write(counter: int, node: int = 263, state: NodeState = STATE) -> Write:
    event = Event(
        "report", f"{node}:0:{counter}", node, f"n-{node}", "open", T0 + 1.5, 600, counter, times=(T0, T0 + 60),
        columns=(Column("pm10", "ug/m3", (5, None)), Column("temperature", "Cel", (21.5, 22), (1,))), latest=((0, 0),),
        alarm=Alarm("raised", "above", "warning", "pm10", "ug/m3", 5, 4.5, T0, T0, ("pm10-above",)), status={"a": [1, None]},
    )  # fmt: skip
    raw = RawFrame(node, 0, counter, 0, b"\x01\x02", T0 + 1.5, "lora", "aa", -80, 7.5)
    return Write(node, state, event, raw)


@pytest.fixture(params=["sqlite", "memory"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteEngine | MemoryEngine]:  # type: ignore[misc]
    made = SqliteEngine(tmp_path / "g.db", ["city"]) if request.param == "sqlite" else MemoryEngine(["city"])
    yield made
    made.close()


async def purged(engine: SqliteEngine | MemoryEngine, now: float) -> None:
    """A whole pass of retention."""
    while await engine.purge(now):
        pass


async def test_what_is_committed_comes_back_the_same(engine: SqliteEngine | MemoryEngine) -> None:
    w = write(1)
    assert await engine.commit([w]) == 1
    assert engine.load(263) == STATE and engine.load(264) is None
    (entry,) = engine.fetch(0, 10)
    assert (entry.seq, entry.event) == (1, w.event)
    assert isinstance(entry.event.columns[0].values[0], int)
    assert engine.online() == [(263, STATE.heard)]


async def test_what_metadata_rest_on_is_found_for_many_nodes_at_once(engine: SqliteEngine | MemoryEngine) -> None:
    await engine.commit([write(1), write(1, 7, NodeState(down=STATE.down))])
    found = engine.described([263, 264, 7])
    assert found.keys() == {263, 7}, "264 was never heard"
    for number, state in ((263, STATE), (7, NodeState())):
        d = found[number]
        assert (d.ids, d.firmware, d.rhythm, d.meta) == (state.ids, state.firmware, state.rhythm, state.meta)
    assert engine.described([]) == {}


async def test_a_frame_enters_the_spool_once(engine: SqliteEngine | MemoryEngine) -> None:
    await engine.commit([write(1), write(1), write(2)])
    await engine.commit([write(2)])
    assert [e.event.id for e in engine.fetch(0, 10)] == ["263:0:1", "263:0:2"]
    assert [e.event.id for e in engine.fetch(1, 10)] == ["263:0:2"]


async def test_a_frame_that_is_read_again_enters_the_spool_once_more_and_then_never(
    engine: SqliteEngine | MemoryEngine,
) -> None:
    unread, read = write(1), write(1)
    assert unread.raw is not None and unread.event is not None
    raw = replace(unread.raw, reason="unknown_schema")
    await engine.commit([replace(unread, raw=raw, event=replace(unread.event, kind="opaque", times=(), columns=()))])
    assert engine.unread() == [raw] and engine.unread(node=264) == [] and engine.unread((263, 0, 1)) == []
    await engine.commit([replace(read, raw=raw, again=True), replace(read, raw=raw, again=True)])
    await engine.commit([replace(read, raw=raw, again=True), replace(write(2), again=True)])
    assert [e.event.kind for e in engine.fetch(0, 10)] == ["opaque", "report"] and engine.unread() == []


async def test_alarms_have_a_lane_and_a_cursor_of_their_own(engine: SqliteEngine | MemoryEngine) -> None:
    calm = [replace(w, event=replace(w.event, alarm=None)) for c in (1, 2, 4) if (w := write(c)).event is not None]
    await engine.commit([calm[0], calm[1], write(3), calm[2], write(5)])
    assert [e.seq for e in engine.fetch_express(0, 9)] == [3, 5] == [e.seq for e in engine.fetch(0, 9) if e.express]
    assert [e.seq for e in engine.fetch_express(3, 9)] == [5]
    await engine.ack("city", 1, 3)
    await engine.ack("city", 0, 2)
    assert (engine.cursor("city"), engine.express_cursor("city")) == (1, 3)
    await engine.ack("city", 5, 3)
    await purged(engine, T0 + 90_000)
    assert [e.seq for e in engine.fetch(0, 9)] == [5], "passed by the one cursor, waited for by the other"
    await engine.ack("city", 5)
    assert engine.express_cursor("city") == 5, "who takes everything in order has taken the alarms too"


async def test_cursors_are_kept_apart_and_never_step_back(engine: SqliteEngine | MemoryEngine) -> None:
    await engine.commit([write(c) for c in range(1, 6)])
    assert engine.cursor("city") == 0
    await engine.ack("city", 4)
    await engine.ack("city", 2)
    assert (engine.cursor("city"), engine.cursor("other"), engine.newest()) == (4, 0, 5)


async def test_only_what_every_output_took_is_purged(engine: SqliteEngine | MemoryEngine) -> None:
    await engine.commit([write(c) for c in range(1, 6)])
    await engine.ack("city", 3)
    await purged(engine, T0 + 86_401)
    assert len(engine.fetch(0, 10)) == 5, "too young"
    await purged(engine, T0 + 86_402)
    assert [e.seq for e in engine.fetch(0, 10)] == [4, 5] and engine.newest() == 5
    assert await engine.commit([write(9)]) == 6, "numbers go on"


async def test_booked_airtime_survives(engine: SqliteEngine | MemoryEngine) -> None:
    await engine.book("aa", 2, 1000, 50)
    assert engine.airtime(999) == [("aa", 2, 1000, 50)] and engine.airtime(1000) == []


async def test_what_follows_is_spooled_behind_and_noted_with_it(engine: SqliteEngine | MemoryEngine) -> None:
    first, second = write(1), write(2)
    assert first.event is not None
    alarm = replace(first.event, kind="alarm", id="263:0:1:rules:pm10-high", times=(), columns=())
    assert (
        await engine.commit([replace(first, more=(alarm,), notes={"rules:a": b"1", "rules:b": b"2", "rulez": b"3"})])
        == 2
    )
    assert [e.event.id for e in engine.fetch(0, 10)] == ["263:0:1", "263:0:1:rules:pm10-high"]
    assert engine.notes("rules:") == {"rules:a": b"1", "rules:b": b"2"} and engine.note("rulez") == b"3"
    await engine.commit([replace(first, more=(alarm,), notes={"rules:a": b"again"})])
    assert engine.note("rules:a") == b"1" and engine.newest() == 2, "a known frame changes nothing"
    await engine.commit([replace(second, notes={"rules:a": None}), Write(0, None, notes={"rules:b": b"4"})])
    assert engine.notes("rules:") == {"rules:b": b"4"} and engine.note("rules:a") is None and engine.load(0) is None


async def test_a_store_of_an_older_version_is_brought_up_to_date(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "g.db")
    db.executescript(f"BEGIN; {MIGRATIONS[0]} PRAGMA user_version=1; COMMIT;")
    db.execute(
        "INSERT INTO spool (received, done, body) VALUES (?, 0, ?)", (T0, msgspec.msgpack.encode(write(1).event))
    )
    db.execute("INSERT INTO cursors VALUES ('city', 1)")
    db.commit()
    db.close()
    engine = SqliteEngine(tmp_path / "g.db")
    await engine.commit([replace(write(2), notes={"rules:a": b"1"})])
    assert engine.note("rules:a") == b"1" and [e.event.counter for e in engine.fetch(0, 9)] == [1, 2]
    assert engine.cursor("city") == engine.express_cursor("city") == 1
    assert engine.fresh().down >= down_floor(T0), "how far this store had come is unknown: from the clock on"
    engine.close()


async def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    SqliteEngine(tmp_path / "g.db").close()
    db = sqlite3.connect(tmp_path / "g.db")
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StoreError, match="version 99") as e:
        SqliteEngine(tmp_path / "g.db")
    assert "newer gateway" in e.value.hint


async def test_the_quarantine_is_bounded(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "g.db")
    for i in range(QUARANTINE_MAX + 50):
        last = engine.quarantine(bytes(4) + i.to_bytes(4, "big"), "opaque", T0)
    await last
    engine.close()
    db = sqlite3.connect(tmp_path / "g.db")
    assert db.execute("SELECT count(*) FROM quarantine").fetchone()[0] == QUARANTINE_MAX
    db.close()


async def test_rows_are_kept_in_physical_values_and_once(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "g.db", ["city"])
    await engine.commit([write(1), write(1)])
    engine.close()
    db = sqlite3.connect(tmp_path / "g.db")
    assert db.execute("SELECT row, t, vals, suspect FROM rows ORDER BY row").fetchall() == [
        (0, T0, '{"pm10":5,"temperature":21.5}', None),
        (1, T0 + 60, '{"temperature":22}', "temperature"),
    ]
    assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    db.close()


async def test_a_second_gateway_on_the_same_store_is_refused(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "g.db")
    with pytest.raises(StoreError, match="in use by another gateway") as e:
        SqliteEngine(tmp_path / "g.db")
    assert "gateway.store" in e.value.hint
    engine.close()
    SqliteEngine(tmp_path / "g.db").close()


async def test_after_a_failed_commit_nothing_is_taken_until_resumed(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "g.db", ["city"])
    await engine.commit([write(1)])
    beside = sqlite3.connect(tmp_path / "g.db")
    beside.execute("ALTER TABLE frames RENAME TO hidden")
    failed = engine.commit([write(2)])
    later = engine.commit([write(3)])
    with pytest.raises(StoreError):
        await failed
    with pytest.raises(StoreError):
        await later
    beside.execute("ALTER TABLE hidden RENAME TO frames")
    beside.close()
    with pytest.raises(StoreError):
        await engine.commit([write(4)])
    await engine.resume()
    await engine.commit([write(5)])
    assert [e.event.counter for e in engine.fetch(0, 10)] == [1, 5]
    engine.close()

# ruff: noqa: ASYNC240 - files of a few pages, and nobody else in the loop
"""Retention, damaged files, full disks, backups: what a store does when it is left alone for years."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from gateway.config.store import StoreConfig
from gateway.core.model import Event, NodeState
from gateway.core.replay import Replay
from gateway.core.value import replace
from gateway.outputs.native import messages
from gateway.schemas import schema
from gateway.store import recovery, sqlite
from gateway.store.backup import backup, examine
from gateway.store.engine import STORE, Entry, StoreError, Write
from gateway.store.schema import BORN, BUILT, DOWN_CAP, JUMP, down_floor
from gateway.store.sqlite import SqliteEngine
from tests.gateway.test_store import STATE, purged, write
from tests.gateway.world import T0
from tools.cli import cli

DAY = 86_400
NOW = T0 + 300 * DAY


def aged(counter: int, received: float, node: int = 263, alarm: bool = False, state: NodeState = STATE) -> Write:
    w = write(counter, node, state)
    assert w.event is not None and w.raw is not None
    event = replace(w.event, received=received, times=(int(received),), columns=tuple(replace(c, values=c.values[:1], suspect=()) for c in w.event.columns))  # fmt: skip
    event = replace(event, alarm=event.alarm if alarm else None)
    return replace(w, event=event, raw=replace(w.raw, received=received, data=os.urandom(200)))


def count(path: Path, table: str, where: str = "1") -> int:
    db = sqlite3.connect(path)
    try:
        return db.execute(f"SELECT count(*) FROM {table} WHERE {where}").fetchone()[0]
    finally:
        db.close()


@pytest.fixture
async def make(tmp_path: Path) -> Iterator[Callable[..., SqliteEngine]]:  # type: ignore[misc]
    """Open the store at g.db; whatever is open at the end is closed."""
    made: list[SqliteEngine] = []

    def one(keep: StoreConfig | None = None, clock: float = NOW, outputs: tuple[str, ...] = ("city",)) -> SqliteEngine:
        made.append(SqliteEngine(tmp_path / "g.db", outputs, keep, lambda: clock, "gw-7"))
        return made[-1]

    yield one
    for engine in made:
        if engine._thread.is_alive():
            engine.close()


# retention


async def test_each_kind_of_data_is_dropped_at_its_own_age(make: Callable[..., SqliteEngine], tmp_path: Path) -> None:
    engine = make(StoreConfig(frames_days=10, rows_days=20, spool_hours=24, alarms_days=30, reserve_mb=0))
    ages = (0.5, 5, 15, 25, 35)
    await engine.commit([aged(c, NOW - ages[5 - c] * DAY, alarm=True) for c in range(1, 6)])
    await engine.ack("city", 5)
    await purged(engine, NOW)
    db = tmp_path / "g.db"
    assert (count(db, "frames"), count(db, "rows"), count(db, "spool"), count(db, "alarms")) == (2, 3, 1, 3)
    assert [e.event.counter for e in engine.fetch(0, 9)] == [5]
    assert engine.dropped == 0


async def test_what_an_output_has_not_taken_outlives_every_age(make: Callable[..., SqliteEngine]) -> None:
    engine = make(StoreConfig(spool_hours=1, reserve_mb=0), outputs=("city", "away"))
    await engine.commit([aged(c, NOW - 200 * DAY) for c in range(1, 6)])
    await engine.ack("city", 5)
    await engine.ack("away", 2)
    await purged(engine, NOW)
    assert [e.event.counter for e in engine.fetch(0, 9)] == [3, 4, 5]


async def test_a_repeat_of_a_frame_that_was_dropped_is_not_told_again(
    make: Callable[..., SqliteEngine], tmp_path: Path
) -> None:
    """Below the floor of the replay state only the store knows what was taken, and after retention nobody does: no news then."""
    late = replace(STATE, replay=Replay(20_000, 5_000))
    engine = make(StoreConfig(frames_days=10, reserve_mb=0))
    await engine.commit([aged(c, NOW - 20 * DAY, state=late) for c in (100, 101, 102)])
    await purged(engine, NOW)
    assert count(tmp_path / "g.db", "frames") == 0
    newest = engine.newest()
    await engine.commit([aged(101, NOW, state=late)])
    assert engine.newest() == newest, "a repeat, for all we know"
    assert count(tmp_path / "g.db", "quarantine", "reason = 'forgotten'") == 1, "kept all the same"
    await engine.commit([aged(103, NOW, state=late)])
    assert engine.newest() == newest + 1, "above what was dropped it is new"
    gap = replace(STATE, replay=Replay(200, 50, ((60, 70),)))
    await engine.commit([aged(60, NOW, state=gap)])
    assert engine.newest() == newest + 2, "what the replay state still knows to be missing is new, however old"


async def test_at_the_size_limit_history_goes_before_what_is_waited_for(
    make: Callable[..., SqliteEngine], tmp_path: Path
) -> None:
    engine = make(StoreConfig(size_mb=16, reserve_mb=0))
    db = tmp_path / "g.db"
    big = os.urandom(8000).hex()

    def fat(c: int, alarm: bool = False) -> Write:
        w = aged(c, NOW - 20 * DAY + c * 600, alarm=alarm)
        assert w.event is not None and w.raw is not None
        return replace(w, event=replace(w.event, status={"blob": big}), raw=replace(w.raw, data=bytes.fromhex(big)))

    await engine.commit([fat(c, c % 10 == 0) for c in range(1, 801)])
    await engine.ack("city", 100)
    await purged(engine, NOW)
    assert engine.dropped == 0 and count(db, "spool", "done = 0") == 700, "raw frames were enough"
    assert count(db, "frames") < 800
    await engine.commit([fat(c, c % 10 == 0) for c in range(801, 1801)])
    await purged(engine, NOW)
    left = [e for e in engine.fetch(100, 10_000) if e.event.kind != STORE]
    assert engine.dropped > 0 and left
    bulk = [e.event.counter for e in left if e.event.alarm is None]
    alarms = [e.event.counter for e in left if e.event.alarm is not None]
    assert alarms == list(range(110, 1801, 10)), "not one alarm as long as there is bulk"
    assert not bulk or bulk == [c for c in range(bulk[0], 1801) if c % 10], "the oldest bulk went first"
    (told,) = [e.event for e in engine.fetch_express(0, 1000) if e.event.kind == STORE]
    assert told.status is not None and told.status["reason"] == "size_limit"
    assert (told.status["events"], told.status["alarms"], told.status["outputs"]) == (engine.dropped, 0, ["city"])
    assert examine(db)["bytes_used"] <= 16 << 20


# damage


def harm(path: Path, table: str, bite: Callable[[bytearray], None], share: float = 0.5) -> None:
    """Spoil one leaf page of a table."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = db.execute("PRAGMA page_size").fetchone()[0]
    try:
        pages = [r[0] for r in db.execute("SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY path", (table,))]  # fmt: skip
    except sqlite3.OperationalError:
        pytest.skip("this SQLite was built without dbstat")
    db.close()
    page = pages[int(len(pages) * share)]
    with path.open("r+b") as f:
        f.seek((page - 1) * size)
        data = bytearray(f.read(size))
        bite(data)
        f.seek((page - 1) * size)
        f.write(data)


def zero(page: bytearray) -> None:
    page[:] = bytes(len(page))


def noise(page: bytearray) -> None:
    page[:] = os.urandom(len(page))


async def filled(make: Callable[..., SqliteEngine]) -> SqliteEngine:
    engine = make(StoreConfig(reserve_mb=0))
    for node in range(1, 41):
        states = [replace(STATE, replay=Replay(c + 1), down=DOWN_CAP + c * 7) for c in range(1, 26)]
        await engine.commit([replace(aged(c, NOW, node, state=states[c - 1]), notes={f"rules:{node}": b"x"}) for c in range(1, 26)])  # fmt: skip
    await engine.ack("city", 700)
    engine.close()
    return engine


@pytest.mark.parametrize("bite", [zero, noise])
@pytest.mark.parametrize("table", ["frames", "rows", "spool", "nodes"])
async def test_a_store_with_a_damaged_page_is_recovered_and_says_what_it_lost(
    make: Callable[..., SqliteEngine], tmp_path: Path, table: str, bite: Callable[[bytearray], None]
) -> None:
    await filled(make)
    db = tmp_path / "g.db"
    rows = {t: count(db, t) for t in ("frames", "rows", "spool", "nodes")}
    harm(db, table, bite)
    engine = make(StoreConfig(reserve_mb=0))
    assert engine.recovered is not None and engine.recovered["damaged"] == [table]
    aside = [p for p in tmp_path.iterdir() if ".damaged-" in p.name and not p.name.endswith("-wal")]
    assert len(aside) == 1 and aside[0].name.startswith("g.db.damaged-2026")
    kept = engine.recovered["kept"]
    assert 0 < kept[table] < rows[table] or table == "nodes", "only what was on the page is gone"
    assert all(kept[t] == n for t, n in rows.items() if t != table)
    for node in range(1, 41):
        state = engine.load(node)
        assert state is not None and not any(state.replay.lacks(c) for c in range(1, 26)), (
            "no counter is accepted twice"
        )
        assert state.down > DOWN_CAP + 25 * 7, "no downlink counter comes back"
    assert engine.cursor("city") == 700
    seq = await engine.commit([aged(99, NOW)])
    assert seq > 1000, "numbers go on above everything that was given out"
    told = [e.event for e in engine.fetch_express(0, 2000) if e.event.kind == STORE]
    assert told and told[0].status is not None and told[0].status["reason"] == "store_damaged"
    assert examine(db)["problems"] == []
    engine.close()
    assert make().recovered is not None, "it is still told after the next start"


@pytest.mark.parametrize("length", [0, 100, 5000])
async def test_a_file_that_is_no_database_any_more_does_not_keep_the_gateway_down(
    make: Callable[..., SqliteEngine], tmp_path: Path, length: int
) -> None:
    await filled(make)
    db = tmp_path / "g.db"
    data = db.read_bytes()
    db.write_bytes(os.urandom(length) + data[length:] if length else b"not a database, not at all" * 100)
    engine = make(StoreConfig(reserve_mb=0))
    assert engine.recovered is not None
    assert (engine.load(7) is None) == (length == 0), "behind a spoilt front everything can still be read"
    assert engine.fresh().down >= down_floor(NOW) > 1_000_000, "what was answered before is unknown: far ahead"
    assert await engine.commit([aged(1, NOW)]) > 1


async def test_a_truncated_file_and_a_torn_log_are_recovered(make: Callable[..., SqliteEngine], tmp_path: Path) -> None:
    await filled(make)
    db = tmp_path / "g.db"
    data = db.read_bytes()
    db.write_bytes(data[: len(data) * 2 // 3])
    Path(f"{db}-wal").write_bytes(os.urandom(5000))
    engine = make(StoreConfig(reserve_mb=0))
    assert engine.recovered is not None and engine.recovered["damaged"]
    await engine.commit([aged(1, NOW, 99)])


async def test_a_recovery_that_is_cut_is_gone_on_with(
    make: Callable[..., SqliteEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power may go between any two steps of it: every prefix of renames must end in the same store."""
    await filled(make)
    db = tmp_path / "g.db"
    harm(db, "rows", zero)
    real = Path.rename
    steps = 0

    class Cut(Exception):
        pass

    for fail_at in range(10):
        left = fail_at

        def rename(self: Path, target: object) -> Path:
            nonlocal left
            if left == 0:
                raise Cut
            left -= 1
            return real(self, target)  # type: ignore[arg-type]

        monkeypatch.setattr(Path, "rename", rename)
        try:
            engine = make(StoreConfig(reserve_mb=0))
        except Cut:
            steps += 1
            continue
        break
    monkeypatch.undo()
    assert steps >= 2 and engine.recovered is not None and engine.recovered["kept"]["nodes"] == 40
    assert engine.cursor("city") == 700 and not Path(f"{db}.recovery").exists()
    assert recovery.strays(db) == []
    await engine.commit([aged(1, NOW, 99)])


ALL_STRAYS = [".new", ".salvage", ".mended", ".recovery/new", ".recovery"]


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("end", ALL_STRAYS)
async def test_a_copy_beside_the_store_never_takes_its_place(
    make: Callable[..., SqliteEngine], tmp_path: Path, end: str, damaged: bool
) -> None:
    db = tmp_path / "g.db"
    first = make(StoreConfig(reserve_mb=0))
    await first.commit([aged(1, NOW)])
    first.close()
    copy = db.read_bytes()
    await filled(make)
    stray = Path(f"{db}{end}")
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(copy)
    if damaged:
        harm(db, "rows", zero)
    if damaged and end == ".recovery":  # in the place of the folder that a recovery needs
        with pytest.raises(StoreError, match=r"g\.db\.recovery"):
            make(StoreConfig(reserve_mb=0))
        assert stray.read_bytes() == copy
        return
    engine = make(StoreConfig(reserve_mb=0))
    assert count(db, "frames") == 1001 and engine.cursor("city") == 700
    assert (engine.recovered is not None) == damaged
    kept = next(tmp_path.glob("g.db.recovery/stray-*")) if damaged and end == ".recovery/new" else stray
    assert kept.read_bytes() == copy, "and it is left alone"
    await engine.commit([aged(2, NOW)])
    told = [e.event.status for e in engine.fetch_express(0, 2000) if e.event.kind == STORE]
    assert [t["files"] for t in told if t and t["reason"] == "store_stray_file"] == [[str(kept.relative_to(tmp_path))]]


async def test_a_salvage_of_a_store_that_was_put_in_order_since_does_not_replace_it(
    make: Callable[..., SqliteEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power goes when the salvage is complete; someone puts a sound copy in the store's place before the next start."""
    await filled(make)
    db = tmp_path / "g.db"
    sound = db.read_bytes()
    harm(db, "rows", zero)
    real = Path.rename

    def rename(self: Path, target: object) -> Path:
        if self.name in ("g.db", "g.db-wal"):
            raise InterruptedError
        return real(self, target)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(InterruptedError):
        make(StoreConfig(reserve_mb=0))
    monkeypatch.undo()
    db.write_bytes(sound)
    engine = make(StoreConfig(reserve_mb=0))
    assert engine.recovered is None and count(db, "rows") == 1000
    assert recovery.strays(db) == ["g.db.recovery/new"]


async def test_a_copy_of_a_store_that_was_once_salvaged_is_no_salvage(
    make: Callable[..., SqliteEngine], tmp_path: Path
) -> None:
    await filled(make)
    db = tmp_path / "g.db"
    harm(db, "rows", zero)
    engine = make(StoreConfig(reserve_mb=0))
    assert engine.recovered is not None
    engine.close()
    copy = db.read_bytes()
    engine = make(StoreConfig(reserve_mb=0))
    await engine.commit([aged(5, NOW, 99)])
    engine.close()
    frames = count(db, "frames")
    Path(f"{db}.new").write_bytes(copy)
    Path(f"{db}.recovery").mkdir()
    Path(f"{db}.recovery/new").write_bytes(copy)
    make(StoreConfig(reserve_mb=0))
    assert count(db, "frames") == frames


async def test_rotten_bodies_on_whole_pages_stop_nobody(make: Callable[..., SqliteEngine], tmp_path: Path) -> None:
    engine = make()
    await engine.commit([write(1), write(2), write(3)])
    engine.close()
    db = sqlite3.connect(tmp_path / "g.db")
    db.execute("UPDATE spool SET body = x'c1ff' WHERE seq = 2")
    db.execute("UPDATE nodes SET state = x'c1'")
    db.commit()
    db.close()
    engine = make()
    assert [e.event.kind for e in engine.fetch(0, 9)] == ["report", STORE, "report"]
    state = engine.load(263)
    assert state is not None and state.down >= down_floor(NOW)
    assert engine.online() == [(263, state.heard)]
    assert engine.described([263])[263].meta == "", "so it is introduced again"


async def test_the_check_at_the_start_has_its_time(make: Callable[..., SqliteEngine], tmp_path: Path) -> None:
    await filled(make)
    db = sqlite3.connect(tmp_path / "g.db")
    db.execute("CREATE TABLE ballast AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c LIMIT 300000) SELECT x, hex(randomblob(20)) AS y FROM c")  # fmt: skip
    db.commit()
    assert recovery.quick_check(db, 0.0) == [], "unfinished is not damaged"
    assert recovery.quick_check(db, 60.0) == []
    db.close()


# a new store, a restored one


async def test_a_new_store_begins_above_every_downlink_counter_of_a_former_one(
    make: Callable[..., SqliteEngine], tmp_path: Path
) -> None:
    engine = make(clock=BUILT + 5000.0)
    assert engine.fresh().down == BUILT + 5000 - BORN
    engine.close()
    for file in ("g.db", "g.db.floor"):
        (tmp_path / file).unlink()
    assert make(clock=BUILT + 9000.0).fresh().down == BUILT + 9000 - BORN


async def test_a_backup_is_whole_while_the_store_is_written_and_a_restored_one_repeats_no_counter(
    make: Callable[..., SqliteEngine], tmp_path: Path
) -> None:
    engine = make(StoreConfig(reserve_mb=0), clock=BORN + 1000.0)
    await engine.commit(
        [aged(c, NOW, node, state=replace(STATE, down=c)) for node in range(1, 41) for c in range(1, 26)]
    )
    target, pages = tmp_path / "copy.db", []

    def progress(done: int, _of: int) -> None:
        pages.append(done)

    async def writing() -> None:
        for c in range(100, 160):
            await engine.commit([aged(c, NOW, node) for node in range(1, 10)])

    task = asyncio.create_task(writing())
    await asyncio.sleep(0.05)
    made = await asyncio.to_thread(backup, tmp_path / "g.db", target, NOW, progress)
    await task
    assert pages and made["events"] == made["frames"] >= 1000, "one moment: as many events as frames"
    assert examine(target)["problems"] == []
    with pytest.raises(StoreError, match="exists"):
        backup(tmp_path / "g.db", target, NOW, progress)
    engine.close()
    for end in ("", "-wal", "-shm"):
        Path(f"{tmp_path}/g.db{end}").unlink(missing_ok=True)
    target.rename(tmp_path / "g.db")
    engine = make(StoreConfig(reserve_mb=0), clock=NOW)
    state = engine.load(7)
    assert state is not None and engine.fresh().down == state.down >= STATE.down + JUMP
    engine.close()
    again = make(StoreConfig(reserve_mb=0), clock=NOW + 1000)
    assert again.load(7) == state, "once"


def test_backup_and_check_are_verbs_and_speak_json(tmp_path: Path) -> None:
    async def prepare() -> None:
        engine = SqliteEngine(tmp_path / "gateway.db", ["city"])
        await engine.commit([write(1)])
        engine.close()

    asyncio.run(prepare())
    (tmp_path / "nodes.toml").write_text("")
    config = tmp_path / "gateway.toml"
    config.write_text('[gateway]\nid = "gw-1"\n[link.a]\nkind = "udp-forwarder"\nbind = "127.0.0.1:0"\n[output.city]\nkind = "mqtt"\nbroker = "127.0.0.1:1"\n')  # fmt: skip
    run = CliRunner().invoke
    done = run(cli, ["gateway", "backup", str(tmp_path / "b.db"), "--config", str(config), "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["frames"] == 1
    done = run(cli, ["gateway", "check", "--store", "--config", str(config), "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["rows"]["frames"] == 1
    harm(tmp_path / "gateway.db", "frames", noise)
    done = run(cli, ["gateway", "check", "--store", "--config", str(config)])
    assert done.exit_code == 1 and "next: " in done.stderr
    done = run(cli, ["gateway", "backup", str(tmp_path / "b.db"), "--config", str(config)])
    assert done.exit_code == 1 and "nothing is overwritten" in done.stderr


# a full disk


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Let no file of this process grow beyond so many bytes: SQLite sees what it sees on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_disk_that_is_full_gives_its_reserve_up_and_takes_it_back(
    make: Callable[..., SqliteEngine],
    tmp_path: Path,
    small_files: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make(StoreConfig(reserve_mb=2))
    reserve = tmp_path / "g.db.reserve"
    assert reserve.stat().st_size == 2 << 20 and reserve.stat().st_blocks * 512 >= 2 << 20 and not engine.full
    await engine.commit([aged(1, NOW)])
    small_files(Path(f"{tmp_path}/g.db-wal").stat().st_size + 20_000)
    with pytest.raises(StoreError):
        await engine.commit([aged(c, NOW) for c in range(2, 300)])
    assert engine.full and not reserve.exists(), "its room is for alarms now"
    with monkeypatch.context() as m:
        m.setattr(sqlite.Reserve, "free", lambda _self: 0)
        assert await engine.make_room() == 0 and engine.full
    small_files(resource.RLIM_INFINITY)
    await engine.resume()
    await engine.commit([aged(300, NOW, alarm=True)])
    assert await engine.make_room() == 1 and not engine.full and reserve.exists()
    await engine.commit([aged(c, NOW) for c in range(2, 300)])
    assert [e.event.counter for e in engine.fetch(0, 3)] == [1, 300, 2]


# what it says of itself


@pytest.mark.parametrize(
    "reason", ["size_limit", "store_damaged", "unreadable", "disk_full", "disk_has_room", "store_stray_file"]
)
async def test_what_the_store_says_of_itself_is_published_and_valid(
    make: Callable[..., SqliteEngine], reason: str
) -> None:
    from jsonschema import Draft202012Validator

    engine = make()
    told = {"size_limit": {"events": 3, "alarms": 0, "since": T0, "until": T0 + 9.5, "outputs": ["city"]},
            "store_damaged": {"tables": ["rows"], "kept": {"rows": 3}}, "unreadable": {"events": 1, "seq": 4}, "store_stray_file": {"files": ["g.db.new"]}}.get(reason, {})  # fmt: skip
    await engine.tell(reason, told)
    (entry,) = engine.fetch_express(0, 9)
    assert entry == Entry(1, entry.event, True)
    (m,) = messages(entry.event, "city")
    assert m.topic == "city/v1/gw/gw-7/event" and not m.retain
    body = json.loads(m.payload)
    Draft202012Validator(schema("gateway-event")).validate(body)
    assert body["event"] == reason


def test_an_event_of_an_older_gateway_is_still_understood() -> None:
    old = msgspec.msgpack.encode({"kind": "meta", "id": "1:m", "node": 1, "name": "a", "visibility": "open", "received": 1.0, "interval_s": 9})  # fmt: skip
    assert msgspec.msgpack.Decoder(Event).decode(old).kind == "meta"

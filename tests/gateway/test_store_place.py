# ruff: noqa: ASYNC240 - files of a few pages, and nothing else in the loop
"""A store is one file, whoever removes, moves or replaces what lies at its path: one gateway has it, and nothing is acknowledged that is not in it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway import commit
from gateway.caretaker import Caretaker
from gateway.config.store import StoreConfig
from gateway.metrics import Metrics
from gateway.store import private
from gateway.store.engine import StoreError
from gateway.store.sqlite import SqliteEngine
from tests.gateway.test_pipeline import ROWS, World
from tests.gateway.test_store import write
from tests.gateway.world import REPO, T0

KEEP = StoreConfig(reserve_mb=0)
SECOND = """
import asyncio, sys
from pathlib import Path
from gateway.store.sqlite import SqliteEngine, StoreError
async def main():
    try:
        SqliteEngine(Path(sys.argv[1])).close()
    except StoreError as e:
        print(e)
    else:
        print("taken")
asyncio.run(main())
"""
ASK = """
import sys
from pathlib import Path
from gateway.republish import _open
from gateway.store.engine import StoreError
try:
    _open(Path(sys.argv[1])).close()
except StoreError as e:
    print(e)
else:
    print("open")
"""
IN_USE = (
    "import sys; from pathlib import Path; from gateway.store.private import in_use; print(in_use(Path(sys.argv[1])))"
)


def elsewhere(code: str, store: Path) -> str:
    """What another process says of a store."""
    done = subprocess.run(
        [sys.executable, "-c", code, str(store)], cwd=REPO, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.splitlines()[-1]


@pytest.fixture
async def engine(tmp_path: Path) -> Iterator[SqliteEngine]:  # type: ignore[misc]
    (tmp_path / "here").mkdir()
    made = SqliteEngine(tmp_path / "here" / "g.db", ["city"], KEEP)
    yield made
    made.close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "here" / "g.db"


async def test_a_lock_file_that_was_removed_gives_the_store_to_no_second_gateway(
    engine: SqliteEngine, store: Path
) -> None:
    await engine.commit([write(1)])
    Path(f"{store}.lock").unlink()
    assert elsewhere(IN_USE, store) == "True"
    assert "in use by another gateway" in elsewhere(SECOND, store)  # which leaves a lock file that no one holds
    os.link(store, store.with_name("other.db"))  # under another name it would have another log
    assert "in use by another gateway" in elsewhere(SECOND, store.with_name("other.db"))
    await engine.commit([write(2)])
    assert elsewhere(IN_USE, store) == "True"


@pytest.mark.parametrize("state", ["new", "known", "damaged"])
async def test_the_store_is_held_whatever_it_was_at_the_start(tmp_path: Path, state: str) -> None:
    store = tmp_path / "g.db"
    if state != "new":
        SqliteEngine(store, ["city"], KEEP).close()
    if state == "damaged":
        with store.open("r+b") as f:
            f.seek(4096)
            f.write(bytes(8192))
    engine = SqliteEngine(store, ["city"], KEEP)
    assert (engine.recovered is not None) is (state == "damaged")
    Path(f"{store}.lock").unlink()
    assert "in use by another gateway" in elsewhere(SECOND, store)
    engine.close()
    assert elsewhere(IN_USE, store) == "False" and elsewhere(SECOND, store) == "taken"


async def test_a_refused_second_gateway_takes_no_lock_of_sqlite_from_the_first(
    engine: SqliteEngine, store: Path
) -> None:
    await engine.commit([write(1)])
    Path(f"{store}.lock").unlink()
    elsewhere(SECOND, store)
    elsewhere("import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); print(d.execute('SELECT count(*) FROM frames').fetchone()); d.close()", store)  # fmt: skip
    assert Path(f"{store}-wal").exists()  # the last one to close it takes the log away
    engine.look()
    assert engine.moved == ("", "")


def removed(store: Path, away: Path) -> None:
    os.link(store, away)  # what another process still has a name for can be put back
    store.unlink()


def moved(store: Path, away: Path) -> None:
    store.rename(away)


def copied(store: Path, away: Path) -> None:
    store.rename(away)
    shutil.copyfile(away, store)


def emptied(store: Path, away: Path) -> None:
    store.rename(away)
    store.touch()


def folder_moved(store: Path, away: Path) -> None:
    store.parent.rename(f"{away}-folder")


def back(store: Path, away: Path) -> None:
    folder = Path(f"{away}-folder")
    if folder.exists():
        folder.rename(store.parent)
    else:
        away.replace(store)


WAYS = (removed, moved, copied, emptied, folder_moved)


def codes(caretaker: Caretaker) -> dict[str, tuple[str, str, str]]:
    return {p.code: (p.level, p.text, p.next) for p in caretaker.problems()}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("which", ["", "-wal", "-shm"])
async def test_nothing_is_taken_for_durable_while_the_store_is_not_at_its_path(
    engine: SqliteEngine, store: Path, tmp_path: Path, which: str, way: Callable[[Path, Path], None]
) -> None:
    caretaker = Caretaker(engine, Metrics(), lambda: None, lambda: 0.0)
    await engine.commit([write(1)])
    caretaker.tick(1.0, False)
    assert "store_moved" not in codes(caretaker)
    file, away = Path(f"{store}{which}"), tmp_path / "away"
    way(file, away)
    with pytest.raises(StoreError) as e:
        await engine.commit([write(2)])
    named = store if way is folder_moved else file
    assert f"{named} " in str(e.value) and "put the very file back" in e.value.hint
    caretaker.tick(2.0, False)
    level, text, what = codes(caretaker)["store_moved"]
    assert level == "failing" and f"{named} " in text and "put the very file back" in what
    with pytest.raises(StoreError):
        await engine.resume()
    with pytest.raises(StoreError):
        await engine.empty_log()
    back(file, away)
    caretaker.tick(3.0, False)
    assert "store_moved" not in codes(caretaker)
    await engine.resume()
    await engine.commit([write(4)])
    assert [x.event.counter for x in engine.fetch(0, 9)] == [1, 4]
    other = sqlite3.connect(store)
    assert other.execute("SELECT count(*) FROM frames").fetchone() == (2,)
    other.close()


async def test_what_was_committed_as_the_store_went_away_is_not_acknowledged(
    engine: SqliteEngine, store: Path, tmp_path: Path
) -> None:
    def job(_db: sqlite3.Connection) -> int:
        store.rename(tmp_path / "away")
        return 0

    with pytest.raises(StoreError):
        await engine._writer.put(job)
    (tmp_path / "away").rename(store)


async def test_frames_and_alarms_are_acknowledged_again_when_the_very_file_is_back(
    engine: SqliteEngine, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "RESUME_S", 0.05)
    world = World(engine=engine)  # type: ignore[arg-type]
    await world.take(world.mote.status({1: 5}))
    sent, committed = len(world.sent), world.metrics.totals["committed"]
    assert committed == 1 and sent
    store.rename(tmp_path / "away")
    report, alarm = world.mote.report(T0, ROWS), world.mote.alarm(2, T0, 6, 181, 150)
    await world.take(report)
    await asyncio.sleep(0.2)
    await world.take(alarm)
    assert len(world.sent) == sent and world.metrics.totals["committed"] == committed
    assert world.metrics.refused["store_failed"] == 2
    (tmp_path / "away").rename(store)
    async with asyncio.timeout(10):
        while world.metrics.totals["committed"] < committed + 2:
            await asyncio.sleep(0.1)
            for frame in (report, alarm):
                await world.take(frame)
    assert len(world.sent) > sent and len(world.ids()) == len(set(world.ids()))


async def test_a_log_that_was_removed_takes_nothing_with_it_when_the_gateway_ends_in_order(tmp_path: Path) -> None:
    store = tmp_path / "g.db"
    engine = SqliteEngine(store, ["city"], KEEP)
    await engine.commit([write(1), write(2)])
    Path(f"{store}-wal").unlink()
    with pytest.raises(StoreError):
        await engine.commit([write(3)])
    engine.close()
    again = SqliteEngine(store, ["city"], KEEP)
    assert [e.event.counter for e in again.fetch(0, 9) if e.event.kind != "store"] == [1, 2]
    again.close()


async def test_no_one_writes_beside_a_gateway_whose_index_of_the_log_was_removed(
    engine: SqliteEngine, store: Path
) -> None:
    """Each would have locks of its own, and both would write to the same place of the log."""
    await engine.commit([write(1)])
    assert elsewhere(ASK, store) == "open"
    Path(f"{store}-shm").unlink()
    assert "was removed under the gateway" in elsewhere(ASK, store)
    assert not Path(f"{store}-shm").exists()


async def test_a_store_behind_a_link_is_watched_and_one_file(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    store = tmp_path / "g.db"
    store.symlink_to(disk / "real.db")
    (disk / "real.db").touch(0o600)
    engine = SqliteEngine(store, ["city"], KEEP)
    await engine.commit([write(1)])
    assert "in use by another gateway" in elsewhere(SECOND, disk / "real.db")
    (disk / "real.db-wal").rename(disk / "log")
    with pytest.raises(StoreError):
        await engine.commit([write(2)])
    (disk / "log").rename(disk / "real.db-wal")
    await engine.resume()
    await engine.commit([write(3)])
    engine.close()
    assert not private.in_use(store)

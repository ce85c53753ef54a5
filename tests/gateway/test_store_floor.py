# ruff: noqa: ASYNC240 - files of a few pages, and nothing else in the loop
"""No downlink counter is given out twice with one key, whatever is killed, deleted, spoilt or put back."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from gateway.config.store import StoreConfig
from gateway.core.decide import decide
from gateway.core.model import Node, NodeState, Reception
from gateway.core.receive import parse
from gateway.core.value import replace
from gateway.crypto import opener
from gateway.store import floor, wal
from gateway.store.engine import STORE, Write
from gateway.store.floor import BLOCK, FloorFile, Mark
from gateway.store.schema import BORN, BUILT, DOWN_CAP, JUMP, down_floor
from gateway.store.sqlite import SqliteEngine
from tests.gateway.test_store import write
from tests.gateway.world import T0, Mote

KEEP = StoreConfig(reserve_mb=0)
NOW = float(BUILT + 30 * 86_400)
ENDS = ("", "-wal", "-shm", ".floor")


def give(engine: SqliteEngine, node: int, n: int = 1) -> tuple[Any, int]:
    """Decide n answers of a node at once, as the pipeline does; return the commit and the counter of the last."""
    state = engine.load(node) or engine.fresh()
    state = replace(state, down=state.down + n, heard=NOW)
    return engine.commit([Write(node, state)]), state.down


def killed(engine: SqliteEngine, folder: Path) -> None:
    """End an engine as SIGKILL does: what is on disk stays as it is, and nothing is written any more."""
    keep = folder.parent / f"{folder.name}-dead"
    shutil.copytree(folder, keep)
    engine.close()
    shutil.rmtree(folder)
    keep.rename(folder)


@pytest.fixture
async def make(tmp_path: Path) -> Iterator[Callable[..., SqliteEngine]]:  # type: ignore[misc]
    made: list[SqliteEngine] = []
    (tmp_path / "s").mkdir()

    def one(clock: float = NOW) -> SqliteEngine:
        made.append(SqliteEngine(tmp_path / "s" / "g.db", ("city",), KEEP, lambda: clock, "gw-7"))
        return made[-1]

    yield one
    for engine in made:
        if engine._thread.is_alive():
            engine.close()


def told(engine: SqliteEngine) -> list[str]:
    return [e.event.status["reason"] for e in engine.fetch_express(0, 99) if e.event.kind == STORE and e.event.status]


async def used(engine: SqliteEngine, folder: Path) -> int:
    """Three answers to node 7, then SIGKILL; return the last counter."""
    for _ in range(3):
        done, last = give(engine, 7)
        await done
    killed(engine, folder)
    return last


@pytest.mark.parametrize(
    ("what", "reason"),
    [("-wal", "wal_missing"), ("noise", "wal_damaged"), ("head", "wal_damaged"), ("all", "store_gone"), ("emptied", "store_gone"), (".floor", "floor_missing")],
)  # fmt: skip
async def test_what_was_lost_is_told_and_no_counter_comes_back(
    make: Callable[..., SqliteEngine], tmp_path: Path, what: str, reason: str
) -> None:
    folder = tmp_path / "s"
    first = make()
    for _ in range(3):
        done, early = give(first, 7)
        await done
    first.close()
    last = await used(make(), folder)
    assert last == early + 3
    db = folder / "g.db"
    log = wal.path_of(db)
    if what == "all":
        for end in ("", "-wal", "-shm"):
            Path(f"{db}{end}").unlink(missing_ok=True)
    elif what == "emptied":
        log.unlink()
        os.truncate(db, 0)
    elif what == "noise":
        data = log.read_bytes()
        log.write_bytes(data[:60] + os.urandom(200) + data[260:])
    elif what == "head":
        log.write_bytes(os.urandom(32) + log.read_bytes()[32:])
    else:
        Path(f"{db}{what}").unlink()
    engine = make()
    await asyncio.sleep(0.05)
    assert told(engine) == [reason]
    for node in (7, 8):
        done, down = give(engine, node)
        await done
        assert down > last


@pytest.mark.parametrize("what", ["", "-wal", "emptied", "noise", ".floor", "older", "all"])
async def test_a_store_that_may_lack_what_a_broker_knows_has_another_name_and_one_that_was_only_killed_keeps_it(
    make: Callable[..., SqliteEngine], tmp_path: Path, what: str
) -> None:
    db = tmp_path / "s" / "g.db"
    first = make()
    await give(first, 7)[0]
    life = first.ledger.life
    first.close()
    shutil.copy(db, tmp_path / "old.db")
    again = make()
    assert again.ledger.life == life, "an end in order"
    await used(again, tmp_path / "s")
    if what == "emptied":
        os.truncate(wal.path_of(db), 0)
    elif what == "noise":
        data = wal.path_of(db).read_bytes()
        wal.path_of(db).write_bytes(data[:60] + os.urandom(200) + data[260:])
    elif what in ("older", "all"):
        for end in ("", "-wal", "-shm"):
            Path(f"{db}{end}").unlink(missing_ok=True)
        if what == "older":
            shutil.copy(tmp_path / "old.db", db)
    elif what:
        Path(f"{db}{what}").unlink()
    engine = make()
    assert (engine.ledger.life == life) == (what == "")
    life = engine.ledger.life
    await used(engine, tmp_path / "s")
    assert make().ledger.life == life, "and keeps that one"


async def test_an_orderly_end_costs_no_counter_and_a_kill_costs_a_block(
    make: Callable[..., SqliteEngine], tmp_path: Path
) -> None:
    engine = make()
    done, first = give(engine, 7)
    await done
    engine.close()
    engine = make()
    done, second = give(engine, 7)
    await done
    assert second == first + 1 and told(engine) == []
    killed(engine, tmp_path / "s")
    engine = make()
    await asyncio.sleep(0.05)
    done, third = give(engine, 7)
    await done
    assert second < third <= second + BLOCK + 1 and told(engine) == [], "an end without order alone is no news"


async def test_an_older_copy_put_back_does_not_bring_counters_back(
    make: Callable[..., SqliteEngine], tmp_path: Path
) -> None:
    folder = tmp_path / "s"
    engine = make()
    done, _ = give(engine, 7)
    await done
    engine.close()
    shutil.copy(folder / "g.db", tmp_path / "old.db")
    engine = make()
    done, last = give(engine, 7, 70_000)
    await done
    engine.close()
    shutil.copy(tmp_path / "old.db", folder / "g.db")
    engine = make(NOW + 60)
    for node in (7, 9):
        done, down = give(engine, node)
        await done
        assert down > last
    engine.close()
    assert make(NOW - 300 * 86_400).fresh().down > last, (
        "and it stays so after an orderly end, by a clock that is behind"
    )


async def test_a_whole_folder_put_back_is_met_by_the_clock(make: Callable[..., SqliteEngine], tmp_path: Path) -> None:
    folder = tmp_path / "s"
    engine = make()
    done, _ = give(engine, 7)
    await done
    engine.close()
    shutil.copytree(folder, tmp_path / "old")
    engine = make()
    done, last = give(engine, 7, 500)
    await done
    engine.close()
    shutil.rmtree(folder)
    (tmp_path / "old").rename(folder)
    done, down = give(make(NOW + 86_400), 7)
    await done
    assert down > last


async def test_an_older_floor_file_is_not_believed(make: Callable[..., SqliteEngine], tmp_path: Path) -> None:
    folder = tmp_path / "s"
    engine = make()
    done, _ = give(engine, 7)
    await done
    old = (folder / "g.db.floor").read_bytes()
    done, last = give(engine, 7, 1000)
    await done
    killed(engine, folder)
    (folder / "g.db.floor").write_bytes(old)
    done, down = give(make(), 7)
    await done
    assert down > last + 1000, "as far ahead as a copy may be behind"


async def test_the_ceiling_is_on_disk_before_the_counter_is_committed(
    make: Callable[..., SqliteEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, file = make(), FloorFile(tmp_path / "s" / "g.db")
    marks: list[int] = []
    real = FloorFile.write

    def seen(self: FloorFile, ceiling: int, token: bytes) -> None:
        real(self, ceiling, token)
        marks.append(ceiling)

    monkeypatch.setattr(FloorFile, "write", seen)
    for _ in range(3 * BLOCK):
        done, down = give(engine, 7)
        await done
        mark = file.read()
        assert mark is not None and mark.ceiling >= down
    assert len(marks) == 3, "one in a block"
    assert (tmp_path / "s" / "g.db.floor").stat().st_mode & 0o777 == 0o600


async def test_a_floor_that_cannot_be_written_is_a_problem_and_stops_no_frame(
    make: Callable[..., SqliteEngine], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = make()

    def broken(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as m:
        m.setattr(FloorFile, "write", broken)
        done, last = give(engine, 7, 2000)
        await done
        assert "Read-only" in engine.floor_trouble
    killed(engine, tmp_path / "s")
    engine = make()
    assert not engine.floor_trouble and engine.fresh().down > last, "the store itself knows that the file is behind"


def test_a_torn_slot_leaves_the_one_before(tmp_path: Path) -> None:
    file = FloorFile(tmp_path / "g.db")
    assert file.read() is None
    for n in range(1, 6):
        file.write(n * 100, bytes([n]) * 16)
        assert file.read() == Mark(n * 100, bytes([n]) * 16, n)
        whole = file.path.read_bytes()
        for place in (0, 512):
            for cut in (0, 9, 30, 40):
                torn = bytearray(whole)
                torn[place + cut] ^= 0xFF
                file.path.write_bytes(torn)
                found = file.read()
                assert found is not None and found.ceiling in (n * 100, (n - 1) * 100 or 100)
        file.path.write_bytes(whole)
    file.path.write_bytes(b"")
    assert file.read() is None
    file.write(7, bytes(16))
    assert file.read() == Mark(7, bytes(16), 1)


async def test_the_full_disk_takes_the_next_block_in_place(
    make: Callable[..., SqliteEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is created, renamed or made longer when the ceiling is raised: an alarm in the room of the reserve needs it."""
    engine = make()
    before = (tmp_path / "s" / "g.db.floor").stat()
    monkeypatch.setattr(Path, "rename", None)
    done, _ = give(engine, 7, 5 * BLOCK)
    await done
    after = (tmp_path / "s" / "g.db.floor").stat()
    assert (before.st_ino, before.st_size) == (after.st_ino, after.st_size) and not engine.floor_trouble


# the clock


def test_a_clock_says_neither_less_than_the_build_nor_more_than_half_of_the_counters() -> None:
    assert down_floor(0.0) == down_floor(BORN) == BUILT - BORN
    assert down_floor(BUILT + 9.5) == BUILT + 9 - BORN
    assert down_floor(1e11) == DOWN_CAP
    assert time.time() > BUILT, "a build date ahead of today would make every clock wrong"


async def test_three_nodes_ahead_of_a_lost_clock_move_the_counters_to_their_time(
    make: Callable[..., SqliteEngine],
) -> None:
    """Store and floor are lost and the clock is at the build: the nodes refuse what is below what they have heard before."""
    engine = make(float(BUILT))
    assert engine.fresh().down == BUILT - BORN
    for n, node in enumerate((1, 1, 2, 3)):
        w = write(n + 1, node)
        assert w.event is not None and w.raw is not None
        t = int(NOW) + n
        event = replace(w.event, received=float(BUILT) + 1, times=(t,), columns=(), alarm=None)
        await engine.commit([replace(w, state=replace(engine.fresh(), heard=NOW), event=event)])
        assert engine.fresh().down == (BUILT - BORN if n < 3 else int(NOW) - BORN), "two may be broken or stolen"
    state = engine.load(1)
    assert state is not None and state.down == int(NOW) - BORN
    engine.close()
    assert make(float(BUILT)).fresh().down >= int(NOW) - BORN


def test_a_key_that_is_given_out_again_continues_its_counters_or_is_refused_with_its_former_epoch() -> None:
    mote, state, downs = Mote(263), NodeState(down=50), list[int | None]()
    keys = [mote.key, bytes(range(16))]
    for epoch, key in ((0, keys[0]), (1, keys[1]), (2, keys[0]), (1, keys[1])):
        mote.key, mote.epoch = key, epoch
        data = mote.status({1: 5}, long=True)
        node = Node(263, "n-263", key, epoch=epoch)
        d = decide(node, state, parse(data), Reception(data, float(T0), "wifi", "a"), opener)  # type: ignore[arg-type]
        downs.append(d.answer.counter if d.answer is not None else None)
        if d.state is not None:
            state = d.state
    assert downs == [51, 52, 53, None] and d.refusal is not None and d.refusal.reason == "key_changed"


def test_the_next_key_of_a_node_continues_its_counters() -> None:
    mote, state, downs = Mote(263), NodeState(down=50), list[int | None]()
    node = Node(263, "n-263", mote.key, next_key=bytes(range(16)), next_epoch=1)
    for key, epoch in ((mote.key, 0), (node.next_key, 1), (node.next_key, 1)):
        mote.key, mote.epoch = key, epoch  # type: ignore[assignment]
        data = mote.status({1: 5}, long=True)
        d = decide(node, state, parse(data), Reception(data, float(T0), "wifi", "a"), opener)  # type: ignore[arg-type]
        assert d.answer is not None and d.state is not None, d.refusal
        downs.append(d.answer.counter)
        state = d.state
    assert downs == [51, 52, 53]


# all of it, in any order


class AnyFate(RuleBasedStateMachine):
    """Lives of one store: counters per node must rise strictly, over all of them."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.top = Path(tempfile.mkdtemp(prefix="floor-"))
        self.folder = self.top / "s"
        self.folder.mkdir()
        self.loop = asyncio.new_event_loop()
        self.engine: SqliteEngine | None = None
        self.now, self.wrong = NOW, 0.0
        self.given: dict[int, int] = {}
        self.copies = 0
        self.lost_floor = False

    def run(self, what: Callable[[], Any]) -> Any:
        async def inside() -> Any:
            result = what()
            return await result if asyncio.isfuture(result) else result

        return self.loop.run_until_complete(inside())

    def open(self) -> SqliteEngine:
        if self.engine is None:
            self.engine = self.run(
                lambda: SqliteEngine(self.folder / "g.db", (), KEEP, lambda: self.now + self.wrong, "gw")
            )
        return self.engine

    def end(self, orderly: bool) -> None:
        if self.engine is not None:
            if orderly:
                self.engine.close()
            else:
                killed(self.engine, self.folder)
            self.engine = None
            self.run(lambda: None)

    @initialize()
    def born(self) -> None:
        self.open()

    @rule(node=st.integers(1, 4), n=st.integers(1, 150))
    def answers(self, node: int, n: int) -> None:
        engine = self.open()
        self.now += n  # no node gets more than one a second for long

        def give_one() -> Any:
            done, self.down = give(engine, node, n)
            return done

        self.run(give_one)
        assert self.down - n >= self.given.get(node, 0), "a counter came back"
        assert self.down < 1 << 32
        self.given[node] = self.down

    @rule(orderly=st.booleans())
    def ends(self, orderly: bool) -> None:
        self.end(orderly)
        self.now += 60  # a restart takes its time; and no more kills than blocks in it

    @rule(what=st.sampled_from(["", "-wal", "-shm"]), how=st.sampled_from(["gone", "empty", "noise", "half"]))
    def loses(self, what: str, how: str) -> None:
        self.ends(False)
        file = Path(f"{self.folder / 'g.db'}{what}")
        if not file.exists():
            return
        data = file.read_bytes()
        if how == "gone":
            file.unlink()
        elif how == "empty":
            file.write_bytes(b"")
        elif how == "half":
            file.write_bytes(data[: len(data) // 2])
        else:
            file.write_bytes(data[:100] + os.urandom(min(500, len(data))) + data[600:])

    @rule()
    def loses_store_with_log(self) -> None:
        self.ends(False)
        for end in ("", "-wal", "-shm"):
            Path(f"{self.folder / 'g.db'}{end}").unlink(missing_ok=True)

    @precondition(lambda self: self.wrong >= 0)
    @rule(with_store=st.booleans())
    def loses_floor(self, with_store: bool) -> None:
        """With the store too, as long as the clock is right: what is left then is the clock."""
        self.ends(False)
        Path(f"{self.folder / 'g.db'}.floor").unlink(missing_ok=True)
        if with_store:
            for end in ("", "-wal", "-shm"):
                Path(f"{self.folder / 'g.db'}{end}").unlink(missing_ok=True)
        self.now += max(0, max(self.given.values(), default=0) - down_floor(self.now)) if with_store else 0
        self.open()  # a clock that is set back before it was opened again would be the loss of everything at once

    @rule(orderly=st.booleans())
    def is_copied(self, orderly: bool) -> None:
        self.ends(orderly)
        self.copies += 1
        shutil.copytree(self.folder, self.top / f"copy{self.copies}")

    @precondition(lambda self: self.copies > 0)
    @rule(data=st.data(), whole=st.booleans())
    def is_put_back(self, data: st.DataObject, whole: bool) -> None:
        whole &= self.wrong >= 0
        self.ends(True)
        old = self.top / f"copy{data.draw(st.integers(1, self.copies))}"
        for end in ENDS if whole else ENDS[:3]:
            file = Path(f"{self.folder / 'g.db'}{end}")
            file.unlink(missing_ok=True)
            if (old / file.name).exists():
                shutil.copy(old / file.name, file)
        if whole:
            self.now += max(0, max(self.given.values(), default=0) - down_floor(self.now))
            self.open()

    @rule(days=st.sampled_from([-400, 0, 0, 3000]))
    def clock_is_set(self, days: int) -> None:
        self.open()
        self.ends(True)
        self.wrong = days * 86_400.0

    def teardown(self) -> None:
        self.end(True)
        self.loop.close()
        shutil.rmtree(self.top)
        gc.collect()


TestAnyFate = AnyFate.TestCase
TestAnyFate.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_the_measures_fit_together() -> None:
    assert BLOCK <= 64 and JUMP + DOWN_CAP < 1 << 32
    assert floor.TOKEN == 16


async def test_another_program_that_looks_into_the_store_does_not_take_the_log_from_the_running_gateway(
    make: Callable[..., SqliteEngine], tmp_path: Path
) -> None:
    engine, db = make(), tmp_path / "s" / "g.db"
    await give(engine, 7)[0]
    look = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('SELECT count(*) FROM nodes').fetchone(); d.close()"
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", look, str(db)], check=True)
    assert wal.size(db) > 0, "its log was deleted under the gateway, which goes on writing to a file without a name"
    done, last = give(engine, 7)
    await done
    killed(engine, tmp_path / "s")
    state = make().load(7)
    assert state is not None and state.down >= last and state.heard == NOW

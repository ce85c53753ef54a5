# ruff: noqa: ASYNC240 - files of a few pages, and nothing else in the loop
"""What keeps a store within its bounds for years: size, log file, audit, quarantine, the clock it is aged by, the rights of its files."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import stat
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from gateway.caretaker import SHARE, Caretaker
from gateway.config.store import StoreConfig
from gateway.core.model import Event, Node, NodeState
from gateway.core.replay import Replay
from gateway.core.value import replace
from gateway.metrics import Metrics
from gateway.store import audit, retention, writer
from gateway.store.backup import backup, bundle, examine
from gateway.store.engine import StoreError, Write
from gateway.store.front import SHAPES
from gateway.store.history import History
from gateway.store.quarantine import PER_MINUTE, PLACES
from gateway.store.schema import BUILT
from gateway.store.sqlite import SqliteEngine
from gateway.store.states import encode, salvage
from gateway.store.trust import CATCH_UP, DAY, WITNESSES, Time
from tests.gateway.test_pipeline import World
from tests.gateway.test_store import STATE, purged, write
from tests.gateway.test_store_care import count
from tests.gateway.world import T0
from tools.cli import cli

NOW = float(BUILT + 30 * 86_400)
KEEP = StoreConfig(reserve_mb=0)
Make = Callable[..., SqliteEngine]


@pytest.fixture
async def make(tmp_path: Path) -> Iterator[Make]:  # type: ignore[misc]
    made: list[SqliteEngine] = []

    def one(
        keep: StoreConfig = KEEP, clock: Callable[[], float] = lambda: NOW, mono: Callable[[], float] = time.monotonic
    ) -> SqliteEngine:
        made.append(SqliteEngine(tmp_path / "g.db", ("city",), keep, clock, "gw-7", mono))
        return made[-1]

    yield one
    for engine in made:
        if engine._thread.is_alive():
            engine.close()


def report(node: int, counter: int, t: float, size: int = 300) -> Write:
    w = write(counter, node)
    assert w.event is not None and w.raw is not None
    column = replace(w.event.columns[0], values=(5,) * 10, suspect=())
    event = replace(
        w.event, received=t, times=tuple(int(t) - 600 + 60 * i for i in range(10)), columns=(column,), alarm=None
    )
    return replace(w, event=event, raw=replace(w.raw, received=t, data=bytes(size)))


# the size limit


async def test_the_size_limit_is_kept_while_more_comes_in_than_one_node_a_step_could_drop(
    make: Make, tmp_path: Path
) -> None:
    """A thousand nodes, a day of history, and a limit of less than half of it: the caretaker gets there in seconds, in a fifth of the writer's time."""
    engine = make(StoreConfig(size_mb=4, reserve_mb=0))
    for c in range(1, 8):
        await engine.commit([report(node, c, NOW - 86_400 + c * 12_000) for node in range(1, 1001)])
    await engine.ack("city", engine.newest())
    assert examine(tmp_path / "g.db")["bytes_used"] > 8 << 20
    caretaker, worst = Caretaker(engine, Metrics(), lambda: None, lambda: NOW), 0.0
    began, c = time.monotonic(), 8
    while time.monotonic() - began < 60:
        caretaker.tick(time.monotonic(), True)
        at = time.monotonic()
        await engine.commit([report(1 + c * 7 % 1000, c, NOW + c)])
        worst = max(worst, time.monotonic() - at)
        await engine.ack("city", engine.newest())
        c += 1
        if not caretaker._purging and not engine.too_big():
            break
        await asyncio.sleep(0.02)  # some 40 frames a second
    assert not engine.too_big(), (
        f"{examine(tmp_path / 'g.db')['bytes_used'] >> 20} MB after {time.monotonic() - began:.0f} s"
    )
    assert engine.dropped == 0 and worst < 1.0, "no commit waits for it"
    kept = {node for (node,) in sqlite3.connect(tmp_path / "g.db").execute("SELECT DISTINCT node FROM frames")}
    assert len(kept) > 900, "each node gives up its oldest, none all of it"
    oldest_row, oldest_frame = (sqlite3.connect(tmp_path / "g.db").execute(q).fetchone()[0] for q in ("SELECT min(t) FROM rows", "SELECT min(received) FROM frames"))  # fmt: skip
    assert oldest_row >= oldest_frame - 600, "rows go before the frames they were made of"


async def test_retention_takes_its_share_of_the_writer_and_no_more(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "STEP_S", 0.004)  # a fast machine is through in a few steps of 20 ms
    engine = make(StoreConfig(size_mb=16, reserve_mb=0, rows_days=0, frames_days=0))
    for c in range(1, 5):
        await engine.commit([report(node, c, NOW - 86_400) for node in range(1, 801)])
    spent: list[float] = []
    real = engine._retention.step

    def step(db: sqlite3.Connection, now: float) -> bool:
        at = time.monotonic()
        more = real(db, now)
        spent.append(time.monotonic() - at)
        return more

    engine._retention.step = step  # type: ignore[method-assign]
    engine.time._believed = NOW
    caretaker = Caretaker(engine, Metrics(), lambda: None, lambda: NOW)
    began = time.monotonic()
    caretaker.tick(began, True)
    while caretaker._purging and time.monotonic() - began < 30:
        await asyncio.sleep(0.01)
    took = time.monotonic() - began
    assert len(spent) > 3 and sum(spent[1:]) <= took * SHARE * 1.2, (sum(spent), took)
    assert engine._retention.idle


@pytest.mark.parametrize("wrong", [-11 * 30 * DAY, 10 * 365 * DAY])
async def test_a_wrong_clock_at_the_limit_still_drops_history_before_what_is_waited_for(
    make: Make, tmp_path: Path, wrong: float
) -> None:
    engine = make(StoreConfig(size_mb=3, reserve_mb=0), lambda: NOW + wrong)
    for c in range(1, 11):
        await engine.commit([report(node, c, NOW - 86_400 + c * 4000, 800) for node in range(1, 201)])
    await engine.ack("city", 1800)
    # by age a clock that is ahead is not believed (trust.py); at the limit none is asked
    await purged(engine, NOW + min(wrong, 0))
    assert engine.dropped == 0 and len(engine.fetch(1800, 2000)) == 200 and not engine.too_big()
    assert count(tmp_path / "g.db", "frames") >= 200, "and of history the oldest, not all"


async def test_the_log_of_a_slow_reader_counts_and_does_not_cost_all_history(make: Make, tmp_path: Path) -> None:
    engine = make(StoreConfig(size_mb=16, reserve_mb=0))
    await engine.commit([report(node, 1, NOW - 60) for node in range(1, 101)])
    reader = sqlite3.connect(f"file:{tmp_path}/g.db?mode=ro", uri=True, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM frames").fetchone()
    for c in range(2, 12):
        await engine.commit([report(node, c, NOW - 60 + c) for node in range(1, 301)])
        await engine.ack("city", engine.newest())
    assert engine.log_bytes() > 8 << 20
    metrics = Metrics()
    caretaker = Caretaker(engine, metrics, lambda: None, lambda: NOW)
    caretaker.tick(time.monotonic(), False)
    assert metrics.gauges["store_log_bytes"] == engine.log_bytes()
    await purged(engine, NOW)
    assert count(tmp_path / "g.db", "frames") > 0, "at most an eighth of the limit is history's to give for it"
    reader.close()
    for c in range(20, 24):
        await engine.commit([report(node, c, NOW) for node in range(1, 301)])
    assert engine.log_bytes() <= 12 << 20, "and the file is cut when the reader has gone"


async def test_who_looks_back_slowly_does_not_keep_the_log_from_being_used_again(make: Make, tmp_path: Path) -> None:
    engine = make()
    nodes = {n: Node(n, f"n-{n}", b"") for n in range(1, 301)}
    for c in range(1, 6):
        await engine.commit([report(node, c, NOW - 600 + c) for node in range(1, 301)])
    with History(tmp_path / "g.db", nodes) as history:
        lookers: list[Iterator[Any]] = [
            history.spooled(0, NOW * 2), history.reports(0, NOW * 2), history.reports_of(7, 0, int(NOW * 2)), audit.entries(tmp_path / "g.db"),
        ]  # fmt: skip
        for looker in lookers:
            next(looker, None)  # the first page is shown, and the pager waits
        before = engine.log_bytes()
        for c in range(10, 30):
            await engine.commit([report(node, c, NOW) for node in range(1, 301)])
        assert engine.log_bytes() < before + (8 << 20), f"{engine.log_bytes() >> 20} MB"
        seen = [e.id for e in lookers[1]]
        assert len(seen) == len(set(seen)) == 5 * 300 - 1, "what was there when the look began, in order and once"
        assert sum(1 for _ in lookers[0]) >= 5 * 300 - 1


# the clock it is aged by


async def test_a_start_with_a_clock_ten_years_ahead_drops_nothing(make: Make, tmp_path: Path) -> None:
    mono, wall = [0.0], [NOW]
    engine = make(KEEP, lambda: wall[0], lambda: mono[0])
    await engine.commit([report(node, 1, NOW - 5 * DAY) for node in range(1, 101)])
    await engine.ack("city", 100)
    engine.close()
    wall[0] = NOW + 3650 * DAY
    for _ in range(
        3
    ):  # and it does not help the clock that it is ahead again at the next start, with receptions of its own
        engine = make(KEEP, lambda: wall[0], lambda: mono[0])
        await engine.commit([report(200, int(mono[0]) + 1, wall[0])])
        for _ in range(6):
            mono[0] += 3600
            wall[0] += 3600
            await purged(engine, engine.time.believed())
        caretaker = Caretaker(engine, Metrics(), lambda: None, lambda: wall[0])
        assert "clock_doubted" in {p.code for p in caretaker.problems()}
        engine.close()
    assert (
        count(tmp_path / "g.db", "frames", "node < 200") == 100 == count(tmp_path / "g.db", "rows", "node < 200") / 10
    )


async def test_a_gateway_that_was_away_for_a_month_is_even_again_within_days(make: Make, tmp_path: Path) -> None:
    mono, wall = [0.0], [NOW]
    engine = make(KEEP, lambda: wall[0], lambda: mono[0])
    await engine.commit([report(1, 1, NOW - 5 * DAY)])
    await engine.ack("city", 1)
    await purged(engine, engine.time.believed())
    engine.close()
    wall[0] += 30 * DAY
    engine = make(KEEP, lambda: wall[0], lambda: mono[0])
    await engine.commit([report(2, 1, wall[0])])
    mono[0] += 2 * DAY
    wall[0] += 2 * DAY
    assert engine.time.believed() == wall[0] and engine.time.doubted() == 0
    await purged(engine, engine.time.believed())
    assert count(tmp_path / "g.db", "frames", "node = 1") == 0, "and what is old is dropped again"


@given(
    st.floats(0, 4e9),
    st.lists(st.tuples(st.floats(0, 1e7), st.floats(-1e9, 1e9), st.integers(0, 9), st.floats(-1e9, 1e9)), max_size=30),
)
def test_the_believed_time_never_steps_back_or_beyond_what_the_hours_allow(
    since: float, steps: list[tuple[float, float, int, float]]
) -> None:
    mono, wall = [0.0], [since]
    t = Time(since, lambda: wall[0], lambda: mono[0])
    last = t.believed()
    for passed, jump, node, ahead in steps:
        mono[0] += passed
        wall[0] += passed + jump
        t.heard(node, wall[0] + ahead, wall[0])
        now = t.believed()
        assert last <= now <= max(last, wall[0]) and now - last <= passed * CATCH_UP * 1.001 + 1
        last = now


def test_two_nodes_ahead_move_nothing_and_three_move_to_the_least_of_them() -> None:
    t = Time(NOW, lambda: NOW, lambda: 0.0)
    for node, ahead in enumerate((9e8, 5e8, 0.0, -1e8)):
        t.heard(node, NOW + ahead, NOW)
        t.heard(node, NOW + 2e9, NOW)  # only its first counts
    assert t.at_least() is None and WITNESSES == 3
    t.heard(9, NOW + 2 * DAY, NOW)
    assert t.at_least() == NOW + 2 * DAY


# quarantine and audit


async def test_a_stranger_fills_its_own_places_of_the_quarantine_and_only_so_fast(make: Make, tmp_path: Path) -> None:
    wall = [NOW]
    engine = make(KEEP, lambda: wall[0])
    engine.quarantine(b"worth keeping", "unstorable", NOW)
    await asyncio.gather(*(engine.quarantine(i.to_bytes(4, "big"), "bad_version", NOW) for i in range(3000)))
    assert count(tmp_path / "g.db", "quarantine", "reason = 'bad_version'") == PER_MINUTE["bad_version"] == 10
    assert engine.quarantine_skipped == 2990
    kept = []
    for i in range(PLACES + 30):
        wall[0] += 6
        kept.append(engine.quarantine(i.to_bytes(4, "big"), "bad_version", wall[0]))
    await asyncio.gather(*kept)
    assert count(tmp_path / "g.db", "quarantine", "reason = 'bad_version'") == PLACES
    assert count(tmp_path / "g.db", "quarantine", "reason = 'unstorable'") == 1


def refused(who: str, t: float, error: str = "unauthorised", args: Any = None) -> Write:
    told = {
        "state": "refused",
        "error": error,
        "detail": "no",
        "requester": who,
        "id": "i",
        "name": "valve",
        "args": args,
    }
    return Write(0, None, more=(Event("command", "x", 0, "n-1", "restricted", t, 1, command=told),))


async def test_refusals_are_rows_first_and_then_counted_by_who_and_why(make: Make, tmp_path: Path) -> None:
    wall = [NOW // 3600 * 3600]
    engine = make(KEEP, lambda: wall[0])
    accepted = Event("command", "y", 1, "n-1", "restricted", wall[0], 1, command={"state": "done", "requester": "eve", "id": "j", "name": "reboot"})  # fmt: skip
    for i in range(300):
        await engine.commit([refused("eve", wall[0] + i, ("unauthorised", "unknown_node")[i % 2], "x" * 3000)])
        if i % 100 == 0:
            await engine.commit([Write(0, None, more=(accepted,))])
    await engine.commit([refused("ana", wall[0] + 301)])
    rows = list(audit.entries(tmp_path / "g.db"))
    assert len([r for r in rows if r.state == "done"]) == 3, "what was done is always a row"
    assert len([r for r in rows if r.requester == "eve" and r.state == "refused"]) == audit.FULL
    assert len([r for r in rows if r.requester == "ana"]) == 1, "who is refused once is seen, whatever others do"
    assert all(len(json.dumps(r.body)) <= audit.BODY_MAX for r in rows)
    engine.close()
    wall[0] += 3600  # a kill or a restart loses no count
    engine = make(KEEP, lambda: wall[0])
    await purged(engine, wall[0])
    counted = [r for r in audit.entries(tmp_path / "g.db") if "counted" in r.detail]
    assert {(r.requester, r.body["error"]): r.body["count"] for r in counted} == {
        ("eve", "unauthorised"): 145,
        ("eve", "unknown_node"): 145,
    }
    await purged(engine, wall[0])
    assert len([r for r in audit.entries(tmp_path / "g.db") if "counted" in r.detail]) == 2, "once"


async def test_many_requesters_share_what_an_hour_of_refusals_may_take(make: Make, tmp_path: Path) -> None:
    engine = make()
    hour = NOW // 3600 * 3600
    await engine.commit([refused(f"u{i % 500}", hour + i / 10) for i in range(5000)])
    assert count(tmp_path / "g.db", "audit") == audit.FULL_IN_ALL
    await engine.commit([refused("late", hour + 3700)])
    assert count(tmp_path / "g.db", "audit") <= audit.FULL_IN_ALL + audit.KINDS + 2
    told = sum(r.body.get("count", 1) for r in audit.entries(tmp_path / "g.db"))
    assert told == 5001, "every refusal is counted"


# rights of files, backups


async def test_every_file_of_the_store_is_its_users_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        engine = SqliteEngine(tmp_path / "g.db", ("city",), StoreConfig(reserve_mb=1))
        await engine.commit([write(1)])
        backup(tmp_path / "g.db", tmp_path / "copy.db", NOW, lambda *_: None)
        (tmp_path / "nodes.toml").write_text("keys")
        made = bundle(
            tmp_path / "g.db", {"nodes.toml": tmp_path / "nodes.toml"}, tmp_path / "all.tar", NOW, lambda *_: None
        )
        (tmp_path / "nodes.toml").unlink()
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
        assert set(modes.values()) == {0o600} and len(modes) == 8, modes
        engine.close()
        (tmp_path / "g.db").chmod(0o644)
        (tmp_path / "copy.db").unlink()
        SqliteEngine(tmp_path / "g.db").close()
        assert stat.S_IMODE((tmp_path / "g.db").stat().st_mode) == 0o640, (
            "everyone's right of an older version is taken away"
        )
    finally:
        os.umask(before)
    with tarfile.open(tmp_path / "all.tar") as tar:
        assert tar.getnames() == ["gateway.db", "nodes.toml"] == made["files"]
        assert {m.mode for m in tar.getmembers()} == {0o600}
        tar.extractall(tmp_path / "new")
    assert examine(tmp_path / "new" / "gateway.db")["rows"]["frames"] == 1


async def test_a_backup_follows_no_link_and_overwrites_nothing(make: Make, tmp_path: Path) -> None:
    engine = make()
    await engine.commit([write(1)])
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name, to in (("a.db", precious), ("b.db", tmp_path / "nowhere")):
        (tmp_path / name).symlink_to(to)
        with pytest.raises(StoreError, match="no link|exists"):
            backup(tmp_path / "g.db", tmp_path / name, NOW, lambda *_: None)
    (tmp_path / "c.db.part").symlink_to(precious)
    backup(tmp_path / "g.db", tmp_path / "c.db", NOW, lambda *_: None)
    assert precious.read_text() == "mine" and not (tmp_path / "nowhere").exists()

    def taken(_done: int, _of: int) -> None:
        (tmp_path / "d.db").write_text("someone else's")

    with pytest.raises(StoreError):
        backup(tmp_path / "g.db", tmp_path / "d.db", NOW, taken)
    assert (tmp_path / "d.db").read_text() == "someone else's" and not [p for p in tmp_path.iterdir() if p.name.endswith(".part") and not p.is_symlink()]  # fmt: skip


# a rotten state, a held lock, a newer store, the first start


async def test_a_rotten_state_keeps_its_replay_protection(make: Make, tmp_path: Path) -> None:
    engine = make()
    await engine.commit(
        [replace(report(7, c, NOW), state=replace(STATE, replay=Replay(c + 1), boots=3)) for c in range(1, 10)]
    )
    await engine.commit([report(8, 5, NOW)])
    engine.close()
    db = sqlite3.connect(tmp_path / "g.db")
    good = msgspec.msgpack.decode(encode(replace(STATE, replay=Replay(10), down=STATE.down + 9)))
    db.execute(
        "UPDATE nodes SET state = ? WHERE node = 7", (msgspec.msgpack.encode({**good, "boots": True, "latest": "x"}),)
    )
    db.execute("UPDATE nodes SET state = x'c1' WHERE node = 8")
    db.commit()
    db.close()
    engine = make()
    state = engine.load(7)
    assert (
        state is not None
        and state.replay == Replay(10)
        and state.boots is None
        and state.latest == {}
        and state.meta == "x"
    )
    assert state.down == STATE.down + 9
    lost = engine.load(8)
    assert lost is not None and not lost.replay.lacks(5) and lost.replay.too_old(4), "the frames know, one by one"
    assert lost.down > STATE.down, "above all that any node was given"


@given(st.binary(max_size=60) | st.dictionaries(st.text(max_size=9), st.integers() | st.text(max_size=4) | st.none(), max_size=5).map(lambda d: msgspec.msgpack.encode({k: v for k, v in d.items() if not isinstance(v, int) or abs(v) < 1 << 63})))  # fmt: skip
def test_any_bytes_in_a_states_place_give_a_state(body: bytes) -> None:
    state, lost = salvage(body)
    assert encode(state) and isinstance(lost, tuple)


async def test_a_lock_of_another_program_is_called_that(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make().close()
    monkeypatch.setattr("gateway.store.schema.BUSY_MS", 50)
    other = sqlite3.connect(tmp_path / "g.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError) as e:
        make()
    assert "another program holds the store" in e.value.hint and "disk" not in e.value.hint
    other.execute("ROLLBACK")
    engine = make()
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError) as e:
        await engine.commit([write(1)])
    assert "another program holds the store" in e.value.hint
    other.execute("ROLLBACK")
    other.close()
    assert writer.advice(sqlite3.OperationalError("x"), tmp_path).startswith("look at free disk space")


def test_check_of_a_newer_store_says_so(tmp_path: Path) -> None:
    async def prepare() -> None:
        SqliteEngine(tmp_path / "gateway.db").close()

    asyncio.run(prepare())
    db = sqlite3.connect(tmp_path / "gateway.db")
    db.execute("PRAGMA user_version=99")
    db.close()
    (tmp_path / "nodes.toml").write_text("")
    config = tmp_path / "gateway.toml"
    config.write_text('[gateway]\nid = "gw-1"\n[link.a]\nkind = "udp-forwarder"\nbind = "127.0.0.1:0"\n[output.city]\nkind = "mqtt"\nbroker = "127.0.0.1:1"\n')  # fmt: skip
    done = CliRunner().invoke(cli, ["gateway", "check", "--store", "--config", str(config)])
    assert (
        done.exit_code == 1
        and "version 99" in done.stderr
        and "newer gateway" in done.stderr
        and "damage" not in done.stderr
    )
    done = CliRunner().invoke(cli, ["gateway", "check", "--store", "--config", str(config), "--json"])
    assert not json.loads(done.stdout)["ok"]


async def test_a_registry_of_thousands_is_introduced_at_a_cost_of_each_node_once(tmp_path: Path) -> None:
    """The states that wait for their commits must not be walked over for every node that comes behind them."""
    ratios = []
    for turn in range(5):
        costs = []
        for n in (6_000, 12_000):
            world = World(engine=SqliteEngine(tmp_path / f"{turn}-{n}.db", ["city"]))  # type: ignore[arg-type]
            nodes = {i: Node(i, f"n-{i}", bytes(16)) for i in range(1, n + 1)}
            world.nodes = nodes
            pipeline = world.start()
            began = time.thread_time()
            pipeline.introduce()
            costs.append((time.thread_time() - began) / n)
            await pipeline.settle()
            world.engine.close()
        ratios.append(costs[1] / costs[0])
        if ratios[-1] < 1.6:
            return
    raise AssertionError(
        f"a node costs {ratios} times as much when there are twice as many"
    )  # whatever else runs beside


async def test_a_start_reads_no_state_of_a_node_whose_entry_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """25,000 states were fetched one by one and decoded whole, to find that there is nothing to publish."""
    loaded: list[int] = []
    whole = SqliteEngine.load

    def load(self: SqliteEngine, node: int) -> NodeState | None:
        loaded.append(node)
        return whole(self, node)

    monkeypatch.setattr(SqliteEngine, "load", load)
    nodes = {i: Node(i, f"n-{i}", bytes(16)) for i in range(1, 1201)}
    for entries, published, read in (
        (nodes, 1200, 0),  # never heard: there is nothing to read either
        (nodes, 0, 0),
        (nodes | {5: Node(5, "renamed", bytes(16)), 1300: Node(1300, "new", bytes(16))}, 2, 1),
    ):
        world = World(engine=SqliteEngine(tmp_path / "g.db", ["city"]))  # type: ignore[arg-type]
        world.nodes = entries
        pipeline, before = world.start(), world.engine.newest()
        loaded.clear()
        pipeline.introduce()
        await pipeline.settle()
        assert (world.engine.newest() - before, len(loaded)) == (published, read)
        world.engine.close()


async def test_who_was_online_and_when_heard_is_known_without_reading_whole_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = SqliteEngine(tmp_path / "g.db", ["city"])
    heard = NodeState(heard=T0 + 0.5, online=True, down=engine.floor)
    await engine.commit([Write(n, replace(heard, online=n != 3)) for n in range(1, 5)])
    monkeypatch.setattr(SqliteEngine, "load", lambda *_: pytest.fail("a state was read whole"))
    assert engine.online() == [(n, heard.heard) for n in (1, 2, 4)]
    engine.close()


async def test_every_table_can_be_found_by_the_shape_of_its_rows(make: Make, tmp_path: Path) -> None:
    make().close()
    db = sqlite3.connect(tmp_path / "g.db")
    tables = {
        r[0] for r in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    }
    columns = {t: len(db.execute(f"PRAGMA table_info({t})").fetchall()) for t in tables}
    assert columns == {t: len(shape) for t, shape in SHAPES.items()}
    assert retention.STEP_S <= 0.05 and T0
    db.close()

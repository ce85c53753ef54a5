"""One frame that no store takes is one frame's fault: others are committed, it is kept raw, counted and acknowledged."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import intake
from gateway.core.follow import Follow
from gateway.core.model import Decision, Event, Node
from gateway.core.value import replace
from gateway.store.engine import StoreError, Unstorable, Write
from gateway.store.memory import MemoryEngine
from gateway.store.prepare import encode_state, prepare
from gateway.store.sqlite import SqliteEngine
from gateway.store.states import decode
from gateway.work import Work
from tests.gateway.test_pipeline import ROWS, World
from tests.gateway.test_store import STATE, write
from tests.gateway.world import T0, Mote

NASTY = st.one_of(
    st.integers(-(1 << 70), 1 << 70), st.sampled_from([1 << 64, -(1 << 64), 1 << 63, (1 << 63) - 1, -(1 << 63)]),
    st.floats(allow_nan=True, allow_infinity=True), st.text(max_size=5), st.sampled_from(["\ud800", "a\0b"]), st.booleans(),
    st.none(), st.binary(max_size=5), st.just([[[[]]]]), st.just({"a": {1: 2}}),
)  # fmt: skip


def deep(n: int) -> list[Any]:
    out: list[Any] = []
    for _ in range(n):
        out = [out]
    return out


@pytest.fixture(params=["sqlite", "memory"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    engine = SqliteEngine(tmp_path / "g.db", ["city"]) if request.param == "sqlite" else MemoryEngine(["city"])
    yield World(engine=engine)  # type: ignore[arg-type]
    engine.close()


@pytest.mark.parametrize("status", [{"uptime": 1 << 64}, {"text": "\ud800"}, {"x": deep(5000)}, {"x": object()}])
async def test_a_status_no_store_takes_is_kept_raw_and_acknowledged_and_leaves_others_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, status: dict[str, Any]
) -> None:
    real, other = intake.normalise, Mote(400)
    world.nodes[400] = Node(400, "n-400", other.key, interval_s=600)

    def normalise(*args: Any) -> Decision:
        d = real(*args)
        return replace(d, event=replace(d.event, status=status)) if d.event and d.event.node == 263 else d

    monkeypatch.setattr(intake, "normalise", normalise)
    for data in (other.report(T0 - 60, ROWS), world.mote.status({1: 5}), other.alarm(2, T0, 6, 181, 150)):
        world.pipeline.deliver(world.rx(data))
    await world.pipeline.settle()
    kinds = {(e.event.node, e.event.kind) for e in world.engine.fetch(0, 99)}
    assert kinds == {(400, "report"), (400, "alarm"), (263, "opaque")}
    assert world.metrics.refused == {"unstorable": 1}
    assert any(world.mote.acked(frame).covers(1) for to, frame in world.sent if frame[1:] and _to(frame) == 263)
    state = world.engine.load(263)
    assert state is not None and state.replay.next == 2, "and it is a repeat when it comes again"


def _to(frame: bytes) -> int:
    from motewire.frame import parse_header

    return parse_header(frame)[1]


async def test_a_state_that_could_not_be_read_again_is_not_built_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bool in an integer's place is stored without complaint and unreadable after the next start."""
    real = intake.normalise
    await world.take(world.mote.report(T0 - 60, ROWS))

    def normalise(*args: Any) -> Decision:
        d = real(*args)
        return replace(d, state=replace(d.state, boots=True))

    monkeypatch.setattr(intake, "normalise", normalise)
    await world.take(world.mote.status({1: 5}))
    monkeypatch.undo()
    await world.take(world.mote.report(T0, ROWS))
    assert [e.event.kind for e in world.engine.fetch(0, 9)] == ["report", "opaque", "report"]
    state = world.engine.load(263)
    assert state is not None and state.boots is None and state.replay.next == 4 and "pm10" in state.latest
    assert world.rejects[-1]["reason"] == "unstorable" and world.metrics.refused == {"unstorable": 1}


async def test_what_a_follower_derives_and_no_store_takes_costs_only_that(world: World) -> None:
    class Mad:
        name = "mad"

        def load(self, notes: Any) -> None: ...
        def stepped(self, seconds: float) -> None: ...
        def tick(self, now: float) -> Follow:
            return Follow()

        def follow(self, node: Node, event: Event) -> Follow:
            return Follow((replace(event, id="x", status={"v": 1 << 65}),), {"mad:n": b"1"}, {})

    world.followers = (Mad(),)
    world.pipeline = world.start()
    await world.take(world.mote.report(T0 - 60, ROWS))
    assert world.engine.note("mad:n") == b"1" and [e.event.kind for e in world.engine.fetch(0, 9)] == ["opaque"]
    assert len(world.engine.unread()) == 0 and world.metrics.refused["unstorable"] == 1


@pytest.mark.parametrize(
    "change", [{"rssi": 1 << 70}, {"receiver": "\ud800"}, {"snr": float("nan")}, {"rssi": object()}]
)
async def test_a_reception_no_store_takes_is_kept_without_it(world: World, change: dict[str, Any]) -> None:
    await world.take(world.mote.alarm(2, T0, 6, 181, 150), **change)
    (entry,) = world.engine.fetch(0, 9)
    assert entry.event.kind == "opaque" and entry.event.rssi is None and world.sent


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(["boots", "firmware", "latest", "ids", "meta", "heard", "down", "schemas", "marks"]), NASTY
    )
)
def test_every_state_is_refused_or_comes_back_the_same(changes: dict[str, Any]) -> None:
    state = replace(STATE, **changes)
    try:
        body = encode_state(state)
    except Unstorable:
        return
    assert decode(body).replay == state.replay


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["status", "name", "received", "command", "counter", "meta", "id"]), NASTY),
        min_size=1,
        max_size=4,
    )
)
def test_what_passes_the_caller_never_fails_the_group(
    tmp_path_factory: pytest.TempPathFactory, odd: list[dict[str, Any]]
) -> None:
    import asyncio

    async def trial(folder: Path) -> None:
        engine = SqliteEngine(folder / "g.db")
        try:
            taken = [engine.commit([write(1)])]
            for n, change in enumerate(odd):
                w = write(2 + n)
                assert w.event is not None
                try:
                    taken.append(engine.commit([replace(w, event=replace(w.event, times=(), columns=(), **change))]))
                except Unstorable:
                    continue
            taken.append(engine.commit([write(99)]))
            for future in taken:
                await future
            assert engine.transactions <= len(taken) and len(engine.fetch(0, 99)) == len(taken)
        finally:
            engine.close()

    asyncio.run(trial(tmp_path_factory.mktemp("g")))


async def test_a_bug_in_one_job_fails_that_job_alone_and_leaves_nothing_of_it(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "g.db")

    def bug(db: sqlite3.Connection) -> int:
        db.execute("INSERT INTO notes VALUES ('half', 'x')")
        raise KeyError("no such thing")

    def given_wrong(db: sqlite3.Connection) -> int:
        db.execute("INSERT INTO notes VALUES ('half', NULL)")
        return 1

    good, bad, worse, more = (engine._writer.put(j) for j in (lambda _db: 1, bug, given_wrong, lambda _db: 2))
    assert await good == 1 and await more == 2
    for future in (bad, worse):
        with pytest.raises(StoreError, match="not stored"):
            await future
    assert engine.note("half") is None
    assert await engine.commit([write(1)]) == 1, "nothing was decided on it"
    engine.close()


def test_a_write_without_what_every_frame_has_is_refused_before_it_is_queued() -> None:
    w = write(1)
    assert w.raw is not None
    for raw in (replace(w.raw, receiver=None), replace(w.raw, received=float("inf")), replace(w.raw, counter=1 << 64)):  # type: ignore[arg-type]
        with pytest.raises(Unstorable):
            prepare(replace(w, raw=raw))
    with pytest.raises(Unstorable, match="used up"):
        prepare(Write(1, replace(STATE, down=1 << 32)))


def broken(monkeypatch: pytest.MonkeyPatch, where: type, name: str, error: Exception) -> None:
    """Let a method of Work raise for node 263 and for no other."""
    real = getattr(where, name)

    def raises(self: Any, *args: Any) -> Any:
        if self.node.id == 263:
            raise error
        return real(self, *args)

    monkeypatch.setattr(where, name, raises)


@pytest.mark.parametrize("both", [False, True])
async def test_a_frame_whose_write_cannot_be_put_together_costs_only_itself(
    world: World, monkeypatch: pytest.MonkeyPatch, both: bool
) -> None:
    """A fault of ours between the decision and the store: others are committed, it is kept raw, counted and acknowledged."""
    other = Mote(400)
    world.nodes[400] = Node(400, "n-400", other.key, interval_s=600)
    broken(monkeypatch, Work, "write", KeyError("no such thing"))
    if both:
        broken(monkeypatch, Work, "least", ZeroDivisionError())
    for data in (other.report(T0 - 60, ROWS), world.mote.status({1: 5}), other.alarm(2, T0, 6, 181, 150)):
        world.pipeline.deliver(world.rx(data))
    await world.pipeline.settle()
    kinds = {(e.event.node, e.event.kind) for e in world.engine.fetch(0, 99)}
    assert kinds == {(400, "report"), (400, "alarm")} | (set() if both else {(263, "opaque")})
    assert world.pipeline.pending == 0 and world.metrics.refused == {"unstorable": 1, "internal": 1 + both}
    assert any(_to(frame) == 263 and world.mote.acked(frame).covers(1) for _, frame in world.sent)
    state = world.engine.load(263)
    assert state is not None and state.replay.next == 2
    assert len(list(world.engine.quarantined)) == both if isinstance(world.engine, MemoryEngine) else True
    monkeypatch.undo()
    await world.take(world.mote.report(T0, ROWS))
    assert world.engine.fetch(0, 99)[-1].event.id == "263:0:2", "and the next one is read"


async def test_a_fault_in_looking_at_a_write_is_one_frames_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Mote(400)
    world.nodes[400] = Node(400, "n-400", other.key, interval_s=600)

    def look(w: Write) -> Any:
        if w.node == 263 and w.event is not None and w.event.kind != "opaque":
            raise AttributeError("of ours")
        return prepare(w)

    for module in ("gateway.unstorable", "gateway.store.sqlite", "gateway.store.memory"):
        monkeypatch.setattr(f"{module}.prepare", look)
    for data in (other.report(T0 - 60, ROWS), world.mote.report(T0 - 60, ROWS)):
        world.pipeline.deliver(world.rx(data))
    await world.pipeline.settle()
    kinds = {(e.event.node, e.event.kind) for e in world.engine.fetch(0, 99)}
    assert kinds == {(400, "report"), (263, "opaque")} and world.pipeline.pending == 0
    assert world.metrics.refused == {"unstorable": 1, "internal": 1}


async def test_an_engine_that_raises_fails_the_commit_and_keeps_no_one_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commit(_writes: Any) -> Any:
        raise RuntimeError("of ours")

    with monkeypatch.context() as broken_engine:
        broken_engine.setattr(world.engine, "commit", commit)
        data = world.mote.report(T0 - 60, ROWS)
        done = world.pipeline.deliver(world.rx(data))
        await world.pipeline.settle()
    assert done is not None and done.done() and world.pipeline.pending == 0 and not world.sent
    assert world.metrics.refused["store_failed"] == 1 and world.metrics.refused["internal"] == 2
    world.clock.time += 20
    await world.take(data)
    assert [e.event.kind for e in world.engine.fetch(0, 9)] == ["report"], "the node resends, and it is taken"

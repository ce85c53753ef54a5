"""Events that speak of a node under a name that it has no more, in any order with reloads and passes: what is retained in the end is what
there is now, under the name of now.
"""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config import MqttOutputConfig
from gateway.core.current import NOTHING
from gateway.core.model import OPEN, Aggregate, AggregateValue, Alarm, Circle, Column, Event, Node
from gateway.core.value import replace
from gateway.metrics import Metrics
from gateway.outputs.births import NEVER
from gateway.outputs.mqtt import MqttOutput
from gateway.outputs.retained import Tree
from gateway.outputs.turn import Turn, over
from gateway.store.memory import MemoryEngine
from tests.gateway.test_store_lane import CONFIG, Broker_, broker, commit
from tests.gateway.world import T0

__all__ = ["broker"]  # the fixture: what is published goes to it
NAMES = ("n-263", "m-263", "k-263")
FORMATS = ("native", "senml", "ngsi-ld", "homeassistant")
QUIET_S = 0.03


def node(name: str) -> Node:
    return Node(263, name, b"", profile="air_quality", interval_s=600, lat=45.5, lon=13.7, visibility=OPEN)


def event(n: int, what: str, name: str) -> Event:
    """The n-th event: a report, or an alarm of a rule."""
    e = Event("report", f"263:0:{n}", 263, name, OPEN, T0 + n + 1.0, 600, n, rssi=-n)
    if what == "report":
        return replace(e, times=(T0 + n,), columns=(Column("pm10", "ug/m3", (n,)),), latest=((0, 0),))
    circle = Circle("air_quality") if what == "cleared" else None
    told = Alarm(what, "above", "warning", "pm10", "ug/m3", n, 4, T0 + n, T0 + n, ("hot",), circle=circle)  # type: ignore[arg-type]
    return replace(e, kind="alarm", rssi=None, alarm=told)


def mean(n: int, over: bool = False) -> Event:
    """The n-th event: the mean of an hour, or that none is made any more."""
    closed = Aggregate("hour", T0 + n, T0 + n + 3600, 1, True, (AggregateValue("pm10", "ug/m3", n, 100.0),), over=over)
    return Event("aggregate", f"263:0:{n}:city:hour", 263, "m-263", OPEN, T0 + n + 1.0, 600, n, aggregates=(closed,))


def output(engine: MemoryEngine, nodes: dict[int, Node], config: MqttOutputConfig = CONFIG) -> MqttOutput:
    return MqttOutput(replace(config, formats=FORMATS), "gw-1", engine, Metrics(), dict, nodes)


def standing() -> dict[str, bytes]:
    """What the broker retains of nodes."""
    return {t: p for t, p in Broker_.memory.items() if p and "/v1/gw/" not in t}


def wanted(tree: Tree, engine: MemoryEngine) -> dict[str, bytes]:
    _, c = engine.ledger.current("263") or (0, NOTHING)
    return {t: m.payload for t, m in tree.desired("263", c).items()}


STEP = st.tuples(st.sampled_from(["report", "raised", "cleared"]), st.sampled_from(NAMES)) | st.tuples(
    st.sampled_from(["rename", "wait"]), st.sampled_from(NAMES)
)


async def after(steps: list[tuple[str, str]]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return what is retained once all has come to rest, and what should be."""
    engine, nodes = MemoryEngine(["city"]), {263: node(NAMES[0])}
    await engine.ledger.keep_registry(nodes, {}, T0)
    o = output(engine, nodes)
    task = asyncio.create_task(o.run())
    try:
        await commit(engine, event(1, "report", NAMES[0]))
        await asyncio.wait_for(o.resync.done.wait(), 5)
        for n, (what, name) in enumerate(steps, 2):
            if what == "rename":
                nodes = {263: node(name)}
                await engine.ledger.keep_registry(nodes, {}, T0 + n)
                o.reload(nodes)
            elif what == "wait":
                await asyncio.sleep(QUIET_S)
            else:
                await commit(engine, event(n, what, name))
                o.wake()
        await asyncio.wait_for(o.drain(), 5)
        before = -1
        while before != len(Broker_.sent):
            before = len(Broker_.sent)
            await asyncio.sleep(2 * QUIET_S)
        return standing(), wanted(o.tree, engine)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        engine.close()


@given(steps=st.lists(STEP, min_size=1, max_size=9))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_name_events_speak_of_what_is_retained_is_what_there_is_under_the_name_of_now(
    steps: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.outputs.reading.GRACE_S", 0.01)
    monkeypatch.setattr("gateway.outputs.marking.GRACE_S", 0.01)
    Broker_.sent, Broker_.memory = [], {}
    got, want = asyncio.run(after(steps))
    assert got == want
    for name in NAMES:
        told = [json.loads(p)["v"] for t, p, _ in Broker_.sent if t.endswith(f"{name}/q/pm10") and p]
        assert told == sorted(told), "no retained value steps back"


@pytest.mark.parametrize(
    "steps",
    [
        # the rule leaves with the name: its alarm is published under the new one first, and ends under the old
        [("raised", "n-263"), ("rename", "m-263"), ("wait", ""), ("cleared", "n-263")],
        # a board whose frame was decided before the reload, and committed behind the pass
        [("rename", "m-263"), ("wait", ""), ("raised", "n-263"), ("report", "n-263")],
        [("rename", "m-263"), ("wait", ""), ("report", "n-263"), ("report", "m-263"), ("report", "n-263")],
    ],
)  # fmt: skip
def test_what_was_decided_under_a_former_name_is_retained_and_ends_under_the_one_of_now(
    steps: list[tuple[str, str]],
) -> None:
    got, want = asyncio.run(after(steps))
    assert got == want and any("m-263/" in t for t in want)
    told = [json.loads(p)["v"] for t, p, _ in Broker_.sent if t.endswith("m-263/q/pm10") and p]
    assert told == sorted(told), "no retained value steps back"


async def test_an_end_that_a_pass_finds_before_it_was_handed_over_is_emptied_by_the_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pass says what is true by then, so the event that is handed over behind it says nothing more."""
    engine, nodes = MemoryEngine(["city"]), {263: node("n-263")}
    await engine.ledger.keep_registry(nodes, {}, T0)
    o, pass_on = output(engine, nodes), asyncio.Event()
    task = asyncio.create_task(o.run())
    try:
        await commit(engine, event(1, "report", "n-263"))
        await asyncio.wait_for(o.resync.done.wait(), 5)
        room = o.resync.room

        async def late() -> None:
            await pass_on.wait()
            await room()

        monkeypatch.setattr(o.resync, "room", late)
        nodes = {263: node("m-263")}
        await engine.ledger.keep_registry(nodes, {}, T0 + 2)
        o.reload(nodes)
        Broker_.acks = False  # which would have the end handed over at once
        await commit(engine, mean(2))
        o.wake()
        while "city/v1/node/m-263/agg/hour" not in standing():
            await asyncio.sleep(0)
        await asyncio.sleep(QUIET_S)
        await commit(engine, mean(3, over=True))
        pass_on.set()
        while "city/v1/node/m-263/q/pm10" not in standing():
            await asyncio.sleep(0)
        Broker_.acks = True
        for puback in Broker_.owed:
            puback()
        o.wake()
        await asyncio.wait_for(o.drain(), 5)
        await asyncio.sleep(0.5)
        assert standing() == wanted(o.tree, engine)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        engine.close()


async def test_a_pass_empties_what_has_ended_behind_what_was_handed_over() -> None:
    """Nothing of it was published before: the facts that the pass reads have the end already."""
    engine, nodes = MemoryEngine(["city"]), {263: node("m-263")}
    await engine.ledger.keep_registry(nodes, {}, T0)
    await commit(engine, mean(1))
    await commit(engine, mean(2, over=True))
    tree, current = output(engine, nodes).tree, engine.ledger.current("263")
    assert current is not None
    turn = Turn(NEVER, engine.ledger.generation, engine.ledger.generation)
    sure, _ = over(turn, "263", current[1], tree, engine.ledger, (), 1)
    assert "city/v1/node/m-263/agg/hour" in sure
    assert over(turn, "263", current[1], tree, engine.ledger, (), 2)[0] == set(), "it was handed over: its own business"
    engine.close()

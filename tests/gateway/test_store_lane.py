"""The lane of alarms: before any backlog, once, with retained values that never step back, whatever breaks in between."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from paho.mqtt.client import topic_matches_sub

from gateway import backoff
from gateway.config import Broker, MqttOutputConfig
from gateway.core.model import OPEN, Alarm, Area, Column, Event, Node
from gateway.core.shape import Entry
from gateway.core.value import replace
from gateway.metrics import Metrics
from gateway.mqtt_session import MqttError
from gateway.outputs import track
from gateway.outputs.mark import mark_topic
from gateway.outputs.mqtt import MqttOutput, place_of
from gateway.outputs.retained import Tree
from gateway.outputs.sending import Sending
from gateway.store.engine import Engine, StoreError, Write
from gateway.store.memory import MemoryEngine
from gateway.store.sqlite import SqliteEngine
from tests.gateway.world import T0

CONFIG = MqttOutputConfig("city", Broker("nowhere", 1))
MARKET = {"market": Entry.area("market", OPEN, "bays")}
NODES = {263: Node(263, "n-263", b"", interval_s=600, visibility=OPEN)}


def report(n: int) -> Event:
    """The n-th minute's report."""
    t = T0 + 60 * n
    return Event("report", f"263:0:{n}", 263, "n-263", OPEN, t + 1.0, 600, n, times=(t,), columns=(Column("pm10", "ug/m3", (n,)),),
                 latest=((0, 0),), rssi=-n, online=False if n % 7 == 3 else None)  # fmt: skip


def alarm(n: int, state: Any = "raised") -> Event:
    """The n-th minute's alarm."""
    t = T0 + 60 * n
    told = Alarm(state, "above", "warning", "pm10", "ug/m3", n, 4, t, t, ("pm10-above",))
    return Event("alarm", f"263:0:{n}", 263, "n-263", OPEN, t + 1.0, 600, n, rssi=-n, online=True, alarm=told)


class Broker_(asyncio.Event):
    """Takes what is published, remembers what is retained, and acknowledges while `acks`; what it owes can be called. `die_after`: drop the connection after so many
    messages."""

    sent: ClassVar[list[tuple[str, bytes, bool]]] = []
    memory: ClassVar[dict[str, bytes]] = {}
    acks = True
    owed: ClassVar[list[Callable[[], None]]] = []
    die_after: ClassVar[int | None] = None
    up = True

    def __init__(self, *_: Any) -> None:
        super().__init__()
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.on_puback: Callable[[int], None] = lambda _mid: None
        self.on_pong: Callable[[int], None] = lambda _number: None
        self._pings = 0
        self.on_message: Callable[[str, bytes], None] = lambda _topic, _payload: None
        self.on_retained: Callable[[str, bytes], None] = lambda _topic, _payload: None
        self._topics: set[str] = set()
        self._mid = 0

    async def connect(self) -> None:
        if not Broker_.up:
            raise MqttError("away")

    async def subscribe(self, topic: str | list[tuple[str, int]], _qos: int = 0) -> None:
        for f in [topic] if isinstance(topic, str) else [f for f, _ in topic]:
            self._topics.add(f)
            for at, payload in list(Broker_.memory.items()):
                if payload and topic_matches_sub(f, at):
                    self.on_retained(at, payload)

    async def unsubscribe(self, topics: list[str]) -> None:
        self._topics.difference_update(topics)

    async def disconnect(self) -> None:
        if not self.closed.done():
            self.closed.set_result("disconnected")

    def ping(self) -> int:
        self._pings += 1
        if type(self).acks and not self.closed.done():
            asyncio.get_running_loop().call_soon(self.on_pong, self._pings)
        return self._pings

    def hold(self) -> None:
        return None

    def release(self) -> bool:
        return False

    def publish(
        self, topic: str, payload: bytes, qos: int = 0, retain: bool = False, first: bool = False
    ) -> int | None:
        if self.closed.done():
            return None
        cls = type(self)
        if topic.startswith("city/v1/node/") and "/probe/" not in topic:
            if cls.die_after is not None:
                if cls.die_after == 0:
                    cls.die_after = None
                    self.closed.set_result("died")
                    return None
                cls.die_after -= 1
            cls.sent.append((topic.removeprefix("city/v1/node/n-263/"), payload, retain))
        if retain:
            cls.memory[topic] = payload
        if any(topic_matches_sub(f, topic) for f in self._topics):
            asyncio.get_running_loop().call_soon(self.on_message, topic, payload)
        self._mid += 1
        if cls.acks:
            asyncio.get_running_loop().call_soon(self.on_puback, self._mid)
        else:
            cls.owed.append(partial(self.on_puback, self._mid))
        return self._mid


@pytest.fixture(autouse=True)
def broker(monkeypatch: pytest.MonkeyPatch) -> type[Broker_]:
    Broker_.sent, Broker_.memory, Broker_.acks, Broker_.owed, Broker_.die_after, Broker_.up = (
        [],
        {},
        True,
        [],
        None,
        True,
    )
    monkeypatch.setattr("gateway.outputs.mqtt.MqttSession", Broker_)
    monkeypatch.setattr(backoff, "FIRST_S", 0.01)
    monkeypatch.setattr(backoff, "LAST_S", 0.02)
    monkeypatch.setattr(track, "PERSIST_S", 0.01)
    return Broker_


@asynccontextmanager
async def output(engine: Engine, areas: Mapping[str, Entry] | None = None):  # type: ignore[no-untyped-def]
    await engine.ledger.keep_registry(NODES, areas or {}, T0)
    o = MqttOutput(CONFIG, "gw-1", engine, Metrics(), dict, NODES)
    task = asyncio.create_task(o.run())
    try:
        yield o
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def commit(engine: Engine, *events: Event) -> None:
    await engine.commit([Write(e.node, None, e) for e in events])


def told() -> list[str]:
    """Ids in order: of SenML packs and events."""
    out = []
    for topic, payload, _ in Broker_.sent:
        if topic in ("senml", "event"):
            body = json.loads(payload)
            out.append(body[0]["id"] if topic == "senml" else body["id"].removesuffix(":0"))
    return out


def values(topic: str) -> list[Any]:
    return [json.loads(p)["v"] if p.startswith(b"{") else p.decode() for t, p, _ in Broker_.sent if t == topic]


@pytest.fixture(params=["sqlite", "memory"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path):  # type: ignore[no-untyped-def]
    made = SqliteEngine(tmp_path / "g.db", ["city"]) if request.param == "sqlite" else MemoryEngine(["city"])
    yield made
    made.close()


async def test_alarms_of_an_outage_come_first_and_everything_comes_once(engine: Engine) -> None:
    events = [alarm(n, "cleared" if n == 900 else "raised") if n % 300 == 0 else report(n) for n in range(1, 1001)]
    await commit(engine, *events)
    async with output(engine) as o:
        await o.drain()
    ids = told()
    assert ids[:3] == ["263:0:300", "263:0:600", "263:0:900"], "raised, raised, cleared: in order among themselves"
    assert ids[3:] == [f"263:0:{n}" for n in range(1, 1001) if n % 300]
    assert engine.cursor("city") == 1000 and engine.express_cursor("city") == 900


async def test_what_an_alarm_said_is_not_undone_by_the_backlog_it_overtook(engine: Engine) -> None:
    Broker_.up = False
    async with output(engine) as o:
        await commit(engine, *[alarm(n) if n == 50 else report(n) for n in range(1, 101)])
        Broker_.up = True
        await o.drain()
    rssi = [-v for v in values("q/rssi")]
    assert rssi == sorted(rssi) and rssi[-1] == 100, "older ones are history, which SenML tells"
    assert values("state")[-1] == "offline", "of what came after the alarm"
    assert len(told()) == 100, "what is not retained is told in full"
    await commit(engine, replace(report(40), id="263:0:999", counter=999))
    async with output(engine) as o:
        await o.drain()
    assert [-v for v in values("q/rssi")][-1] == 40, "once the backlog is through, all is as ever"


@pytest.mark.parametrize("die_after", [0, 1, 5, 60, 200])
async def test_a_connection_that_dies_anywhere_loses_nothing_and_turns_nothing_back(
    engine: Engine, die_after: int
) -> None:
    await commit(engine, *[alarm(n) if n % 90 == 0 else report(n) for n in range(1, 201)])
    Broker_.die_after = die_after
    async with output(engine) as o:
        await o.drain()
        await o.resync.done.wait()
    assert set(told()) == {f"263:0:{n}" for n in range(1, 201)}
    rssi = [-v for v in values("q/rssi")]
    assert rssi == sorted(rssi) and rssi[-1] == 200


async def test_a_gateway_that_is_killed_in_a_backlog_repeats_few_and_goes_on_behind_its_alarms(tmp_path: Path) -> None:
    """What a kill leaves is the cursors on disk: neither lane may skip, and the older values stay unsaid."""
    engine = SqliteEngine(tmp_path / "g.db", ["city"])
    await commit(engine, *[alarm(n) if n % 90 == 0 else report(n) for n in range(1, 1001)])
    await engine.ack("city", 120, 990)
    engine.close()
    engine = SqliteEngine(tmp_path / "g.db", ["city"])
    async with output(engine) as o:
        await o.drain()
    ids = told()
    assert ids == [f"263:0:{n}" for n in range(121, 1001) if n % 90], "alarms that were taken do not come again"
    rssi = [-v for v in values("q/rssi")]
    assert set(rssi) == {1000}, "nothing older than what is current"
    engine.close()


async def test_more_alarms_than_the_span_all_come_and_the_spool_is_freed(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "g.db", ["city"])
    await commit(engine, *[alarm(n) if n % 2 else report(n) for n in range(1, 1201)])
    async with output(engine) as o:
        await o.drain()
    assert sorted(told(), key=lambda i: int(i[6:])) == [f"263:0:{n}" for n in range(1, 1201)]
    while await engine.purge(T0 + 60 * 1201 + 86_401):
        pass
    assert engine.fetch(0, 9) == [] and engine.newest() == 1200
    engine.close()


async def test_alarms_that_arrive_while_a_backlog_drains_pass_it(engine: Engine) -> None:
    Broker_.acks = False
    await commit(engine, *[report(n) for n in range(1, 600)])
    async with output(engine):
        await asyncio.sleep(0.1)
        await commit(engine, alarm(600))
        before = len(told())
        assert 0 < before < 599
    Broker_.acks = True
    async with output(engine) as o:
        await o.drain()
    after = told()[before:]
    assert after.index("263:0:600") <= 1, "the next thing to be told"
    assert set(told()) == {f"263:0:{n}" for n in range(1, 601)}


async def test_an_alarm_that_passes_what_is_newer_than_the_connection_is_not_undone_by_it(engine: Engine) -> None:
    """What is under way behind the connection publishes its retained topics itself; the alarm's are newer."""
    async with output(engine) as o:
        await o.resync.done.wait()  # a pass that came between would publish the newest first
        await commit(engine, *[report(n) for n in range(1, 200)])
        o.wake()
        Broker_.acks = False
        while not told():
            await asyncio.sleep(0)
        await commit(engine, alarm(200))  # acknowledgements wait for it: the window alone has gone out
        o.wake()
        Broker_.acks = True
        for puback in Broker_.owed:
            puback()
        await o.drain()
    rssi = [-v for v in values("q/rssi")]
    assert rssi == sorted(rssi) and rssi[-1] == 200 and len(rssi) > 10
    assert told().index("263:0:200") < 190, "it did pass them"
    assert list(dict.fromkeys(values("q/pm10"))) == list(range(1, 200)), "of other topics nothing is left out"
    assert values("state")[-1] == "online", "the reports before it said offline"


@pytest.mark.parametrize("end", ["personal", "open", "renamed"])
async def test_what_waits_of_a_node_that_has_left_is_shown_to_no_more_than_it_was_last(
    engine: Engine, end: str
) -> None:
    """An event keeps the circle that it was made in; the node was made personal before it was removed."""
    await engine.ledger.keep_registry(NODES, {}, T0)
    await commit(engine, report(1))
    last = {n: replace(node, visibility="open" if end == "open" else "personal") for n, node in NODES.items()}
    await engine.ledger.keep_registry(last, {}, T0)
    left = {n: replace(node, name="other") for n, node in last.items()} if end == "renamed" else {}
    await engine.ledger.keep_registry(left, {}, T0)
    o = MqttOutput(CONFIG, "gw-1", engine, Metrics(), dict, left)
    task = asyncio.create_task(o.run())
    try:
        await o.drain()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert bool(told()) == (end == "open")


async def test_events_that_are_filtered_do_not_stop_the_lane(engine: Engine) -> None:
    await commit(engine, *[replace(alarm(n), visibility="personal") for n in range(1, 20)], alarm(20), report(21))
    async with output(engine) as o:
        await o.drain()
    assert told() == ["263:0:20", "263:0:21"] or told()[-2:] == ["263:0:20", "263:0:21"]
    assert engine.cursor("city") == 21


async def test_what_an_area_said_last_is_not_retained_again_once_the_area_has_left(engine: Engine) -> None:
    """Its events may still be on their way when the registry, and the topics, no longer have it."""

    def lot(n: int) -> Event:
        area = Area("market", "lot", T0 + n, {"free": n})
        return Event("area", f"263:0:{n}:city:market-lot", 0, "market", OPEN, T0 + n + 1.0, 600, area=area)

    topic = "city/v1/area/market/lot"
    await engine.ledger.keep_registry(NODES, MARKET, T0)
    async with output(engine, MARKET) as o:
        await o.resync.done.wait()
        await commit(engine, lot(1))
        o.wake()
        await o.drain()
        assert json.loads(Broker_.memory[topic])["free"] == 1
        await engine.ledger.keep_registry(NODES, {}, T0)
        o.reload(NODES)
        async with asyncio.timeout(60):
            while Broker_.memory[topic]:
                await asyncio.sleep(0.01)
        await commit(engine, lot(2))
        o.wake()
        await o.drain()
        assert Broker_.memory[topic] == b""


@pytest.mark.parametrize("back", [False, True])
async def test_a_change_is_published_as_the_new_registry_has_it_whenever_the_ledger_is_looked_at(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    """The ledger notes a change before the outputs follow it; what they look up in between is not done with it."""
    monkeypatch.setattr("gateway.outputs.resync.LOOK_S", 0.01)
    topic = "city/v1/node/n-263/q/pm10"
    async with output(engine) as o:
        await o.resync.done.wait()
        await commit(engine, report(1))
        o.wake()
        await o.drain()
        for nodes in ({}, NODES) if back else ({},):
            await engine.ledger.keep_registry(nodes, {}, T0)
            await asyncio.sleep(0.1)
            o.reload(nodes)
            async with asyncio.timeout(60):
                while bool(Broker_.memory[topic]) != bool(nodes):
                    await asyncio.sleep(0.01)


async def test_a_change_that_did_not_reach_the_disk_has_no_number(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "g.db")
    await engine.ledger.keep_registry(NODES, {}, T0)

    def refuse(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.MonkeyPatch.context() as disk:
        disk.setattr(engine.ledger.folding, "flush", refuse)
        with pytest.raises(StoreError):
            await engine.ledger.keep_registry({}, {}, T0)
    assert engine.ledger.generation == 0
    assert await engine.ledger.keep_registry({}, {}, T0) == 1 and engine.ledger.generation == 1
    engine.close()


async def test_an_output_that_comes_back_while_another_empties_what_it_left_is_whole(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two outputs on one broker: the one that stays empties the topics of the one that was taken out, mark first."""
    ledger = engine.ledger
    city, portal = place_of(CONFIG), place_of(replace(CONFIG, name="portal", root="portal"))
    assert portal.now is not None
    both = {place.key: place for place in (city, portal)}
    tree = Tree(portal.now, "gw-1", NODES)
    state, mark = "portal/v1/gw/gw-1/state", mark_topic(tree, "portal")
    await ledger.keep_registry(NODES, {}, T0)
    await ledger.keep_places(both)
    await commit(engine, report(1), alarm(2))
    found = ledger.current("263")
    assert found is not None
    whole = {t: m.payload for t, m in tree.desired("263", found[1]).items()} | {state: b"online"}
    Broker_.memory |= whole | {mark: b"{}"}
    await ledger.keep_places({city.key: city})
    before: list[dict[str, bytes]] = []
    room = Sending.room

    async def comes_back(sending: Sending) -> None:
        await room(sending)
        if not before and b"" in (Broker_.memory[t] for t in (mark, *whole)):
            before.append(dict(Broker_.memory))
            await ledger.keep_places(both)
            o.reload(NODES)
            Broker_.memory |= whole

    monkeypatch.setattr(Sending, "room", comes_back)
    async with output(engine) as o:
        await o.resync.done.wait()
        await o.drain()
        await asyncio.sleep(0.1)
    assert before and before[0][mark] == b"", "who comes back without a mark publishes everything"
    assert {t: Broker_.memory[t] for t in whole} == whole
    assert ledger.places()[portal.key][1].now is not None

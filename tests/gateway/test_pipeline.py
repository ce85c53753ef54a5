"""The rim round the core, with a memory store: ack after commit (G1), copies, presence, the gateway's own duty cycle."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cbor2
import pytest
from motewire import codes, frame

from gateway.clock import HostClock
from gateway.core.dedupe import COPY_S
from gateway.core.follow import Follow, Follower
from gateway.core.model import Event, Node, Radio, Reception
from gateway.core.value import replace
from gateway.crypto import opener
from gateway.metrics import Metrics
from gateway.pipeline import Pipeline
from gateway.store.memory import MemoryEngine
from tests.gateway.world import T0, Mote

ROWS = [[3, 5, 5, 231, 631, 121]]


class Clock(HostClock):
    time = float(T0)

    def now(self) -> float:
        return self.time

    def elapsed(self) -> float:
        return self.time


@dataclass
class World:
    """A pipeline with one LoRa link that notes what it was told to send."""

    engine: MemoryEngine = field(default_factory=lambda: MemoryEngine(["city"]))
    clock: Clock = field(default_factory=Clock)
    metrics: Metrics = field(default_factory=Metrics)
    sent: list[tuple[Reception, bytes]] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    name: str = "lora"
    followers: tuple[Follower, ...] = ()

    def __post_init__(self) -> None:
        self.mote = Mote(263)
        self.nodes = {263: Node(263, "n-263", self.mote.key, interval_s=600)}
        self.pipeline = self.start()
        self.tmst = 0

    def start(self) -> Pipeline:
        pipeline = Pipeline(
            self.nodes, self.engine, self.clock, self.metrics, lambda: None, self.rejects.append, self.followers
        )
        pipeline.attach(self, 0.01)  # type: ignore[arg-type]
        return pipeline

    def send(self, to: Reception, node: int, frame: bytes) -> bool:
        self.sent.append((to, frame))
        return True

    def rx(self, data: bytes, receiver: str = "aa", rssi: int = -80, sf: int = 7, **changes: Any) -> Reception:
        self.tmst = self.tmst + 100_000 & 0xFFFFFFFF  # two transmissions are never as close as two copies
        rx = Reception(
            data, self.clock.time, "lora", receiver, rssi, 5.0, Radio(868_100_000, sf, 125_000, "4/5", self.tmst)
        )
        return replace(rx, **changes)

    async def take(self, data: bytes, **changes: Any) -> None:
        self.pipeline.deliver(self.rx(data, **changes))
        await self.pipeline.settle()

    def ids(self) -> list[str]:
        return [e.event.id for e in self.engine.fetch(0, 10_000)]


class Tally:
    """A follower that counts what each node sent, tells every second one, and once what the clock says."""

    name = "tally"

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.due = T0 + 100.0

    def load(self, notes: Mapping[str, bytes]) -> None:
        self.counts = {key: int(body) for key, body in notes.items()}

    def follow(self, node: Node, event: Event) -> Follow:
        key = f"tally:{node.id}"
        n = self.counts[key] = self.counts.get(key, 0) + 1
        events = (replace(event, id=f"{event.id}:tally:even", times=(), columns=()),) if n % 2 == 0 else ()
        return Follow(events, {key: b"%d" % n})

    def stepped(self, seconds: float) -> None: ...

    def tick(self, now: float) -> Follow:
        if now < self.due:
            return Follow()
        self.due = float("inf")
        return Follow(notes={"tally:noon": b"1"})


@pytest.fixture
async def world() -> World:
    return World()


async def test_nothing_is_acknowledged_that_was_not_committed(world: World) -> None:
    status = world.mote.status({1: 5})
    world.engine.failing = True
    await world.take(status)
    assert world.sent == [] and world.ids() == [] and world.metrics.refused["store_failed"] == 1
    world.engine.failing = False
    world.clock.time += 20
    await asyncio.sleep(0)
    await world.take(status)  # the node resends, and this time it is new
    assert world.ids() == ["263:0:1"] and len(world.sent) == 1
    assert world.mote.acked(world.sent[0][1]).covers(1)


async def test_what_follows_is_committed_with_its_frame_and_forgotten_with_it() -> None:
    tally = Tally()
    world = World(followers=(tally,))
    await world.take(world.mote.status({1: 5}))
    assert world.engine.note("tally:263") == b"1" and world.ids() == ["263:0:1"]
    world.engine.failing = True
    lost = world.mote.status({1: 6})
    await world.take(lost)
    assert tally.counts == {"tally:263": 1}, "the failed commit took its consequences along"
    world.engine.failing = False
    world.clock.time += 20
    await asyncio.sleep(0)
    await world.take(lost)
    await world.take(lost)
    assert world.ids() == ["263:0:1", "263:0:2", "263:0:2:tally:even"] and world.engine.note("tally:263") == b"2"
    again = Tally()
    Pipeline(world.nodes, world.engine, world.clock, world.metrics, lambda: None, world.rejects.append, (again,))
    assert again.counts == tally.counts


async def test_silence_and_the_clock_reach_followers_too() -> None:
    world = World(followers=(Tally(),))
    await world.take(world.mote.status({1: 5}))
    world.clock.time += 3 * 600 + 1
    world.pipeline.check_presence()
    world.pipeline.tick()
    world.pipeline.tick()
    await world.pipeline.settle()
    assert world.engine.notes("tally:") == {"tally:263": b"2", "tally:noon": b"1"}
    assert [i.rpartition(":")[2] for i in world.ids()] == ["1", str(T0 + 1801), "even"]


async def test_an_ack_leaves_only_after_its_commit(world: World) -> None:
    order: list[str] = []
    commit = world.engine.commit

    def slow(writes: Any) -> asyncio.Future[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def durable() -> None:
            commit(writes)
            order.append("committed")
            future.set_result(1)

        asyncio.get_running_loop().call_later(0.05, durable)
        return future

    world.engine.commit = slow  # type: ignore[method-assign]
    world.send = lambda to, node, frame: order.append("sent") or True  # type: ignore[method-assign, func-returns-value]
    await world.take(world.mote.status({1: 5}))
    assert order == ["committed", "sent"]


async def test_copies_are_one_event_answered_through_the_best_receiver(world: World) -> None:
    data = world.mote.status({1: 5})
    for receiver, rssi in (("aa", -100), ("bb", -70), ("cc", -90)):
        world.pipeline.deliver(world.rx(data, receiver, rssi))
    await world.pipeline.settle()
    (entry,) = world.engine.fetch(0, 10)
    assert (entry.event.receiver, entry.event.rssi, entry.event.copies) == ("bb", -70, 3)
    assert [rx.receiver for rx, _ in world.sent] == ["bb"]
    world.pipeline.deliver(world.rx(data, "dd", -60))  # a straggler after the commit is neither news nor a resend
    await world.pipeline.settle()
    assert len(world.sent) == 1 and world.metrics.totals["copies"] == 3


@pytest.mark.parametrize(
    ("key", "name", "good", "bad"),
    [
        (codes.STATUS_UPTIME_S, "uptime", (0, 86_400 * 365 * 20), (-5, 1 << 62)),
        (codes.STATUS_BATTERY, "battery_voltage", (0, 331, 6000), (-7, 6001, (1 << 63) - 1)),
        (codes.STATUS_TEMPERATURE, "board_temperature", (-40, 0, 125), (-(1 << 62), 1000)),
        (codes.STATUS_RSSI, "downlink_rssi", (-148, -3), (-5000, 500)),
        (codes.STATUS_BOOTS, "boots", (1, 4_000_000_000), (-1, 1 << 40)),
        (codes.STATUS_DRIFT, "clock_drift", (-40_000, 20), (1 << 40,)),
    ],
)
async def test_a_value_of_a_status_that_no_node_can_mean_is_left_out_and_counted(
    world: World, key: int, name: str, good: tuple[Any, ...], bad: tuple[Any, ...]
) -> None:
    for value in good:
        world.clock.time += 20
        await world.take(
            world.mote.seal(frame.STATUS, cbor2.dumps({key: value, codes.STATUS_HEAP_FREE: 50_000}, canonical=True))
        )
        assert world.engine.fetch(0, 99)[-1].event.status == {name: value, "heap_free": 50_000}
    assert not world.metrics.refused
    for n, value in enumerate(bad, 1):
        world.clock.time += 20
        await world.take(
            world.mote.seal(frame.STATUS, cbor2.dumps({key: value, codes.STATUS_HEAP_FREE: 50_000}, canonical=True))
        )
        assert world.engine.fetch(0, 99)[-1].event.status == {"heap_free": 50_000}, "the rest of it is right"
        assert world.metrics.refused == {"status_implausible": n} and len(world.sent) == len(good) + n


@pytest.mark.parametrize("wrong", [-119.0, -3.0, 1.5, 60.0, 119.0])
async def test_copies_are_known_by_when_they_come_whatever_time_receivers_write_on_them(
    world: World, wrong: float
) -> None:
    for n in range(1, 7):
        data = world.mote.status({1: n})
        world.pipeline.deliver(world.rx(data, "aa", -90))
        world.pipeline.deliver(world.rx(data, "bb", -70, received=world.clock.time + wrong))
        world.clock.time += 0.3
        await world.pipeline.settle()
        assert [rx.receiver for rx, _ in world.sent] == ["bb"] * n and world.metrics.totals["copies"] == n
        world.clock.time += 30
    assert not world.metrics.refused and len(world.engine.airtime(0)) == 6, "each is on air once"


@pytest.mark.parametrize("late", [0.3, 1.2, 2.5, COPY_S])
async def test_a_copy_that_is_seconds_late_is_no_repeat_of_the_node(world: World, late: float) -> None:
    """A receiver behind a mobile uplink."""
    data = world.mote.status({1: 1})
    await world.take(data, receiver="aa")
    world.clock.time += late
    await world.take(data, receiver="bb", rssi=-60)
    assert [rx.receiver for rx, _ in world.sent] == ["aa"] and not world.metrics.refused
    world.clock.time += 8.0 - late  # 1 s of listening, and the shortest pause of mote.uplink
    await world.take(data, receiver="bb")
    assert [rx.receiver for rx, _ in world.sent] == ["aa", "bb"], "its own repeat is answered again"


async def test_receivers_of_different_times_give_a_node_no_more_than_its_rate(world: World) -> None:
    """Each change from one to the other would refill its bucket by their difference."""
    world.pipeline.limit(5, 0.01)
    for n in range(40):
        world.clock.time += 0.01
        await world.take(world.mote.report(T0 + n, ROWS), received=world.clock.time + 100 * (n % 2))
    assert world.metrics.refused["rate_limited"] >= 30


async def test_a_datagram_twice_is_a_copy_and_a_resend_gets_its_ack_again(world: World) -> None:
    rx = world.rx(world.mote.status({1: 5}))
    for _ in range(2):
        world.pipeline.deliver(rx)
        await world.pipeline.settle()
    assert len(world.sent) == 1
    world.clock.time += 15
    await world.take(rx.data)
    assert len(world.sent) == 2 and len(world.ids()) == 1 and world.metrics.refused["replayed"] == 1
    assert world.sent[0][1] != world.sent[1][1], "a downlink counter is never used twice"


async def test_a_backlog_in_any_order_is_taken_once(world: World) -> None:
    frames = [world.mote.report(T0 + i, ROWS) for i in range(200)]
    for i in (*range(0, 200, 3), *range(199, -1, -1), *range(200)):
        world.clock.time += 2
        await world.take(frames[i])
    assert sorted(world.ids(), key=lambda x: int(x[6:])) == [f"263:0:{c}" for c in range(1, 201)]
    assert world.mote.acked(world.sent[-1][1]).next == 201


async def test_the_gateways_own_duty_cycle_is_kept_and_refusals_are_counted(world: World) -> None:
    for _ in range(60):
        world.clock.time += 10
        await world.take(world.mote.status({1: 5}), sf=12)
    airtime = sum(row[3] for row in world.engine.airtime(0))
    assert airtime <= 36_000_000 and world.metrics.refused["duty_cycle"] == 60 - len(world.sent) > 0
    assert len(world.ids()) == 60, "a missing ack loses nothing"
    world.clock.time += 4000
    await world.take(world.mote.status({1: 5}), sf=12)
    again = Pipeline({}, world.engine, world.clock, Metrics(), lambda: None, lambda _: None)
    assert again.downlinks.ledgers["aa"].used_us(2, int(world.clock.time * 1e6) + 2_000_000) > 0


async def test_the_time_downlink_says_what_time_it_is_when_it_arrives(world: World) -> None:
    await world.take(world.mote.status({1: 5}), sf=12)
    assert world.mote.open(world.sent[0][1])[3] == T0 + 2  # 1 s to the window and 1.48 s for 24 bytes at SF12


async def test_garbage_strangers_and_forgers_are_counted_and_reach_nothing(world: World) -> None:
    m = world.mote
    good = m.report(T0, ROWS)
    forged = good[:-1] + bytes((good[-1] ^ 1,))
    for data in (
        b"",
        b"hello",
        bytes(40),
        good[:12],
        forged,
        Mote(99).report(T0, ROWS),
        b"\x80" + good[1:],
        good + b"\0",
    ):
        world.clock.time += 2
        await world.take(data)
    assert world.ids() == [] and world.sent == []
    assert world.metrics.refused == {"too_short": 3, "bad_version": 2, "bad_tag": 2, "unknown_node": 1}
    assert [reason for reason, _ in world.engine.quarantined] == ["bad_version"] * 2
    assert {"reason": "bad_tag", "link": "lora", "node": "n-263"} in world.rejects
    assert not any(key in str(world.rejects) for key in (m.key.hex(), good.hex()))


async def test_a_silent_node_goes_offline_once_and_comes_back(world: World) -> None:
    await world.take(world.mote.report(T0, ROWS))
    for step in (1000, 790, 20, 500):
        world.clock.time += step
        world.pipeline.check_presence()
        await world.pipeline.settle()
    assert [e.event.online for e in world.engine.fetch(0, 10)] == [True, False]
    await world.take(world.mote.report(T0, ROWS))
    assert world.engine.fetch(0, 10)[-1].event.online is True


async def test_a_node_that_fell_silent_while_it_was_out_of_the_registry_is_offline_when_it_is_back(
    world: World,
) -> None:
    nodes = {263: Node(263, "n-263", world.mote.key, interval_s=600)}
    await world.take(world.mote.report(T0, ROWS))
    await world.pipeline.use({})
    world.clock.time += 4000
    world.pipeline.check_presence()
    await world.pipeline.use(nodes)
    world.pipeline.check_presence()
    await world.pipeline.settle()
    assert [e.event.online for e in world.engine.fetch(0, 10) if e.event.online is not None] == [True, False]


async def test_a_node_whose_interval_is_made_shorter_is_expected_sooner(world: World) -> None:
    nodes = {263: Node(263, "n-263", world.mote.key, interval_s=600)}
    await world.take(world.mote.report(T0, ROWS))
    await world.pipeline.use({263: replace(nodes[263], interval_s=60)})
    world.clock.time += 600
    for _ in range(2):  # told once
        world.pipeline.check_presence()
        await world.pipeline.settle()
    assert [e.event.online for e in world.engine.fetch(0, 10) if e.event.online is not None] == [True, False]
    await world.pipeline.use(nodes)
    await world.take(world.mote.report(T0, ROWS))
    world.clock.time += 600
    world.pipeline.check_presence()
    await world.pipeline.settle()
    assert world.engine.fetch(0, 10)[-1].event.online is True, "its interval is longer again"


async def test_a_restarted_gateway_knows_who_is_online_and_what_was_taken(world: World) -> None:
    data = world.mote.report(T0, ROWS)
    await world.take(data)
    second = World(engine=world.engine)
    second.mote.key = world.mote.key
    second.pipeline = Pipeline(
        {263: Node(263, "n-263", world.mote.key, interval_s=600)},
        world.engine,
        second.clock,
        second.metrics,
        lambda: None,
        lambda _: None,
    )
    second.pipeline.attach(second, 0.0)  # type: ignore[arg-type]
    await second.take(data)
    assert second.metrics.refused["replayed"] == 1 and len(second.ids()) == 1
    second.clock.time += 5000
    second.pipeline.check_presence()
    await second.pipeline.settle()
    assert second.engine.fetch(0, 10)[-1].event.online is False


@pytest.mark.parametrize("away_s", [0, 4 * 3600, 2 * 365 * 86_400])
async def test_time_in_which_no_gateway_listened_makes_no_node_silent(world: World, away_s: int) -> None:
    """It was not there, or its clock is years ahead at the start: no node had a chance to be heard."""
    await world.take(world.mote.report(T0, ROWS))
    second = World(engine=world.engine, clock=world.clock)
    second.nodes[263] = replace(second.nodes[263], key=world.mote.key)
    world.clock.time += away_s
    second.pipeline = second.start()
    for seconds, online in ((5, True), (1700, True), (400, False)):
        world.clock.time += seconds
        second.pipeline.check_presence()
        await second.pipeline.settle()
        last = second.engine.fetch(0, 10)[-1].event
        assert (last.online is not False) == online, seconds


async def test_a_node_heard_behind_a_start_is_silent_by_what_was_heard_then(world: World) -> None:
    await world.take(world.mote.report(T0, ROWS))
    second = World(engine=world.engine, clock=world.clock)
    second.nodes[263] = replace(second.nodes[263], key=world.mote.key)
    world.clock.time += 86_400
    second.pipeline = second.start()
    world.clock.time += 1700
    await second.take(world.mote.report(T0 + 86_400, ROWS))
    for seconds, online in ((1000, True), (1100, False)):
        world.clock.time += seconds
        second.pipeline.check_presence()
        await second.pipeline.settle()
        assert (second.engine.fetch(0, 10)[-1].event.online is not False) == online


async def test_a_frame_from_below_the_floor_is_kept_once_and_the_node_lets_go_of_it(world: World) -> None:
    await world.take(world.mote.report(T0, ROWS, counter=60_000, long=True))
    old = world.mote.report(T0 - 600, ROWS, counter=5, long=True)
    for again in (1, 2):
        world.clock.time += 20
        await world.take(old)
        assert world.ids() == ["263:0:60000", "263:0:5"], "told once"
        ack = world.mote.acked(world.sent[-1][1])
        assert ack.covers(5) and not ack.covers(4) and not ack.covers(6)
        assert world.metrics.totals["below_floor"] == again


async def test_a_forged_frame_costs_one_tag_check_and_an_unknown_node_or_a_wrong_slot_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = 0

    def counted(*sealed: bytes) -> bytes | None:
        nonlocal tried
        tried += 1
        return opener(*sealed)

    monkeypatch.setattr("gateway.crypto.opener", counted)
    forger = Mote(263)
    for _ in range(500):
        await world.take(forger.report(T0, ROWS))
    assert tried == 500 and world.metrics.refused == {"bad_tag": 500}
    await world.take(world.mote.report(T0, ROWS))
    assert world.ids() == ["263:0:1"], "the node's own frame gets in at its first try"
    before = tried
    await world.take(Mote(999).report(T0, ROWS))
    await world.take(replace(world.mote, epoch=1).report(T0, ROWS))
    assert tried == before, "an unknown node and a wrong slot cost no tag check"


async def test_a_node_is_given_its_next_key_and_found_under_it_also_after_a_restart(world: World) -> None:
    key = bytes(range(16))
    world.nodes[263] = replace(world.nodes[263], next_key=key, next_epoch=1)
    await world.take(world.mote.status({1: 5}))
    assert world.mote.open(world.sent[-1][1])[9] == [1, key] and world.metrics.totals["rekey_offers"] == 1
    old = world.mote.report(T0, ROWS)
    changed = Mote(263, key, 1)
    await world.take(changed.status({1: 6}, long=True))
    assert 9 not in changed.open(world.sent[-1][1]), "sealed with the new key, and no longer offered"
    world.pipeline = world.start()  # from what was committed
    await world.take(old)
    assert world.metrics.refused["wrong_epoch"] == 1
    await world.take(changed.status({1: 7}))
    assert changed.acked(world.sent[-1][1]).covers(2)
    assert key.hex() not in repr(world.nodes) and repr(key) not in repr(world.nodes)


async def test_the_next_key_is_left_out_where_it_does_not_fit_the_frame(world: World) -> None:
    world.nodes[263] = replace(world.nodes[263], next_key=bytes(range(16)), next_epoch=1)
    world.mote.counter = 70_000
    for n in (2, 2, 2):  # every other frame is missing: the ack is at its longest
        world.mote.counter += n
        await world.take(world.mote.report(T0, ROWS, long=True), sf=12)
    world.mote.counter += 2
    await world.take(world.mote.status({1: 5}), sf=12)
    assert len(world.sent[-1][1]) <= 51 and {3} <= world.mote.open(world.sent[-1][1]).keys()

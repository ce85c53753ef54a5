"""Who has no key decides nothing for who has: recorded and forged frames beside an honest node, in virtual time.

A stranger here has everything but a key: a radio near the receiver, the packet forwarder's port, the WiFi nodes' broker password,
and every frame that was ever on air.
"""

from __future__ import annotations

import gc
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from motewire.codes import DOWN_COMMAND, DOWN_CONFIG, DOWN_NEXT
from motewire.frame import REPORT

from gateway.core.airtime import HOUR_US, time_on_air_us
from gateway.core.commands import Desk
from gateway.core.decide import authenticate
from gateway.core.model import Event, Node, NodeState, Reception
from gateway.core.rate import Rates
from gateway.core.repeats import FIRST_S, LONGEST_S
from gateway.downlinks import REPEAT_SHARE
from gateway.outputs import native, senml
from gateway.pipeline import Pipeline
from gateway.work import Work
from tests.gateway.desk_bench import iso
from tests.gateway.test_commands_pipeline import POLICY
from tests.gateway.test_pipeline import ROWS, World
from tests.gateway.world import T0, Mote

BAND_US = HOUR_US // 100


@dataclass
class Broker:
    """The WiFi nodes' link: notes what it was asked to send."""

    name: str = "wifi"
    sent: list[tuple[Reception, bytes]] = field(default_factory=list)

    def send(self, to: Reception, node: int, frame: bytes) -> bool:
        self.sent.append((to, frame))
        return True


@dataclass
class Street(World):
    """One honest node, 263, a LoRa link and a WiFi link; 264 is another node. Answers are found by the reception they answer."""

    rates: Rates | None = None
    wifi: Broker = field(default_factory=Broker)
    asked: int = 0

    def start(self) -> Pipeline:
        self.other = Mote(264)
        self.nodes[264] = Node(264, "n-264", self.other.key, interval_s=600)
        self.desk = Desk(self.nodes, POLICY)
        self.pipeline = Pipeline(
            self.nodes, self.engine, self.clock, self.metrics, lambda: None, self.rejects.append, desk=self.desk,
            rates=self.rates,
        )  # fmt: skip
        self.pipeline.attach(self, 0.0)  # type: ignore[arg-type]
        self.pipeline.attach(self.wifi, 0.0)  # type: ignore[arg-type]
        return self.pipeline

    def over_mqtt(self, data: bytes) -> Reception:
        return Reception(data, self.clock.time, "wifi", "broker")

    async def hear(self, rx: Reception) -> dict[int, Any] | None:
        """Deliver a reception and return what the answer to it says, None when there is none."""
        sent = self.wifi.sent if rx.radio is None else self.sent
        before = len(sent)
        self.pipeline.deliver(rx)
        await self.pipeline.settle()
        found = [data for to, data in sent[before:] if to.radio == rx.radio and to.receiver == rx.receiver]
        return self.mote.open(found[0]) if found else None

    async def speak(self, data: bytes, wait: float = 1.0, **changes: Any) -> dict[int, Any] | None:
        """The honest node sends a frame by LoRa; return its answer."""
        self.clock.time += wait
        return await self.hear(self.rx(data, **changes))

    async def ask(self, name: str, *args: Any, expires: float = 80_000, **more: Any) -> None:
        self.asked += 1
        body = {"id": f"r{self.asked}", "name": name, "requester": "ana", "args": list(args),
                "expires": iso(self.clock.time + expires), **more}  # fmt: skip
        assert self.pipeline.ask("ana", "n-263", json.dumps(body).encode()) == "accepted"
        await self.pipeline.settle()

    def airtime(self) -> int:
        return sum(row[3] for row in self.engine.airtime(0))

    def events(self) -> list[Event]:
        return [e.event for e in self.engine.fetch(0, 1 << 20)]


@pytest.fixture
async def street() -> Street:
    return Street()


def forged(n: int) -> bytes:
    """A frame under the honest node's id by someone without its key, of any kind, with short or whole counters."""
    forger = Mote(263)
    forger.counter = n * 7 % 60_000
    if n % 3 == 0:
        return forger.alarm(2, T0, 6, 181, 150)
    return forger.report(T0, ROWS, long=True) if n % 3 == 1 else forger.status({1: n})


# every rate


@pytest.mark.parametrize("per_s", [1, 10, 100])
async def test_beside_forged_and_recorded_frames_every_alarm_is_answered_at_its_first_try(per_s: int) -> None:
    street = Street(rates=Rates(20, 1))
    recorded = [street.mote.status({1: 5}), street.mote.alarm(2, T0, 6, 181, 150)]
    recorded += [street.mote.report(T0 + i, ROWS) for i in range(5)]
    for data in recorded:
        await street.speak(data)
    answered = len(street.sent)
    n = 0
    for second in range(60):
        street.clock.time += 1
        for _ in range(per_s):
            n += 1
            data = forged(n) if n % 2 else recorded[n // 2 % len(recorded)]
            if n % 5 == 0:
                rx = street.over_mqtt(data)
            else:
                rx = street.rx(data, "aa" if n % 3 else "zz", rssi=-80 + n % 40, sf=7 + n % 6)
            street.pipeline.deliver(rx)
        await street.pipeline.settle()
        if second % 15 == 14:
            alarm = street.mote.alarm(2 if second % 2 else 1, T0 + second, 6, 181, 150)
            answer = await street.speak(alarm, wait=0.0)
            assert answer is not None and answer[DOWN_NEXT] == street.mote.counter + 1, street.metrics.refused
    refused, copies = street.metrics.refused, street.metrics.totals["copies"]
    assert refused.keys() == {"bad_tag", "replayed"}
    assert refused["bad_tag"] + refused["replayed"] + copies == 60 * per_s and copies < per_s
    assert len(street.sent) - answered <= 4 + 4 * 4 * 2, "an alarm each, and a few repeats after each of them"
    assert len(street.events()) == 7 + 4


async def test_recorded_and_forged_frames_do_not_change_what_is_known_of_a_node(street: Street) -> None:
    data = [street.mote.report(T0, ROWS), street.mote.status({1: 5, 3: 1})]
    for d in data:
        await street.speak(d)
    street.clock.time += 5000
    street.pipeline.check_presence()
    await street.pipeline.settle()
    assert [e.online for e in street.events()][-1] is False
    before, state = len(street.events()), street.engine.load(263)
    assert state is not None
    for n in range(60):
        street.clock.time += 7
        street.pipeline.deliver(street.rx(data[n % 2]))
        street.pipeline.deliver(street.over_mqtt(data[n % 2]))
        street.pipeline.deliver(street.rx(forged(n)))
        await street.pipeline.settle()
    after = street.engine.load(263)
    assert after is not None and after.down > state.down, "some were answered"
    assert len(street.events()) == before, "offline stays offline, and nothing is published"
    assert (after.heard, after.online, after.latest, after.replay) == (state.heard, False, state.latest, state.replay)


async def test_a_frame_from_below_the_floor_says_nothing_of_presence_or_signal_strength(street: Street) -> None:
    await street.speak(street.mote.report(T0, ROWS, counter=60_000, long=True))
    street.clock.time += 5000
    street.pipeline.check_presence()
    old = street.mote.report(T0 - 600, ROWS, counter=5, long=True)
    street.pipeline.deliver(street.rx(old, "aa", -30))
    street.pipeline.deliver(street.rx(old, "bb", -20))
    await street.pipeline.settle()
    told = street.events()[-1]
    assert told.counter == 5 and told.copies == 2 and (told.rssi, told.snr, told.online) == (None, None, None)
    assert not [m for m in native.messages(told, "city") if m.retain]


# where a node listens


async def test_the_orders_of_a_lora_node_are_not_taken_by_a_replay_over_mqtt(street: Street) -> None:
    recorded = street.mote.status({1: 5})
    await street.speak(recorded)
    await street.ask("identify", 30)
    by_lora = 0
    for _ in range(12):
        street.clock.time += 10
        await street.hear(street.over_mqtt(recorded))
        street.pipeline.tick()
        await street.pipeline.settle()
        answer = await street.speak(street.mote.status({1: 6}))
        assert answer is not None
        by_lora += DOWN_COMMAND in answer
    assert street.wifi.sent and not any(DOWN_COMMAND in street.mote.open(f) for _, f in street.wifi.sent)
    command = street.desk.get("ana", "r1")
    assert by_lora == 3 and command is not None and command.sends == 3, "at once, and after 20 and 40 s"


async def test_a_wifi_node_replayed_by_radio_still_gets_its_orders_at_once(street: Street) -> None:
    data = street.mote.status({1: 5})
    await street.hear(street.over_mqtt(data))
    street.clock.time += 30
    answer = await street.hear(street.rx(data))
    assert answer is not None and DOWN_COMMAND not in answer, "acknowledged: it might be the node"
    street.wifi.sent.clear()
    await street.ask("identify", 30)
    assert [street.mote.open(f)[DOWN_COMMAND][1] for _, f in street.wifi.sent] == ["identify"]


async def test_a_node_that_falls_back_to_wifi_is_acknowledged_there_and_then_ordered_there(street: Street) -> None:
    data = street.mote.status({1: 5})
    await street.speak(data)
    await street.ask("identify", 30)
    street.clock.time += 20
    answer = await street.hear(street.over_mqtt(data))  # the ack was lost, and it tries the other way
    assert answer is not None and answer[DOWN_NEXT] == 2 and DOWN_COMMAND not in answer
    street.clock.time += 5
    answer = await street.hear(street.over_mqtt(street.mote.status({1: 6})))
    assert answer is not None and DOWN_COMMAND in answer
    street.clock.time += 30
    street.pipeline.tick()
    await street.pipeline.settle()
    assert DOWN_COMMAND in street.mote.open(street.wifi.sent[-1][1])


async def test_a_frame_that_was_missed_and_is_brought_late_by_a_stranger_does_not_move_the_bearer(
    street: Street,
) -> None:
    missed = street.mote.status({1: 5})
    await street.speak(street.mote.status({1: 6}))
    await street.ask("identify", 30)
    answer = await street.hear(street.over_mqtt(missed))
    assert "263:0:1" in street.ids(), "it is news, and is kept"
    assert answer is not None and DOWN_COMMAND not in answer
    street.pipeline.tick()
    await street.pipeline.settle()
    assert len(street.wifi.sent) == 1
    answer = await street.speak(street.mote.status({1: 7}))
    assert answer is not None and DOWN_COMMAND in answer


async def test_a_replay_on_the_nodes_own_way_burns_no_round_and_delays_no_order(street: Street) -> None:
    recorded = street.mote.status({1: 5})
    await street.speak(recorded)
    await street.ask("valve", "close", reason="leak")
    in_time = 0
    for _ in range(40):
        street.clock.time += 59
        await street.speak(recorded, wait=0.0)  # a second before the node speaks
        answer = await street.speak(street.mote.status({1: 6}))
        assert answer is not None
        in_time += DOWN_COMMAND in answer
        command = street.desk.get("ana", "r1")
        assert command is not None and command.rounds == in_time and command.open
    assert in_time >= 5, "as often as without the stranger: after 20, 40, 80 ... s"
    quiet = Street()
    await quiet.speak(quiet.mote.status({1: 5}))
    await quiet.ask("valve", "close", reason="leak")
    alone = 0
    for _ in range(40):
        answer = await quiet.speak(quiet.mote.status({1: 6}), wait=60.0)
        alone += answer is not None and DOWN_COMMAND in answer
    assert in_time == alone


async def test_a_repeat_through_another_receiver_is_acknowledged_and_carries_no_order(street: Street) -> None:
    recorded = street.mote.status({1: 5})
    await street.speak(recorded)
    await street.ask("identify", 30)
    answer = await street.speak(recorded, wait=30.0, receiver="zz")
    assert answer is not None and DOWN_COMMAND not in answer
    answer = await street.speak(recorded, wait=30.0)
    assert answer is not None and answer[DOWN_COMMAND][1] == "identify", "its own repeat carries it"


@pytest.mark.parametrize("size", [250, 500])
async def test_a_configuration_in_pieces_arrives_whole_whatever_is_replayed_between(street: Street, size: int) -> None:
    recorded = street.mote.status({1: 5})
    await street.speak(recorded)
    await street.ask("config", args={"sensors": {"x": {"y" * size: 1}}})
    got: dict[int, bytes] = {}
    for _ in range(4):
        street.clock.time += 60
        await street.speak(recorded, wait=0.0)
        answer = await street.speak(street.mote.status({1: 6}))
        if answer is not None and DOWN_CONFIG in answer:
            _, i, n, piece = answer[DOWN_CONFIG][17]
            got[i] = piece
            assert n == size // 125
            if len(got) == n:
                break
    assert json.loads(b"".join(got[i] for i in sorted(got)))["sensors"]["x"] == {"y" * size: 1}


async def test_without_its_news_since_the_start_a_repeat_carries_no_order(street: Street) -> None:
    recorded = street.mote.status({1: 5})
    await street.speak(recorded)
    street.start()
    await street.ask("identify", 30)
    answer = await street.speak(recorded, wait=30.0)
    assert answer is not None and DOWN_COMMAND not in answer
    assert DOWN_COMMAND in (await street.speak(street.mote.status({1: 6})) or {})


# repeats


@pytest.mark.parametrize(
    "elsewhere", [{"receiver": "zz"}, {"rssi": -40}, {"sf": 12}, {"link": "wifi", "receiver": "broker", "radio": None}]
)
@pytest.mark.parametrize("per_s", [1, 10, 100])
async def test_a_node_whose_ack_was_lost_gets_it_at_its_next_try_though_a_stranger_repeats_its_frame(
    elsewhere: dict[str, Any], per_s: int
) -> None:
    street = Street()
    data = street.mote.alarm(2, T0, 6, 181, 150)
    await street.speak(data)  # the answer is not heard
    for tries in range(3):
        for _ in range(22):
            street.clock.time += 1
            for _ in range(per_s):
                street.pipeline.deliver(street.rx(data, **elsewhere))
            await street.pipeline.settle()
        street.clock.time += 1.5 + 15 * tries
        assert await street.speak(data, wait=0.0) is not None, f"try {tries + 2}"


async def test_answers_to_repeats_come_at_pauses_that_double_and_fit_a_node_that_keeps_trying(street: Street) -> None:
    data = street.mote.status({1: 5})
    await street.speak(data)
    answered, start = [], street.clock.time
    for _ in range(3600):
        if await street.speak(data):
            answered.append(street.clock.time - start)
    pauses = [b - a for a, b in zip(answered, answered[1:], strict=False)]
    assert answered[0] == 1 and pauses == [FIRST_S * 2**i for i in range(6)] + [LONGEST_S] * 2
    assert await street.speak(street.mote.status({1: 6})), "news is answered at once"
    assert await street.speak(data), "and pauses begin anew"
    # mote.uplink: half of 15, 30, 60 ... at least between one try and the next
    honest = street.mote.status({1: 7})
    assert await street.speak(honest)
    for n in range(8):
        assert await street.speak(honest, wait=max(min(15 << n, 1800) / 2, 1.0) + 1.0) is not None, n


async def test_who_cannot_be_told_from_the_node_delays_a_repeat_at_most_by_the_longest_pause_and_news_by_nothing(
    street: Street,
) -> None:
    data = street.mote.status({1: 5})
    await street.speak(data)
    for _ in range(7200):
        street.clock.time += 1
        street.pipeline.deliver(street.rx(data))
    await street.pipeline.settle()
    assert await street.speak(street.mote.alarm(2, T0, 6, 181, 150)) is not None
    tries = 0
    while await street.speak(data, wait=60.0) is None:
        tries += 1
    assert tries * 60 <= LONGEST_S


async def test_a_repeat_that_is_not_answered_costs_no_commit_and_no_downlink_counter(street: Street) -> None:
    data = street.mote.status({1: 5})
    await street.speak(data)
    await street.speak(data)
    state, commits = street.engine.load(263), street.engine.transactions
    for _ in range(200):
        street.pipeline.deliver(street.over_mqtt(data))
        street.pipeline.deliver(street.rx(data))
    await street.pipeline.settle()
    assert street.engine.transactions == commits + 1, "one: over MQTT it was answered once"
    after = street.engine.load(263)
    assert state is not None and after is not None and after.down == state.down + 1


async def test_recorded_frames_from_below_the_floor_spend_nothing_of_the_node() -> None:
    street = Street(rates=Rates(20, 1))
    recorded = [street.mote.report(T0 - 3600, ROWS, counter=k) for k in range(1, 31)]
    for data in recorded:
        await street.speak(data, wait=2.0)
    await street.speak(street.mote.report(T0, ROWS, counter=20_000, long=True))
    street.clock.time += 60
    for _ in range(3):
        for data in recorded:
            street.pipeline.deliver(street.rx(data))
            street.clock.time += 0.01
    await street.pipeline.settle()
    before = len(street.events())
    for n in range(19):
        await street.speak(street.mote.report(T0 + n, ROWS, counter=20_001 + n), wait=0.0)
    assert len(street.events()) == before + 19, street.metrics.refused


async def test_a_backlog_from_below_the_floor_drains_though_its_first_frames_are_replayed(street: Street) -> None:
    await street.speak(street.mote.report(T0, ROWS, counter=60_000, long=True))
    backlog = [street.mote.report(T0 - 90_000 + k, ROWS, counter=k, long=True) for k in range(1, 61)]
    for n, data in enumerate(backlog):
        assert await street.speak(data) is not None, n
        for old in backlog[:n]:
            street.pipeline.deliver(street.rx(old, "zz"))
    assert len(street.events()) == 61


# the duty cycle


async def test_one_recorded_frame_does_not_use_up_the_air_of_others(street: Street) -> None:
    recorded = street.mote.status({1: 5})
    await street.speak(recorded, sf=12)
    used = street.airtime()
    for n in range(3600):
        street.clock.time += 1
        rx = street.rx(recorded, "aa", rssi=-100 + n % 80, sf=12)
        street.pipeline.deliver(rx)
    await street.pipeline.settle()
    assert 0 < street.airtime() - used <= REPEAT_SHARE * BAND_US
    before = len(street.sent)
    for n in range(20):
        street.pipeline.deliver(street.rx(street.other.alarm(2, T0 + n, 2, 181, 150), sf=12))
    await street.pipeline.settle()
    assert len(street.sent) == before + 20, "twenty fresh alarms of another node are all answered"


async def test_repeats_of_many_nodes_share_a_fifth_and_news_keeps_the_rest() -> None:
    street = Street()
    motes = [Mote(1000 + i) for i in range(60)]
    street.nodes |= {m.id: Node(m.id, f"n-{m.id}", m.key) for m in motes}
    recorded = [m.status({1: 5}) for m in motes]
    for data in recorded:
        street.pipeline.deliver(street.rx(data, sf=7))
    await street.pipeline.settle()
    used = street.airtime()
    for _ in range(20):
        street.clock.time += 100
        for data in recorded:
            street.pipeline.deliver(street.rx(data, sf=12))
        await street.pipeline.settle()
    repeats = street.airtime() - used
    assert REPEAT_SHARE * BAND_US - 1_500_000 < repeats <= REPEAT_SHARE * BAND_US
    assert street.metrics.refused["duty_cycle"] > 0


async def test_reports_leave_a_tenth_of_the_air_to_alarms(street: Street) -> None:
    street.clock.time += 2
    for _ in range(60):
        street.clock.time += 10
        await street.take(street.mote.status({1: 5}), sf=12)
    refused = street.metrics.refused["duty_cycle"]
    assert refused > 0 and street.airtime() <= 0.9 * BAND_US
    assert await street.speak(street.mote.alarm(2, T0, 6, 181, 150), sf=12) is not None
    assert street.airtime() > 0.9 * BAND_US and street.metrics.refused["duty_cycle"] == refused


async def test_a_receivers_time_of_reception_does_not_empty_the_ledger(street: Street) -> None:
    for _ in range(60):
        street.clock.time += 10
        await street.take(street.mote.status({1: 5}), sf=12)
    rx = street.rx(street.mote.status({1: 6}), sf=12, received=street.clock.time + 290)
    far = street.rx(street.mote.status({1: 7}), sf=12, received=street.clock.time + 7200)
    assert await street.hear(rx) is None and await street.hear(far) is None
    assert street.airtime() <= BAND_US


async def test_the_airtime_booked_is_that_of_the_frame_that_leaves_also_for_large_node_ids(street: Street) -> None:
    big = Mote(0x12345678)
    street.nodes[big.id] = Node(big.id, "big", big.key)
    for mote in (street.mote, big):
        for sf in range(7, 13):  # some of them end a symbol within two bytes
            before, sent = street.airtime(), len(street.sent)
            street.clock.time += 3601
            await street.take(mote.status({1: 5}), sf=sf)
            ((_, data),) = street.sent[sent:]
            assert street.airtime() - before == time_on_air_us(len(data), sf), (len(data), sf)


# forged frames


async def test_forged_frames_are_named_in_health_and_metrics_and_refuse_nothing(street: Street) -> None:
    for n in range(25):
        street.clock.time += 1
        street.pipeline.deliver(street.rx(forged(n), "zz"))
    (problem,) = street.pipeline.problems()
    assert problem.code == "forgery" and problem.level == "degraded"
    assert "n-263" in problem.text and "lora" in problem.text and "zz" in problem.text and "25 " in problem.text
    assert street.metrics.bad_tags == {"n-263": 25}
    assert street.mote.key.hex() not in problem.text
    await street.speak(street.mote.report(T0, ROWS))
    assert street.ids() == ["263:0:1"]
    street.clock.time += 301
    assert list(street.pipeline.problems()) == []
    for _ in range(10):  # a wrong key in the registry: some frames an hour
        street.clock.time += 60
        street.pipeline.deliver(street.rx(Mote(264).report(T0, ROWS)))
    assert list(street.pipeline.problems()) == []


async def test_a_flood_of_forged_frames_meets_the_bound_of_its_link_and_alarms_get_past_it(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.core.rate.TAGS_PER_S", 150)
    street.pipeline._intake._tags = type(street.pipeline._intake._tags)(150, 50)
    for n in range(400):
        street.pipeline.deliver(street.rx(Mote(263).report(T0, ROWS, counter=n + 1)))
    assert street.metrics.refused == {"bad_tag": 150, "link_flooded": 250}
    assert await street.speak(street.mote.alarm(2, T0, 6, 181, 150), wait=0.0) is not None, "its own reserve"
    assert await street.hear(street.over_mqtt(street.mote.status({1: 1}))) is not None, "another link, another bound"
    waiting = street.mote.report(T0, ROWS, counter=4)
    assert await street.speak(waiting, wait=0.0) is None
    assert await street.speak(waiting, wait=0.01) is not None, "it comes again, and is no copy of what was refused"


# one stolen node


def columns(mote: Mote, ids: list[int], rows: int, interval: int, t: int) -> bytes:
    """A sealed report of equal rows, packed: every column is one constant."""
    bits = ("1111" if interval <= 0 and rows > 1 else "") + ("0" + "1000000" + ("1111" if rows > 1 else "")) * len(ids)
    bits += "0" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    head = b"\x85" + cbor_list(ids) + cbor_uint(t) + cbor_uint(interval) + cbor_uint(rows)
    return mote.seal(REPORT, head + (bytes((0x58, len(data))) if len(data) > 23 else bytes((0x40 | len(data),))) + data)


def cbor_uint(n: int, major: int = 0) -> bytes:
    """One CBOR head of up to 32 bits."""
    if n < 24:
        return bytes((major | n,))
    size = 1 if n < 256 else 2 if n < 65536 else 4
    return bytes((major | {1: 24, 2: 25, 4: 26}[size],)) + n.to_bytes(size, "big")


def cbor_list(ids: list[int]) -> bytes:
    """An array of unsigned integers."""
    return cbor_uint(len(ids), 0x80) + b"".join(map(cbor_uint, ids))


def messages(events: list[Event]) -> int:
    return sum(len(native.messages(e, "city")) + len(senml.messages(e, "city")) for e in events)


KINDS = {
    "one column": lambda m, t, n: columns(m, [6], 1, 1, t),
    "six columns": lambda m, t, n: columns(m, [1, 2, 3, 4, 5, 6], 1, 1, t),
    "seven columns": lambda m, t, n: columns(m, [1, 2, 3, 4, 5, 6, 7], 1, 1, t),
    "sixteen columns": lambda m, t, n: columns(m, list(range(1, 17)), 1, 1, t),
    "240 rows of sixteen": lambda m, t, n: columns(m, list(range(1, 17)), 240, 1, t - 240),
    "240 events": lambda m, t, n: columns(m, [17], 240, 0, t),
    "status": lambda m, t, n: m.status({1: n, 2: 5, 3: n, 4: 300, 5: 2, 6: 1, 7: 1, 8: 1}),
    "alarms": lambda m, t, n: m.alarm(2 if n % 2 else 1, t, 6, 181, 150),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stolen_node_at_its_full_rate_is_published_at_most_ten_times_as_much_as_an_honest_one(
    kind: str,
) -> None:
    street = Street(rates=Rates(10, 1))
    make = KINDS[kind]
    honest = columns(street.other, [1, 2, 3, 4, 5, 6], 1, 1, T0)
    await street.hear(street.rx(honest))
    street.clock.time += 10
    street.pipeline.deliver(street.rx(columns(street.other, [1, 2, 3, 4, 5, 6], 1, 1, T0 + 10)))
    await street.pipeline.settle()
    per_report = messages(street.events()[-1:])
    assert per_report == 9, "six quantities, rssi, snr, the pack"
    bound = 10 * per_report / 10.0  # mote.settings: no report interval is below ten seconds
    n = 0
    for _ in range(200):  # its burst is spent
        n += 1
        street.pipeline.deliver(street.rx(make(street.mote, T0 + n, n)))
    await street.pipeline.settle()
    before = len(street.events())
    for second in range(1200):
        street.clock.time += 1
        for _ in range(2):
            n += 1
            street.pipeline.deliver(street.rx(make(street.mote, int(street.clock.time) + n % 2, n)))
            if kind != "alarms":
                street.pipeline.deliver(street.rx(KINDS["alarms"](street.mote, int(street.clock.time), n)))
        if second % 50 == 0:
            await street.pipeline.settle()
    await street.pipeline.settle()
    found = street.events()[before:]
    per_s = messages(found) / 1200
    assert 0 < per_s <= bound * 1.05, f"{per_s:.1f} a second, allowed {bound:.1f}"


async def test_a_report_of_more_than_240_events_is_kept_raw_and_published_as_nothing(street: Street) -> None:
    data = columns(street.mote, [17 + 256 * i for i in range(16)], 240, 0, T0)
    assert len(data) < 120
    await street.speak(data)
    assert street.metrics.refused == {"malformed": 1} and street.ids() == ["263:0:1"]
    assert messages(street.events()) < 6
    await street.speak(columns(street.mote, [17, 26], 240, 0, T0))
    assert street.metrics.refused == {"malformed": 1}, "how sure a detector is counts as no event"
    assert len(street.events()[-1].times) == 240


async def test_whatever_a_lawful_frame_costs_it_gets_in_and_the_node_pays_for_it_later() -> None:
    street = Street(rates=Rates(10, 1))
    big = [columns(street.mote, list(range(1, 17)), 240, 1, T0 - 240 * n) for n in range(1, 4)]
    times = {}
    for second in range(300):
        street.clock.time += 1
        for n, data in enumerate(big):
            if n not in times:
                await street.hear(street.rx(data))
                if f"263:0:{n + 1}" in street.ids():
                    times[n] = second
                break
    assert len(times) == 3, "a backlog of the largest frames drains"
    assert times[2] - times[1] >= 60


async def test_what_was_refused_by_the_moment_is_judged_again_through_another_receiver(street: Street) -> None:
    street.pipeline.limit(10, 5)
    backlog = [street.mote.report(T0 + n, ROWS) for n in range(11)]
    for data in backlog:
        street.pipeline.deliver(street.rx(data))
    assert street.metrics.refused == {"rate_limited": 1}
    await street.speak(backlog[-1], wait=0.5, receiver="bb")
    assert "263:0:11" in street.ids() and street.metrics.totals["copies"] == 0
    recorded = street.mote.status({1: 5})
    await street.speak(recorded, wait=5.0)
    assert await street.speak(recorded, wait=5.0, receiver="zz") is not None
    assert await street.speak(recorded, wait=5.0, receiver="zz") is None, "a stranger's, in its pause"
    assert await street.speak(recorded, wait=0.1) is not None, "the node's own, a moment behind it"


async def test_a_node_in_debt_is_not_decoded(street: Street, monkeypatch: pytest.MonkeyPatch) -> None:
    decided = 0

    def counted(*args: Any) -> Any:
        nonlocal decided
        decided += 1
        return authenticate(*args)

    monkeypatch.setattr("gateway.intake.authenticate", counted)
    street.pipeline.limit(10, 1)
    for n in range(200):
        street.pipeline.deliver(street.rx(columns(street.mote, list(range(1, 17)), 240, 1, T0 - n)))
    street.pipeline.deliver(street.rx(street.mote.alarm(2, T0, 6, 181, 150)))
    await street.pipeline.settle()
    assert decided == 2 and len(street.ids()) == 2, "its alarm is"


async def test_memory_holds_nothing_of_frames_that_are_committed(street: Street) -> None:
    def alive(kind: type) -> int:
        return sum(type(o) is kind for o in gc.get_objects())

    gc.collect()
    before = alive(Work), alive(NodeState), alive(Event)  # other tests' are theirs
    for n in range(1500):
        street.pipeline.deliver(street.rx(columns(street.mote, list(range(1, 17)), 2, 1, T0 + n)))
        if n % 100 == 99:
            await street.pipeline.settle()
    await street.pipeline.settle()
    street.engine.spool.clear()
    street.engine.frames.clear()
    gc.collect()
    assert alive(Work) <= before[0] and alive(NodeState) <= before[1] + 4 and alive(Event) <= before[2]

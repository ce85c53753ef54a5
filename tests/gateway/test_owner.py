"""Whose is what a broker retains, by its payload; and how it is read from brokers that answer late, not at all, or nothing of it."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from gateway.core.current import Current, Device, Gathered, Value, fold
from gateway.core.model import OPEN, Aggregate, AggregateValue, Area, Event
from gateway.core.shape import Shape
from gateway.core.value import replace
from gateway.mqtt_session import MqttError, MqttSession, NotSubscribed
from gateway.outputs import FORMATS, reading, sweep
from gateway.outputs.message import Known
from gateway.outputs.owner import Claim, claim, newest, ours, standing
from gateway.outputs.reading import Name, Reader, Unread
from gateway.outputs.retained import Tree
from gateway.outputs.turn import Doubt, Judge, look
from gateway.store.engine import Write
from gateway.store.memory import MemoryEngine
from tests.gateway.test_current import EVERYTHING, NODES
from tests.wire.test_registry import aggregate, balance, lot

US, THEM = frozenset({"gw-1"}), "gw-2"
OLD, NEW = "2026-01-01T00:00:00.250Z", "2026-01-02T00:00:00Z"


def body(**members: Any) -> bytes:
    return json.dumps(members).encode()


def test_every_format_names_its_gateway_and_values_their_receipt() -> None:
    assert claim(body(id=1, gw="gw-2")).gateway == "gw-2"
    assert (
        claim(body(dataProvider="gw-2")).gateway
        == claim(body(dataProvider={"type": "Property", "value": "gw-2"})).gateway
    )
    assert (
        claim(body(availability=[{"topic": "city/v1/gw/gw-2/state"}, {"topic": "city/v1/node/a/state"}])).gateway
        == "gw-2"
    )
    assert claim(body(v=1, rx=OLD, until=NEW)) == Claim(None, 1767225600.25)
    assert claim(body(id="urn", observedAt=OLD, x={"observedAt": NEW})) == Claim(None, 1767312000.0)
    assert claim(b"online") == claim(b"") == Claim()


@given(st.binary(max_size=80) | st.builds(lambda x: json.dumps(x).encode(), st.recursive(
    st.none() | st.integers() | st.text(max_size=6) | st.just(OLD), lambda c: st.dictionaries(
        st.sampled_from(["gw", "rx", "dataProvider", "availability", "topic", "value"]), c, max_size=3) | st.lists(c, max_size=3)))
)  # fmt: skip
def test_no_payload_of_whoever_wrote_it_is_an_error(payload: bytes) -> None:
    found = claim(payload)
    assert found.gateway is None or isinstance(found.gateway, str)
    assert found.at is None or math.isfinite(found.at)
    assert ours({"t": found}, US, math.inf) in ({"t"}, set())


def test_of_who_published_something_no_more_is_kept_than_an_id_has() -> None:
    for payload in (body(gw="x" * 99_999), body(availability=[{"topic": f"r/v1/gw/{'x' * 99_999}/state"}])):
        assert claim(payload).gateway == "x" * 64


NAMED = st.sampled_from(
    [body(gw="gw-1"), body(dataProvider="gw-1"), body(availability=[{"topic": "r/v1/gw/gw-1/state"}])]
)
OTHER = st.sampled_from([body(gw=THEM), body(dataProvider=THEM), body(availability=[{"topic": "r/v1/gw/gw-2/state"}])])
BARE = st.sampled_from([b"online", b"{}", body(rx=OLD), body(rx=NEW), b"\xff", body(observedAt=NEW)])


@given(st.lists(NAMED | OTHER | BARE, max_size=8), st.sampled_from([0.0, 1767225600.0, 1767312001.0]))
def test_what_another_gateway_has_put_its_name_to_is_never_ours_and_spares_what_has_none(
    payloads: list[bytes], known: float
) -> None:
    found = {str(n): p for n, p in enumerate(payloads)}
    claims = {t: claim(p) for t, p in found.items()}
    mine = ours(claims, US, known)
    assert ours(claims, US, known, whole=False) == {t for t, c in claims.items() if c.gateway in US}
    assert not {t for t in mine if claims[t].gateway == THEM}
    assert mine >= {t for t, c in claims.items() if c.gateway in US}
    if any(c.gateway == THEM for c in claims.values()):
        assert mine == {t for t, c in claims.items() if c.gateway in US}
    else:
        late = any(c.gateway is None and c.at is not None and c.at > known + 1 for c in claims.values())
        assert mine == ({t for t, c in claims.items() if c.gateway in US} if late else found.keys())
    assert ours(claims, US, math.inf) >= mine, "of a store that was set back: what is newer is its own"


def test_the_newest_receipt_of_a_subject_counts_former_devices_too() -> None:
    value = Value(1, "", 5.0, False, 70.0, 60, 0)
    old = Current(values={"a": value}, device=Device(at=10.0, heard=90.0))
    assert newest(old) == 90.0 and newest(old.taken_over()) == 90.0 and newest(Current()) == 0.0
    assert newest(Current(areas={"lot": Gathered(Area("a", "lot", 1, {}, True), 33.0, 0)})) == 33.0


def test_what_no_format_retains_claims_nothing_and_what_one_retains_does() -> None:
    known, topics, first = Known("gw-1", NODES), {True: set[str](), False: set[str]()}, next(iter(NODES))
    made = [replace(aggregate(latest), node=first, name=NODES[first].name) for latest in (True, False)]
    order = Event("command", "x", first, NODES[first].name, OPEN, 1e9, 600, command={"id": "x", "expires": 2e9})
    for e in (*EVERYTHING, *made, order, lot(), balance(True), balance(False)):
        for form in FORMATS.values():
            for m in form(e, "city", known):
                topics[m.retain].add(m.topic)
    assert len(topics[True]) > 100 and not [t for t in topics[True] if standing(t, body(rx=NEW)) is None]
    passing = topics[False] - topics[True]  # an entity that ends is told where it stood
    assert {t.rpartition("/")[2] for t in passing} == {"event", "senml", "senml-cbor", "ack", "revised"}
    assert not [t for t in passing if standing(t, body(rx=NEW)) is not None]


async def test_what_is_told_in_passing_below_a_name_that_is_read_does_not_make_it_another_gateways() -> None:
    """Neither what another output of ours tells of a node that has just left, nor what a bystander hears of it."""
    topics = {"r/v1/node/a/meta": body(gw="gw-1"), "r/v1/node/a/q/x": body(v=1, rx=OLD), "r/v1/node/a/state": b"online"}
    b, emptied, engine = Broker(topics), set[str](), MemoryEngine([])
    at = datetime.fromisoformat(OLD).timestamp()
    await engine.commit([Write(7, None, Event("offline", "x", 7, "a", OPEN, at, 60, online=False))])

    async def empty(d: Doubt, judge: Judge) -> None:
        for leaf in ("event", "senml", "ack", "cmd", "agg/hour/revised"):
            b.on_message(f"r/v1/node/a/{leaf}", body(id="7:0:3:0", rx=NEW))
        emptied.update(judge()[0] & d.topics)

    await look(reader(b), [doubt("a", *topics)], lambda: US, engine.ledger, lambda _names: set(), empty)
    assert emptied == set(topics)


async def test_what_who_has_a_name_by_now_says_there_does_not_make_it_another_gateways() -> None:
    """A board takes over the name of another, and has reported since."""
    engine = MemoryEngine([])
    at = datetime.fromisoformat(NEW).timestamp()
    await engine.commit([Write(8, None, Event("offline", "x", 8, "a", OPEN, at, 60, online=False))])
    topics = {"r/v1/node/a/q/x": body(v=1, rx=OLD), "r/v1/node/a/q/y": body(v=1, rx=NEW)}
    for owners, mine in ((set[str](), set[str]()), ({"8"}, set(topics))):
        emptied = set[str]()

        async def empty(d: Doubt, judge: Judge, emptied: set[str] = emptied) -> None:
            emptied |= judge()[0] & d.topics

        held = partial(look, reader(Broker(topics)), [doubt("a", *topics)], lambda: US, engine.ledger)
        await held(lambda _names, owners=owners: owners, empty)
        assert emptied == mine


def test_what_has_ended_was_published_later_than_what_is_left() -> None:
    closed = Aggregate("hour", 0, 3600, 1, True, (AggregateValue("x", "", 1, 100.0),))
    c = fold(Current(), Event("aggregate", "1", 7, "a", OPEN, 4000.0, 60, aggregates=(closed,)), 1)
    c = fold(c, Event("aggregate", "2", 7, "a", OPEN, 4100.0, 60, aggregates=(replace(closed, over=True),)), 2)
    assert not c.aggregates and newest(c) == 4100.0


class Broker:
    """A broker as bad as there are: it may deliver what it retains late, in silence (deaf: all below but `hears`), refuse, answer nothing,
    drop what waits beyond its queue, or end the connection.
    """

    def __init__(
        self, retained: dict[str, bytes], late: float = 0.0, deaf: str = "", mute: bool = False, refuse: str = ""
    ) -> None:
        self.retained, self.late, self.deaf, self.mute, self.refuse = dict(retained), late, deaf, mute, refuse
        self.hears, self.queue, self.waiting, self.owes = frozenset[str](), math.inf, 0, 0
        self.on_puback: Callable[[int], None] = lambda _mid: None
        self.before_puback: Callable[[str], None] = lambda _topic: None
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.on_message: Callable[[str, bytes], None] = lambda _t, _p: None
        self.on_retained: Callable[[str, bytes], None] = lambda _t, _p: None
        self.filters: set[str] = {"r/v1/gw/gw-1/mark/city"}
        self.longest, self.sent = 0, list[tuple[str, bytes, bool]]()

    def _may(self, topic: str) -> bool:
        return topic in self.hears or not (self.deaf and topic.startswith(self.deaf))

    def _later(self, seconds: float, deliver: Callable[[str, bytes], None], topic: str, payload: bytes) -> None:
        if self.waiting >= self.queue:
            return
        self.waiting += 1

        def out() -> None:
            self.waiting -= 1
            deliver(topic, payload)

        asyncio.get_running_loop().call_later(seconds, out)

    async def subscribe(self, topics: str | list[tuple[str, int]], qos: int = 0) -> None:
        topics = [(topics, qos)] if isinstance(topics, str) else topics
        self.longest = max(self.longest, len(topics))
        for f, _ in topics:
            if self.refuse and f.startswith(self.refuse):
                raise NotSubscribed("refused", "ask")
            self.filters.add(f)
            for t, p in self.retained.items():
                if topic_matches_sub(f, t) and self._may(t):
                    self._later(self.late, lambda t, p: self.on_retained(t, p), t, p)
        await asyncio.sleep(0.001)

    async def unsubscribe(self, topics: list[str]) -> None:
        self.filters.difference_update(topics)

    def publish(
        self, topic: str, payload: bytes, _qos: int = 0, retain: bool = False, first: bool = False
    ) -> int | None:
        self.sent.append((topic, payload, retain))
        if retain:
            self.retained.pop(topic, None)
            if payload:
                self.retained[topic] = payload
        if not self.mute and self._may(topic) and any(topic_matches_sub(f, topic) for f in self.filters):
            self._later(0, lambda t, p: self.on_message(t, p), topic, payload)
        mid = len(self.sent)

        self.owes += 1

        def acknowledged() -> None:
            self.owes -= 1
            self.before_puback(topic)
            self.on_puback(mid)

        asyncio.get_running_loop().call_later(0.001, acknowledged)
        return None if self.closed.done() else mid

    async def connect(self) -> None: ...

    async def disconnect(self) -> None: ...


def reader(b: Broker) -> Reader:
    return Reader(cast(MqttSession, b), "r/v1/gw/gw-1/mark/city", "gw-1")


A = Name("r", "ha", "a", False)
TREE = {"r/v1/node/a/meta": body(gw=THEM), "r/v1/node/b/meta": b"{}", "ha/device/a/config": b"{}"}
FILTERS, PARTS = ["r/v1/node/a/#", "ha/device/a/config"], ("r/v1/node/", "ha/device/")


@pytest.mark.parametrize("late", [0.0, reading.GRACE_S / 2])
async def test_what_stands_there_is_read_also_from_a_broker_that_delivers_it_behind_what_is_new(late: float) -> None:
    b = Broker(TREE, late)
    async with reader(b).reading(FILTERS, PARTS) as read:
        assert read.of(FILTERS).keys() == {"r/v1/node/a/meta", "ha/device/a/config"} and not read.deaf
        b.on_message("r/v1/node/a/meta", b"")
        b.on_message("r/v1/node/a/state", b"online")
        assert read.of(["r/v1/node/a/#"]) == {"r/v1/node/a/state": Claim()}, "it is kept up to date"
    assert b.filters == {"r/v1/gw/gw-1/mark/city"} and not any(
        retain or p and "probe" not in str(p) for _, p, retain in b.sent
    )


async def test_an_empty_tree_is_not_taken_for_one_that_may_not_be_read() -> None:
    async with reader(Broker({})).reading(FILTERS, PARTS) as read:
        assert not read.of(FILTERS) and not read.deaf
    b = Broker(TREE, deaf="r/v1/node/")
    async with reader(b).reading(FILTERS, PARTS) as read:
        assert read.deaf == {"r/v1/node/"} and read.of(FILTERS).keys() == {"ha/device/a/config"}


@pytest.mark.parametrize("how", ["mute", "refuse", "closed"])
async def test_a_broker_that_does_not_answer_is_not_waited_for_and_leaves_no_subscription(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "ECHO_S", 0.1)
    b = Broker(TREE, mute=how == "mute", refuse="ha" if how == "refuse" else "")
    if how == "closed":
        b.closed.set_result("gone")
    heard = b.on_message
    async with asyncio.timeout(30):
        with pytest.raises(MqttError if how == "closed" else Unread):
            async with reader(b).reading(FILTERS, PARTS):
                pytest.fail("nothing was read")
    assert b.on_message is heard
    if how != "closed":
        assert b.filters == {"r/v1/gw/gw-1/mark/city"}


async def test_no_subscription_names_more_topics_than_the_brokers_with_the_least_take() -> None:
    b = Broker({})
    async with reader(b).reading([f"r/v1/node/n-{n}/#" for n in range(100)], ("r/v1/node/",)):
        pass
    assert b.longest == reading.PACKET == 8


def test_a_name_is_read_with_all_that_may_say_whose_it_is() -> None:
    assert A.filters(["r/v1/node/a/q/x", "r/v1/ngsi-ld/Alert/a-x"]) == {
        "r/v1/node/a/#", "r/v1/ngsi-ld/Alert/a-x", "r/v1/ngsi-ld/Device/a"
    }  # fmt: skip
    assert {A.part(t) for t in ("r/v1/node/a/q/x", "r/v1/ngsi-ld/Alert/a-x", "ha/device/a/config")} == {
        "r/v1/node/", "r/v1/ngsi-ld/", "ha/device/"
    }  # fmt: skip
    assert Name("r", "ha", "lot", True).filters(["r/v1/area/lot/lot"]) == {"r/v1/area/lot/#"}


@pytest.mark.parametrize("heard", ["r/v1/node/b/state", "r/v1/node/a/meta"])
async def test_one_topic_that_our_user_reads_does_not_show_that_it_reads_the_others(heard: str) -> None:
    b = Broker(TREE | {"r/v1/node/b/state": b"online"}, deaf="r/v1/node/")
    b.hears = frozenset({heard})
    async with reader(b).reading([*FILTERS, "r/v1/node/b/#"], PARTS) as read:
        b.on_message(heard, b"online")
        assert read.deaf == {"r/v1/node/"}
    async with reader(b).reading(FILTERS, PARTS) as read:
        assert read.deaf == {"r/v1/node/"}, "nor later"


async def test_a_broker_that_drops_what_waits_for_us_is_asked_a_few_things_at_a_time() -> None:
    names = [f"n-{n}" for n in range(100)]
    b = Broker({f"r/v1/node/{name}/q/{i}": b"{}" for name in names for i in range(10)})
    b.queue = 100
    filters = [f"r/v1/node/{name}/#" for name in names]
    async with reader(b).reading(filters, ("r/v1/node/",)) as read:
        assert len(read.of(filters)) == 1000 and not read.deaf


async def test_a_tree_of_any_size_takes_no_more_memory_than_a_bound_and_is_counted() -> None:
    b = Broker({"r/v1/node/b/meta": body(gw="gw-1", x="x" * 100_000)})
    r = Reader(cast(MqttSession, b), "r/v1/gw/gw-1/mark/city", "gw-1", totals := Counter[str]())
    filters = ["r/v1/node/a/#", "r/v1/node/b/#"]
    async with r.reading(filters, ("r/v1/node/",)) as read:
        payload = body(gw="gw-1", x="y" * 1000)
        for i in range(20_000):
            b.on_message(f"r/v1/node/a/q/{i:06}", payload)
        assert 1000 < len(read.of(["r/v1/node/a/#"])) < 2000
        assert totals["retained_passed_over"] == read.excess == 20_000 - len(read.of(["r/v1/node/a/#"]))
        assert not read.is_whole(["r/v1/node/a/#"]) and read.is_whole(["r/v1/node/b/#"])
        assert read.of(["r/v1/node/b/#"]) == {"r/v1/node/b/meta": Claim("gw-1")}, "payloads are not kept"
        for i in range(20_000):
            b.on_message(f"r/v1/node/a/q/{i:06}", b"")
        assert not read.of(["r/v1/node/a/#"]) and not read.is_whole(["r/v1/node/a/#"])
        b.on_message(f"r/v1/node/b{'/' * 60_000}", b"{}")
        assert len(read.of(["r/v1/node/b/#"])) == 2


async def test_many_names_together_take_no_more_memory_than_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "IN_ALL", 30_000)
    b = Broker({f"r/v1/node/{name}/q/{i}": b"{}" for name in "abcdefgh" for i in range(20)})
    filters = [f"r/v1/node/{name}/#" for name in "abcdefgh"]
    async with reader(b).reading(filters, ("r/v1/node/",)) as read:
        assert 80 < len(read.of(filters)) == 160 - read.excess < 120
        assert read.is_whole(filters[:4]) and not read.is_whole(filters[7:])


async def looked(b: Broker, doubts: list[Doubt], gateways: frozenset[str] = US) -> tuple[set[str], set[str], set[str]]:
    """Return the topics that are emptied, the parts that are not read, and the names that hold too much."""
    emptied = set[str]()

    async def empty(d: Doubt, judge: Judge) -> None:
        emptied.update(judge()[0] & d.topics)

    deaf, crowded = await look(
        reader(b), doubts, lambda: gateways, MemoryEngine([]).ledger, lambda _names: set(), empty
    )
    return emptied, deaf, crowded


def doubt(name: str, *topics: str) -> Doubt:
    return Doubt("7", Name("r", "ha", name, False), frozenset(topics))


async def test_a_name_that_holds_too_much_is_spared_and_the_others_are_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "A_NAME", 3000)
    full = {f"r/v1/node/a/{i:03}": b"{}" for i in range(100)}
    b = Broker({"r/v1/node/a/0": body(gw="gw-1"), **full, "r/v1/node/a/meta": body(gw=THEM), "r/v1/node/b/q/x": b"{}"})
    emptied, deaf, crowded = await looked(
        b, [doubt("a", "r/v1/node/a/001", "r/v1/node/a/0"), doubt("b", "r/v1/node/b/q/x")]
    )
    assert emptied == {"r/v1/node/a/0", "r/v1/node/b/q/x"}, "another's word may be among what was passed over"
    assert crowded == {"r/v1/node/a/"} and not deaf


async def test_where_one_part_of_a_name_cannot_be_read_only_what_names_us_is_ours() -> None:
    topics = {
        "r/v1/node/a/q/x": b"{}",
        "r/v1/node/a/meta": body(gw="gw-1"),
        "r/v1/ngsi-ld/Device/a": body(dataProvider=THEM),
    }
    emptied, deaf, _ = await looked(Broker(topics, deaf="r/v1/ngsi-ld/"), [doubt("a", *topics)])
    assert emptied == {"r/v1/node/a/meta"} and deaf == {"r/v1/ngsi-ld/"}


async def test_a_restored_store_sweeps_what_it_can_read_and_says_below_which_name_there_is_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "A_NAME", 3000)
    b = Broker({f"r/v1/node/late/q/{i}": b"{}" for i in range(50)} | {
        "r/v1/node/late/meta": body(gw="gw-1"), "r/v1/node/gone/meta": body(gw="gw-1"), "r/v1/node/gone/state": b"online",
        "r/v1/ngsi-ld/Alert/gone-x": json.dumps({"alertSource": "urn:ngsi-ld:Device:gone", "dataProvider": "gw-1"}).encode(),
        "r/v1/ngsi-ld/Alert/else-x": json.dumps({"alertSource": "urn:ngsi-ld:Device:else", "dataProvider": "gw-1"}).encode(),
    })  # fmt: skip
    sent = set[str]()
    with pytest.raises(Unread, match="r/v1/node/late/"):
        await sweep.sweep(
            reader(b), Tree(Shape("r", ("native",), "ha", ()), "gw-1", {}), lambda: US, MemoryEngine([]).ledger,
            lambda m: sent.add(m.topic),
        )  # fmt: skip
    assert {t for t in sent if "late" not in t} == {
        "r/v1/node/gone/meta",
        "r/v1/node/gone/state",
        "r/v1/ngsi-ld/Alert/gone-x",
    }

"""Whose is what a broker retains, by its payload; and how it is read from brokers that answer late, not at all, or nothing of it."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from gateway.core.current import Current, Device, Gathered, Value
from gateway.core.model import Area
from gateway.mqtt_session import MqttError, MqttSession, NotSubscribed
from gateway.outputs import reading
from gateway.outputs.owner import Claim, claim, newest, ours
from gateway.outputs.reading import Name, Reader, Unread

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
    assert ours({"t": payload}, US, math.inf) in ({"t"}, set())


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
    mine, claims = ours(found, US, known), {t: claim(p) for t, p in found.items()}
    assert not {t for t in mine if claims[t].gateway == THEM}
    assert mine >= {t for t, c in claims.items() if c.gateway in US}
    if any(c.gateway == THEM for c in claims.values()):
        assert mine == {t for t, c in claims.items() if c.gateway in US}
    elif any(c.gateway in US for c in claims.values()):
        assert mine == found.keys(), "a value that is newer than the store was set back to"
    else:
        late = any(c.at is not None and c.at > known + 1 for c in claims.values())
        assert mine == (set() if late else found.keys())


def test_the_newest_receipt_of_a_subject_counts_former_devices_too() -> None:
    value = Value(1, "", 5.0, False, 70.0, 60, 0)
    old = Current(values={"a": value}, device=Device(at=10.0, heard=90.0))
    assert newest(old) == 90.0 and newest(old.taken_over()) == 90.0 and newest(Current()) == 0.0
    assert newest(Current(areas={"lot": Gathered(Area("a", "lot", 1, {}, True), 33.0, 0)})) == 33.0


class Broker:
    """A broker as bad as there are: it may deliver what it retains late, in silence, refuse, answer nothing, or end the connection."""

    def __init__(
        self, retained: dict[str, bytes], late: float = 0.0, deaf: str = "", mute: bool = False, refuse: str = ""
    ) -> None:
        self.retained, self.late, self.deaf, self.mute, self.refuse = retained, late, deaf, mute, refuse
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.on_message: Callable[[str, bytes], None] = lambda _t, _p: None
        self.on_retained: Callable[[str, bytes], None] = lambda _t, _p: None
        self.filters: set[str] = {"r/v1/gw/gw-1/mark/city"}
        self.longest, self.sent = 0, list[tuple[str, bytes, bool]]()

    def _may(self, topic: str) -> bool:
        return not (self.deaf and topic.startswith(self.deaf))

    async def subscribe(self, topics: list[tuple[str, int]]) -> None:
        self.longest = max(self.longest, len(topics))
        for f, _ in topics:
            if self.refuse and f.startswith(self.refuse):
                raise NotSubscribed("refused", "ask")
            self.filters.add(f)
            for t, p in self.retained.items():
                if topic_matches_sub(f, t) and self._may(t):
                    asyncio.get_running_loop().call_later(self.late, lambda t=t, p=p: self.on_retained(t, p))

    async def unsubscribe(self, topics: list[str]) -> None:
        self.filters.difference_update(topics)

    def publish(self, topic: str, payload: bytes, _qos: int = 0, retain: bool = False) -> int | None:
        self.sent.append((topic, payload, retain))
        if not self.mute and self._may(topic) and any(topic_matches_sub(f, topic) for f in self.filters):
            asyncio.get_running_loop().call_soon(lambda: self.on_message(topic, payload))
        return None if self.closed.done() else 1


def reader(b: Broker) -> Reader:
    return Reader(cast(MqttSession, b), "r/v1/gw/gw-1/mark/city", "gw-1")


A = Name("r", "ha", "a", False)
TREE = {"r/v1/node/a/meta": body(gw=THEM), "r/v1/node/b/meta": b"{}", "ha/device/a/config": b"{}"}
FILTERS, PARTS = ["r/v1/node/a/#", "ha/device/a/config"], ("r/v1/node/", "ha/device/")


@pytest.mark.parametrize("late", [0.0, reading.GRACE_S / 2])
async def test_what_stands_there_is_read_also_from_a_broker_that_delivers_it_behind_what_is_new(late: float) -> None:
    b = Broker(TREE, late)
    async with reader(b).reading(FILTERS, PARTS) as read:
        assert read.found.keys() == {"r/v1/node/a/meta", "ha/device/a/config"} and not read.deaf
        b.on_message("r/v1/node/a/meta", b"")
        b.on_message("r/v1/node/a/state", b"online")
        assert read.of(["r/v1/node/a/#"]) == {"r/v1/node/a/state": b"online"}, "it is kept up to date"
    assert b.filters == {"r/v1/gw/gw-1/mark/city"} and not any(
        retain or p and "probe" not in str(p) for _, p, retain in b.sent
    )


async def test_an_empty_tree_is_not_taken_for_one_that_may_not_be_read() -> None:
    async with reader(Broker({})).reading(FILTERS, PARTS) as read:
        assert not read.found and not read.deaf
    b = Broker(TREE, deaf="r/v1/node/")
    async with reader(b).reading(FILTERS, PARTS) as read:
        assert read.deaf == {"r/v1/node/"} and read.found.keys() == {"ha/device/a/config"}


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

"""What an output leaves behind is judged when it is emptied, not before: the broker's word may change while there is no room to send."""

from __future__ import annotations

import json

import pytest

from gateway.config import Broker as At
from gateway.config import MqttOutputConfig
from gateway.metrics import Metrics
from gateway.mqtt_session import MqttError
from gateway.outputs import reading, vacate
from gateway.outputs.mqtt import place_of
from gateway.store.engine import Write
from gateway.store.memory import MemoryEngine
from tests.gateway.test_owner import Broker, body
from tests.gateway.told import district, events

CONFIG = MqttOutputConfig("city", At("here", 1), window=1)
KEY = place_of(CONFIG).key
NODES = dict(sorted(district().items())[:2])
FIRST, SECOND = (f"city/v1/node/{node.name}/" for node in NODES.values())


async def left(*former: str) -> MemoryEngine:
    """Return the store of a gateway whose output was taken out, after both nodes had left. former: ids that it had, known to be ours."""
    engine = MemoryEngine(["city"])
    ledger = engine.ledger
    for gateway in (*former, "gw-1"):
        await ledger.keep_id(gateway)
    await ledger.keep_places({KEY: place_of(CONFIG)})
    await ledger.keep_registry(NODES, {}, 0.0)
    for node in NODES.values():
        for e in events(node):
            await engine.commit([Write(e.node, None, e)])
    await ledger.keep_registry({}, {}, 0.0)
    await ledger.keep_turn(KEY, 3)
    await ledger.keep_places({})
    for gateway in former:
        await ledger.keep_former(gateway, KEY)
    return engine


async def vacated(b: Broker, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch) -> Metrics:
    metrics = Metrics()
    monkeypatch.setattr(vacate, "MqttSession", lambda *_: b)
    await vacate._once(CONFIG, KEY, "gw-1", engine, metrics, {}, tuple)
    return metrics


def claims(gateway: str) -> dict[str, bytes]:
    return {
        f"{name}{leaf}": p for name in (FIRST, SECOND) for leaf, p in (("meta", body(gw=gateway)), ("state", b"online"))
    }


async def test_what_has_left_is_emptied_at_the_broker_that_an_output_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    b, engine = Broker(claims("gw-1")), await left()
    await vacated(b, engine, monkeypatch)
    assert b.retained == {} and KEY in engine.ledger.places()


async def test_a_name_that_another_gateway_takes_while_there_is_no_room_to_send_is_left_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    b, engine = Broker(claims("gw-1")), await left()
    theirs = {f"{SECOND}meta": body(gw="gw-2"), f"{SECOND}state": b"online"}

    def come(topic: str) -> None:
        if topic == f"{FIRST}state":  # the last of the first name: the second has been read, and waits for room
            b.retained |= theirs
            for t, p in theirs.items():
                b.on_message(t, p)

    b.before_puback = come
    metrics = await vacated(b, engine, monkeypatch)
    assert b.retained == theirs and metrics.totals["retained_spared"] == 2


@pytest.mark.parametrize("ours", [True, False])
async def test_what_names_an_id_that_this_gateway_had_is_emptied_where_that_id_is_its_own(
    ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, own = await left("gw-old"), "city/v1/gw/gw-old/"
    mark = {"store": engine.ledger.life if ours else "another", "seq": 1, "generation": 1, "turn": 1}
    b = Broker(claims("gw-old") | {f"{own}state": b"offline", f"{own}mark/city": json.dumps(mark).encode()})
    before = dict(b.retained)
    await vacated(b, engine, monkeypatch)
    assert b.retained == ({} if ours else before)


@pytest.mark.parametrize("how", ["a former id", "a name"])
async def test_what_cannot_be_read_whole_is_no_broker_that_was_left(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, b = await left("gw-old"), Broker(claims("gw-1"))
    monkeypatch.setattr(reading, "A_NAME", 2000)
    below = FIRST if how == "a name" else "city/v1/gw/gw-old/"
    b.retained |= {f"{below}{i}": b"{}" for i in range(20)}
    with pytest.raises(MqttError, match="more is retained below"):
        await vacated(b, engine, monkeypatch)
    assert not engine.ledger.places()[KEY][1].empty and f"{SECOND}meta" not in b.retained

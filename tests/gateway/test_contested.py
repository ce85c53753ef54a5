"""The presence of a node at a broker is what its own gateway says: whoever else publishes it is overruled, rarely, and named."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from gateway.core.model import Node
from gateway.core.value import replace
from gateway.metrics import Metrics
from gateway.mqtt_session import MqttSession, NotSubscribed
from gateway.outputs.contested import AT_ONCE, GRACE_S, HEARD_S, SILENT_S, TOLD_S, Contested
from gateway.outputs.message import Message
from gateway.outputs.resync import Resync
from gateway.store.states import decode
from tests.gateway.conftest import BrokerAddress, Mosquitto
from tests.gateway.world import Backend, Concentrator, Mote, Process, registry, until

NOW = int(time.time())
ROWS = [[3, 5, 5, 231, 631, 121]]


class Broker:
    """What a broker with one more publisher does to Contested: every message comes back, and `now` is ours to move."""

    def __init__(self, nodes: int = 1, online: bool = True) -> None:
        self.now, self.caught_up, self.sent = 1000.0, True, list[Message]()
        self.online = dict.fromkeys(range(1, nodes + 1), online)
        self.metrics, self.done, self.again = Metrics(), asyncio.Event(), list[str]()
        self.done.set()
        self.nodes = {n: Node(n, f"n-{n}", bytes(16)) for n in self.online}
        self.contested = Contested("city", "city", self.nodes, cast(Resync, self), self.metrics, lambda: self.now)

    def presence(self, subject: str, topic: str) -> Message | None:
        online = self.online.get(int(subject))
        return None if online is None else Message(topic, b"online" if online else b"offline", retain=True)

    def is_said(self, _subject: str) -> bool:
        return self.caught_up

    async def room(self) -> None: ...

    def republish(self, subject: str) -> None:
        self.again.append(subject)

    def publish(self, m: Message, subject: str = "") -> None:
        self.sent.append(m)
        self.contested.heard(m.topic, m.payload)

    async def run(self, seconds: float, overrule: bytes | None = None, node: int = 1) -> int:
        """Let time pass; overrule: what the other says whenever ours has come back. Returns how often it was corrected."""
        before = len(self.sent)
        for _ in range(round(seconds)):
            self.now += 1.0
            sent = len(self.sent)
            await self.contested.look()
            if overrule is not None and len(self.sent) > sent:
                self.contested.heard(f"city/v1/node/n-{node}/state", overrule)
        return len(self.sent) - before

    @property
    def named(self) -> list[str]:
        return [p.text for p in self.contested.problems() if p.code == "shared_node"]


@pytest.mark.parametrize("said", [b"offline", b"", b"\xff", b"online "])
async def test_what_another_says_of_a_node_that_we_hear_is_corrected_and_named(said: bytes) -> None:
    b = Broker()
    assert b.contested.heard("city/v1/node/n-1/state", said)
    assert await b.run(GRACE_S) == 0, "it might have been ours, on its way"
    assert await b.run(2) == 1 and b.sent[-1] == Message("city/v1/node/n-1/state", b"online", retain=True)
    assert b.metrics.totals["presence_contested"] == 1 and "n-1" in b.named[0]
    assert b.again == ([] if said else ["1"]), "whoever empties the presence has emptied the rest"
    assert await b.run(3600) == 0, "nothing more is said of it"
    await b.run(TOLD_S)
    assert not b.named


async def test_our_own_publications_that_come_back_say_nothing() -> None:
    b = Broker()
    for payload in (b"online", b"offline", b"online"):
        b.contested.heard("city/v1/node/n-1/state", payload)
    b.caught_up = False
    b.online[1] = False  # committed, and on its way
    assert await b.run(600) == 0
    b.caught_up = True
    b.contested.heard("city/v1/node/n-1/state", b"offline")
    assert await b.run(60) == 0 and not b.named and not b.metrics.totals


async def test_two_gateways_that_both_insist_do_not_fight() -> None:
    """The other overrules every correction at once, for a day: a message a minute at the first, an hour apart in the end."""
    b = Broker()
    b.contested.heard("city/v1/node/n-1/state", b"offline")
    assert await b.run(66, b"offline") <= 2
    assert 20 <= await b.run(86_400, b"offline") <= 86_400 / HEARD_S[1] + 8
    assert b.named
    assert await b.run(2 * HEARD_S[1]) >= 1, "and then it gives up, and ours stays"
    await b.run(5 * HEARD_S[1])
    b.contested.heard("city/v1/node/n-1/state", b"offline")
    assert await b.run(GRACE_S + 2) == 1, "once it has been quiet, the next is corrected at once"


async def test_of_a_node_that_we_do_not_hear_another_is_believed_for_longer() -> None:
    b = Broker(online=False)
    b.contested.heard("city/v1/node/n-1/state", b"online")
    assert await b.run(SILENT_S[0]) == 0 and b.named, "but it is said at once that someone else speaks for it"
    assert await b.run(GRACE_S + 2) == 1
    assert await b.run(86_400, b"online") <= 12


async def test_a_flood_and_topics_of_others_cost_no_memory_and_no_messages() -> None:
    b = Broker(nodes=2)
    for n in range(20_000):
        b.contested.heard("city/v1/node/n-1/state", b"offline" if n % 2 else b"online")
        assert b.contested.heard(f"city/v1/node/stranger-{n}/state", b"offline")
    assert not b.contested.heard("city/v1/node/n-1/meta", b"{}") and not b.contested.heard(
        "city/v1/gw/gw-1/state", b"x"
    )
    assert len(b.contested._said) == 1 and await b.run(66, b"offline") <= 2


async def test_a_whole_registry_that_another_claims_is_corrected_without_holding_up_anyone() -> None:
    b = Broker(nodes=20 * AT_ONCE)
    for n in b.nodes:
        b.contested.heard(f"city/v1/node/n-{n}/state", b"offline")
    await b.run(GRACE_S)
    turns, looking = 0, asyncio.ensure_future(b.run(1))
    while not looking.done():
        turns += 1
        await asyncio.sleep(0)
    assert await looking == len(b.nodes) and turns >= 20
    assert len(b.named) == 1 and f"{len(b.nodes) - 3} more" in b.named[0] and len(b.named[0]) < 200


async def test_an_output_that_may_not_read_goes_on_without_it() -> None:
    class Deaf:
        async def subscribe(self, _topic: str, _qos: int) -> None:
            raise NotSubscribed("refused", "let our user read it")

    b = Broker()
    running = asyncio.create_task(b.contested.run(cast(MqttSession, Deaf())))
    await asyncio.sleep(0.05)
    assert not running.done(), "its end would end the connection"
    running.cancel()


# two real gateways, one broker, one root, one registry


def config(folder: Path, broker: Mosquitto, ident: str, nodes: list[Mote]) -> Path:
    folder.mkdir()
    (folder / "nodes.toml").write_text(registry(nodes))
    (folder / "gateway.toml").write_text(
        f'[gateway]\nid = "{ident}"\n[link.lora]\nkind = "udp-forwarder"\nbind = "127.0.0.1:0"\n'
        f'[output.city]\nkind = "mqtt"\nbroker = "{broker.host}:{broker.port}"\n'
    )
    return folder / "gateway.toml"


def feed(gateway: Process, frame: bytes) -> None:
    c = Concentrator(gateway.port)
    c.push(frame)
    c.pull()
    c.close()


@pytest.fixture
def backend(mosquitto: BrokerAddress) -> Iterator[Backend]:
    b = Backend(mosquitto)
    yield b
    b.close()


def test_a_second_gateway_does_not_take_a_node_off_line(tmp_path: Path, broker: Mosquitto, backend: Backend) -> None:
    """gw-2 heard the node once, long ago, and declares it offline when it starts; gw-1 hears it all the time."""
    mote = Mote(264)
    first = config(tmp_path / "1", broker, "gw-1", [mote])
    other = Mote(265)  # which gw-2 hears well: it was there all the time
    second = config(tmp_path / "2", broker, "gw-2", [mote, other])
    bystander = Process(second)
    feed(bystander, mote.report(NOW - 120, ROWS))
    feed(bystander, other.report(NOW - 120, ROWS))
    backend.wait(lambda: backend.on("node/n-264/state") == backend.on("node/n-265/state") == [b"online"])
    assert bystander.stop() == 0
    aged(second.parent, mote.id)
    main = Process(first)
    feed(main, mote.report(NOW - 60, ROWS))
    backend.wait(lambda: len(backend.on("node/n-264/state")) >= 2)
    bystander = Process(second)
    try:
        backend.wait(lambda: b"offline" in backend.on("node/n-264/state"), 60, "the bystander declares it offline")
        backend.wait(lambda: backend.on("node/n-264/state")[-1] == b"online", 30, "and its gateway overrules that")

        def shared(gateway: str) -> list[dict[str, Any]]:
            said = backend.on(f"gw/{gateway}/health")
            return [p for p in json.loads(said[-1])["problems"] if p["code"] == "shared_node"] if said else []

        backend.wait(lambda: shared("gw-1") and shared("gw-2"), 60, "both say so")
        assert "n-264" in shared("gw-1")[0]["text"] and "keys.md" in shared("gw-1")[0]["next"]
        said = len(backend.on("node/n-264/state"))
        assert not until(lambda: len(backend.on("node/n-264/state")) > said, 10), "no fight"
    finally:
        main.stop()
        bystander.stop()


def aged(folder: Path, number: int) -> None:
    """Let a gateway's store have heard a node a day earlier than it did."""
    db = sqlite3.connect(folder / "gateway.db")
    ((body,),) = db.execute("SELECT state FROM nodes WHERE node = ?", (number,)).fetchall()
    state = decode(body)
    body = msgspec.msgpack.encode(replace(state, heard=state.heard - 86_400))
    db.execute("UPDATE nodes SET state = ? WHERE node = ?", (body, number))
    db.commit()
    db.close()

"""The embedded broker: who comes hears what it subscribed to, and stays, whoever else comes at that moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from host_sim.broker import Broker

RETAINED = 40


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker() as served:
        keeper = mqtt.Client(CallbackAPIVersion.VERSION2, "keeper")
        keeper.connect(served.host, served.port)
        keeper.loop_start()
        for i in range(RETAINED):
            keeper.publish(f"tree/{i}", b"x", 1, retain=True).wait_for_publish(60)
        keeper.subscribe("tree/#", 1)
        yield served
        keeper.disconnect()
        keeper.loop_stop()


class Guest:
    """Connects, subscribes, and publishes to itself until its own message is back: what else was on its way has come by then."""

    def __init__(self, broker: Broker, name: str, topic_filter: str) -> None:
        self.heard: list[str] = []
        self.lost = 0
        self.back = threading.Event()
        own = f"echo/{name}"
        c = self._client = mqtt.Client(CallbackAPIVersion.VERSION2, name)
        c.on_connect = lambda client, *_: client.subscribe([(topic_filter, 1), (own, 1)])
        c.on_subscribe = lambda client, *_: client.publish(own, b"y", 1)
        c.on_disconnect = lambda *_: setattr(self, "lost", self.lost + 1)
        c.on_message = self._heard
        c.connect(broker.host, broker.port)
        c.loop_start()

    def _heard(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        if message.topic.startswith("echo/"):
            self.back.set()
        else:
            self.heard.append(message.topic)

    def leave(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def test_a_client_hears_nothing_that_only_others_subscribed_to(broker: Broker) -> None:
    guest = Guest(broker, "stranger", "elsewhere/#")
    assert guest.back.wait(60)
    reader = Guest(broker, "reader", "tree/#")
    assert reader.back.wait(60)
    assert guest.heard == [] and len(set(reader.heard)) == RETAINED
    guest.leave()
    reader.leave()


def test_no_client_is_thrown_out_because_another_one_subscribes_at_that_moment(broker: Broker) -> None:
    for k in range(12):
        guests = [Guest(broker, f"guest-{k}-{j}", f"own/{k}/{j}/#") for j in range(3)]
        assert all(g.back.wait(60) for g in guests)
        assert [g.lost for g in guests] == [0, 0, 0], k
        for g in guests:
            g.leave()

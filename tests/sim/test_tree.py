"""A simulation at a broker of someone else: it has a root of its own, takes no one's, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from host_sim.tree import RootTaken, Tree, own_root
from host_sim.wifi import BrokerUnreachable
from tests.gateway.conftest import BrokerAddress

RUN = [sys.executable, "-m", "tools.cli", "sim", "run", "district", "--hours", "1", "--nodes", "7", "--json"]


class City:
    """What a city's broker holds: listens to everything, publishes what it is given."""

    def __init__(self, address: BrokerAddress) -> None:
        self.topics: dict[str, bytes] = {}
        self.seen: set[str] = set()
        ready = threading.Event()
        c = self.client = paho.Client(CallbackAPIVersion.VERSION2)
        c.on_connect = lambda *_: c.subscribe("#", 1)
        c.on_subscribe = lambda *_: ready.set()
        c.on_message = self._message
        c.connect(*address)
        c.loop_start()
        assert ready.wait(60)

    def _message(self, _c: object, _u: object, m: paho.MQTTMessage) -> None:
        self.seen.add(m.topic)
        self.topics[m.topic] = bytes(m.payload)

    def retain(self, topic: str, payload: bytes) -> None:
        self.client.publish(topic, payload, 1, True).wait_for_publish(5)

    def close(self) -> None:
        for topic in list(self.topics):
            self.client.publish(topic, b"", 1, True).wait_for_publish(5)
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def city(mosquitto: BrokerAddress) -> Iterator[City]:
    c = City(mosquitto)
    yield c
    c.close()


def held(address: BrokerAddress, root: str = "#") -> set[str]:
    """What the broker retains now, all of it."""
    t = Tree(*address, "x", ())
    t.root = root.removesuffix("/#")
    if root == "#":
        t._subscribe = lambda client, *_: client.subscribe("#", 1)  # type: ignore[method-assign]
    return set(t.retained())


def test_the_root_is_the_scenarios_and_one_that_a_gateway_takes() -> None:
    assert own_root("district") == "sim-district"
    assert own_root("Mein Lauf/ä") == "sim-mein-lauf--" and len(own_root("x" * 99)) == 32
    with pytest.raises(RootTaken, match="1 to 32"):
        Tree("127.0.0.1", 1, "a/b", ())
    with pytest.raises(BrokerUnreachable):
        Tree("127.0.0.1", 1, "a", ()).claim()


def test_a_root_of_a_gateway_is_not_taken(mosquitto: BrokerAddress, city: City) -> None:
    city.retain("city/v1/gw/gw-1/mark/city", b'{"store":"a","seq":1,"generation":1}')
    city.retain("city/v1/node/aq-01/state", b"online")
    tree = Tree(*mosquitto, "city", ["aq-01", "aq-02"])
    with pytest.raises(RootTaken, match="the gateway gw-1 .*--yes"):
        tree.claim()
    tree.claim(anyway=True)
    for topic in ("node/aq-01/state", "node/aq-02/state", f"gw/{tree.gateway}/state", "node/aq-03/state"):
        city.retain(f"city/v1/{topic}", b"offline")  # aq-03: the gateway's, meanwhile
    assert tree.clear() == 2
    assert held(mosquitto) == {
        "city/v1/gw/gw-1/mark/city", "city/v1/node/aq-01/state", "city/v1/node/aq-03/state"
    }  # fmt: skip


def test_what_a_killed_simulation_has_left_is_removed_and_one_at_work_is_not(
    mosquitto: BrokerAddress, city: City
) -> None:
    city.retain("sim-x/v1/gw/sim-1/state", b"online")
    city.retain("sim-x/v1/node/aq-01/state", b"online")
    tree = Tree(*mosquitto, "sim-x", ["aq-01"])
    with pytest.raises(RootTaken, match="sim-1 is at work"):
        tree.claim()
    city.retain("sim-x/v1/gw/sim-1/state", b"offline")
    tree.claim()
    assert held(mosquitto) == set()
    city.retain("sim-x/some/thing", b"else")
    with pytest.raises(RootTaken, match="1 topics of something else"):
        tree.claim()


@pytest.mark.slow
def test_a_run_at_a_citys_broker_leaves_it_as_it_was(mosquitto: BrokerAddress, city: City) -> None:
    before = {
        "city/v1/gw/gw-1/mark/city": b"{}",
        "city/v1/gw/gw-1/state": b"online",
        "city/v1/node/aq-01/state": b"online",
    }
    for topic, payload in before.items():
        city.retain(topic, payload)
    city.seen.clear()
    address = f"{mosquitto.host}:{mosquitto.port}"
    done = subprocess.run([*RUN, "--broker", address], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and json.loads(done.stdout)["ok"], done.stderr
    assert "sim-district" in done.stderr
    assert {topic.split("/")[0] for topic in city.seen} == {"sim-district"}
    assert any("/up/" in topic for topic in city.seen), "WiFi nodes are in play"
    assert held(mosquitto) == set(before)
    taken = subprocess.run([*RUN, "--broker", address, "--root", "city"], capture_output=True, text=True, timeout=60)
    assert taken.returncode == 4 and json.loads(taken.stdout)["reason"] == "root_taken"


@pytest.mark.slow
def test_ctrl_c_removes_what_was_retained(mosquitto: BrokerAddress, city: City) -> None:
    words = [w for w in RUN if w not in ("--hours", "1")]
    p = subprocess.Popen(
        [*words, "--broker", f"{mosquitto.host}:{mosquitto.port}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not any("/q/" in t for t in list(city.seen)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert held(mosquitto)
    os.killpg(p.pid, signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 130 and json.loads(out)["reason"] == "interrupted", err
    assert held(mosquitto) == set(), err


@pytest.mark.parametrize("words", [["--root", "x"], ["--yes", "--broker", "127.0.0.1:1"]])
def test_a_root_is_for_a_broker_that_is_named(words: list[str], tmp_path: Path) -> None:
    done = subprocess.run([*RUN, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and json.loads(done.stdout)["reason"] == "usage"

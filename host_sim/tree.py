"""A simulation at a broker that is not its own: a topic root of its own, which it leaves as it found it."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Collection

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from host_sim.wifi import BrokerUnreachable

OURS = "sim-"  # how the id of a simulated gateway begins
ANSWER_S = 10.0
QUIET_S = 0.7  # retained messages follow a subscription at once; a broker far away has round trips of 0.3 s
_NAME = re.compile(r"[a-z0-9_-]{1,32}")  # what the gateway takes for a root


class RootTaken(Exception):
    """Someone else publishes below this root; the text says who, and what to do."""


def own_root(scenario: str) -> str:
    """Return the root of a scenario's topics at a broker of someone else: sim-<scenario>, in letters that a root may have."""
    return (OURS + re.sub(r"[^a-z0-9_-]", "-", scenario.lower()))[:32]


class Tree:
    """The topics of one run below `root`: those of its gateway, whose id is made here, and of its nodes."""

    def __init__(self, host: str, port: int, root: str, nodes: Collection[str]) -> None:
        if not _NAME.fullmatch(root):
            raise RootTaken(f'root "{root}" is none; next: 1 to 32 of a-z 0-9 _ -')
        self.host, self.port, self.root = host, port, root
        # an id of its own: a second client under the id of a gateway at work would end that one's connection
        self.gateway = f"{OURS}{secrets.token_hex(4)}"
        self._nodes = frozenset(nodes)
        self._before: frozenset[str] = frozenset()

    def claim(self, anyway: bool = False) -> None:
        """Look at what is retained below the root before a run. Removes what ended simulations have left there.

        Raises RootTaken when a gateway that is no simulation publishes there, a simulation is at work, or something else retains topics there;
        with `anyway` it returns all the same, and what is there is kept. Raises BrokerUnreachable.
        """
        found = self.retained()
        gateways = {levels[3] for levels in map(_levels, found) if levels[1:3] == ["v1", "gw"] and len(levels) > 3}
        real = sorted(g for g in gateways if not g.startswith(OURS))
        busy = sorted(g for g in gateways if found.get(f"{self.root}/v1/gw/{g}/state") == b"online")
        why = (
            f"the gateway {real[0]} has its topics there" if real
            else f"the simulation {busy[0]} is at work there" if busy
            else f"{len(found)} topics of something else are retained there" if found and not gateways
            else ""
        )  # fmt: skip
        if why and not anyway:
            raise RootTaken(
                f'root "{self.root}" at {self.host}:{self.port}: {why}; next: give another --root NAME, or --yes to mix with it'
            )
        if not why:
            self._remove(list(found))
            found = {}
        self._before = frozenset(found)

    def clear(self) -> int:
        """Remove what this run has left retained; return how many topics that were. Raises BrokerUnreachable."""
        left = [topic for topic in self.retained() if self._ours(topic)]
        self._remove(left)
        return len(left)

    def _ours(self, topic: str) -> bool:
        levels = _levels(topic)
        if topic in self._before or len(levels) < 4:
            return False
        return levels[3] == self.gateway if levels[2] == "gw" else levels[2] == "node" and levels[3] in self._nodes

    def retained(self) -> dict[str, bytes]:
        """Return what the broker retains below the root, topic by topic. Raises BrokerUnreachable."""
        found: dict[str, bytes] = {}
        ready, last = threading.Event(), time.monotonic()

        def arrived(_c: mqtt.Client, _u: object, m: mqtt.MQTTMessage) -> None:
            nonlocal last
            if m.retain:
                found[m.topic], last = bytes(m.payload), time.monotonic()

        c = self._client()
        c.on_message = arrived
        c.on_connect = self._subscribe
        c.on_subscribe = lambda *_: ready.set()
        with _Connected(self, c):
            if not ready.wait(ANSWER_S):
                raise BrokerUnreachable(f"the MQTT broker at {self.host}:{self.port} does not answer SUBSCRIBE")
            last = max(last, time.monotonic())
            while time.monotonic() - last < QUIET_S:
                time.sleep(0.05)
        return found

    def _subscribe(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe(f"{self.root}/#", 1)

    def _remove(self, topics: list[str]) -> None:
        if not topics:
            return
        c = self._client()
        with _Connected(self, c):
            sent = [c.publish(topic, b"", 1, True) for topic in topics]
            for one in sent:
                one.wait_for_publish(ANSWER_S)
            if not all(one.is_published() for one in sent):
                raise BrokerUnreachable(f"the MQTT broker at {self.host}:{self.port} does not acknowledge")

    def _client(self) -> mqtt.Client:
        c = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"citymote-{self.gateway}-tree-{secrets.token_hex(4)}")
        c.max_queued_messages_set(0)
        return c


class _Connected:
    """A client's connection for the length of a block."""

    def __init__(self, tree: Tree, client: mqtt.Client) -> None:
        self._tree, self._client = tree, client

    def __enter__(self) -> None:
        try:
            self._client.connect(self._tree.host, self._tree.port)
        except OSError as e:
            raise BrokerUnreachable(f"no MQTT broker at {self._tree.host}:{self._tree.port} ({e})") from e
        self._client.loop_start()

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def _levels(topic: str) -> list[str]:
    return topic.split("/")

"""WiFi nodes' way to the gateway: sockets of the VMs -> virtual broker -> the real broker, and the answers back."""

from __future__ import annotations

import os
import queue
import time
from collections import defaultdict

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from host_sim.forwarder import Forwarder

TREE = "citymote"  # the root that nodes publish below
QUIET_S = 0.1
UP, DOWN = f"{TREE}/v1/up/", f"{TREE}/v1/down/"


class BrokerUnreachable(Exception):
    """No MQTT broker at host:port; the text says which."""


class Bridge:
    """The link to the real broker, below `root` there: beside other gateways simulated frames must not be on the topics of real ones. wait_s: longest real wait for the gateway's answer to an uplink, as long as a forwarder's: an answer that
    came later would change the run."""

    def __init__(self, host: str, port: int, wait_s: float = Forwarder.TIMEOUT_S, root: str = TREE) -> None:
        self._wait_s, self._root = wait_s, root
        self._down: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._held: dict[str, list[bytes]] = defaultdict(list)
        self.unanswered = 0
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"citymote-sim-wifi-{os.getpid()}")
        self._client.on_message = lambda _c, _u, m: self._down.put((_under(m.topic, root, TREE), bytes(m.payload)))
        ready: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._client.on_connect = self._subscribe
        self._client.on_subscribe = lambda *_: ready.put(True)
        try:
            self._client.connect(host, port, keepalive=60)
        except OSError as e:
            raise BrokerUnreachable(f"no MQTT broker at {host}:{port} ({e})") from e
        self._client.loop_start()
        try:
            ready.get(timeout=10)
        except queue.Empty as e:
            self._client.loop_stop()
            raise BrokerUnreachable(f"the MQTT broker at {host}:{port} does not answer SUBSCRIBE") from e

    def _subscribe(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe(_under(DOWN, TREE, self._root) + "#", 0)

    def exchange(self, topic: str, payload: bytes) -> list[tuple[str, bytes]]:
        """Publish an uplink; return the (topic, payload) the gateway sent that node until its first answer, bounded."""
        self._client.publish(_under(topic, TREE, self._root), payload, 0)
        if not topic.startswith(UP):
            return []
        answer = DOWN + topic[len(UP) :]
        found = [(answer, p) for p in self._held.pop(answer, [])]
        deadline = time.monotonic() + self._wait_s
        while True:
            try:
                got, data = self._down.get(timeout=max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                self.unanswered += 1
                return found
            if got == answer:
                return [*found, (got, data)]
            self._held[got].append(data)

    def unasked(self, wait_s: float) -> list[tuple[str, bytes]]:
        """Return the (topic, payload) that the gateway sent without an uplink before them (a command for a node that listens all the time). wait_s: longest real wait for the
        first; then until none comes for QUIET_S. They belong to this moment: what a node gets later would tell it the time of now."""
        found = [(topic, p) for topic, payloads in self._held.items() for p in payloads]
        self._held.clear()
        while True:
            try:
                found.append(self._down.get(timeout=wait_s))
            except queue.Empty:
                return found
            wait_s = min(wait_s, QUIET_S)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def _under(topic: str, root: str, other: str) -> str:
    """Return a topic below `root` as it is below another root."""
    return other + topic.removeprefix(root) if topic.startswith(f"{root}/") else topic

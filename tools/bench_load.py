"""What the benches of the gateway share: a load that is sent, what arrives at a subscriber, and what a process costs by /proc."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

WINDOW = 200  # frames under way at once: more would not fit into a socket's buffer
STALL_S = 15.0
TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """The measurement could not be made; the text is for people, after `; next: ` what to do."""


@dataclass
class Arrivals:
    """A subscriber: counts PUBLISHes, and notes when the last message of each report came (topic .../senml or .../all)."""

    port: int
    topic: str
    messages: int = 0
    times: list[float] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=list)

    def __enter__(self) -> Arrivals:
        self._news = threading.Condition()
        ready = threading.Event()
        c = paho.Client(CallbackAPIVersion.VERSION2, f"bench-{secrets.token_hex(4)}")
        c.on_connect = self._connected
        c.on_subscribe = lambda *_: ready.set()
        c.on_message = self._arrived
        c.connect("127.0.0.1", self.port)
        c.loop_start()
        self._client = c
        if not ready.wait(10):
            raise BenchError("the broker does not answer; next: look at its log")
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, c: paho.Client, *_: Any) -> None:
        c.subscribe(self.topic, 0)

    def _arrived(self, _c: Any, _d: Any, m: paho.MQTTMessage) -> None:
        if m.retain:  # was there before we came
            return
        self.messages += 1
        if m.topic.endswith(("/senml", "/all")):
            now = time.monotonic()
            with self._news:
                self.times.append(now)
                self.ids.append(id_of(bytes(m.payload)))
                self._news.notify()

    def wait(self, frames: int) -> None:
        """Wait until so many reports have come in all. Raises BenchError when nothing comes for STALL_S."""
        with self._news:
            while len(self.times) < frames:
                have = len(self.times)
                if not self._news.wait_for(lambda have=have: len(self.times) > have, STALL_S):
                    raise BenchError(
                        f"{have} of {frames} reports arrived, then none for {STALL_S:.0f} s; next: look whether datagrams "
                        "were dropped (ss -lunm), and give it less other work"
                    )

    def quiet(self, for_s: float = 0.3, longest_s: float = 120.0) -> None:
        """Wait until no message has come for a while."""
        end = time.monotonic() + longest_s
        have = -1
        while have != self.messages and time.monotonic() < end:
            have = self.messages
            time.sleep(for_s)


def id_of(payload: bytes) -> bytes:
    """Return the id of a SenML pack without parsing it all; b"" for the bare loop's."""
    at = payload.find(b'"id":"')
    return payload[at + 6 : payload.find(b'"', at + 6)] if at >= 0 else b""


@dataclass(frozen=True)
class Run:
    """One stretch of load: CPU seconds of the process under test, wall seconds, messages, and ms from datagram to last message."""

    frames: int
    messages: int
    cpu_s: float
    wall_s: float
    latencies_ms: Sequence[float]


@dataclass
class Load:
    """Sends datagrams, at most WINDOW reports ahead of the arrivals, or at a rate."""

    target: int
    arrivals: Arrivals
    pid: int
    told: Callable[[int], None]

    def run(self, datagrams: Sequence[tuple[bytes, bytes]], rate: float | None = None) -> Run:
        """Send (report id, datagram)s; return when the last message of the last one has come. Raises BenchError."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", self.target))
            sock.setblocking(False)
            a = self.arrivals
            first, messages, cpu = len(a.times), a.messages, cpu_s(self.pid)
            sent: dict[bytes, float] = {}
            order: list[float] = []
            start = time.monotonic()
            for n, (name, data) in enumerate(datagrams):
                if rate is not None:
                    time.sleep(max(start + n / rate - time.monotonic(), 0))
                elif n - (len(a.times) - first) >= WINDOW:
                    a.wait(first + n - WINDOW // 2)
                now = time.monotonic()
                sent[name] = now
                order.append(now)
                _send(sock, data)
                if n % 50 == 0:
                    _drain(sock)
                    self.told(n)
            a.wait(first + len(datagrams))
            end = time.monotonic()
            _drain(sock)
            a.quiet()
            used = cpu_s(self.pid) - cpu
            got = zip(a.ids[first:], a.times[first:], strict=False)
            late = [(t - sent[i]) * 1000 for i, t in got if i in sent]
            return Run(len(datagrams), a.messages - messages, used, end - start, late)


def _send(sock: socket.socket, data: bytes) -> None:
    while True:
        try:
            sock.send(data)
            return
        except BlockingIOError:
            time.sleep(0.001)


def _drain(sock: socket.socket) -> None:
    """Throw away what the forwarder protocol answers."""
    while True:
        try:
            sock.recv(65536)
        except BlockingIOError:
            return


def cpu_s(pid: int) -> float:
    """Return user and system seconds of all threads of a process, by /proc (10 ms steps)."""
    text = Path(f"/proc/{pid}/stat").read_text()
    user, system = text.rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / TICKS


def rss_mib(pid: int, what: str = "VmHWM") -> float:
    """Return the peak (VmHWM) or present (VmRSS) resident memory in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    raise BenchError(f"the system does not tell {what}; next: run this on Linux")


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of them lie; 0.0 without any."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def port_of(file: Path) -> int:
    """Return the UDP port of the newest life of the gateway, from its log."""
    for line in reversed(file.with_suffix(".log").read_text().splitlines()):
        if line.startswith("{") and '"ready"' in line:
            return int(json.loads(line)["links"]["lora"].rsplit(":", 1)[1])
    raise BenchError("the gateway does not say where it listens; next: look at its log")

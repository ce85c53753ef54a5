"""Load that never gives up: nodes that keep every frame until it is acknowledged, over a packet forwarder, whatever happens to the gateway.

And the other end: a subscriber that knows what came, what came again, and whether a repeat can be told from news.
"""

from __future__ import annotations

import base64
import json
import random
import secrets
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as paho
from motewire import frame
from paho.mqtt.enums import CallbackAPIVersion

from host_sim.load import PULL_ACK, PULL_DATA, PULL_RESP, TX_ACK, Mote, datagram, push_data

Key = tuple[int, int]
"""(node, counter)"""

ROW_S = 60
SHARE = 869.525  # MHz, the sub-band with 10 %: many nodes behind one receiver want answers
PM10, ABOVE = 6, 2
_KEPT = 24  # frames of an outbox before it makes no more
_PUSHED = 6  # of one node in one datagram


@dataclass
class Box:
    """A node and what it waits to get rid of: counter -> frame."""

    mote: Mote
    frames: dict[int, bytes] = field(default_factory=dict)
    alarms: set[int] = field(default_factory=set)
    t: int = 0


class Load(threading.Thread):
    """Makes `total` frames and pushes them until all are acknowledged. go() and hold() let it work and wait.

    acked: when each was acknowledged (monotonic s). reused: downlink counters seen with two contents (must stay empty).
    """

    def __init__(self, motes: list[Mote], total: int, seed: int, t0: int) -> None:
        super().__init__(daemon=True, name="load")
        self._rng = random.Random(seed)
        self._boxes = {m.id: Box(m, t=t0) for m in motes}
        self._total = total
        self._lock = threading.Lock()
        self._go = threading.Event()
        self._ended = False
        self.port = 0
        self.made = 0
        self.pushed = 0
        self.kinds: dict[Key, str] = {}
        self.acked: dict[Key, float] = {}
        self.reused: list[tuple[int, int]] = []
        self._downlinks: dict[tuple[int, int], bytes] = {}
        self.error: BaseException | None = None

    @property
    def waiting(self) -> int:
        """Frames that are made and not acknowledged."""
        return sum(len(b.frames) for b in self._boxes.values())

    @property
    def done(self) -> bool:
        """True when everything is made and acknowledged."""
        return self.made >= self._total and not self.waiting

    def go(self, port: int) -> None:
        """Work against a gateway on this UDP port."""
        self.port = port
        self._go.set()

    def hold(self) -> None:
        """Wait, with everything kept."""
        self._go.clear()

    def end(self) -> None:
        """Give up for good."""
        self._ended = True
        self._go.set()
        self.join(10)

    def more(self, n: int) -> None:
        """Make n frames more than was said at first."""
        self._total += n

    def acked_since(self, since: float) -> list[str]:
        """The kinds of the frames that were acknowledged after monotonic time `since`. For any thread, while the load works."""
        with self._lock:  # even list(items()) lets other threads run between two items
            return [self.kinds[k] for k, at in self.acked.items() if at >= since]

    def run(self) -> None:
        try:
            while not self._ended:
                self._go.wait()
                self._session()
        except BaseException as e:
            self.error = e
            raise

    def _session(self) -> None:
        eui = b"\xaa\x55\x5a\x00" + secrets.token_bytes(4)  # a new receiver: its own hour of duty cycle
        tmst = self._rng.randrange(1 << 31)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", self.port))
            try:
                while self._go.is_set() and not self._ended:
                    if self.done:
                        time.sleep(0.02)
                        continue
                    frames = self._pick()
                    tmst += 1_000_000
                    sock.send(push_data(eui, frames, tmst, freq=SHARE))
                    self.pushed += len(frames)
                    self._pull(sock, eui)
            except (TimeoutError, ConnectionRefusedError):
                time.sleep(0.02)  # the gateway is gone, or was just killed

    def _pick(self) -> list[bytes]:
        found: list[bytes] = []
        for box in self._rng.sample(list(self._boxes.values()), min(3, len(self._boxes))):
            while len(box.frames) < _KEPT and self.made < self._total:
                self._make(box)
            if len(box.frames) >= _KEPT and not box.alarms and self.made < self._total:
                self._make(box, alarm=True)  # a full outbox keeps no alarm from being raised
            urgent = [c for c in box.frames if c in box.alarms][:3]
            others = [c for c in box.frames if c not in box.alarms]
            chosen = urgent + self._rng.sample(others, min(_PUSHED - len(urgent), len(others)))
            found += [box.frames[c] for c in sorted(chosen)]
        return found

    def _make(self, box: Box, alarm: bool = False) -> None:
        m, draw = box.mote, self._rng.random()
        box.t += ROW_S * 2
        if m.counter == 0 or (draw < 0.02 and not alarm):
            data, kind = m.status({1: box.t - 1_700_000_000, 3: 1}, long=True), "status"
        elif draw < 0.10 or alarm:
            data, kind = m.alarm(ABOVE, box.t, PM10, self._rng.randrange(151, 400), 150), "alarm"
            box.alarms.add(m.counter)
        else:
            rows = [[self._rng.randrange(40) for _ in range(3)] + [231, 631, 121] for _ in range(2)]
            data, kind = m.report(box.t, rows, interval=ROW_S), "report"
        self.kinds[m.id, m.counter] = kind
        box.frames[m.counter] = data
        self.made += 1

    def _pull(self, sock: socket.socket, eui: bytes) -> None:
        """PULL_DATA and everything until its PULL_ACK: behind it, all that was pushed is committed and answered."""
        asked = datagram(PULL_DATA, eui)
        sock.send(asked)
        deadline = time.monotonic() + 2.0
        while True:
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
            got = sock.recv(65536)
            if got[3] == PULL_RESP:
                self._answer(base64.b64decode(json.loads(got[4:])["txpk"]["data"]))
                sock.send(bytes((2, got[1], got[2], TX_ACK)) + eui)
            elif got[3] == PULL_ACK and got[1:3] == asked[1:3]:
                return

    def _answer(self, down: bytes) -> None:
        _, node, counter, _, _, _ = frame.parse_header(down)
        if self._downlinks.setdefault((node, counter), down) != down:
            self.reused.append((node, counter))
        box = self._boxes[node]
        ack = box.mote.acked(down)
        now = time.monotonic()
        for c in [c for c in box.frames if ack.covers(c)]:
            del box.frames[c]
            box.alarms.discard(c)
            with self._lock:
                self.acked[node, c] = now


class Subscriber:
    """A backend with a persistent session. seen: (node, counter) -> how often its readings or its event came.

    undetectable: what came twice and cannot be told from news: other content under a known id, or known rows under another id.
    """

    def __init__(self, address: tuple[str, int], root: str = "city") -> None:
        self.seen: dict[Key, int] = {}
        self.arrived: dict[Key, float] = {}
        self.undetectable: list[str] = []
        self.gateway_events: list[str] = []
        self.messages = 0
        self._bodies: dict[tuple[str, str], bytes] = {}
        self._rows: dict[tuple[str, float], str] = {}
        self._news = threading.Condition()
        self._prefix = f"{root}/v1/"
        ready = threading.Event()
        c: Any = paho.Client(CallbackAPIVersion.VERSION2, f"backend-{secrets.token_hex(4)}", clean_session=False)
        c.on_connect = lambda *_: c.subscribe(f"{root}/#", 1)
        c.on_subscribe = lambda *_: ready.set()
        c.on_message = lambda _c, _d, m: self._arrived(m.topic, bytes(m.payload), m.retain)
        c.reconnect_delay_set(1, 1)
        self._client = c
        c.connect(*address)
        c.loop_start()
        if not ready.wait(10):
            raise ConnectionError("the broker does not answer the subscriber")

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()

    def wait(self, wanted: set[Key], timeout_s: float) -> bool:
        """Wait until everything wanted has come; False when it did not."""
        with self._news:
            return self._news.wait_for(lambda: wanted <= self.seen.keys(), timeout_s)

    def counts(self) -> dict[Key, int]:
        """`seen` as it is now. For any thread, while messages arrive."""
        with self._news:
            return dict(self.seen)

    def _arrived(self, topic: str, payload: bytes, retained: bool) -> None:
        leaf = topic.rpartition("/")[2]
        if retained or leaf not in ("senml", "event"):
            return
        body: Any = json.loads(payload)
        if topic.startswith(f"{self._prefix}gw/"):
            self.gateway_events.append(body["event"])
            return
        ident: str = body[0]["id"] if leaf == "senml" else body["id"]
        with self._news:
            self.messages += 1
            node, _epoch, counter = map(int, ident.split(":")[:3])
            self.seen[node, counter] = self.seen.get((node, counter), 0) + 1
            self.arrived.setdefault((node, counter), time.monotonic())
            if self._bodies.setdefault((leaf, ident), payload) != payload:
                self.undetectable.append(f"{ident} came with two contents")
            if leaf == "senml":
                times = {body[0]["bt"] + record.get("t", 0) for record in body}
                for t in times:
                    if self._rows.setdefault((topic, t), ident) != ident:
                        self.undetectable.append(f"the row of {topic} at {t} came under two ids")
            self._news.notify_all()

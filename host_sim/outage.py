"""A broker that is away for days from a whole district, in virtual time: the real gateway takes its time from the forwarder's packets.

Every node reports an hourly batch of six rows, now and then one late, and some raise alarms. Then the broker comes back, and a
backend measures: how fast, in which order, and whether what is retained in the end is the newest of everything.
"""

from __future__ import annotations

import json
import random
import secrets
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from motewire.quantities import EXPONENT, ID, KEY, OFFSET, QUANTITIES
from motewire.schemas import SCHEMAS
from paho.mqtt.enums import CallbackAPIVersion

from host_sim.gateway_process import GatewayProcess
from host_sim.load import PULL_ACK, PULL_DATA, Mote, datagram, push_data, registry
from host_sim.mosquitto import Mosquitto
from host_sim.outboxes import ABOVE, PM10, Key

T0 = 1_767_225_600  # 2026-01-01
HOUR, ROW_S, ROWS = 3600, 600, 6
FRAMES = 25  # in one datagram
SPAN = 256
RECONNECT_S = 60.0
CLEARED = 1
LIMIT = 150
SCHEMA = 3

Progress = Callable[[dict[str, Any]], None]


class OutageError(Exception):
    """The bench could not go on; the text says why, after `; next: ` what to do."""


@dataclass
class Tally:
    """What an outage cost. Rates are of events, as a backend sees them arrive; wrong_*: retained topics that are not what they must be."""

    nodes: int
    days: float
    seed: int
    frames: int = 0
    alarms: int = 0
    lost: int = 0
    duplicates: int = 0
    spool_events: int = 0
    spool_mb: float = 0.0
    store_mb: float = 0.0
    taken_per_s: float = 0.0
    drain_s: float = 0.0
    drain_per_s: float = 0.0
    alarms_done_s: float = 0.0
    bulk_before_last_alarm: int = 0
    retained: int = 0
    wrong_values: int = 0
    wrong_alerts: int = 0
    stepped_back: int = 0
    wall_s: float = 0.0
    examples: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when nothing was lost, alarms came first, and what is retained is right."""
        wrong = self.lost or self.wrong_values or self.wrong_alerts or self.stepped_back
        return not wrong and self.duplicates <= 2 * SPAN and self.bulk_before_last_alarm <= SPAN and self.retained > 0

    def as_dict(self) -> dict[str, Any]:
        """The result as a document."""
        return {"ok": self.ok, **{f: getattr(self, f) for f in self.__dataclass_fields__}}


def outage(
    folder: Path, nodes: int = 1000, days: float = 3, seed: int = 1, progress: Progress = lambda _: None
) -> Tally:
    """Play it in `folder`. Raises OutageError, MosquittoError, GatewayError."""
    began = time.monotonic()
    with ExitStack() as stack:
        (folder / "mosquitto").mkdir()
        broker = Mosquitto(folder / "mosquitto")
        stack.callback(broker.stop)
        broker.start()
        district = District(nodes, seed)
        port = _free_udp()
        (folder / "nodes.toml").write_text(registry(list(district.motes.values()), HOUR))
        config = folder / "gateway.toml"
        config.write_text(
            f'[gateway]\nid = "gw-1"\nclock = "lockstep"\ndrain_s = 120\n[link.lora]\nkind = "udp-forwarder"\nbind = "127.0.0.1:{port}"\n'
            f'[output.city]\nkind = "mqtt"\nbroker = "{broker.host}:{broker.port}"\n'
        )
        process = GatewayProcess(config)
        stack.callback(process.kill)
        tally = Tally(nodes, days, seed)
        with closing(Forwarder(port)) as forwarder:
            _play(district, forwarder, 2, progress, "before the outage")
            _settled(folder / "gateway.db")
            before = len(district.told)
            broker.stop()
            fed = time.monotonic()
            _play(district, forwarder, round(days * 24), progress, "broker away")
            tally.taken_per_s = round((len(district.told) - before) / (time.monotonic() - fed), 1)
            tally.frames = len(district.told) - before
            tally.alarms = len(district.alarms_since(before))
        tally.spool_events, spool_bytes = _spool(folder / "gateway.db")
        tally.spool_mb = round(spool_bytes / 1e6, 2)
        tally.store_mb = round(
            sum(f.stat().st_size for f in folder.glob("gateway.db*") if f.suffix != ".reserve") / 1e6, 2
        )
        broker.start()
        with closing(Witness((broker.host, broker.port))) as witness:
            _watch(witness, district, before, tally, progress)
        with closing(Witness((broker.host, broker.port))) as late:
            _judge(late, district, tally)
        if code := process.stop(150):
            raise OutageError(f"the gateway ended with code {code}: {process.tail()}; next: look at its log")
    tally.wall_s = round(time.monotonic() - began, 1)
    return tally


class District:
    """The nodes, what they told in order, and what a backend must find retained when all has arrived."""

    def __init__(self, nodes: int, seed: int) -> None:
        self._rng = random.Random(seed)
        self.motes = {i: Mote(i, bytes(self._rng.randrange(256) for _ in range(16))) for i in range(1000, 1000 + nodes)}
        self.hour = 0
        self.told: list[Key] = []
        self.values: dict[str, tuple[int, float]] = {}  # topic -> newest (t, value)
        self.alerts: dict[str, bool] = {}
        self._alarms: set[Key] = set()
        self._late: list[tuple[int, bytes]] = []
        self._up: dict[int, int] = {}  # node -> hour in which its alarm clears

    def alarms_since(self, n: int) -> set[Key]:
        """Alarms among what was told from the n-th on."""
        return self._alarms & set(self.told[n:])

    def next_hour(self) -> list[tuple[int, bytes]]:
        """Return (Unix time, frame) of everything that is sent in the next hour, in order of time."""
        rng, start = self._rng, T0 + self.hour * HOUR
        self.hour += 1
        out: list[tuple[int, bytes]] = []
        for node, m in self.motes.items():
            rows = [[rng.randrange(40), rng.randrange(40), rng.randrange(40), rng.randrange(300), 631, 121] for _ in range(ROWS)]  # fmt: skip
            data = self._say(m, m.report(start - HOUR, rows, SCHEMA, ROW_S))
            at = start + rng.randrange(HOUR - 400)
            self._learn(node, start - HOUR, rows)
            if rng.random() < 0.03:
                self._late.append((at + HOUR, data))
            else:
                out.append((at, data))
            if self._up.get(node) == self.hour:
                del self._up[node]
                out.append((start + HOUR - 300, self._alarm(m, CLEARED, start + HOUR - 300, LIMIT - 10)))
            elif node not in self._up and rng.random() < 0.005:
                self._up[node] = self.hour + rng.randrange(1, 90)  # some are still up in the end
                out.append((start + HOUR - 300, self._alarm(m, ABOVE, start + HOUR - 300, rng.randrange(151, 400))))
        due = [x for x in self._late if x[0] < start + HOUR]
        self._late = [x for x in self._late if x[0] >= start + HOUR]
        return sorted(out + due)

    def rest(self) -> list[tuple[int, bytes]]:
        """Return what is still late."""
        found, self._late = self._late, []
        return found

    def _say(self, m: Mote, data: bytes) -> bytes:
        self.told.append((m.id, m.counter))
        return data

    def _alarm(self, m: Mote, code: int, t: int, value: int) -> bytes:
        data = self._say(m, m.alarm(code, t, PM10, value, LIMIT))
        self._alarms.add((m.id, m.counter))
        self.alerts[f"node/n-{m.id}/alert/pm10-above"] = code == ABOVE
        return data

    def _learn(self, node: int, t: int, rows: list[list[int]]) -> None:
        for number, raw in zip(SCHEMAS[SCHEMA], rows[-1], strict=True):
            key, exponent, offset = _QUANTITY[number]
            self.values[f"node/n-{node}/q/{key}"] = (t + (ROWS - 1) * ROW_S, (raw + offset) * 10.0**exponent)


_QUANTITY = {int(q[ID]): (str(q[KEY]), int(q[EXPONENT]), int(q[OFFSET])) for q in QUANTITIES}


class Forwarder:
    """A packet forwarder that tells the time; push() returns when all of it is committed."""

    def __init__(self, port: int) -> None:
        self._eui = bytes.fromhex("aa555a0000000001")
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.connect(("127.0.0.1", port))
        self._tmst = 0

    def close(self) -> None:
        self._sock.close()

    def push(self, unix: int, frames: list[bytes]) -> None:
        """Push frames as heard at Unix time `unix`. Raises OutageError."""
        self._tmst += 60_000_000
        heard = datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
        self._sock.send(push_data(self._eui, frames, self._tmst & 0xFFFFFFFF, time=heard))
        for _ in range(
            12
        ):  # datagrams get lost on a busy machine, and the gateway itself answers within 5 s or not at all
            asked = datagram(PULL_DATA, self._eui)
            self._sock.send(asked)
            self._sock.settimeout(6)
            try:
                while True:
                    got = self._sock.recv(65536)
                    if got[3] == PULL_ACK and got[1:3] == asked[1:3]:
                        return  # PULL_RESP besides: what is not acknowledged would be sent again, and all of it is committed
            except TimeoutError:
                continue
            except ConnectionRefusedError as e:
                raise OutageError("the gateway is gone; next: look at gateway.log") from e
        raise OutageError("the gateway does not answer its forwarder; next: look at gateway.log")


def _play(district: District, forwarder: Forwarder, hours: int, progress: Progress, phase: str) -> None:
    for h in range(hours):
        batch = district.next_hour()
        if h == hours - 1 and hours > 2:
            batch += district.rest()
        for i in range(0, len(batch), FRAMES):
            part = batch[i : i + FRAMES]
            forwarder.push(part[0][0], [data for _, data in part])
        progress({"phase": phase, "done": h + 1, "total": hours})


class Witness:
    """A backend from now on: what comes, when, and what is retained. Order is that of arrival."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.arrived: dict[Key, int] = {}  # -> place in the order
        self.first = self.last = 0.0
        self.alarm_at: dict[Key, float] = {}
        self.repeats = 0
        self.retained: dict[str, bytes] = {}
        self.newest: dict[str, str] = {}
        self.stepped_back: list[str] = []
        self._ready = threading.Event()
        c: Any = paho.Client(CallbackAPIVersion.VERSION2, f"witness-{secrets.token_hex(4)}")
        c.on_connect = lambda *_: c.subscribe("city/#", 1)
        c.on_subscribe = lambda *_: self._ready.set()
        c.on_message = lambda _c, _d, m: self._message(m.topic.removeprefix("city/v1/"), bytes(m.payload), m.retain)
        self._client = c
        c.connect(*address)
        c.loop_start()
        if not self._ready.wait(10):
            raise OutageError("the broker does not answer; next: look at mosquitto.log")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _message(self, topic: str, payload: bytes, retained: bool) -> None:
        levels = topic.split("/")
        kind = levels[2]
        if retained:
            self.retained[topic] = payload
            return
        if levels[0] != "node":
            return
        if kind in ("senml", "event"):
            body: Any = json.loads(payload)
            ident = body[0]["id"] if kind == "senml" else body["id"]
            node, _epoch, counter = map(int, ident.split(":")[:3])
            now = time.monotonic()
            self.first = self.first or now
            self.last = now
            if (node, counter) in self.arrived:
                self.repeats += 1
                return
            self.arrived[node, counter] = len(self.arrived)
            if kind == "event":
                self.alarm_at[node, counter] = now
        elif kind == "q" and levels[3] not in ("rssi", "snr"):
            t = json.loads(payload)["t"]
            if t < self.newest.get(topic, t):
                self.stepped_back.append(f"{topic} went back from {self.newest[topic]} to {t}")
            self.newest[topic] = t


def _watch(witness: Witness, district: District, before: int, tally: Tally, progress: Progress) -> None:
    """Until all of the outage has arrived, or nothing more does."""
    wanted = set(district.told[before:])
    alarms = district.alarms_since(before)
    deadline = time.monotonic() + RECONNECT_S
    while not wanted <= witness.arrived.keys() and time.monotonic() < deadline:
        if witness.arrived:
            deadline = witness.last + 15
        progress({"phase": "draining", "done": len(witness.arrived), "total": len(wanted)})
        time.sleep(0.1)
    time.sleep(1.0)  # repeats, and the last retained values
    missing = sorted(wanted - witness.arrived.keys())
    tally.lost, tally.duplicates = len(missing), witness.repeats
    tally.examples += [f"{n}:{c} was committed and never arrived" for n, c in missing[:5]]
    tally.drain_s = round(witness.last - witness.first, 2)
    tally.drain_per_s = round(len(witness.arrived) / max(tally.drain_s, 0.001), 1)
    place = [witness.arrived[k] for k in alarms if k in witness.arrived]
    tally.bulk_before_last_alarm = max(place, default=-1) + 1 - len(place)
    tally.alarms_done_s = round(max((witness.alarm_at[k] for k in alarms if k in witness.alarm_at), default=witness.first) - witness.first, 3)  # fmt: skip
    tally.stepped_back = len(witness.stepped_back)
    tally.examples += witness.stepped_back[:5]


def _judge(late: Witness, district: District, tally: Tally) -> None:
    """Hold every retained value against the newest that any node has told."""
    deadline = time.monotonic() + 20
    while not district.values.keys() <= late.retained.keys() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    tally.retained = len(late.retained)
    for topic, (t, value) in district.values.items():
        body = json.loads(late.retained.get(topic, b"{}"))
        when = datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if body.get("t") != when or abs(body["v"] - value) > 1e-9 * max(1.0, abs(value)):
            tally.wrong_values += 1
            if len(tally.examples) < 10:
                tally.examples.append(f"{topic}: retained {body.get('v')} of {body.get('t')}, newest {value} of {when}")
    up = {topic for topic, is_up in district.alerts.items() if is_up}
    found = {topic for topic in late.retained if "/alert/" in topic}
    tally.wrong_alerts = len(up ^ found)
    tally.examples += [f"{topic} is {'up' if topic in up else 'clear'}, retained says otherwise" for topic in sorted(up ^ found)[:3]]  # fmt: skip


def _settled(store: Path) -> None:
    """Wait until the output has taken everything."""
    deadline = time.monotonic() + 30
    while _spool(store)[0] and time.monotonic() < deadline:
        time.sleep(0.1)


def _spool(store: Path) -> tuple[int, int]:
    """Events that are not taken yet, and their bytes."""
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
        n, size = db.execute("SELECT count(*), coalesce(sum(length(body)), 0) FROM spool WHERE done = 0").fetchone()
        return n, size


def _free_udp() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])

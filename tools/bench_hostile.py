"""The part `hostile` of `citymote bench gateway`: one stolen node at all it is allowed beside honest ones, and what a refused frame costs.

honest_p99_ratio: 99 % of the honest reports reached a subscriber within so many times what they took before the stolen node began; a report
that never came counts as long as it was waited for. messages_per_second: what the gateway published of the stolen node alone, once its burst
was spent. cpu_us: CPU of the process per refused frame, by the reason it is refused for, datagram and JSON included.
"""

from __future__ import annotations

import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from prometheus_client.parser import text_string_to_metric_families

from host_sim.gateway_process import GatewayProcess
from host_sim.hostile import Stolen, refused
from host_sim.load import PULL_ACK, PULL_DATA, PUSH_DATA, Mote, datagram, push_data, registry
from host_sim.mosquitto import Mosquitto
from tools.bench_load import BenchError, cpu_s, percentile, port_of, rss_mib

EUI = bytes.fromhex("aa555a0000000001")
HONEST = 200
OTHERS = 200  # nodes whose frames are refused
RATE = 25_000 / 600  # honest frames a second: 42
BURST = 1200  # frames that spend a node's burst (node_burst: 1000)
AT_ONCE = 4000  # of its frames at first: a third of them are alarms, which have a burst of their own
OFFERED = 100  # frames a second of the stolen node: more than it is allowed
STOLEN = 300
SHORTEST_S = 10.0  # between an honest node's reports: report_s goes no lower (firmware/mote/settings.py)
BURST_S = 60.0
PATIENCE_S = 20.0  # for honest reports that have not arrived
CHUNK = 50
AIR = 3  # schema number: six quantities
GOALS = {"honest_p99_ratio": 3.0, "rss_peak_mib": 150.0, "messages_ratio": 10.0}


@dataclass
class _Honest:
    """Honest nodes: one report of two rows after the other at RATE, and when its SenML pack arrived."""

    motes: Sequence[Mote]
    target: int
    broker: int
    sent: dict[tuple[int, int], float] = field(default_factory=dict)
    came: dict[tuple[int, int], float] = field(default_factory=dict)

    def __enter__(self) -> _Honest:
        ready = threading.Event()
        c: Any = paho.Client(CallbackAPIVersion.VERSION2, f"bench-{secrets.token_hex(4)}")
        topics = [(f"city/v1/node/n-{m.id}/senml", 0) for m in self.motes]
        c.on_connect = lambda *_: c.subscribe(topics)
        c.on_subscribe = lambda *_: ready.set()
        c.on_message = lambda _c, _d, m: self._arrived(bytes(m.payload))
        c.connect("127.0.0.1", self.broker)
        c.loop_start()
        self._client = c
        if not ready.wait(10):
            raise BenchError("the broker does not answer; next: look at its log")
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.connect(("127.0.0.1", self.target))
        self._sock.setblocking(False)
        self._tmst = 0
        return self

    def __exit__(self, *exc: object) -> None:
        self._sock.close()
        self._client.disconnect()
        self._client.loop_stop()

    def _arrived(self, payload: bytes) -> None:
        at = payload.find(b'"id":"') + 6
        parts = payload[at : payload.find(b'"', at)].split(b":")
        self.came.setdefault((int(parts[0]), int(parts[-1])), time.monotonic())

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> list[tuple[int, int]]:
        """Send for so long, or until something is so; return what was sent."""
        mine: list[tuple[int, int]] = []
        start = time.monotonic()
        while time.monotonic() - start < seconds and not until():
            m = self.motes[len(self.sent) % len(self.motes)]
            rows = [[(len(self.sent) * 7 + c * 11) % 97 for c in range(6)] for _ in range(2)]
            data = m.report(int(time.time()) - 1, rows, AIR, interval=1)
            self._tmst += 10_000
            self.sent[m.id, m.counter] = time.monotonic()
            mine.append((m.id, m.counter))
            send(self._sock, push_data(EUI, [data], self._tmst, freq=869.525))
            while True:
                try:
                    self._sock.recv(65536)
                except BlockingIOError:
                    break
            time.sleep(max(start + len(mine) / RATE - time.monotonic(), 0))
        return mine

    def wait(self, mine: Sequence[tuple[int, int]], seconds: float) -> None:
        """Wait until all of these arrived, at most so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not all(k in self.came for k in mine):
            time.sleep(0.05)

    def ms(self, mine: Sequence[tuple[int, int]]) -> list[float]:
        """Return how long each took in ms; what has not come took until now."""
        now = time.monotonic()
        return [(self.came.get(k, now) - self.sent[k]) * 1000 for k in mine]


def send(sock: socket.socket, data: bytes) -> None:
    """Send a datagram from a socket that does not block; wait for room."""
    while True:
        try:
            sock.send(data)
            return
        except BlockingIOError:
            time.sleep(0.001)


class _Thief(threading.Thread):
    """Sends what a stolen node has at OFFERED frames a second, over the same receiver, until ended."""

    def __init__(self, mote: Mote, target: int) -> None:
        super().__init__(daemon=True, name="thief")
        self._stolen, self._target = Stolen(mote), target
        self.ended = threading.Event()
        self.burst = threading.Event()  # it has sent enough to have spent every burst that it is allowed
        self.sent = 0

    def run(self) -> None:
        start = time.monotonic()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.connect(("127.0.0.1", self._target))
            s.setblocking(False)
            while not self.ended.is_set():
                self.sent += 1
                send(s, push_data(EUI, [self._stolen.next()], self.sent * 7_919, freq=869.525))
                if self.sent < AT_ONCE:
                    start = time.monotonic() - self.sent / OFFERED
                    time.sleep(0.002)
                else:
                    self.burst.set()
                    time.sleep(max(start + self.sent / OFFERED - time.monotonic(), 0))


def counters(port: int) -> dict[str, float]:
    """Return the gateway's counters by name, those with a reason as `refused:<reason>`; {} while it does not answer."""
    try:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5.0).text
    except httpx.HTTPError:
        return {}
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for s in family.samples:
            name = s.name.removeprefix("citymote_").removesuffix("_total")
            found[f"refused:{s.labels['reason']}" if "reason" in s.labels else name] = s.value
    return found


def measure(seconds: float, frames: int, told: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Measure all; told(what, done, of) on the way. Raises BenchError, GatewayError, MosquittoError."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="citymote-bench-")))
        broker = stack.enter_context(Mosquitto(folder))
        honest = [Mote(70_000 + i) for i in range(HONEST)]
        others = [Mote(50_000 + i) for i in range(OTHERS)]
        stolen = Mote(STOLEN)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            http = int(s.getsockname()[1])
        file = _configure(folder, broker.port, http, [*honest, *others, stolen])
        gateway = GatewayProcess(file)
        stack.callback(gateway.kill)
        target = port_of(file)
        crowd = stack.enter_context(_Honest(honest, target, broker.port))

        told("hostile: honest nodes alone", 0, 4)
        crowd.wait(crowd.run(len(honest) / RATE), PATIENCE_S)  # each once: metadata and presence are behind us
        before = counters(http)
        alone = crowd.run(seconds)
        crowd.wait(alone, PATIENCE_S)
        alone_ms = crowd.ms(alone)
        per_frame = (counters(http)["messages"] - before["messages"]) / len(alone)

        told("hostile: a stolen node beside them", 1, 4)
        thief = _Thief(stolen, target)
        thief.start()
        stack.callback(thief.ended.set)
        asked = [time.monotonic()]

        def spent() -> bool:
            """Its burst is spent, alarms' too, and what came of it is published."""
            if not thief.burst.is_set() or time.monotonic() - asked[0] < 0.5:
                return False
            asked[0] = time.monotonic()
            now = counters(http)
            return now.get("refused:rate_limited", 0) > 0 and now["output_behind"] < 2 * RATE

        beside = crowd.run(BURST_S, spent)
        first = _drained(http)
        began = time.monotonic()
        steady = crowd.run(seconds)
        last = _drained(http)
        took = time.monotonic() - began
        thief.ended.set()
        thief.join()
        beside += steady
        crowd.wait(beside, PATIENCE_S)
        beside_ms = crowd.ms(beside)
        peak = rss_mib(gateway.pid)
        published = (last["messages"] - first["messages"] - per_frame * len(steady)) / took if first and last else None

        told("hostile: refused frames", 2, 4)
        died, tail = gateway.dead, gateway.tail()
        gateway.kill()  # whatever it still has to do: what a refusal costs is measured in a fresh one
        (folder / "refusals").mkdir()
        gateway = GatewayProcess(_configure(folder / "refusals", broker.port, http, [*honest, *others, stolen]))
        stack.callback(lambda: gateway.kill())
        target = port_of(folder / "refusals" / "gateway.toml")
        costs, reasons = _costs(gateway.pid, target, http, broker.port, others, stolen, frames, told)
    if died:
        raise BenchError(f"the gateway ended under a stolen node: {tail}; next: look at its log")
    share = per_frame / SHORTEST_S
    found: dict[str, Any] = {
        "honest_frames": len(beside),
        "honest_arrived": sum(k in crowd.came for k in beside),
        "honest_p99_alone_ms": round(percentile(alone_ms, 0.99), 1),
        "honest_p99_ms": round(percentile(beside_ms, 0.99), 1),
        "honest_p99_ratio": round(percentile(beside_ms, 0.99) / percentile(alone_ms, 0.99), 2),
        "rss_peak_mib": round(peak, 1),
        "stolen_frames_per_s": OFFERED,
        "messages_per_second": None if published is None else round(max(published, 0.0), 1),
        "honest_messages_per_second": round(share, 1),
        "messages_ratio": None if published is None else round(max(published, 0.0) / share, 2),
        "cpu_us": costs,
        "refused_as": reasons,
    }
    found["goals"] = {
        key: {"at_most": most, "met": found[key] is not None and found[key] <= most} for key, most in GOALS.items()
    }
    return found


def _drained(http: int, longest_s: float = 30.0) -> dict[str, float]:
    """Wait until the output has next to nothing to do, the stolen node's few events aside; return the counters."""
    end = time.monotonic() + longest_s
    while True:
        now = counters(http)
        if (now and now["output_behind"] <= 2) or time.monotonic() > end:
            return now
        time.sleep(0.1)


def _configure(folder: Path, broker: int, http: int, motes: Sequence[Mote]) -> Path:
    (folder / "nodes.toml").write_text(registry(motes, 600))
    (folder / "nodes.toml").chmod(0o600)
    (folder / "rules.toml").write_text('[rules]\ntime_zone = "Europe/Ljubljana"\n')
    file = folder / "gateway.toml"
    file.write_text(
        f'[gateway]\nid = "gw-bench"\nrules = "rules.toml"\n[http]\nbind = "127.0.0.1:{http}"\n'
        f'[link.lora]\nkind = "udp-forwarder"\nbind = "127.0.0.1:0"\n'
        f'[link.wifi]\nkind = "mqtt"\nbroker = "127.0.0.1:{broker}"\n'
        f'[output.city]\nkind = "mqtt"\nbroker = "127.0.0.1:{broker}"\nformats = ["native", "senml"]\n'
    )
    return file


def _costs(
    pid: int,
    target: int,
    http: int,
    broker: int,
    motes: list[Mote],
    stolen: Mote,
    count: int,
    told: Callable[[str, int, int], None],
) -> tuple[dict[str, float], dict[str, dict[str, int]]]:
    """Return CPU us per frame by kind, and how the frames of each kind were counted (most of them under its name)."""
    kinds = refused(motes, count)
    datagrams = {
        kind: [push_data(EUI, [f], n * 10_000) for n, f in enumerate(frames)] for kind, frames in kinds.items()
    }
    cheap = [stolen.report(int(time.time()) - 5, [[3, 5, 5, 231, 631, 121]]) for _ in range(BURST + count)]
    datagrams["rate_limited"] = [push_data(EUI, [f], n) for n, f in enumerate(cheap[BURST:])]
    datagrams["bad_json"] = [datagram(PUSH_DATA, EUI, b'{"rxpk":' + b"[" * (n % 900)) for n in range(count)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("127.0.0.1", target))
        _push(s, datagrams["replayed"])  # taken now, refused when they come again
        again = [push_data(EUI, [f], n * 10_000 + 5_000_000) for n, f in enumerate(kinds["replayed"])]
        datagrams["replayed"] = again
        costs: dict[str, float] = {}
        reasons: dict[str, dict[str, int]] = {}
        for n, (kind, each) in enumerate(datagrams.items()):
            told(f"hostile: {kind}", n, len(datagrams))
            if kind == "rate_limited":
                _push(s, [push_data(EUI, [f], n) for n, f in enumerate(cheap[:BURST])])
            before, cpu = counters(http), cpu_s(pid)
            _push(s, each)
            costs[kind] = round((cpu_s(pid) - cpu) / count * 1e6, 1)
            reasons[kind] = _refused_since(before, counters(http))
        before, cpu = counters(http), cpu_s(pid)
        _publish(broker, count)
        _pull(s)
        costs["bad_topic"] = round((cpu_s(pid) - cpu) / count * 1e6, 1)
        reasons["bad_topic"] = _refused_since(before, counters(http))
    return costs, reasons


def _refused_since(before: dict[str, float], after: dict[str, float]) -> dict[str, int]:
    return {
        key.removeprefix("refused:"): int(value - before.get(key, 0))
        for key, value in after.items()
        if key.startswith("refused:") and value > before.get(key, 0)
    }


def _push(s: socket.socket, datagrams: Sequence[bytes]) -> None:
    """Push datagrams, CHUNK at a time, so that none is dropped."""
    for n in range(0, len(datagrams), CHUNK):
        for data in datagrams[n : n + CHUNK]:
            s.send(data)
        _pull(s)


def _pull(s: socket.socket) -> None:
    """PULL_DATA, and everything up to its PULL_ACK."""
    asked = datagram(PULL_DATA, EUI)
    s.send(asked)
    deadline = time.monotonic() + 30.0
    try:
        while True:
            s.settimeout(max(deadline - time.monotonic(), 0.001))
            got = s.recv(65536)
            if got[3] == PULL_ACK and got[1:3] == asked[1:3]:
                return
    except TimeoutError:
        raise BenchError("the gateway does not answer a PULL_DATA for 30 s; next: look at its log") from None


def _publish(broker: int, count: int) -> None:
    """Publish frames on topics that name no node, and wait for the broker to have passed them on."""
    done = threading.Event()
    c: Any = paho.Client(CallbackAPIVersion.VERSION2, f"bench-{secrets.token_hex(4)}")
    c.on_connect = lambda *_: c.subscribe("bench/done")
    c.on_subscribe = lambda *_: done.set()
    c.connect("127.0.0.1", broker)
    c.loop_start()
    try:
        if not done.wait(10):
            raise BenchError("the broker does not answer; next: look at its log")
        done.clear()
        c.on_message = lambda *_: done.set()
        for n in range(count):
            c.publish(f"citymote/v1/up/{n % 7}-x", bytes(40))
        c.publish("bench/done", b"", 1)
        done.wait(30)
        time.sleep(0.5)  # the gateway has them in its socket by now
    finally:
        c.disconnect()
        c.loop_stop()

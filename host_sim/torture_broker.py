"""Take a broker's memory away, give it an older one, exchange it, freeze it; change the registry and the rules meanwhile; then compare.

After every round the retained tree of the outputs must equal, topic by topic, what a gateway on a copy of the store publishes to an empty
broker; and it must agree with what the nodes sealed (torture_broker_town.py), so that a gateway that agrees with itself and is wrong is
seen too. Every acknowledged frame must arrive as an event.
"""

from __future__ import annotations

import json
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.client as paho
from motewire import frame as wire
from paho.mqtt.enums import CallbackAPIVersion

from host_sim.gateway_process import GatewayError, GatewayProcess
from host_sim.load import PULL_ACK, PULL_DATA, PULL_RESP, TX_ACK, datagram, push_data
from host_sim.mosquitto import Mosquitto, MosquittoError
from host_sim.torture_broker_rig import EXCLUDED, Backend, Event, Mirror, Tortured, Watch, compared, newest, snapshot
from host_sim.torture_broker_town import NAME, Frame, Thing, Town

BROKER_FAULTS: tuple[str, ...] = ("forgets", "older", "exchanged", "frozen", "silent", "restarted")
FRAMES = ("late", "future")
CHANGES = (
    "rename", "remove", "put_back", "make_personal", "make_open", "move", "rule_out", "rule_in", "area_out", "area_in", "format_out",
    "format_in", "filter_narrowed", "filter_widened", "output_out", "output_in",
)  # fmt: skip
KINDS: tuple[str, ...] = (*BROKER_FAULTS, "gateway_killed", *FRAMES, *CHANGES)
SURE_S = 5.5  # the gateway takes what it has refused when it is asked again 5 s later (gateway/reloading.py)
AT_LEAST = 10  # of each kind, over the default number of rounds
TOPICS, ALARMS = 300, 20
ROUNDS = 200
WAIT_S = 25.0  # for the truth, after a round
STEADY_S = (
    3.0  # what is wrong and stays the same for so long, with every output connected and nothing waiting, is wrong
)
LONG_S, LONG_EVERY = (
    12.0,
    5,
)  # every so manieth freeze or silence outlasts the gateway's patience with a broker that does not answer
EXAMPLES = 40
FOUND = "found.txt"  # in the folder, as it is found
SHARE_MHZ = 869.525
EUI = bytes.fromhex("aa555a0000000001")

Progress = Callable[[dict[str, Any]], None]
Fault = tuple[str, str]
"""(missing, wrong or left_over; topic)"""


class BrokerTortureError(Exception):
    """The torture could not go on; the text says why, after `; next: ` what to do."""


@dataclass
class Toll:
    """What a torture found. kinds: how often each thing happened. topics, alarms: the fewest that were in play after a round.

    missing, wrong, left_over: retained topics, each counted once for as long as it is so. lost: acknowledged frames whose event never
    arrived. seconds_to_true: from the end of a round's events until the tree was right.
    """

    seed: int
    rounds: int = 0
    kinds: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    topics: int = 0
    alarms: int = 0
    missing: int = 0
    wrong: int = 0
    left_over: int = 0
    lost: int = 0
    acked: int = 0
    went_offline: int = 0
    seconds_to_true_p50: float = 0.0
    seconds_to_true_p99: float = 0.0
    gateway_restarts: int = 0
    asked_twice: int = 0
    never_came_back: int = 0
    ended_by_itself: int = 0
    wall_s: float = 0.0
    excluded: tuple[str, ...] = EXCLUDED
    examples: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when every promise held, and enough was in play to show it."""
        faults = (
            self.missing or self.wrong or self.left_over or self.lost or self.never_came_back or self.ended_by_itself
        )
        enough = self.rounds < ROUNDS or (
            min(self.kinds.values()) >= AT_LEAST and self.topics >= TOPICS and self.alarms >= ALARMS
        )
        return not faults and enough and self.rounds > 0

    def as_dict(self) -> dict[str, Any]:
        """The result as a document."""
        return {"ok": self.ok, **{f: getattr(self, f) for f in self.__dataclass_fields__}}


def torture_broker(folder: Path, rounds: int = ROUNDS, seed: int = 1, progress: Progress = lambda _: None) -> Toll:
    """Play `rounds` rounds in `folder`. Raises BrokerTortureError, GatewayError, MosquittoError."""
    started = time.monotonic()
    with ExitStack() as stack:
        run = _Run(folder, rounds, seed, progress, stack)
        toll = run.all()
    toll.wall_s = round(time.monotonic() - started, 1)
    return toll


class _Deck:
    """Deals kinds so that each comes about as often as any other, in an order that the seed decides."""

    def __init__(self, rng: random.Random) -> None:
        self._rng, self._cards = rng, list[str]()

    def deal(self) -> str:
        if not self._cards:
            self._cards = list(KINDS)
            self._rng.shuffle(self._cards)
        return self._cards.pop()

    def back(self, kind: str) -> None:
        """What could not be played now comes again soon, behind a few others."""
        self._cards.insert(self._rng.randrange(max(len(self._cards), 1)), kind)


class _Air:
    """How frames reach the gateway: a packet forwarder, and the nodes' own broker, which is left in peace. acked() after each exchange."""

    def __init__(self, folder: Path, acked: Callable[[Thing, Frame], None]) -> None:
        self._broker = Mosquitto(folder)
        self._broker.start()
        self._acked = acked
        self._news = threading.Condition()
        self._waiting: dict[tuple[int, int], tuple[Thing, Frame]] = {}
        self._things: dict[int, Thing] = {}
        self._tmst = 0
        self.port = _free(socket.SOCK_DGRAM)
        ready = threading.Event()
        c: Any = paho.Client(CallbackAPIVersion.VERSION2, f"nodes-{secrets.token_hex(4)}")
        c.on_connect = lambda *_: c.subscribe("citymote/v1/down/+", 0)
        c.on_subscribe = lambda *_: ready.set()
        c.on_message = lambda _c, _d, m: self._down(bytes(m.payload))
        c.connect(self._broker.host, self._broker.port)
        c.loop_start()
        self._client = c
        if not ready.wait(10):
            raise MosquittoError("the nodes' broker does not answer; next: look at its log")

    @property
    def links(self) -> str:
        """The links of the gateway's configuration."""
        return (
            f'[link.lora]\nkind = "udp-forwarder"\nbind = "127.0.0.1:{self.port}"\n'
            f'[link.wifi]\nkind = "mqtt"\nbroker = "{self._broker.host}:{self._broker.port}"\n'
        )

    def send(self, frames: list[tuple[Thing, Frame]], wait_s: float = 1.0) -> bool:
        """Bring frames, in this order, and wait for their acknowledgements; True when all came."""
        wifi = [(x, f) for x, f in frames if x.bearer == "wifi"]
        lora = [(x, f) for x, f in frames if x.bearer == "lora"]
        with self._news:
            for x, f in wifi:
                self._waiting[x.mote.id, f.counter] = (x, f)
                self._things[x.mote.id] = x
        for x, f in wifi:
            self._client.publish(f"citymote/v1/up/{x.mote.id:08x}", f.data, 0)
        done = self._forward(lora, wait_s) if lora else True
        with self._news:
            done = self._news.wait_for(lambda: not self._waiting, wait_s) and done
            self._waiting.clear()
        return done

    def _down(self, data: bytes) -> None:
        x = self._things.get(wire.parse_header(data)[1])
        if x is None:
            return
        try:
            ack = x.mote.acked(data)
        except Exception:  # not for this epoch, or of a gateway that was set back: no acknowledgement
            return
        with self._news:
            for key in [k for k in self._waiting if k[0] == x.mote.id and ack.covers(k[1])]:
                self._acked(*self._waiting.pop(key))
            self._news.notify_all()

    def _forward(self, frames: list[tuple[Thing, Frame]], wait_s: float) -> bool:
        """Over LoRa not all is answered: what was pushed before a PULL_ACK is committed."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.connect(("127.0.0.1", self.port))
            try:
                for _, f in frames:
                    self._tmst += 1_000_000
                    s.send(push_data(EUI, [f.data], self._tmst, freq=SHARE_MHZ))
                asked = datagram(PULL_DATA, EUI)
                s.send(asked)
                deadline = time.monotonic() + wait_s
                while True:
                    s.settimeout(max(deadline - time.monotonic(), 0.001))
                    got = s.recv(65536)
                    if got[3] == PULL_RESP:
                        s.send(bytes((2, got[1], got[2], TX_ACK)) + EUI)
                    elif got[3] == PULL_ACK and got[1:3] == asked[1:3]:
                        break
            except (TimeoutError, ConnectionRefusedError):
                return False
        for x, f in frames:
            self._acked(x, f)
        return True

    def close(self) -> None:
        """Leave nothing behind."""
        self._client.disconnect()
        self._client.loop_stop()
        self._broker.stop()


class _Run:
    def __init__(self, folder: Path, rounds: int, seed: int, progress: Progress, stack: ExitStack) -> None:
        self._folder, self._rounds, self._progress = folder, rounds, progress
        self.rng = random.Random(seed)
        self.town = Town(seed)
        self.toll = Toll(seed)
        self._deck = _Deck(self.rng)
        self._long = dict.fromkeys(("frozen", "silent"), 0)
        self._config_folder = folder / "gateway"
        self._config_folder.mkdir()
        self.store = self._config_folder / "gateway.db"
        self._broker = Tortured(folder)
        stack.callback(self._broker.close)
        (folder / "nodes-broker").mkdir()
        self._expected: dict[Event, Thing] = {}
        self._air = _Air(folder / "nodes-broker", self._took)
        stack.callback(self._air.close)
        self._mirror = Mirror(folder)
        stack.callback(self._mirror.close)
        self._backend = Backend(self._broker.address)
        stack.callback(self._backend.close)
        self._gateway: GatewayProcess | None = None
        stack.callback(self._end_gateway)
        self._http = _free(socket.SOCK_STREAM)
        self._client = stack.enter_context(httpx.Client(timeout=2.0))
        self._known: set[Fault] = set()
        self._shapes: set[tuple[str, str]] = set()
        self._times: list[float] = []

    def all(self) -> Toll:
        toll = self.toll
        self._write()
        self._start()
        everyone = list(self.town.things)
        for what in ("status", "report", "raise"):
            for x in everyone:
                self.town.speak(x, what)
            self._flush()
        self._broker.remember()
        least: list[tuple[int, int]] = []
        while toll.rounds < self._rounds:
            try:
                kinds = self._round()
                tree = self._judge(kinds)
            except GatewayError as e:
                if self._gateway is not None and self._gateway.dead:
                    toll.ended_by_itself += 1
                toll.never_came_back += 1
                self._example(f"round {toll.rounds}: {str(e).splitlines()[0]}")
                if toll.never_came_back > 5:
                    raise BrokerTortureError(f"the gateway does not come back: {e}; next: look at its log") from e
                self._end_gateway()
                tree = None
            toll.rounds += 1
            if tree is not None:
                least.append((len(compared(tree)), sum("/alert/" in t for t in tree)))
            self._tell("torturing")
        toll.topics, toll.alarms = (min(n for n, _ in least), min(n for _, n in least)) if least else (0, 0)
        times = sorted(self._times) or [0.0]
        toll.seconds_to_true_p50 = round(times[len(times) // 2], 2)
        toll.seconds_to_true_p99 = round(times[min(int(len(times) * 0.99), len(times) - 1)], 2)
        return toll

    # a round

    def _round(self) -> list[str]:
        """Let one to three things happen, with frames before, in and behind them; return their kinds."""
        if self._gateway is None:
            self._start()
        kinds = [self._deck.deal() for _ in range(self.rng.choice((1, 2, 2, 3)))]
        faults = [k for k in kinds if k in BROKER_FAULTS]
        for extra in faults[1:]:
            self._deck.back(extra)
        first = [k for k in kinds if k.startswith("output_")]
        others = [k for k in kinds if k not in BROKER_FAULTS and k not in first]
        done: list[str] = []
        self._traffic(4)
        for kind in first:  # an output can be emptied only while its broker is there
            self._happen(kind, done)
        if faults:
            self._fault(faults[0], others, done)
        else:
            for kind in others:
                self._happen(kind, done)
                self._traffic(2)
        self._traffic(3)
        self._naps()
        for kind in done:
            self.toll.kinds[kind] += 1
        return done

    def _fault(self, fault: str, others: list[str], done: list[str]) -> None:
        inside = others if self.rng.random() < 0.7 else []
        long = False
        if fault in self._long:
            self._long[fault] += 1
            long = self._long[fault] % LONG_EVERY == 2
        until = time.monotonic() + (LONG_S if long else self.rng.uniform(0.1, 0.8))
        self._broker.begin(fault, self.rng.randrange(100), self._backend.read)
        try:
            for kind in inside:
                self._happen(kind, done)
                self._traffic(2)
            self._traffic(3)
            time.sleep(max(until - time.monotonic(), 0))
        finally:
            self._broker.end()
        done.append(fault)
        for kind in [k for k in others if k not in inside]:
            self._happen(kind, done)

    def _happen(self, kind: str, done: list[str]) -> None:
        town = self.town
        if kind == "gateway_killed":
            self._end_gateway()
            self._traffic(3)
            self._start()
        elif kind == "late":
            x, frames = town.late()
            for f in frames:
                x.box[f.counter] = f
                self._flush()
        elif kind == "future":
            town.future()
            self._flush()
        elif getattr(town, kind)():
            self._write()
            self._apply(kind)
            for x in town.speakers(2):
                if self.rng.random() < 0.5:
                    town.speak(x, "report")
        else:
            self._deck.back(kind)
            return
        done.append(kind)

    def _apply(self, kind: str) -> None:
        """Put the configuration in force: by a reload mostly, by a restart, by a kill."""
        draw = self.rng.random()
        self._uncertain()
        if self._gateway is None:
            self._start()
        elif draw < 0.7 or kind.startswith("output_"):
            self._gateway.reload()
            self._insist()
        else:
            self.toll.gateway_restarts += 1
            if draw < 0.9:
                self._gateway.stop()
                self._gateway = None
            else:
                self._end_gateway()
            self._start()

    def _uncertain(self) -> None:
        """What is on its way while a right changes may or may not be shown: it is not counted as lost."""
        for key in [k for k, x in self._expected.items() if not self.town.sees("city", x)]:
            del self._expected[key]

    def _naps(self) -> None:
        """Nappers speak once they were declared offline: presence ends and begins again."""
        for x in self.town.speakers(99, "na"):
            if time.time() - x.belief.heard > 320:
                self.toll.went_offline += 1
                self.town.speak(x, "status")
        self._flush()

    # frames

    def _traffic(self, n: int) -> None:
        for x in self.town.speakers(n):
            self.town.speak(x)
        if self._gateway is not None:
            self._flush()

    def _flush(self) -> None:
        """Bring what waits at nodes that are known, once; what is not acknowledged stays in its box."""
        waiting = [(x, f) for x in self.town.things if x.present for f in list(x.box.values())]
        if waiting:
            self._air.send(waiting)

    def _took(self, x: Thing, f: Frame) -> None:
        if x.box.pop(f.counter, None) is None:
            return
        f.learn()
        self.toll.acked += 1
        if self.town.sees("city", x):
            self._expected[x.mote.id, f.counter, f.leaf] = x

    # the gateway

    def _write(self) -> None:
        host, port = self._broker.address
        http = f'[http]\nbind = "127.0.0.1:{self._http}"\n'
        self.town.write(self._config_folder, f"{host}:{port}", self._air.links, self.store, http)

    def _start(self) -> None:
        self._gateway = GatewayProcess(self._config_folder / "gateway.toml")
        self._insist()

    def _insist(self) -> None:
        """Ask once more for what may be a mistake, as its operator would: the gateway waits for that (gateway/asked.py)."""
        assert self._gateway is not None
        if doubted := self._gateway.logged("registry_shrunk", "reload_refused"):
            self.toll.asked_twice += 1
            if doubted[-1]["event"] == "reload_refused":
                time.sleep(SURE_S)
            self._gateway.reload()
            if refused := self._gateway.logged("reload_refused"):
                raise GatewayError(f"a reload was refused twice: {refused[0].get('error')}")

    def _end_gateway(self) -> None:
        if self._gateway is not None:
            self._gateway.kill()
            self._gateway = None

    # judging

    def _judge(self, kinds: list[str]) -> dict[str, bytes]:
        """Wait until the tree is right, or wrong in the same way for a while; count what is new of it."""
        began = time.monotonic()
        watch = Watch(self._broker.address)
        watch.start()
        live: dict[str, bytes] = {}
        try:
            live, faults = self._compared(began)
        finally:
            since = watch.end(live)
        self._times.append(max(since - began, 0.0))
        self._count(kinds, faults)
        self._broker.remember()
        return live

    def _compared(self, began: float) -> tuple[dict[str, bytes], dict[Fault, str]]:
        for _ in range(20):
            if not any(x.box for x in self.town.things if x.present):
                break
            self._flush()
        if self._gateway is None or self._gateway.dead:
            raise GatewayError(f"the gateway ended by itself\n{self._gateway.tail() if self._gateway else ''}")
        outputs = 2 if self.town.portal else 1
        mirror: dict[str, bytes] | None = None
        as_of = -1  # the newest event that the mirror knows
        faults: dict[Fault, str] = {}
        since = time.monotonic()
        while True:
            now = time.monotonic()
            over = now - began > WAIT_S
            settled = self._settled()
            if mirror is None and not settled and not over:
                time.sleep(0.05)
                continue
            live = snapshot(self._broker.address)
            if (
                mirror is None or newest(self.store) != as_of and not over
            ):  # an hour may have closed, or a node fallen silent meanwhile
                as_of = newest(self.store)
                mirror = self._mirror.compute(self.store, self.town.write, outputs)
                continue
            found = self._compare(live, mirror)
            if found.keys() != faults.keys() or not settled:
                faults, since = found, now
            lost = self._expected.keys() - self._backend.seen
            if not found.keys() - self._known and not lost:
                faults = found
                break
            if over or now - since > STEADY_S:
                before = newest(self.store)
                again = self._mirror.compute(self.store, self.town.write, outputs)
                faults = self._compare(live := snapshot(self._broker.address), again)
                if over or newest(self.store) == before:
                    break
            time.sleep(0.1)
        return live, faults

    def _settled(self) -> bool:
        """True when every output is connected and has all there is, by the gateway's own word, and nothing has arrived for a moment."""
        try:
            body = self._client.get(f"http://127.0.0.1:{self._http}/health").json()
        except (httpx.HTTPError, ValueError):
            return False
        outputs = body.get("outputs", {}).values()
        return all(o["connected"] and not o["behind"] for o in outputs) and time.monotonic() - self._backend.last > 0.2

    def _compare(self, live: dict[str, bytes], mirror: dict[str, bytes]) -> dict[Fault, str]:
        found: dict[Fault, str] = {}
        here, there = compared(live), compared(mirror)
        for kind, topic, want in self.town.judge(live, json.loads):
            found[kind, topic] = f"by what the nodes sealed: {want}"
        for topic in there.keys() - here.keys():
            found.setdefault(("missing", topic), f"a fresh gateway publishes {_short(there[topic])}")
        for topic in here.keys() - there.keys():
            found.setdefault(("left_over", topic), f"a fresh gateway publishes nothing; here {_short(here[topic])}")
        for topic in here.keys() & there.keys():
            if here[topic] != there[topic]:
                said = f"a fresh gateway publishes {_short(there[topic])}; here {_short(here[topic])}"
                found.setdefault(("wrong", topic), said)
        return found

    def _count(self, kinds: list[str], faults: dict[Fault, str]) -> None:
        toll = self.toll
        new = sorted(faults.keys() - self._known, key=lambda f: (faults[f].startswith("a fresh"), f))
        for kind, topic in new:
            setattr(toll, kind, getattr(toll, kind) + 1)
            shape = kind, NAME.sub("+", topic)
            if shape in self._shapes:
                continue  # one of each shape is enough
            self._shapes.add(shape)
            self._example(f"round {toll.rounds} ({', '.join(kinds)}): {kind} {topic}: {faults[kind, topic]}")
        self._known = set(faults)
        for event in sorted(self._expected.keys() - self._backend.seen):
            toll.lost += 1
            self._example(f"round {toll.rounds} ({', '.join(kinds)}): lost {event[2]} of {event[0]}:{event[1]}")
        self._expected.clear()

    def _example(self, text: str) -> None:
        if len(self.toll.examples) < EXAMPLES:
            self.toll.examples.append(text)
            with (self._folder / FOUND).open(
                "a", encoding="utf-8"
            ) as f:  # whoever waits for many rounds can look at it
                f.write(text + "\n")

    def _tell(self, phase: str) -> None:
        t = self.toll
        (self._folder / "rounds.txt").write_text(f"{t.rounds} of {self._rounds}\n", encoding="utf-8")
        self._progress({"phase": phase, "done": t.rounds, "total": self._rounds,
                        "faults": t.missing + t.wrong + t.left_over, "lost": t.lost})  # fmt: skip


def _short(said: Any) -> str:
    text = said.decode(errors="replace") if isinstance(said, bytes) else json.dumps(said)
    return text if len(text) <= 160 else text[:157] + "..."


def _free(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])

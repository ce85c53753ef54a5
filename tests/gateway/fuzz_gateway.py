"""What the fuzz of the gateway feeds, and what must hold behind every input: nothing but counted refusals.

Four targets, each a function of bytes: authentic payloads of one node beside an honest other (decide, what follows, every format and filter,
the store), datagrams of a packet forwarder, requests for commands, configuration files. Shared by the short runs of hypothesis
(test_fuzz_gateway.py) and by the long ones that coverage guides (fuzz_gateway_coverage.py).
"""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog
from motewire import frame

from gateway import followers
from gateway.clock import HostClock
from gateway.config import ConfigError, UdpForwarderConfig, load
from gateway.config.filter import Filter
from gateway.core.authorise import Policy, Role
from gateway.core.commands import Desk
from gateway.core.model import Event, Radio, Reception
from gateway.core.rate import Rates
from gateway.core.value import replace
from gateway.links.udp_forwarder import UdpForwarderLink
from gateway.metrics import Metrics
from gateway.outputs import FORMATS
from gateway.outputs.filter import Sieve
from gateway.outputs.message import Known
from gateway.outputs.records import records
from gateway.pipeline import Pipeline
from gateway.store.sqlite import SqliteEngine
from tests.gateway.world import T0, Mote

WILD, HONEST = 300, 301
ROW = [[3, 5, 5, 231, 631, 121]]
KINDS = (frame.REPORT, frame.ALARM, frame.STATUS)
FILTERS = (
    Filter(),
    Filter(frozenset(("open",)), quantities=frozenset(("pm10", "temperature"))),
    Filter(frozenset(("open", "restricted", "personal")), areas=frozenset(("centre",))),
)
EUI = bytes.fromhex("aa555a0000000001")
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # a store on a disk waits for it
LONGEST = frame.MAX_FRAME - 40  # of a payload in a frame
GATEWAY = (
    '[gateway]\nid = "gw-1"\nrules = "rules.toml"\n[link.lora]\nkind = "udp-forwarder"\nbind = "127.0.0.1:1700"\n'
    '[output.city]\nkind = "mqtt"\nbroker = "127.0.0.1:1"\nformats = ["native", "senml", "ngsi-ld", "homeassistant"]\n'
    '[commands]\noutput = "city"\n[commands.role.all]\ncommands = ["*", "valve"]\n[commands.requester.ana]\nroles = ["all"]\n'
)
NODES = "".join(
    f'[[node]]\nid = {n}\nname = "n-{n}"\nkey = "{bytes((n % 256,) * 16).hex()}"\nprofile = "{profile}"\ninterval_s = 60\nlat = 45.5\n'
    f'lon = 13.7\nvisibility = "open"\narea = "centre"\n'
    for n, profile in ((WILD, "water_meter"), (HONEST, "air_quality"))
)
RULES = (
    '[rules]\ntime_zone = "Europe/Ljubljana"\n[rule.hot]\nquantity = "temperature"\nabove = 30\nclear = 28\n'
    '[rule.rising]\nquantity = "distance"\nrise_per_min = 2\nover_s = 600\nclear = 1\n'
    '[area.lot]\nkind = "lot"\nnodes = ["n-*"]\ncapacity = 5\n'
    '[area.shaft]\nkind = "balance"\ninflow = ["n-301"]\noutflow = ["n-300"]\n'
)


class Broken(AssertionError):
    """Something else than a counted refusal; the text says what."""


class _Clock(HostClock):
    time = float(T0)

    def now(self) -> float:
        return self.time

    def elapsed(self) -> float:
        return self.time


class _Transport(asyncio.DatagramTransport):
    """Takes what is sent."""

    def sendto(self, data: Any, addr: Any = None) -> None:
        assert len(data) < 65_508


class Gateway:
    """A gateway without its sockets: pipeline with rules, areas and commands on a real store in a temporary folder, one event loop."""

    name = "lora"

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="citymote-fuzz-", dir=MEMORY)
        folder = Path(self._folder.name)
        for name, text in (("gateway.toml", GATEWAY), ("nodes.toml", NODES), ("rules.toml", RULES)):
            (folder / name).write_text(text)
        (folder / "nodes.toml").chmod(0o600)
        self.config = load(folder / "gateway.toml")
        self.wild, self.honest = (Mote(n, self.config.nodes[n].key) for n in (WILD, HONEST))
        self.clock, self.metrics = _Clock(), Metrics()
        self.errors: list[dict[str, Any]] = []
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _loop, context: self.errors.append(dict(context)))
        self._told = 0
        self.run(self._open(folder))

    async def _open(self, folder: Path) -> None:
        self.engine = SqliteEngine(folder / "gateway.db", ["city"], clock=self.clock.now)
        policy = Policy({"ana": (Role("all", ("*", "valve")),), "eva": (Role("reader", ("read_now",)),)})
        self.desk = Desk(self.config.nodes, policy)
        self.pipeline = Pipeline(
            self.config.nodes, self.engine, self.clock, self.metrics, lambda: None, lambda _: None,
            followers.build(self.config.rules, self.config.nodes), self.desk, Rates(100_000, 1000),
        )  # fmt: skip
        self.pipeline.attach(self, 0.0)  # type: ignore[arg-type]
        self.link = UdpForwarderLink(
            UdpForwarderConfig("lora", "127.0.0.1", 0),
            self.pipeline.deliver,
            self.pipeline.flush,
            self.clock,
            self.metrics,
        )
        self.link._transport, self.link._taking = _Transport(), True

    def run(self, what: Any) -> Any:
        """Run a coroutine; what the gateway logs as an error on the way is kept."""

        def keep(_logger: Any, level: str, event: dict[str, Any]) -> Any:
            if level in ("error", "critical", "exception") or "exc_info" in event:
                self.errors.append(event)
            raise structlog.DropEvent

        before = structlog.get_config()
        structlog.configure(
            processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(30), cache_logger_on_first_use=False
        )
        try:
            return self._loop.run_until_complete(what)
        finally:
            structlog.configure(**before)

    def send(self, to: Reception, node: int, data: bytes) -> bool:
        """A link's send: the frame leaves."""
        assert len(data) <= frame.MAX_FRAME
        return True

    def close(self) -> None:
        """Let go of the store."""

        async def end() -> None:
            await self.pipeline.settle()
            self.engine.close()

        self.run(end())
        self._loop.close()
        self._folder.cleanup()

    # what must hold

    def _counted(self) -> int:
        m = self.metrics
        return sum(m.refused.values()) + m.totals["committed"] + m.totals["copies"]

    def sound(self, what: str) -> None:
        """Raise Broken unless the store took everything, nothing was logged as an error, and all events can be published and read again."""
        failed, errors = self.metrics.refused.pop("store_failed", 0), list(self.errors)
        self.errors.clear()  # the next input is judged by itself
        if failed:
            raise Broken(f"{what}: {failed} frames failed with the store")
        if errors:
            raise Broken(f"{what}: {errors[0]}")
        for node in (WILD, HONEST):
            self.engine.load(node)
        while entries := self.engine.fetch(self._told, 256):
            for entry in entries:
                self._tell(entry.event)
            self._told = entries[-1].seq

    def _tell(self, event: Event) -> None:
        nodes = self.config.nodes
        for f in FILTERS:
            narrowed = Sieve(f).narrow(event, nodes)
            if narrowed is None:
                continue
            known = Known("gw-1", nodes, f)
            for form in FORMATS.values():
                for m in form(narrowed, "city", known):
                    if len(m.topic) > 200 or any(c in m.topic for c in "+#\0"):
                        raise Broken(f"a topic {m.topic!r}")
            for _ in records(narrowed, nodes):
                pass

    # targets

    async def _payload(self, data: bytes) -> None:
        kind, flags, body = KINDS[data[0] % len(KINDS)], data[0] // len(KINDS), data[1:LONGEST]
        self.clock.time += (0.5, 61.0, 4000.0)[flags % 3]
        radio = None if flags & 4 else Radio(868_100_000, 7, 125_000, "4/5", int(self.clock.time * 1e6) & 0xFFFFFFFF)
        rx = Reception(self.wild.seal(kind, body, long=True), self.clock.time, "lora", "aa", -80, 7.0, radio)
        before = self._counted()
        other = replace(rx, data=self.honest.report(int(self.clock.time), ROW, long=True), receiver="bb")
        self.pipeline.deliver(rx)
        self.pipeline.deliver(other)
        await self.pipeline.settle()
        known = self.engine.load(HONEST)
        if known is None or known.replay.next != self.honest.counter + 1:
            raise Broken("an honest frame beside it was not committed")
        if self._counted() < before + 2:
            raise Broken("a frame was neither committed nor refused for a reason that is counted")
        self.pipeline.tick()
        await self.pipeline.settle()

    def payload(self, data: bytes) -> None:
        """An authentic frame of any payload: first byte kind, bearer and how much time has passed, the rest its payload."""
        if data:
            self.run(self._payload(data))
            self.sound(f"payload {data.hex()}")

    async def _datagram(self, data: bytes) -> None:
        mode, body = data[0] % 4, data[1:]
        self.clock.time += 1
        head = bytes((2, 1, 1, (0, 0, 0, 5)[mode])) + EUI
        if mode == 0:
            datagram = body
        elif mode == 1:  # an authentic frame under fields made of the rest
            sealed = self.wild.report(int(self.clock.time), ROW, long=True)
            fields = {
                "tmst": 1,
                "freq": 868.1,
                "datr": "SF7BW125",
                "size": len(sealed),
                "data": base64.b64encode(sealed).decode(),
            }
            datagram = head + b'{"rxpk":[' + json.dumps(fields).encode()[:-1] + b"," + body
        else:
            datagram = head + body
        self.link.datagram_received(datagram, ("127.0.0.1", 1780))
        self.link.datagram_received(bytes((2, 1, 2, 2)) + EUI, ("127.0.0.1", 1781))
        await self.pipeline.settle()

    def datagram(self, data: bytes) -> None:
        """A datagram on the forwarder's port: first byte how much of it is right already."""
        if data:
            self.run(self._datagram(data))
            self.sound(f"datagram {data.hex()}")

    async def _request(self, data: bytes) -> None:
        self.clock.time += 30
        who, node = ("ana", "eva", "nobody", "a/b")[data[0] % 4], ("n-300", "n-301", "n-9", "")[data[0] // 4 % 4]
        judged = self.pipeline.ask(who, node, data[1:])
        if not isinstance(judged, str) or not judged:
            raise Broken(f"a request was judged {judged!r}")
        await self.pipeline.settle()
        await self._payload(bytes((2,)) + b"\xa1\x03\x01")  # a status frame fetches what is ordered
        for requested in self.desk.waiting():
            assert requested in self.config.nodes

    def request(self, data: bytes) -> None:
        """A request for a command: first byte who asks of which node, the rest its body."""
        if data:
            self.run(self._request(data))
            self.sound(f"request {data.hex()}")


_FILES = {"gateway.toml": GATEWAY, "nodes.toml": NODES, "rules.toml": RULES}


def configuration(data: bytes) -> None:
    """A configuration file: first byte which of the three, the rest its content; others as they ought to be."""
    if not data:
        return
    names = list(_FILES)
    with tempfile.TemporaryDirectory(prefix="citymote-fuzz-", dir=MEMORY) as folder:
        for name, text in _FILES.items():
            (Path(folder) / name).write_text(text)
        (Path(folder) / names[data[0] % 3]).write_bytes(data[1:])
        (Path(folder) / "nodes.toml").chmod(0o600)
        try:
            load(Path(folder) / "gateway.toml")
        except ConfigError as e:
            if not str(e):
                raise Broken("a configuration is refused without a word") from e


def targets(gateway: Gateway) -> Mapping[str, Callable[[bytes], None]]:
    """Return the targets by name."""
    return {
        "payload": gateway.payload, "datagram": gateway.datagram, "request": gateway.request, "configuration": configuration,
    }  # fmt: skip

"""Reads what a broker retains on a few topics: before anything of a name that has left is emptied, it is looked whose it is by now.

A broker may answer a subscription and deliver nothing, since our user may not read there (mosquitto's acl_file). So reading is shown per
part of the tree, once a connection, by an empty message of our own below `probe/`: what else comes from there may be the one topic that our
user reads. A probe on the mark's topic shows that the broker has come to the end of what it retains.

Whoever may publish there decides how much there is. So of a payload no more is kept than whose it is, and of topics no more than A_NAME
below one name and IN_ALL in one reading; what is passed over is counted, and a name of which something was is not taken for read.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar, overload

from gateway.mqtt_session import MqttError, MqttSession, NotSubscribed
from gateway.outputs.mark import probe
from gateway.outputs.owner import Claim, standing

AT_ONCE = 200  # filters read at once
PACKET = 8  # filters in one SUBSCRIBE: AWS IoT takes no more
ECHO_S = 10.0
GRACE_S = 0.2  # a broker may deliver what it retains behind what is new
COST = 256  # bytes of memory for what is kept of a topic, beside its name
A_NAME, IN_ALL = 1 << 19, 1 << 24  # bytes for one name (some 1500 topics; ours has a few hundred) and in one reading
CROWDED = 1024  # names that are known to hold more

V = TypeVar("V")


class Unread(Exception):
    """What the broker retains could not be read: it does not answer, or refuses. hint: what to do next."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


class Name(NamedTuple):
    """A name under which a subject published: of a node or an area, below a root and a discovery prefix."""

    root: str
    discovery: str
    name: str
    area: bool

    @property
    def below(self) -> str:
        """The topics of its own."""
        return f"{self.root}/v1/{'area' if self.area else 'node'}/{self.name}/"

    def filters(self, topics: Iterable[str]) -> set[str]:
        """Return what is to be read before these topics are emptied."""
        found = {t for t in topics if not t.startswith(self.below)}
        if not self.area and any("/v1/ngsi-ld/" in t for t in found):
            found.add(f"{self.root}/v1/ngsi-ld/Device/{self.name}")
        return found | {f"{self.below}#"}

    def part(self, topic: str) -> str:
        """Return the part of the tree that a topic of the name stands in, which our user may read or not."""
        for part in (f"{self.root}/v1/ngsi-ld/", f"{self.discovery}/device/"):
            if topic.startswith(part):
                return part
        return f"{self.root}/v1/{'area' if self.area else 'node'}/"


@dataclass
class Read(Generic[V]):
    """What stands at the broker, kept up to date while it is read. found: what was made of each payload, by topic, of topics that no filter
    with # holds; below: of those that one does, by what stands before the #. deaf: parts that our user may not read. crowded: names and
    topics of which something was passed over for want of room.
    """

    found: dict[str, V] = field(default_factory=dict)
    below: dict[str, dict[str, V]] = field(default_factory=dict)
    deaf: set[str] = field(default_factory=set)
    crowded: set[str] = field(default_factory=set)
    excess: int = 0  # messages passed over
    _longest: int = field(init=False)
    _cost: int = 0
    _costs: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._longest = max(map(len, self.below), default=0)

    def of(self, filters: Iterable[str]) -> dict[str, V]:
        """Return what stands on the topics of some of the filters that are read."""
        mine = dict[str, V]()
        for f in filters:
            if f.endswith("#"):
                mine |= self.below[f[:-1]]
            elif f in self.found:
                mine[f] = self.found[f]
        return mine

    def is_whole(self, filters: Iterable[str]) -> bool:
        """True when nothing on the topics of these filters was passed over."""
        return self.crowded.isdisjoint(f.removesuffix("#") for f in filters)

    def put(self, topic: str, value: V | None) -> bool:
        """Take what stands on a topic, None for nothing; False when there is no room for it."""
        levels = (i + 1 for i, c in enumerate(topic[: self._longest]) if c == "/")
        head = next((topic[:i] for i in levels if topic[:i] in self.below), None)
        there = self.found if head is None else self.below[head]
        cost = len(topic) + COST
        if value is None or topic in there:
            if there.pop(topic, None) is not None:
                self._cost -= cost
                self._costs[head or ""] -= cost
            if value is None:
                return True
        if self._cost + cost > IN_ALL or head is not None and self._costs[head] + cost > A_NAME:
            self.excess += 1
            if len(self.crowded) < CROWDED:
                self.crowded.add(head or topic)
            return False
        there[topic] = value
        self._cost += cost
        self._costs[head or ""] += cost
        return True


class Reader:
    """Reads over one connection, one thing after the other. echo: a topic that is subscribed already, of our own; totals: where
    `retained_passed_over` is counted.
    """

    def __init__(self, session: MqttSession, echo: str, gateway: str, totals: Counter[str] | None = None) -> None:
        self._session, self._echo, self._gateway = session, echo, gateway
        self._heard: set[str] = set()  # parts of the tree where a probe of ours came back
        self._totals = Counter[str]() if totals is None else totals

    @overload
    def reading(self, filters: Sequence[str], parts: Iterable[str]) -> AbstractAsyncContextManager[Read[Claim]]: ...

    @overload
    def reading(
        self, filters: Sequence[str], parts: Iterable[str], make: Callable[[str, bytes], V | None]
    ) -> AbstractAsyncContextManager[Read[V]]: ...

    def reading(
        self, filters: Sequence[str], parts: Iterable[str], make: Callable[[str, bytes], Any] = standing
    ) -> AbstractAsyncContextManager[Read[Any]]:
        """Read, and keep what was read up to date, until the block ends. parts: where the filters are; make: what is kept of a payload that
        is not empty, None where it is passed over (a few hundred bytes at most: payloads are strangers' as well, and have no bound).

        Raises Unread, MqttError.
        """
        return self._reading(filters, tuple(sorted(set(parts))), make)

    @asynccontextmanager
    async def _reading(
        self, filters: Sequence[str], parts: tuple[str, ...], make: Callable[[str, bytes], Any]
    ) -> AsyncIterator[Read[Any]]:
        session = self._session
        probes = {f"{part}probe/{self._gateway}": part for part in parts if part not in self._heard}
        below = {f[:-1]: dict[str, Any]() for f in filters if f.endswith("#") and "+" not in f}
        read, nonce, echoed = Read[Any](below=below), secrets.token_hex(8), asyncio.Event()
        retained, live = session.on_retained, session.on_message

        def take(topic: str, payload: bytes) -> None:
            if topic == self._echo and payload == probe(nonce):
                echoed.set()
            elif topic in probes:
                self._heard.add(probes[topic])
            elif topic.startswith(parts) and not read.put(topic, make(topic, payload) if payload else None):
                self._totals["retained_passed_over"] += 1

        def took_retained(topic: str, payload: bytes) -> None:
            take(topic, payload)
            retained(topic, payload)

        def took(topic: str, payload: bytes) -> None:
            take(topic, payload)
            live(topic, payload)

        session.on_retained, session.on_message = took_retained, took
        wanted = [*filters, *probes]
        try:
            await self._subscribe(wanted)
            for topic in probes:
                self._publish(topic, b"")
            self._publish(self._echo, probe(nonce))
            await self._answered(echoed)
            wide = len(below) < sum(f.endswith("#") for f in filters)
            if wide or not all(below.values()) or not (below or read.found) or not self._heard.issuperset(parts):
                await asyncio.sleep(GRACE_S)  # what has not come may be on its way yet
            read.deaf = set(parts) - self._heard
            yield read
        finally:
            session.on_retained, session.on_message = retained, live
            if not session.closed.done():
                for i in range(0, len(wanted), PACKET):
                    await session.unsubscribe(wanted[i : i + PACKET])

    async def _subscribe(self, filters: Sequence[str]) -> None:
        """One packet after the other: a broker drops what waits for us beyond its own bound (mosquitto: max_queued_messages)."""
        for i in range(0, len(filters), PACKET):
            try:
                await self._session.subscribe([(f, 0) for f in filters[i : i + PACKET]])
            except NotSubscribed as e:
                raise Unread(f"the broker refuses to have {filters[i]} read", advice(filters[i])) from e

    def _publish(self, topic: str, payload: bytes) -> None:
        if self._session.publish(topic, payload, 1) is None:
            raise MqttError("connection lost")

    async def _answered(self, echoed: asyncio.Event) -> None:
        waiting = asyncio.ensure_future(echoed.wait())
        try:
            await asyncio.wait((waiting, self._session.closed), timeout=ECHO_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self._session.closed.done():
            raise MqttError("connection lost")
        if not echoed.is_set():
            raise Unread(f"the broker did not return {self._echo} within {ECHO_S:.0f} s", advice(self._echo))


def advice(topic: str) -> str:
    """Return what to do where our user may not read."""
    return f"let the gateway's user read what it publishes (mosquitto acl_file: topic readwrite {topic})"


def lines(root: str, gateway: str) -> str:
    """Return what a gateway's user needs at a broker to publish below a root, and to read what it published."""
    below = ", ".join(f"{root}/v1/{part}/#" for part in ("node", "area", "ngsi-ld", f"gw/{gateway}"))
    return (
        f"let the gateway's user publish and read below this root (mosquitto acl_file: topic readwrite of each of {below}; what an ACL does not "
        "allow mosquitto drops without a word)"
    )


def crowd(names: Iterable[str]) -> Unread:
    """Return the error where more is retained below names than is kept of one."""
    name = min(names)
    return Unread(
        f"more is retained below {name} than is read of a name",
        f"see who fills it (mosquitto_sub --retained-only -t '{name}#' -F %t) and have it emptied",
    )

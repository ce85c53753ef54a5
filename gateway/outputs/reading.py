"""Reads what a broker retains on a few topics: before anything of a name that has left is emptied, it is looked whose it is by now.

A broker may answer a subscription and deliver nothing, since our user may not read there (mosquitto's acl_file). So reading is shown per
part of the tree, once a connection: by something retained there, or by an empty message of our own below `probe/`. A probe on the
mark's topic shows that the broker has come to the end of what it retains.
"""

from __future__ import annotations

import asyncio
import secrets
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.mqtt_session import MqttError, MqttSession, NotSubscribed
from gateway.outputs.mark import probe

AT_ONCE = 200  # filters read at once
PACKET = 8  # filters in one SUBSCRIBE: AWS IoT takes no more
ECHO_S = 10.0
GRACE_S = 0.2  # a broker may deliver what it retains behind what is new


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
class Read:
    """What stands at the broker. found: by topic, kept up to date while it is read. heard: parts of the tree where something stands; deaf:
    parts that our user may not read."""

    found: dict[str, bytes] = field(default_factory=dict)
    heard: set[str] = field(default_factory=set)
    deaf: set[str] = field(default_factory=set)

    def of(self, filters: Iterable[str]) -> dict[str, bytes]:
        """Return what stands on the topics of some filters."""
        topics, mine = sorted(self.found), dict[str, bytes]()
        for f in filters:
            if not f.endswith("#"):
                mine |= {f: self.found[f]} if f in self.found else {}
                continue
            head = f[:-1]
            for topic in topics[bisect_left(topics, head) :]:
                if not topic.startswith(head):
                    break
                mine[topic] = self.found[topic]
        return mine


class Reader:
    """Reads over one connection, one thing after the other. echo: a topic that is subscribed already, of our own."""

    def __init__(self, session: MqttSession, echo: str, gateway: str) -> None:
        self._session, self._echo, self._gateway = session, echo, gateway
        self._heard: set[str] = set()  # parts of the tree that our user reads

    @asynccontextmanager
    async def reading(
        self,
        filters: Sequence[str],
        parts: Iterable[str],
        keep: Callable[[str, bytes], bool] = lambda _topic, _payload: True,
    ) -> AsyncIterator[Read]:
        """Read, and keep what was read up to date, until the block ends. parts: where the filters are; keep: what is not passed over.

        Raises Unread, MqttError.
        """
        session, parts = self._session, tuple(sorted(set(parts)))
        probes = {f"{part}probe/{self._gateway}": part for part in parts if part not in self._heard}
        read, nonce, echoed = Read(), secrets.token_hex(8), asyncio.Event()
        retained, live = session.on_retained, session.on_message

        def take(topic: str, payload: bytes) -> None:
            if topic == self._echo and payload == probe(nonce):
                echoed.set()
            elif topic in probes:
                self._heard.add(probes[topic])
            elif topic.startswith(parts):
                read.heard |= {part for part in parts if topic.startswith(part)} - read.heard
                if payload and keep(topic, payload):
                    read.found[topic] = payload
                else:
                    read.found.pop(topic, None)

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
            if self._quiet(filters, read.found) or not self._heard.issuperset(parts):
                await asyncio.sleep(GRACE_S)
            self._heard |= read.heard
            read.deaf = set(parts) - self._heard
            yield read
        finally:
            session.on_retained, session.on_message = retained, live
            if not session.closed.done():
                for i in range(0, len(wanted), PACKET):
                    await session.unsubscribe(wanted[i : i + PACKET])

    async def _subscribe(self, filters: Sequence[str]) -> None:
        packets = [[(f, 0) for f in filters[i : i + PACKET]] for i in range(0, len(filters), PACKET)]
        results = await asyncio.gather(*(self._session.subscribe(p) for p in packets), return_exceptions=True)
        for packet, result in zip(packets, results, strict=True):
            if isinstance(result, NotSubscribed):
                raise Unread(f"the broker refuses to have {packet[0][0]} read", advice(packet[0][0]))
            if isinstance(result, BaseException):
                raise result

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

    @staticmethod
    def _quiet(filters: Sequence[str], found: Mapping[str, bytes]) -> bool:
        """True when nothing has come of something, which may be on its way yet."""
        heads = {topic[: i + 1] for topic in found for i, c in enumerate(topic) if c == "/"}
        return any(f[:-1] not in heads for f in filters if f.endswith("#")) or not found


def advice(topic: str) -> str:
    """Return what to do where our user may not read."""
    return f"let the gateway's user read what it publishes (mosquitto acl_file: topic readwrite {topic})"

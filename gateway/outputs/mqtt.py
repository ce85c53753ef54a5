"""An MQTT destination: a bounded window in flight, cursor moved by PUBACK.

At least once: what was sent but not acknowledged is sent again after a reconnect or a restart, at most SPAN events. Among those
only the newest retained payload of each topic is repeated, so that an old value never replaces a newer one, not even briefly.
Alarms go out before any backlog, in a lane with a cursor of its own; what they say on retained topics is not said again by older events.
A destination that is new is told of every node first; Home Assistant is told again whenever it says that it has started.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from gateway.config import MqttOutputConfig
from gateway.core.model import Event, Node
from gateway.health import Problem, twin
from gateway.metrics import Metrics
from gateway.mqtt_session import MqttError, MqttSession, NotSubscribed
from gateway.outputs import FORMATS
from gateway.outputs.destination import Destination
from gateway.outputs.message import Message, json
from gateway.outputs.track import SPAN, Order
from gateway.outputs.twin import Twin
from gateway.store.engine import Engine, Entry
from gateway.supervise import caught

INFO_S = 60.0
CLOSE_S = 5.0
PUBACK_S = 30.0
REJECTS_PER_S = 20
RESEND_S = (0.5, 5.0)  # random delay before Home Assistant is told again: it is busy, and we are not the only device
DISCOVERY = "homeassistant"

log = structlog.get_logger(__name__)


class MqttOutput(Destination):
    """One broker and root topic; publishes gw state (also as last will), gw info and gw reject beside the formats."""

    FAULTS = (MqttError,)
    EXPRESS = True

    def __init__(
        self,
        config: MqttOutputConfig,
        gateway: str,
        engine: Engine,
        metrics: Metrics,
        info: Callable[[], dict[str, Any]],
        nodes: Mapping[int, Node],
    ) -> None:
        super().__init__(config, gateway, engine, metrics, info, nodes)
        self._config = config
        self.known = replace(self.known, discovery=config.discovery)
        self._formats = {name: FORMATS[name] for name in config.formats}
        self._session: MqttSession | None = None
        self._room = asyncio.Event()
        self._flight: dict[int, tuple[Order, int] | None] = {}  # message id -> event and its lane
        # time of what alarms that overtook the backlog have said on retained topics: older values of it are old news then
        self._overtaken: dict[str, float] = {}
        self._introduced = (
            -1 if self._track.cursor else engine.newest()
        )  # events up to here say nothing new of what nodes are
        self._told_all = bool(self._track.cursor)
        self._started = asyncio.Event()  # Home Assistant has
        self._taken = 0  # PUBACKs
        self._twin = Twin()
        self._rejects = 0
        self._rejects_since = 0.0

    def reject(self, body: dict[str, Any]) -> None:
        """Publish why a frame was refused: QoS 0, and at most REJECTS_PER_S, since a flood must not become ours."""
        session = self._session
        if session is None:
            return
        now = asyncio.get_running_loop().time()
        if now - self._rejects_since >= 1.0:
            self._rejects, self._rejects_since = 0, now
        self._rejects += 1
        if self._rejects <= REJECTS_PER_S:
            session.publish(self._gw("reject"), json(body))

    def tell(self, leaf: str, body: dict[str, Any]) -> None:
        """Publish gw/<gw>/<leaf>, retained."""
        if self._session is not None:
            self._session.publish(self._gw(leaf), json(body), 1, True)

    async def open(self) -> None:
        """Connect, and say that this gateway is there."""
        will = (self._gw("state"), b"offline")
        session = MqttSession(
            self._config.broker, self.client_id, will, partial(caught, self._metrics, f"output {self.name}")
        )
        session.on_puback = self._acked
        session.on_message = self._heard
        await session.connect()
        self._session = session
        self._flight.clear()
        # before our own is published: what stands there says whether someone else has published since we did
        await self._listen(session, self._gw("info"))
        session.publish(self._gw("state"), b"online", 1, True)
        self._publish_info()
        if DISCOVERY in self._formats:
            await self._listen(session, f"{self._config.discovery}/status")

    @property
    def client_id(self) -> str:
        """What the broker knows us by."""
        return f"citymote-{self._gateway}-out-{self.name}"

    async def _listen(self, session: MqttSession, topic: str) -> None:
        """Subscribe where we may: an output that may only write is one, too."""
        try:
            await session.subscribe(topic, 1)
        except NotSubscribed as e:
            log.warning("output_deaf", output=self.name, topic=topic, error=str(e), next=e.hint)

    def problems(self) -> Iterator[Problem]:
        """Say that another gateway has our id."""
        other = self._twin.other()
        if other:
            yield twin(f"output {self.name}", self.client_id, other)
        elif self.backoff.taken_over:
            yield twin(f"output {self.name}", self.client_id)

    async def shut(self) -> None:
        """Disconnect."""
        session, self._session = self._session, None
        if session is not None:
            await session.disconnect()

    async def farewell(self) -> None:
        """Publish the closing counters and `offline`, wait for the broker to have them, and disconnect."""
        await super().farewell()
        session = self._session
        if session is None:
            return
        self._publish_info()
        last = session.publish(self._gw("state"), b"offline", 1, True)
        if last is not None:
            gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            session.on_puback = lambda mid: gone.set_result(None) if mid == last and not gone.done() else None
            await asyncio.wait((gone, session.closed), timeout=CLOSE_S, return_when=asyncio.FIRST_COMPLETED)
        await session.disconnect()

    async def serve(self) -> None:
        """Deliver until the connection ends, which raises MqttError."""
        session = self._session
        assert session is not None
        tasks = [
            asyncio.create_task(self._deliver(), name=f"deliver-{self.name}"),
            asyncio.create_task(self._tell_info(), name=f"info-{self.name}"),
            asyncio.create_task(self._expect_pubacks(), name=f"pubacks-{self.name}"),
        ]
        if DISCOVERY in self._formats:
            tasks.append(asyncio.create_task(self._tell_home_assistant(), name=f"discovery-{self.name}"))
        try:
            await asyncio.wait((session.closed, *tasks), return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and (error := task.exception()) is not None:
                    raise error
            raise MqttError(f"{self._config.broker.host}:{self._config.broker.port}: {session.closed.result()}")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _deliver(self) -> None:
        if not self._told_all:
            await self._introduce(self._formats)
            self._told_all = True
        await self._look_ahead()
        await self.deliver()

    async def take(self, entries: Sequence[Entry]) -> None:
        """Publish events; their PUBACKs finish them. Those of the express lane go their own way."""
        track, lane = self._track, self._track.lane
        assert lane is not None
        overtaken = self._overtaken
        if overtaken and track.sent >= lane.sent:
            overtaken.clear()
        newest: dict[str, float] = {}
        if track.sent < track.highest:  # look over all that may have been sent before, not only this batch
            newest = self._newest_of(e for e in self._engine.fetch(track.sent, SPAN) if not e.express)
        for n, entry in enumerate(entries, 1):
            messages = [] if entry.express else self._messages(entry)
            if overtaken or newest:
                messages = [m for m in messages if _is_news(m, newest) and _is_news(m, overtaken)]
            await self._hand_over(track, entry.seq, messages)
            if n % 16 == 0:
                await asyncio.sleep(0)  # a long backlog must not keep the links waiting

    async def take_express(self, entries: Sequence[Entry]) -> None:
        """Publish alarms before the backlog they belong to."""
        track, lane = self._track, self._track.lane
        assert lane is not None
        newest: dict[str, float] = {}
        if lane.sent < lane.highest:
            newest = self._newest_of(self._engine.fetch_express(lane.sent, SPAN))
        for entry in entries:
            messages = self._messages(entry)
            if entry.seq > track.sent + 1:
                self._overtakes(messages)
            await self._hand_over(lane, entry.seq, [m for m in messages if _is_news(m, newest)])

    async def _hand_over(self, lane: Order, seq: int, messages: list[Message]) -> None:
        lane.begin(seq, len(messages) + 1)  # one more, so that it cannot be finished before all are out
        for m in messages:
            await self._publish(m, (lane, seq))
        lane.finish(seq)

    def _overtakes(self, messages: Iterable[Message]) -> None:
        for m in messages:
            if m.newest is not None:
                self._overtaken[m.topic] = max(m.newest, self._overtaken.get(m.topic, m.newest))

    async def _look_ahead(self) -> None:
        """Learn what alarms beyond the backlog say, also those that were sent before this process started."""
        at = self._track.cursor
        while entries := self._engine.fetch_express(at, 64):
            for entry in entries:
                self._overtakes(self._messages(entry))
            at = entries[-1].seq
            await asyncio.sleep(0)

    def _newest_of(self, entries: Iterable[Entry]) -> dict[str, float]:
        newest: dict[str, float] = {}
        for entry in entries:
            for m in self._messages(entry):
                if m.newest is not None and m.newest > newest.get(m.topic, float("-inf")):
                    newest[m.topic] = m.newest
        return newest

    def _messages(self, entry: Entry) -> list[Message]:
        event = self.narrow(entry.event)
        if event is None:
            return []
        if event.meta is not None and entry.seq <= self._introduced:
            event = replace(event, meta=None)
        return self._say(event, self._formats)

    def _say(self, event: Event, formats: Iterable[str]) -> list[Message]:
        root, known = self._config.root, self.known
        return [m for name in formats for m in FORMATS[name](event, root, known)]

    async def _publish(self, m: Message, of: tuple[Order, int] | None = None) -> None:
        session = self._session
        while len(self._flight) >= self._config.window:
            self._room.clear()
            await self._room.wait()
        mid = session.publish(m.topic, m.payload, m.qos, m.retain) if session is not None else None
        if mid is None:
            raise MqttError("connection lost")
        self._metrics.totals["messages"] += 1
        if m.qos:
            self._flight[mid] = of
        elif of is not None:
            of[0].finish(of[1])

    def _acked(self, mid: int) -> None:
        self._taken += 1
        of = self._flight.pop(mid, None)
        if of is not None:
            of[0].finish(of[1])
        self._room.set()

    async def _introduce(self, formats: Iterable[str]) -> None:
        """Publish what every node is, in some of the formats."""
        for event in await self.introductions():
            for m in self._say(event, formats):
                await self._publish(m)

    def _heard(self, topic: str, payload: bytes) -> None:
        if topic == self._gw("info"):
            if self._twin.heard(payload):
                log.warning(
                    "twin",
                    output=self.name,
                    other=self._twin.other(),
                    next="give one of the gateways another gateway.id and restart it",
                )
            return
        if topic == f"{self._config.discovery}/status" and payload == b"online":
            self._started.set()

    async def _tell_home_assistant(self) -> None:
        while True:
            await self._started.wait()
            await asyncio.sleep(random.uniform(*RESEND_S))
            self._started.clear()
            await self._introduce((DISCOVERY,))
            self._metrics.totals["discovery_resent"] += 1

    async def _expect_pubacks(self) -> None:
        """A broker that takes messages and acknowledges none for PUBACK_S is half dead: connect anew. Raises MqttError."""
        before, since = self._taken, asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(PUBACK_S / 10)
            now = asyncio.get_running_loop().time()
            if self._taken != before or not self._flight:
                before, since = self._taken, now
            elif now - since >= PUBACK_S:
                self._metrics.totals["output_stalls"] += 1
                raise MqttError(
                    f"{self._config.broker.host}:{self._config.broker.port}: no PUBACK for {PUBACK_S:.0f} s"
                )

    async def _tell_info(self) -> None:
        while True:
            await asyncio.sleep(INFO_S)
            self._publish_info()

    def _publish_info(self) -> None:
        if self._session is not None:
            body = {**self._info(), "formats": list(self._config.formats)}
            self._session.publish(self._gw("info"), json(body), 1, True)
            self._twin.published(str(body.get("instance", "")))

    def _gw(self, leaf: str) -> str:
        return f"{self._config.root}/v1/gw/{self._gateway}/{leaf}"


def _is_news(m: Message, newest: Mapping[str, float]) -> bool:
    return m.newest is None or m.newest >= newest.get(m.topic, m.newest)

"""An MQTT destination: a bounded window in flight, cursor moved by PUBACK.

At least once: what was sent but not acknowledged is sent again after a reconnect or a restart, at most SPAN events. What is retained
has one rule: an event publishes its retained topics when it is newer than the connection; everything older is said by the pass behind
the connection (resync.py), from the facts as they are then. So no retained topic ever steps back, whatever the broker remembers.
Alarms go out before any backlog, in a lane with a cursor of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import structlog

from gateway import __version__
from gateway.config import MqttOutputConfig
from gateway.core.current import NOTHING, Current, subject_of
from gateway.core.model import Event, Node
from gateway.core.value import replace
from gateway.health import Problem, twin
from gateway.metrics import Metrics
from gateway.mqtt_session import MqttError, MqttSession, NotSubscribed
from gateway.outputs import FORMATS, RETAINED, WHOLE
from gateway.outputs.contested import Contested
from gateway.outputs.destination import Destination
from gateway.outputs.flight import Flight
from gateway.outputs.message import Message, json
from gateway.outputs.names import Names
from gateway.outputs.reading import lines
from gateway.outputs.refusal import Refusals
from gateway.outputs.renamed import anew, spared
from gateway.outputs.resync import Resync
from gateway.outputs.retained import Tree, shape_of
from gateway.outputs.siblings import DISCOVERY
from gateway.outputs.track import Order
from gateway.outputs.twin import Twin
from gateway.store.engine import Engine, Entry
from gateway.store.ledger import Place
from gateway.supervise import caught

INFO_S = 60.0
CLOSE_S = 5.0
PUBACK_S = 30.0
REJECTS_PER_S = 20


def place_of(config: MqttOutputConfig) -> Place:
    """Return the row of an output in the ledger."""
    address = f"{config.broker.host}:{config.broker.port}"
    b = config.broker
    bare = b.username is None and b.ca_file is None and b.cert_file is None
    return Place(config.name, address, shape_of(config, __version__), bare=bare)


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
        self._formats = config.formats
        self._session: MqttSession | None = None
        place = place_of(config)
        self._tree = Tree(shape_of(config, __version__), gateway, nodes, engine.ledger.entry)
        self.known = self._tree.known
        self._refusals = Refusals(config.name, metrics)
        self._flight = Flight(config.window, metrics, self._refusals)
        self.resync = Resync(
            config.name, place.key, place.address, self._tree, engine, self._track, self._flight, metrics
        )
        self._contested = Contested(config.name, config.root, nodes, self.resync, metrics)
        self._twin = Twin()
        self._names = Names(config.filter.visibility, nodes)
        self._rejects = 0
        self._rejects_since = 0.0

    def reload(self, nodes: Mapping[int, Node]) -> None:
        """Go on with another registry."""
        super().reload(nodes)
        self._tree.use(nodes)
        self._contested.use(nodes)
        self._names.use(nodes)
        self.resync.wake()

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
            session.publish(self._gw("reject"), json(self._names.masked(body)))

    def tell(self, leaf: str, body: dict[str, Any]) -> None:
        """Publish gw/<gw>/<leaf>, retained."""
        self._publish_own(leaf, json(self._names.masked(body)))

    async def open(self) -> None:
        """Connect, and say that this gateway is there."""
        will = (self._gw("state"), b"offline")
        session = MqttSession(
            self._config.broker, self.client_id, will, partial(caught, self._metrics, f"output {self.name}")
        )
        session.on_message = self._heard
        session.on_retained = partial(self._heard, retained=True)
        await session.connect()
        self._session = session
        self._flight.begin(session)
        self.resync.begin(session)
        self._contested.begin()
        try:
            # before our own is published: what stands there says whether someone else has published since we did
            await self._listen(session, self._gw("info"))
            self.greet()
            await self._listen(session, self.resync.mark_topic)
            if DISCOVERY in self._formats:
                await self._listen(session, f"{self._config.discovery}/status")
        except MqttError:
            self.explained()
            raise

    def explained(self) -> bool:
        """The connection has ended: True when a message of ours is the reason."""
        session = self._session
        return session is not None and session.closed.done() and self._flight.lost()

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
        """Say that another gateway has our id, what cannot be read at the broker, and what is left undone for it."""
        resync = self.resync
        if resync.problem is not None:
            yield Problem(
                "mark_unread",
                f"output {self.name} cannot read its mark {resync.problem}, so it publishes everything after every connect",
                lines(self._config.root, self._gateway),
            )
        if resync.former.unread is not None:
            yield Problem(
                "retained_unread",
                f"output {self.name}: what this gateway published under an id that it had before stays at the broker, since it cannot be read "
                f"whether another gateway has that id: {resync.former.unread[0]}",
                resync.former.unread[1],
            )
        if resync.unread is not None:
            yield Problem(
                "retained_unread",
                f"output {self.name}: what it published under names that have left stays at the broker, since it cannot be read whether it "
                f"is another gateway's by now: {resync.unread[0]}",
                resync.unread[1],
            )
        yield from self._contested.problems()
        yield from self._refusals.problems()
        other = self._twin.other()
        if other:
            yield twin(f"output {self.name}", self.client_id, other)
        elif self.backoff.taken_over:
            yield twin(f"output {self.name}", self.client_id)

    async def shut(self) -> None:
        """Disconnect."""
        session, self._session = self._session, None
        self._flight.end()
        if session is not None:
            await session.disconnect()

    async def drain(self) -> None:
        """Wait for the events, and for the pass of the resync that may be under way over this connection."""
        await super().drain()
        session = self._session
        if session is not None and not session.closed.done():
            done = asyncio.ensure_future(self.resync.done.wait())
            await asyncio.wait((done, session.closed), return_when=asyncio.FIRST_COMPLETED)
            done.cancel()

    def greet(self) -> None:
        """Publish state and info again."""
        self._publish_own("state", b"online")
        self._publish_info()

    @property
    def tree(self) -> Tree:
        """What this output is to have retained."""
        return self._tree

    async def farewell(self, state: bool = True) -> None:
        """Publish the closing counters and `offline`, wait for the broker to have them, and disconnect."""
        await super().farewell(state)
        session = self._session
        if session is None:
            return
        self.resync.mark()
        if not state:
            await session.disconnect()
            return
        self._publish_info()
        session.release()
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
            asyncio.create_task(self.deliver(), name=f"deliver-{self.name}"),
            asyncio.create_task(self.resync.run(), name=f"resync-{self.name}"),
            asyncio.create_task(self._contested.run(session), name=f"contested-{self.name}"),
            asyncio.create_task(self._tell_info(), name=f"info-{self.name}"),
            asyncio.create_task(self._expect_pubacks(), name=f"pubacks-{self.name}"),
        ]
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

    def _heard(self, topic: str, payload: bytes, retained: bool = False) -> None:
        if self._contested.heard(topic, payload):
            return
        if topic != self._gw("info"):
            self.resync.heard(topic, payload, retained)
        elif self._twin.heard(payload, retained):
            log.warning(
                "twin", output=self.name, other=self._twin.other(),
                next="give one of the gateways another gateway.id and restart it",
            )  # fmt: skip

    async def take(self, entries: Sequence[Entry]) -> None:
        """Publish events; their PUBACKs finish them. Those of the express lane go their own way."""
        for n, entry in enumerate(entries, 1):
            if entry.express:
                self._track.begin(entry.seq, 1)
                self._track.finish(entry.seq)
            else:
                await self._hand_over(self._track, entry)
            if n % 16 == 0:
                await asyncio.sleep(0)  # a long backlog must not keep the links waiting
        self.resync.said.passed(self._track)

    async def take_express(self, entries: Sequence[Entry]) -> None:
        """Publish alarms before the backlog they belong to."""
        lane = self._track.lane
        assert lane is not None
        for entry in entries:
            await self._hand_over(lane, entry)

    async def _hand_over(self, lane: Order, entry: Entry) -> None:
        """Publish one event: what is retained without a pause, so that a pass of the resync comes before or behind it."""
        await self._flight.room()
        retained, passing = self._messages(entry)
        done = partial(lane.finish, entry.seq)
        lane.begin(
            entry.seq, len(retained) + len(passing) + 1
        )  # one more, so that it cannot be finished before all are out
        subject = subject_of(entry.event) or ""
        for m in retained:
            self._flight.send(m, done, subject)
        for m in passing:
            await self._flight.room()
            self._flight.send(m, done)
        done()

    def _messages(self, entry: Entry) -> tuple[list[Message], list[Message]]:
        """Return what an event publishes: retained, and in passing."""
        said = self.resync.said
        event = self.narrow(entry.event)
        found = [] if event is None else self._say(event)
        passing = [m for m in found if not m.retain]
        subject = subject_of(entry.event)
        if subject is None or entry.seq <= self.resync.quiet or said.is_old(subject, entry.seq):
            return [], passing
        if not self._is_its(subject, entry.event):
            return self._anew(subject, entry), passing
        retained = [m for m in found if m.retain]
        for name in self._formats:
            if name in WHOLE:
                retained += self._whole(entry.event, name)
        if not all(m.payload for m in retained):
            _, c = self._engine.ledger.current(subject) or (0, NOTHING)
            retained = spared(retained, subject, c, self._beside())
        retained = [m for m in retained if said.is_news(m.topic, entry.seq)]
        if entry.express and entry.seq > self._track.sent + 1:
            for m in retained:
                said.topic(m.topic, entry.seq)
        return retained, passing

    def _say(self, event: Event) -> list[Message]:
        """Return the messages that an event alone determines."""
        root, known = self._config.root, self.known
        found: list[Message] = []
        for name in self._formats:
            if name not in WHOLE:
                found += FORMATS[name](event, root, known)
            elif event.alarm is not None or event.area is not None:
                alone = replace(event, columns=(), latest=(), meta=None, online=None, status=None)
                found += FORMATS[name](alone, root, known)
        return found

    def _is_its(self, subject: str, e: Event) -> bool:
        """True when an event speaks of its subject under the name and in the circle that it has."""
        if e.area is not None:
            return self._tree.shows_area(subject, e.visibility, e.area.name)
        node = self.known.nodes.get(e.node)
        return node is not None and node.name == e.name

    def _anew(self, subject: str, entry: Entry) -> list[Message]:
        """Return what an event of a former name leaves retained under the one of now; nothing of an area, or of who has left."""
        if entry.event.area is not None or entry.event.node not in self.known.nodes:
            return []
        seq, c = self._engine.ledger.current(subject) or (0, NOTHING)
        self.resync.said.subject(subject, max(seq, entry.seq))
        return anew(self._tree, subject, c, entry.seq, self._beside())

    def _beside(self) -> list[Tree]:
        """Return what this gateway's other outputs at the broker are to have retained."""
        return [o.tree for o in self.resync.neighbours.here()]

    def _whole(self, e: Event, name: str) -> list[Message]:
        """Return what an event changes in a format whose messages gather many facts."""
        of_device = e.meta is not None or e.online is not None or e.status is not None
        if e.area is not None or not (e.latest or of_device):
            return []
        subject = str(e.node)
        _, c = self._engine.ledger.current(subject) or (0, NOTHING)
        seen = self._tree.see(subject, Current(c.visibility, c.online, c.meta, c.device if of_device else None,
                                               c.values if e.latest else {}))  # fmt: skip
        return [] if seen is None else RETAINED[name](*seen[:2], self._config.root, seen[2], self.known)

    async def _expect_pubacks(self) -> None:
        """A broker that takes messages and acknowledges none for PUBACK_S is half dead: connect anew. Raises MqttError."""
        before, since = self._flight.taken, asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(PUBACK_S / 10)
            now = asyncio.get_running_loop().time()
            if self._flight.taken != before or not len(self._flight):
                before, since = self._flight.taken, now
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
            self._publish_own("info", json(body))
            self._twin.published(str(body.get("instance", "")), str(body.get("started", "")))

    def _publish_own(self, leaf: str, payload: bytes) -> None:
        """Publish what this gateway states of itself, retained; nothing while the broker is away."""
        if self._session is None:
            return
        try:
            self._flight.beside(Message(self._gw(leaf), payload, retain=True))
        except MqttError as e:  # published again after the next connect
            log.info("gateway_leaf_unsent", output=self.name, leaf=leaf, error=str(e))

    def _gw(self, leaf: str) -> str:
        return f"{self._config.root}/v1/gw/{self._gateway}/{leaf}"

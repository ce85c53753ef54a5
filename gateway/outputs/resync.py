"""Makes a broker's memory true: learns from the retained mark what the broker still knows, and publishes again all that is newer.

The mark is {"store", "seq", "generation"}: every retained message that follows from events up to `seq` and from the registry and
configuration as of `generation` was acknowledged by this broker, and is in its memory, since what is retained later is remembered later.
`turn` counts the connections, in the store before the broker hears of it. A broker without the mark is given everything; where the mark
is another store's or ahead of this one's cursor or turn, the store was set back or exchanged, and what the broker knows beyond is swept.
Facts are read, rendered and handed over without a pause in between, so nothing newer can be overtaken by them.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import structlog

from gateway.core.current import NOTHING, Current
from gateway.core.shape import Entry
from gateway.core.value import replace
from gateway.metrics import Metrics
from gateway.mqtt_session import MqttSession
from gateway.outputs.flight import Flight
from gateway.outputs.message import Message, json
from gateway.outputs.retained import Tree
from gateway.outputs.sweep import sweep
from gateway.outputs.track import Track
from gateway.store.engine import Engine, StoreError
from gateway.store.ledger import Known

PROBE_S = 5.0  # for the broker to return our own message
GRACE_S = 0.2  # a broker may deliver what it retained behind what is new
MARK_S = 5.0
LOOK_S = 1.0  # how often requests of the operator are looked for
PAGE = 200  # subjects read at once
HEARD_S = 3.0  # for a probe to reach another output at the same broker
NEVER = 1 << 62
LONGEST_PROBE = 64  # bytes
RESEND_S = (
    0.5,
    5.0,
)  # random delay before Home Assistant is published to again: it is busy, and we are not the only device
DISCOVERY = "homeassistant"
NATIVE = "native"

log = structlog.get_logger(__name__)


Count = Annotated[int, msgspec.Meta(ge=-1, le=(1 << 63) - 1)]
"""What fits a column of the store; -1: nothing yet."""


class Mark(msgspec.Struct, frozen=True):
    """What the broker remembers."""

    store: str
    seq: Count
    generation: Count
    turn: Count


@dataclass
class Said:
    """What was published of newer events than the lanes have reached: older events must not say it again."""

    def __post_init__(self) -> None:
        self._topics: dict[str, int] = {}
        self._subjects: dict[str, int] = {}
        self._up_to = 0

    def topic(self, topic: str, seq: int) -> None:
        """A topic holds what event `seq` said."""
        self._topics[topic] = max(seq, self._topics.get(topic, 0))
        self._up_to = max(self._up_to, seq)

    def subject(self, subject: str, seq: int) -> None:
        """All topics of a subject hold what is true as of event `seq`."""
        self._subjects[subject] = max(seq, self._subjects.get(subject, 0))
        self._up_to = max(self._up_to, seq)

    def is_old(self, subject: str, seq: int) -> bool:
        """True when event `seq` can say nothing new of its subject."""
        return seq <= self._subjects.get(subject, 0)

    def is_news(self, topic: str, seq: int) -> bool:
        """True when event `seq` may be published on a topic."""
        return seq >= self._topics.get(topic, 0)

    def passed(self, track: Track) -> None:
        """Forget what no event can be older than any more."""
        if self._up_to and track.sent >= self._up_to and (track.lane is None or not track.lane.waits):
            self.forget()

    def forget(self) -> None:
        """Start anew."""
        self._topics.clear()
        self._subjects.clear()
        self._up_to = 0


class Resync:
    """One connection after the other of one output. place: the output's row in the ledger; problem: what keeps the mark from being read."""

    def __init__(
        self,
        output: str,
        place: str,
        address: str,
        tree: Tree,
        engine: Engine,
        track: Track,
        flight: Flight,
        metrics: Metrics,
    ) -> None:
        self.output, self._place, self._address = output, place, address
        self._tree, self._engine, self._track, self._flight, self._metrics = tree, engine, track, flight, metrics
        self.said = Said()
        self.quiet = 0  # retained topics of events up to here are the business of the pass behind the connection
        self.problem: str | None = None
        self._session: MqttSession | None = None
        self._wanted = asyncio.Event()
        self._started = asyncio.Event()  # Home Assistant has
        self._answered = asyncio.Event()
        self._nonce = ""
        self._strange: deque[bytes] = deque(maxlen=16)  # what others published on the mark's topic lately
        self._kept: Mark | None = None
        self._open = 0  # messages of ours that are not acknowledged
        self._acked = asyncio.Event()
        self._turn, self._may_mark = 0, False
        self._generation = -1  # registry and configuration that the broker's memory agrees with
        self._as_of = (
            engine.ledger.generation
        )  # that `tree` agrees with: the ledger is ahead of it while a reload is under way
        self.done = asyncio.Event()  # the broker's memory is true
        self._marked: Mark | None = None
        self.siblings: Callable[[], Sequence[Resync]] = tuple  # of all outputs, this one among them
        self._here: dict[
            str, bool
        ] = {}  # outputs under another address: whether they are at this broker, where that is known
        self._spared: int | None = None  # generation behind which topics were spared for one that may be elsewhere
        self._all_again = False

    @property
    def mark_topic(self) -> str:
        """Where the mark is."""
        return mark_topic(self._tree, self.output)

    def begin(self, session: MqttSession) -> None:
        """Use a new connection, before anything is delivered over it."""
        self._session = session
        self.said.forget()
        self.quiet = self._engine.newest()
        self._answered.clear()
        self._kept, self._marked, self._open, self._generation = None, None, 0, -1
        self._here, self._spared = {}, None
        self.done.clear()

    def wake(self) -> None:
        """The registry or the outputs have changed, and `tree` follows them."""
        self._as_of = self._engine.ledger.generation
        self._wanted.set()

    def again(self) -> None:
        """Publish everything again: something else may have been retained on topics of this output."""
        self._all_again = True
        self._wanted.set()

    def heard(self, topic: str, payload: bytes, retained: bool = False) -> bool:
        """Take a message; False when it is not for us."""
        if topic == f"{self._tree.shape.discovery}/status":
            if payload == b"online" and not retained:
                self._started.set()
            return True
        if topic != self.mark_topic:
            return False
        if retained:
            self._kept = mark_of(payload)
        elif self._nonce and payload == probe(self._nonce):
            self._answered.set()
        elif len(payload) <= LONGEST_PROBE:
            self._strange.append(payload)
        return True

    @property
    def hears(self) -> bool | None:
        """True when what is published on the mark's topic at our broker reaches us, False when it does not, None while that is not known."""
        if self._session is None or self._session.closed.done():
            return None
        return True if self._answered.is_set() else False if self.problem is not None else None

    def has_heard(self, nonce: str) -> bool:
        """True when somebody's probe has reached us: whoever published it is at our broker, by whatever address."""
        return probe(nonce) in self._strange

    async def run(self) -> None:
        """Make the broker's memory true, and keep it so, until cancelled. Raises MqttError."""
        ledger = self._engine.ledger
        kept = await self._learn()
        seq, generation = -1, -1
        self._turn = ledger.turn(self._place) + 1
        trusted = kept is not None and self._agrees(kept)
        if kept is not None and trusted:
            seq, generation = kept.seq, kept.generation
        self._may_mark = await self._stored(ledger.keep_turn(self._place, self._turn))
        if trusted or kept is None:  # one that is swept keeps its mark until that is done
            self._remember(Mark(ledger.life, seq, generation, self._turn))
        began, before = asyncio.get_running_loop().time(), self._metrics.totals["retained_again"]
        await self._pass(seq, generation, kept is not None and not trusted)
        if (n := self._metrics.totals["retained_again"] - before) > 0:
            log.info("output_resynced", output=self.output, since=seq, messages=n,
                     seconds=round(asyncio.get_running_loop().time() - began, 1))  # fmt: skip
        self.done.set()
        tasks = [asyncio.create_task(self._keep_true(), name=f"true-{self.output}")]
        if DISCOVERY in self._tree.shape.formats:
            tasks.append(asyncio.create_task(self._births(), name=f"discovery-{self.output}"))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _agrees(self, kept: Mark) -> bool:
        """True when a mark is one that this store, as it is, has had published, and what has changed since is known."""
        ledger = self._engine.ledger
        _, place = ledger.places().get(self._place, (0, None))
        return (
            kept.store == ledger.life
            and kept.seq <= self._track.cursor
            and kept.generation <= ledger.generation
            and kept.turn < self._turn
            and (kept.generation < 0 or place is None or kept.generation >= place.since)
        )

    async def _stored(self, job: Awaitable[int]) -> bool:
        """True when a job of the store was done; what could not be noted is noted, or done, again after the next connect."""
        try:
            await job
        except StoreError as e:
            log.warning("ledger_not_kept", output=self.output, error=str(e), next=e.hint or "look at the disk")
            return False
        return True

    async def _keep_true(self) -> None:
        ledger, marked_at = self._engine.ledger, float("-inf")
        while True:
            now = asyncio.get_running_loop().time()
            if now - marked_at >= MARK_S and self.mark():
                marked_at = now
            self._wanted.clear()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            if self._as_of != self._generation:
                await self._pass(NEVER, self._generation)
                marked_at = float("-inf")
            if self._spared is not None and await self._ask_siblings():
                spared, self._spared = self._spared, None
                await self._pass(NEVER, spared)
            if self._all_again:
                self._all_again = False
                await self._pass(-1, self._generation)
            for request, subject in ledger.requests(self.output):
                log.info("republish", output=self.output, subject=subject or "all")
                if subject:
                    await self._say(self._turn_of(-1, -1), subject)
                    await self._settled()
                else:
                    await self._pass(-1, -1)
                await self._stored(ledger.granted(request))

    def mark(self) -> bool:
        """Publish the mark where it has moved; nothing while a pass is under way."""
        ledger, track, lane = self._engine.ledger, self._track, self._track.lane
        if not self.done.is_set() or self._session is None or self._open:
            return False
        seq = min(track.durable, track.cursor)
        if lane is not None and (lane.waits or lane.cursor != lane.sent or lane.durable != lane.cursor):
            seq = min(seq, lane.durable)
        generation = self._generation if self._spared is None else min(self._generation, self._spared)
        return self._remember(Mark(ledger.life, seq, generation, self._turn))

    def _remember(self, mark: Mark) -> bool:
        session = self._session
        if (
            session is None
            or not self._may_mark
            or mark == self._marked
            or session.publish(self.mark_topic, json(mark), 1, True) is None
        ):
            return False
        self._marked = mark
        return True

    async def _learn(self) -> Mark | None:
        """Return the broker's mark; None when there is none, or it cannot be read."""
        session = self._session
        assert session is not None
        self._nonce = secrets.token_hex(8)
        session.publish(self.mark_topic, probe(self._nonce), 1, False)
        try:
            async with asyncio.timeout(PROBE_S):
                await self._answered.wait()
        except TimeoutError:
            self.problem = self.mark_topic
            log.warning("mark_unread", output=self.output, topic=self.mark_topic,
                        next=f"let this user read it at the broker (mosquitto acl_file: topic readwrite {self.mark_topic})")  # fmt: skip
            return None
        self.problem = None
        if self._kept is None:
            await asyncio.sleep(GRACE_S)
        return self._kept

    def presence(self, subject: str, topic: str) -> Message | None:
        """Return what is published of a node's presence as things are now; None where this output publishes none."""
        found = self._engine.ledger.current(subject)
        if found is None or NATIVE not in self._tree.shape.formats:
            return None
        return self._tree.desired(subject, Current(found[1].visibility, found[1].online), (NATIVE,)).get(topic)

    def is_said(self, subject: str) -> bool:
        """True when the broker has acknowledged all that was published of a subject, and no alarm is on its way."""
        track, lane = self._track, self._track.lane
        seq, _ = self._engine.ledger.current(subject) or (0, NOTHING)
        return (
            self.done.is_set() and seq <= track.cursor and (lane is None or not lane.waits and lane.cursor == lane.sent)
        )

    # passes

    async def _pass(self, seq: int, generation: int, foreign: bool = False) -> None:
        """Publish what has changed behind event `seq` or behind a generation; -1 for all. foreign: the broker knows another store."""
        ledger = self._engine.ledger
        upto = self._as_of
        turn = self._turn_of(seq, generation)
        if turn.shapes():  # another root, format or filter concerns everyone
            turn.seq = -1
        await self._forget_marks(turn)
        if turn.seq < NEVER:
            only_alarms = replace(turn, alarms=True)
            await self._walk(lambda after: ledger.alarmed(after, PAGE, turn.seq), only_alarms)
            turn.spared = only_alarms.spared
        if foreign:
            assert self._session is not None
            await sweep(self._session, self._tree, ledger, self.publish, self.heard, lambda: self._spare(turn))
        await self._walk(lambda after: ledger.subjects(after, PAGE, turn.seq, generation), turn)
        await self._own(turn)
        await self._settled()
        self._follow(turn)
        for key in turn.left:
            await self._stored(ledger.left(key))
        if turn.spared:
            self._spared = generation if self._spared is None else min(generation, self._spared)
        self._generation = upto

    def _turn_of(self, seq: int, generation: int) -> _Turn:
        """Return a turn with former shapes of this output behind a generation, shapes of others at this broker, and who was taken out there."""
        turn = _Turn(seq, generation, self._as_of)
        for key, (_, place) in self._engine.ledger.places().items():
            if key == self._place:
                turn.former += [self._as(shape) for g, shape in place.past if g > generation]
            elif place.address == self._address and place.now is not None:
                turn.others.append(self._as(place.now))
            elif place.address == self._address:
                shapes = [self._as(shape) for g, shape in place.past if g > generation or not place.empty]
                if shapes:
                    turn.left[key] = shapes
        return turn

    def _strangers(self) -> list[Resync]:
        """Return the outputs that may share topics with this one, if their broker is this one under another address."""
        mine = self._tree.shape
        found: list[Resync] = []
        for o in self.siblings():
            its = o._tree.shape
            both = its.root == mine.root or DISCOVERY in its.formats and its.discovery == mine.discovery
            if o is not self and o._address != self._address and both and self._here.get(o._place, True):
                found.append(o)
        return found

    def _spare(self, turn: _Turn) -> list[Tree]:
        """Return the trees of other outputs that are at this broker, or may be."""
        self._follow(turn)
        return [*turn.others, *(o._tree for o in self._strangers())]

    async def _ask_siblings(self) -> bool:
        """Ask which of the outputs under other addresses are at this broker: a probe on the topic of their mark reaches them; True when
        one has turned out to be elsewhere."""
        session = self._session
        assert session is not None
        asked = {secrets.token_hex(8): o for o in self._strangers() if o._place not in self._here and o.hears}
        for nonce, o in asked.items():
            session.publish(o.mark_topic, probe(nonce), 1)
        deadline = asyncio.get_running_loop().time() + (HEARD_S if asked else 0)
        while asked and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
            for nonce in [n for n, o in asked.items() if o.has_heard(n)]:
                self._here[asked.pop(nonce)._place] = True
        away = [
            o._place for o in asked.values() if o.hears
        ]  # the others' connections have ended meanwhile: asked again
        self._here |= dict.fromkeys(away, False)
        if self._spared is not None and not away and all(o._place in self._here for o in self._strangers()):
            self._spared = None  # it was theirs
        return bool(away)

    def _follow(self, turn: _Turn) -> None:
        """An output that has come while a pass is under way is not emptied any further, and what it publishes is its own."""
        if turn.as_of != self._as_of:
            now = self._turn_of(turn.seq, turn.generation)
            turn.others, turn.as_of = now.others, now.as_of
            turn.left = {key: shapes for key, shapes in turn.left.items() if key in now.left}

    async def _forget_marks(self, turn: _Turn) -> None:
        """Empty the marks of who was taken out before anything else of theirs: who comes back meanwhile publishes all."""
        for key, shapes in list(turn.left.items()):
            for topic in sorted({mark_topic(shape, key.rpartition("@")[0]) for shape in shapes}):
                await self.room()
                self._follow(turn)
                if key in turn.left:
                    self.publish(Message(topic, b"", retain=True))

    def _as(self, shape: Any) -> Tree:
        return Tree(shape, self._tree.gateway, self._tree.nodes, self._tree.entry)

    async def _walk(self, page: Callable[[str], list[str]], turn: _Turn) -> None:
        after = ""
        while subjects := page(after):
            for subject in subjects:
                await self._say(turn, subject)
            after = subjects[-1]
            await asyncio.sleep(0)

    async def _say(self, turn: _Turn, subject: str) -> None:
        """Publish a subject's retained messages as they are now, and empty what is no longer among them."""
        await self.room()
        self._follow(turn)
        ledger, tree = self._engine.ledger, self._tree
        seq, c = ledger.current(subject) or (0, NOTHING)
        if turn.alarms:
            c = c.alerts_only()
        desired = tree.desired(subject, c)
        topics = [t for t in self._over(turn, subject) if t not in desired]
        for m in desired.values():
            self.publish(m)
            if turn.alarms:
                self.said.topic(m.topic, seq)
        for topic in topics:
            self.publish(Message(topic, b"", retain=True))
        if not turn.alarms and seq > self._track.sent:
            self.said.subject(subject, seq)

    def _over(self, turn: _Turn, subject: str) -> list[str]:
        """Return the topics of a subject that may hold what is no longer true, but for those that are somebody else's at this broker."""
        ledger, tree = self._engine.ledger, self._tree
        _, c = ledger.current(subject) or (0, NOTHING)
        topics, entries = tree.over(subject, c, turn.seq), list[Entry]()
        if not turn.alarms:
            known = ledger.known(subject) or Known(None)
            entries += [entry for g, entry in known.past if g > turn.generation]
            if known.now is not None:
                entries.append(known.now)
            for shape in (*turn.shapes(), tree):
                for entry in entries:
                    if shape is not tree or entry is not known.now:
                        topics |= shape.under(subject, c, entry)
        for other in turn.others if topics else ():
            topics -= other.desired(subject, c).keys()
        strangers = [o._tree for o in self._strangers()] if topics else []
        for other in strangers:
            topics -= self._maybe(turn, topics & other.desired(subject, c).keys())
        for heir in tree.owners(entry.name for entry in entries) - {subject} if topics else ():
            _, c = ledger.current(heir) or (0, NOTHING)
            for other in (tree, *turn.others):  # a name that another node has now holds what that one says
                topics -= other.desired(heir, c).keys()
            for other in strangers:
                topics -= self._maybe(turn, topics & other.desired(heir, c).keys())
        return sorted(topics)

    def _maybe(self, turn: _Turn, topics: set[str]) -> set[str]:
        """Return topics that are spared for an output that may be at this broker; that they were is noted."""
        turn.spared = turn.spared or bool(topics)
        return topics

    async def _own(self, turn: _Turn) -> None:
        """Empty what the gateway said of itself under former roots, and former marks."""

        def over() -> set[str]:
            topics = {topic for shape in turn.shapes() for topic in shape.own()}
            topics |= {mark_topic(shape, self.output) for shape in turn.former} - {self.mark_topic}
            return topics.difference(self._tree.own(), *(other.own() for other in self._spare(turn)))

        for topic in sorted(over()):
            await self.room()
            self._follow(turn)
            if topic in over():
                self.publish(Message(topic, b"", retain=True))

    async def room(self) -> None:
        """Wait for a place in the window of which half is left to what is new; alarms go first."""
        lane = self._track.lane
        while True:
            await self._flight.room(2)
            if lane is None or not lane.waits or lane.room <= 0:
                return
            await asyncio.sleep(0.001)

    def publish(self, m: Message) -> None:
        """Publish what is current. Raises MqttError."""
        self._open += 1
        self._metrics.totals["retained_again"] += 1
        self._flight.send(m, self._taken)

    def _taken(self) -> None:
        self._open -= 1
        if not self._open:
            self._acked.set()

    async def _settled(self) -> None:
        while self._open:
            self._acked.clear()
            await self._acked.wait()

    async def _births(self) -> None:
        """Home Assistant is told of every node again when it has started."""
        while True:
            await self._started.wait()
            await asyncio.sleep(random.uniform(*RESEND_S))
            self._started.clear()
            after = ""
            while subjects := self._engine.ledger.subjects(after, PAGE, -1, NEVER):
                for subject in subjects:
                    await self.room()
                    _, c = self._engine.ledger.current(subject) or (0, NOTHING)
                    for m in self._tree.desired(subject, c, (DISCOVERY,)).values():
                        self.publish(m)
                after = subjects[-1]
            self._metrics.totals["discovery_resent"] += 1


@dataclass
class _Turn:
    """What one pass is about. former: shapes of this output, to be emptied; others: at this broker, to be spared; left: outputs taken out
    there, with their shapes, to be emptied. as_of: the generation that others and left are of."""

    seq: int
    generation: int
    as_of: int
    former: list[Tree] = field(default_factory=list)
    others: list[Tree] = field(default_factory=list)
    left: dict[str, list[Tree]] = field(default_factory=dict)
    alarms: bool = False
    spared: bool = False

    def shapes(self) -> list[Tree]:
        """Return all shapes whose topics are to be emptied."""
        return [*self.former, *(shape for shapes in self.left.values() for shape in shapes)]


def mark_topic(tree: Tree, output: str) -> str:
    """Return the topic of an output's mark."""
    return f"{tree.shape.root}/v1/gw/{tree.gateway}/mark/{output}"


def probe(nonce: str) -> bytes:
    """Return what is published on a mark's topic to learn who hears it."""
    return json({"probe": nonce})


def mark_of(payload: bytes) -> Mark | None:
    """Return the mark that a broker retains; None for what is none, whoever wrote it."""
    try:
        return msgspec.json.decode(payload, type=Mark)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None  # not one of ours: as if there were none, so that everything is said and it is replaced


def problems_of(resync: Resync) -> Iterator[tuple[str, str]]:
    """Yield (text, what to do) of what keeps the mark from being read."""
    if resync.problem is not None:
        yield (
            f"output {resync.output} cannot read its mark {resync.problem}, so it publishes everything after every connect",
            f"let the gateway's user read it (mosquitto acl_file: topic readwrite {resync.problem})",
        )

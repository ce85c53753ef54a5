"""Makes a broker's memory true: learns from the retained mark what the broker still knows, and publishes again all that is newer.

A broker without the mark (`mark.py`) is given everything; where the mark is another store's or ahead of this one's cursor or turn, the store
was set back or exchanged, and what the broker knows beyond is swept. Facts are read, rendered and handed over without a pause in between,
so nothing newer can be overtaken by them. What is to be emptied and may be another gateway's by now is read first (`turn.py`).
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Set

import structlog

from gateway.core.current import NOTHING, Current
from gateway.core.value import replace
from gateway.metrics import Metrics
from gateway.mqtt_session import MqttSession
from gateway.outputs.births import NEVER, PAGE, births
from gateway.outputs.flight import Flight
from gateway.outputs.former import AGAIN_S, Former
from gateway.outputs.mark import LONGEST_PROBE, Mark, mark_of, mark_topic, probe
from gateway.outputs.message import Message, json
from gateway.outputs.neighbours import Neighbours
from gateway.outputs.outstanding import ALL, Attempts
from gateway.outputs.reading import Name, Reader, Unread, advice, crowd, lines
from gateway.outputs.retained import Tree
from gateway.outputs.said import Said
from gateway.outputs.siblings import DISCOVERY
from gateway.outputs.strays import Strays
from gateway.outputs.sweep import sweep
from gateway.outputs.track import Track
from gateway.outputs.turn import Doubt, Judge, Turn, look, over
from gateway.store.engine import Engine, StoreError

PROBE_S = 5.0  # for the broker to return our own message
GRACE_S = 0.2  # a broker may deliver what it retained behind what is new
RETRY_S = 60.0, 3600.0  # until what could not be read is tried again: doubled each time
MARK_S = 5.0
LOOK_S = 1.0  # how often requests of the operator are looked for
NATIVE = "native"

log = structlog.get_logger(__name__)


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
        self.output, self.place, self.address = output, place, address
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
        self.neighbours = Neighbours(self, engine.ledger)
        self._strays = Strays(output, address, tree, engine.ledger)
        self._spared: int | None = None  # generation behind which topics were spared for one that may be elsewhere
        self._held: int | None = (
            None  # generation behind which topics are left, since it could not be read whose they are
        )
        self.unread: tuple[str, str] | None = None  # why, and what to do
        self._told: set[str] | None = (
            None  # places of those that say again what this output has left them; None: none is to
        )
        self._reader: Reader | None = None
        self._all_again = False
        self._emptied: dict[str, None] = {}
        self.former = Former(place, tree, engine.ledger)
        self._attempts = Attempts(place, flight.refusals.outstanding, engine.ledger, self._try, self._stored)

    @property
    def tree(self) -> Tree:
        """What is to be retained."""
        return self._tree

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
        self._emptied.clear()
        self._kept, self._marked, self._open, self._generation = None, None, 0, -1
        self._spared, self._held = None, None
        self.neighbours.begin()
        self.former.begin()
        self._reader = Reader(session, self.mark_topic, self._tree.gateway, self._metrics.totals)
        self.done.clear()

    def wake(self) -> None:
        """The registry or the outputs have changed, and `tree` follows them."""
        self._as_of = self._engine.ledger.generation
        self._wanted.set()

    def again(self) -> None:
        """Publish everything again: something else may have been retained on topics of this output."""
        self._all_again = True
        self._wanted.set()

    def republish(self, subject: str) -> None:
        """Publish all of a subject again: somebody else may have emptied it."""
        self._emptied[subject] = None
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
        self._turn = ledger.turn(self.place) + 1
        trusted = kept is not None and self._agrees(kept)
        if kept is not None and trusted:
            seq, generation = kept.seq, kept.generation
        self._may_mark = await self._stored(ledger.keep_turn(self.place, self._turn))
        if trusted or kept is None:  # one that is swept keeps its mark until that is done
            self._remember(Mark(ledger.life, seq, generation, self._turn))
        assert self._reader is not None
        await self.former.look(self._reader)
        if await self._find_strays():  # this memory may be of any time
            seq = generation = -1
        began, before = asyncio.get_running_loop().time(), self._metrics.totals["retained_again"]
        await self._pass(seq, generation, kept is not None and not trusted)
        if (n := self._metrics.totals["retained_again"] - before) > 0:
            log.info("output_resynced", output=self.output, since=seq, messages=n,
                     seconds=round(asyncio.get_running_loop().time() - began, 1))  # fmt: skip
        await self._empty_former()
        self.done.set()
        tasks = [asyncio.create_task(self._keep_true(), name=f"true-{self.output}")]
        if DISCOVERY in self._tree.shape.formats:
            again = births(self._started, self._tree, ledger, self._metrics, self.room, self.publish)
            tasks.append(asyncio.create_task(again, name=f"discovery-{self.output}"))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _find_strays(self) -> bool:
        """True when another output has published at this broker that is not there. Raises MqttError."""
        assert self._reader is not None
        if self.problem is not None:
            return False
        async with self.former.watching(self._reader):
            strays = await self._strays.look(self._reader, self.former.ids)
        if strays:
            self.neighbours.strays = strays
            assert self._session is not None
            await self.neighbours.ask(self._session)
        return bool(self.neighbours.gone())

    def _agrees(self, kept: Mark) -> bool:
        """True when a mark is one that this store, as it is, has had published, and what has changed since is known."""
        ledger = self._engine.ledger
        _, place = ledger.places().get(self.place, (0, None))
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
        ledger, marked_at, wait = self._engine.ledger, float("-inf"), RETRY_S[0]
        look_at = asyncio.get_running_loop().time() + wait
        former_wait, former_at = AGAIN_S[0], asyncio.get_running_loop().time() + AGAIN_S[0]
        while True:
            now = asyncio.get_running_loop().time()
            await self._attempts.note()
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
            if self._spared is not None or self._told is not None or self.neighbours.strays:
                await self._follow_neighbours()
            if self._held is not None and now >= look_at:
                held, self._held = self._held, None
                await self._look_again(held)
                wait = min(2 * wait, RETRY_S[1]) if self._held is not None else RETRY_S[0]
                look_at = now + wait
            if self.former.waits and now >= former_at:
                await self._look_at_former()
                former_wait = min(2 * former_wait, AGAIN_S[1])
                former_at = now + former_wait
            if self._all_again:
                self._all_again, told = False, self._told
                await self._pass(-1, self._generation)
                self._told = told  # a sibling may have asked for it: each would ask the other without end
            await self._attempts.run()
            while self._emptied:
                await self.publish_again(self._emptied.popitem()[0])
            for request, subject in ledger.requests(self.output):
                log.info("republish", output=self.output, subject=subject or "all")
                await self._attempts.ask(request, subject)
                await self._try(subject)
                await self._attempts.note()
                await self._stored(ledger.granted(request))

    def mark(self) -> bool:
        """Publish the mark where it has moved; nothing while a pass is under way."""
        ledger, track, lane = self._engine.ledger, self._track, self._track.lane
        if not self.done.is_set() or self._session is None or self._open or not self._attempts.noted:
            return False
        seq = min(track.durable, track.cursor)
        if lane is not None and (lane.waits or lane.cursor != lane.sent or lane.durable != lane.cursor):
            seq = min(seq, lane.durable)
        generation = min(g for g in (self._generation, self._spared, self._held) if g is not None)
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
            hint = lines(self._tree.shape.root, self._tree.gateway)
            log.warning("mark_unread", output=self.output, topic=self.mark_topic, next=hint)
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
            await self._sweep(turn)
        await self._walk(lambda after: ledger.subjects(after, PAGE, turn.seq, generation), turn)
        await self._say_heirs(turn)
        await self._own(turn)
        turn.whole = True
        await self._finish(turn)
        if turn.spared:
            self._spared = generation if self._spared is None else min(generation, self._spared)
        if turn.lent:
            self._told = set()
        self._generation = upto

    async def _sweep(self, turn: Turn) -> None:
        """Empty what the broker knows of another state of the store; where it cannot be read, it is tried again after the next connect."""
        assert self._reader is not None
        ledger, tree = self._engine.ledger, self._tree
        try:
            async with self.former.watching(self._reader):
                await sweep(self._reader, tree, self._ids, ledger, self.publish, lambda: self._spare(turn))
        except Unread as e:
            turn.unread, self._may_mark = (str(e), e.hint), False
            log.warning("sweep_unread", output=self.output, error=str(e), next=e.hint)

    async def _finish(self, turn: Turn) -> None:
        """Wait until all that was published is acknowledged, and note what is left to do."""
        if turn.crowded and turn.unread is None:
            e = crowd(turn.crowded)
            turn.unread = str(e), e.hint
            log.warning("retained_unread", output=self.output, error=str(e), next=e.hint)
        await self._settled()
        self._follow(turn)
        for key in turn.left if turn.unread is None else ():
            await self._stored(self._engine.ledger.left(key))
        await self._end_strays(turn)
        self._hold(turn)

    async def _end_strays(self, turn: Turn) -> None:
        """Empty the marks of outputs of which nothing is left at this broker. What could not be read keeps them, and is tried after the next
        connect; where topics were spared for who may be elsewhere, that is awaited.
        """
        gone = self.neighbours.gone() & turn.strays.keys()
        if not turn.whole or turn.unread is None and turn.spared and not self.neighbours.is_known:
            return
        for output in sorted(gone) if turn.unread is None else ():
            for topic in sorted(self._strays.marks(output)):
                self.publish(Message(topic, b"", retain=True))
        if gone and turn.unread is None:
            await self._empty_former(gone)
        if gone:
            log.warning("strays_emptied", output=self.output, of=sorted(gone), whole=turn.unread is None,
                        next="nothing; see whether this output's broker was exchanged for another")  # fmt: skip
        self.neighbours.strays = self.neighbours.strays - gone

    def _hold(self, turn: Turn) -> None:
        """What could not be read is looked at again later, and after the next connect."""
        self.unread = turn.unread or self.unread if self._held is not None else turn.unread
        if turn.unread is not None:
            _, place = self._engine.ledger.places().get(self.place, (0, None))
            since = max(turn.generation, 0 if place is None else place.since)
            self._held = since if self._held is None else min(since, self._held)

    async def _look_again(self, generation: int) -> None:
        """Look at what could not be read before, of subjects whose entries have changed behind a generation; nothing else is published."""
        turn = self._turn_of(NEVER, generation)
        turn.looks = True
        seq = -1 if turn.shapes() else NEVER
        await self._walk(lambda after: self._engine.ledger.subjects(after, PAGE, seq, generation), turn)
        await self._finish(turn)

    async def _try(self, subject: str) -> None:
        await (self._pass(-1, -1) if subject == ALL else self.publish_again(subject))

    async def _look_at_former(self) -> None:
        """A former id may not be online any more: then what names it is ours, and is looked at once more."""
        assert self._reader is not None
        if await self.former.look(self._reader):
            if await self._find_strays():
                await self._pass(-1, -1)
            await self._look_again(-1)
            await self._empty_former()

    async def _empty_former(self, strays: Set[str] = frozenset()) -> None:
        assert self._reader is not None
        await self.former.empty(self._reader, self.publish, self._settled, self._stored, strays)

    def _ids(self) -> frozenset[str]:
        return self.former.ids | {self._tree.gateway}

    async def publish_again(self, subject: str) -> None:
        """Publish a subject's retained messages as they are now, and empty what may no longer be there. Raises MqttError."""
        turn = self._turn_of(-1, -1)
        await self._say(turn, subject)
        await self._look(turn)
        await self._say_heirs(turn)
        await self._finish(turn)

    def _turn_of(self, seq: int, generation: int) -> Turn:
        return self.neighbours.turn(seq, generation, self._as_of)

    def _follow(self, turn: Turn) -> None:
        self.neighbours.follow(turn, self._as_of)

    def _spare(self, turn: Turn) -> list[Tree]:
        """Return the trees of other outputs that are at this broker, or may be."""
        self._follow(turn)
        return [*turn.others, *self.neighbours.trees()]

    async def _follow_neighbours(self) -> None:
        """Empty what was spared for an output that is elsewhere, and what one that is elsewhere has left here."""
        away = await self._ask_neighbours()
        self._tell()
        spared, gone = self._spared, bool(self.neighbours.gone())
        if gone and (away or spared is None):
            self._spared = None
            await self._pass(NEVER, -1)
        elif away and spared is not None:
            self._spared = None
            await self._pass(NEVER, spared)

    def _tell(self) -> None:
        """Have the outputs here publish again: their topics may hold what this one said last under a former shape."""
        if self._told is None:
            return
        for o in self.neighbours.here():
            if o.place not in self._told:
                self._told.add(o.place)
                o.again()
        if self.neighbours.is_known:
            self._told = None

    async def _ask_neighbours(self) -> bool:
        """True when an output for which topics were spared has turned out to be elsewhere."""
        assert self._session is not None
        away, known = await self.neighbours.ask(self._session)
        if known and not away:
            self._spared = None  # it was theirs
        return away

    async def _forget_marks(self, turn: Turn) -> None:
        """Empty the marks of who was taken out before anything else of theirs: who comes back meanwhile publishes all."""
        for key, shapes in list(turn.left.items()):
            for topic in sorted({mark_topic(shape, key.rpartition("@")[0]) for shape in shapes}):
                await self.room()
                self._follow(turn)
                if key in turn.left:
                    self.publish(Message(topic, b"", retain=True))

    async def _walk(self, page: Callable[[str], list[str]], turn: Turn) -> None:
        after = ""
        while subjects := page(after):
            for subject in subjects:
                await self._say(turn, subject)
            after = subjects[-1]
            await self._look(turn)
            await asyncio.sleep(0)

    async def _say(self, turn: Turn, subject: str) -> None:
        """Publish a subject's retained messages as they are now, and empty what is no longer among them."""
        await self.room()
        self._follow(turn)
        ledger, tree = self._engine.ledger, self._tree
        seq, c = ledger.current(subject) or (0, NOTHING)
        desired = tree.desired(subject, c.alerts_only() if turn.alarms else c)
        topics, doubts = self._over(turn, subject, c)
        turn.doubts += [Doubt(subject, name, frozenset(more - desired.keys())) for name, more in doubts.items()]
        if turn.looks:
            return
        for m in desired.values():
            self.publish(m, subject)
            if turn.alarms:
                self.said.topic(m.topic, seq)
        for topic in sorted(topics - desired.keys()):
            self.publish(Message(topic, b"", retain=True), subject)
        if not turn.alarms and seq > self._track.sent:
            self.said.subject(subject, seq)

    async def _say_heirs(self, turn: Turn) -> None:
        """Publish who has a name of another by now, which may have published on its topics last."""
        for subject in sorted(turn.heirs):
            await self.room()
            _, c = self._engine.ledger.current(subject) or (0, NOTHING)
            for m in self._tree.desired(subject, c).values():
                self.publish(m, subject)

    async def _look(self, turn: Turn) -> None:
        """Empty what is in doubt and turns out to be this gateway's."""
        doubts, turn.doubts = [d for d in turn.doubts if d.topics], []
        if not doubts or turn.unread is not None:
            return
        assert self._reader is not None
        ledger, tree = self._engine.ledger, self._tree

        async def empty(d: Doubt, judge: Judge) -> None:
            await self.room()
            self._follow(turn)
            _, c = ledger.current(d.subject) or (0, NOTHING)
            topics = d.topics & self._over(turn, d.subject, c)[1].get(d.name, set()) - tree.desired(d.subject, c).keys()
            mine, others = judge()
            for topic in sorted(mine & topics):
                self.publish(Message(topic, b"", retain=True), d.subject)
            if spared := others & topics:
                self._metrics.totals["retained_spared"] += len(spared)
                log.info("name_spared", output=self.output, name=d.name.name, topics=len(spared))

        if self.problem is not None:  # the probe that shows where the end is would not come back
            turn.unread = f"it cannot read {self.problem}", advice(self.problem)
            return
        try:
            async with self.former.watching(self._reader):
                deaf, crowded = await look(self._reader, doubts, self._ids, ledger, tree.owners, empty)
            turn.crowded |= crowded
        except Unread as e:
            turn.unread = str(e), e.hint
        else:
            for part in sorted(deaf)[:1]:
                turn.unread = f"our user may not read {part}#", advice(f"{part}#")
        if turn.unread is not None:
            log.warning("retained_unread", output=self.output, error=turn.unread[0], next=turn.unread[1])

    def _over(self, turn: Turn, subject: str, c: Current) -> tuple[set[str], dict[Name, set[str]]]:
        handed = self._track.sent if self._track.lane is None else min(self._track.sent, self._track.lane.sent)
        return over(turn, subject, c, self._tree, self._engine.ledger, self.neighbours.trees(), handed)

    async def _own(self, turn: Turn) -> None:
        """Empty what the gateway said of itself under former roots, and former marks."""

        def over() -> set[str]:
            topics = {topic for shape in turn.shapes() for topic in shape.own()}
            topics |= {mark_topic(shape, self.output) for shape in turn.former} - {self.mark_topic}
            topics = topics.difference(self._tree.own(), *(other.own() for other in turn.others))
            maybe = set[str]().union(*(other.own() for other in self.neighbours.trees()))
            turn.spared = turn.spared or not topics.isdisjoint(maybe)
            return topics - maybe

        self._follow(turn)
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

    def publish(self, m: Message, subject: str = "") -> None:
        """Publish what is current, of a subject if it is one's. Raises MqttError."""
        self._open += 1
        self._metrics.totals["retained_again"] += 1
        self._flight.send(m, self._taken, subject)

    def _taken(self) -> None:
        self._open -= 1
        if not self._open:
            self._acked.set()

    async def _settled(self) -> None:
        while self._open:
            self._acked.clear()
            await self._acked.wait()

"""One pass over a broker's memory after the other: publishes what has changed behind an event or a generation, and empties what is no longer true.

Marks of who was taken out go first, then alarms, then all of each subject, then what the gateway said of itself. Facts are read, rendered and
handed over without a pause in between, so nothing newer can be overtaken by them. What is to be emptied and may be another gateway's by now is
read first (`turn.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Set

import structlog

from gateway.core.current import NOTHING, Current
from gateway.core.value import replace
from gateway.metrics import Metrics
from gateway.outputs.births import NEVER, PAGE
from gateway.outputs.former import Former
from gateway.outputs.mark import mark_topic
from gateway.outputs.marking import Marking
from gateway.outputs.message import Message
from gateway.outputs.neighbours import Neighbours
from gateway.outputs.reached import Reached
from gateway.outputs.reading import Name, Reader, Unread, advice, crowd
from gateway.outputs.retained import Tree
from gateway.outputs.said import Said
from gateway.outputs.sending import Sending
from gateway.outputs.strays import Strays
from gateway.outputs.sweep import sweep
from gateway.outputs.track import Track
from gateway.outputs.turn import Doubt, Judge, Turn, look, over
from gateway.store.ledger import Ledger

Stored = Callable[[Awaitable[int]], Awaitable[bool]]
"""Awaits a job of the store; returns whether it was done."""

log = structlog.get_logger(__name__)


class Passes:
    """Of one output. as_of: generation that `tree` agrees with: the ledger is ahead of it while a reload is under way."""

    def __init__(
        self,
        output: str,
        place: str,
        tree: Tree,
        ledger: Ledger,
        track: Track,
        metrics: Metrics,
        *,
        reached: Reached,
        sending: Sending,
        marking: Marking,
        said: Said,
        neighbours: Neighbours,
        former: Former,
        strays: Strays,
        stored: Stored,
    ) -> None:
        self._output, self._place, self._tree = output, place, tree
        self._ledger, self._track, self._metrics = ledger, track, metrics
        self._reached, self._sending, self._marking, self._said = reached, sending, marking, said
        self._neighbours, self._former, self._strays, self._stored = neighbours, former, strays, stored
        self._reader: Reader | None = None
        self.as_of = ledger.generation

    def begin(self, reader: Reader) -> None:
        """Use a new connection."""
        self._reader = reader

    async def run(self, seq: int, generation: int, foreign: bool = False) -> None:
        """Publish what has changed behind event `seq` or behind a generation; -1 for all. foreign: the broker knows another store."""
        ledger = self._ledger
        upto = self.as_of
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
            self._reached.spare(generation)
        if turn.lent:
            self._reached.asked = set()
        self._reached.generation = upto

    async def publish_again(self, subject: str) -> None:
        """Publish a subject's retained messages as they are now, and empty what may no longer be there. Raises MqttError."""
        turn = self._turn_of(-1, -1)
        await self._say(turn, subject)
        await self._look(turn)
        await self._say_heirs(turn)
        await self._finish(turn)

    async def look_again(self, generation: int) -> None:
        """Look at what could not be read before, of subjects whose entries have changed behind a generation; nothing else is published."""
        turn = self._turn_of(NEVER, generation)
        turn.looks = True
        seq = -1 if turn.shapes() else NEVER
        await self._walk(lambda after: self._ledger.subjects(after, PAGE, seq, generation), turn)
        await self._finish(turn)

    async def empty_former(self, strays: Set[str] = frozenset()) -> None:
        """Empty what stands below former ids that are ours; strays: outputs of which nothing else is left here. Raises MqttError."""
        assert self._reader is not None
        await self._former.empty(self._reader, self._sending.publish, self._sending.settled, self._stored, strays)

    async def _sweep(self, turn: Turn) -> None:
        """Empty what the broker knows of another state of the store; where it cannot be read, it is tried again after the next connect."""
        assert self._reader is not None
        ledger, tree = self._ledger, self._tree
        try:
            async with self._former.watching(self._reader):
                await sweep(self._reader, tree, self._ids, ledger, self._sending.publish, lambda: self._spare(turn))
        except Unread as e:
            turn.unread, self._marking.may = (str(e), e.hint), False
            log.warning("sweep_unread", output=self._output, error=str(e), next=e.hint)

    async def _finish(self, turn: Turn) -> None:
        """Wait until all that was published is acknowledged, and note what is left to do."""
        if turn.crowded and turn.unread is None:
            e = crowd(turn.crowded)
            turn.unread = str(e), e.hint
            log.warning("retained_unread", output=self._output, error=str(e), next=e.hint)
        await self._sending.settled()
        self._follow(turn)
        for key in turn.left if turn.unread is None else ():
            await self._stored(self._ledger.left(key))
        await self._end_strays(turn)
        self._hold(turn)

    async def _end_strays(self, turn: Turn) -> None:
        """Empty the marks of outputs of which nothing is left at this broker. What could not be read keeps them, and is tried after the next
        connect; where topics were spared for who may be elsewhere, that is awaited.
        """
        gone = self._neighbours.gone() & turn.strays.keys()
        if not turn.whole or turn.unread is None and turn.spared and not self._neighbours.is_known:
            return
        for output in sorted(gone) if turn.unread is None else ():
            for topic in sorted(self._strays.marks(output)):
                self._sending.publish(Message(topic, b"", retain=True))
        if gone and turn.unread is None:
            await self.empty_former(gone)
        if gone:
            log.warning("strays_emptied", output=self._output, of=sorted(gone), whole=turn.unread is None,
                        next="nothing; see whether this output's broker was exchanged for another")  # fmt: skip
        self._neighbours.strays = self._neighbours.strays - gone

    def _hold(self, turn: Turn) -> None:
        """What could not be read is looked at again later, and after the next connect."""
        self._reached.unread = turn.unread or self._reached.unread if self._reached.held is not None else turn.unread
        if turn.unread is not None:
            _, place = self._ledger.places().get(self._place, (0, None))
            self._reached.hold(max(turn.generation, 0 if place is None else place.since))

    def _ids(self) -> frozenset[str]:
        return self._former.ids | {self._tree.gateway}

    def _turn_of(self, seq: int, generation: int) -> Turn:
        return self._neighbours.turn(seq, generation, self.as_of)

    def _follow(self, turn: Turn) -> None:
        self._neighbours.follow(turn, self.as_of)

    def _spare(self, turn: Turn) -> list[Tree]:
        """Return the trees of other outputs that are at this broker, or may be."""
        self._follow(turn)
        return [*turn.others, *self._neighbours.trees()]

    async def _forget_marks(self, turn: Turn) -> None:
        """Empty the marks of who was taken out before anything else of theirs: who comes back meanwhile publishes all."""
        for key, shapes in list(turn.left.items()):
            for topic in sorted({mark_topic(shape, key.rpartition("@")[0]) for shape in shapes}):
                await self._sending.room()
                self._follow(turn)
                if key in turn.left:
                    self._sending.publish(Message(topic, b"", retain=True))

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
        await self._sending.room()
        self._follow(turn)
        ledger, tree = self._ledger, self._tree
        seq, c = ledger.current(subject) or (0, NOTHING)
        desired = tree.desired(subject, c.alerts_only() if turn.alarms else c)
        topics, doubts = self._over(turn, subject, c)
        turn.doubts += [Doubt(subject, name, frozenset(more - desired.keys())) for name, more in doubts.items()]
        if turn.looks:
            return
        for m in desired.values():
            self._sending.publish(m, subject)
            if turn.alarms:
                self._said.topic(m.topic, seq)
        for topic in sorted(topics - desired.keys()):
            self._sending.publish(Message(topic, b"", retain=True), subject)
        if not turn.alarms and seq > self._track.sent:
            self._said.subject(subject, seq)

    async def _say_heirs(self, turn: Turn) -> None:
        """Publish who has a name of another by now, which may have published on its topics last."""
        for subject in sorted(turn.heirs):
            await self._sending.room()
            _, c = self._ledger.current(subject) or (0, NOTHING)
            for m in self._tree.desired(subject, c).values():
                self._sending.publish(m, subject)

    async def _look(self, turn: Turn) -> None:
        """Empty what is in doubt and turns out to be this gateway's."""
        doubts, turn.doubts = [d for d in turn.doubts if d.topics], []
        if not doubts or turn.unread is not None:
            return
        assert self._reader is not None
        ledger, tree = self._ledger, self._tree

        async def empty(d: Doubt, judge: Judge) -> None:
            await self._sending.room()
            self._follow(turn)
            _, c = ledger.current(d.subject) or (0, NOTHING)
            topics = d.topics & self._over(turn, d.subject, c)[1].get(d.name, set()) - tree.desired(d.subject, c).keys()
            mine, others = judge()
            for topic in sorted(mine & topics):
                self._sending.publish(Message(topic, b"", retain=True), d.subject)
            if spared := others & topics:
                self._metrics.totals["retained_spared"] += len(spared)
                log.info("name_spared", output=self._output, name=d.name.name, topics=len(spared))

        if self._marking.problem is not None:  # the probe that shows where the end is would not come back
            turn.unread = f"it cannot read {self._marking.problem}", advice(self._marking.problem)
            return
        try:
            async with self._former.watching(self._reader):
                deaf, crowded = await look(self._reader, doubts, self._ids, ledger, tree.owners, empty)
            turn.crowded |= crowded
        except Unread as e:
            turn.unread = str(e), e.hint
        else:
            for part in sorted(deaf)[:1]:
                turn.unread = f"our user may not read {part}#", advice(f"{part}#")
        if turn.unread is not None:
            log.warning("retained_unread", output=self._output, error=turn.unread[0], next=turn.unread[1])

    def _over(self, turn: Turn, subject: str, c: Current) -> tuple[set[str], dict[Name, set[str]]]:
        handed = self._track.sent if self._track.lane is None else min(self._track.sent, self._track.lane.sent)
        return over(turn, subject, c, self._tree, self._ledger, self._neighbours.trees(), handed)

    async def _own(self, turn: Turn) -> None:
        """Empty what the gateway said of itself under former roots, and former marks."""

        def over() -> set[str]:
            topics = {topic for shape in turn.shapes() for topic in shape.own()}
            topics |= {mark_topic(shape, self._output) for shape in turn.former} - {self._marking.topic}
            topics = topics.difference(self._tree.own(), *(other.own() for other in turn.others))
            maybe = set[str]().union(*(other.own() for other in self._neighbours.trees()))
            turn.spared = turn.spared or not topics.isdisjoint(maybe)
            return topics - maybe

        self._follow(turn)
        for topic in sorted(over()):
            await self._sending.room()
            self._follow(turn)
            if topic in over():
                self._sending.publish(Message(topic, b"", retain=True))

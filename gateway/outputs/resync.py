"""Makes a broker's memory true: learns from the retained mark what the broker still knows, and publishes again all that is newer.

A broker without the mark (`marking.py`) is given everything; where the mark is another store's or ahead of this one's cursor or turn, the store
was set back or exchanged, and what the broker knows beyond is swept. What is published, and emptied, is one pass (`passes.py`); it is done
again while the connection lasts, for what changes, was left, or is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import structlog

from gateway.core.current import NOTHING, Current
from gateway.metrics import Metrics
from gateway.mqtt_session import MqttSession
from gateway.outputs.births import NEVER, births
from gateway.outputs.flight import Flight
from gateway.outputs.former import AGAIN_S, Former
from gateway.outputs.marking import Marking
from gateway.outputs.message import Message
from gateway.outputs.neighbours import Neighbours
from gateway.outputs.outstanding import ALL, Attempts
from gateway.outputs.passes import Passes
from gateway.outputs.reached import Reached
from gateway.outputs.reading import Reader
from gateway.outputs.retained import Tree
from gateway.outputs.said import Said
from gateway.outputs.sending import Sending
from gateway.outputs.siblings import DISCOVERY
from gateway.outputs.strays import Strays
from gateway.outputs.track import Track
from gateway.store.engine import Engine, StoreError

RETRY_S = 60.0, 3600.0  # until what could not be read is tried again: doubled each time
MARK_S = 5.0
LOOK_S = 1.0  # how often requests of the operator are looked for
NATIVE = "native"

log = structlog.get_logger(__name__)


class Resync:
    """One connection after the other of one output. place: the output's row in the ledger."""

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
        self._tree, self._engine, self._track, self._metrics = tree, engine, track, metrics
        ledger = engine.ledger
        self.said = Said()
        self.quiet = 0  # retained topics of events up to here are the business of the pass behind the connection
        self._session: MqttSession | None = None
        self._reader: Reader | None = None
        self._wanted = asyncio.Event()
        self._started = asyncio.Event()  # Home Assistant has
        self.done = asyncio.Event()  # the broker's memory is true
        self._all_again = False
        self._emptied: dict[str, None] = {}
        self.marking = Marking(output, place, tree, ledger)
        self.neighbours = Neighbours(self, ledger)
        self.former = Former(place, tree, ledger)
        self._strays = Strays(output, address, tree, ledger)
        self._sending = Sending(track, flight, metrics)
        self._reached = Reached()
        self._passes = Passes(
            output,
            place,
            tree,
            ledger,
            track,
            metrics,
            reached=self._reached,
            sending=self._sending,
            marking=self.marking,
            said=self.said,
            neighbours=self.neighbours,
            former=self.former,
            strays=self._strays,
            stored=self._stored,
        )
        self._attempts = Attempts(place, flight.refusals.outstanding, ledger, self._try, self._stored)

    @property
    def tree(self) -> Tree:
        """What is to be retained."""
        return self._tree

    @property
    def mark_topic(self) -> str:
        """Where the mark is."""
        return self.marking.topic

    @property
    def problem(self) -> str | None:
        """What keeps the mark from being read."""
        return self.marking.problem

    @property
    def unread(self) -> tuple[str, str] | None:
        """Why it could not be read whose some topics are, and what to do."""
        return self._reached.unread

    def begin(self, session: MqttSession) -> None:
        """Use a new connection, before anything is delivered over it."""
        self._session = session
        self.said.forget()
        self.quiet = self._engine.newest()
        self._emptied.clear()
        self.marking.begin(session)
        self._sending.begin()
        self._reached.begin()
        self.neighbours.begin()
        self.former.begin()
        self._reader = Reader(session, self.mark_topic, self._tree.gateway, self._metrics.totals)
        self._passes.begin(self._reader)
        self.done.clear()

    def wake(self) -> None:
        """The registry or the outputs have changed, and `tree` follows them."""
        self._passes.as_of = self._engine.ledger.generation
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
        self.marking.heard(payload, retained)
        return True

    @property
    def hears(self) -> bool | None:
        """True when what is published on the mark's topic at our broker reaches us, False when it does not, None while that is not known."""
        return self.marking.hears

    def has_heard(self, nonce: str) -> bool:
        """True when somebody's probe has reached us: whoever published it is at our broker, by whatever address."""
        return self.marking.has_heard(nonce)

    async def room(self) -> None:
        """Wait for a place in the window of which half is left to what is new; alarms go first."""
        await self._sending.room()

    def publish(self, m: Message, subject: str = "") -> None:
        """Publish what is current, of a subject if it is one's. Raises MqttError."""
        self._sending.publish(m, subject)

    async def run(self) -> None:
        """Make the broker's memory true, and keep it so, until cancelled. Raises MqttError."""
        ledger = self._engine.ledger
        kept = await self.marking.learn()
        seq, generation = -1, -1
        self.marking.turn = ledger.turn(self.place) + 1
        trusted = kept is not None and self.marking.agrees(kept, self._track.cursor)
        if kept is not None and trusted:
            seq, generation = kept.seq, kept.generation
        self.marking.may = await self._stored(ledger.keep_turn(self.place, self.marking.turn))
        if trusted or kept is None:  # one that is swept keeps its mark until that is done
            self.marking.publish(seq, generation)
        assert self._reader is not None
        await self.former.look(self._reader)
        if await self._find_strays():  # this memory may be of any time
            seq = generation = -1
        began, before = asyncio.get_running_loop().time(), self._metrics.totals["retained_again"]
        await self._passes.run(seq, generation, kept is not None and not trusted)
        if (n := self._metrics.totals["retained_again"] - before) > 0:
            log.info("output_resynced", output=self.output, since=seq, messages=n,
                     seconds=round(asyncio.get_running_loop().time() - began, 1))  # fmt: skip
        await self._passes.empty_former()
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
            if self._passes.as_of != self._reached.generation:
                await self._passes.run(NEVER, self._reached.generation)
                marked_at = float("-inf")
            if self._reached.spared is not None or self._reached.asked is not None or self.neighbours.strays:
                await self._follow_neighbours()
            if self._reached.held is not None and now >= look_at:
                held, self._reached.held = self._reached.held, None
                await self._passes.look_again(held)
                wait = min(2 * wait, RETRY_S[1]) if self._reached.held is not None else RETRY_S[0]
                look_at = now + wait
            if self.former.waits and now >= former_at:
                await self._look_at_former()
                former_wait = min(2 * former_wait, AGAIN_S[1])
                former_at = now + former_wait
            if self._all_again:
                self._all_again, asked = False, self._reached.asked
                await self._passes.run(-1, self._reached.generation)
                self._reached.asked = asked  # a sibling may have asked for it: each would ask the other without end
            await self._attempts.run()
            while self._emptied:
                await self._passes.publish_again(self._emptied.popitem()[0])
            for request, subject in ledger.requests(self.output):
                log.info("republish", output=self.output, subject=subject or "all")
                await self._attempts.ask(request, subject)
                await self._try(subject)
                await self._attempts.note()
                await self._stored(ledger.granted(request))

    def mark(self) -> bool:
        """Publish the mark where it has moved; nothing while a pass is under way."""
        track, lane = self._track, self._track.lane
        if not self.done.is_set() or not self._sending.is_settled or not self._attempts.noted:
            return False
        seq = min(track.durable, track.cursor)
        if lane is not None and (lane.waits or lane.cursor != lane.sent or lane.durable != lane.cursor):
            seq = min(seq, lane.durable)
        return self.marking.publish(seq, self._reached.sure)

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

    async def _try(self, subject: str) -> None:
        await (self._passes.run(-1, -1) if subject == ALL else self._passes.publish_again(subject))

    async def _look_at_former(self) -> None:
        """A former id may not be online any more: then what names it is ours, and is looked at once more."""
        assert self._reader is not None
        if await self.former.look(self._reader):
            if await self._find_strays():
                await self._passes.run(-1, -1)
            await self._passes.look_again(-1)
            await self._passes.empty_former()

    async def _follow_neighbours(self) -> None:
        """Empty what was spared for an output that is elsewhere, and what one that is elsewhere has left here."""
        away = await self._ask_neighbours()
        self._tell()
        spared, gone = self._reached.spared, bool(self.neighbours.gone())
        if gone and (away or spared is None):
            self._reached.spared = None
            await self._passes.run(NEVER, -1)
        elif away and spared is not None:
            self._reached.spared = None
            await self._passes.run(NEVER, spared)

    def _tell(self) -> None:
        """Have the outputs here publish again: their topics may hold what this one said last under a former shape."""
        if self._reached.asked is None:
            return
        for o in self.neighbours.here():
            if o.place not in self._reached.asked:
                self._reached.asked.add(o.place)
                o.again()
        if self.neighbours.is_known:
            self._reached.asked = None

    async def _ask_neighbours(self) -> bool:
        """True when an output for which topics were spared has turned out to be elsewhere."""
        assert self._session is not None
        away, known = await self.neighbours.ask(self._session)
        if known and not away:
            self._reached.spared = None  # it was theirs
        return away

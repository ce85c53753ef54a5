"""What this gateway published under an id that it had before: its state, info, health and marks there are emptied, and what names it is ours.

Another gateway may have that id: the living original of a copied store, or one that was given it since. So an id is taken for ours only where
it is not online, and where all marks below it are this store's and no newer than this store has made them; or where there are none any more
and it was found to be ours before. What could not be read whole is not ours. This is looked at after each connect, and read again, and kept
up to date, while anything is emptied by it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Set
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from gateway.outputs.mark import mark_of
from gateway.outputs.message import Message
from gateway.outputs.reading import Read, Reader, Unread, advice, crowd
from gateway.outputs.retained import GATEWAY_LEAVES, Tree
from gateway.store.ledger import Ledger

AGAIN_S = (
    60.0,
    3600.0,
)  # one that is online may only have been seen last by its broker: looked at again, doubled each time
TRIES = 3  # a broker may end the connection where we may not read: then no more for AGAIN_S[1]
LONGEST = 256  # bytes of a payload that are kept; a mark has fewer

log = structlog.get_logger(__name__)


class Former:
    """Of one output. waits: what was found may change (another gateway is online under an id, or one could not be read); unread: why one
    could not be judged, what to do.
    """

    def __init__(self, place: str, tree: Tree, ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        self._place, self._tree, self._ledger, self._clock = place, tree, ledger, clock
        self.waits = False
        self.unread: tuple[str, str] | None = None
        self._found: frozenset[str] = frozenset()
        self._read: Read[bytes] | None = None
        self._parts: dict[str, str] = {}  # what the ids' topics begin with
        self._tries, self._not_before = 0, float("-inf")

    def begin(self) -> None:
        """A new connection may be to another broker."""
        self._found, self._read, self.waits = frozenset(), None, False

    @property
    def ids(self) -> frozenset[str]:
        """The ids that are ours by what stands at the broker at this moment; none but while that is read (`watching`)."""
        read = self._read
        if read is None:
            return frozenset()
        former, judged = self._ledger.former(), dict[str, list[bool | None]]()
        for part, old in self._parts.items():
            judged.setdefault(old, []).append(self._is_ours(read, part, self._place in former.get(old, ())))
        return frozenset(old for old, verdicts in judged.items() if False not in verdicts and True in verdicts)

    @asynccontextmanager
    async def watching(self, reader: Reader) -> AsyncIterator[None]:
        """Read what stands below the ids that look() found to be ours, until the block ends. Raises MqttError."""
        async with AsyncExitStack() as stack:
            if self._found and self._read is None:
                await self._watch(stack, reader, self._found)
            yield

    async def look(self, reader: Reader) -> bool:
        """Find out which ids are ours at this broker; True when there are more than before. Raises MqttError."""
        before, self._found, self.waits = self._found, frozenset(), False
        former = frozenset(self._ledger.former())
        if not former or not self._may():
            return False
        async with AsyncExitStack() as stack:
            await self._watch(stack, reader, former)
            self._found = self.ids
        return bool(self._found - before)

    async def _watch(self, stack: AsyncExitStack, reader: Reader, ids: Set[str]) -> None:
        parts = {f"{root}/v1/gw/{old}/": old for root in self._roots() for old in sorted(ids)}
        self._tries += 1
        try:
            read = await stack.enter_async_context(reader.reading([f"{part}#" for part in parts], parts, _kept))
        except Unread as e:
            self._tries = 0
            self._unread(str(e), e.hint)
            return
        self._tries, self.unread = 0, None
        if deaf := sorted(read.deaf):
            self._unread(f"our user may not read {deaf[0]}#", advice(f"{deaf[0]}#"))
        elif read.crowded:
            e = crowd(read.crowded)
            self._unread(str(e), e.hint)
        stack.callback(self._end)
        self._read, self._parts = read, parts
        states = (read.of([f"{part}#"]).get(f"{part}state") for part in parts)
        self.waits = self.waits or b"online" in states

    def _end(self) -> None:
        self._read = None

    def _may(self) -> bool:
        """False for an hour once TRIES connections in a row have ended while an id was read."""
        if self._tries < TRIES:
            return True
        if self._clock() >= self._not_before:
            if self._not_before > float("-inf"):
                self._not_before = float("-inf")
                return True
            self._not_before = self._clock() + AGAIN_S[1]
            topic = f"{self._tree.shape.root}/v1/gw/{next(iter(self._ledger.former()))}/#"
            self._unread(f"{TRIES} connections in a row have ended while {topic} was read", advice(topic))
        self.waits = True
        return False

    def _unread(self, text: str, hint: str) -> None:
        self.unread, self.waits = (text, hint), True
        log.warning("former_unread", place=self._place, error=text, next=hint)

    def _roots(self) -> list[str]:
        """Return where this output publishes or did, and where those that were taken out here did."""
        here, roots = self._place.rpartition("@")[2], {self._tree.shape.root}
        for key, (_, place) in self._ledger.places().items():
            if key == self._place or place.address == here and place.now is None:
                roots |= {shape.root for _, shape in place.past}
        return sorted(roots)

    def _is_ours(self, read: Read[bytes], part: str, known: bool) -> bool | None:
        """Judge what stands below one id; None where nothing does. known: it was found to be ours before."""
        if part in read.deaf or not read.is_whole([f"{part}#"]):
            return False  # another gateway's word may be among what was not read
        found = {topic.removeprefix(part): payload for topic, payload in read.of([f"{part}#"]).items()}
        if found.get("state") == b"online":
            return False
        marks = {leaf.partition("/")[2]: mark_of(p) for leaf, p in found.items() if leaf.startswith("mark/")}
        if not marks:
            return True if known else False if found else None
        turns = self._turns()
        return all(
            m is not None and m.store == self._ledger.life and m.turn <= turns.get(o, 0) for o, m in marks.items()
        )

    def _turns(self) -> Mapping[str, int]:
        """Return how often outputs have connected, by name, whatever address they had."""
        found: dict[str, int] = {}
        for key, (_, place) in self._ledger.places().items():
            found[place.output] = max(found.get(place.output, 0), self._ledger.turn(key))
        return found

    async def empty(
        self,
        reader: Reader,
        publish: Callable[[Message], None],
        settled: Callable[[], Awaitable[None]],
        stored: Callable[[Awaitable[int]], Awaitable[bool]],
        strays: Set[str] = frozenset(),
    ) -> None:
        """Empty what stands below the ids that are ours, this output's mark last: read and judged anew, since another gateway may have taken
        one meanwhile. Raises MqttError.

        Marks of other outputs that there are now are theirs: each empties its own. strays: those that are not at this broker, and of which
        nothing is left there but the mark.
        """
        async with self.watching(reader):
            for old in sorted(self.ids):
                if not await stored(self._ledger.keep_former(old, self._place)):
                    return
            n, ids = 0, self.ids
            for last in (False, True):
                topics = self._to_empty(last, strays)  # no pause between this and the publishing
                for topic in topics:
                    publish(Message(topic, b"", retain=True))
                if topics:
                    await settled()
                n += len(topics)
            if n:
                log.info("former_id_emptied", place=self._place, ids=sorted(ids), topics=n)

    def _to_empty(self, last: bool, strays: Set[str]) -> list[str]:
        """Return what is to be emptied below the ids that are ours at this moment: the marks, or all else of ours."""
        read, ids = self._read, self.ids
        if read is None:
            return []
        others = {
            place.output
            for key, (_, place) in self._ledger.places().items()
            if place.now is not None and key != self._place
        } - strays
        found = list[str]()
        for part, old in self._parts.items():
            for topic in read.of([f"{part}#"]) if old in ids else ():
                leaf = topic.removeprefix(part)
                if leaf.startswith("mark/") and leaf[5:] not in others if last else leaf in GATEWAY_LEAVES:
                    found.append(topic)
        return sorted(found)


def _kept(_topic: str, payload: bytes) -> bytes:
    """A mark or `online`, whole: what is longer is neither, whoever wrote it."""
    return payload[:LONGEST]

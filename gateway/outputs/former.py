"""What this gateway published under an id that it had before: its state, info, health and marks there are emptied, and what names it is ours.

Another gateway may have that id: the living original of a copied store, or one that was given it since. So an id is taken for ours, at each
connect, only where it is not online, and where all marks below it are this store's and no newer than this store has made them; or where
there are none any more and it was found to be ours before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import structlog

from gateway.outputs.mark import mark_of
from gateway.outputs.message import Message
from gateway.outputs.reading import Reader, Unread, advice
from gateway.outputs.retained import GATEWAY_LEAVES, Tree
from gateway.store.ledger import Ledger

AGAIN_S = (
    60.0,
    3600.0,
)  # one that is online may only have been seen last by its broker: looked at again, doubled each time
TRIES = 3  # a broker may end the connection where we may not read

log = structlog.get_logger(__name__)


class Former:
    """Of one output. ids: those that are ours at this broker. waits: another one is online; unread: why one could not be judged, what to do."""

    def __init__(self, place: str, tree: Tree, ledger: Ledger) -> None:
        self._place, self._tree, self._ledger = place, tree, ledger
        self.ids: frozenset[str] = frozenset()
        self.waits = False
        self.unread: tuple[str, str] | None = None
        self._found: dict[str, bytes] = {}
        self._tries = 0

    def begin(self) -> None:
        """A new connection may be to another broker."""
        self.ids, self.waits, self._found = frozenset(), False, {}

    async def look(self, reader: Reader) -> bool:
        """Find out which ids are ours at this broker; True when there are more than before. Raises MqttError."""
        former = self._ledger.former()
        self.waits = False
        if not former or self._tries >= TRIES:
            return False
        parts = {f"{root}/v1/gw/{old}/": old for root in self._roots() for old in former}
        self._tries += 1
        try:
            async with reader.reading([f"{part}#" for part in parts], parts) as read:
                self._found, deaf = dict(read.found), sorted(read.deaf)
        except Unread as e:
            self._unread(str(e), e.hint)
            return False
        self._tries, self.unread = 0, None
        if deaf:
            self._unread(f"our user may not read {deaf[0]}#", advice(f"{deaf[0]}#"))
        judged: dict[str, list[bool | None]] = {}
        for part, old in parts.items():
            judged.setdefault(old, []).append(self._is_ours(part, self._place in former[old]))
        ours = frozenset(old for old, verdicts in judged.items() if False not in verdicts and True in verdicts)
        more = ours - self.ids
        self.ids = ours
        return bool(more)

    def _unread(self, text: str, hint: str) -> None:
        self.unread = text, hint
        log.warning("former_unread", place=self._place, error=text, next=hint)

    def _roots(self) -> list[str]:
        """Return where this output publishes or did, and where those that were taken out here did."""
        here, roots = self._place.rpartition("@")[2], {self._tree.shape.root}
        for key, (_, place) in self._ledger.places().items():
            if key == self._place or place.address == here and place.now is None:
                roots |= {shape.root for _, shape in place.past}
        return sorted(roots)

    def _is_ours(self, part: str, known: bool) -> bool | None:
        """Judge what stands below one id; None where nothing does. known: it was found to be ours before."""
        found = {topic.removeprefix(part): payload for topic, payload in self._found.items() if topic.startswith(part)}
        if found.get("state") == b"online":
            self.waits = True
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
        publish: Callable[[Message], None],
        settled: Callable[[], Awaitable[None]],
        stored: Callable[[Awaitable[int]], Awaitable[bool]],
    ) -> None:
        """Empty what stands below the ids that are ours, this output's mark last. Raises MqttError.

        Marks of other outputs that there are now are theirs: each empties its own.
        """
        others = {
            place.output
            for key, (_, place) in self._ledger.places().items()
            if place.now is not None and key != self._place
        }
        mine, last = list[str](), list[str]()
        for topic in sorted(self._found):
            old, _, leaf = topic.rpartition("/v1/gw/")[2].partition("/")
            if old not in self.ids:
                continue
            if leaf in GATEWAY_LEAVES:
                mine.append(topic)
            elif leaf.startswith("mark/") and leaf[5:] not in others:
                last.append(topic)
        for old in sorted(self.ids):
            if not await stored(self._ledger.keep_former(old, self._place)):
                return
        for topics in (mine, last):
            for topic in topics:
                publish(Message(topic, b"", retain=True))
                self._found.pop(topic, None)
            if topics:
                await settled()
        if mine or last:
            log.info("former_id_emptied", place=self._place, ids=sorted(self.ids), topics=len(mine) + len(last))

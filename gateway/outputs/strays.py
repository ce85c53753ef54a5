"""Outputs of this gateway whose marks stand at a broker that is not theirs: two brokers' memories, names or cables were exchanged.

What they published there, under any shape they ever had, is emptied as of an output that was taken out, but for what is published at this
broker now; their marks go last. They are looked for under every root that such an output has or had. A mark is one of ours where it is this store's, and no newer than this store has made it. An output that may
be at this broker by another address is asked first (`neighbours.py`), and keeps its mark where it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import structlog

from gateway.outputs.mark import Mark, mark_of, mark_topic
from gateway.outputs.reading import Reader, Unread
from gateway.outputs.retained import Tree
from gateway.store.ledger import Ledger

TRIES = 3  # a broker may end the connection where we may not read: then the marks are not looked at any more

log = structlog.get_logger(__name__)


class Strays:
    """Of one output, at an address."""

    def __init__(self, output: str, address: str, tree: Tree, ledger: Ledger) -> None:
        self._output, self._address, self._tree, self._ledger = output, address, tree, ledger
        self._tries = dict[bool, int]()  # connections in a row that have ended meanwhile: below our root, below others
        self._marks = dict[str, set[str]]()

    def marks(self, output: str) -> set[str]:
        """Return the topics where look() has found marks of an output, but those below former ids."""
        return self._marks.get(output, set())

    async def look(self, reader: Reader, former: Set[str] = frozenset()) -> set[str]:
        """Return the names of outputs that are not at this address, and whose marks stand there all the same. What cannot be read is left alone.

        former: ids that this gateway had, and that are its own at this broker (`former.py`): marks below them count as well. Raises MqttError.
        """
        places = [place for _, place in self._ledger.places().values()]
        here, self._marks = {place.output for place in places if place.address == self._address}, {}
        own, elsewhere = dict[str, tuple[str, str]](), dict[str, tuple[str, str]]()  # topic: output, part of the tree
        for p in places:
            shapes = [] if p.output in here else [self._tree.shape, p.now, *(shape for _, shape in p.past)]
            for t in [Tree(s, g, {}) for s in shapes if s is not None for g in {self._tree.gateway, *former}]:
                where = own if t.shape.root == self._tree.shape.root else elsewhere
                where[mark_topic(t, p.output)] = p.output, f"{t.shape.root}/v1/gw/{t.gateway}/"
        found = set[str]()
        # apart, since a broker may refuse what it lets our user do below our own root
        for topics in (own, elsewhere):
            if topics and self._tries.get(topics is own, 0) < TRIES:
                self._tries[topics is own] = self._tries.get(topics is own, 0) + 1
                found |= await self._look(reader, topics, sure=topics is own)
                self._tries[topics is own] = 0
        if found:
            log.info("output_strays", output=self._output, of=sorted(found))
        return found

    async def _look(self, reader: Reader, topics: Mapping[str, tuple[str, str]], sure: bool) -> set[str]:
        """sure: our user may publish there."""
        marks = dict[str, Mark]()

        def keep(topic: str, payload: bytes) -> Mark | None:
            mark = mark_of(payload)  # or a probe of that output, which tells nothing
            if mark is not None:
                marks[topic] = mark
            return mark

        deaf, found = set[str](), set[str]()
        try:
            async with reader.reading(sorted(topics), {part for _, part in topics.values()}, keep) as read:
                deaf = set(read.deaf)
        except Unread as e:
            log.info("strays_unread", output=self._output, error=str(e))
            return found
        for topic, mark in marks.items():
            output, part = topics.get(topic, ("", ""))
            # where it may not, a probe would not reach that output if it is at this broker by another address, and nothing could be emptied
            if not output or not sure and part in deaf:
                continue
            if mark.store == self._ledger.life and mark.turn <= self._turn(output):
                found.add(output)
                if part.endswith(f"/{self._tree.gateway}/"):
                    self._marks.setdefault(output, set()).add(topic)
        return found

    def _turn(self, output: str) -> int:
        return max((self._ledger.turn(k) for k, (_, p) in self._ledger.places().items() if p.output == output), default=0)  # fmt: skip

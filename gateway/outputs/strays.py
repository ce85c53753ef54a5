"""Outputs of this gateway whose marks stand at a broker that is not theirs: two brokers' memories, names or cables were exchanged.

What they published there, under any shape they ever had, is emptied as of an output that was taken out, but for what is published at this
broker now; their marks go last. A mark is one of ours where it is this store's, and no newer than this store has made it. An output that may
be at this broker by another address is asked first (`neighbours.py`), and keeps its mark where it is.
"""

from __future__ import annotations

from collections.abc import Set

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
        self._tries = 0

    def mark(self, output: str) -> str:
        """Return the topic of an output's mark below our root."""
        return mark_topic(self._tree, output)

    async def look(self, reader: Reader, former: Set[str] = frozenset()) -> set[str]:
        """Return the names of outputs that are not at this address, and whose marks stand there all the same. What cannot be read is left alone.

        former: ids that this gateway had, and that are its own at this broker (`former.py`): marks below them count as well. Raises MqttError.
        """
        places = [place for _, place in self._ledger.places().values()]
        here = {place.output for place in places if place.address == self._address}
        trees = [Tree(self._tree.shape, g, {}) for g in sorted({self._tree.gateway, *former})]
        topics = {mark_topic(t, p.output): p.output for p in places if p.output not in here for t in trees}
        if not topics or self._tries >= TRIES:
            return set()
        self._tries += 1
        marks = dict[str, Mark]()

        def keep(topic: str, payload: bytes) -> Mark | None:
            mark = mark_of(payload)  # or a probe of that output, which tells nothing
            if mark is not None:
                marks[topic] = mark
            return mark

        parts = [f"{self._tree.shape.root}/v1/gw/{tree.gateway}/" for tree in trees]
        try:
            async with reader.reading(sorted(topics), parts, keep):
                pass
        except Unread as e:
            log.info("strays_unread", output=self._output, error=str(e))
            marks.clear()
        self._tries = 0
        found = {
            topics[topic]
            for topic, mark in marks.items()
            if topic in topics and mark.store == self._ledger.life and mark.turn <= self._turn(topics[topic])
        }
        if found:
            log.info("output_strays", output=self._output, of=sorted(found))
        return found

    def _turn(self, output: str) -> int:
        return max((self._ledger.turn(k) for k, (_, p) in self._ledger.places().items() if p.output == output), default=0)  # fmt: skip

"""The mark of an output at its broker: what the broker says that it still knows is learned after a connect, and published anew where it moves.

A probe on the mark's topic shows that what is published there reaches us, and so that a mark which does not come is not there.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque

import structlog

from gateway.mqtt_session import MqttSession
from gateway.outputs.mark import LONGEST_PROBE, Mark, mark_of, mark_topic, probe
from gateway.outputs.message import json
from gateway.outputs.reading import GRACE_S, lines
from gateway.outputs.retained import Tree
from gateway.store.ledger import Ledger

PROBE_S = 5.0  # for the broker to return our own message

log = structlog.get_logger(__name__)


class Marking:
    """Of one output. problem: what keeps the mark from being read; turn: number of the connection; may: the store knows that number, and
    nothing at the broker keeps it from being claimed.
    """

    def __init__(self, output: str, place: str, tree: Tree, ledger: Ledger) -> None:
        self._output, self._place, self._tree, self._ledger = output, place, tree, ledger
        self.problem: str | None = None
        self.turn, self.may = 0, False
        self._session: MqttSession | None = None
        self._answered = asyncio.Event()
        self._nonce = ""
        self._strange: deque[bytes] = deque(maxlen=16)  # what others published on the mark's topic lately
        self._kept: Mark | None = None
        self._published: Mark | None = None

    @property
    def topic(self) -> str:
        """Where the mark is."""
        return mark_topic(self._tree, self._output)

    def begin(self, session: MqttSession) -> None:
        """Use a new connection, before anything is delivered over it."""
        self._session = session
        self._answered.clear()
        self._kept, self._published = None, None

    def heard(self, payload: bytes, retained: bool) -> None:
        """Take a message on the mark's topic."""
        if retained:
            self._kept = mark_of(payload)
        elif self._nonce and payload == probe(self._nonce):
            self._answered.set()
        elif len(payload) <= LONGEST_PROBE:
            self._strange.append(payload)

    @property
    def hears(self) -> bool | None:
        """True when what is published on the mark's topic at our broker reaches us, False when it does not, None while that is not known."""
        if self._session is None or self._session.closed.done():
            return None
        return True if self._answered.is_set() else False if self.problem is not None else None

    def has_heard(self, nonce: str) -> bool:
        """True when somebody's probe has reached us: whoever published it is at our broker, by whatever address."""
        return probe(nonce) in self._strange

    async def learn(self) -> Mark | None:
        """Return the broker's mark; None when there is none, or it cannot be read."""
        session = self._session
        assert session is not None
        self._nonce = secrets.token_hex(8)
        session.publish(self.topic, probe(self._nonce), 1, False)
        try:
            async with asyncio.timeout(PROBE_S):
                await self._answered.wait()
        except TimeoutError:
            self.problem = self.topic
            hint = lines(self._tree.shape.root, self._tree.gateway)
            log.warning("mark_unread", output=self._output, topic=self.topic, next=hint)
            return None
        self.problem = None
        if self._kept is None:
            await asyncio.sleep(GRACE_S)
        return self._kept

    def agrees(self, kept: Mark, cursor: int) -> bool:
        """True when a mark is one that this store, as it is, has had published, and what has changed since is known. cursor: the output's."""
        ledger = self._ledger
        _, place = ledger.places().get(self._place, (0, None))
        return (
            kept.store == ledger.life
            and kept.seq <= cursor
            and kept.generation <= ledger.generation
            and kept.turn < self.turn
            and (kept.generation < 0 or place is None or kept.generation >= place.since)
        )

    def publish(self, seq: int, generation: int) -> bool:
        """Publish the mark where it has moved; True when it was published."""
        mark, session = Mark(self._ledger.life, seq, generation, self.turn), self._session
        if (
            session is None
            or not self.may
            or mark == self._published
            or session.publish(self.topic, json(mark), 1, True) is None
        ):
            return False
        self._published = mark
        return True

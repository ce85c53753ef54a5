"""Retained topics that a broker has refused: they do not hold what is true, until one more attempt shows that the broker takes it.

The store knows them before any mark claims them, so they survive restarts. One topic is tried at a time, with its subject's facts as they are
then, since each attempt may end the connection: after FIRST_S, doubled up to LONGEST_S; after a start; and when an operator asks. When one is
taken, the broker was mended: the others are tried at once, all of a subject together, until one is refused again. After a refusal nothing
is tried for PACE_S, whoever has asked.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from gateway.outputs.message import Message
from gateway.store.ledger import Ledger

FIRST_S, LONGEST_S = 600.0, 21_600.0
PACE_S = 60.0  # behind an attempt that has ended a connection; an operator who asks has one at once
KEPT = 1024  # topics; what is beyond is made up for by publishing everything again
ALL = ""  # stands for all subjects


@dataclass(slots=True)
class _Topic:
    """subject: "" of what the gateway states of itself, which is published again anyway. shortest: of what was refused, bytes."""

    subject: str
    shortest: int
    until: float
    wait: float = FIRST_S
    asked: bool = False


class Outstanding:
    """Of one output, across its connections."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._topics: OrderedDict[str, _Topic] = OrderedDict()
        self._tried = set[str]()
        self._took = False  # one of them was acknowledged
        self._mended = False  # the newest attempt was
        self._not_before = 0.0
        self._more = False  # of further topics only the number is known, so to say: all are published again

    def __contains__(self, topic: str) -> bool:
        return topic in self._topics

    def load(self, known: Mapping[str, Sequence[str]]) -> None:
        """Take what the store knows, at a start: it is tried as soon as the output is connected."""
        self._more = ALL in known
        for subject, topics in known.items():
            for topic in topics:
                self._topics[topic] = _Topic(subject, 1, float("-inf"))

    def known(self) -> dict[str, list[str]]:
        """Return topics by subject, for the store; ALL -> [] when there are more."""
        found: dict[str, list[str]] = {ALL: []} if self._more else {}
        for topic, x in self._topics.items():
            if x.subject:
                found.setdefault(x.subject, []).append(topic)
        return found

    def topics(self) -> list[str]:
        """Return all topics of subjects."""
        return [topic for topic, x in self._topics.items() if x.subject]

    def refused(self, m: Message, subject: str) -> None:
        """The broker has ended the connection at a retained message."""
        now, size = self._clock(), len(m.payload)
        before = self._topics.pop(m.topic, None)
        if before is None:
            found = _Topic(subject, size, now + FIRST_S)
        else:
            wait = min(2 * before.wait, LONGEST_S)
            found = _Topic(subject or before.subject, min(size, before.shortest), now + wait, wait)
        self._topics[m.topic] = found
        self._not_before = now + PACE_S
        self._tried.clear()  # the connection has ended: whatever else was tried was not
        self._mended = False
        while len(self._topics) > KEPT:
            _, x = self._topics.popitem(last=False)
            self._more = self._more or bool(x.subject)

    def spares(self, m: Message) -> bool:
        """True when a message is not to be sent now: it is at least as long as what was refused on its topic."""
        x = self._topics.get(m.topic)
        if x is None or not m.retain or m.topic in self._tried or len(m.payload) < x.shortest:
            return False
        return bool(x.subject) or self._clock() < x.until

    def taken(self, m: Message) -> None:
        """The broker has acknowledged a retained message."""
        self._took = self._took or m.topic in self._tried
        x = self._topics.get(m.topic)
        if x is not None and not x.subject and len(m.payload) >= x.shortest:
            del self._topics[m.topic]

    def ask(self, subject: str) -> None:
        """An operator wants it to be tried now. subject: ALL for all."""
        for x in self._topics.values():
            x.asked = x.asked or bool(x.subject) and subject in (ALL, x.subject)
        self._not_before = 0.0

    def next(self) -> str | None:
        """Return a subject that is to be published again now, with one of its topics tried, or all where the newest attempt was taken; ALL
        when there are more than are known.
        """
        now, late = self._clock(), list[tuple[bool, float, str]]()
        self._tried, self._took = set(), False
        for topic, x in self._topics.items():
            if x.subject and (x.asked or x.until <= now) and now >= self._not_before:
                late.append((not x.asked, x.until, topic))
        if late:
            first = min(late)[2]
            subject = self._topics[first].subject
            self._tried = {t for _, _, t in late if self._topics[t].subject == subject} if self._mended else {first}
            return subject
        return ALL if self._more and not self.topics() else None

    def published(self, subject: str) -> None:
        """All that next() asked for was published and acknowledged, or refused once more. What was neither is not wanted any more, which
        says nothing of the broker.
        """
        if subject == ALL:
            self._more = bool(self.topics())
        tried, self._tried = self._tried, set()
        for topic in tried:
            self._topics.pop(topic, None)
        if tried and self._took:
            self._mended, self._not_before = True, 0.0
            for x in self._topics.values():
                x.until = float("-inf") if x.subject else x.until


class Attempts:
    """Publishes what is outstanding, and lets the store know what is. publish: all of a subject as it is now, ALL for everything."""

    def __init__(
        self,
        place: str,
        outstanding: Outstanding,
        ledger: Ledger,
        publish: Callable[[str], Awaitable[None]],
        stored: Callable[[Awaitable[int]], Awaitable[bool]],
    ) -> None:
        self._place, self._outstanding, self._ledger = place, outstanding, ledger
        self._publish, self._stored = publish, stored
        self._noted = ledger.refused(place)
        self._asked = 0
        outstanding.load(self._noted)

    @property
    def noted(self) -> bool:
        """True when the store knows all that is outstanding: a mark may be published."""
        return self._outstanding.known() == self._noted

    async def note(self) -> None:
        """Let the store know."""
        known = self._outstanding.known()
        if known != self._noted and await self._stored(self._ledger.keep_refused(self._place, known)):
            self._noted = known

    async def run(self) -> None:
        """Try what is due. Raises MqttError."""
        while (subject := self._outstanding.next()) is not None:
            await self._publish(subject)
            self._outstanding.published(subject)
            await self.note()

    async def ask(self, request: int, subject: str) -> None:
        """An operator's request, once however often the connection ends meanwhile: try all that is outstanding of a subject. Raises MqttError."""
        if request != self._asked:
            self._asked = request
            self._outstanding.ask(subject)
        await self.run()

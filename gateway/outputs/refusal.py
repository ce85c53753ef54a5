"""Messages for whose sake a broker ends the connection: too long for it (mosquitto max_packet_size, AWS IoT 128 kB), or not ours to publish
(brokers of MQTT 3.1.1 have no other way to say so).

Sent again after every connect, one of them would stop its output. So what ended TIMES connections in a row, alone on the wire and on
connections that had taken other messages, is set aside: counted, named, and not sent again; what is retained is tried again
(`outstanding.py`).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b

import structlog

from gateway.health import Problem
from gateway.metrics import Metrics
from gateway.outputs.message import Message
from gateway.outputs.outstanding import Outstanding

TIMES = 3
SUSPECTS = 4096  # topics of messages that were under way when a connection ended
MOST = 20  # set aside in a row while no node's message is taken: then it is no message's fault, and the data are kept
KEPT = 1024  # messages known as refused
TOLD_S = 3600.0  # so long health shows it
NAMED = 3  # topics that health names

log = structlog.get_logger(__name__)


def _key(m: Message) -> tuple[str, bytes]:
    return m.topic, blake2b(m.payload, digest_size=16).digest()


class Refusals:
    """Of one output, across its connections."""

    def __init__(self, output: str, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._output, self._metrics, self._clock = output, metrics, clock
        self._refused: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self.outstanding = Outstanding(clock)
        self._suspects: OrderedDict[str, int] = OrderedDict()  # by topic, bytes
        self._last: Message | None = None  # what was alone under way when the connection ended, _times in a row
        self._times = 0
        self._shortest: int | None = None  # refused so far, unless something as long was taken since
        self._shown: tuple[Message, float] | None = None
        self._row = 0
        self.n = 0

    def is_suspect(self, m: Message) -> bool:
        """True when a message is to be sent alone."""
        return m.topic in self._suspects or m.retain and m.topic in self.outstanding

    def is_refused(self, m: Message) -> bool:
        """True when a message is not to be sent."""
        if not m.retain:
            return bool(self._refused) and _key(m) in self._refused
        if not self.outstanding.spares(m):
            return False
        if _key(m) not in self._refused:
            self._metrics.totals["messages_refused"] += 1
            self._know(m)
        return True

    def taken(self, m: Message) -> None:
        """A message was acknowledged."""
        size = len(m.payload)
        self.outstanding.taken(m)
        if self._row and "/v1/gw/" not in m.topic:
            self._row = 0
        if self._suspects and size >= self._suspects.get(m.topic, size + 1):
            del self._suspects[m.topic]
        if self._last is not None and m.topic == self._last.topic and size >= len(self._last.payload):
            self._last, self._times = None, 0
        if self._shortest is not None and size >= self._shortest:
            self._shortest = None

    def lost(self, under_way: Sequence[Message], worked: bool, subject: str = "", just: Message | None = None) -> bool:
        """The broker ended a connection; True when a message is, or may be, the reason.

        worked: others were taken on this connection; without that it is no message's fault. subject: whose the only one is.
        just: what was acknowledged last, unless the broker has shown since that it went on: it may be the reason as well.
        """
        last, suspects = self._last, under_way if just is None else [*under_way, just]
        if not worked or last is None or all(m.topic != last.topic for m in suspects):
            self._last, self._times = None, 0
        if not worked or not suspects:
            return False
        for m in suspects:
            self._suspects[m.topic] = len(m.payload)
        while len(self._suspects) > SUSPECTS:
            self._suspects.popitem(last=False)
        if just is not None or len(under_way) > 1:
            return False
        self._last, self._times = under_way[0], self._times + 1
        long = self._shortest is not None and len(self._last.payload) >= self._shortest
        explained = last is None or last.topic == self._last.topic
        again = self._last.retain and self._last.topic in self.outstanding
        if (self._times >= TIMES or long or again) and (again or self._row < MOST):
            self._set_aside(self._last, subject, again)
        return explained

    def _know(self, m: Message) -> None:
        self._refused[_key(m)] = None
        while len(self._refused) > KEPT:
            self._refused.popitem(last=False)

    def _set_aside(self, m: Message, subject: str, again: bool) -> None:
        size = len(m.payload)
        self._know(m)
        if m.retain:
            self.outstanding.refused(m, subject)
        self._shortest = size if self._shortest is None else min(size, self._shortest)
        self._last, self._times = None, 0
        self._suspects.pop(m.topic, None)
        self._shown = m, self._clock() + TOLD_S
        self.n += 1
        self._row += not again
        self._metrics.totals["messages_refused"] += 1
        log.error("message_refused", output=self._output, topic=m.topic, bytes=size, next=NEXT)

    def problems(self) -> Iterator[Problem]:
        """Name the newest for TOLD_S, and what is outstanding until it was taken."""
        topics = self.outstanding.topics()
        if topics:
            more = f" and {len(topics) - NAMED} more" if len(topics) > NAMED else ""
            yield Problem(
                "message_refused",
                f"output {self._output}: its broker ends the connection at what is to be retained on {', '.join(topics[:NAMED])}{more}: "
                "it is not what is true there; tried again from time to time",
                f"{NEXT}; then citymote gateway republish --output {self._output}",
            )
        if self._shown is not None and self._shown[0].retain and self._shown[0].topic not in self.outstanding:
            self._shown = None
        if self._shown is not None and self._shown[0].topic not in topics and self._clock() < self._shown[1]:
            m = self._shown[0]
            yield Problem(
                "message_refused",
                f"output {self._output}: its broker ends the connection at {m.topic} ({len(m.payload)} bytes): it was not published; "
                f"{self.n} such since the start",
                NEXT,
            )


NEXT = (
    "raise the broker's longest packet (mosquitto: max_packet_size), or let the gateway's user publish on this topic; "
    "the broker's log says which"
)

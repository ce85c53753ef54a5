"""What is under way to a broker: at most a window of messages, each with what is to be done when it was acknowledged.

A broker may end the connection for the sake of one message (`refusal.py`). To learn which one, what was under way at such an end is sent
alone the next time: whatever else this gateway sends over the connection, marks and probes too, is kept back from before the message until
the broker has acknowledged it and has answered a ping behind it. For a broker may acknowledge a message and end the connection then (mosquitto
2.0.11 with max_queued_messages 0, of what its ACL denies): so what was acknowledged last is a suspect too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from gateway.metrics import Metrics
from gateway.mqtt_session import MqttError, MqttSession
from gateway.outputs.message import Message
from gateway.outputs.refusal import Refusals

Then = Callable[[], None] | None


class Flight:
    """One at a time per connection: begin() forgets what was under way. `taken` counts acknowledgements."""

    def __init__(self, window: int, metrics: Metrics, refusals: Refusals | None = None) -> None:
        self._window, self._metrics = window, metrics
        self.refusals = Refusals("", metrics) if refusals is None else refusals
        self._session: MqttSession | None = None
        self._open: dict[int, tuple[Message, Then, str]] = {}
        self._queue: deque[tuple[Message, Then, str]] = deque()  # behind a message that is sent alone
        self._holds = False  # all else is kept back, for a message that is to be sent alone
        self._quiet = False  # and the broker has gone on behind what was sent before
        self._alone = False  # the message is on the wire
        self._held: int | None = None  # its id, when it was acknowledged: the pong is awaited
        self._just: Message | None = None  # acknowledged last, and no pong since
        self._asked = 0  # number of the ping that is on its way, 0: none is
        self._beside: set[int] = set()  # under way, and no part of the window
        self._acked_here = 0
        self._moved = asyncio.Event()
        self.taken = 0

    def begin(self, session: MqttSession) -> None:
        """Use a new connection."""
        self._session = session
        self._open.clear()
        self._queue.clear()
        self._beside.clear()
        self._acked_here, self._alone, self._holds, self._quiet = 0, False, False, False
        self._held, self._just, self._asked = None, None, 0
        session.on_puback, session.on_pong = self._acked, self._ponged

    def end(self) -> None:
        """The connection is gone."""
        self._session = None
        self._moved.set()

    def lost(self) -> bool:
        """The other side has ended the connection; True when a message is, or may be, the reason."""
        subject = next((subject for _, _, subject in self._open.values()), "")
        return self.refusals.lost([m for m, _, _ in self._open.values()], self._acked_here > 0, subject, self._just)

    def __len__(self) -> int:
        return len(self._open) + len(self._queue)

    async def room(self, share: int = 1) -> None:
        """Wait until fewer than window/share messages are under way."""
        while len(self) - len(self._beside) >= max(self._window // share, 1):
            self._moved.clear()
            await self._moved.wait()

    def send(self, m: Message, then: Then = None, subject: str = "") -> None:
        """Publish; `then` is called when it was acknowledged, of QoS 0 and of what the broker refuses at once. Raises MqttError.

        subject: whose facts it holds, so that it can be published again.
        """
        if self._session is None:
            raise MqttError("connection lost")
        if self.refusals.is_refused(m):
            if then is not None:
                then()
            return
        self._queue.append((m, then, subject))
        self._forward()

    def beside(self, m: Message) -> None:
        """Publish what takes no place in the window: it is rare and the gateway's own. Raises MqttError."""
        before = set(self._open)
        self.send(m)
        self._beside |= self._open.keys() - before

    def _forward(self) -> None:
        """Send what may be sent now, in order. Raises MqttError."""
        while self._queue and not self._alone:
            m, then, subject = self._queue[0]
            alone = m.qos > 0 and self.refusals.is_suspect(m)
            if alone and self._open:
                return
            if alone and not self._quiet:
                if not self._holds:
                    self._hold()
                    self._asked = 0  # one that is on its way was sent before
                    self._ask()
                return
            self._queue.popleft()
            self._alone = alone
            if alone:
                self._hold()
            else:
                self._release()
            self._out(m, then, subject)
            if alone:
                self._ask()
        if not self._queue and not self._alone:
            self._release()

    def _hold(self) -> None:
        if self._session is not None:
            self._holds = True
            self._session.hold()

    def _release(self) -> bool:
        """True when something was kept back."""
        kept = self._holds and self._session is not None and self._session.release()
        self._holds = self._quiet = False
        return kept

    def _out(self, m: Message, then: Then, subject: str) -> None:
        session = self._session
        mid = session.publish(m.topic, m.payload, m.qos, m.retain, self._alone) if session is not None else None
        if mid is None:
            raise MqttError("connection lost")
        self._metrics.totals["messages"] += 1
        if m.qos:
            self._open[mid] = m, then, subject
        elif then is not None:
            then()

    def _acked(self, mid: int) -> None:
        self.taken += 1
        if self._alone and mid in self._open:
            self._held = mid
            self._ask()
            return
        self._just = self._open.get(mid, (self._just,))[0]
        self._taken(mid)

    def _ask(self) -> None:
        if not self._asked and self._session is not None:
            self._asked = self._session.ping()

    def _ponged(self, number: int) -> None:
        """The broker has gone on behind all that it has acknowledged, and behind what was sent before a ping."""
        self._just = None
        if not self._asked or number < self._asked:
            return
        held, self._held, self._asked = self._held, None, 0
        self._quiet = True
        if (
            held is not None
        ):  # what was kept back goes before the next suspect: who waits for an answer to it has a time limit
            self._alone, self._quiet = False, not self._release()
        self._taken(held)

    def _taken(self, mid: int | None) -> None:
        m, then, _ = (None, None, "") if mid is None else self._open.pop(mid, (None, None, ""))
        if m is not None and mid is not None:
            self._beside.discard(mid)
            self._acked_here += 1
            self.refusals.taken(m)
        if then is not None:
            then()
        try:
            self._forward()
        except MqttError:  # the connection has ended, which its owner sees
            self._queue.clear()
        self._moved.set()

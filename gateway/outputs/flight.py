"""What is under way to a broker: at most a window of messages, each with what is to be done when it was acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.metrics import Metrics
from gateway.mqtt_session import MqttError, MqttSession
from gateway.outputs.message import Message


class Flight:
    """One at a time per connection: begin() forgets what was under way. `taken` counts acknowledgements."""

    def __init__(self, window: int, metrics: Metrics) -> None:
        self._window, self._metrics = window, metrics
        self._session: MqttSession | None = None
        self._open: dict[int, Callable[[], None] | None] = {}
        self._moved = asyncio.Event()
        self.taken = 0

    def begin(self, session: MqttSession) -> None:
        """Use a new connection."""
        self._session = session
        self._open.clear()
        session.on_puback = self._acked

    def end(self) -> None:
        """The connection is gone."""
        self._session = None
        self._moved.set()

    def __len__(self) -> int:
        return len(self._open)

    async def room(self, share: int = 1) -> None:
        """Wait until fewer than window/share messages are under way."""
        while len(self._open) >= max(self._window // share, 1):
            self._moved.clear()
            await self._moved.wait()

    def send(self, m: Message, then: Callable[[], None] | None = None) -> None:
        """Publish; `then` is called when it was acknowledged, of QoS 0 at once. Raises MqttError."""
        session = self._session
        mid = session.publish(m.topic, m.payload, m.qos, m.retain) if session is not None else None
        if mid is None:
            raise MqttError("connection lost")
        self._metrics.totals["messages"] += 1
        if m.qos:
            self._open[mid] = then
        elif then is not None:
            then()

    def _acked(self, mid: int) -> None:
        self.taken += 1
        then = self._open.pop(mid, None)
        if then is not None:
            then()
        self._moved.set()

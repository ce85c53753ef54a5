"""Publishes what is current behind what is new: over half of the window, after alarms that wait, and with a word when all of it has arrived."""

from __future__ import annotations

import asyncio

from gateway.metrics import Metrics
from gateway.outputs.flight import Flight
from gateway.outputs.message import Message
from gateway.outputs.track import Track


class Sending:
    """Of one output, over one connection after the other."""

    def __init__(self, track: Track, flight: Flight, metrics: Metrics) -> None:
        self._track, self._flight, self._metrics = track, flight, metrics
        self._open = 0  # messages of ours that are not acknowledged
        self._acked = asyncio.Event()

    def begin(self) -> None:
        """Use a new connection."""
        self._open = 0

    async def room(self) -> None:
        """Wait for a place in the window of which half is left to what is new; alarms go first."""
        lane = self._track.lane
        while True:
            await self._flight.room(2)
            if lane is None or not lane.waits or lane.room <= 0:
                return
            await asyncio.sleep(0.001)

    def publish(self, m: Message, subject: str = "") -> None:
        """Publish what is current, of a subject if it is one's. Raises MqttError."""
        self._open += 1
        self._metrics.totals["retained_again"] += 1
        self._flight.send(m, self._taken, subject)

    def _taken(self) -> None:
        self._open -= 1
        if not self._open:
            self._acked.set()

    @property
    def is_settled(self) -> bool:
        """True when all that was published is acknowledged."""
        return not self._open

    async def settled(self) -> None:
        """Wait until it is."""
        while self._open:
            self._acked.clear()
            await self._acked.wait()

"""Signs of trouble in counters: one that has risen lately, and refused frames that come as a flood."""

from __future__ import annotations

import time

REFUSED_PER_S = 100  # more than so many refused frames each second for FLOOD_S is a flood
FLOOD_S = 10.0


class Rising:
    """A counter that has risen lately."""

    def __init__(self, lately_s: float = 60.0) -> None:
        self._lately_s, self._count, self._rose = lately_s, 0, float("-inf")

    def tick(self, count: int, now: float) -> None:
        """Take the count of now."""
        if count > self._count:
            self._rose = now
        self._count = count

    def recent(self, now: float) -> bool:
        """True when it has risen within lately_s."""
        return now - self._rose < self._lately_s


class Flood:
    """Refused frames per second, over FLOOD_S."""

    def __init__(self) -> None:
        self.per_s = 0.0
        self._mark = (0, time.monotonic())
        self._seen = float("-inf")

    def tick(self, refused: int, now: float) -> None:
        """Take the total of now."""
        count, since = self._mark
        if now - since >= FLOOD_S:
            per_s = (refused - count) / (now - since)
            self._mark = refused, now
            if per_s > REFUSED_PER_S:
                self.per_s, self._seen = per_s, now

    def up(self, now: float) -> bool:
        """True while it lasts, and a minute after."""
        return now - self._seen < 60.0

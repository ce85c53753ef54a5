"""Pauses between tries to reach a broker, and the sign that another client has our name.

An MQTT 3.1.1 broker takes the second client of one name for the first, and closes the connection of the first without a word. Two gateways of one
id throw each other out in this way for as long as both live. So: MANY connections in a row that were made at the first try and that the other
side closed within HELD_S mean `taken_over`, and we wait longer each time instead of making both useless.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

FIRST_S, LAST_S = 0.5, 30.0
HELD_S = 30.0  # a connection that lasted so long was a connection
MANY = 3
TOLD_S = 600.0  # so long it is said after the last time


class Backoff:
    """One connection's. Calls come in the order: (connected, lost) or failed, each followed by pause."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = FIRST_S
        self._since: float | None = None
        self._thrown = 0
        self._told_until = float("-inf")

    def connected(self) -> None:
        """The other side has taken us."""
        self._since = self._clock()

    def lost(self, worked: bool = False, explained: bool = False) -> None:
        """A connection has ended that we did not end. worked: it took something that waited for it. explained: it is known why."""
        if explained:
            self._since, self._thrown, self._next = None, 0, FIRST_S
            self._told_until = float("-inf")
            return
        now = self._clock()
        held = self._since is not None and now - self._since >= HELD_S
        self._since = None
        if not held and self._thrown + 1 >= MANY:
            self._told_until = now + TOLD_S
        if held:
            self._thrown = 0
            self._next = FIRST_S
            return
        self._thrown += 1
        if worked and self._thrown < MANY:
            self._next = FIRST_S

    def failed(self) -> None:
        """No connection was made: whoever was there before, it was no client that took our name."""
        self._since = None
        self._thrown = 0

    @property
    def taken_over(self) -> bool:
        """True when it looks as if another client took our name again and again, and for TOLD_S after the last time."""
        return self._clock() < self._told_until

    def pause(self) -> float:
        """Return how many seconds to wait before the next try, with jitter, and double the next one."""
        wait = self._next
        self._next = min(wait * 2, LAST_S)
        return wait * random.uniform(0.75, 1.25)

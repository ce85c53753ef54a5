"""What time it is, for receive times, downlinks and presence."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """now() is Unix seconds; heard() tells what time a receiver said it was."""

    def now(self) -> float: ...

    def heard(self, unix: float) -> None: ...

    @property
    def follows_receivers(self) -> bool: ...


class HostClock:
    """The machine's own clock."""

    follows_receivers = False

    def now(self) -> float:
        return time.time()

    def heard(self, unix: float) -> None:
        """The machine knows better."""


class ForwarderClock:
    """The time of the newest stat or rxpk; never steps back. Until the first of them, the machine's clock.

    For a box without a clock of its own, and for simulations. It stands still between two messages (a concentrator sends stat
    every 30 s), which is good enough for receive times, since each rxpk brings its own.
    """

    follows_receivers = True

    def __init__(self) -> None:
        self._newest: float | None = None

    def now(self) -> float:
        return time.time() if self._newest is None else self._newest

    def heard(self, unix: float) -> None:
        if self._newest is None or unix > self._newest:
            self._newest = unix

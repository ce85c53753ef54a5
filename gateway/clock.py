"""What time it is, for receive times, downlinks and presence; and when the machine's clock was set instead of running."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

STEP_S = 2.0  # what NTP slews away (0.5 ms a second) never looks like this between two calls


class Clock(Protocol):
    """now() is Unix seconds; heard() tells what time a receiver said it was. on_step: called with seconds when the clock was set."""

    on_step: Callable[[float], None]

    def now(self) -> float: ...

    def heard(self, unix: float) -> None: ...

    @property
    def follows_receivers(self) -> bool: ...


def _nobody(_seconds: float) -> None:
    """Nobody asked to be told."""


class HostClock:
    """The machine's own clock, held against the monotonic one: a difference of STEP_S or more between two calls is a step.

    Standing still (a suspended machine) looks like a step forward, and is one for everybody who waits for frames.
    """

    follows_receivers = False

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.on_step = _nobody
        self.steps = 0
        self._wall, self._monotonic = wall, monotonic
        self._before = wall() - monotonic()

    def now(self) -> float:
        wall = self._wall()
        offset = wall - self._monotonic()
        moved, self._before = offset - self._before, offset
        if abs(moved) >= STEP_S:
            self.steps += 1
            self.on_step(moved)
        return wall

    def heard(self, unix: float) -> None:
        """The machine knows better."""


class ForwarderClock:
    """The time of the newest stat or rxpk; never steps back. Until the first of them, the machine's clock.

    For a box without a clock of its own, and for simulations. It stands still between two messages (a concentrator sends stat
    every 30 s), which is good enough for receive times, since each rxpk brings its own.
    """

    follows_receivers = True

    def __init__(self) -> None:
        self.on_step = _nobody
        self._newest: float | None = None

    def now(self) -> float:
        return time.time() if self._newest is None else self._newest

    def heard(self, unix: float) -> None:
        if self._newest is None or unix > self._newest:
            self._newest = unix

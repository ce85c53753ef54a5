"""How far the host's clock is believed when something cannot be undone: dropping history by age, and where downlink counters begin.

A machine without a battery clock starts years behind, a wrongly set one years ahead. What is old is therefore measured from the time
that the store had come to, and that runs with the monotonic clock. The host's clock is caught up with at CATCH_UP times that speed, and
only while the nodes that were heard agree with it: a clock that is ten years ahead costs a day of history an hour, which is time to
notice (`clock_doubted` in health), and a gateway that was really away for a month is even again after a day.

Nodes get their time from the gateway, so only the first report of each node in this life is a witness.
"""

from __future__ import annotations

from collections.abc import Callable

DAY = 86_400.0
CATCH_UP = 25.0
AGREE_S = DAY  # a report's newest row and its reception are no further apart than this, or the report says nothing for the clock
DOUBT_S = 7 * DAY  # a clock that is further ahead of what the store believes is told
WITNESSES = 3  # nodes that must lie ahead before counters are moved for it: two may be broken or stolen
NODES = 256  # witnesses remembered


class Time:
    """since: the time that the store had come to when this life began, None for a new one. clock: Unix seconds, monotonic: seconds."""

    def __init__(self, since: float | None, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._clock, self._monotonic = clock, monotonic
        now = clock()
        self._believed = now if since is None else min(since, now)
        self._at = monotonic()
        self._witnesses: dict[int, bool] = {}
        self._ahead: list[float] = []

    def heard(self, node: int, newest_row: float, received: float) -> None:
        """Take a report: the time of its newest row by the node's clock, and of its reception by ours."""
        if node in self._witnesses or len(self._witnesses) >= NODES:
            return
        ahead = newest_row - received
        self._witnesses[node] = abs(ahead) < AGREE_S
        if ahead >= AGREE_S:
            self._ahead = sorted((*self._ahead, newest_row), reverse=True)[:WITNESSES]

    @property
    def agreed(self) -> bool:
        """True while at least half of the nodes that were heard, one at the least, say what the host's clock says."""
        agree = sum(self._witnesses.values())
        return agree > 0 and 2 * agree >= len(self._witnesses)

    def believed(self) -> float:
        """Return the Unix time that nothing in the store is younger than by mistake; it never steps, and never runs ahead of the clock."""
        mono = self._monotonic()
        elapsed, self._at = mono - self._at, mono
        ahead = self._believed + elapsed * (CATCH_UP if self.agreed else 1.0)
        self._believed = max(self._believed, min(ahead, self._clock()))
        return self._believed

    def doubted(self) -> float:
        """Return the seconds that the host's clock is ahead of what is believed, 0 when it is no more than DOUBT_S."""
        ahead = self._clock() - self.believed()
        return ahead if ahead > DOUBT_S else 0.0

    def at_least(self) -> float | None:
        """Return a time that WITNESSES nodes have passed by their own clocks while ours is behind them, None when there are none such."""
        return self._ahead[-1] if len(self._ahead) == WITNESSES else None

"""Statistics of sound levels: a histogram of 0.1 dB bins, and the levels exceeded n % of the time."""

from array import array
from micropython import const

LOWEST = const(250)  # 0.1 dB: 25.0 dB, the lowest valid level of the registry
HIGHEST = const(1300)


class Levels:
    """Time spent at each level; levels outside 25.0 .. 130.0 dB count at the end they left. 4.2 kB, no allocation later."""

    def __init__(self):
        self._bins = array("I", bytes(4 * (HIGHEST - LOWEST + 1)))
        self._total = 0

    def clear(self):
        """Forget everything."""
        bins = self._bins
        for i in range(len(bins)):
            bins[i] = 0
        self._total = 0

    def add(self, level, weight):
        """Add `weight` (ms) at `level` (0.1 dB)."""
        level = min(max(level, LOWEST), HIGHEST) - LOWEST
        self._bins[level] += weight
        self._total += weight

    def exceeded(self, percent):
        """Return the highest level (0.1 dB) that was reached or exceeded at least `percent` % of the time (L10: 10).

        LOWEST when nothing was added.
        """
        if not self._total:
            return LOWEST
        left = self._total * percent
        bins = self._bins
        i = len(bins) - 1
        while i > 0:
            left -= bins[i] * 100
            if left <= 0:
                break
            i -= 1
        return i + LOWEST

"""What a row says of its samples: integer mean, last, smallest or largest per column. Adding a sample allocates nothing."""

from array import array
from micropython import const

MEAN = const(0)
LAST = const(1)
MIN = const(2)
MAX = const(3)
NAMES = {"mean": MEAN, "last": LAST, "min": MIN, "max": MAX}


class Stats:
    """Collects raw integers of n columns between two rows.

    hows: one of MEAN, LAST, MIN, MAX per column. A mean is kept as first value + sum of differences, so that it stays
    below 2**30 for 2**27 / spread samples (pressure, 1 sample/s: over a day). Rounds half up.
    """

    def __init__(self, hows):
        n = len(hows)
        self._how = bytes(hows)
        self._n = array("H", bytes(2 * n))
        self._first = array("i", bytes(4 * n))
        self._acc = array("i", bytes(4 * n))

    def clear(self):
        """Begin a new row."""
        n = self._n
        for c in range(len(n)):
            n[c] = 0

    def add(self, c, v):
        """Take sample v of column c."""
        n = self._n[c]
        how = self._how[c]
        if n == 0:
            self._first[c] = v
            self._acc[c] = 0 if how == MEAN else v
        elif how == MEAN:
            self._acc[c] += v - self._first[c]
        elif how == LAST or (v < self._acc[c] if how == MIN else v > self._acc[c]):
            self._acc[c] = v
        if n < 65535:
            self._n[c] = n + 1

    def save(self, put):
        """Tell put(int) what load() needs to go on with the row that was begun."""
        for c in range(len(self._n)):
            put(self._n[c])
            put(self._first[c])
            put(self._acc[c])

    def load(self, get):
        """Go on with a row that was begun before a deep sleep."""
        for c in range(len(self._n)):
            self._n[c], self._first[c], self._acc[c] = get(), get(), get()

    def row_into(self, out):
        """Write the row into out[0:n]; return the mask of columns that had a sample."""
        present = 0
        for c in range(len(self._n)):
            n = self._n[c]
            if n:
                present |= 1 << c
                acc = self._acc[c]
                out[c] = self._first[c] + (2 * acc + n) // (2 * n) if self._how[c] == MEAN else acc
        return present

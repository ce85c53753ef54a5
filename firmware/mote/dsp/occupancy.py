"""Is a car standing over this magnetometer? A pure state machine on the three field axes, integers, no allocation.

The slow baseline follows the field only while the bay is free and quiet, so that a parked car never becomes normal. The
feature is the length of (field - baseline); the threshold to enter is above the one to leave; nothing is decided before
the field has been quiet for `hold_ms`, so that a car that passes or manoeuvres counts once or not at all. Method: AMR
parking detection with slow baseline and variance gate, as in doi 10.1155/2013/107975 and 10.1155/2015/361242.
"""

from array import array
from micropython import const

UNKNOWN, FREE, ENTERING, OCCUPIED, LEAVING = range(5)

_SCALE = const(8)  # baseline carries 8 fraction bits
_DRIFT_MS = const(60000)  # one baseline step per minute of free, quiet time ...
_DRIFT_DIV = const(120)  # ... of 1/120: time constant two hours, slower than any stay at the kerb, faster than weather


def isqrt(n):
    """Return the integer square root of 0 <= n < 2**30, rounded down."""
    if n < 2:
        return n
    r = 1
    m = n
    while m > 3:
        m >>= 2
        r <<= 1
    r <<= 1  # above the root; Newton falls from there
    while True:
        q = (r + n // r) >> 1
        if q >= r:
            return r
        r = q


class Occupancy:
    """One bay. Thresholds in 0.1 uT, times in ms. `state`, `occupied` (0 or 1), `confidence` (%), `anomaly` (0.1 uT)
    hold the outcome of the last step; `wait_ms` is when the next sample is wanted.

    The bay is taken to be empty when the machine starts without a stored baseline; `baseline` and `resume()` carry it
    over a reset, so that a node that restarts under a car still knows.
    """

    def __init__(self, enter=120, leave=70, quiet=15, hold_ms=3000, slow_ms=5000, fast_ms=500):
        if not 0 < leave < enter or quiet <= 0:
            raise ValueError("thresholds")
        self._enter, self._leave, self._quiet, self._hold_ms = enter, leave, quiet, hold_ms
        self._slow_ms, self._fast_ms = slow_ms, fast_ms
        self._base = array("i", (0, 0, 0))
        self._short = array("i", (0, 0, 0))  # short-term mean, the reference of "quiet"
        self._quiet_ms = 0
        self._drift_ms = 0
        self._fresh = True
        self.state = UNKNOWN
        self.occupied = 0
        self.confidence = 0
        self.anomaly = 0
        self.wait_ms = fast_ms

    @property
    def baseline(self):
        """The empty bay's field (three 0.1 uT values); None while unknown. Allocates: for the rare save only."""
        if self.state == UNKNOWN:
            return None
        return tuple([b >> _SCALE for b in self._base])

    def resume(self, baseline, occupied):
        """Go on from a saved baseline and state."""
        for i in range(3):
            self._base[i] = baseline[i] << _SCALE
        self.occupied = 1 if occupied else 0
        self.state = OCCUPIED if occupied else FREE

    def set_free(self):
        """Operator's word that the bay is empty: the next quiet field becomes the baseline."""
        self.state = UNKNOWN
        self.occupied = 0
        self.confidence = 0
        self._quiet_ms = 0

    def step(self, x, y, z, dt_ms):
        """Take one field sample (0.1 uT per axis, |v| <= 8000), dt_ms after the last; return True when `occupied` changed."""
        short = self._short
        if self._fresh:
            self._fresh = False
            short[0] = x
            short[1] = y
            short[2] = z
        moved = max(abs(x - short[0]), abs(y - short[1]), abs(z - short[2]))
        part = min(dt_ms, 1000)  # short-term mean of about a second
        short[0] += (x - short[0]) * part // 1000
        short[1] += (y - short[1]) * part // 1000
        short[2] += (z - short[2]) * part // 1000
        if moved > self._quiet:
            self._quiet_ms = 0
            self._drift_ms = 0
        else:
            self._quiet_ms = min(self._quiet_ms + min(dt_ms, self._fast_ms * 2), self._hold_ms)
        settled = self._quiet_ms >= self._hold_ms

        base = self._base
        if self.state == UNKNOWN:
            if settled:
                base[0] = x << _SCALE
                base[1] = y << _SCALE
                base[2] = z << _SCALE
                self.state = FREE
                self.confidence = 50
            self._pace(settled)
            return False
        dx = x - (base[0] >> _SCALE)
        dy = y - (base[1] >> _SCALE)
        dz = z - (base[2] >> _SCALE)
        far = self.anomaly = isqrt(dx * dx + dy * dy + dz * dz)
        changed = self._decide(far, settled)
        if self.state == FREE and settled and far < self._leave:
            self._drift_ms += dt_ms
            if self._drift_ms >= _DRIFT_MS:
                self._drift_ms = 0
                base[0] += ((x << _SCALE) - base[0] + (_DRIFT_DIV >> 1)) // _DRIFT_DIV
                base[1] += ((y << _SCALE) - base[1] + (_DRIFT_DIV >> 1)) // _DRIFT_DIV
                base[2] += ((z << _SCALE) - base[2] + (_DRIFT_DIV >> 1)) // _DRIFT_DIV
        self._pace(settled)
        return changed

    def _decide(self, far, settled):
        """Move on in the states; the confidence grows with the distance from the other state's threshold."""
        if self.occupied:
            self.confidence = 50 + min(49, max(0, far - self._leave) * 25 // self._leave)
            if far >= self._leave:
                self.state = OCCUPIED
                return False
            self.state = LEAVING
        else:
            self.confidence = 50 + max(0, self._enter - far) * 49 // self._enter
            if far <= self._enter:
                self.state = FREE
                return False
            self.state = ENTERING
        if not settled:
            return False
        self.occupied ^= 1
        self.state = OCCUPIED if self.occupied else FREE
        if self.occupied:
            self.confidence = 50 + min(49, (far - self._leave) * 25 // self._leave)
        else:
            self.confidence = 50 + max(0, self._enter - far) * 49 // self._enter
        return True

    def _pace(self, settled):
        self.wait_ms = self._slow_ms if settled else self._fast_ms

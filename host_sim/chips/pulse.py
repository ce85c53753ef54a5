"""Pulse output of a water meter: a count that never goes back, and the level of the line that a magnet and a reed make of it."""

from .parts import Noise

BOUNCES = 6  # of a worn reed, at every edge
BOUNCE_US = 2400  # the longest of them: below 15 ms in all


class PulseChip:
    """Senses water_pulses (pulses since the meter was made; a fraction is a pulse under way).

    fault: "stuck" / "silent" (cable cut: no pulses arrive, and those of that time are lost); "bounce": the contact of a worn reed
    bounces at every edge. A counter without filter counts one pulse in ten twice (`count`); the line shows every bounce (`level`).
    """

    FAULTS = ("stuck", "silent", "bounce")

    def __init__(self, sense, now_us):
        self.sense, self.now_us = sense, now_us
        self.fault = None
        self._seen = int(sense("water_pulses"))
        self._count = 0
        self._tenths = 0
        self._half = None  # half pulses at _from; the line keeps its level up to _to
        self._from = self._to = self._quiet = 0
        self._flips = ()

    def count(self):
        """Return the pulses that came down the cable since power-on."""
        now = int(self.sense("water_pulses"))
        new, self._seen = max(0, now - self._seen), max(now, self._seen)
        if self.fault in ("stuck", "silent"):
            return self._count
        self._count += new
        if self.fault == "bounce":
            self._tenths += new
            self._count += self._tenths // 10
            self._tenths %= 10
        return self._count

    def when(self, name, value, after_us, until_us):
        """First microsecond in (after_us, until_us] at which `name` has reached `value`, or None."""
        if self.sense(name, until_us) < value:
            return None
        while until_us - after_us > 1:
            mid = (after_us + until_us) // 2
            if self.sense(name, mid) < value:
                after_us = mid
            else:
                until_us = mid
        return until_us

    def level(self, t_us):
        """Level of the line at t_us: high in the first half of each pulse. Quick when t_us never falls."""
        if self.fault in ("stuck", "silent"):
            return 0
        self._follow(t_us)
        flips = 0
        for t in self._flips:
            flips += t <= t_us
        return 1 - self._half % 2 ^ flips % 2

    def next_edge(self, t_us, until_us):
        """First instant in (t_us, until_us] at which the level changes, or None."""
        if self.fault in ("stuck", "silent"):
            return None
        self._follow(t_us)
        edge = self._next(until_us)
        for t in self._flips:
            if t > t_us and (edge is None or t < edge):
                return t if t <= until_us else None
        return edge

    def _next(self, until_us):
        """The next edge without bounces, as far as until_us."""
        if self._to is None and until_us > self._quiet:
            self._to = self.when("water_pulses", (self._half + 1) / 2, self._quiet, until_us)
            self._quiet = until_us
        return self._to if self._to is not None and self._to <= until_us else None

    def _follow(self, t_us):
        """Go to the half pulse in which t_us lies."""
        if self._half is None or t_us < self._from:
            self._half = int(2 * self.sense("water_pulses", t_us))
            before = t_us - BOUNCES * BOUNCE_US
            bouncing = 2 * self.sense("water_pulses", before) < self._half
            self._begin(self.when("water_pulses", self._half / 2, before, t_us) if bouncing else before)
            self._quiet = t_us
        while self._next(t_us) is not None:
            self._half += 1
            self._begin(self._to)

    def _begin(self, t_us):
        """The half pulse began at t_us."""
        self._from = self._quiet = t_us
        self._to, self._flips = None, ()
        if self.fault == "bounce":
            noise = Noise(self._half)
            flips = []
            for _ in range(BOUNCES):
                t_us += 100 + noise.below(BOUNCE_US - 100)
                flips.append(t_us)
            self._flips = flips

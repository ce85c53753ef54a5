"""Pulse output of a water meter: a count that never goes back."""


class PulseChip:
    """Senses water_pulses (pulses since the meter was made; a fraction is a pulse under way).

    fault: "stuck" / "silent" (cable cut: no pulses arrive, and those of that time are lost); "bounce" (one pulse in ten
    is counted twice: a worn reed without filter).
    """

    FAULTS = ("stuck", "silent", "bounce")

    def __init__(self, sense, now_us):
        self.sense, self.now_us = sense, now_us
        self.fault = None
        self._seen = int(sense("water_pulses"))
        self._count = 0
        self._tenths = 0

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

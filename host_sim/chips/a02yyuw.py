"""DYP-A02YYUW on byte level: FF H L SUM by itself every 100 ms. DFRobot SEN0311 data sheet."""

try:
    from .parts import Line, Noise
except ImportError:
    from parts import Line, Noise

PERIOD_US = 100_000
KEPT = 64  # frames: 256 bytes, more than a receive buffer keeps


class A02YYUWChip:
    """Senses distance (mm); outside 30 .. 4500 mm there is no echo (0 is sent). Two millimetres of noise.

    assumes_340: the module turns time of flight into distance at 340 m/s, so the air's temperature shows in it, where the
    world has one.
    fault: "silent"; "checksum"; "noise" (garbage between frames, and every third frame loses a byte); "stuck" (the
    distance stays); "no_echo".
    """

    FAULTS = ("silent", "checksum", "noise", "stuck", "no_echo")

    def __init__(self, sense, now_us, assumes_340=True):
        self.sense, self.now_us = sense, now_us
        self.fault = None
        self._assumes_340 = assumes_340
        self._line = Line()
        self._noise = Noise(311)
        self._next_us = now_us() + PERIOD_US
        self._mm = None
        self._frames = 0

    def receive(self, data):
        """The module's RX pin only selects the output's smoothing: bytes mean nothing to it."""

    def frame(self):
        """Return the four bytes of a measurement now."""
        if self.fault != "stuck" or self._mm is None:
            d = self.sense("distance")
            if self._assumes_340:
                try:
                    d *= 340.0 / (331.3 * (1 + self.sense("temperature") / 273.15) ** 0.5)
                except KeyError:
                    self._assumes_340 = False  # a world without weather
            self._mm = int(d + 0.5) + self._noise.around(2) if 30 <= d <= 4500 else 0
        mm = 0 if self.fault == "no_echo" else self._mm
        data = bytes((0xFF, mm >> 8, mm & 255, 0xFF + (mm >> 8) + (mm & 255) & 0xFF))
        self._frames += 1
        if self.fault == "checksum":
            data = data[:3] + bytes((data[3] ^ 1,))
        elif self.fault == "noise":
            if self._frames % 3 == 0:
                data = data[:2] + data[3:]
            data = bytes((0xFF, self._noise.below(256))) + data
        return data

    def produce(self):
        now = self.now_us()
        late = (now - self._next_us) // PERIOD_US
        if late >= KEPT:  # one look at the world serves the frames nobody listened to
            self._next_us += (late + 1) * PERIOD_US
            self._line.clear()
            return b"" if self.fault == "silent" else self.frame() * KEPT
        while self._next_us <= now:
            if self.fault != "silent":
                self._line.say(self._next_us, self.frame())
            self._next_us += PERIOD_US
        return self._line.heard(now)

    def next_us(self):
        at = self._line.next_us()
        if at is None and self.fault != "silent":
            at = self._next_us + Line.BYTE_US
        return at

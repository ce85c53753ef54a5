"""QST QMC5883L on register level, over a parking bay. Datasheet 13-52-04, chapter 9."""

try:
    from .parts import Noise, Registers
except ImportError:
    from parts import Noise, Registers

EARTH = (2200, 150, 4300)  # 0.01 uT: 22.0, 1.5, 43.0 uT, central Europe
CAR = (1500, -900, 2600)  # what a parked car adds
PASSING = (-1100, 1300, 700)  # and its engine block, while it rolls over the node
APPROACH_US = 4_000_000
NOISE = 20  # 0.01 uT
ODR_US = (100_000, 20_000, 10_000, 5_000)


class QMC5883LChip(Registers):
    """Senses occupied (0 or 1). A change takes four seconds of rolling, from the first sample after it.

    fault: "nack"/"silent"; "stuck" (no new sample ever); "overflow" (a magnet beside the node); "wrong_chip".
    """

    FAULTS = ("nack", "silent", "stuck", "overflow", "wrong_chip")

    def __init__(self, sense, now_us, earth=EARTH):
        super().__init__(sense, now_us)
        self.reg[0x0D] = 0xFF
        self._earth = earth
        self._noise = Noise(5883)
        self._since = 0  # when continuous mode began
        self._taken = 0  # samples read or overwritten
        self._there = None
        self._moved_us = None

    def wrote(self, register, value):
        if register == 0x0A and value & 0x80:
            for i in range(13):
                self.reg[i] = 0
        elif 0x09 <= register <= 0x0B:
            self.reg[register] = value
            if register == 0x09:
                self._since, self._taken = self.now_us(), 0

    def before_read(self, register):
        reg = self.reg
        reg[0x0D] = 0x00 if self.fault == "wrong_chip" else 0xFF
        control = reg[0x09]
        if register > 0x06 or control & 3 != 1 or self.fault == "stuck":
            if register <= 0x06:
                reg[6] = 0
            return
        made = (self.now_us() - self._since) // ODR_US[control >> 2 & 3]
        if made == self._taken:
            reg[6] = 0
            return
        skipped = made - self._taken > 1 and self._taken > 0
        self._taken = made
        full = 3000 if control >> 4 & 3 else 12000  # LSB per gauss = per 100 uT
        over = 0
        for i in range(3):
            v = self._field(i) * full // 10000
            if self.fault == "overflow" or not -32768 <= v <= 32767:
                v, over = 32767, 2
            reg[2 * i], reg[2 * i + 1] = v & 255, v >> 8 & 255
        reg[6] = 1 | over | (4 if skipped else 0)

    def _field(self, axis):
        """Return the field on one axis now, 0.01 uT."""
        if axis == 0:
            there = self.sense("occupied") > 0.5
            if self._there is None:
                self._there = there
            elif there != self._there:
                self._there, self._moved_us = there, self.now_us()
            self._part = 1000
            if self._moved_us is not None:
                self._part = (self.now_us() - self._moved_us) * 1000 // APPROACH_US
                if self._part >= 1000:
                    self._moved_us = None
        v = self._earth[axis] + self._noise.around(NOISE)
        part = self._part
        if part < 1000:
            v += CAR[axis] * (part if self._there else 1000 - part) // 1000
            v += PASSING[axis] * part * (1000 - part) // 250000
        elif self._there:
            v += CAR[axis]
        return v

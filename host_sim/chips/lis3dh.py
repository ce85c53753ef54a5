"""ST LIS3DH on register level, as a tilt sensor. Datasheet DocID17530, chapter 8."""

import math

try:
    from .parts import Noise, Registers
except ImportError:
    from parts import Noise, Registers

ODR_HZ = (0, 1, 10, 25, 50, 100, 200, 400)
NOISE = 4  # mg


class LIS3DHChip(Registers):
    """Senses tilt (degrees from upright, about the Y axis). Power-down until CTRL_REG1 gives a rate.

    fault: "nack"/"silent"; "stuck" (no new sample ever); "shaken" (2 g of vibration); "wrong_chip".
    """

    FAULTS = ("nack", "silent", "stuck", "shaken", "wrong_chip")

    def __init__(self, sense, now_us):
        super().__init__(sense, now_us)
        self.reg[0x0F] = 0x33
        self.reg[0x20] = 0x07
        self._on_us = 0
        self._noise = Noise(3)
        self._auto = False
        self._taken = 0

    def write(self, data):
        # bit 7 of the register number asks for auto-increment
        self._auto = bool(data and data[0] & 0x80)
        if data:
            data = bytes((data[0] & 0x7F,)) + bytes(data[1:])
        super().write(data)

    def read(self, n):
        if self._auto or n == 1:
            return super().read(n)
        return super().read(1) * n

    def wrote(self, register, value):
        self.reg[register] = value
        if register == 0x20:
            self._on_us = self.now_us()
            self._taken = 0
            self.reg[0x27] = 0

    def before_read(self, register):
        reg = self.reg
        reg[0x0F] = 0x32 if self.fault == "wrong_chip" else 0x33
        rate = ODR_HZ[min(reg[0x20] >> 4, 7)]
        made = (self.now_us() - self._on_us - 1000) * rate // 1000000 if rate else 0
        if made <= self._taken or self.fault == "stuck":
            return
        self._taken = made
        reg[0x27] = 0x0F
        a = math.radians(self.sense("tilt"))
        bits = 4 if reg[0x23] & 8 else 6
        for i, g in ((0, math.sin(a)), (1, 0.0), (2, math.cos(a))):
            mg = int(g * 1000 + 1000.5) - 1000 + self._noise.around(NOISE)
            if self.fault == "shaken":
                mg += 2000 if mg >= 0 else -2000
            v = max(-2048, min(2047, mg)) >> bits - 4 << bits
            reg[0x28 + 2 * i], reg[0x29 + 2 * i] = v & 255, v >> 8 & 255

    def after_read(self, register):
        if register == 0x28:
            self.reg[0x27] = 0

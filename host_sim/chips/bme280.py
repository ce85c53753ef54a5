"""Bosch BME280 on register level: trims, forced mode with its conversion time, raw values from the inverted compensation.

Datasheet BST-BME280-DS002: memory map 5.3, compensation in double precision (appendix A), measurement time appendix B.
"""

try:
    from .parts import Registers
except ImportError:  # run as a plain file
    from parts import Registers

# T1..T3 P1..P9 of the BMP280 datasheet 3.12, humidity trims of an ordinary piece
TRIM = {
    "T": (27504, 26435, -1000),
    "P": (36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000),
    "H": (75, 362, 0, 313, 50, 30),
}


def temperature(trim, adc):
    """Return (Cel, t_fine) of a raw temperature, double precision (datasheet appendix A)."""
    t1, t2, t3 = trim["T"]
    v = (adc / 16384.0 - t1 / 1024.0) * t2
    d = adc / 131072.0 - t1 / 8192.0
    fine = v + d * d * t3
    return fine / 5120.0, fine


def pressure(trim, adc, fine):
    """Return Pa of a raw pressure at t_fine."""
    p1, p2, p3, p4, p5, p6, p7, p8, p9 = trim["P"]
    a = fine / 2.0 - 64000.0
    b = a * a * p6 / 32768.0
    b = (b + a * p5 * 2.0) / 4.0 + p4 * 65536.0
    a = (p3 * a * a / 524288.0 + p2 * a) / 524288.0
    a = (1.0 + a / 32768.0) * p1
    p = (1048576.0 - adc - b / 4096.0) * 6250.0 / a
    return p + (p9 * p * p / 2147483648.0 + p * p8 / 32768.0 + p7) / 16.0


def humidity(trim, adc, fine):
    """Return %RH of a raw humidity at t_fine, not limited to 0..100."""
    h1, h2, h3, h4, h5, h6 = trim["H"]
    v = fine - 76800.0
    x = adc - (h4 * 64.0 + h5 / 16384.0 * v)
    x *= h2 / 65536.0 * (1.0 + h6 / 67108864.0 * v * (1.0 + h3 / 67108864.0 * v))
    return x * (1.0 - h1 * x / 524288.0)


def invert(f, target, low, high):
    """Return the integer a in low .. high with f(a) nearest to target, f monotonic and nearly straight: secant steps."""
    a, b = float(low), float(high)
    fa, fb = f(a) - target, f(b) - target
    for _ in range(12):
        if fb == fa:
            break
        c = b - fb * (b - a) / (fb - fa)
        a, fa = b, fb
        b = max(float(low), min(float(high), c))
        if abs(b - a) < 0.25:
            break
        fb = f(b) - target
    return int(b + 0.5)


class BME280Chip(Registers):
    """Senses temperature (Cel), humidity (%RH), pressure (hPa).

    fault: "nack"/"silent"; "stuck" (the measuring bit never falls); "frozen" (values stay those of the last good
    measurement); "skipped" (reset values in the data registers); "no_humidity" (the write to ctrl_hum is lost, so humidity alone is
    not measured); "reset" (the chip starts anew in the middle of a measurement); "wrong_chip" (the id of a BMP280).
    """

    FAULTS = ("nack", "silent", "stuck", "frozen", "skipped", "no_humidity", "reset", "wrong_chip")

    def __init__(self, sense, now_us, trim=TRIM):
        super().__init__(sense, now_us)
        self.trim = trim
        self._reset()

    def _reset(self):
        reg, trim = self.reg, self.trim
        for i in range(256):
            reg[i] = 0
        reg[0xD0] = 0x60
        at = 0x88
        for word in trim["T"] + trim["P"]:
            reg[at], reg[at + 1] = word & 255, word >> 8 & 255
            at += 2
        h1, h2, h3, h4, h5, h6 = trim["H"]
        reg[0xA1] = h1
        reg[0xE1], reg[0xE2], reg[0xE3] = h2 & 255, h2 >> 8 & 255, h3
        reg[0xE4], reg[0xE5], reg[0xE6] = h4 >> 4 & 255, h4 & 15 | (h5 & 15) << 4, h5 >> 4 & 255
        reg[0xE7] = h6 & 255
        self._put(0x80000, 0x80000, 0x8000)
        self._done_us = None
        self._hum = 0  # ctrl_hum counts only after the next write to ctrl_meas
        self._ready_us = self.now_us() + 2000  # start-up: the trims are being copied

    def _put(self, p, t, h):
        r = self.reg
        r[0xF7], r[0xF8], r[0xF9] = p >> 12, p >> 4 & 255, p << 4 & 255
        r[0xFA], r[0xFB], r[0xFC] = t >> 12, t >> 4 & 255, t << 4 & 255
        r[0xFD], r[0xFE] = h >> 8, h & 255

    def wrote(self, register, value):
        if register == 0xE0:
            if value == 0xB6:
                self._reset()
        elif register == 0xF2:
            self.reg[0xF2] = 0 if self.fault == "no_humidity" else value
        elif register == 0xF4:
            self._hum = self.reg[0xF2] & 7
            self.reg[0xF4] = value
            if value & 3 in (1, 2):
                us = 1000
                for code, extra in ((value >> 5, 0), (value >> 2 & 7, 500), (self._hum, 500)):
                    if code:
                        us += 2000 * (1 << min(code, 5) - 1) + extra
                self._done_us = self.now_us() + us
        elif register == 0xF5:
            self.reg[0xF5] = value

    def before_read(self, register):
        self.reg[0xD0] = 0x58 if self.fault == "wrong_chip" else 0x60
        now = self.now_us()
        busy = self._done_us is not None and (now < self._done_us or self.fault == "stuck")
        if self._done_us is not None and not busy:
            self._measure()
        self.reg[0xF3] = (8 if busy else 0) | (1 if now < self._ready_us else 0)

    def _measure(self):
        self._done_us = None
        meas = self.reg[0xF4]
        self.reg[0xF4] = meas & 0xFC  # back to sleep
        if self.fault == "reset":
            self._reset()
        elif self.fault == "skipped":
            self._put(0x80000, 0x80000, 0x8000)
        elif self.fault != "frozen":
            self._put(*self.raw(meas >> 5, meas >> 2 & 7, self._hum))

    def raw(self, with_t=1, with_p=1, with_h=1):
        """Return (adc_P, adc_T, adc_H) of the world now. Each argument is an oversampling code: 0 switches the quantity off (it reads its
        reset value), 1 .. 5 give pressure and temperature 16 .. 20 bits (5.4.7, 5.4.8); humidity has 16 bits always."""
        trim = self.trim
        celsius = max(-40.0, min(85.0, self.sense("temperature")))
        t = invert(lambda a: temperature(trim, a)[0], celsius, 0, 1048575)
        fine = temperature(trim, t)[1]
        p, h = 0x80000, 0x8000
        if with_p:
            p = invert(lambda a: pressure(trim, a, fine), self.sense("pressure") * 100.0, 0, 1048575)
        if with_h:
            h = invert(lambda a: humidity(trim, a, fine), self.sense("humidity"), 0, 65535)
        return _coarse(p, with_p), _coarse(t, with_t) if with_t else 0x80000, h


def _coarse(adc, code):
    """Return a raw value with the bits that an oversampling code leaves: below 16 times the lowest ones are 0."""
    drop = max(0, 5 - code) if code else 0
    return min(adc + (1 << drop >> 1) >> drop << drop, 0xFFFFF >> drop << drop)

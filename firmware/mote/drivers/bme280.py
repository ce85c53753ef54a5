"""Bosch BME280: temperature, humidity, pressure over I2C. Datasheet BST-BME280-DS002 (registers: chapter 5; compensation: 4.2.3).

The compensation is the datasheet's float formula in integers scaled so that every intermediate stays below 2**30 for trims as Bosch ships
them (P4 < 16384, |P2| < 25000, P9 < 11000; a wilder trim is still computed right, through big integers). Against the datasheet's
double formula: 0.01 Cel, 0.05 %RH, 1 Pa.
"""

from asyncio import sleep_ms
from micropython import const

from mote.drivers.errors import NoAnswer, OutOfRange, WrongChip

_ID = const(0xD0)
_CHIP = const(0x60)
_TRIM_1 = const(0x88)  # T1 .. P9, then a gap, then H1: 26 bytes
_TRIM_2 = const(0xE1)  # H2 .. H6: 7 bytes
_CTRL_HUM = const(0xF2)
_STATUS = const(0xF3)  # bit 3 measuring, bit 0 copying the trims
_CTRL_MEAS = const(0xF4)
_DATA = const(0xF7)
_FORCED_X1 = b"\x25"  # oversampling x1 for temperature and pressure, forced mode: datasheet 3.5.1 "weather monitoring"
_HUM_X1 = b"\x01"
_MEASURE_MS = const(10)  # 9.3 ms at most with x1 everywhere, appendix B
_TRIES = const(5)


class BME280:
    """One BME280 at `addr` (0x76, or 0x77 with SDO high). Sleeps between readings (forced mode, 0.1 uA)."""

    CHANNELS = ("temperature", "humidity", "pressure")

    def __init__(self, i2c, addr=0x76):
        self._i2c, self._addr = i2c, addr
        self._one = bytearray(1)
        self._set = bytearray(3)
        self._rx = bytearray(8)
        self._known = False
        self._t = (0, 0, 0)
        self._p = (0,) * 9
        self._h = (0,) * 6

    async def start(self):
        """Check the chip and read its trims (once; read_into does it when nobody did). OSError, WrongChip."""
        i2c, addr = self._i2c, self._addr
        i2c.readfrom_mem_into(addr, _ID, self._one)
        if self._one[0] != _CHIP:
            raise WrongChip
        for _ in range(_TRIES):
            i2c.readfrom_mem_into(addr, _STATUS, self._one)
            if not self._one[0] & 1:
                break
            await sleep_ms(2)
        else:
            raise NoAnswer
        r = bytearray(26)
        i2c.readfrom_mem_into(addr, _TRIM_1, r)
        self._t = (_u16(r, 0), _s16(r, 2), _s16(r, 4))
        self._p = (_u16(r, 6),) + tuple([_s16(r, 8 + 2 * i) for i in range(8)])
        h1 = r[25]
        i2c.readfrom_mem_into(addr, _TRIM_2, self._rx)
        r = self._rx
        h4 = (r[3] ^ 128) - 128 << 4 | r[4] & 15
        h5 = (r[5] ^ 128) - 128 << 4 | r[4] >> 4
        self._h = (h1, _s16(r, 0), r[2], h4, h5, (r[6] ^ 128) - 128)
        self._known = True

    async def read_into(self, out):
        """Measure; out[0:3] = 0.1 Cel, 0.1 %RH, 0.1 hPa above 1000 hPa. 10 ms, at most 20. OSError, NoAnswer, OutOfRange."""
        if not self._known:
            await self.start()
        i2c, addr, rx = self._i2c, self._addr, self._rx
        i2c.writeto_mem(addr, _CTRL_HUM, _HUM_X1)  # becomes effective with the write to ctrl_meas
        i2c.writeto_mem(addr, _CTRL_MEAS, _FORCED_X1)
        await sleep_ms(_MEASURE_MS)
        got = self._set  # ctrl_hum, status, ctrl_meas
        for _ in range(_TRIES):
            i2c.readfrom_mem_into(addr, _CTRL_HUM, got)
            if not got[1] & 8:
                break
            await sleep_ms(2)
        else:
            raise NoAnswer
        # it was reset meanwhile, or a write was lost: something was not measured
        if got[0] & 7 != 1 or got[2] & 0xFC != 0x24:
            raise OutOfRange
        i2c.readfrom_mem_into(addr, _DATA, rx)
        self.convert(rx, out)

    def convert(self, rx, out):
        """Turn the eight data bytes F7..FE into out[0:3]; OutOfRange when the chip measured nothing. No allocation.

        At x1 the reset value of a register (5.4.7 .. 5.4.9) is also a value in the middle of its range; only all three at once say
        that nothing was measured.
        """
        p = rx[0] << 12 | rx[1] << 4 | rx[2] >> 4
        t = rx[3] << 12 | rx[4] << 4 | rx[5] >> 4
        h = rx[6] << 8 | rx[7]
        if t == 0x80000 and p == 0x80000 and h == 0x8000 or t >= 0xFFFF0:
            raise OutOfRange
        fine = self.fine(t)
        out[0] = ((fine * 5 + 128 >> 8) + 5) // 10
        out[1] = (self.humidity(h, fine) * 10 + 512) >> 10
        out[2] = (self.pressure(p, fine) + 20) // 40 - 10000

    def fine(self, adc):
        """Return t_fine (5120 per Cel) of a raw temperature."""
        t1, t2, t3 = self._t
        q = (adc >> 4) - t1
        return ((((adc >> 3) - (t1 << 1)) * t2) >> 11) + (((q * q >> 12) * t3) >> 14)

    def pressure(self, adc, fine):
        """Return the pressure in quarter pascals."""
        p1, p2, p3, p4, p5, p6, p7, p8, p9 = self._p
        v = (fine >> 1) - 64000
        q = (v >> 3) * (v >> 3) >> 9  # v**2 / 2**15
        a = 1048576 - adc - ((((q * p6 + v * p5 * 2) >> 2) + (p4 << 16)) >> 12)
        m = 8388608 + ((((p3 * (q >> 4)) >> 2) + p2 * (v >> 2)) >> 9)  # (1 + var1/32768) in 2**-23
        m = ((m >> 12) * p1 + (((m & 4095) * p1) >> 12)) >> 7  # 16 times the divisor of the datasheet
        if m <= 0:
            raise OutOfRange
        # p = a * 100000 / m by long division: the product would need 37 bits
        p = a * 1000 // m
        p = p * 400 + (a * 1000 - p * m) * 400 // m
        e = p >> 5  # pascals / 8
        return p + ((((e * e >> 11) * p9) >> 14) + (((p >> 4) * p8) >> 13) + p7 >> 2)

    def humidity(self, adc, fine):
        """Return the relative humidity in 1/1024 %, held to 0..100 %."""
        h1, h2, h3, h4, h5, h6 = self._h
        v = fine - 76800
        x = ((adc - (h4 << 6)) << 4) - ((h5 * v) >> 10)
        f = 32768 + ((((v * h6) >> 11) * ((32768 + ((v * h3) >> 11)) >> 1)) >> 14)
        f = (h2 * f) >> 9
        h = ((x >> 8) * f + (((x & 255) * f) >> 8)) >> 8
        h = min(max(h, 0), 153600)
        h -= (((h >> 5) * (h >> 5) >> 3) * h1) >> 16
        return min(max(h, 0), 102400)


def _u16(b, i):
    return b[i] | b[i + 1] << 8


def _s16(b, i):
    return ((b[i] | b[i + 1] << 8) ^ 0x8000) - 0x8000

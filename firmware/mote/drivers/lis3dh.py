"""ST LIS3DH accelerometer over I2C, used as a tilt sensor. Datasheet DocID17530 rev. 2 (registers: chapter 8)."""

from asyncio import sleep_ms
from micropython import const

from mote.drivers.errors import Beyond, NoAnswer, WrongChip
from mote.dsp.occupancy import isqrt

_WHO_AM_I = const(0x0F)
_CHIP = const(0x33)
_CTRL_1 = const(0x20)
_CTRL_4 = const(0x23)
_STATUS = const(0x27)  # bit 3: new X, Y and Z
_OUT = const(0x28 | 0x80)  # bit 7: the register number advances
_AT_100_HZ = b"\x57"  # 100 Hz, normal mode, X Y Z on
_POWER_DOWN = b"\x00"
_FORMAT = b"\x88"  # block update, +-2 g, high resolution: 12 bits left-justified, 1 mg
_TURN_ON_MS = const(12)  # 1/ODR + 1 ms, table 7
_TRIES = const(5)
# 1024 * tan(d) for d = 0.5, 1.5 .. 44.5 degrees: the borders between whole degrees
_TAN = (
    b"\x09\x00\x1b\x00\x2d\x00\x3f\x00\x51\x00\x63\x00\x75\x00\x87\x00\x99\x00\xab\x00\xbe\x00\xd0\x00\xe3\x00"
    b"\xf6\x00\x09\x01\x1c\x01\x2f\x01\x43\x01\x57\x01\x6b\x01\x7f\x01\x93\x01\xa8\x01\xbd\x01\xd3\x01\xe8\x01"
    b"\xff\x01\x15\x02\x2c\x02\x43\x02\x5b\x02\x74\x02\x8c\x02\xa6\x02\xc0\x02\xda\x02\xf6\x02\x12\x03\x2f\x03"
    b"\x4c\x03\x6b\x03\x8a\x03\xaa\x03\xcc\x03\xee\x03"
)


class LIS3DH:
    """One LIS3DH at `addr` (0x18, 0x19 with SA0 high). up: the axis that points to the sky when untilted: "x" "-x" .. "-z"."""

    CHANNELS = ("tilt",)

    def __init__(self, i2c, addr=0x18, up="z"):
        if up not in ("x", "y", "z", "-x", "-y", "-z"):
            raise ValueError("up")
        self._i2c, self._addr = i2c, addr
        self._rx = bytearray(6)
        self._one = bytearray(1)
        self._mg = [0, 0, 0]
        self._axis = "xyz".index(up[-1])
        self._sign = -1 if up[0] == "-" else 1
        self._known = False

    async def start(self):
        """Check the chip and set its format. OSError, WrongChip."""
        self._i2c.readfrom_mem_into(self._addr, _WHO_AM_I, self._one)
        if self._one[0] != _CHIP:
            raise WrongChip
        self._i2c.writeto_mem(self._addr, _CTRL_4, _FORMAT)
        self._known = True

    async def read_into(self, out):
        """Wake for one sample; out[0] = angle between the axis and the vertical, 0..180 degrees.

        12 ms, at most 40. OSError, NoAnswer, Beyond (shaken: the sum is far from 1 g)."""
        if not self._known:
            await self.start()
        i2c, addr, rx, mg = self._i2c, self._addr, self._rx, self._mg
        i2c.writeto_mem(addr, _CTRL_1, _AT_100_HZ)
        try:
            for _ in range(_TRIES):
                await sleep_ms(_TURN_ON_MS)
                i2c.readfrom_mem_into(addr, _STATUS, self._one)
                if self._one[0] & 8:
                    break
            else:
                self._known = False
                raise NoAnswer
            i2c.readfrom_mem_into(addr, _OUT, rx)
        finally:
            i2c.writeto_mem(addr, _CTRL_1, _POWER_DOWN)
        for i in range(3):
            mg[i] = (((rx[2 * i] | rx[2 * i + 1] << 8) ^ 0x8000) - 0x8000) >> 4
        total = mg[0] * mg[0] + mg[1] * mg[1] + mg[2] * mg[2]
        if not 490000 <= total <= 1690000:  # 0.7 .. 1.3 g
            raise Beyond
        a = mg[self._axis]
        out[0] = degrees(isqrt(total - a * a), a * self._sign)


def degrees(across, along):
    """Return atan2(across, along) in whole degrees, 0..180, for 0 <= across, |along| <= 2**15. No allocation."""
    if along < 0:
        return 180 - degrees(across, -along)
    if across > along:
        return 90 - degrees(along, across)
    d = 0
    while d < 45 and across * 1024 >= (_TAN[2 * d] | _TAN[2 * d + 1] << 8) * along:
        if not along:
            return 0
        d += 1
    return d

"""QST QMC5883L three-axis magnetometer over I2C. Datasheet 13-52-04 rev. A (registers: chapter 9).

Range 2 G, 12000 LSB per gauss: 0.1 uT is 12 LSB, the noise about 2 mG. Continuous mode at 10 Hz, oversampling 512.
"""

from asyncio import sleep_ms
from micropython import const

from mote.drivers.errors import Beyond, NoAnswer, WrongChip
from mote.dsp.occupancy import isqrt

_DATA = const(0x00)  # X Y Z little-endian, then status: DRDY bit 0, OVL bit 1, DOR bit 2
_CONTROL_1 = const(0x09)
_SET_RESET = const(0x0B)
_ID = const(0x0D)
_CHIP = const(0xFF)
_RUN = b"\x01"  # OSR 512, 2 G, 10 Hz, continuous
_STANDBY = b"\x00"
_PERIOD = b"\x01"  # recommended by 9.2.5
_LSB = const(12)  # per 0.1 uT
_PERIOD_MS = const(100)
_TRIES = const(4)


class QMC5883L:
    """One QMC5883L at `addr`. `zero`: the empty field (0.1 uT), which read_into() measures against; the first reading
    becomes it when none is given."""

    CHANNELS = ("magnetic_anomaly",)

    def __init__(self, i2c, addr=0x0D, zero=None):
        self._i2c, self._addr = i2c, addr
        self._rx = bytearray(7)
        self._one = bytearray(1)
        self._xyz = [0, 0, 0]
        self._zero = list(zero) if zero else None
        self._running = False

    async def start(self):
        """Check the chip and start it; the first sample follows after 0.1 s. OSError, WrongChip."""
        i2c, addr = self._i2c, self._addr
        i2c.readfrom_mem_into(addr, _ID, self._one)
        if self._one[0] != _CHIP:
            raise WrongChip
        i2c.writeto_mem(addr, _SET_RESET, _PERIOD)
        i2c.writeto_mem(addr, _CONTROL_1, _RUN)
        self._running = True

    async def stop(self):
        """Standby, 3 uA."""
        self._running = False
        self._i2c.writeto_mem(self._addr, _CONTROL_1, _STANDBY)

    def read_xyz_into(self, out):
        """Write the newest sample to out[0:3] in 0.1 uT; False when there was none since the last call. One transfer,
        no allocation. The chip must have been started. OSError, Beyond (field above 2 G: a magnet held to the node)."""
        rx = self._rx
        self._i2c.readfrom_mem_into(self._addr, _DATA, rx)
        if not rx[6] & 1:
            return False
        if rx[6] & 2:
            raise Beyond
        out[0] = ((rx[0] | rx[1] << 8) ^ 0x8000) - 0x8000
        out[1] = ((rx[2] | rx[3] << 8) ^ 0x8000) - 0x8000
        out[2] = ((rx[4] | rx[5] << 8) ^ 0x8000) - 0x8000
        for i in range(3):
            out[i] = (out[i] + (_LSB >> 1)) // _LSB
        return True

    async def wait_xyz_into(self, out):
        """read_xyz_into, waiting for a sample at most 0.5 s and starting the chip when need be. NoAnswer."""
        if not self._running:
            await self.start()
        for _ in range(_TRIES + 1):
            if self.read_xyz_into(out):
                return
            await sleep_ms(_PERIOD_MS)
        self._running = False  # it may have lost its supply: set it up again next time
        raise NoAnswer

    async def read_into(self, out):
        """out[0] = length of the field's difference to `zero` in 0.1 uT."""
        xyz = self._xyz
        await self.wait_xyz_into(xyz)
        if self._zero is None:
            self._zero = [xyz[0], xyz[1], xyz[2]]
        dx = xyz[0] - self._zero[0]
        dy = xyz[1] - self._zero[1]
        dz = xyz[2] - self._zero[2]
        out[0] = isqrt(dx * dx + dy * dy + dz * dz)

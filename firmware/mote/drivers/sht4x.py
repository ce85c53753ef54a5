"""Sensirion SHT40/41/45: temperature and humidity over I2C. Datasheet SHT4x version 6.5 (commands: table 8; conversion: 4.6; CRC: 4.4)."""

from asyncio import sleep_ms
from micropython import const

from mote.drivers.errors import BadChecksum

_MEASURE = b"\xfd"  # high precision
_MEASURE_MS = const(9)  # 8.3 ms at most


def crc8(buf, at):
    """Return the Sensirion CRC-8 (polynomial 0x31, start 0xFF) of the word buf[at:at+2]."""
    crc = 0xFF
    for i in range(at, at + 2):
        crc ^= buf[i]
        for _ in range(8):
            crc = (crc << 1 ^ 0x31) & 0xFF if crc & 0x80 else crc << 1
    return crc


class SHT4x:
    """One SHT4x at `addr`. `refused` counts answers with a wrong CRC; each reading tries twice."""

    CHANNELS = ("temperature", "humidity")

    def __init__(self, i2c, addr=0x44):
        self._i2c, self._addr = i2c, addr
        self._rx = bytearray(6)
        self.refused = 0

    async def read_into(self, out):
        """out[0:2] = 0.1 Cel, 0.1 %RH. 9 ms, at most 18. OSError, BadChecksum."""
        rx = self._rx
        for _ in range(2):
            self._i2c.writeto(self._addr, _MEASURE)
            await sleep_ms(_MEASURE_MS)
            self._i2c.readfrom_into(self._addr, rx)
            if crc8(rx, 0) == rx[2] and crc8(rx, 3) == rx[5]:
                # 1750/65535 as 1750/2**16 (error below 0.03 of 0.1 Cel): products stay below 2**30
                out[0] = (1750 * (rx[0] << 8 | rx[1]) + 32768 >> 16) - 450
                out[1] = min(max((1250 * (rx[3] << 8 | rx[4]) + 32768 >> 16) - 60, 0), 1000)
                return
            self.refused += 1
        raise BadChecksum

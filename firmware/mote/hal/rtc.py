"""RTC memory: what survives every reset but not a power cut. CRC and version, because it is noise after power-on.

Layout (big-endian): 0 magic u16, 2 crashes u8, 3 sensor entered last u8, 4 clock quality u8, 5..7 spare, 8.. duty ledger, CRC u16.
"""

from machine import RTC
from micropython import const
from mote.crc import crc16

DUTY_AT = const(8)
DUTY_BYTES = const(248)
_MAGIC_HI = const(0xC1)
_MAGIC_LO = const(0x01)  # layout version
_SIZE = const(258)
CRASHES = const(2)
ENTERED = const(3)
QUALITY = const(4)


class RtcMemory:
    """`buf` is the memory's image; save() writes it. `fresh` is True when nothing valid was found (power-on)."""

    def __init__(self):
        self._rtc = RTC()
        data = self._rtc.memory()
        n = _SIZE - 2
        self.fresh = (
            len(data) < _SIZE
            or data[0] != _MAGIC_HI
            or data[1] != _MAGIC_LO
            or crc16(data, n) != data[n] << 8 | data[n + 1]
        )
        self.buf = bytearray(_SIZE) if self.fresh else bytearray(data[:_SIZE])
        self.buf[0], self.buf[1] = _MAGIC_HI, _MAGIC_LO

    def save(self):
        """Write the image with its CRC."""
        n = _SIZE - 2
        crc = crc16(self.buf, n)
        self.buf[n], self.buf[n + 1] = crc >> 8, crc & 255
        self._rtc.memory(self.buf)

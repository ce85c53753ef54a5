"""RTC memory: what survives every reset and deep sleep but not a power cut. CRC and version, because it is noise after power-on.

Head (big-endian): 0 magic u16, 2 crashes u8, 3 sensor entered last u8, 4 clock quality u8, 5 boots under an unproven configuration u8,
6 sensor left out u8, 7 asleep u8, 8..247 duty ledger, 248..255 doubt of the clock but for 250, low supply u8, 256.. clock, 272.. seconds by power state, 288.. pulses, CRC-32. Behind it, each
with its own CRC-32: the rows that are not on flash yet, and the image of a sleeping node (valid for one wake only).
"""

from binascii import crc32
from struct import pack_into, unpack_from

from machine import RTC
from micropython import const

CRASHES = const(2)
ENTERED = const(3)
QUALITY = const(4)
TRIES = const(5)
SHED = const(6)
_ASLEEP = const(7)
DUTY_AT = const(8)
DOUBT_AT = const(248)  # u16, (LOW), u8, i32, see mote.clock
LOW = const(250)  # see mote.power
CLOCK_AT = const(256)  # 4 x 32 bits, see mote.clock
POWER_AT = const(272)  # 4 x u32, see mote.power
PULSES_AT = const(288)  # 2 x u32, see mote.profiles.water_meter
_CRC_AT = const(296)
_HEAD = const(300)
_MEMORY = const(2048)  # RTC.memory() of the esp32 port
ROWS_AT = const(300)  # length u16, rows, CRC
ROWS_BYTES = const(1092)
_IMAGE_AT = const(1392)  # length u16, image, CRC
IMAGE_BYTES = const(650)
_MAGIC_HI = const(0xC1)
_MAGIC_LO = const(0x02)  # layout version


class RtcMemory:
    """`buf` is the memory's image; save() writes it. `fresh` is True when nothing valid was found (power-on).

    woke: this boot follows a deep sleep that the node chose, and what it was doing is in `image` (bytes).
    """

    def __init__(self):
        self._rtc = RTC()
        data = self._rtc.memory()
        self.fresh = (
            len(data) < _HEAD
            or data[0] != _MAGIC_HI
            or data[1] != _MAGIC_LO
            or crc32(data[:_CRC_AT]) != unpack_from(">I", data, _CRC_AT)[0]
        )
        sleeps = not self.fresh and len(data) == _MEMORY
        self.buf = bytearray(_HEAD) if self.fresh else bytearray(data if sleeps else data[:_HEAD])
        self.buf[0], self.buf[1] = _MAGIC_HI, _MAGIC_LO
        self.image = self._section(_IMAGE_AT, IMAGE_BYTES) if sleeps and self.buf[_ASLEEP] else None
        self.woke = self.image is not None
        if self.buf[
            _ASLEEP
        ]:  # whatever happens from here on, this image must not be resumed again: counters would repeat
            self.buf[_ASLEEP] = 0
            self.save()

    def wide(self):
        """Make room for rows and image: for a node that sleeps deeply."""
        if len(self.buf) < _MEMORY:
            self.buf.extend(bytes(_MEMORY - len(self.buf)))

    def _section(self, at, most):
        n = unpack_from(">H", self.buf, at)[0]
        if n > most - 6:
            return None
        body = bytes(self.buf[at + 2 : at + 2 + n])
        return body if crc32(body) == unpack_from(">I", self.buf, at + 2 + n)[0] else None

    def _put(self, at, most, body):
        if len(body) > most - 6:
            raise ValueError("rtc")
        n = len(body)
        pack_into(">H", self.buf, at, n)
        self.buf[at + 2 : at + 2 + n] = body
        pack_into(">I", self.buf, at + 2 + n, crc32(body))

    def rows(self):
        """Return the rows section (bytes; empty when there is none or it does not check)."""
        return self._section(ROWS_AT, ROWS_BYTES) or b"" if len(self.buf) == _MEMORY else b""

    def put_rows(self, body):
        """Replace the rows section, at most ROWS_BYTES - 6 long, and save."""
        self._put(ROWS_AT, ROWS_BYTES, body)
        self.save()

    def sleep(self, image):
        """Keep `image` (bytes) for the boot after the deep sleep that follows."""
        self._put(_IMAGE_AT, IMAGE_BYTES, image)
        self.buf[_ASLEEP] = 1
        self.save()

    def save(self):
        """Write the image with its CRC."""
        pack_into(">I", self.buf, _CRC_AT, crc32(memoryview(self.buf)[:_CRC_AT]))
        self._rtc.memory(self.buf)

"""Plantower PMS5003: PM1, PM2.5, PM10 over UART 9600 8N1. Data manual 2016 edition 2.3 (frame: appendix I; commands: appendix II).

The passive protocol with sleep: the laser lives about 8000 h, and asleep it does not age. Also fits PMS7003 and PMSA003.
"""

from asyncio import sleep_ms
from micropython import const

from mote.drivers.errors import BadChecksum, NoAnswer, OutOfRange
from mote.drivers.uart import Bytes, within

# 42 4D, command, two data bytes, sum of all before (16 bit)
_WAKE = b"\x42\x4d\xe4\x00\x01\x01\x74"
_SLEEP = b"\x42\x4d\xe4\x00\x00\x01\x73"
_PASSIVE = b"\x42\x4d\xe1\x00\x00\x01\x70"
_READ = b"\x42\x4d\xe2\x00\x00\x01\x71"
_HEADER = b"\x42\x4d\x00\x1c"
_FRAME = const(32)
_COUNTS = const(16)  # byte of the first of six words: particles in 0.1 l above 0.3 um and larger
_ATMOSPHERIC = const(10)  # byte of the first of three words "under atmospheric environment"
_BOOT_MS = const(1000)  # it is deaf for a moment after waking
_ANSWER_MS = const(40)  # 32 bytes at 9600 baud take 33 ms


class PMS5003:
    """One PMS5003 on `uart` (9600 baud, rxbuf >= 64). `refused` counts damaged frames, `timeouts` unanswered requests.

    warm_up_ms: fan run-up before the reading counts (30 s by the manual). keep_awake: never sleep (sampling faster
    than every two minutes wears the fan's start more than its run). tries: requests per reading, answer_ms each.
    """

    CHANNELS = ("pm1", "pm25", "pm10")

    def __init__(self, uart, warm_up_ms=30000, keep_awake=False, tries=3, answer_ms=500):
        self._uart = uart
        self._in = Bytes(uart)
        self._frame = bytearray(_FRAME)
        self._n = 0
        self._warm_up_ms, self._keep_awake, self._tries, self._answer_ms = warm_up_ms, keep_awake, tries, answer_ms
        self._awake = False
        self.refused = 0
        self.timeouts = 0

    async def stop(self):
        """Send the sensor to sleep."""
        self._awake = False
        self._uart.write(_SLEEP)

    async def read_into(self, out):
        """Wake, warm up, read, sleep; out[0:3] = PM1, PM2.5, PM10 in ug/m3 (atmospheric words).

        Takes warm_up_ms + 0.1 s, at most tries * answer_ms more. NoAnswer, BadChecksum, OutOfRange (a dead fan or laser).
        """
        try:
            if not self._awake:
                self._uart.write(_WAKE)
                self._awake = True
                await sleep_ms(_BOOT_MS)
                self._uart.write(_PASSIVE)  # it wakes in active mode, and would fill the line through the warm-up
                await sleep_ms(max(self._warm_up_ms - _BOOT_MS, 0))
            await self._request(out)
        except BaseException:  # cancelled too: the laser must not stay on
            self._awake = False
            self._uart.write(_SLEEP)
            raise
        if not self._keep_awake:
            await self.stop()

    async def _request(self, out):
        refused = self.refused
        for _ in range(self._tries):
            self._in.drop()
            self._n = 0
            self._uart.write(_READ)  # in active mode (the command to be passive was lost) the next frame serves as well
            await sleep_ms(_ANSWER_MS)
            until = within(self._answer_ms)
            while await self._in.wait(until):
                if self.take(out):
                    return
            self.timeouts += 1
        if self.refused != refused:
            raise BadChecksum
        raise NoAnswer

    def _alive(self):
        """Raise OutOfRange when not one particle was counted, of any size: there is no such air, the fan or the laser is dead."""
        for i in range(_COUNTS, _COUNTS + 12):
            if self._frame[i]:
                return
        raise OutOfRange

    def take(self, out):
        """Take received bytes up to the end of a good frame; True when out[0:3] was written. OutOfRange. No allocation."""
        src = self._in
        buf = src.buf
        while src.pos < src.end:
            byte = buf[src.pos]
            src.pos += 1
            if self._byte(byte):
                self._alive()
                frame = self._frame
                out[0] = frame[_ATMOSPHERIC] << 8 | frame[_ATMOSPHERIC + 1]
                out[1] = frame[_ATMOSPHERIC + 2] << 8 | frame[_ATMOSPHERIC + 3]
                out[2] = frame[_ATMOSPHERIC + 4] << 8 | frame[_ATMOSPHERIC + 5]
                return True
        return False

    def _byte(self, byte):
        """Append a byte to the frame; True when a frame is complete and its sum is right."""
        frame = self._frame
        n = self._n
        if n < 4 and byte != _HEADER[n]:
            n = 0  # 42 never repeats inside the header, so only its first byte can begin anew
            if byte != 0x42:
                self._n = 0
                return False
        frame[n] = byte
        n += 1
        self._n = n
        if n < _FRAME:
            return False
        self._n = 0
        total = 0
        for i in range(_FRAME - 2):
            total += frame[i]
        if total == frame[30] << 8 | frame[31]:
            return True
        self.refused += 1
        for i in range(1, _FRAME):  # bytes were lost: the next frame may begin inside this one
            self._byte(frame[i])  # writes at or before i, and 31 bytes never complete a frame
        return False

"""InvenSense INMP441 microphone on I2S: A-weighted levels. Datasheet DS-INMP441-00 rev. 1.1 (sensitivity: table 1; I2S format: "serial data port").

24 bits left-justified in 32-bit slots; -26 dBFS at 94 dB SPL, so full scale is 120 dB; +-3 dB from one piece to the next (`cal`).
ICS-43434 has the same format and sensitivity (+-1 dB). Levels under about 35 dB(A) are the microphone's own noise.
LAeq is the energy mean, LAFmax the greatest Fast level, LA10/50/90 percentiles of the Fast level, all over the listening window
(IEC 61672-1; not a class-approved meter). Audio stays in one 50 ms buffer and is overwritten; only levels leave.
"""

import asyncio
import select
import uctypes
from array import array
from micropython import const

from mote.drivers.errors import NoAnswer, OutOfRange
from mote.dsp import aweight
from mote.dsp.decibel import mdb, mdb3
from mote.dsp.levels import Levels

_FRAMES = const(
    2400
)  # 50 ms; the hal's I2S must hold as many: ibuf >= 8 * _FRAMES, for it takes stereo frames of 32 bits
_GATHER_MS = const(20)  # a turn every 256 frames (5 ms) would cost more; with an erase (45 ms) it is below 85 ms
_STEP = const(1200)  # one histogram entry every 25 ms
_LEVEL_MDB = const(-32276 + 2000)  # 94 - 20 lg(420426/sqrt 2) - 10 lg 48, less the filter's gain at 1 kHz
_DEAD_MDB = const(10000)  # below 10 dB(A) no microphone is alive


class INMP441:
    """The microphone behind `i2s` (machine.I2S RX, 32 bit, mono, 48 kHz; ibuf >= 19200, which is 2304 frames).

    listen_ms: length of the window of one reading (the time between two readings is not heard; LAeq of a minute wants
    the full minute less the settling). settle_ms: thrown away after the first start (start-up takes 85 ms, the DC step
    of the high-passes 200 ms). run_in_ms: seeds the Fast detector before each window. cal: correction in 0.1 dB of this piece.
    """

    CHANNELS = ("laeq", "lafmax", "la10", "la50", "la90")

    def __init__(self, i2s, listen_ms=10000, settle_ms=250, run_in_ms=50, cal=0):
        if listen_ms < 50 or run_in_ms < 1:
            raise ValueError("listen_ms")
        self._i2s = i2s
        self._poll = (
            select.poll()
        )  # not a StreamReader: each of its turns is a second pass of the scheduler, and 260 bytes
        self._poll.register(i2s, select.POLLIN)
        self._buf = array("i", bytes(4 * _FRAMES))
        # the same memory as bytes, which is what a stream reads into
        self._bytes = uctypes.bytearray_at(uctypes.addressof(self._buf), 4 * _FRAMES)
        self._state = aweight.new_state()
        self._levels = Levels()
        self._listen, self._settle, self._run_in = listen_ms * 48, settle_ms * 48, run_in_ms * 48
        self._offset = _LEVEL_MDB + cal * 100
        self._started = False
        self._run = aweight.compile_run()

    async def read_into(self, out):
        """Listen; out[0:5] = LAeq, LAFmax, LA10, LA50, LA90 in 0.1 dB.

        Takes run_in_ms + listen_ms, at most twice that and a second. NoAnswer (no audio), OutOfRange (dead input).
        """
        frames = self._listen + self._run_in + (0 if self._started else self._settle)
        try:
            await asyncio.wait_for_ms(self._window(), frames // 24 + 1000)
        except asyncio.TimeoutError:
            raise NoAnswer
        self._started = True
        self.levels_into(out)

    async def _window(self):
        st = self._state
        if not self._started:
            await self._hear(self._settle, False)
        aweight.restart(st)
        await self._hear(self._run_in, False)
        aweight.seed(st)
        aweight.restart(st)
        self._levels.clear()
        await self._hear(self._listen, True)

    async def _hear(self, frames, count):
        """Take `frames` frames into the filters, and into the level histogram when `count`."""
        while frames > 0:
            n = 0
            for _ in self._poll.ipoll(
                0
            ):  # an I2S that was polled reads what there is and does not wait (machine_i2s.c)
                n = min((self._i2s.readinto(self._bytes) or 0) >> 2, frames)
            frames -= n
            self.process(n, count)
            if frames > 0:
                await asyncio.sleep_ms(_GATHER_MS if n < _STEP else 0)

    def process(self, n, count):
        """Filter the first n frames of the buffer, 25 ms per histogram entry. No allocation."""
        st = self._state
        at = 0
        while at < n:
            part = min(n - at, _STEP)
            before = st[aweight.COUNT_MS]
            self._run(self._buf, at, part, st)
            if count:
                level = mdb(st[aweight.FAST_HIGH], st[aweight.FAST_HIGH + 1]) + self._offset
                self._levels.add((level + 50) // 100, st[aweight.COUNT_MS] - before)
            at += part

    def levels_into(self, out):
        """Write the five levels of the window to out; OutOfRange for a dead input."""
        st = self._state
        n = st[aweight.COUNT_MS]
        if not n:
            raise NoAnswer
        level = mdb3(st[aweight.SUM + 2], st[aweight.SUM + 1], st[aweight.SUM]) - mdb(0, n) + self._offset
        if level < _DEAD_MDB:
            raise OutOfRange
        out[0] = (level + 50) // 100
        out[1] = (mdb(st[aweight.MAX_HIGH], st[aweight.MAX_HIGH + 1]) + self._offset + 50) // 100
        out[2] = self._levels.exceeded(10)
        out[3] = self._levels.exceeded(50)
        out[4] = self._levels.exceeded(90)

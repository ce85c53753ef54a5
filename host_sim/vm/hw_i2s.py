"""machine.I2S, receive only: frames come at the sample rate whether read or not; an overrun loses the oldest.

As ports/esp32/machine_i2s.c: whatever bits and format are asked for, the DMA takes stereo frames of 32 bits, 8 bytes each, in buffers of 256.
"""

import io

import sim_clock as _c
import sim_hw as _hw

_POLL, _RD = 3, 1
_FRAME = 8  # bytes in the DMA's memory
_DMA = 256  # frames of a buffer


class I2S(io.IOBase):
    """Blocking readinto, and an asyncio stream whose reads take what the DMA's full buffers hold: readable as soon as one is.

    The ring is `ibuf` bytes of DMA memory: ibuf // 2048 buffers, at least two. `lost` counts frames overrun, for tests.
    """

    RX, TX, MONO, STEREO = 9, 10, 0, 1

    def __init__(self, id, sck=None, ws=None, sd=None, mode=9, bits=32, format=0, rate=48000, ibuf=4096, mck=None):
        if mode != I2S.RX:
            raise ValueError("only RX")
        if ibuf < 2 * _DMA * _FRAME:
            raise ValueError("ibuf")  # ESP-IDF wants two buffers at least
        self.chip = _hw.i2s.get(id)
        self._frame = (bits // 8) * (1 if format == I2S.MONO else 2)
        self._rate = rate
        self._ring = ibuf // (_DMA * _FRAME) * _DMA
        self._start = _c.now
        self._next = 0  # frame number the reader gets next
        self.lost = 0
        self._blocking = True
        self._known, self._item = None, 1

    def deinit(self):
        self._start = None

    def irq(self, handler):
        raise NotImplementedError  # firmware reads through asyncio

    def _full(self):
        """Frames that full buffers have brought since the start."""
        return (_c.now - self._start) * self._rate // 1000000 // _DMA * _DMA

    def _available(self):
        n = self._full() - self._next
        if n > self._ring:
            self.lost += n - self._ring
            self._next += n - self._ring
            n = self._ring
        return n

    def _time_of(self, frame):
        return self._start + (frame * 1000000 + self._rate - 1) // self._rate

    def sim_next(self):
        return self._time_of((self._next // _DMA + 1) * _DMA)

    def _fill(self, buf, frames):
        if self.chip is not None:
            self.chip.fill(buf, frames, self._time_of(self._next), self._rate)
        self._next += frames
        return frames * self._frame

    def readinto(self, buf):
        if buf is not self._known:  # this VM's memoryview has no itemsize
            self._known, self._item = buf, len(bytes(memoryview(buf)[:1]))
        want = len(buf) * self._item // self._frame
        if self._blocking:
            return self._read_all(memoryview(buf), want)
        n = min(self._available(), want)
        return self._fill(buf, n) if n else None

    def _read_all(self, view, want):
        got = 0
        while got < want:
            while not self._available():
                _c.advance(self.sim_next())
            part = min(want - got, self._available())
            self._fill(view[got * self._frame // self._item :], part)
            got += part
        return want * self._frame

    def ioctl(self, op, arg):
        if op == _POLL:
            self._blocking = False  # as the port: a polled I2S is an asyncio one
            return _RD & arg if self._available() else 0
        return -1

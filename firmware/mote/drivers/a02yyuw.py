"""DYP-A02YYUW (DFRobot SEN0311) waterproof ultrasonic distance over UART 9600 8N1. DFRobot SEN0311 data sheet, "UART output".

Frame FF H L SUM every 100 to 300 ms by itself, mm, 30 .. 4500; SUM = low byte of FF + H + L. JSN-SR04T v2/v3 with 47 kOhm at R27
and ME007YS send the same frame. FF FF, and 0 mm, mean no echo.
"""

from array import array
from micropython import const

from mote.drivers.errors import BadChecksum, NoAnswer, NoEcho
from mote.drivers.uart import Bytes, within

_SAMPLES = const(5)
_NEAR = const(30)
_FAR = const(4500)
_ECHO = const(1)
_NOTHING = const(2)


class A02YYUW:
    """One sensor on `uart`. `refused` counts damaged frames, `timeouts` readings that ended for silence.

    timeout_ms bounds a reading (five frames need 0.5 to 1.5 s). compensate: correct for the speed of sound, which the
    module takes as 340 m/s; then set_temperature() must be told the air temperature (the profile does).
    """

    CHANNELS = ("distance",)

    def __init__(self, uart, timeout_ms=2500, compensate=False):
        self._in = Bytes(uart)
        self._frame = bytearray(4)
        self._n = 0
        self._sorted = array("i", bytes(4 * _SAMPLES))
        self._timeout_ms, self._compensate = timeout_ms, compensate
        self._c = 3400  # 0.1 m/s
        self.refused = 0
        self.timeouts = 0

    def set_temperature(self, tenths):
        """Tell the air temperature in 0.1 Cel; c = 331.3 sqrt(1 + T/273.15) m/s, to second order."""
        if self._compensate:
            self._c = (331300 + 6064 * tenths // 100 - 555 * tenths * tenths // 100000 + 50) // 100

    async def read_into(self, out):
        """out[0] = median of five distances in mm. NoEcho when most frames say so, NoAnswer, BadChecksum."""
        self._in.drop()
        self._n = 0
        refused = self.refused
        heard = echoes = 0
        until = within(self._timeout_ms)
        while heard < _SAMPLES and await self._in.wait(until):
            kind = self.take()
            if kind:
                heard += 1
            if kind == _ECHO:
                self._insert(echoes, self._frame[1] << 8 | self._frame[2])
                echoes += 1
        if echoes * 2 > _SAMPLES or heard < _SAMPLES and echoes > 2:
            out[0] = self._sorted[echoes >> 1] * self._c // 3400
            return
        if heard - echoes > 2:
            raise NoEcho
        if self.refused != refused:
            raise BadChecksum
        self.timeouts += 1
        raise NoAnswer

    def take(self):
        """Take received bytes to the end of a frame: 1 distance, 2 no echo, 0 when the bytes ended first. No allocation."""
        src = self._in
        frame = self._frame
        while src.pos < src.end:
            byte = src.buf[src.pos]
            src.pos += 1
            n = self._n
            if n == 0 and byte != 0xFF:
                continue
            frame[n] = byte
            self._n = n + 1
            if n < 3:
                continue
            self._n = 0
            if (0xFF + frame[1] + frame[2]) & 0xFF == byte:
                d = frame[1] << 8 | frame[2]
                return _ECHO if _NEAR <= d <= _FAR else _NOTHING
            self.refused += 1
            for i in range(1, 4):  # the next frame may begin inside
                if frame[i] == 0xFF:
                    for j in range(i, 4):
                        frame[j - i] = frame[j]
                    self._n = 4 - i
                    break
        return 0

    def _insert(self, n, value):
        s = self._sorted
        while n and s[n - 1] > value:
            s[n] = s[n - 1]
            n -= 1
        s[n] = value

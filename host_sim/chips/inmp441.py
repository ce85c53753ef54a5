"""InvenSense INMP441 on I2S: a town's noise with an exactly known A-weighted level. Datasheet DS-INMP441-00.

50 ms of tones (multiples of 20 Hz, third-octave spaced, a street's spectrum, fixed phases) whose A-weighted power is computed
from IEC 61672-1 annex E once; each frame is a table look-up and a multiplication. The signal repeats every 50 ms, so every
window of a multiple of that has the sensed level, whatever its phase; a slow pattern of gains moves L10 away from L90.
"""

import math
from array import array

try:
    from .parts import Noise
except ImportError:
    from parts import Noise

RATE = 48000
PERIOD = 2400  # frames of the table
FULL_SCALE_DB = 120.0  # -26 dBFS at 94 dB
SELF_NOISE_DB = 33.0
START_UP_US = 85_300  # 2**18 cycles of the bit clock, zeros until then
DC = 3000  # offset in units of the 24-bit sample
# (Hz, relative dB): road traffic, unweighted; the tones are spread enough that none beat inside 125 ms
SPECTRUM = (
    (60, 0), (80, 1), (100, 0), (120, -1), (160, -2), (200, -3), (260, -4), (320, -5), (400, -5), (500, -5), (640, -4),
    (800, -3), (1000, -3), (1260, -4), (1580, -6), (2000, -8), (2520, -10), (3160, -13), (4000, -16), (5000, -19), (6300, -22),
)  # fmt: skip
# ten gains of 25 ms each, in dB, with an energy mean of 0 dB (the last balances the others)
STEPS = (-2.0, -1.0, 0.5, 1.5, 2.0, 1.0, 0.0, -1.0, -1.5)

try:
    import micropython

    _VIPER = """
@micropython.viper
def tone(out: ptr32, table: ptr16, what: ptr32):
    i = what[0]
    n = i + what[1]
    at = what[2]
    gain = what[3]
    dc = what[4]
    while i < n:
        v = ((((table[at] ^ 0x8000) - 0x8000) * gain) >> 12) + dc
        if v > 8388607:
            v = 8388607
        elif v < -8388608:
            v = -8388608
        out[i] = v << 8
        i += 1
        at += 1
        if at == 2400:
            at = 0
"""
except ImportError:
    micropython = _VIPER = None


def a_weighting(f):
    """Return A(f) in dB (IEC 61672-1 annex E)."""
    f2 = f * f
    r = 148693636.0 * f2 * f2  # 12194.217**2
    r /= (f2 + 424.318677) * math.sqrt((f2 + 11589.093) * (f2 + 544440.67)) * (f2 + 148698928.0)
    return 20 * math.log10(r) + 2.0


def make_table():
    """Return (array of PERIOD 16-bit ints, A-weighted rms of it in its own units). Rounding is 68 dB below the sum."""
    table = array("h", bytes(2 * PERIOD))
    power = 0.0
    noise = Noise(441)
    scale = 2000.0
    for f, db in SPECTRUM:
        amplitude = scale * 10 ** (db / 20)
        power += amplitude * amplitude / 2 * 10 ** (a_weighting(f) / 10)
        phase = noise.below(1000) * 2 * math.pi / 1000
        # a rotating pointer costs two multiplications where sin() costs a call
        step = 2 * math.pi * f / RATE
        c, s = math.cos(step), math.sin(step)
        x, y = amplitude * math.cos(phase), amplitude * math.sin(phase)
        for i in range(PERIOD):
            table[i] += int(y + 32768.5) - 32768
            x, y = x * c - y * s, x * s + y * c
    return table, math.sqrt(power)


def plain_tone(out, table, what):
    """Twin of the machine code: out[first:first+n] = table * gain / 4096 + dc, clipped, left-justified."""
    first, n, at, gain, dc = what
    for i in range(first, first + n):
        v = ((table[at] * gain) >> 12) + dc
        v = max(-8388608, min(8388607, v)) << 8
        out[i] = v
        at += 1
        if at == PERIOD:
            at = 0


_STEP = RATE // 40
# words of an array "i": what one call of tone() makes; behind the last frame of PERIOD comes the first
_FIRST, _N, _AT, _GAIN, _DC = range(5)
_shared = []  # table, rms, tone function, step gains: made once per VM


def _prepare():
    if not _shared:
        table, rms = make_table()
        tone = plain_tone
        if _VIPER:
            scope = {"micropython": micropython}
            try:
                exec(_VIPER, scope)
                tone = scope["tone"]
            except (SyntaxError, ValueError):
                tone = plain_tone  # a VM without native emitter
        powers = [10 ** (s / 10) for s in STEPS]
        powers.append(len(STEPS) + 1 - sum(powers))
        _shared.extend((table, rms, tone, [math.sqrt(p) for p in powers]))
    return _shared


class INMP441Chip:
    """Senses laeq (dB(A)); its own noise of 33 dB(A) adds to it.

    fault: "silent" (zeros: the data line is open), "stuck" (a constant: the line is shorted to the clock), "clipped" (a gust:
    the full range), None.
    """

    FAULTS = ("silent", "stuck", "clipped")

    def __init__(self, sense, now_us):
        self.sense, self.now_us = sense, now_us
        self.fault = None
        self._on_us = now_us()
        self._what = array("i", [0] * 5)
        self._gains, self._span = [0] * (len(STEPS) + 1), -1

    def fill(self, buf, frames, start_us, rate):
        """Write `frames` 32-bit little-endian frames that began at start_us to the writable buffer."""
        # in functions of few variables: a frame of more than eleven words lies on the heap of the node's VM, fifty times a second
        if rate != RATE:
            raise ValueError("48 kHz only")
        out = Words(buf) if _prepare()[2] is plain_tone else buf
        self._from_us = start_us
        done = 0
        while done < frames:
            self._part(done, frames - done)
            _shared[2](out, _shared[0], self._what)
            done += self._what[_N]

    def _part(self, done, n):
        """Say in _what what follows on the first `done` frames: up to n of them, to the end of the step of 25 ms."""
        what = self._what
        at = self._from_us * 6 // 125 + done  # 48 frames a millisecond
        what[_FIRST] = done
        what[_N] = min(n, _STEP - at % _STEP)
        what[_AT] = at % PERIOD
        at //= _STEP
        if at // len(self._gains) != self._span:
            self._span = at // len(self._gains)
            self._set_gains()
        what[_GAIN], what[_DC] = self._gains[at % len(self._gains)], DC
        if self.fault == "clipped":
            what[_GAIN] = 1 << 30
        elif self.fault == "stuck":
            what[_GAIN], what[_DC] = 0, 8388607
        if self.fault == "silent" or self._from_us + done * 125 // 6 < self._on_us + START_UP_US:
            what[_GAIN] = what[_DC] = 0

    def _set_gains(self):
        """The level of now, for one pattern of gains (250 ms)."""
        _, rms, _, gains = _prepare()
        db = 10 * math.log10(10 ** (self.sense("laeq") / 10) + 10 ** (SELF_NOISE_DB / 10))
        full = 8388607 / math.sqrt(2) * 10 ** ((db - FULL_SCALE_DB) / 20) / rms * 4096
        for i in range(len(gains)):
            self._gains[i] = int(full * gains[i] + 0.5)


class Words:
    """Signed 32-bit little-endian words over a writable byte buffer, for the plain twin."""

    def __init__(self, buf):
        self._buf = memoryview(buf)
        if len(self._buf) and not isinstance(buf, (bytearray, memoryview)):
            self._put = buf  # an array of words
        else:
            self._put = None

    def __setitem__(self, i, v):
        if self._put is not None:
            self._put[i] = v
        else:
            self._buf[4 * i : 4 * i + 4] = (v & 0xFFFFFFFF).to_bytes(4, "little")

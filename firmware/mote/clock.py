"""What time it is, and how well the node knows: 0 not at all, 1 kept over a reset, 2 set by the gateway.

The gateway's time is the only source that outranks the board's own RTC, which outranks nothing. A small error is slewed (no sample is
skipped or taken twice), a large one is a step. While the time is unknown now() counts from power-on: rows are taken and dated later
(mote.batcher). In deep sleep the ESP32 counts on an RC oscillator that is off by up to some per cent; what it lost or won between two
settings is measured, and corrected between the settings that follow.
"""

from struct import pack_into, unpack_from

from micropython import const
from mote import log
from mote.hal import clock as board_clock
from mote.hal.clock import FIRST
from mote.hal.rtc import CLOCK_AT, QUALITY
from motewire import EPOCH_2000

NONE = const(0)
KEPT = const(1)
SET = const(2)
_LAST = const(0x3FFFFFFF)
_SLACK_S = const(2)  # a downlink over SF12 is that late; smaller differences are not corrected
_SLEW_S = const(20)  # more than that is a step
_SLEW_EVERY_S = const(10)  # a second of it is brought in
_DRIFT_FROM_S = const(7200)  # a downlink's 2 s are 280 ppm of two hours: a shorter time says nothing
_NOISE_S = const(4)  # two downlinks, each up to 2 s late
_DRIFT_ANYWAY_S = const(86400)
_DRIFT_MAX = const(50000)  # ppm: more is no drift but a clock that was wrong


class Clock:
    """now() is t2000. stepped: list of functions(step_s, board_step_s), called after a step of now() and of the board's clock.

    rtc: mote.hal.rtc.RtcMemory, which keeps quality, birth, anchor and drift. born: t2000 at which the power came on, 0 while
    unknown. drift_ppm: how much faster than time the board's clock runs.
    """

    def __init__(self, rtc):
        self._rtc = rtc
        self.stepped = []
        # at the anchor the board's clock showed _ref and it was _base
        self.born, self._ref, self._base, self.drift_ppm = unpack_from(">IIIi", rtc.buf, CLOCK_AT)
        self._slew = 0  # seconds still to be brought in, with their sign
        self._slewed_at = 0
        kept = not rtc.fresh and rtc.buf[QUALITY] >= KEPT and FIRST <= board_clock.now() <= _LAST
        self.quality = KEPT if kept else NONE
        if not kept:
            self.born = self._ref = self._base = 0

    def now(self):
        """Seconds since 2000-01-01; since power-on (below FIRST) while quality is 0."""
        raw = board_clock.now()
        if not self.quality:
            return raw
        while self._slew and raw - self._slewed_at >= _SLEW_EVERY_S:
            one = 1 if self._slew > 0 else -1
            self._slew -= one
            self._base += one
            self._slewed_at += _SLEW_EVERY_S
        passed = raw - self._ref
        return self._base + passed - self._won(passed)

    def _won(self, seconds):
        """Seconds the board's clock wins while it counts so many; 2**7 s of a million. A small int for 30 days at 5 %."""
        return (seconds >> 7) * self.drift_ppm // 7812

    def board_s(self, seconds):
        """Return how many seconds the board's clock counts while `seconds` pass."""
        return seconds + self._won(seconds)

    def set_unix(self, unix_s):
        """Take the gateway's time. Returns the step made in seconds (0: it was right, or is slewed). Raises ValueError (out of range)."""
        t = unix_s - EPOCH_2000
        if not FIRST <= t <= _LAST:
            raise ValueError("time")
        raw = board_clock.now()
        error = t - self.now()
        first = self.quality == NONE
        if first:
            self.born = t - raw
        learnt = not first and self._learn(raw, t, error)
        if first or not -_SLEW_S <= error <= _SLEW_S:
            board_clock.set(t)
            self._anchor(t, t)
            self._slew = 0
            self.keep(SET)
            for told in self.stepped:
                told(error, t - raw)
            return error
        if learnt:
            self._anchor(raw, t - error)
        if not -_SLACK_S <= error <= _SLACK_S:
            self._slew, self._slewed_at = error, raw
            log.info("clock %d s off, drift %d ppm", -error, self.drift_ppm)
        if learnt or self._slew or self.quality != SET:
            self.keep(SET)
        return 0

    def _anchor(self, raw, t):
        self._ref, self._base = raw, t

    def _learn(self, raw, t, error):
        """Measure the drift since the anchor; True when it is known better now."""
        passed = raw - self._ref
        if passed < _DRIFT_FROM_S or -_NOISE_S <= error <= _NOISE_S and passed < _DRIFT_ANYWAY_S:
            return False
        won = passed - (t - self._base)
        if not -60000 <= won <= 60000:
            return False
        ppm = won * 15625 // (passed >> 6)
        if not -_DRIFT_MAX <= ppm <= _DRIFT_MAX:
            return False
        self.drift_ppm = (self.drift_ppm + 3 * ppm) // 4 if self.drift_ppm else ppm
        return True

    def keep(self, quality=-1):
        """Write what must outlive a reset or a sleep to RTC memory; what is still to be slewed counts as done."""
        if quality >= 0:
            self.quality = quality
        self._rtc.buf[QUALITY] = self.quality
        pack_into(">IIIi", self._rtc.buf, CLOCK_AT, self.born, self._ref, self._base + self._slew, self.drift_ppm)
        self._rtc.save()

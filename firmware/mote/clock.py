"""What time it is, and how well the node knows: 0 not at all, 1 kept over a reset, 2 set by the gateway.

The gateway's time is the only source that outranks the board's own RTC, which outranks nothing. A small error is slewed (no sample is
skipped or taken twice), a large one is a step; one of more than a day, of a clock that was set, waits until the gateway has said so twice. While the
time is unknown now() counts from power-on: rows are taken and dated later (mote.batcher). Awake the board counts on a crystal, in deep sleep on an
RC oscillator. How fast that runs is measured between two settings and corrected between those that follow, but only when two stretches of
time in a row agree, within what such an oscillator can be off: a gateway that was wrong once is no drift.
"""

from struct import pack_into, unpack_from

from micropython import const
from mote import log
from mote.hal import clock as board_clock
from mote.hal.clock import FIRST
from mote.hal.rtc import CLOCK_AT, DOUBT_AT, QUALITY
from motewire import EPOCH_2000

NONE = const(0)
KEPT = const(1)
SET = const(2)
CRYSTAL = const(200)  # ppm that a board awake may be off: +-10 ppm of an ESP32's crystal by its datasheet, age, frost
RC = const(112000)  # and one asleep: 10 % of the time, of what it counts itself
_LAST = const(3348282494)  # 2106-02-07: the wire's 32 bits; from 2**30 (2034) on a time costs a big integer
_SLACK_S = const(2)  # a downlink over SF12 is that late; smaller differences are not corrected
_SLEW_S = const(20)  # more than that is a step
_SLEW_EVERY_S = const(10)  # a second of it is brought in
_NOISE_S = const(4)  # two downlinks, each up to 2 s late
_DAY_S = const(86400)
_FROM_S = const(7200)  # on a crystal a shorter time says nothing
_FROM_RC_S = const(540)
_ASKS_S = (600, 7200)  # after the time was set, asleep: the first tells a per cent from none, the second what it is
_APART_S = const(576)  # between two witnesses of a jump: another exchange
# kinds of doubt
_DRIFT = const(1)  # one stretch of time was off by _doubt ppm
_JUMP = const(2)  # the gateway said once that time is _doubt (32 bits) ahead of the board's clock
_ASKED = const(3)  # and was asked again


class Clock:
    """now() is t2000. stepped: list of functions(step_s, board_step_s), called after a step of now() and of the board's clock.

    rtc: mote.hal.rtc.RtcMemory, which keeps quality, birth, anchor, drift and doubt. most_ppm: what the board's clock may be off, CRYSTAL or RC. born: t2000 at
    which the power came on, 0 while unknown. drift_ppm: how much faster than time the board's clock runs.
    """

    def __init__(self, rtc, most_ppm=CRYSTAL):
        self._rtc, self._most = rtc, most_ppm
        self.stepped = []
        # at the anchor the board's clock showed _ref and it was _base
        self.born, self._ref, self._base, self.drift_ppm = unpack_from(">IIIi", rtc.buf, CLOCK_AT)
        self._slew = 0  # seconds still to be brought in, with their sign
        self._slewed_at = 0
        # _since: how long that stretch of time was, or when the board's clock heard of the jump; 64 s each
        self._since, _, state, self._doubt = unpack_from(">HBBi", rtc.buf, DOUBT_AT)
        self._kind, self._asks = state & 3, state >> 2
        raw = board_clock.now()
        kept = not rtc.fresh and rtc.buf[QUALITY] >= KEPT and FIRST <= raw <= _LAST
        self.quality = KEPT if kept else NONE
        if not kept:
            self.born = self._ref = self._base = self.drift_ppm = self._kind = self._asks = 0
        elif abs(self.drift_ppm) > most_ppm:  # measured asleep, and this node sleeps no more
            self._anchor(raw, self.now())
            self.drift_ppm = 0

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
            if not self._slew:
                self.keep()
        passed = raw - self._ref
        return self._base + passed - board_clock.won(passed, self.drift_ppm)

    def board_s(self, seconds):
        """Return how many seconds the board's clock counts while `seconds` pass."""
        counted = seconds
        for _ in range(3):  # 10 % of 10 % are minutes of a night
            counted = seconds + board_clock.won(counted, self.drift_ppm)
        return counted

    def set_unix(self, unix_s):
        """Take the gateway's time. Returns the step made in seconds (0: it was right, or is slewed, or is not believed yet). Raises ValueError (out of range)."""
        t = unix_s - EPOCH_2000
        if not FIRST <= t <= _LAST:
            raise ValueError("time")
        raw = board_clock.now()
        error = t - self.now()
        first = self.quality == NONE
        if first:
            self.born = t - raw
        elif not self._believed(raw, t, error):
            return 0
        else:
            passed = raw - self._ref
            if not -_NOISE_S <= error <= _NOISE_S or passed >= _DAY_S:
                self._measure(passed, passed - (t - self._base - self._slew))
                self._anchor(raw, t - error)
        if first or not -_SLEW_S <= error <= _SLEW_S:
            board_clock.set(t)
            self._anchor(t, t)
            self._slew = 0
            self.keep(SET)
            for told in self.stepped:
                told(error, t - raw)
            return error
        if self._asks > len(_ASKS_S) and not self._kind and raw - self._ref >= _ASKS_S[-1]:
            self._asks = len(_ASKS_S)  # answered, and the clock is right
        if not -_SLACK_S <= error <= _SLACK_S:
            self._slew, self._slewed_at = error, raw
            log.info("clock %d s off, drift %d ppm", -error, self.drift_ppm)
        if self._ref == raw or self._slew or self.quality != SET:
            self.keep(SET)
        return 0

    def _anchor(self, raw, t):
        self._ref, self._base = raw, t

    def _believed(self, raw, t, error):
        """False: it is too far from what the clock shows to be believed before it was said again, in another exchange."""
        jump = self._kind >= _JUMP
        if -_DAY_S <= error <= _DAY_S:
            if jump:
                self._kind = 0
            return True
        ahead = t - raw & 0xFFFFFFFF
        if jump:
            apart = ((raw >> 6) - self._since & 0xFFFF) << 6
            off = ahead - self._doubt & 0xFFFFFFFF
            near = _SLEW_S + apart * self._most // 1000000
            if off <= near or off >= 0x100000000 - near:
                if apart < _APART_S:
                    return False
                self._kind = 0
                return True
        log.warning("clock %d s off: to be said again", -error)
        self._kind, self._since = _JUMP, raw >> 6 & 0xFFFF
        self._doubt = ahead - 0x100000000 if ahead >> 31 else ahead
        self.keep()
        return False

    def _measure(self, passed, won):
        """The board's clock won so many seconds in the `passed` ones that it counted since the anchor: drift, a step, or noise?"""
        most = self._most
        room = passed * most // 1000000 + _NOISE_S
        if passed < (_FROM_S if most == CRYSTAL else _FROM_RC_S) or not -room <= won <= room:
            return
        self._asks = min(self._asks, len(_ASKS_S))
        ppm = max(-most, min(won * 1000000 // passed, most))
        noise = _NOISE_S * 1000000 // passed
        known, doubt = self.drift_ppm, self._doubt
        if abs(ppm - known) <= noise and (known or -_NOISE_S <= won <= _NOISE_S):
            self._kind = 0
            if known:
                self.drift_ppm = (known + 3 * ppm) // 4
        elif (
            self._kind == _DRIFT
            and abs(ppm - doubt) <= noise + _NOISE_S * 15625 // max(1, self._since) + abs(doubt - known) // 4
        ):
            self._kind = 0
            self.drift_ppm = ppm if passed >> 6 >= self._since else doubt
        else:
            self._kind, self._doubt, self._since = _DRIFT, ppm, min(passed >> 6, 0xFFFF)

    def asks_in(self):
        """Seconds until the gateway should be asked for the time (0: now), which a report does; 2**28 when it need not be."""
        raw = board_clock.now()
        if self._kind == _JUMP:
            return max(0, _APART_S + 64 - (((raw >> 6) - self._since & 0xFFFF) << 6))
        if self._most == CRYSTAL or not self.quality:
            return 1 << 28
        if self._asks >= len(_ASKS_S):  # a drift that is in doubt is asked about once more
            if self._kind != _DRIFT or self._asks > len(_ASKS_S):
                return 1 << 28
            return max(0, _ASKS_S[-1] - raw + self._ref)
        return max(0, _ASKS_S[self._asks] - raw + self._ref)

    def asked(self):
        """A report goes out, and the gateway's answer tells the time."""
        if self.asks_in():
            return
        if self._kind == _JUMP:
            self._kind = _ASKED
        else:
            self._asks = 1 if not self._asks else len(_ASKS_S) + 1  # until there is an answer
        self.keep()

    def keep(self, quality=-1, asleep=False):
        """Write what must outlive a reset or a sleep to RTC memory. What is still to be slewed counts as done; only before a sleep where it is a way
        back, for after a reset there is no one who knows which rows there have been."""
        if quality >= 0:
            self.quality = quality
        buf = self._rtc.buf
        buf[QUALITY] = self.quality
        pack_into(
            ">IIIi",
            buf,
            CLOCK_AT,
            self.born,
            self._ref,
            self._base + (self._slew if asleep or self._slew > 0 else 0),
            self.drift_ppm,
        )
        pack_into(">HBBi", buf, DOUBT_AT, self._since, buf[DOUBT_AT + 2], self._kind | self._asks << 2, self._doubt)
        self._rtc.save()

"""Time on air per sub-band over any hour, kept over resets (ERC 70-03 annex 10: per band, not per channel).

Sixty-one buckets of a minute: the oldest still counts whole, so the sum never understates an hour. The ledger lives in RTC
memory. After a power cut it is unknown: DECISIONS.md explains the start allowance that keeps any number of cuts legal.
"""

from struct import pack_into, unpack_from
from micropython import const
from mote.hal.rtc import DUTY_AT

# RTC memory at DUTY_AT: end of ignorance u32, minute of the newest bucket u32 (both wall clock), then bands x buckets u16 (ms)
_BUCKETS = const(58)
_SPAN_S = const(63)  # 58 buckets of 63 s: an hour and a bucket
_BANDS = const(2)
_PLAN = const(80)  # % of the legal time for everything; the rest belongs to starts after power cuts
_BULK = const(60)  # % for all but alarms
_START = const(10)  # % at a start after a power cut, half of it at the next ...: together below 20 %
_STARTS_MAX = const(12)
# (from kHz, to kHz, legal ms per hour): what this node may send on at all
SUB_BANDS = ((865000, 868000, 36000), (868000, 868600, 36000), (869400, 869650, 360000), (869700, 870000, 36000))


def sub_band(khz):
    """Return the index in SUB_BANDS of a channel, or -1 when it is not ours to use."""
    for i in range(len(SUB_BANDS)):
        if SUB_BANDS[i][0] <= khz < SUB_BANDS[i][1]:
            return i
    return -1


class Duty:
    """Ledger of one or two sub-bands; a band is named by its place in `bands` (indices into SUB_BANDS).

    rtc: mote.hal.rtc.RtcMemory. nvs: keeps "airstarts", power cuts without a full hour after them. now: function() -> wall
    clock in s, whose steps must be told through shift().
    """

    def __init__(self, rtc, nvs, now, bands):
        if not 1 <= len(bands) <= _BANDS:
            raise ValueError("bands")
        self._rtc, self._nvs, self._now, self._bands = rtc, nvs, now, bands
        buf = rtc.buf
        if rtc.fresh:
            starts = nvs.get("airstarts") or 0
            nvs.put("airstarts", min(starts + 1, _STARTS_MAX))
            pack_into(">II", buf, DUTY_AT, now() + 3600 + _SPAN_S, now() // _SPAN_S)
            rtc.save()
        self._starts = nvs.get("airstarts") or 0
        self._roll()

    def _roll(self):
        """Forget buckets older than the hour; after a full known hour forget the power cuts too."""
        buf = self._rtc.buf
        now = self._now()
        until, last = unpack_from(">II", buf, DUTY_AT)
        newest = now // _SPAN_S
        for b in range(last + 1, min(newest, last + _BUCKETS) + 1):
            for band in range(len(self._bands)):
                pack_into(">H", buf, self._place(band, b), 0)
        pack_into(">I", buf, DUTY_AT + 4, max(newest, last))
        if until and now >= until:
            pack_into(">I", buf, DUTY_AT, 0)
            until = 0
            self._rtc.save()
        if not until and self._starts:
            self._starts = 0
            self._nvs.put("airstarts", 0)
        return until

    def _place(self, band, bucket):
        return DUTY_AT + 8 + 2 * (band * _BUCKETS + bucket % _BUCKETS)

    def used_ms(self, band):
        """Time on air known to have been spent in the last hour."""
        total = 0
        for b in range(_BUCKETS):
            total += unpack_from(">H", self._rtc.buf, self._place(band, b))[0]
        return total

    def budget_ms(self, band, alarm):
        """Time on air this node may still spend on this band now; alarms may use what bulk must leave."""
        legal = SUB_BANDS[self._bands[band]][2]
        if self._roll():
            share = legal * _START // 100 >> max(0, self._starts - 1)
        else:
            share = legal * (_PLAN if alarm else _BULK) // 100
        return share - self.used_ms(band)

    def spend(self, band, ms):
        """Charge a transmission; call it before the transmitter is switched on."""
        self._roll()
        buf = self._rtc.buf
        at = self._place(band, unpack_from(">I", buf, DUTY_AT + 4)[0])
        pack_into(">H", buf, at, min(65535, unpack_from(">H", buf, at)[0] + ms))
        self._rtc.save()

    def shift(self, step_s):
        """The wall clock jumped by step_s: what was sent happened as long ago as before."""
        buf = self._rtc.buf
        until, last = unpack_from(">II", buf, DUTY_AT)
        newest = self._now() // _SPAN_S
        # one bucket of rounding: move what is there so that the newest stays the newest
        old = [
            [unpack_from(">H", buf, self._place(band, last - i))[0] for i in range(_BUCKETS)]
            for band in range(len(self._bands))
        ]
        for band in range(len(self._bands)):
            for i in range(_BUCKETS):
                pack_into(">H", buf, self._place(band, newest - i), old[band][i])
        pack_into(">II", buf, DUTY_AT, max(1, until + step_s) if until else 0, newest)
        self._rtc.save()

"""The board's clocks: wall clock in seconds since 2000-01-01 (t2000), and uptime that neither steps nor wraps."""

import time
from machine import RTC
from micropython import const

FIRST = const(757382400)  # 2024-01-01 as t2000: what the wall clock shows before is no time but seconds since power-on
_last = time.ticks_ms()
_ms = 0
_s = 0
_before = 0  # uptime of the boots that this one goes on from


def now():
    """Wall clock as t2000; counts from 0 after power-on until set() was called."""
    return time.time()


def set(t2000):
    """Set the wall clock."""
    y, mo, d, h, mi, s = time.gmtime(t2000)[:6]
    RTC().datetime((y, mo, d, 0, h, mi, s, 0))


def won(seconds, ppm):
    """Seconds, towards 0, that a clock which is fast by `ppm` (negative: slow) wins while it counts so many. In two parts, to be small ints for 14 days at 10 %."""
    if ppm < 0:  # // goes downwards: a second would be lost by any ppm, and a sleep of one second be none
        return -won(seconds, -ppm)
    return (seconds >> 7) * ppm // 7812 + (seconds & 127) * ppm // 1000000


def awake_ms():
    """Milliseconds since this boot."""
    uptime_s()
    return (_s - _before) * 1000 + _ms


def go_on(seconds):
    """Count uptime from `seconds`: a node that woke from the sleep it chose has not started anew."""
    global _s, _before
    uptime_s()
    _s += seconds - _before
    _before = seconds


def uptime_s():
    """Whole seconds since this boot, or since the boot that this deep sleep followed. Ticks wrap after 12 days: call it at least every 6
    days (the supervisor does)."""
    global _last, _ms, _s
    t = time.ticks_ms()
    _ms += time.ticks_diff(t, _last)
    _last = t
    if _ms >= 1000:
        _s += _ms // 1000
        _ms %= 1000
    return _s

"""`time` of the esp32 port on the virtual clock: 2000 epoch, int seconds, 8-tuples, 30-bit ticks."""

# ruff: noqa: E402
import sys

import sim_clock as _c

_path = sys.path[:]
sys.path.clear()
import time as _b  # an empty path forces the built-in

sys.path[:] = _path
_MASK = _c.TICKS_MAX
_HALF = (_MASK + 1) // 2


def ticks_ms():
    _c.now += 1  # a busy wait must end
    return (_c.ticks_base + (_c.now - _c.boot) // 1000) & _MASK


def ticks_us():
    _c.now += 1
    return (_c.ticks_base * 1000 + _c.now - _c.boot) & _MASK


ticks_cpu = ticks_us


def ticks_add(t, d):
    if not -_HALF < d < _HALF:  # as the C code: asyncio.sleep() of more than 6.2 days fails
        raise OverflowError("ticks interval overflow")
    return (t + d) & _MASK


def ticks_diff(a, b):
    return ((a - b + _HALF) & _MASK) - _HALF


def sleep_us(n):
    if n > 0:
        _c.advance(_c.now + n)


def sleep_ms(n):
    if n > 0:
        _c.advance(_c.now + int(n) * 1000)


def sleep(s):
    sleep_us(int(s * 1000000))


def time():
    return _c.rtc_us() // 1000000


def time_ns():
    return _c.rtc_us() * 1000


def gmtime(s=None):
    return _b.gmtime((time() if s is None else int(s)) + _c.EPOCH_2000)[:8]


localtime = gmtime


def mktime(t):
    return int(_b.mktime((t[0], t[1], t[2], t[3], t[4], t[5], 0, 0, 0))) - _c.EPOCH_2000

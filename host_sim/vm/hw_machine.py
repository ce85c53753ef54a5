"""`machine` of the esp32 port: reset and sleep, RTC, watchdog, timers, pins; buses come from hw_bus and hw_i2s."""

# ruff: noqa: E402
import sys

import sim_clock as _c
import sim_hw as _hw
import sim_link as _link
from hw_bus import ADC, I2C, SPI, UART, SoftI2C, SoftSPI  # noqa: F401
from hw_i2s import I2S  # noqa: F401

_path = sys.path[:]
sys.path.clear()
import machine as _b

sys.path[:] = _path
Signal, PinBase, mem8, mem16, mem32 = _b.Signal, _b.PinBase, _b.mem8, _b.mem16, _b.mem32

PWRON_RESET, HARD_RESET, WDT_RESET, DEEPSLEEP_RESET, SOFT_RESET = 1, 2, 3, 4, 5
PIN_WAKE, EXT0_WAKE, EXT1_WAKE, TIMER_WAKE, TOUCHPAD_WAKE, ULP_WAKE = 2, 2, 3, 4, 5, 6
SLEEP, DEEPSLEEP = 2, 4
_state = {"cause": PWRON_RESET, "rtc": b""}
RTC_MEMORY = 2048


def reset():
    _link.final("R", "hard")


def soft_reset():
    _link.final("R", "soft")


def deepsleep(time_ms=0):
    _link.final("Z", int(time_ms))


def lightsleep(time_ms=0):
    _c.advance(_c.now + int(time_ms) * 1000)


def idle():
    _c.advance(_c.now + 100)


def reset_cause():
    return _state["cause"]


def wake_reason():
    return TIMER_WAKE if _state["cause"] == DEEPSLEEP_RESET else 0


def unique_id():
    return b"\x24\x6f" + _hw.node_id.to_bytes(4, "big")


def freq(hz=None):
    return 160000000


def disable_irq():
    return 0


def enable_irq(state):
    pass


def time_pulse_us(pin, level, timeout_us=1000000):
    _c.advance(_c.now + timeout_us)
    return -1


class RTC:
    def memory(self, data=None):
        kept = _state["rtc"]
        if data is None:
            return bytes(kept)
        if len(data) > RTC_MEMORY:
            raise ValueError("buffer too long")
        if isinstance(kept, bytearray) and len(kept) == len(data):
            kept[:] = data  # this memory is not the firmware's heap: it must not need a stretch of it
        else:
            _state["rtc"] = bytearray(data)
        _link.send_hex("M", data)

    def datetime(self, t=None):
        from hw_time import gmtime, mktime

        if t is None:
            us = _c.rtc_us()
            d = gmtime(us // 1000000)
            return (d[0], d[1], d[2], d[6], d[3], d[4], d[5], us % 1000000)
        sec = mktime((t[0], t[1], t[2], t[4], t[5], t[6]))
        _c.rtc_off = sec * 1000000 + int(t[7]) - _c.now
        _link.send("K", _c.rtc_off)

    init = datetime


class WDT:
    """Task watchdog: cannot be stopped; making it again changes the timeout. A bite resets with WDT_RESET."""

    _event = None

    def __init__(self, id=0, timeout=5000):
        if timeout < 1:
            raise ValueError("timeout")
        WDT._us = int(timeout) * 1000
        self.feed()

    def feed(self):
        if WDT._event is not None:
            _c.cancel(WDT._event)
        WDT._event = _c.at(_c.now + WDT._us, self._bite)

    def _bite(self):
        _link.final("R", "wdt")


class Pin:
    IN, OUT, OPEN_DRAIN, PULL_DOWN, PULL_UP = 1, 3, 7, 1, 2
    IRQ_RISING, IRQ_FALLING, WAKE_LOW, WAKE_HIGH = 1, 2, 4, 5
    DRIVE_0, DRIVE_1, DRIVE_2, DRIVE_3 = 0, 1, 2, 3
    _all = {}

    def __new__(cls, id, *args, **kwargs):
        id = getattr(id, "id", id)
        pin = cls._all.get(id)
        if pin is None:
            pin = cls._all[id] = object.__new__(cls)
            pin.id, pin._value, pin._handler, pin._trigger = id, 0, None, 3
        return pin

    def __init__(self, id, mode=-1, pull=-1, value=None, drive=None, hold=None):
        if value is not None:
            self.value(value)
        elif pull == Pin.PULL_UP and mode == Pin.IN:
            self._value = 1

    def init(self, mode=-1, pull=-1, value=None, drive=None, hold=None):
        if value is not None:
            self.value(value)

    def value(self, v=None):
        if v is None:
            source = _hw.digital.get(self.id)
            return self._value if source is None else source()
        self.drive_line(v)

    __call__ = value

    def on(self):
        self.drive_line(1)

    def off(self):
        self.drive_line(0)

    def toggle(self):
        self.drive_line(not self._value)

    def irq(self, handler=None, trigger=3, hard=False, wake=None):
        self._handler, self._trigger = handler, trigger

    def drive_line(self, v):
        """Set the level from either side; a watching irq handler runs."""
        old, self._value = self._value, 1 if v else 0
        if self._handler and old != self._value and self._trigger & (1 if self._value else 2):
            self._handler(self)


class Timer:
    ONE_SHOT, PERIODIC = 0, 1

    def __init__(self, id=-1, **kwargs):
        self._event = None
        if kwargs:
            self.init(**kwargs)

    def init(self, mode=1, period=-1, callback=None, freq=0):
        self.deinit()
        self._us = int(1000000 / freq) if freq else period * 1000
        self._periodic, self._callback = mode == Timer.PERIODIC, callback
        self._event = _c.at(_c.now + self._us, self._fire)

    def _fire(self):
        self._event = _c.at(_c.now + self._us, self._fire) if self._periodic else None
        self._callback(self)

    def deinit(self):
        if self._event is not None:
            _c.cancel(self._event)
            self._event = None

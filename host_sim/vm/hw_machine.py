"""`machine` of the esp32 port: reset and sleep, RTC, watchdog, timers, pins; buses come from hw_bus and hw_i2s."""

import json
import sys

import sim_clock as _c
import sim_hw as _hw
import sim_link as _link
from hw_bus import ADC, I2C, SPI, UART, SoftI2C, SoftSPI  # noqa: F401
from hw_i2s import I2S  # noqa: F401

_path = sys.path[:]
sys.path.clear()
try:
    import machine as _b
except ImportError:  # the 32-bit VM has none
    _b = None
sys.path[:] = _path
if _b is None:
    import hw_board as _b
Signal, PinBase = _b.Signal, _b.PinBase

PWRON_RESET, HARD_RESET, WDT_RESET, DEEPSLEEP_RESET, SOFT_RESET = 1, 2, 3, 4, 5
PIN_WAKE, EXT0_WAKE, EXT1_WAKE, TIMER_WAKE, TOUCHPAD_WAKE, ULP_WAKE = 2, 2, 3, 4, 5, 6
SLEEP, DEEPSLEEP = 2, 4
_state = {"cause": PWRON_RESET, "woke": False}
RTC_MEMORY = 2048
_rtc = bytearray(RTC_MEMORY)  # not the firmware's heap: it must not need a stretch of it
_rtc_used = 0


def fill_rtc(data):
    """What RTC memory holds when the board starts, or as if written by the firmware; the world is not told."""
    global _rtc_used
    _rtc_used = len(data)
    _rtc[:_rtc_used] = data


FOR_EVER_MS = 1 << 46
_LOOK_MS = 1 << 26  # a coprocessor's course is looked at so far ahead


class _Unread:
    """RTC slow memory of a board without a pulse line: nobody reads what is written there."""

    def __getitem__(self, address):
        return 0

    def __setitem__(self, address, value):
        pass


class _Mem:
    """RTC slow memory alone (sim_ulp); the VM's own mem32 would touch the host's memory."""

    def __init__(self, size):
        self._size = size
        self._mem = None

    def _get(self):
        if self._mem is None:
            ulp = sys.modules.get("sim_ulp")
            self._mem = ulp.Memory(self._size) if ulp is not None else _Unread()
        return self._mem

    def __getitem__(self, address):
        return self._get()[address]

    def __setitem__(self, address, value):
        self._get()[address] = value


mem8, mem16, mem32 = _Mem(1), _Mem(2), _Mem(4)


def _keep(kind):
    """The boot ends: tell the world what the RTC domain keeps (JSON: "ulp", "hold"), when there is anything."""
    state = {}
    if "sim_ulp" in sys.modules:
        ulp = sys.modules["sim_ulp"].last_look(kind)
        if ulp is not None:
            state["ulp"] = ulp
    if not _hw.hold_digital and _hw.chip not in _hw.HOLDS_SINGLE_PADS and kind == "Z":
        for number in list(_hw.held):
            if number not in _hw.rtc_pins():
                del _hw.held[number]  # digital pads lose it without gpio_deep_sleep_hold
    if _hw.held:
        state["hold"] = _hw.held
    if state or _hw.kept:
        _link.send("Q", json.dumps(state))


_link.keep = _keep


def reset():
    _link.final("R", "hard")


def soft_reset():
    _link.final("R", "soft")


def deepsleep(time_ms=0):
    """Wakes as a boot with DEEPSLEEP_RESET after time_ms, or when the ULP coprocessor says so; without a time only a pin would wake it, so here
    nothing else does."""
    ms = int(time_ms) or FOR_EVER_MS
    woken = None
    if "sim_ulp" in sys.modules:  # the clock of deep sleep may be slow by some per cent: the world knows by how much
        woken = sys.modules["sim_ulp"].wakes_in(min(ms, _LOOK_MS) * 1200)
    if woken is None:
        _link.final("Z", ms)
    _link.final("Z", "%d %d" % (ms, woken) if _link.there() else min(ms, woken // 1000 + 1))


def lightsleep(time_ms=0):
    """RAM and peripherals stay; the watchdog's clock stands still. Without a time only a pin would wake it: Deadlock."""
    if not time_ms:
        raise _c.Deadlock("lightsleep without a time, and no pin wakes a simulated node")
    paused = WDT._event
    left = 0 if paused is None else paused[0] - _c.now
    if paused is not None:
        _c.cancel(paused)
    _c.advance(_c.now + int(time_ms) * 1000)
    if paused is not None and WDT._event is paused:
        WDT._event = _c.at(_c.now + left, paused[1])
    _state["woke"] = True


def idle():
    _c.advance(_c.now + 100)


def reset_cause():
    return _state["cause"]


def wake_reason():
    return TIMER_WAKE if _state["woke"] or _state["cause"] == DEEPSLEEP_RESET else 0


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
        if data is None:
            return bytes(memoryview(_rtc)[:_rtc_used])
        if len(data) > RTC_MEMORY:
            raise ValueError("buffer too long")
        fill_rtc(data)
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
            if not _hw.has_pin(id):
                raise ValueError("invalid pin")
            pin = cls._all[id] = object.__new__(cls)
            pin.id, pin._value, pin._handler, pin._trigger = id, _hw.held.get(id, 0), None, 3
            pin._wanted = None  # what was asked of a held pad
        return pin

    def __init__(self, id, mode=-1, pull=-1, value=None, drive=None, hold=None):
        self.init(mode, pull, value, drive, hold)
        if value is None and pull == Pin.PULL_UP and mode == Pin.IN and self.id not in _hw.held:
            self._value = 1

    def init(self, mode=-1, pull=-1, value=None, drive=None, hold=None):
        """hold=True latches the pad: it keeps its level, also through deep sleep and resets, until hold=False."""
        if mode in (Pin.OUT, Pin.OPEN_DRAIN) and not _hw.drives(self.id):
            raise ValueError("pin can only be input")
        if value is not None:
            self.value(value)
        if hold is not None:
            if hold:
                _hw.held[self.id] = self._value
            elif _hw.held.pop(self.id, None) is not None and self._wanted is not None:
                wanted, self._wanted = self._wanted, None
                self.value(wanted)

    def value(self, v=None):
        if v is None:
            source = _hw.digital.get(self.id)
            if source is not None:
                return source()
            meter = _hw.pulse.get(self.id)
            return meter.level(_c.now) if hasattr(meter, "level") else self._value
        if self.id in _hw.held:
            self._wanted = v
            return
        old = self._value
        self.drive_line(v)
        if old != self._value and self.id in _hw.wires:
            _hw.wires[self.id](self._value)

    __call__ = value

    def on(self):
        self.value(1)

    def off(self):
        self.value(0)

    def toggle(self):
        self.value(not self._value)

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

"""What is soldered to this board: chip models on their buses, and the physics they sense.

The hardware description (hw.json of the node) names chips; tests attach their own objects with the attach functions.
"""

import math
import struct

import sim_clock as _c

i2c = {}  # (bus, address) -> chip
uart = {}  # bus -> chip
i2s = {}  # bus -> chip
pulse = {}  # pin -> chip
analog = {}  # pin -> function() -> volts
digital = {}  # pin -> function() -> 0 or 1
wires = {}  # pin -> function(level): who is told what the board drives there
spi = {}  # bus -> chip
node_id = 1
chip = "esp32"
wifi_down = ()  # ((from_us, to_us), ...) the access point is away
wifi_rssi = -61
wifi_ap = ("city", "simulated")  # name and password of the access point
faults = ()  # (what, kind, from_us, to_us) ...: "radio", "adc" or a chip fails so for so long
held = {}  # pin -> level of a latched pad (Pin hold=True)
hold_digital = False  # esp32.gpio_deep_sleep_hold
kept = False  # the world holds something of the RTC domain of an earlier boot
ballast = None  # heap the firmware may not have


def now_us():
    return _c.now


def fault_of(what):
    """Return (its place in `faults`, kind) of what is wrong with the radio or the ADC now, or None."""
    for i in range(len(faults)):
        name, kind, start, end = faults[i]
        if name == what and start <= _c.now < end:
            return i, kind
    return None


def hit(kind):
    """A fault was met: the world counts them."""
    import sim_link

    sim_link.send("I", kind)


def _schedule(name, chip):
    """Let a chip fail and recover as `faults` says."""

    def turn(kind):
        chip.fault = kind

    for what, kind, start, end in faults:
        if what == name:
            if start <= _c.now < end:
                chip.fault = kind
            elif start > _c.now:
                _c.at(start, turn, kind)
            if end > _c.now:
                _c.at(end, turn, None)


HOLDS_SINGLE_PADS = ("esp32c5", "esp32c6", "esp32h2", "esp32p4")  # and have no esp32.gpio_deep_sleep_hold
HAS_ULP = ("esp32", "esp32s2", "esp32s3")  # the coprocessor of esp32.ULP


def rtc_pins():
    """GPIOs with an RTC function."""
    return range(22) if chip == "esp32s3" else (0, 2, 4, 12, 13, 14, 15, 25, 26, 27, 32, 33, 34, 35, 36, 37, 38, 39)


def has_pin(number):
    """Whether the chip has this GPIO (as the port's table of pins)."""
    if chip == "esp32":
        return 0 <= number < 40 and number not in (20, 24, 28, 29, 30, 31)
    return 0 <= number < {"esp32s2": 47, "esp32s3": 49, "esp32c3": 22}.get(chip, 55) and not (
        chip in ("esp32s2", "esp32s3") and 21 < number < 26
    )


def drives(number):
    """Whether the chip can drive it."""
    return not (chip == "esp32" and number > 33 or chip == "esp32s2" and number == 46)


class Series:
    """Points (t seconds, value) of one physical quantity in a host file, read through a window of 32 points.

    mode "linear" interpolates, "hold" keeps the last value; before the first and after the last point the value stays.
    """

    SIZE = 32

    def __init__(self, file, offset, count, linear):
        self._file, self._offset, self._count, self._linear = file, offset, count, linear
        self._buf = bytearray(16 * self.SIZE)
        self._first = 0
        self._held = 0
        self._from, self._to = 0.0, 0.0  # the piece that was asked for last
        self._base, self._slope = 0.0, None

    def _load(self, index):
        self._first = max(0, min(index, self._count - self.SIZE))
        self._held = min(self.SIZE, self._count - self._first)
        self._file.seek(self._offset + 16 * self._first)
        self._file.readinto(self._buf, 16 * self._held)

    def _time(self, index):
        if not self._first <= index < self._first + self._held:
            self._load(index)
        return struct.unpack_from("<d", self._buf, 16 * (index - self._first))[0]

    def value(self, t_us=None):
        """The value now, or at t_us."""
        t = (_c.now if t_us is None else t_us) / 1000000
        if not self._from <= t < self._to:
            self._enter(t)
        if self._slope is None:
            return self._base
        return self._base + self._slope * (t - self._from) / (self._to - self._from)

    def _enter(self, t):
        """Keep the piece that t lies in: between two points, or before the first, or behind the last."""
        low = self._at(t)
        t0, self._base, self._slope = self._time(low), self._value(low), None
        if t < t0:
            self._from, self._to = -math.inf, t0
            return
        self._from, self._to = t0, math.inf
        if low + 1 < self._count:
            self._to = self._time(low + 1)
            if self._linear:
                self._slope = self._value(low + 1) - self._base

    def when(self, value, after_us, until_us):
        """First microsecond in (after_us, until_us] at which a series that never falls has reached `value`, or None."""
        i = self._at(after_us / 1000000)
        while i + 1 < self._count and self._time(i) * 1000000 <= until_us:
            if self._value(i + 1) >= value:
                t0, v0, t1, v1 = self._time(i), self._value(i), self._time(i + 1), self._value(i + 1)
                t = t0 if v0 >= value else t0 + (value - v0) / (v1 - v0) * (t1 - t0) if self._linear else t1
                t = max(after_us + 1, -int(-t * 1000000 // 1))
                return t if t <= until_us else None
            i += 1
        return None

    def _value(self, index):
        self._time(index)
        return struct.unpack_from("<d", self._buf, 16 * (index - self._first) + 8)[0]

    def _at(self, t):
        """Index of the last point at or before t seconds (0 before the first)."""
        if not self._held:
            self._load(0)
        low, high = 0, self._count - 1
        first, last = self._first, self._first + self._held - 1
        if self._time(first) <= t and (last == high or t < self._time(last)):
            low, high = first, last
        while low < high:  # last point at or before t
            mid = (low + high + 1) // 2
            if self._time(mid) <= t:
                low = mid
            else:
                high = mid - 1
        return low


_series = {}
values = {}  # fixed values, or functions of the time in us; tests set them


def sense(name, t_us=None):
    """Physical truth of quantity `name` now, or at t_us (units: chips/README.md). KeyError names the unknown."""
    s = _series.get(name)
    if s is not None:
        return s.value(t_us)
    v = values[name]
    return v(_c.now if t_us is None else t_us) if callable(v) else v


def when(name, value, after_us, until_us):
    """First microsecond in (after_us, until_us] at which `name`, which never falls, is at least `value`; None when it does not get there."""
    s = _series.get(name)
    if s is not None:
        return s.when(value, after_us, until_us)
    if sense(name, until_us) < value:
        return None
    while until_us - after_us > 1:
        mid = (after_us + until_us) // 2
        if sense(name, mid) < value:
            after_us = mid
        else:
            until_us = mid
    return until_us


def load_world(file):
    """Open a world file written by host_sim/series.py: <count uint32> then per series <name 24 s, linear u32, points u32>."""
    (count,) = struct.unpack("<I", file.read(4))
    entries = [struct.unpack("<24sII", file.read(32)) for _ in range(count)]
    offset = 4 + 32 * count
    for name, linear, points in entries:
        _series[name.rstrip(b"\0").decode()] = Series(file, offset, points, linear)
        offset += 16 * points


def _make(name):
    from chips import CHIPS

    module, cls = CHIPS[name].split(":")
    chip = getattr(__import__("chips." + module, None, None, (cls,)), cls)(sense, now_us)
    if hasattr(chip, "when"):
        chip.when = when  # exact and quick on a series; the chip's own works on any function
    if hasattr(chip, "fill"):
        chip.fill(bytearray(64), 16, _c.now, 48000)  # makes its tables now, before the firmware's heap is measured
    _schedule(name, chip)
    return chip


def build(hw):
    """Attach the chips of a hardware description {"i2c": {"0": {"0x76": "bme280"}}, "uart": {"1": ..}, "i2s", "pulse", ..}."""
    global node_id, chip, wifi_down, wifi_rssi, wifi_ap, faults
    node_id = hw.get("node", 1)
    chip = hw.get("chip", "esp32")
    wifi_down = tuple((a, b) for a, b in hw.get("wifi_down", ()))
    wifi_rssi, wifi_ap = hw.get("wifi_rssi", -61), tuple(hw.get("wifi_ap", wifi_ap))
    faults = tuple([tuple(f) for f in hw.get("faults", ())])
    for bus, chips in hw.get("i2c", {}).items():
        for addr, name in chips.items():
            i2c[int(bus), int(addr, 16)] = _make(name)
    for table, kind in ((uart, "uart"), (i2s, "i2s"), (pulse, "pulse")):
        for key, name in hw.get(kind, {}).items():
            table[int(key)] = _make(name)
    for key, spec in hw.get("analog", {}).items():
        analog[int(key)] = lambda spec=spec: spec if isinstance(spec, (int, float)) else sense(spec)
    for key, name in hw.get("digital", {}).items():
        digital[int(key)] = lambda name=name: 1 if sense(name) >= 0.5 else 0

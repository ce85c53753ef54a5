"""Pulse output of a water meter (reed or open collector) on a hardware counter. ESP32 technical reference manual, chapters PCNT and ULP
Coprocessor; pulse output: EN ISO 4064-1 (OIML R 49) meters, K litres per pulse.

The counter is hardware with its own debounce (PCNT: filter and an RC at the reed; ULP: samples in a row), so no pulse depends on Python.
"""

from time import ticks_add, ticks_diff, ticks_ms
from micropython import const

_PCNT_MODULUS = const(32767)  # with max=32767, reaching it makes the counter 0
_INT16 = const(65536)  # without a limit it is a signed register and goes on at -32768
_REGISTER_L = const(13421773)  # 2**27 / 10, motewire.batch.MAX_VALUE
_AGO_MAX = const(345600)  # s; four days, because ticks tell no more than six apart


class PulseMeter:
    """The meter behind `counter`: esp32.PCNT (counting up, started by the caller), or mote.hal.ulp.Counter, which counts on in deep
    sleep and through resets. Of either only the difference of values counts, modulo its `modulus` (PCNT: 32767 with max=32767; one
    without limits shows itself by negative values and is read modulo 65536).

    litres_per_pulse: K = 0.1, 1, 10 or 100 (any multiple of 0.1). start_l: the meter's own register at zero pulses, below 13,421.7 m3.
    `total` is the number of pulses ever. The caller keeps it over resets, in one of two ways (README, "Pulses over resets"):
    state() and resume() lose nothing while the counter runs on; restore() starts from a total when it did not.
    """

    CHANNELS = ("water_volume", "water_flow")

    def __init__(self, counter, litres_per_pulse=1, start_l=0):
        self._counter = counter
        self.pin = getattr(counter, "pin", -1)
        self._modulus = getattr(counter, "modulus", _PCNT_MODULUS)
        self._k = self.tenths = int(litres_per_pulse * 10 + 0.5)  # 0.1 l a pulse; floats only here
        if not 1 <= self._k <= 10000 or abs(litres_per_pulse * 10 - self._k) > 0.001 * self._k:
            raise ValueError("litres_per_pulse: a multiple of 0.1 up to 1000")
        if not 0 <= start_l < _REGISTER_L:
            raise ValueError("start_l: 0..13421772, where the register ends on the wire")
        self.start = int(start_l * 10 + 0.5)  # 0.1 l
        self.total = 0
        self._seen = counter.value()
        self._flow_at = ticks_ms()
        self._flow_total = 0
        # what a flow is the mean of at least, see read_into()
        self.least_ms = 1000
        self.fine_ms = 0
        self.enough = 1
        self.whole = False  # the flow that was read last is one
        self.ms = 0  # how long it is the mean of

    def restore(self, total):
        """Add the pulses counted before this boot. The register never falls; ValueError for a negative total."""
        if total < 0:
            raise ValueError("total")
        self.total += total
        self._flow_total += total

    def state(self):
        """Return (total, seen): the pulses taken over so far, and which count of which counting that was. Two ints below 2**30."""
        return self.total, self._seen + self._modulus * getattr(self._counter, "life", 0)

    def resume(self, total, seen, ago_s=0):
        """Go on from an earlier state() of the same counting, of this boot or another: True, and every pulse since is in `total`.

        The state may be as old as it likes, if fewer pulses than the counter's modulus came since. Once, before the first reading. ago_s: seconds since that state, so that the first flow is the mean since then (0: unknown,
        the flow starts now). False, and nothing changed: the counting began anew since, or dies with the boot as a PCNT does;
        restore() a total instead. ValueError for a negative total.
        """
        if total < 0:
            raise ValueError("total")
        counter = self._counter
        if getattr(counter, "fresh", True) or seen // self._modulus != counter.life:
            return False
        if ago_s > 0:
            self._since(ago_s)
        self.total += total
        self._flow_total += total
        self._seen = seen % self._modulus
        self.poll()
        if ago_s <= 0:
            self._flow_total = self.total
        return True

    def _since(self, ago_s):
        self._flow_at = ticks_add(ticks_ms(), -1000 * min(ago_s, _AGO_MAX))

    def measured(self):
        """Return (total, seconds ago) of the reading from which the flow under way is measured."""
        return self._flow_total, ticks_diff(ticks_ms(), self._flow_at) // 1000

    def go_on(self, total, ago_s):
        """Measure the flow from a reading of before this boot: what measured() said, and what has passed since."""
        self._since(ago_s)
        self._flow_total = min(total, self.total)

    def more_than(self, flow):
        """The fewest pulses within least_ms that mean more than so many l/h."""
        return flow * self.least_ms // (360000 * self._k) + 2

    def wake_at(self, pulses):
        """Let the counter end a deep sleep once so many more came (mote.hal.ulp: 1 .. 16000)."""
        self._counter.wake_at(pulses)

    def poll(self):
        """Take new pulses over into `total`; call at least every modulus - 1 pulses (PCNT: 32766), however rarely it is read. No allocation."""
        now = self._counter.value()
        new = now - self._seen
        if new < 0:
            new += _INT16 if now < 0 else self._modulus
        self._seen = now
        self.total += new

    async def read_into(self, out):
        """out[0:2] = volume in 0.1 l, mean flow in l/h since the last whole one. It is `whole` over least_ms at least, and `enough` pulses or fine_ms: in
        less time one pulse more or less would be too much of it. Else it is what flowed at least, as if all of it had taken least_ms, without the pulse
        that may have begun long before; and the next one is measured from where this one was."""
        out[1] = self._measure()
        out[0] = self.start + self.total * self._k
        if self.whole:
            self._flow_at = ticks_add(self._flow_at, self.ms)
            self._flow_total = self.total

    async def read_aside(self, out):
        """As read_into(), out of turn: the next flow is measured from where it would have been."""
        out[1] = self._measure()
        out[0] = self.start + self.total * self._k

    def _measure(self):
        self.poll()
        self.ms = ms = ticks_diff(ticks_ms(), self._flow_at)
        pulses = self.total - self._flow_total
        self.whole = ms >= self.least_ms and (pulses >= self.enough or ms >= self.fine_ms)
        if not self.whole:
            ms, pulses = max(ms, self.least_ms), max(pulses - 1, 0)
        tenths = pulses * self._k  # of a litre
        if tenths < 290000:
            return (tenths * 3600 + ms // 200) // (ms // 100)
        return tenths * 36 // (ms // 1000) * 10  # days of consumption in one interval: coarser, and still below 2**30

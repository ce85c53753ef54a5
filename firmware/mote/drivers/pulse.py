"""Pulse output of a water meter (reed or open collector) on the ESP32's pulse counter. ESP32 technical reference manual, chapter PCNT;
pulse output: EN ISO 4064-1 (OIML R 49) meters, K litres per pulse.

The counter is hardware with its own debounce filter (PCNT filter and an RC at the reed), so no pulse depends on Python.
"""

from time import ticks_diff, ticks_ms
from micropython import const

_LIMIT = const(32767)  # PCNT, 16 bit: reaching 32767 makes it 0


class PulseMeter:
    """The meter behind `pcnt` (esp32.PCNT, counting up, started by the caller; only the difference of values counts).

    litres_per_pulse: K = 0.1, 1, 10 or 100 (any multiple of 0.1). start_l: the meter's own register at zero pulses.
    `total` is the number of pulses ever; the caller keeps it over resets and gives it back through restore().
    """

    CHANNELS = ("water_volume", "water_flow")

    def __init__(self, pcnt, litres_per_pulse=1, start_l=0):
        self._pcnt = pcnt
        self._k = int(litres_per_pulse * 10 + 0.5)  # 0.1 l; floats only here
        if self._k < 1:
            raise ValueError("litres_per_pulse")
        self._start = int(start_l * 10 + 0.5)
        self.total = 0
        self._seen = pcnt.value()
        self._flow_at = ticks_ms()
        self._flow_total = 0
        self._flow = 0

    def restore(self, total):
        """Add the pulses counted before this boot. The register never falls; ValueError for a negative total."""
        if total < 0:
            raise ValueError("total")
        self.total += total
        self._flow_total += total

    def poll(self):
        """Take new pulses over into `total`; call at least every 32766 pulses. No allocation."""
        now = self._pcnt.value()
        new = now - self._seen
        if new < 0:
            new += _LIMIT
        self._seen = now
        self.total += new

    async def read_into(self, out):
        """out[0:2] = volume in 0.1 l, mean flow in l/h since the last reading (at least one second ago, else repeated)."""
        self.poll()
        now = ticks_ms()
        ms = ticks_diff(now, self._flow_at)
        if ms >= 1000:
            tenths = (self.total - self._flow_total) * self._k  # of a litre
            if tenths < 290000:
                self._flow = (tenths * 3600 + ms // 200) // (ms // 100)
            else:  # days of consumption in one interval: coarser, and still below 2**30
                self._flow = tenths * 36 // (ms // 1000) * 10
            self._flow_at = now
            self._flow_total = self.total
        out[0] = self._start + self.total * self._k
        out[1] = self._flow

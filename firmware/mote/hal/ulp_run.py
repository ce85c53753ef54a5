"""The count that the ULP coprocessor keeps, as long as its program runs (mote.hal.ulp, which puts it there and says what the words mean)."""

from machine import mem32
from micropython import const

MOST = const(16000)  # pulses ahead that it can be told to wake at
LIVES = const(64)
PERIOD_US = const(10000)
_EDGES = const(0x50000000)  # RTC slow memory on the data bus
_HIGH = const(0x50000004)
_LIFE = const(0x5000000C)
_TARGET = const(0x50000010)
_ENTRY = const(20)


class Running:
    """value(), life, wake_at() of a count that was begun in an earlier boot and goes on. For boots out of deep sleep."""

    modulus = 1 << 24  # pulses; at ten a second 19 days without a look
    fresh = False

    def __init__(self, pin=-1):
        self.pin = pin
        self.life = mem32[_LIFE] % LIVES
        self._run(PERIOD_US)

    def _run(self, period_us):
        from esp32 import ULP, wake_on_ulp  # other chips have neither

        wake_on_ulp(True)  # this also keeps RTC slow memory and the coprocessor in deep sleep
        ulp = ULP()
        # The timer is set in every boot: nobody promises that it survived. On the S3 this may end a run in its midst, which costs no
        # count, because a level and its count are one store and a missing carry is made up.
        ulp.set_wakeup_period(0, period_us)
        ulp.run(_ENTRY)
        self.wake_at(MOST)

    def wake_at(self, pulses):
        """Wake the node from a deep sleep once so many more pulses (1..MOST) are counted. A start, or MOST, takes it back."""
        mem32[_TARGET] = (mem32[_EDGES] + 2 * pulses - 1 | 1) & 0xFFFF

    def value(self):
        """Pulses modulo `modulus`. Right at any instant, also between the program's two stores. No allocation."""
        high = mem32[_HIGH]  # before EDGES: what carries in between is seen as a carry that is due
        low = mem32[_EDGES]
        high += (low >> 15 ^ high) & 1
        return ((high & 0x3FF) << 15 | low & 0x7FFF) - 1 >> 1 & 0xFFFFFF

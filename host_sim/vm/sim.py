"""Back door of the virtual board for tests that run in the VM: `import sim`.

Time: now_us(), advance_ms(n), power_cut_in(us). Hardware: attach_i2c/uart/i2s/pulse(..., chip), values[...] feeds
sense(), sense and now_us go into a chip's constructor. Reset is what machine.reset() and deepsleep() raise here.
"""

import sim_clock
import sim_hw
from sim_clock import Deadlock  # noqa: F401
from sim_hw import now_us, sense, values  # noqa: F401
from sim_link import Reset  # noqa: F401


def advance_ms(n):
    """Let n milliseconds pass (synchronously; events run)."""
    sim_clock.advance(sim_clock.now + n * 1000)


def power_cut_in(us):
    """Reset("X", 0) rises as soon as `us` more microseconds have passed, whatever runs then."""
    sim_clock.cut_at = sim_clock.now + us


def no_power_cut():
    sim_clock.cut_at = sim_clock.NEVER


def set_unix_time(t):
    """Set the node's RTC to Unix second t, without the firmware doing it."""
    sim_clock.rtc_off = (t - sim_clock.EPOCH_2000) * 1000000 - sim_clock.now


def attach_i2c(bus, address, chip):
    sim_hw.i2c[bus, address] = chip


def attach_uart(bus, chip):
    sim_hw.uart[bus] = chip


def attach_i2s(bus, chip):
    sim_hw.i2s[bus] = chip


def attach_pulse(pin, chip):
    sim_hw.pulse[pin] = chip


def attach_analog(pin, volts):
    """volts: function() -> float."""
    sim_hw.analog[pin] = volts

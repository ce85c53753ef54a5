"""Back door of the virtual board for tests that run in the VM: `import sim`.

Time: now_us(), advance_ms(n), power_cut_in(us), reboot(cause, after_ms). Storage: erase_nvs(). Hardware: attach_i2c/uart/i2s/pulse(..., chip), values[...] feeds
sense() (a number, or a function of the time in us), sense and now_us go into a chip's constructor. Reset is what machine.reset() and deepsleep() raise here.
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


def erase_nvs():
    """What the port does at start when NVS has no free page or an older version: all of it is gone (platform: nvs_flash_init)."""
    import esp32
    import sim_link

    esp32._store.clear()
    sim_link.send("N", "{}")


def reboot(cause, after_ms=0):
    """In one VM, what lies between two boots: after_ms pass, all that a reset of this cause (machine.*_RESET) ends is gone.

    Objects of the test live on: make them anew, as boot and main would. Flash, NVS and the world stay.
    """
    import sys

    import esp32
    import machine
    import sim_radio

    sim_clock._events[:] = [e for e in sim_clock._events if e in sim_radio.chip.timers]
    sim_clock.now += after_ms * 1000 + 300000
    sim_clock.boot = sim_clock.now
    esp32.PCNT._units.clear()
    esp32._wake.update({"ext0": None, "ext1": (), "ulp": False, "touch": False})
    machine.Pin._all.clear()
    machine.WDT._event = None
    machine._state.update({"cause": cause, "woke": False})
    sim_hw.hold_digital = False
    ulp = sys.modules.get("sim_ulp")
    if cause == machine.PWRON_RESET:
        machine.fill_rtc(b"")
        sim_clock.rtc_off = -sim_clock.now
        sim_hw.held.clear()
        sim_radio.chip.power_on()
        if ulp is not None:
            ulp.power_on()
    if ulp is not None:
        ulp.keep_in_sleep = False


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

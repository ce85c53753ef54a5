"""Reset and its causes."""

import esp32
import machine
from micropython import const

_EDGES = const(0x50000000)  # RTC slow memory, see mote.hal.ulp
_TARGET = const(0x50000010)

DEEPSLEEP = machine.DEEPSLEEP_RESET
CAUSES = {
    machine.PWRON_RESET: "power-on",  # brown-out and the EN button too: the port cannot tell them apart
    machine.HARD_RESET: "hard",
    machine.WDT_RESET: "watchdog",
    machine.DEEPSLEEP_RESET: "deep sleep",
    machine.SOFT_RESET: "soft",
}


def cause():
    """The port's number of the reset cause (keys of CAUSES; 0: unknown)."""
    return machine.reset_cause()


def powered_on():
    """True after power-on, brown-out or the EN button, which the port cannot tell apart."""
    return machine.reset_cause() == machine.PWRON_RESET


def sleep(ms, high=None):
    """Sleep deeply for ms of the board's clock, then start again with cause "deep sleep". Never returns on a board.

    high: pin that stays high meanwhile (a falling chip select would wake an SX126x: 0.6 mA instead of 0.6 uA, datasheet), or None.
    """
    if high is not None:
        machine.Pin(high, machine.Pin.OUT, value=1, hold=True)  # pyright: ignore[reportCallIssue]  (since v1.19)
        if hasattr(esp32, "gpio_deep_sleep_hold"):  # chips that hold single pads need none, and have none
            esp32.gpio_deep_sleep_hold(True)  # pyright: ignore[reportAttributeAccessIssue]
    machine.deepsleep(max(1, ms))  # 0 would never end


def restart(after_ms=0):
    """Reset, or sleep deeply for after_ms and start again. Never returns on a board."""
    if after_ms:
        if hasattr(esp32, "wake_on_ulp"):  # what counts pulses goes on counting (mote.hal.ulp), and ends no pause
            machine.mem32[_TARGET] = machine.mem32[_EDGES] + 0x7FFF & 0xFFFF
            esp32.wake_on_ulp(True)
        machine.deepsleep(after_ms)
    machine.reset()

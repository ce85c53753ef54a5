"""Reset and its causes."""

import machine

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


def restart(after_ms=0):
    """Reset, or sleep deeply for after_ms and start again. Never returns on a board."""
    if after_ms:
        machine.deepsleep(after_ms)
    machine.reset()

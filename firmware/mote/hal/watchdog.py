"""The task watchdog. It cannot be stopped once started."""

from machine import WDT


def start(timeout_ms):
    """Start the watchdog; feed() of the returned object within timeout_ms, or the board resets with cause "watchdog"."""
    return WDT(timeout=timeout_ms)

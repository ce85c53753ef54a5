"""Ctrl-C during a run: noted at once, raised where a wait ends and nothing is half done.

Python raises KeyboardInterrupt between any two steps: with a lock taken and not noted yet, or a process started that no one
will end. A run takes it at places of its choice instead. A second Ctrl-C is raised where it finds us.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

STEP_S = 0.05

_asked = False


class Ending(Protocol):
    """What is needed of a subprocess.Popen."""

    def poll(self) -> int | None: ...


@contextmanager
def noted() -> Iterator[None]:
    """Within it, the first SIGINT waits for the next check(). No change outside the main thread, or where SIGINT is not Python's own."""
    global _asked
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    _asked = False
    signal.signal(signal.SIGINT, _note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _asked = False


def _note(number: int, frame: FrameType | None) -> None:
    global _asked
    if _asked:
        signal.default_int_handler(number, frame)
    _asked = True


def check() -> None:
    """Raise KeyboardInterrupt if one was asked for; once, so that what ends the run is not interrupted by the same."""
    global _asked
    if _asked:
        _asked = False
        raise KeyboardInterrupt


def wait_event(event: threading.Event, wait_s: float) -> bool:
    """Event.wait(), and check() meanwhile."""
    deadline = time.monotonic() + wait_s
    while not event.wait(STEP_S):
        check()
        if time.monotonic() > deadline:
            return False
    return True


def wait_end(process: Ending, wait_s: float) -> int:
    """Return the exit code of a process; check() meanwhile. Raises subprocess.TimeoutExpired."""
    deadline = time.monotonic() + wait_s
    while (code := process.poll()) is None:
        check()
        if time.monotonic() > deadline:
            raise subprocess.TimeoutExpired("process", wait_s)
        time.sleep(STEP_S)
    return code

"""sd_notify(3) without a library: READY, STOPPING, STATUS and WATCHDOG for systemd or whoever started us.

Never waits: a supervisor that does not read its socket must not stop the loop that works. What it has no room for is dropped; of READY,
RELOADING and STOPPING, which are said once, the newest is said again at the next call.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

STATUS_S = 5.0  # between two STATUS lines that say the same kind of thing
STATES = ("READY=", "RELOADING=", "STOPPING=")


def notify(text: str) -> bool:
    """Send lines like "READY=1" to NOTIFY_SOCKET; False when there is none, it does not listen, or it has no room."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return False
    if path.startswith("@"):
        path = "\0" + path[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as s:
            s.sendto(text.encode("utf-8", "replace"), path)
    except OSError:
        return False
    return True


class Notifier:
    """What one process says. dropped: messages that found no room. send: for tests."""

    def __init__(self, send: Callable[[str], bool] = notify, clock: Callable[[], float] = time.monotonic) -> None:
        self._send, self._clock = send, clock
        self._wanted = bool(os.environ.get("NOTIFY_SOCKET"))
        self._owed = ""  # the state that was not taken
        self._status, self._status_at, self._kind = "", float("-inf"), ""
        self.dropped = 0

    def say(self, text: str) -> bool:
        """Send lines now; a state among them that is not taken is kept for again()."""
        taken = self._send(text)
        if "\nSTATUS=" in text:
            self._status = text.partition("\nSTATUS=")[2]
        state = text.startswith(STATES)
        if taken and state:
            self._owed = ""
        elif not taken:
            self.dropped += self._wanted
            if state and self._wanted:
                self._owed = text
        return taken

    def again(self) -> None:
        """Say a state again that was not taken."""
        if self._owed:
            self.say(self._owed)

    def status(self, line: str, kind: str = "") -> None:
        """Say STATUS when it has changed: at once when its kind has (codes of problems), else STATUS_S after the last one at the earliest."""
        now = self._clock()
        if line == self._status or kind == self._kind and now - self._status_at < STATUS_S:
            return
        self._status, self._status_at, self._kind = line, now, kind
        self.say(f"STATUS={line}")


def watchdog_s() -> float | None:
    """Return how often WATCHDOG=1 is due (half of WATCHDOG_USEC), or None when no one watches this process."""
    pid = os.environ.get("WATCHDOG_PID")
    if pid and pid != str(os.getpid()):
        return None
    try:
        return int(os.environ["WATCHDOG_USEC"]) / 2e6
    except (KeyError, ValueError):
        return None

"""sd_notify(3) without a library: READY, STOPPING, STATUS and WATCHDOG for systemd or whoever started us."""

from __future__ import annotations

import os
import socket


def notify(text: str) -> bool:
    """Send lines like "READY=1" to NOTIFY_SOCKET; False when there is none or it does not listen."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return False
    if path.startswith("@"):
        path = "\0" + path[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
            s.sendto(text.encode(), path)
    except OSError:
        return False
    return True


def watchdog_s() -> float | None:
    """Return how often WATCHDOG=1 is due (half of WATCHDOG_USEC), or None when nobody watches this process."""
    pid = os.environ.get("WATCHDOG_PID")
    if pid and pid != str(os.getpid()):
        return None
    try:
        return int(os.environ["WATCHDOG_USEC"]) / 2e6
    except (KeyError, ValueError):
        return None

"""Whether another gateway lives under our id at a broker: each process publishes a random `instance` in gw/<gw>/info, and reads that topic.

What stands there when a process begins is its predecessor's. Once it has published its own, any other is somebody who is there now; but
what is retained there and began before this process may also be of ours, when the broker remembers an older time. Who lives says it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

TOLD_S = 600.0
MAX_INFO = 1 << 16


class _Info(msgspec.Struct):
    instance: str = ""
    started: str = ""
    version: str = ""


_decode = msgspec.json.Decoder(_Info).decode


class Twin:
    """What is known of it at one broker."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ours, self._since = "", ""
        self._other: _Info | None = None
        self._heard_at = float("-inf")

    def published(self, instance: str, started: str = "") -> None:
        """Our own info has gone out. started: RFC 3339 UTC, as in the info."""
        self._ours, self._since = instance, started

    def heard(self, payload: bytes, retained: bool = False) -> bool:
        """Take what stands on gw/<gw>/info (retained), or is published there; True when it shows another gateway, for the first time in a while."""
        if not self._ours or not payload or len(payload) > MAX_INFO:
            return False
        try:
            info = _decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False  # not of a gateway
        if not info.instance or info.instance == self._ours or retained and info.started < self._since:
            return False
        now = self._clock()
        first = now - self._heard_at >= TOLD_S
        self._other, self._heard_at = info, now
        return first

    def other(self) -> str:
        """Return what is known of the other, "" when there is none, or none was heard of for TOLD_S."""
        if self._other is None or self._clock() - self._heard_at >= TOLD_S:
            return ""
        return f"started {self._other.started[:30]}, version {self._other.version[:20]}"

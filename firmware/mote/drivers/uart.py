"""Bytes from a UART without allocating: poll, read into a fixed buffer, hand them out one by one."""

from asyncio import sleep_ms
from time import ticks_add, ticks_diff, ticks_ms

POLL_MS = 20


class Bytes:
    """The bytes a UART has received, through one buffer of `size`; `pos` .. `end` are the ones not taken yet."""

    def __init__(self, uart, size=64):
        self._uart = uart
        self.buf = bytearray(size)
        self.pos = self.end = 0

    def drop(self):
        """Throw away everything received so far. Bounded: a line that babbles faster than we read ends it too."""
        self.pos = self.end = 0
        for _ in range(16):
            if not self.fill():
                break
        self.pos = self.end = 0

    def fill(self):
        """Read what is there; return True when there is something to take."""
        n = self._uart.any()
        n = self._uart.readinto(self.buf, min(n, len(self.buf))) if n else 0
        self.pos = 0
        self.end = n or 0
        return self.end > 0

    async def wait(self, until):
        """Wait until a byte can be taken; False when `until` (ticks_ms) has passed, even on a line that babbles for ever."""
        while ticks_diff(until, ticks_ms()) > 0:
            if self.pos < self.end or self.fill():
                return True
            await sleep_ms(POLL_MS)
        return False


def within(ms):
    """Return the deadline `ms` from now, for wait()."""
    return ticks_add(ticks_ms(), ms)

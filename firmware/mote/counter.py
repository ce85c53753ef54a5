"""The frame counter: a (key, counter) pair never seals two plaintexts (G2).

Counters are reserved in blocks of 64 in a store that keeps two copies (mote.twice); a counter is handed out only under a
ceiling that both copies already hold. After a reset counting resumes at the ceiling: up to 63 counters are left unused.
"""

from micropython import const
from mote.errors import NeedsKey

BLOCK = const(64)
_LAST = const(0x3FFFFFBF)  # stays a small int, and within NVS's i32; 2**30 frames are 30 years at one a second


class Counter:
    """take() -> the next counter. store: get() -> int or None, put(int), doubt (see mote.twice.Twice)."""

    def __init__(self, store):
        """Raises NeedsKey when the store has lost the counter: only a new key makes counting safe again."""
        self._store = store
        ceiling = store.get()
        if ceiling is None:
            raise NeedsKey("no counter")
        if store.doubt and ceiling > 1:
            ceiling += BLOCK
        self.next = self._ceiling = max(ceiling, 1)

    def go_on(self, counter):
        """Count on from `counter`, which RTC memory kept over a deep sleep. Only a value of the block reserved last is believed."""
        if self._ceiling - BLOCK <= counter < self._ceiling and not self._store.doubt:
            self.next = counter

    def take(self):
        """Return a counter that was never returned before. Raises OSError (cannot reserve), NeedsKey (used up)."""
        c = self.next
        if c >= self._ceiling:
            if c > _LAST:
                raise NeedsKey("counter used up")
            self._store.put(c + BLOCK)
            self._ceiling = c + BLOCK
        self.next = c + 1
        return c

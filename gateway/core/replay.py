"""Which counters of a node have been committed: the next one, and the runs that are still missing.

A window of a few hundred counters would lose data: an alarm raised on the third day of an outage overtakes hundreds of stored
reports (DECISIONS.md). Runs cost memory only where something is missing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

import msgspec

WINDOW = 16384
MAX_RUNS = 512
BITMAP_BYTES = 8

ACK_NEXT, ACK_MISSING, ACK_SINCE = 1, 2, 8


class Replay(msgspec.Struct, frozen=True):
    """next: one more than the highest counter accepted. missing: sorted half-open runs [start, stop) below `next`.

    floor: counters below it are forgotten, they count as too old; 1 <= floor <= next. At most MAX_RUNS runs, all of them
    inside the last WINDOW counters.
    """

    next: int = 1
    floor: int = 1
    missing: tuple[tuple[int, int], ...] = ()

    def lacks(self, counter: int) -> bool:
        """True when this counter would be accepted."""
        return counter >= self.next or self._run_of(counter) is not None

    def too_old(self, counter: int) -> bool:
        """True for a counter of which nothing is known any more."""
        return counter < self.floor

    def _run_of(self, counter: int) -> int | None:
        i = bisect_right(self.missing, counter, key=lambda run: run[0]) - 1
        return i if i >= 0 and self.missing[i][0] <= counter < self.missing[i][1] else None

    def accept(self, counter: int) -> Replay | None:
        """Return the state after `counter`, or None if it was accepted before or is too old."""
        if counter >= self.next:
            runs = (*self.missing, (self.next, counter)) if counter > self.next else self.missing
            return _bounded(counter + 1, self.floor, runs)
        i = self._run_of(counter)
        if i is None:
            return None
        start, stop = self.missing[i]
        rest = tuple(run for run in ((start, counter), (counter + 1, stop)) if run[0] < run[1])
        return _bounded(self.next, self.floor, (*self.missing[:i], *rest, *self.missing[i + 1 :]))

    def ack(self, answering: int | None = None) -> dict[int, int | bytes]:
        """Return the ack keys of a downlink: {1: next, 2: bitmap of missing, 8: since}, absent where they say nothing.

        The bitmap reaches back at most 64 counters, `since` tells where knowledge ends. When that would not cover the
        frame being answered (a repeat from before an older gap), the ack is built round that frame instead.
        """
        ack = self._ack_below(self.next)
        if (
            answering is None
            or answering >= int(ack.get(ACK_SINCE, 0))
            or answering < self.floor
            or self.lacks(answering)
        ):
            return ack
        above = next(start for start, _ in self.missing if start > answering)
        return self._ack_below(above)

    def _ack_below(self, top: int) -> dict[int, int | bytes]:
        low = max(top - 8 * BITMAP_BYTES, 0)
        bitmap = bytearray(BITMAP_BYTES)
        since = self.floor if self.floor > 1 else 0
        for start, stop in reversed(self.missing):
            if start >= top:
                continue
            for counter in range(max(start, low), min(stop, top)):
                back = top - 1 - counter
                bitmap[back >> 3] |= 0x80 >> (back & 7)
            if start < low:  # from here down nothing more can be flagged
                since = min(stop, low)
                break
        while since == top - 8 * len(bitmap) > 0 and bitmap and bitmap[-1] == 0xFF:
            del bitmap[-1]  # eight missing counters at the end are said shorter by a higher `since`
            since += 8
        while bitmap and not bitmap[-1]:
            del bitmap[-1]
        ack: dict[int, int | bytes] = {ACK_NEXT: top}
        if bitmap:
            ack[ACK_MISSING] = bytes(bitmap)
        if since:
            ack[ACK_SINCE] = since
        return ack


def _bounded(next_: int, floor: int, runs: Iterable[tuple[int, int]]) -> Replay:
    """Forget what lies outside the window or beyond the number of runs, oldest first."""
    floor = max(floor, next_ - WINDOW)
    kept = tuple((max(start, floor), stop) for start, stop in runs if stop > floor)
    if len(kept) > MAX_RUNS:
        floor = max(floor, kept[-MAX_RUNS - 1][1])
        kept = kept[-MAX_RUNS:]
    return Replay(next_, floor, kept)


def candidates(replay: Replay, counter: int, is_long: bool) -> tuple[int, ...]:
    """Return the full counters a header may mean, most likely first; at most two (WIRE.md section 1).

    A 16-bit one means the nearest above last - 64; or 65536 less, which a backlog behind an alarm needs.
    """
    if is_long:
        return (counter,) if counter else ()
    base = max(1, replay.next - 64)
    first = base + (counter - base & 0xFFFF)
    second = first - 65536
    if second < 1:
        return (first,)
    return (second, first) if second < replay.next and replay.lacks(second) else (first, second)

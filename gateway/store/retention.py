"""What is dropped and when: by age always, by size when the store is too big. In small steps between the commits of the writer thread.

Raw frames, rows, and events that every output has taken go by age. Alarms move from the spool to a table of their own. At the size limit
history goes first, the oldest half of what there is at a time, rows before the frames they were made of; then, and only then, what an output
has not taken: oldest bulk first, alarms last, counted and told as a gap. What is oldest at the limit is told by the data: no clock is asked.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from gateway.config.store import StoreConfig
from gateway.core.airtime import HOUR_US
from gateway.store import wal
from gateway.store.schema import GAP

CHUNK = 1000  # rows of one step: some ms of the writer thread
NODES = 20  # nodes looked at in one step, when there is nothing to drop
STEP_S = 0.02  # of the writer thread in one call: alarms wait no longer
LOG_SHARE = 8  # of the limit, the log file counts as no more than this part: dropping history does not end who reads it
TARGET = 0.9  # of the size limit, so that the next row does not start all over again
DAY, HOUR, MB = 86_400.0, 3600.0, 1 << 20

Tell = Callable[[sqlite3.Connection, str, Mapping[str, Any]], int]
Drop = Callable[[sqlite3.Connection, int, float], tuple[int, float | None]]


class _Seen:
    """How old the oldest is that a walk over the nodes has left."""

    oldest = float("inf")


class Gap(msgspec.Struct):
    """What was dropped before every output had it: numbers of events, first and last reception, outputs that had not taken the last."""

    events: int = 0
    alarms: int = 0
    since: float = 0.0
    until: float = 0.0
    outputs: tuple[str, ...] = ()


class Retention:
    """step() does some STEP_S of a pass within the caller's transaction; False: the pass is over, the next call begins another.

    tell(db, reason, told): how the store says something of itself. dropped: events lost to the size limit, since the start.
    """

    def __init__(self, keep: StoreConfig, outputs: Sequence[str], tell: Tell, path: Path | None = None) -> None:
        self.keep, self.outputs, self._tell, self._path = keep, tuple(outputs), tell, path
        self._work: Iterator[int] | None = None
        self.dropped = 0

    @property
    def idle(self) -> bool:
        """True between two passes."""
        return self._work is None

    def step(self, db: sqlite3.Connection, now: float) -> bool:
        """Continue the pass; `now` counts for a new one."""
        if self._work is None:
            self._work = self._pass(db, now)
        deadline = time.monotonic() + STEP_S
        while time.monotonic() < deadline:
            if next(self._work, None) is None:
                self._work = None
                return False
        return True

    def too_big(self, db: sqlite3.Connection) -> bool:
        """True when the size limit is passed."""
        return self._size(db) > self.keep.size_mb * MB

    def _size(self, db: sqlite3.Connection) -> int:
        log = 0 if self._path is None else wal.size(self._path)
        return used(db) + min(log, self.keep.size_mb * MB // LOG_SHARE)

    def _pass(self, db: sqlite3.Connection, now: float) -> Iterator[int]:
        k = self.keep
        db.execute("DELETE FROM airtime WHERE start_us < ?", (int(now * 1e6) - 26 * HOUR_US,))
        self._report(db)  # of a pass that was cut
        yield 0
        yield from self._taken(db, now - k.spool_hours * HOUR)
        seen = _Seen()
        yield from self._by_node(db, "rows", now - k.rows_days * DAY, _drop_rows, seen)
        yield from self._by_node(db, "frames", now - k.frames_days * DAY, _drop_frames, seen)
        yield from self._alarms(db, now - k.alarms_days * DAY)
        if self.too_big(db):
            yield from self._shrink(db, now, seen.oldest)

    def _shrink(self, db: sqlite3.Connection, now: float, oldest: float) -> Iterator[int]:
        k = self.keep
        small = k.size_mb * MB * TARGET
        newest = newest_reception(db) or now
        oldest = max(min(oldest, newest), newest - max(k.frames_days, k.rows_days, 1) * DAY)
        for before in _cuts(newest, newest - oldest):
            yield from self._taken(db, before)
            for table, drop in (("rows", _drop_rows), ("frames", _drop_frames)):
                if self._size(db) > small:
                    yield from self._by_node(db, table, before, drop, _Seen())
            if self._size(db) <= small:
                return
        for before in _cuts(newest, k.alarms_days * DAY):
            yield from self._alarms(db, before)
            if self._size(db) <= small:
                return
        for express in (0, 1):
            while self._size(db) > small and self._give_up(db, express):
                yield 0
        self._report(db)

    def _taken(self, db: sqlite3.Connection, before: float) -> Iterator[int]:
        """Drop the front of the spool as far as every output has it; its alarms stay, elsewhere."""
        while True:
            front = db.execute("SELECT seq, done, received FROM spool ORDER BY seq LIMIT ?", (CHUNK,)).fetchall()
            last = 0
            for seq, done, received in front:
                if not done or received >= before:
                    break
                last = seq
            if not last:
                return
            db.execute("INSERT OR REPLACE INTO alarms SELECT seq, received, body FROM spool WHERE express AND seq <= ?", (last,))  # fmt: skip
            yield db.execute("DELETE FROM spool WHERE seq <= ?", (last,)).rowcount

    def _by_node(self, db: sqlite3.Connection, table: str, before: float, drop: Drop, seen: _Seen) -> Iterator[int]:
        node, looked = -1, 0
        while True:
            node = db.execute(f"SELECT min(node) FROM {table} WHERE node > ?", (node,)).fetchone()[0]
            if node is None:
                return
            looked += 1
            n, left = drop(db, node, before)
            while n == CHUNK:
                yield n
                n, left = drop(db, node, before)
            if left is not None:
                seen.oldest = min(seen.oldest, left)
            if n or looked % NODES == 0:
                yield n

    def _alarms(self, db: sqlite3.Connection, before: float) -> Iterator[int]:
        while True:
            n = db.execute(
                "DELETE FROM alarms WHERE seq IN (SELECT seq FROM (SELECT seq, received FROM alarms ORDER BY seq LIMIT ?) WHERE received < ?)",
                (CHUNK, before),
            ).rowcount
            if not n:
                return
            yield n

    def _give_up(self, db: sqlite3.Connection, express: int) -> int:
        """Drop the oldest events of one lane that somebody still waits for, and note the gap in the same transaction."""
        found = db.execute(
            "SELECT seq, received FROM spool WHERE express = ? AND done = 0 ORDER BY seq LIMIT ?", (express, CHUNK)
        ).fetchall()
        if not found:
            return 0
        db.execute("DELETE FROM spool WHERE express = ? AND done = 0 AND seq <= ?", (express, found[-1][0]))
        gap = _gap(db)
        gap.events += len(found)
        gap.alarms += len(found) * express
        gap.since = min([r for _, r in found] + ([gap.since] if gap.since else []))
        gap.until = max(gap.until, *(r for _, r in found))
        behind = dict.fromkeys(self.outputs, 0) | dict(db.execute("SELECT output, seq FROM cursors").fetchall())
        gap.outputs = tuple(sorted({*gap.outputs, *(o for o in self.outputs if behind[o] < found[-1][0])}))
        db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (GAP, msgspec.json.encode(gap)))
        self.dropped += len(found)
        return len(found)

    def _report(self, db: sqlite3.Connection) -> None:
        gap = _gap(db)
        if gap.events:
            self._tell(db, "size_limit", msgspec.to_builtins(gap))
            db.execute("DELETE FROM notes WHERE key = ?", (GAP,))


def _cuts(newest: float, span: float) -> Iterator[float]:
    """Yield before when to drop: ever nearer to the newest, down to a minute; at last whatever there is, also what a wrong clock took."""
    while span > 60:
        span /= 2
        yield newest - span
    yield float("inf")


def used(db: sqlite3.Connection) -> int:
    """Return the bytes in use; pages that were emptied do not count, they are used again."""
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _gap(db: sqlite3.Connection) -> Gap:
    row = db.execute("SELECT body FROM notes WHERE key = ?", (GAP,)).fetchone()
    return Gap() if row is None else msgspec.json.decode(row[0], type=Gap)


def newest_reception(db: sqlite3.Connection) -> float | None:
    """Return when the newest of what is stored was received, by the clock of then; None for a store that has heard no one."""
    found = [
        row[0]
        for table in ("spool", "alarms")
        for row in db.execute(f"SELECT received FROM {table} ORDER BY seq DESC LIMIT 1")
    ]
    if not found:  # some hours without a frame have emptied the spool: the last counter of each node says it
        found = [row[0] for row in db.execute(
            "SELECT f.received FROM nodes AS n JOIN frames AS f ON f.node = n.node WHERE (f.epoch, f.counter) ="
            " (SELECT epoch, counter FROM frames WHERE node = n.node ORDER BY epoch DESC, counter DESC LIMIT 1)"
        )]  # fmt: skip
    return max(found, default=None)


def _drop_frames(db: sqlite3.Connection, node: int, before: float) -> tuple[int, float | None]:
    """Drop the oldest counters of a node as far as they are old; remember up to where. Returns how many, and how old the next one is."""
    found = db.execute(
        "SELECT epoch, counter, received FROM frames WHERE node = ? ORDER BY epoch, counter LIMIT ?", (node, CHUNK)
    ).fetchall()
    old: list[tuple[int, int]] = []
    left = None
    for epoch, counter, received in found:
        if received >= before:
            left = received
            break
        old.append((epoch, counter))
    if not old:
        return 0, left
    db.executemany(
        "INSERT INTO forgotten VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET below = max(below, excluded.below)",
        [(node, epoch, below) for epoch, below in {e: c + 1 for e, c in old}.items()],
    )
    n = db.execute("DELETE FROM frames WHERE node = ? AND (epoch, counter) <= (?, ?)", (node, *old[-1])).rowcount
    return n, left


def _drop_rows(db: sqlite3.Connection, node: int, before: float) -> tuple[int, float | None]:
    n = db.execute(
        "DELETE FROM rows WHERE (node, epoch, counter, row) IN (SELECT node, epoch, counter, row FROM rows WHERE node = ? AND t < ? LIMIT ?)",
        (node, before, CHUNK),
    ).rowcount
    return n, db.execute("SELECT min(t) FROM rows WHERE node = ?", (node,)).fetchone()[0] if n < CHUNK else None

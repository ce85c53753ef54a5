"""What is dropped and when: by age always, by size when the store is too big. In small steps between the commits of the writer thread.

Raw frames, rows, and events that every output has taken go by age. Alarms move from the spool to a table of their own. At the size limit
history goes first, the oldest half of its age at a time; then, and only then, what an output has not taken: oldest bulk first, alarms last, counted
and told as a gap.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from gateway.config.store import StoreConfig
from gateway.core.airtime import HOUR_US
from gateway.store.schema import GAP

CHUNK = 1000  # rows of one step: some ms of the writer thread
NODES = 200  # nodes looked at in one step
TARGET = 0.9  # of the size limit, so that the next row does not start all over again
DAY, HOUR, MB = 86_400.0, 3600.0, 1 << 20

Tell = Callable[[sqlite3.Connection, str, Mapping[str, Any]], int]


class Gap(msgspec.Struct):
    """What was dropped before every output had it: numbers of events, first and last reception, outputs that had not taken the last."""

    events: int = 0
    alarms: int = 0
    since: float = 0.0
    until: float = 0.0
    outputs: tuple[str, ...] = ()


class Retention:
    """step() does one bounded piece of a pass within the caller's transaction; False: the pass is over, the next call begins another.

    tell(db, reason, told): how the store says something of itself. dropped: events lost to the size limit, since the start.
    """

    def __init__(self, keep: StoreConfig, outputs: Sequence[str], tell: Tell) -> None:
        self._keep, self.outputs, self._tell = keep, tuple(outputs), tell
        self._work: Iterator[int] | None = None
        self.dropped = 0

    def step(self, db: sqlite3.Connection, now: float) -> bool:
        """Go on with the pass; `now` counts for a new one."""
        if self._work is None:
            self._work = self._pass(db, now)
        if next(self._work, None) is None:
            self._work = None
            return False
        return True

    def _pass(self, db: sqlite3.Connection, now: float) -> Iterator[int]:
        k = self._keep
        db.execute("DELETE FROM airtime WHERE start_us < ?", (int(now * 1e6) - 26 * HOUR_US,))
        self._report(db)  # of a pass that was cut
        yield 0
        yield from self._aged(db, now, k.frames_days * DAY, k.rows_days * DAY, k.spool_hours * HOUR)
        yield from self._alarms(db, now - k.alarms_days * DAY)
        limit = k.size_mb * MB
        if used(db) <= limit:
            return
        age = max(k.frames_days, k.rows_days, 1) * DAY
        while used(db) > limit * TARGET and age > 60:
            age /= 2
            yield from self._aged(db, now, min(age, k.frames_days * DAY), min(age, k.rows_days * DAY), min(age, k.spool_hours * HOUR))  # fmt: skip
        age = k.alarms_days * DAY
        while used(db) > limit * TARGET and age > 60:
            age /= 2
            yield from self._alarms(db, now - age)
        for express in (0, 1):
            while used(db) > limit * TARGET and self._give_up(db, express):
                yield 0
        self._report(db)

    def _aged(self, db: sqlite3.Connection, now: float, frames: float, rows: float, spool: float) -> Iterator[int]:
        yield from self._taken(db, now - spool)
        yield from self._by_node(db, "frames", now - frames, _drop_frames)
        yield from self._by_node(db, "rows", now - rows, _drop_rows)

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

    def _by_node(
        self, db: sqlite3.Connection, table: str, before: float, drop: Callable[[sqlite3.Connection, int, float], int]
    ) -> Iterator[int]:
        node, seen = -1, 0
        while True:
            node = db.execute(f"SELECT min(node) FROM {table} WHERE node > ?", (node,)).fetchone()[0]
            if node is None:
                return
            seen += 1
            while (n := drop(db, node, before)) == CHUNK:
                yield n
            if n or seen % NODES == 0:
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


def used(db: sqlite3.Connection) -> int:
    """Return the bytes in use; pages that were emptied do not count, they are used again."""
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _gap(db: sqlite3.Connection) -> Gap:
    row = db.execute("SELECT body FROM notes WHERE key = ?", (GAP,)).fetchone()
    return Gap() if row is None else msgspec.json.decode(row[0], type=Gap)


def _drop_frames(db: sqlite3.Connection, node: int, before: float) -> int:
    """Drop the oldest counters of a node as far as they are old; remember up to where."""
    found = db.execute(
        "SELECT epoch, counter, received FROM frames WHERE node = ? ORDER BY epoch, counter LIMIT ?", (node, CHUNK)
    ).fetchall()
    old: list[tuple[int, int]] = []
    for epoch, counter, received in found:
        if received >= before:
            break
        old.append((epoch, counter))
    if not old:
        return 0
    db.executemany(
        "INSERT INTO forgotten VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET below = max(below, excluded.below)",
        [(node, epoch, below) for epoch, below in {e: c + 1 for e, c in old}.items()],
    )
    return db.execute("DELETE FROM frames WHERE node = ? AND (epoch, counter) <= (?, ?)", (node, *old[-1])).rowcount


def _drop_rows(db: sqlite3.Connection, node: int, before: float) -> int:
    return db.execute(
        "DELETE FROM rows WHERE (node, epoch, counter, row) IN (SELECT node, epoch, counter, row FROM rows WHERE node = ? AND t < ? LIMIT ?)",
        (node, before, CHUNK),
    ).rowcount

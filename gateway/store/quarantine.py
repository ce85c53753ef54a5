"""Frames that no event could be made of, kept for whoever looks into it. Each reason has places of its own.

What needs no key to be written (bad_version) is taken at a bounded rate too: a stranger can fill its own places and no one else's.
"""

from __future__ import annotations

import sqlite3
from collections import Counter

PLACES = 1000
PER_MINUTE = {"bad_version": 10}


class Quarantine:
    """keep() in the transaction of the caller. skipped: frames not kept because their reason had its share of the minute."""

    def __init__(self) -> None:
        self.skipped = 0
        self._held: Counter[str] | None = None
        self._minutes: dict[str, tuple[int, int]] = {}

    def may(self, reason: str, now: float) -> bool:
        """Take one of the places of this minute; asked before anything is queued."""
        most = PER_MINUTE.get(reason)
        if most is None:
            return True
        minute, n = self._minutes.get(reason, (0, 0))
        if minute != int(now // 60):
            minute, n = int(now // 60), 0
        self._minutes[reason] = minute, n + 1
        self.skipped += n >= most
        return n < most

    def keep(self, db: sqlite3.Connection, data: bytes, reason: str, received: float) -> None:
        """Keep a frame; the oldest of the same reason makes room."""
        if self._held is None:
            self._held = Counter(dict(db.execute("SELECT reason, count(*) FROM quarantine GROUP BY reason").fetchall()))
        db.execute("INSERT INTO quarantine (received, reason, data) VALUES (?, ?, ?)", (received, reason, data))
        self._held[reason] += 1
        if (extra := self._held[reason] - PLACES) > 0:
            self._held[reason] -= db.execute(
                "DELETE FROM quarantine WHERE id IN (SELECT id FROM quarantine WHERE reason = ? ORDER BY id LIMIT ?)",
                (reason, extra),
            ).rowcount

    def forget(self) -> None:
        """A transaction was rolled back: what is held is counted again."""
        self._held = None

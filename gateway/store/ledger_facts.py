"""The facts of each subject as the store holds them: folded by the writer in the transaction of the event that changes them."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict

import msgspec
import structlog

from gateway.core.current import NOTHING, Current, fold, subject_of
from gateway.core.model import Event

CACHE = 2048  # subjects whose facts the writer keeps decoded

log = structlog.get_logger(__name__)
_encode = msgspec.msgpack.Encoder().encode
_current = msgspec.msgpack.Decoder(Current).decode


class Folding:
    """The writer's side: add() every event in order, flush() before COMMIT, forget() after ROLLBACK."""

    def __init__(self) -> None:
        self._cache: OrderedDict[str, tuple[int, int, Current]] = OrderedDict()
        self._dirty: dict[str, None] = {}

    def add(self, db: sqlite3.Connection, seq: int, event: Event) -> None:
        """Fold one event into the facts of its subject."""
        subject = subject_of(event)
        if subject is None:
            return
        _, alarmed, before = self.of(db, subject)
        after = fold(before, event, seq)
        if after is not before:
            if after.alerts is not before.alerts:
                alarmed = seq
            self._cache[subject] = seq, alarmed, after
            self._dirty[subject] = None

    def put(self, db: sqlite3.Connection, seq: int, subject: str, after: Current) -> None:
        """Replace the facts of a subject, as of event `seq`."""
        _, alarmed, before = self.of(db, subject)
        self._cache[subject] = seq, seq if after.alerts != before.alerts else alarmed, after
        self._dirty[subject] = None

    def of(self, db: sqlite3.Connection, subject: str) -> tuple[int, int, Current]:
        """Return (number of the newest event, of the newest alarm, facts) of a subject."""
        found = self._cache.get(subject)
        if found is None:
            row = db.execute("SELECT seq, alarmed, body FROM current WHERE subject = ?", (subject,)).fetchone()
            found = (0, 0, NOTHING) if row is None else (row[0], row[1], read_facts(subject, row[2]))
            self._cache[subject] = found
            if len(self._cache) > CACHE and not self._dirty:
                self._trim()
        else:
            self._cache.move_to_end(subject)
        return found

    def flush(self, db: sqlite3.Connection) -> None:
        """Write what has changed."""
        if self._dirty:
            rows = (
                (s, seq, alarmed, bool(c.alerts), _encode(c))
                for s in self._dirty
                for seq, alarmed, c in [self._cache[s]]
            )
            db.executemany(
                "INSERT INTO current VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " seq = excluded.seq, alarmed = excluded.alarmed, up = excluded.up, body = excluded.body",
                rows,
            )
            self._dirty.clear()
        self._trim()

    def _trim(self) -> None:
        while len(self._cache) > CACHE:
            self._cache.popitem(last=False)

    def forget(self) -> None:
        """What was folded did not reach the disk."""
        self._cache.clear()
        self._dirty.clear()

    def drop(self, subject: str) -> None:
        """A subject's row was deleted."""
        self._cache.pop(subject, None)
        self._dirty.pop(subject, None)


def read_facts(subject: str, body: bytes) -> Current:
    """Return the facts of a row of `current`; nothing is known where they cannot be read."""
    try:
        return _current(body)
    except msgspec.MsgspecError as e:  # it is made anew by the events to come
        log.error("facts_unreadable", subject=subject, error=str(e), next="citymote gateway check --store")
        return NOTHING

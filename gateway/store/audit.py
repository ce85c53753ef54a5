"""The audit log: every step of every command, and every refusal, with who asked for it. Rows are added and never changed.

Triggers keep it so whoever opens the file: no update (but once, of secrets in rows of older gateways: redaction.py), and nothing younger than
KEEP_DAYS is deleted. `entries` reads it beside a running gateway.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from gateway.config.rights import denied
from gateway.core.model import Event
from gateway.core.redact import shown
from gateway.store.engine import StoreError

KEEP_DAYS = 366
NOT_CHANGED = "audit_is_not_changed"
NO_CHANGE = f"CREATE TRIGGER {NOT_CHANGED} BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
AUDIT = f"""
CREATE TABLE audit (seq INTEGER PRIMARY KEY AUTOINCREMENT, t REAL NOT NULL, node TEXT NOT NULL, requester TEXT NOT NULL, id TEXT NOT NULL,
  number INTEGER, name TEXT NOT NULL, state TEXT NOT NULL, detail TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX audit_node ON audit (node, t);
{NO_CHANGE};
CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit WHEN OLD.t > strftime('%s', 'now') - {KEEP_DAYS * 86400}
  BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
"""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One row. t: Unix seconds by the gateway's clock. number: the node's id of the command, None when it was refused. body: everything told."""

    seq: int
    t: float
    node: str
    requester: str
    id: str
    number: int | None
    name: str
    state: str
    detail: str
    body: dict[str, Any]


BODY_MAX = 1024
FULL, FULL_IN_ALL = 10, 100  # refusals of an hour that get a row each: of one requester, of all
KINDS = 64  # (requester, reason) pairs counted apart in an hour
COUNTS = "store:refusals"


@dataclass(frozen=True, slots=True)
class Step:
    """A row of the log before it has a number; refused: the reason, "" for a step that was taken."""

    t: float
    node: str
    requester: str
    id: str
    number: int | None
    name: str
    state: str
    detail: str
    body: str
    refused: str = ""


def step_of(event: Event) -> Step:
    """Return the row of a step of a command. Raises TypeError, or what msgspec does, for what no row can hold."""
    c = dict(event.command or {})
    refused = str(c.get("error", "")) if c.get("state") == "refused" else ""
    body = msgspec.json.encode(c)
    if refused and len(body) > BODY_MAX:  # of what was not done the arguments need not be kept for a year
        c.pop("args", None)
        body = msgspec.json.encode(c)
    texts = [c.get(key, "") for key in ("requester", "id", "name", "state", "detail")]
    if not all(isinstance(x, str) for x in texts):
        raise TypeError("requester, id, name, state and detail are texts")
    requester, ident, name, state, detail = texts
    return Step(
        event.received, event.name, requester, ident, c.get("number"), name, state, detail, body.decode(), refused
    )


class Log:
    """Adds rows in the transaction of the caller. Steps of commands get a row each, always.

    Refusals cost who asks nothing and would be kept for a year: beyond FULL of a requester in an hour they are counted by requester
    and reason, and each count becomes one row when the hour is over. The counts are in the store too; a kill loses none.
    """

    def enter(self, db: sqlite3.Connection, step: Step) -> None:
        """Add a step or a refusal."""
        if not step.refused:
            _insert(db, step)
            return
        hour, rows, counts = self.flush(db, step.t)
        if rows.get(step.requester, 0) < FULL and sum(rows.values()) < FULL_IN_ALL:
            rows[step.requester] = rows.get(step.requester, 0) + 1
            _insert(db, step)
        else:
            key = f"{step.requester}\n{step.refused}"
            key = key if key in counts or len(counts) < KINDS else "\n"
            n, since, _ = counts.get(key, (0, step.t, 0.0))
            counts[key] = (n + 1, since, step.t)
        _keep(db, (hour, rows, counts))

    def flush(self, db: sqlite3.Connection, now: float) -> _Hour:
        """Write down the counts of an hour that is over; return those of the one that `now` is in."""
        row = db.execute("SELECT body FROM notes WHERE key = ?", (COUNTS,)).fetchone()
        hour, empty = int(now // 3600), (int(now // 3600), {}, {})
        if row is None:
            return empty
        found: _Hour = msgspec.json.decode(row[0], type=_Hour)
        if found[0] == hour:
            return found
        for key, (n, since, until) in found[2].items():
            requester, _, reason = key.partition("\n")
            body = {
                "state": "refused",
                "requester": requester,
                "error": reason,
                "count": n,
                "since": since,
                "until": until,
            }
            detail = f"{n} more refusals ({reason or 'of other requesters'}), counted"
            _insert(db, Step(until, "", requester, "", None, "", "refused", detail, msgspec.json.encode(body).decode()))
        db.execute("DELETE FROM notes WHERE key = ?", (COUNTS,))
        return empty


_Hour = tuple[int, dict[str, int], dict[str, tuple[int, float, float]]]


def _keep(db: sqlite3.Connection, hour: _Hour) -> None:
    db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (COUNTS, msgspec.json.encode(hour)))


def _insert(db: sqlite3.Connection, s: Step) -> None:
    db.execute(
        "INSERT INTO audit (t, node, requester, id, number, name, state, detail, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (s.t, s.node, s.requester, s.id, s.number, s.name, s.state, s.detail, s.body),
    )


AT_ONCE = 500  # rows of one read transaction: a reader that stands still keeps the log file from being used again


def entries(
    store: Path, node: str | None = None, since: float = 0.0, requester: str | None = None
) -> Iterator[AuditEntry]:
    """Yield the rows of a store in order, also while a gateway works on it. Raises StoreError."""
    if not store.is_file():
        raise StoreError(f"store {store} does not exist", "start the gateway once, or check gateway.store")
    try:
        db = sqlite3.connect(f"file:{quote(str(store))}?mode=ro", uri=True, isolation_level=None)
        try:
            after = 0
            while found := db.execute(
                "SELECT seq, t, node, requester, id, number, name, state, detail, body FROM audit "
                "WHERE seq > ? AND t >= ? AND (? IS NULL OR node = ?) AND (? IS NULL OR requester = ?) ORDER BY seq LIMIT ?",
                (after, since, node, node, requester, requester, AT_ONCE),
            ).fetchall():
                for seq, t, where, who, ident, number, name, state, detail, body in found:
                    after = seq
                    told = shown(msgspec.json.decode(body))  # an older gateway may have kept secrets
                    detail = told.get("detail", detail) if "args" in told else detail
                    yield AuditEntry(seq, t, where, who, ident, number, name, state, detail, told)
        finally:
            db.close()
    except sqlite3.Error as e:
        raise StoreError(
            f"store {store}: {e}", denied(store, "is it the store of this version's gateway? start it once")
        ) from e

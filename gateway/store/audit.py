"""The audit log: every step of every command, and every refusal, with who asked for it. Rows are added and never changed.

Triggers keep it so whoever opens the file: no update, and nothing younger than KEEP_DAYS is deleted. `entries` reads it beside a running gateway.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from gateway.core.model import Event
from gateway.store.engine import StoreError

KEEP_DAYS = 366
AUDIT = f"""
CREATE TABLE audit (seq INTEGER PRIMARY KEY AUTOINCREMENT, t REAL NOT NULL, node TEXT NOT NULL, requester TEXT NOT NULL, id TEXT NOT NULL,
  number INTEGER, name TEXT NOT NULL, state TEXT NOT NULL, detail TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX audit_node ON audit (node, t);
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
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


def enter(db: sqlite3.Connection, event: Event) -> None:
    """Add the step of a command that `event` tells, in the transaction of the caller."""
    c = event.command or {}
    db.execute(
        "INSERT INTO audit (t, node, requester, id, number, name, state, detail, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (event.received, event.name, c.get("requester", ""), c.get("id", ""), c.get("number"), c.get("name", ""), c.get("state", ""),
         c.get("detail", ""), msgspec.json.encode(c).decode()),
    )  # fmt: skip


def entries(
    store: Path, node: str | None = None, since: float = 0.0, requester: str | None = None
) -> Iterator[AuditEntry]:
    """Yield the rows of a store in order, also while a gateway works on it. Raises StoreError."""
    if not store.is_file():
        raise StoreError(f"store {store} does not exist", "start the gateway once, or check gateway.store")
    try:
        db = sqlite3.connect(f"file:{store}?mode=ro", uri=True, isolation_level=None)
        try:
            found = db.execute(
                "SELECT seq, t, node, requester, id, number, name, state, detail, body FROM audit "
                "WHERE t >= ? AND (? IS NULL OR node = ?) AND (? IS NULL OR requester = ?) ORDER BY seq",
                (since, node, node, requester, requester),
            )
            for seq, t, where, who, ident, number, name, state, detail, body in found:
                yield AuditEntry(seq, t, where, who, ident, number, name, state, detail, msgspec.json.decode(body))
        finally:
            db.close()
    except sqlite3.Error as e:
        raise StoreError(f"store {store}: {e}", "is it the store of this version's gateway? start it once") from e

"""Secrets in what an older gateway has kept of commands: taken out once, when a store is opened by one that knows more of them.

The audit log is append-only for everyone else; here its rows keep their number, time, requester, state and everything of their arguments that is no
secret. What has ended is taken out of notes as well; what is still to be sent needs its secret and stays until it has ended.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import structlog

from gateway.core.command import OPEN
from gateway.core.redact import shown
from gateway.store.audit import NO_CHANGE, NOT_CHANGED

RULES = b"1"
"""Of core/redact.py; raised when it knows more, so that stores are looked through again."""
REDACTED = "store:redacted"
CHANGED = "store:redacted_at"
PAGE = 500
_KIND = b"\xa4kind\xa7command"  # of a spooled event, as msgpack writes it

log = structlog.get_logger(__name__)


def apply(db: sqlite3.Connection, now: float) -> None:
    """Take secrets out of a store that was kept by other rules than RULES; in one transaction, or not at all. Raises sqlite3.Error.

    Without room for it the store is opened as it is, and looked through at the next start.
    """
    row = db.execute("SELECT body FROM notes WHERE key = ?", (REDACTED,)).fetchone()
    if row is not None and row[0] == RULES:
        return
    began = time.monotonic()
    db.execute("BEGIN IMMEDIATE")
    try:
        n = _audit(db) + _spool(db) + _notes(db)
        db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (REDACTED, RULES))
        if n:
            db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (CHANGED, str(now).encode()))
        db.execute("COMMIT")
    except sqlite3.OperationalError as e:
        if db.in_transaction:  # a full disk may have ended it
            db.execute("ROLLBACK")
        if e.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL:
            raise
        log.warning(
            "secrets_left_in_store",
            error=str(e),
            next="make room and restart: the audit log of an older gateway may hold secrets",
        )
        return
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    if n:
        log.info("secrets_taken_out", rows=n, seconds=round(time.monotonic() - began, 1),
                 next="passwords that were sent as arguments before may be in older backups: keep these as you keep keys, or change the passwords")  # fmt: skip


def _audit(db: sqlite3.Connection) -> int:
    n = 0
    db.execute(f"DROP TRIGGER IF EXISTS {NOT_CHANGED}")
    # as bytes: a text of a rotten page need not be UTF-8
    query = "SELECT seq, CAST(body AS BLOB) FROM audit WHERE seq > ? AND instr(body, '\"args\":') ORDER BY seq LIMIT ?"
    for seq, body in _pages(db, query):
        if (after := _after(body, msgspec.json.decode)) is not None:
            row = (msgspec.json.encode(after).decode(), str(after.get("detail", "")), seq)
            db.execute("UPDATE audit SET body = ?, detail = ? WHERE seq = ?", row)
            n += 1
    db.execute(NO_CHANGE)
    return n


def _spool(db: sqlite3.Connection) -> int:
    n = 0
    query = "SELECT seq, body FROM spool WHERE seq > ? AND instr(body, ?) ORDER BY seq LIMIT ?"
    for seq, body in _pages(db, query, _KIND):
        event = _decoded(body, msgspec.msgpack.decode)
        command = event.get("command")
        after = shown(command) if isinstance(command, dict) else command
        if after is not command:
            db.execute(
                "UPDATE spool SET body = ? WHERE seq = ?", (msgspec.msgpack.encode({**event, "command": after}), seq)
            )
            n += 1
    return n


def _notes(db: sqlite3.Connection) -> int:
    n = 0
    query = "SELECT key, body FROM notes WHERE key >= 'commands:' AND key < 'commands;'"
    for key, body in db.execute(query).fetchall():
        if _decoded(body, msgspec.msgpack.decode).get("state", OPEN[0]) in OPEN:
            continue
        if (after := _after(body, msgspec.msgpack.decode)) is not None:
            db.execute("UPDATE notes SET body = ? WHERE key = ?", (msgspec.msgpack.encode(after), key))
            n += 1
    return n


def _after(body: bytes, decode: Callable[[bytes], Any]) -> dict[str, Any] | None:
    """Return what is to stand in a row's place, None when it may stay."""
    before = _decoded(body, decode)
    after = shown(before)
    return None if after is before else after


def _decoded(body: bytes, decode: Callable[[bytes], Any]) -> dict[str, Any]:
    """Return what a row holds; {} for what cannot be read, which whoever reads it names."""
    try:
        found = decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _pages(db: sqlite3.Connection, query: str, *more: Any) -> Iterator[tuple[int, Any]]:
    """Yield (seq, body) page by page: rows are changed in between."""
    after = 0
    while rows := db.execute(query, (after, *more, PAGE)).fetchall():
        after = rows[-1][0]
        yield from rows

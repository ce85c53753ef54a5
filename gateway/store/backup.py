"""Looking after a store from a second process, while a gateway may be at work on it: copy it, check it whole."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from gateway.store.engine import StoreError
from gateway.store.retention import used
from gateway.store.schema import BACKUP, SCHEMA_VERSION

PAGES = 2000  # copied between two looks at the progress


def backup(store: Path, target: Path, now: float, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Copy a store, consistent as of one moment, to a new file; progress(pages done, pages in all). Raises StoreError.

    The copy is checked, and marked: a gateway that starts on it moves every downlink counter ahead, since it is older than what nodes
    have heard.
    """
    if target.exists():
        raise StoreError(f"{target} exists", "name a new file; nothing is overwritten")
    part = target.with_name(target.name + ".part")
    try:
        part.unlink(missing_ok=True)
        # households' readings: the owner's alone, whatever the umask is
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        with closing(_reader(store)) as source, closing(sqlite3.connect(part, isolation_level=None)) as copy:
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # from here on the snapshot stands still
            source.backup(copy, pages=PAGES, progress=lambda _s, left, all_: progress(all_ - left, all_))
            copy.execute("PRAGMA journal_mode=DELETE")
            found = [row[0] for row in copy.execute("PRAGMA integrity_check(5)")]
            if found != ["ok"]:
                raise StoreError(f"the copy of {store} is not sound: {found[0]}", "citymote gateway check --store")
            copy.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (BACKUP, str(now)))
            events, frames = (copy.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("spool", "frames"))
        fd = os.open(part, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        part.rename(target)
    except (sqlite3.Error, OSError) as e:
        part.unlink(missing_ok=True)
        raise StoreError(f"backup of {store} to {target}: {e}", "look at free space and permissions") from e
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return {"file": str(target), "bytes": target.stat().st_size, "events": events, "frames": frames}


def examine(store: Path) -> dict[str, Any]:
    """Check a whole store: what is wrong with it (`problems`, at most 20) and what is in it. Raises StoreError when it cannot be read."""
    try:
        with closing(_reader(store)) as db:
            problems = [row[0] for row in db.execute("PRAGMA integrity_check(20)")]
            if problems == ["ok"]:
                problems = []
            version = db.execute("PRAGMA user_version").fetchone()[0]
            tables = [r[0] for r in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")]  # fmt: skip
            counts = {t: db.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in sorted(tables)}
            waiting = db.execute("SELECT count(*) FROM spool WHERE done = 0").fetchone()[0]
            return {"store": str(store), "version": version, "known_version": SCHEMA_VERSION, "bytes_used": used(db),
                    "rows": counts, "waiting": waiting, "problems": problems}  # fmt: skip
    except sqlite3.DatabaseError as e:
        raise StoreError(
            f"store {store}: {e}", "start the gateway: it moves a damaged file aside and takes over what can be read"
        ) from e


def _reader(store: Path) -> sqlite3.Connection:
    if not store.is_file():
        raise StoreError(f"store {store} does not exist", "start the gateway once, or correct gateway.store")
    return sqlite3.connect(f"file:{store}?mode=ro", uri=True, isolation_level=None)

"""Looking after a store from a second process, while a gateway may be at work on it: copy it, check it whole."""

from __future__ import annotations

import os
import secrets
import sqlite3
import tarfile
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gateway.config.rights import denied
from gateway.store import private
from gateway.store.engine import StoreError
from gateway.store.retention import used
from gateway.store.schema import BACKUP, SCHEMA_VERSION
from gateway.store.writer import advice

PAGES = 2000  # copied between two looks at the progress


def backup(store: Path, target: Path, now: float, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Copy a store, consistent as of one moment, to a new file; progress(pages done, pages in all). Raises StoreError.

    The copy is checked, and marked: a gateway that starts on it moves every downlink counter ahead, since it is older than what nodes
    have heard.
    """
    _refuse(target)
    part = _part(target)
    try:
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
        private.sync(part)
        _appear(part, target)
    except (sqlite3.Error, OSError) as e:
        part.unlink(missing_ok=True)
        raise StoreError(f"backup of {store} to {target}: {e}", denied(store, "look at free space")) from e
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return {"file": str(target), "bytes": target.stat().st_size, "events": events, "frames": frames}


def bundle(
    store: Path, files: Mapping[str, Path], target: Path, now: float, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Write a new tar file, mode 0600: a copy of the store as `gateway.db`, and `files` (name in the archive -> where it is), links followed.

    All of it is what a new machine needs, keys among it. Raises StoreError, and then there is no target.
    """
    _refuse(target)
    copy, part = target.with_name(f".{target.name}.{secrets.token_hex(8)}.db"), _part(target)
    try:
        made = backup(store, copy, now, progress)
        with part.open("wb") as f, tarfile.open(fileobj=f, mode="w") as tar:
            for name, file in {"gateway.db": copy, **files}.items():
                info = tarfile.TarInfo(name)
                info.size, info.mode, info.mtime = file.stat().st_size, private.MODE, int(now)
                with file.open("rb") as source:
                    tar.addfile(info, source)
            f.flush()
            os.fsync(f.fileno())
        _appear(part, target)
    except OSError as e:
        raise StoreError(
            f"backup to {target}: {e.filename or ''} {e.strerror}", "look at free space and permissions"
        ) from e
    finally:
        copy.unlink(missing_ok=True)
        part.unlink(missing_ok=True)
    return {**made, "file": str(target), "bytes": target.stat().st_size, "files": ["gateway.db", *files]}


def _refuse(target: Path) -> None:
    if not target.name or target.is_dir():
        raise StoreError(f"{target} is a folder", f"name a new file, for example {target / 'gateway-backup.db'}")
    if target.exists() or target.is_symlink():
        raise StoreError(f"{target} exists", "name a new file; nothing is overwritten, and no link is followed")


def _part(target: Path) -> Path:
    """Make an empty file beside the target, 0600 and of a name that no one can have prepared a link for. Raises StoreError."""
    part = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        os.close(private.create_new(part))
    except OSError as e:
        folder = denied(target.parent, "name a folder you may write to", write=True)
        raise StoreError(f"backup to {target}: {e.strerror}", folder) from e
    return part


def _appear(part: Path, target: Path) -> None:
    """Give a whole file its name, unless something has taken it meanwhile. Raises OSError."""
    try:
        os.link(part, target, follow_symlinks=False)
        part.unlink()
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise
        part.rename(target)
    private.sync(target.absolute().parent)


def examine(store: Path) -> dict[str, Any]:
    """Check a whole store: what is wrong with it (`problems`, at most 20), whether its version is `newer` than this program knows, and what
    is in it. Raises StoreError when it cannot be read."""
    try:
        with closing(_reader(store)) as db:
            problems = [row[0] for row in db.execute("PRAGMA integrity_check(20)")]
            if problems == ["ok"]:
                problems = []
            version = db.execute("PRAGMA user_version").fetchone()[0]
            newer = version > SCHEMA_VERSION
            tables = [r[0] for r in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")]  # fmt: skip
            counts = {t: db.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in sorted(tables)}
            waiting = db.execute("SELECT count(*) FROM spool WHERE done = 0").fetchone()[0]
            return {"store": str(store), "version": version, "known_version": SCHEMA_VERSION, "bytes_used": used(db),
                    "rows": counts, "waiting": waiting, "problems": problems, "newer": newer}  # fmt: skip
    except sqlite3.OperationalError as e:
        raise StoreError(f"store {store}: {e}", advice(e, store)) from e
    except sqlite3.DatabaseError as e:
        raise StoreError(
            f"store {store}: {e}", "start the gateway: it moves a damaged file aside and takes over what can be read"
        ) from e


def _reader(store: Path) -> sqlite3.Connection:
    if hint := denied(store):
        raise StoreError(f"store {store} cannot be read", hint)
    if not store.is_file():
        raise StoreError(f"store {store} does not exist", "start the gateway once, or correct gateway.store")
    return sqlite3.connect(f"file:{quote(str(store))}?mode=ro", uri=True, isolation_level=None)

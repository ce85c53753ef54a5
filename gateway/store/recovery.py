"""Opening a store that may be damaged: check it, and when it is not sound move it aside, salvage what can be read, say so, and go on.

What must hold afterwards: downlink counters are above all that were used (G2), counters of nodes that were accepted stay accepted (G3), and
numbers of the spool go on above every cursor, or new events would be taken for delivered ones (G1). A cut during the salvage starts it again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import structlog

from gateway.core.model import OPEN, Event, NodeState
from gateway.core.replay import Replay
from gateway.core.value import replace
from gateway.store import front, ledger, redaction, states
from gateway.store.engine import STORE, StoreError
from gateway.store.fill import fill
from gateway.store.schema import (
    BACKUP,
    CLOSED,
    DOWN_FLOOR,
    JUMP,
    LAST,
    RECOVERED,
    RESTORED,
    SALVAGED,
    connect,
    down_floor,
    migrate,
)

# what the promises hang on comes first; what is only history may be left behind when the disk has no room for a copy
FIRST = ("nodes", "cursors", "notes", "forgotten", "airtime", "spool")
HISTORY = ("alarms", "quarantine", "frames", "rows")
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

log = structlog.get_logger(__name__)
_event = msgspec.msgpack.Decoder(Event).decode
_encode = states.encode


class Damaged(Exception):
    """The file is no sound store; the text says how that was seen."""


def open_sound(path: Path, gateway: str, now: float, check_s: float) -> sqlite3.Connection:
    """Open a store, or make it, or recover it. check_s bounds the check. Raises StoreError, sqlite3.Error (no room, no permission)."""
    _finish(path, now)
    try:
        return _opened(path, now, check_s)
    except Damaged as e:
        why = str(e)
    started = time.monotonic()
    log.error("store_damaged", store=str(path), why=why, next="nothing: what can be read of it is being taken over")
    told = _salvage(path, gateway, now, why)
    aside = _finish(path, now)
    db = _opened(path, now, check_s)
    log.error("store_recovered", store=str(path), moved_to=str(aside), seconds=round(time.monotonic() - started, 1), **told,
              next="look at the health of the disk; keep the moved file until nobody misses anything")  # fmt: skip
    return db


def last(db: sqlite3.Connection) -> dict[str, Any] | None:
    """Return what the last recovery of this store said, None when there was none."""
    row = db.execute("SELECT body FROM notes WHERE key = ?", (RECOVERED,)).fetchone()
    return None if row is None else msgspec.json.decode(row[0])


def quick_check(db: sqlite3.Connection, seconds: float) -> list[str]:
    """Return what is wrong with the structure of a store, [] when nothing was found in the time there was."""
    deadline = time.monotonic() + seconds
    db.set_progress_handler(lambda: time.monotonic() > deadline, 20_000)
    try:
        found = [row[0] for row in db.execute("PRAGMA quick_check(5)")]
        return [] if found == ["ok"] else found
    except sqlite3.OperationalError as e:
        if e.sqlite_errorcode & 0xFF != sqlite3.SQLITE_INTERRUPT:
            raise
        log.info("store_check_unfinished", seconds=seconds, next="citymote gateway check --store does it whole")
        return []
    finally:
        db.set_progress_handler(None, 0)


def _opened(path: Path, now: float, check_s: float) -> sqlite3.Connection:
    db: sqlite3.Connection | None = None
    try:
        db = connect(path)
        found = quick_check(db, check_s)
        if found:
            raise Damaged("; ".join(" ".join(found).split("\n")[:3])[:300])
        migrate(db, path, now)
        redaction.apply(db, now)
        db.execute("DELETE FROM notes WHERE key = ?", (SALVAGED,))  # it is in its place: no copy of it is a salvage
        ledger.begin(db)
        fill(db)
        if db.execute("SELECT 1 FROM notes WHERE key = ?", (BACKUP,)).fetchone():
            _restored(db, now)
        return db
    except sqlite3.DatabaseError as e:
        if db is not None:
            db.close()
        if getattr(e, "sqlite_errorcode", 0) & 0xFF in DAMAGE:
            raise Damaged(str(e)) from e
        raise
    except BaseException:
        if db is not None:
            db.close()
        raise


def _restored(db: sqlite3.Connection, now: float) -> None:
    """A backup is older than what the nodes have heard since: no downlink counter of it may be used again."""
    db.execute("BEGIN IMMEDIATE")
    n = _jump(db, now)
    ledger.born(db)  # brokers may know what came after the backup
    db.execute("DELETE FROM notes WHERE key = ?", (BACKUP,))
    db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (RESTORED, str(now).encode()))
    db.execute("COMMIT")
    log.warning("store_restored", nodes=n, next="nothing: downlink counters were moved ahead of all that were used")


def _jump(db: sqlite3.Connection, now: float) -> int:
    """Let all downlink counters begin above what any node of this copy can have had since, and above those of `now`."""
    nodes = db.execute("SELECT state FROM nodes").fetchall()
    downs = [down for (body,) in nodes if (down := _read(body).down) < LAST - JUMP]
    (known,) = db.execute("SELECT max(CAST(body AS INTEGER)) FROM notes WHERE key = ?", (DOWN_FLOOR,)).fetchone()
    floor = max(down_floor(now), max(downs, default=-JUMP) + JUMP, known or 0)
    db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (DOWN_FLOOR, str(floor)))
    db.execute("DELETE FROM notes WHERE key = ?", (CLOSED,))
    return len(nodes)


def _read(body: bytes) -> NodeState:
    try:
        return states.decode(body)
    except msgspec.MsgspecError:
        return states.salvage(body)[0]


# files: all of a salvage is made in a folder of its own. It is complete when it is called "new"; then the damaged file moves away and the
# new one takes its place. What else lies beside the store belongs to someone else, whatever it is called: it is neither taken nor removed.


def strays(path: Path) -> list[str]:
    """Return the names of files beside a store that look as if a recovery had made them, and were not made by one of this store."""
    beside = [Path(f"{path}{end}") for end in (".new", ".salvage", ".mended")]
    folder = _folder(path)
    inside = [folder / "new", *folder.glob("stray-*")] if folder.is_dir() else [folder]
    return [str(p.relative_to(path.parent)) for p in (*beside, *inside) if os.path.lexists(p)]


def _folder(path: Path) -> Path:
    return Path(f"{path}.recovery")


def _damaged_as(path: Path) -> bytes:
    """Return what tells this file, as it is now, from any other and from itself after a change."""
    s = path.stat()
    return msgspec.json.encode([s.st_ino, s.st_size, s.st_mtime_ns])


def _is_ours(new: Path, path: Path) -> bool:
    """True for a complete salvage of the store as it is; of any, when there is no store: the damaged one has moved away."""
    if new.is_symlink() or not new.is_file():
        return False
    try:
        db = sqlite3.connect(f"file:{quote(str(new))}?mode=ro&immutable=1", uri=True)
        try:
            row = db.execute("SELECT body FROM notes WHERE key = ?", (SALVAGED,)).fetchone()
        finally:
            db.close()
    except sqlite3.DatabaseError:
        return False
    return row is not None and (not path.exists() or bytes(row[0]) == _damaged_as(path))


def _finish(path: Path, now: float) -> Path | None:
    """Do what is left of a recovery, also of one that was cut; return where the damaged file went."""
    folder = _folder(path)
    if folder.is_symlink() or not folder.is_dir():
        return None
    for end in ("", "-journal", "-wal", "-shm"):
        (folder / f"salvage{end}").unlink(missing_ok=True)
        (folder / f"mended{end}").unlink(missing_ok=True)
    new = folder / "new"
    aside = None
    if _is_ours(new, path):
        if path.exists():
            aside = _free(Path(f"{path}.damaged-{_stamp(now)}"))
            with contextlib.suppress(FileNotFoundError):
                Path(f"{path}-wal").rename(f"{aside}-wal")
            path.rename(aside)
        for end in ("-wal", "-shm"):
            Path(f"{path}{end}").unlink(missing_ok=True)
        new.rename(path)
        _sync(path.parent)
    with contextlib.suppress(OSError):  # something else is in it: strays() names it
        folder.rmdir()
    return aside


def _stamp(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")


def _free(path: Path) -> Path:
    while os.path.lexists(path):
        path = Path(f"{path}x")
    return path


def _begin(path: Path, now: float) -> Path:
    """Make the folder of a salvage and return it; what lies in the place of its result moves aside. Raises StoreError."""
    folder = _folder(path)
    try:
        if folder.is_symlink():
            raise FileExistsError(17, "a link is in its place")
        folder.mkdir(mode=0o700, exist_ok=True)
        if os.path.lexists(folder / "new"):
            (folder / "new").rename(_free(folder / f"stray-{_stamp(now)}"))
    except OSError as e:
        raise StoreError(f"store {path} is damaged, and {folder} could not be made for its recovery: {e.strerror}",
                         "make room on the disk, or move away what is in its place") from e  # fmt: skip
    return folder


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _salvage(path: Path, gateway: str, now: float, why: str) -> dict[str, Any]:
    folder = _begin(path, now)
    part = folder / "salvage"
    new = connect(part)
    mended = folder / "mended"
    if not front.mend(path, mended):
        old = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None)
    else:
        old = sqlite3.connect(mended, isolation_level=None)
    old.text_factory = lambda b: b.decode("utf-8", "replace")
    try:
        new.execute("PRAGMA journal_mode=DELETE")
        new.execute("PRAGMA synchronous=OFF")  # synced whole, below
        migrate(new, part, now)
        kept: dict[str, int] = {}
        damaged: list[str] = []
        tables = [row[0] for row in new.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")]  # fmt: skip
        for table in (*FIRST, *(t for t in tables if t not in (*FIRST, *HISTORY)), *HISTORY):
            kept[table], sound = _take(old, new, table)
            if not sound:
                damaged.append(table)
            log.info("store_salvaging", table=table, rows=kept[table], sound=sound)
        told = {"why": why, "kept": kept, "damaged": damaged}
        new.execute("BEGIN")
        told["states_rebuilt"] = _replays(new)
        _jump(new, now)
        _number(old, new)
        ledger.born(new)
        if "current" in damaged:
            new.execute("DELETE FROM notes WHERE key = ?", (ledger.FILLED,))
        body = msgspec.json.encode({"at": now, **told})
        new.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (RECOVERED, body))
        new.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (SALVAGED, _damaged_as(path)))
        event = Event(STORE, f"store:store_damaged:{int(now)}", 0, gateway, OPEN, now, 0,
                      status={"reason": "store_damaged", "tables": damaged, "kept": kept})  # fmt: skip
        new.execute("INSERT INTO spool (received, body, express) VALUES (?, ?, 1)", (now, _encode(event)))
        new.execute("COMMIT")
    except sqlite3.Error as e:
        raise StoreError(f"store {path} is damaged and could not be recovered: {e}",
                         "make room on the disk (as much as the file has), or move the file away") from e  # fmt: skip
    finally:
        new.close()
        old.close()
    fd = os.open(part, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    part.rename(folder / "new")
    _sync(folder)
    _sync(path.parent)
    return told


def _take(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> tuple[int, bool]:
    """Copy what can be read of a table; return how many rows, and whether that is all of it."""
    there = [row[1] for row in new.execute(f"PRAGMA table_info({table})")]
    key = next((row[1] for row in new.execute(f"PRAGMA table_info({table})") if row[5] == 1), "rowid")
    try:
        known = {row[1] for row in old.execute(f"PRAGMA table_info({table})")}
    except sqlite3.DatabaseError:
        return 0, False
    if not known:  # of a schema that did not have it, or the list of tables is gone
        return 0, not _has_tables(old)
    columns = [c for c in there if c in known]
    trouble: list[str] = []
    n = 0
    marks = ",".join("?" * len(columns))
    new.execute("BEGIN")
    try:
        for row in _rows(old, table, key, columns, trouble):
            named = dict(zip(columns, row, strict=True))
            if _is_sane(table, named) or _mended(table, named):
                row = tuple(named.values())
                n += new.execute(f"INSERT OR IGNORE INTO {table} ({','.join(columns)}) VALUES ({marks})", row).rowcount
            else:
                trouble.append("unreadable")
        new.execute("COMMIT")
    except sqlite3.OperationalError as e:
        new.execute("ROLLBACK")
        if e.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL or table not in HISTORY:
            raise
        return 0, False
    return n, not trouble


def _has_tables(old: sqlite3.Connection) -> bool:
    try:
        return old.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    except sqlite3.DatabaseError:
        return False


def _rows(
    old: sqlite3.Connection, table: str, key: str, columns: list[str], trouble: list[str]
) -> Iterator[tuple[Any, ...]]:
    """Yield rows from the front, from the back, and from between the holes of whole-numbered keys. Some may come twice."""
    select = f"SELECT {key}, {','.join(columns)} FROM {table} NOT INDEXED"
    low = high = None
    try:
        for row in old.execute(f"{select} ORDER BY {key}"):
            low = row[0]
            yield row[1:]
        return
    except sqlite3.DatabaseError as e:
        trouble.append(str(e))
    try:
        for row in old.execute(f"{select} ORDER BY {key} DESC"):
            high = row[0]
            yield row[1:]
            if low is not None and type(high) is type(low) and high <= low:
                break
    except sqlite3.DatabaseError as e:
        trouble.append(str(e))
    if not isinstance(low, int) or not isinstance(high, int):
        return
    at, step = low + 1, 1
    while at < high:
        try:
            for row in old.execute(f"{select} WHERE {key} >= ? AND {key} < ? ORDER BY {key}", (at, high)):
                at, step = row[0], 1
                yield row[1:]
            return
        except sqlite3.DatabaseError as e:
            trouble.append(str(e))
            at, step = at + step, step * 2


def _is_sane(table: str, row: dict[str, Any]) -> bool:
    """True unless a body that must be understood cannot be: a page can be whole and its content rotten."""
    try:
        if table == "nodes":
            states.decode(row["state"])
        elif table in ("spool", "alarms"):
            _event(row["body"])
    except (msgspec.MsgspecError, TypeError, ValueError):
        return False
    return True


def _mended(table: str, row: dict[str, Any]) -> bool:
    """Put what can be read of a node's rotten state in its place; False when that is not even where it was in the counters."""
    if table != "nodes" or not isinstance(row["state"], bytes):
        return False
    state, lost = states.salvage(row["state"])
    row["state"] = _encode(state)
    return "replay" not in lost and "epoch" not in lost


def _replays(db: sqlite3.Connection) -> int:
    """Frames say once more which counters were accepted: put right states that are gone or behind. Return how many were."""
    changed = 0
    known = {node: _read(body) for node, body in db.execute("SELECT node, state FROM nodes").fetchall()}
    of_node: dict[int, list[tuple[int, int, float]]] = {}
    for node, epoch, counter, received in db.execute("SELECT node, epoch, counter, received FROM frames"):
        of_node.setdefault(node, []).append((epoch, counter, received))
    below = {(n, e): b for n, e, b in db.execute("SELECT node, epoch, below FROM forgotten")}
    for node, epoch in below:
        of_node.setdefault(node, []).append((epoch, 0, 0.0))
    for node, frames in of_node.items():
        state = known.get(node)
        epoch = max(e for e, _, _ in frames)
        heard = sorted((e, c) for e, c, _ in frames if c)
        if state is None or state.epoch < epoch:
            # what came before the oldest frame may have been dropped by retention: it is too old, and never news
            first = max(below.get((node, epoch), 1), next((c for e, c in heard if e == epoch), 1))
            state = replace(state or NodeState(), epoch=epoch, replay=Replay(first, first), marks={})
        replay = state.replay
        for e, counter in heard:
            if e == state.epoch:
                replay = replay.accept(counter) or replay
        if node not in known or replay != known[node].replay or state.epoch != known[node].epoch:
            state = replace(state, replay=replay, heard=max(state.heard, max(r for _, _, r in frames)))
            db.execute("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?)", (node, state.online, _encode(state)))
            changed += 1
    return changed


def _number(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    """Let the spool's numbers go on above everything that any cursor has seen."""
    found = [new.execute(q).fetchone()[0] or 0 for q in (
        "SELECT max(seq) FROM spool", "SELECT max(seq) FROM alarms", "SELECT max(seq) FROM cursors", "SELECT max(express) FROM cursors",
    )]  # fmt: skip
    with contextlib.suppress(sqlite3.DatabaseError):
        found += [row[0] for row in old.execute("SELECT seq FROM sqlite_sequence WHERE name = 'spool'")]
    new.execute("DELETE FROM sqlite_sequence WHERE name = 'spool'")
    new.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('spool', ?)", (max(found),))

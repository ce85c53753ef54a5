"""SQLite engine: WAL, synchronous=FULL, one writer thread that groups what is waiting into one transaction.

A future resolves only after COMMIT has returned, so whoever waits for it may tell the node "committed". Readers use their own
connection in the event loop's thread: WAL readers never wait for the writer.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from gateway.core.airtime import HOUR_US
from gateway.core.model import Event, NodeState
from gateway.store import audit
from gateway.store.audit import AUDIT
from gateway.store.engine import Entry, RawFrame, StoreError, Write

GROUP = 256
QUARANTINE_MAX = 1000
_MIGRATIONS = (
    """
CREATE TABLE nodes (node INTEGER PRIMARY KEY, online INTEGER NOT NULL, state BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX nodes_online ON nodes (node) WHERE online;
CREATE TABLE frames (node INTEGER, epoch INTEGER, counter INTEGER, kind INTEGER NOT NULL, received REAL NOT NULL, link TEXT NOT NULL,
  receiver TEXT NOT NULL, rssi INTEGER, snr REAL, reason TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (node, epoch, counter)) WITHOUT ROWID;
CREATE INDEX frames_unread ON frames (node) WHERE reason <> '';
CREATE TABLE rows (node INTEGER, epoch INTEGER, counter INTEGER, row INTEGER, t INTEGER NOT NULL, vals TEXT NOT NULL, suspect TEXT,
  PRIMARY KEY (node, epoch, counter, row)) WITHOUT ROWID;
CREATE INDEX rows_time ON rows (node, t);
CREATE TABLE spool (seq INTEGER PRIMARY KEY AUTOINCREMENT, received REAL NOT NULL, done INTEGER NOT NULL DEFAULT 0, body BLOB NOT NULL);
CREATE TABLE cursors (output TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE quarantine (id INTEGER PRIMARY KEY AUTOINCREMENT, received REAL NOT NULL, reason TEXT NOT NULL, data BLOB NOT NULL);
CREATE TABLE airtime (transmitter TEXT NOT NULL, band INTEGER NOT NULL, start_us INTEGER NOT NULL, airtime_us INTEGER NOT NULL);
""",
    "CREATE TABLE notes (key TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;",
    AUDIT,
)  # one per version of the schema, never changed once released; a store of version n has had the first n
SCHEMA_VERSION = len(_MIGRATIONS)

Job = Callable[[sqlite3.Connection], int]


class SqliteEngine:
    """Opens (or makes) the store at `path` and owns it: a second process is refused. outputs: names whose cursors count.

    Must be made and used in one thread with a running event loop. Raises StoreError.
    """

    def __init__(self, path: Path, outputs: Iterable[str] = ()) -> None:
        self._path = path
        self._outputs = tuple(outputs)
        self._loop = asyncio.get_running_loop()
        self._lock = _lock(path)
        try:
            self._reader = _open(path)
            _prepare(self._reader, path)
        except BaseException:
            os.close(self._lock)
            raise
        self._queue: queue.SimpleQueue[tuple[Job, asyncio.Future[int], bool] | None] = queue.SimpleQueue()
        self._poisoned = False
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode_event = msgspec.msgpack.Decoder(Event).decode
        self._decode_state = msgspec.msgpack.Decoder(NodeState).decode
        self.waiting = 0
        self.transactions = 0
        self._thread = threading.Thread(target=self._write, name="store-writer", daemon=True)
        self._thread.start()

    # reading, in the caller's thread

    def fetch(self, after: int, limit: int) -> list[Entry]:
        found = self._reader.execute("SELECT seq, body FROM spool WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit))
        return [Entry(seq, self._decode_event(body)) for seq, body in found]

    def load(self, node: int) -> NodeState | None:
        row = self._reader.execute("SELECT state FROM nodes WHERE node = ?", (node,)).fetchone()
        return None if row is None else self._decode_state(row[0])

    def note(self, key: str) -> bytes | None:
        row = self._reader.execute("SELECT body FROM notes WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def notes(self, prefix: str) -> dict[str, bytes]:
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        found = self._reader.execute("SELECT key, body FROM notes WHERE key >= ? AND key < ?", (prefix, end))
        return dict(found.fetchall())

    def cursor(self, output: str) -> int:
        row = self._reader.execute("SELECT seq FROM cursors WHERE output = ?", (output,)).fetchone()
        return row[0] if row else 0

    def newest(self) -> int:
        row = self._reader.execute("SELECT seq FROM sqlite_sequence WHERE name = 'spool'").fetchone()
        return row[0] if row else 0

    def online(self) -> list[tuple[int, NodeState]]:
        found = self._reader.execute("SELECT node, state FROM nodes WHERE online")
        return [(node, self._decode_state(state)) for node, state in found]

    def airtime(self, since_us: int) -> list[tuple[str, int, int, int]]:
        return self._reader.execute(
            "SELECT * FROM airtime WHERE start_us > ? ORDER BY start_us", (since_us,)
        ).fetchall()

    # writing, through the writer thread

    def commit(self, writes: Sequence[Write]) -> asyncio.Future[int]:
        return self._put(lambda db: self._store(db, writes), decided=True)

    def quarantine(self, data: bytes, reason: str, received: float) -> asyncio.Future[int]:
        def job(db: sqlite3.Connection) -> int:
            at = db.execute(
                "INSERT INTO quarantine (received, reason, data) VALUES (?, ?, ?)", (received, reason, data)
            )
            db.execute("DELETE FROM quarantine WHERE id <= ?", ((at.lastrowid or 0) - QUARANTINE_MAX,))
            return 0

        return self._put(job)

    def ack(self, output: str, seq: int) -> asyncio.Future[int]:
        def job(db: sqlite3.Connection) -> int:
            db.execute(
                "INSERT INTO cursors VALUES (?, ?) ON CONFLICT DO UPDATE SET seq = max(seq, excluded.seq)",
                (output, seq),
            )
            marks = ",".join("?" * len(self._outputs))
            low, known = db.execute(
                f"SELECT min(seq), count(*) FROM cursors WHERE output IN ({marks})", self._outputs
            ).fetchone()
            if known == len(self._outputs) and low is not None:
                db.execute("UPDATE spool SET done = 1 WHERE done = 0 AND seq <= ?", (low,))
            return seq

        return self._put(job)

    def book(self, transmitter: str, band: int, start_us: int, airtime_us: int) -> asyncio.Future[int]:
        def job(db: sqlite3.Connection) -> int:
            db.execute("INSERT INTO airtime VALUES (?, ?, ?, ?)", (transmitter, band, start_us, airtime_us))
            return 0

        return self._put(job)

    def purge(self, spool_before: float) -> asyncio.Future[int]:
        def job(db: sqlite3.Connection) -> int:
            db.execute("DELETE FROM airtime WHERE start_us < ?", (int(spool_before * 1e6) - 2 * HOUR_US,))
            return db.execute("DELETE FROM spool WHERE done = 1 AND received < ?", (spool_before,)).rowcount

        return self._put(job)

    def use_outputs(self, outputs: Iterable[str]) -> None:
        """Other outputs count from now on."""
        self._outputs = tuple(outputs)

    def resume(self) -> asyncio.Future[int]:
        def job(_db: sqlite3.Connection) -> int:
            self._poisoned = False
            return 0

        return self._put(job)

    def close(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        self._reader.close()
        os.close(self._lock)

    def _put(self, job: Job, decided: bool = False) -> asyncio.Future[int]:
        future: asyncio.Future[int] = self._loop.create_future()
        self.waiting += 1
        future.add_done_callback(self._settled)
        self._queue.put((job, future, decided))
        return future

    def _settled(self, future: asyncio.Future[int]) -> None:
        self.waiting -= 1
        if not future.cancelled():
            future.exception()  # mark as seen: who cares has awaited it, cursors and books are written again later

    def _store(self, db: sqlite3.Connection, writes: Sequence[Write]) -> int:
        seq = 0
        for w in writes:
            if w.state is not None:
                db.execute(
                    "INSERT INTO nodes VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET online = excluded.online, state = excluded.state",
                    (w.node, w.state.online, self._encode(w.state)),
                )
            if w.raw is not None:
                r = w.raw
                at = db.execute(
                    "INSERT OR IGNORE INTO frames VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        r.node,
                        r.epoch,
                        r.counter,
                        r.kind,
                        r.received,
                        r.link,
                        r.receiver,
                        r.rssi,
                        r.snr,
                        r.reason,
                        r.data,
                    ),
                )
                if not at.rowcount:
                    continue
            if w.event is not None:
                seq = self._spool(db, w.event)
                if w.event.times:
                    db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?)", _rows(w.event))
            for event in w.more:
                seq = self._spool(db, event)
            for key, note in w.notes.items():
                if note is None:
                    db.execute("DELETE FROM notes WHERE key = ?", (key,))
                else:
                    db.execute(
                        "INSERT INTO notes VALUES (?, ?) ON CONFLICT DO UPDATE SET body = excluded.body", (key, note)
                    )
        return seq

    def _spool(self, db: sqlite3.Connection, event: Event) -> int:
        at = db.execute("INSERT INTO spool (received, body) VALUES (?, ?)", (event.received, self._encode(event)))
        if event.command is not None:
            audit.enter(db, event)
        return at.lastrowid or 0

    def _write(self) -> None:
        try:
            db = _open(self._path)
        except StoreError:
            db = None
        while (first := self._queue.get()) is not None:
            group = [first]
            stop = False
            while len(group) < GROUP:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    stop = True
                    break
                group.append(item)
            self._group(db, group)
            if stop:
                break
        if db is not None:
            db.close()

    def _group(self, db: sqlite3.Connection | None, group: list[tuple[Job, asyncio.Future[int], bool]]) -> None:
        done: list[tuple[asyncio.Future[int], int | StoreError]] = []
        try:
            if db is None:
                raise sqlite3.OperationalError("the store could not be opened for writing")
            db.execute("BEGIN IMMEDIATE")
            for job, future, decided in group:
                if decided and self._poisoned:
                    done.append((future, StoreError("an earlier commit failed")))
                else:
                    done.append((future, job(db)))
            db.execute("COMMIT")
            self.transactions += 1
        except (sqlite3.Error, OverflowError, TypeError, ValueError) as e:
            self._poisoned = True
            if db is not None and db.in_transaction:
                db.execute("ROLLBACK")
            error = StoreError(f"commit failed: {e}", "look at free disk space and the health of the disk")
            done = [(future, error) for _, future, _ in group]
            time.sleep(0.05)  # a full disk stays full for a while: do not spin
        try:
            self._loop.call_soon_threadsafe(_resolve, done)
        except RuntimeError:  # the loop is closed: nobody is waiting any more
            return


def _resolve(done: list[tuple[asyncio.Future[int], int | StoreError]]) -> None:
    for future, result in done:
        if future.done():
            continue
        if isinstance(result, StoreError):
            future.set_exception(result)
        else:
            future.set_result(result)


def _rows(event: Event) -> list[tuple[Any, ...]]:
    columns = event.columns
    out = []
    for i, t in enumerate(event.times):
        values = {c.key: c.values[i] for c in columns if c.values[i] is not None}
        suspect = ",".join(c.key for c in columns if i in c.suspect)
        out.append(
            (event.node, event.epoch, event.counter, i, t, msgspec.json.encode(values).decode(), suspect or None)
        )
    return out


def _lock(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise StoreError(
            f"store {path}: {e.strerror}", "make its folder writable for this user, or set gateway.store"
        ) from e
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        os.close(fd)
        raise StoreError(
            f"store {path} is in use by another gateway", "stop the other one, or give this one its own gateway.store"
        ) from e
    return fd


def _open(path: Path) -> sqlite3.Connection:
    try:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA busy_timeout=10000")
    except sqlite3.Error as e:
        raise StoreError(f"store {path}: {e}", "move the damaged file away; the gateway starts a new one") from e
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"store {path} has version {version}, this gateway knows {SCHEMA_VERSION}", "run the newer gateway"
            )
        for done in range(version, SCHEMA_VERSION):
            db.executescript(f"BEGIN; {_MIGRATIONS[done]} PRAGMA user_version={done + 1}; COMMIT;")
    except sqlite3.Error as e:
        raise StoreError(f"store {path}: {e}", "move the damaged file away; the gateway starts a new one") from e


__all__ = ["Entry", "RawFrame", "SqliteEngine", "StoreError", "Write"]

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
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from gateway.config.store import StoreConfig
from gateway.core.model import OPEN, Event, NodeState
from gateway.store import audit, recovery
from gateway.store.engine import STORE, Entry, RawFrame, StoreError, Write, is_express
from gateway.store.ledger import Ledger
from gateway.store.reserve import Reserve
from gateway.store.retention import MB, Retention
from gateway.store.schema import DOWN_FLOOR, connect, down_floor

GROUP = 256
QUARANTINE_MAX = 1000
UNREAD = "unknown_schema"
CHECK_S = 5.0
NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)

log = structlog.get_logger(__name__)

Job = Callable[[sqlite3.Connection], int]


class SqliteEngine:
    """Opens (or makes) the store at `path` and owns it: a second process is refused. outputs: names whose cursors count.

    A damaged file is moved aside and what can be read of it is taken over; `recovered` says what was lost then, for ever after.
    Must be made and used in one thread with a running event loop. Raises StoreError.
    """

    def __init__(
        self,
        path: Path,
        outputs: Iterable[str] = (),
        keep: StoreConfig | None = None,
        clock: Callable[[], float] = time.time,
        gateway: str = "gw-1",
    ) -> None:
        self._path = path
        self._outputs = tuple(outputs)
        self._keep, self._clock, self._gateway = keep or StoreConfig(), clock, gateway
        self._loop = asyncio.get_running_loop()
        self._lock = _lock(path)
        self._reserve = Reserve(path, self._keep.reserve_mb * MB)
        try:
            self._reader = self._open(clock())
            self.full = not self._reserve.hold()
            self._floor = int(self.note(DOWN_FLOOR) or 0)
            self.newest_express: int = (
                self._reader.execute("SELECT max(seq) FROM spool WHERE express").fetchone()[0] or 0
            )
            self.recovered = recovery.last(self._reader)
        except BaseException:
            os.close(self._lock)
            raise
        self._queue: queue.SimpleQueue[tuple[Job, asyncio.Future[int], bool] | None] = queue.SimpleQueue()
        self._poisoned = False
        self.ledger = Ledger(self._reader, self._put, self._spool)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode_event = msgspec.msgpack.Decoder(Event).decode
        self._decode_state = msgspec.msgpack.Decoder(NodeState).decode
        self._retention = Retention(self._keep, self._outputs, self._tell)
        self.waiting = 0
        self.transactions = 0
        if self.full:
            log.error("disk_full", store=str(path), next="make room; until then only alarms are taken")
        self._thread = threading.Thread(target=self._write, name="store-writer", daemon=True)
        self._thread.start()

    def _open(self, now: float) -> sqlite3.Connection:
        try:
            return recovery.open_sound(self._path, self._gateway, now, CHECK_S)
        except sqlite3.Error as e:
            if not _no_room(e) or not self._reserve.held:
                raise _unusable(self._path, e) from e
        self._reserve.give_up()  # not even room to open it: the alarms' room must do
        try:
            return recovery.open_sound(self._path, self._gateway, now, CHECK_S)
        except sqlite3.Error as e:
            raise _unusable(self._path, e) from e

    @property
    def dropped(self) -> int:
        """Events that were given up at the size limit before every output had them, since the start."""
        return self._retention.dropped

    # reading, in the caller's thread

    def fetch(self, after: int, limit: int) -> list[Entry]:
        found = self._reader.execute(
            "SELECT seq, body, express FROM spool WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)
        )
        return [Entry(seq, self._event(seq, body), bool(express)) for seq, body, express in found]

    def fetch_express(self, after: int, limit: int) -> list[Entry]:
        found = self._reader.execute(
            "SELECT seq, body FROM spool WHERE express AND seq > ? ORDER BY seq LIMIT ?", (after, limit)
        )
        return [Entry(seq, self._event(seq, body), True) for seq, body in found]

    def _event(self, seq: int, body: bytes) -> Event:
        try:
            return self._decode_event(body)
        except msgspec.MsgspecError as e:  # a page can be whole and its content rotten: say so, and go on with the next
            log.error("event_unreadable", seq=seq, error=str(e), next="citymote gateway check --store")
            return self._own("unreadable", {"events": 1, "seq": seq}, seq)

    def _own(self, reason: str, told: Mapping[str, Any], unique: int) -> Event:
        return Event(STORE, f"store:{reason}:{unique}", 0, self._gateway, OPEN, self._clock(), 0,
                     status={"reason": reason, **told})  # fmt: skip

    def _tell(self, db: sqlite3.Connection, reason: str, told: Mapping[str, Any]) -> int:
        return self._spool(db, self._own(reason, told, int(self._clock())))

    def fresh(self) -> NodeState:
        return NodeState(down=self._floor)

    def unread(
        self, after: tuple[int, int, int] = (0, 0, 0), limit: int = 64, node: int | None = None
    ) -> list[RawFrame]:
        found = self._reader.execute(
            "SELECT node, epoch, counter, kind, data, received, link, receiver, rssi, snr, reason FROM frames"
            " WHERE reason <> '' AND reason = ? AND node >= ? AND node <= ? AND (node, epoch, counter) > (?, ?, ?)"
            " ORDER BY node, epoch, counter LIMIT ?",
            (UNREAD, after[0] if node is None else node, 1 << 62 if node is None else node, *after, limit),
        )
        return [RawFrame(*row) for row in found]

    def load(self, node: int) -> NodeState | None:
        row = self._reader.execute("SELECT state FROM nodes WHERE node = ?", (node,)).fetchone()
        if row is None:
            return None
        try:
            return self._decode_state(row[0])
        except msgspec.MsgspecError as e:
            log.error("state_unreadable", node=node, error=str(e), next="citymote gateway check --store")
            return NodeState(down=down_floor(self._clock()))

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

    def express_cursor(self, output: str) -> int:
        row = self._reader.execute("SELECT express FROM cursors WHERE output = ?", (output,)).fetchone()
        return row[0] if row else 0

    def newest(self) -> int:
        row = self._reader.execute("SELECT seq FROM sqlite_sequence WHERE name = 'spool'").fetchone()
        return row[0] if row else 0

    def online(self) -> list[tuple[int, NodeState]]:
        found = self._reader.execute("SELECT node FROM nodes WHERE online").fetchall()
        return [(node, state) for (node,) in found if (state := self.load(node)) is not None]

    def airtime(self, since_us: int) -> list[tuple[str, int, int, int]]:
        return self._reader.execute(
            "SELECT * FROM airtime WHERE start_us > ? ORDER BY start_us", (since_us,)
        ).fetchall()

    # writing, through the writer thread

    def commit(self, writes: Sequence[Write]) -> asyncio.Future[int]:
        return self._put(lambda db: self._store(db, writes), decided=True)

    def quarantine(self, data: bytes, reason: str, received: float) -> asyncio.Future[int]:
        return self._put(lambda db: _quarantine(db, data, reason, received))

    def ack(self, output: str, seq: int, express: int | None = None) -> asyncio.Future[int]:
        def job(db: sqlite3.Connection) -> int:
            db.execute(
                "INSERT INTO cursors VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET seq = max(seq, excluded.seq), express = max(express, excluded.express)",
                (output, seq, seq if express is None else express),
            )
            marks = ",".join("?" * len(self._outputs))
            low, lane, known = db.execute(
                f"SELECT min(seq), min(express), count(*) FROM cursors WHERE output IN ({marks})", self._outputs
            ).fetchone()
            if known == len(self._outputs) and low is not None:
                db.execute(
                    "UPDATE spool SET done = 1 WHERE done = 0 AND seq <= ? AND (NOT express OR seq <= ?)", (low, lane)
                )
            return seq

        return self._put(job)

    def book(self, transmitter: str, band: int, start_us: int, airtime_us: int) -> asyncio.Future[int]:
        def job(db: sqlite3.Connection) -> int:
            db.execute("INSERT INTO airtime VALUES (?, ?, ?, ?)", (transmitter, band, start_us, airtime_us))
            return 0

        return self._put(job)

    def purge(self, now: float) -> asyncio.Future[int]:
        return self._put(lambda db: int(self._retention.step(db, now)))

    def tell(self, reason: str, told: Mapping[str, Any] | None = None) -> asyncio.Future[int]:
        return self._put(lambda db: self._tell(db, reason, told or {}))

    def make_room(self) -> asyncio.Future[int]:
        def job(db: sqlite3.Connection) -> int:
            if self.full and self._reserve.hold():
                self.full = False
                log.warning("disk_has_room", store=str(self._path), free_mb=self._reserve.free() // MB)
            return int(not self.full)

        return self._put(job)

    def use_outputs(self, outputs: Iterable[str]) -> None:
        """Other outputs count from now on."""
        self._outputs = self._retention.outputs = tuple(outputs)

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
            if w.raw is not None and not self._keep_frame(db, w, w.raw):
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

    def _keep_frame(self, db: sqlite3.Connection, w: Write, r: RawFrame) -> bool:
        """Keep a raw frame; False when it is known already, and so is all that follows from it."""
        if w.again:
            return db.execute(
                "UPDATE frames SET reason = '' WHERE node = ? AND epoch = ? AND counter = ? AND reason <> ''",
                (r.node, r.epoch, r.counter),
            ).rowcount > 0  # fmt: skip
        if w.state is not None and w.state.replay.too_old(r.counter):
            row = db.execute("SELECT below FROM forgotten WHERE node = ? AND epoch = ?", (r.node, r.epoch)).fetchone()
            if row is not None and r.counter < row[0]:  # known once, perhaps: nobody can tell any more
                _quarantine(db, r.data, "forgotten", r.received)
                return False
        return db.execute(
            "INSERT OR IGNORE INTO frames VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (r.node, r.epoch, r.counter, r.kind, r.received, r.link, r.receiver, r.rssi, r.snr, r.reason, r.data),
        ).rowcount > 0  # fmt: skip

    def _spool(self, db: sqlite3.Connection, event: Event) -> int:
        at = db.execute(
            "INSERT INTO spool (received, body, express) VALUES (?, ?, ?)",
            (event.received, self._encode(event), express := is_express(event)),
        )
        seq = at.lastrowid or 0
        if express:
            self.newest_express = seq
        if event.command is not None:
            audit.enter(db, event)
        self.ledger.folding.add(db, seq, event)
        return seq

    def _write(self) -> None:
        try:
            db = connect(self._path)
        except sqlite3.Error:
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
            self.ledger.folding.flush(db)
            db.execute("COMMIT")
            self.transactions += 1
        except (sqlite3.Error, OverflowError, TypeError, ValueError) as e:
            self._poisoned = True
            self.ledger.folding.forget()
            if db is not None and db.in_transaction:
                db.execute("ROLLBACK")
            if isinstance(e, sqlite3.Error) and _no_room(e) and not self.full:
                self._reserve.give_up()
                self.full = True
                log.error("disk_full", store=str(self._path), error=str(e),
                          next="make room; until then only alarms are taken, and nodes keep the rest")  # fmt: skip
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


def _quarantine(db: sqlite3.Connection, data: bytes, reason: str, received: float) -> int:
    at = db.execute("INSERT INTO quarantine (received, reason, data) VALUES (?, ?, ?)", (received, reason, data))
    db.execute("DELETE FROM quarantine WHERE id <= ?", ((at.lastrowid or 0) - QUARANTINE_MAX,))
    return 0


def _no_room(e: sqlite3.Error) -> bool:
    """True when the disk did not take it: full, over a quota or a file size limit, or broken."""
    return getattr(e, "sqlite_errorcode", 0) & 0xFF in NO_ROOM


def _unusable(path: Path, e: sqlite3.Error) -> StoreError:
    return StoreError(f"store {path}: {e}", "look at free disk space, permissions and the health of the disk")


__all__ = ["Entry", "RawFrame", "SqliteEngine", "StoreError", "Write"]

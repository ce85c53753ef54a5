"""SQLite engine: WAL, synchronous=FULL, one writer thread (writer.py) that groups what is waiting into one transaction.

A future resolves only after COMMIT has returned, so whoever waits for it may tell the node "committed". Readers use their own
connection in the event loop's thread: WAL readers never wait for the writer.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from gateway.config.store import StoreConfig
from gateway.core.model import OPEN, Described, Event, NodeState
from gateway.core.value import replace
from gateway.store import audit, private, recovery, redaction, states, wal
from gateway.store.engine import NO_NOTES, STORE, Entry, RawFrame, StoreError, Unstorable, Write
from gateway.store.floor import Floor
from gateway.store.ledger import Ledger, born
from gateway.store.place import Place, index_of
from gateway.store.prepare import Entered, Prepared, encode_state, enter, prepare
from gateway.store.quarantine import PLACES, Quarantine
from gateway.store.reserve import Reserve
from gateway.store.retention import MB, Retention, newest_reception
from gateway.store.schema import BUSY_MS, RESTORED, TIME
from gateway.store.trust import Time
from gateway.store.writer import Writer, advice, no_room

QUARANTINE_MAX = PLACES
UNREAD = "unknown_schema"
CHECK_S = 5.0
WIPE_MS = 100  # that the writer waits for readers when the log is to be emptied

log = structlog.get_logger(__name__)


class SqliteEngine:
    """Opens (or makes) the store at `path` and owns it: a second process is refused. outputs: names whose cursors count.

    A damaged file is moved aside and what can be read of it is taken over; `recovered` says what was lost then, at every later start too.
    Must be made and used in one thread with a running event loop. Raises StoreError.
    """

    def __init__(
        self,
        path: Path,
        outputs: Iterable[str] = (),
        keep: StoreConfig | None = None,
        clock: Callable[[], float] = time.time,
        gateway: str = "gw-1",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._outputs = tuple(outputs)
        self._keep, self._clock, self._gateway = keep or StoreConfig(), clock, gateway
        self._lock = _lock(path)
        self._place, self.moved = Place(path), ("", "")
        try:
            self._place.hold()
            self._reserve = Reserve(path, self._keep.reserve_mb * MB)
            private.close_to_others(path, wal.path_of(path), index_of(path), Path(f"{path}.reserve"))
            self._floor = Floor(path)
            empty, log_found = not path.exists() or not path.stat().st_size, wal.look(path)
            self.unwiped = wal.size(path) > 0  # whoever wrote it may not have come to it
            now = clock()
            self._reader = self._open(now, log_found)
            self.unwiped |= self.note(redaction.CHANGED) == str(now).encode()  # the log holds what was taken out
            self.full = not self._reserve.hold()
            self.newest_express: int = (
                self._reader.execute("SELECT max(seq) FROM spool WHERE express").fetchone()[0] or 0
            )
            self.recovered = recovery.last(self._reader)
            since = self.note(TIME)
            self.time = Time(newest_reception(self._reader) if since is None else float(since), clock, monotonic)
            self._place.watch()
        except BaseException:
            self._place.close()
            os.close(self._lock)
            raise
        self.ledger = Ledger(
            self._reader,
            lambda job: self._writer.put(job),
            lambda db, e: self._spool(db, enter(e)),
            states.calm,
            states.bare,
            states.exchanged,
        )
        self._decode_event = msgspec.msgpack.Decoder(Event).decode
        self._quarantine, self._audit = Quarantine(), audit.Log()
        self._retention = Retention(self._keep, self._outputs, self._tell, path)
        self._salvaged: dict[int, NodeState] = {}
        self._wall = now
        if self.full:
            log.error("disk_full", store=str(path), next="make room; until then only alarms are taken")
        self._writer = Writer(path, self._not_taken, self._rolled_back, self._floor.end, self.ledger.folding.flush,
                              self._place.check)  # fmt: skip
        self._thread = self._writer.thread
        told = (self.recovered or {}).get("at") == now or self.note(RESTORED) == str(now).encode()
        self._say_how_it_was(empty, "whole" if told else log_found)

    def _open(self, now: float, log_found: wal.Found) -> sqlite3.Connection:
        for last_try in (False, True):
            try:
                db = recovery.open_sound(self._path, self._gateway, now, CHECK_S)
                try:
                    self._place.hold()  # a new store, or one that was recovered, is another file than before
                except StoreError:
                    db.close()
                    raise
                self._floor.begin(db, now)
                if self._floor.behind or not self._floor.orderly and log_found != "whole":
                    born(db)  # brokers may know what this store no longer does: their marks are not believed
                return db
            except sqlite3.Error as e:
                if last_try or not no_room(e) or not self._reserve.held:
                    raise StoreError(f"store {self._path}: {e}", advice(e, self._path)) from e
            self._reserve.give_up()  # not even room to open it: the alarms' room must do
        raise AssertionError("the second try returns or raises")

    def _say_how_it_was(self, empty: bool, log_found: wal.Found) -> None:
        """Log and tell what is missing of an earlier life: only who looks now can still find it."""
        mark, where = self._floor.before, {"store": str(self._path), "downlinks_above": self._floor.at}
        if strays := recovery.strays(self._path):
            log.error(
                "store_stray_file",
                store=str(self._path),
                files=strays,
                next="no recovery of this store made them, they are left alone: move them away; to restore one of them "
                "see the operator's page on backups",
            )
            self.tell("store_stray_file", {"files": strays})
        if empty and mark is not None:
            log.error(
                "store_gone",
                **where,
                next="a store that was here is gone or empty: look for it, and for what removed it; this is a new one",
            )
            self.tell("store_gone")
        elif self._floor.lost:
            log.warning(
                "floor_missing", **where, next="its file beside the store was lost or damaged; it is written anew"
            )
            self.tell("floor_missing")
        elif mark is not None and not empty and not self._floor.orderly:
            if log_found in ("none", "damaged"):
                reason = "wal_missing" if log_found == "none" else "wal_damaged"
                log.error(
                    reason,
                    **where,
                    next="frames that were acknowledged may be lost: look at the disk and at what removes files here",
                )
                self.tell(reason)
            else:
                log.info(
                    "store_not_closed",
                    **where,
                    next="nothing; downlink counters begin above all that may have been used",
                )

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
        except msgspec.MsgspecError as e:  # a page can be whole and its content rotten: say so, and take the next
            log.error("event_unreadable", seq=seq, error=str(e), next="citymote gateway check --store")
            return self._own("unreadable", {"events": 1, "seq": seq}, self._clock(), seq)

    def _own(self, reason: str, told: Mapping[str, Any], now: float, unique: int) -> Event:
        return Event(STORE, f"store:{reason}:{unique}", 0, self._gateway, OPEN, now, 0,
                     status={"reason": reason, **told})  # fmt: skip

    def _tell(self, db: sqlite3.Connection, reason: str, told: Mapping[str, Any]) -> int:
        """Spool what the store says of itself, in the writer's thread, where no clock may be asked: it calls back into the loop's."""
        return self._spool(db, enter(self._own(reason, told, self._wall, int(self._wall))))

    @property
    def floor(self) -> int:
        """What the downlink counters of every node begin above."""
        return self._floor.at

    def fresh(self) -> NodeState:
        return NodeState(down=self._floor.at)

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
            state = states.decode(row[0])
        except msgspec.MsgspecError as e:
            state = self._salvage(node, row[0], str(e))
        return state if state.down >= self._floor.at else replace(state, down=self._floor.at)

    def described(self, nodes: Sequence[int]) -> dict[int, Described]:
        found: dict[int, Described] = {}
        marks = ",".join("?" * len(nodes))
        for node, body in self._reader.execute(f"SELECT node, state FROM nodes WHERE node IN ({marks})", nodes):
            try:
                found[node] = states.describe(body)
            except msgspec.MsgspecError as e:
                found[node] = self._salvage(node, body, str(e))
        return found

    def _salvage(self, node: int, body: bytes, why: str) -> NodeState:
        """What can be read of a rotten state; where it was in the counters is known by the frames and by the floor."""
        state, lost = states.salvage(body)
        if "replay" in lost or "epoch" in lost:
            proven = states.replay_of(self._reader, node, None if "epoch" in lost else state.epoch)
            if proven is not None:
                state = replace(state, epoch=proven[0], replay=proven[1])
        if "down" in lost:
            state = replace(state, down=self._floor.ceiling)
        if self._salvaged.get(node) != state:
            self._salvaged[node] = state
            log.error("state_unreadable", node=node, error=why, lost=lost, counters_from=state.replay.next,
                      next="nothing; the node's next frame writes it anew. If it comes back: citymote gateway check --store")  # fmt: skip
        return state

    def check(self, state: NodeState) -> None:
        encode_state(state)

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

    def online(self) -> list[tuple[int, float]]:
        heard: list[tuple[int, float]] = []
        for node, body in self._reader.execute("SELECT node, state FROM nodes WHERE online"):
            try:
                heard.append((node, states.hear(body).heard))
            except msgspec.MsgspecError as e:
                heard.append((node, self._salvage(node, body, str(e)).heard))
        return heard

    def believed(self) -> float:
        return self.time.believed()

    def airtime(self, since_us: int) -> list[tuple[str, int, int, int]]:
        return self._reader.execute(
            "SELECT * FROM airtime WHERE start_us > ? ORDER BY start_us", (since_us,)
        ).fetchall()

    @property
    def waiting(self) -> int:
        """Jobs that are queued and not done."""
        return self._writer.waiting

    @property
    def transactions(self) -> int:
        """Transactions committed since the start."""
        return self._writer.transactions

    @property
    def floor_trouble(self) -> str:
        """Why the second copy of the downlink counters cannot be written, "" while it can."""
        return self._floor.trouble

    @property
    def quarantine_skipped(self) -> int:
        """Frames that were not kept because their reason had its share of the minute."""
        return self._quarantine.skipped

    def log_bytes(self) -> int:
        """Return the size of the write-ahead log; above some MB someone beside the gateway keeps reading."""
        return wal.size(self._path)

    # writing, through the writer thread

    def commit(self, writes: Sequence[Write]) -> asyncio.Future[int]:
        prepared: list[Prepared] = []
        for at, w in enumerate(writes):
            try:
                prepared.append(prepare(w))
            except Unstorable as e:
                e.at = at
                raise
        for w in writes:
            if w.raw is not None and w.event is not None and w.event.times and not w.again:
                self.time.heard(w.node, w.event.times[-1], w.event.received)
        ahead = self.time.at_least()
        if ahead is not None and self._floor.lift(ahead):
            log.warning("downlinks_moved", downlinks_above=self._floor.at,
                        next="nodes say that the host's clock is behind: look at its time service (timedatectl)")  # fmt: skip
        return self._writer.put(lambda db: self._store(db, prepared), decided=True)

    def quarantine(self, data: bytes, reason: str, received: float) -> asyncio.Future[int]:
        if not self._quarantine.may(reason, self._clock()):
            done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            done.set_result(0)
            return done

        def job(db: sqlite3.Connection) -> int:
            self._quarantine.keep(db, data, reason, received)
            return 0

        return self._writer.put(job)

    def ack(
        self, output: str, seq: int, express: int | None = None, notes: Mapping[str, bytes | None] = NO_NOTES
    ) -> asyncio.Future[int]:
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
            _keep_notes(db, notes)
            return seq

        return self._writer.put(job)

    def book(self, transmitter: str, band: int, start_us: int, airtime_us: int) -> asyncio.Future[int]:
        def job(db: sqlite3.Connection) -> int:
            db.execute("INSERT INTO airtime VALUES (?, ?, ?, ?)", (transmitter, band, start_us, airtime_us))
            return 0

        return self._writer.put(job)

    def purge(self, now: float) -> asyncio.Future[int]:
        self._wall = self._clock()

        def job(db: sqlite3.Connection) -> int:
            if self._retention.idle:
                self._audit.flush(db, self._wall)
                db.execute("INSERT INTO notes VALUES (?, ?) ON CONFLICT DO UPDATE SET body = excluded.body"
                           " WHERE CAST(notes.body AS REAL) < CAST(excluded.body AS REAL)", (TIME, str(now).encode()))  # fmt: skip
            return int(self._retention.step(db, now))

        return self._writer.put(job)

    def too_big(self) -> bool:
        """True when the store has passed its size limit: a pass of retention is due now."""
        return self._retention.too_big(self._reader)

    def tell(self, reason: str, told: Mapping[str, Any] | None = None) -> asyncio.Future[int]:
        self._wall = self._clock()
        return self._writer.put(lambda db: self._tell(db, reason, told or {}))

    def make_room(self) -> asyncio.Future[int]:
        def job(db: sqlite3.Connection) -> int:
            if self.full and self._reserve.hold():
                self.full = False
                log.warning("disk_has_room", store=str(self._path), free_mb=self._reserve.free() // MB)
            return int(not self.full)

        return self._writer.put(job)

    def wipe(self) -> None:
        self.unwiped = True

    def look(self) -> None:
        """Compare the store's files with what their paths name: `moved` is what is wrong with that, and what to do. Nothing is committed then."""
        was, self.moved = self.moved, self._place.look()
        if self.moved[0] and self.moved != was:
            log.error("store_moved", store=str(self._path), error=self.moved[0], next=self.moved[1])
        elif was[0] and not self.moved[0]:
            log.info("store_back", store=str(self._path), next="nothing: frames are taken again")

    def empty_log(self) -> asyncio.Future[int]:
        """Do what wipe() asked for, behind all that is queued: the result is 1, or 0 while a reader stands in the way."""
        self.unwiped = False

        def done(f: asyncio.Future[int]) -> None:
            self.unwiped |= f.cancelled() or f.exception() is not None or not f.result()

        future = self._writer.apart(lambda db: int(wal.empty(db, WIPE_MS, BUSY_MS)))
        future.add_done_callback(done)
        return future

    def use_outputs(self, outputs: Iterable[str]) -> None:
        """Other outputs count from now on."""
        self._outputs = self._retention.outputs = tuple(outputs)

    def use_limits(self, keep: StoreConfig) -> None:
        """Other limits hold from the next look at what may be dropped; the reserve on the disk is that of the start."""
        self._retention.keep = keep

    def resume(self) -> asyncio.Future[int]:
        return self._writer.resume()

    def close(self) -> None:
        self._writer.close()
        self._reader.close()
        self._place.close()
        os.close(self._lock)

    def _not_taken(self, e: sqlite3.Error) -> None:
        if no_room(e) and not self.full:
            self._reserve.give_up()
            self.full = True
            log.error("disk_full", store=str(self._path), error=str(e),
                      next="make room; until then only alarms are taken, and nodes keep the rest")  # fmt: skip

    def _store(self, db: sqlite3.Connection, writes: Sequence[Prepared]) -> int:
        seq = 0
        self._floor.raise_to(db, max((w.down for w in writes), default=0))
        db.executemany(
            "INSERT INTO nodes VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET online = excluded.online, state = excluded.state",
            [(w.node, w.online, w.state) for w in writes if w.state is not None],
        )
        for w in writes:
            if w.raw is not None and not self._keep_frame(db, w, w.raw):
                continue
            if w.event is not None:
                seq = self._spool(db, w.event)
                if w.rows:
                    db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?)", w.rows)
            for event in w.more:
                seq = self._spool(db, event)
            _keep_notes(db, w.notes)
        return seq

    def _keep_frame(self, db: sqlite3.Connection, w: Prepared, r: RawFrame) -> bool:
        """Keep a raw frame; False when it is known already, and so is all that follows from it."""
        if w.again:
            return db.execute(
                "UPDATE frames SET reason = '' WHERE node = ? AND epoch = ? AND counter = ? AND reason <> ''",
                (r.node, r.epoch, r.counter),
            ).rowcount > 0  # fmt: skip
        if w.too_old:
            row = db.execute("SELECT below FROM forgotten WHERE node = ? AND epoch = ?", (r.node, r.epoch)).fetchone()
            if row is not None and r.counter < row[0]:  # known once, perhaps: no one can tell any more
                self._quarantine.keep(db, r.data, "forgotten", r.received)
                return False
        return db.execute(
            "INSERT OR IGNORE INTO frames VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (r.node, r.epoch, r.counter, r.kind, r.received, r.link, r.receiver, r.rssi, r.snr, r.reason, r.data),
        ).rowcount > 0  # fmt: skip

    def _spool(self, db: sqlite3.Connection, event: Entered) -> int:
        at = db.execute(
            "INSERT INTO spool (received, body, express) VALUES (?, ?, ?)", (event.received, event.body, event.express)
        )
        seq = at.lastrowid or 0
        if event.express:
            self.newest_express = seq
        if event.step is not None:
            self._audit.enter(db, event.step)
        self.ledger.folding.add(db, seq, event.event)
        return seq

    def _rolled_back(self) -> None:
        self._quarantine.forget()
        self.ledger.folding.forget()


def _keep_notes(db: sqlite3.Connection, notes: Mapping[str, bytes | None]) -> None:
    for key, note in notes.items():
        if note is None:
            db.execute("DELETE FROM notes WHERE key = ?", (key,))
        else:
            db.execute("INSERT INTO notes VALUES (?, ?) ON CONFLICT DO UPDATE SET body = excluded.body", (key, note))


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


__all__ = ["Entry", "RawFrame", "SqliteEngine", "StoreError", "Unstorable", "Write"]

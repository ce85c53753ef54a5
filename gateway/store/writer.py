"""The one thread that writes: it groups what is waiting into one transaction.

Only the database fails a group. A job that raises anything else has changed nothing, fails alone, and is a bug that is logged.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from gateway.store.engine import StoreError
from gateway.store.schema import connect

GROUP = 256
NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
HELD = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
# what SQLite says of what it was given, not of itself
GIVEN = (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.IntegrityError, sqlite3.DataError)

log = structlog.get_logger(__name__)

Job = Callable[[sqlite3.Connection], int]
Item = tuple[Job, asyncio.Future[int], bool | None]  # None: apart


class Writer:
    """put() jobs; their futures resolve after COMMIT. failed(error) is called in the thread for a group that the database did not take,
    rolled_back() for every transaction or job whose changes are gone, last(db) at an orderly end, each(db)
    behind every job, as a part of it. check() raises sqlite3.Error while a commit would be in vain: nothing is written then, and nothing
    that was written before it raised is taken for durable."""

    def __init__(
        self,
        path: Path,
        failed: Callable[[sqlite3.Error], None],
        rolled_back: Callable[[], None],
        last: Callable[[sqlite3.Connection], None],
        each: Callable[[sqlite3.Connection], None] = lambda _db: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._path, self._failed, self._rolled_back, self._last = path, failed, rolled_back, last
        self._each, self._check = each, check
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._poisoned = False
        self.waiting = 0
        self.transactions = 0
        self.thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self.thread.start()

    def put(self, job: Job, decided: bool = False) -> asyncio.Future[int]:
        """Queue a job. decided: it rests on the jobs before it, and fails with them until resume()."""
        return self._enter(job, decided)

    def _enter(self, job: Job, decided: bool | None) -> asyncio.Future[int]:
        future: asyncio.Future[int] = self._loop.create_future()
        self.waiting += 1
        future.add_done_callback(self._settled)
        self._queue.put((job, future, decided))
        return future

    def apart(self, job: Job) -> asyncio.Future[int]:
        """Queue a job that must not run within a transaction (a checkpoint); what was queued before is committed before."""
        return self._enter(job, None)

    def resume(self) -> asyncio.Future[int]:
        """Take decided jobs again after a failure."""

        def job(_db: sqlite3.Connection) -> int:
            self._poisoned = False
            return 0

        return self.put(job)

    def close(self) -> None:
        """Finish what is queued and end the thread."""
        if self.thread.is_alive():
            self._queue.put(None)
            self.thread.join()

    def _settled(self, future: asyncio.Future[int]) -> None:
        self.waiting -= 1
        if not future.cancelled():
            future.exception()  # mark as seen: who cares has awaited it, cursors and books are written again later

    def _run(self) -> None:
        try:
            db = connect(self._path)
        except sqlite3.Error:
            db = None
        while (first := self._queue.get()) is not None:
            group = [first]
            stop = False
            while len(group) < GROUP and first[2] is not None:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    stop = True
                    break
                group.append(item)
                if item[2] is None:
                    break
            apart = group.pop() if group[-1][2] is None else None
            if group:
                self._group(db, group)
            if apart is not None:
                self._apart(db, *apart[:2])
            if stop:
                break
        if db is not None:
            try:
                self._last(db)
            except sqlite3.Error as e:
                log.warning("store_not_closed", store=str(self._path), error=str(e),
                            next="nothing; the next start counts downlinks from further ahead")  # fmt: skip
            db.close()

    def _group(self, db: sqlite3.Connection | None, group: list[Item]) -> None:
        done: list[tuple[asyncio.Future[int], int | StoreError]] = []
        try:
            if db is None:
                raise sqlite3.OperationalError("the store could not be opened for writing")
            self._check()
            db.execute("BEGIN IMMEDIATE")
            for job, future, decided in group:
                if decided and self._poisoned:
                    done.append((future, StoreError("an earlier commit failed")))
                else:
                    done.append((future, self._alone(db, job, decided is True)))
            db.execute("COMMIT")
            self._check()
            self.transactions += 1
        except sqlite3.Error as e:
            self._poisoned = True
            if db is not None and db.in_transaction:
                db.execute("ROLLBACK")
            self._rolled_back()
            self._failed(e)
            error = StoreError(f"commit failed: {e}", advice(e, self._path))
            done = [(future, error) for _, future, _ in group]
            time.sleep(0.05)  # a full disk stays full for a while: do not spin
        self._resolve(done)

    def _apart(self, db: sqlite3.Connection | None, job: Job, future: asyncio.Future[int]) -> None:
        result: int | StoreError
        try:
            if db is None:
                raise sqlite3.OperationalError("the store could not be opened for writing")
            self._check()
            result = job(db)
        except Exception as e:
            if not isinstance(e, sqlite3.Error):
                log.exception("store_job_failed", next="report this with the lines above; nothing else was affected")
            result = StoreError(f"not done: {type(e).__name__}: {e}", "look at the health of the disk")
        self._resolve([(future, result)])

    def _resolve(self, done: list[tuple[asyncio.Future[int], int | StoreError]]) -> None:
        try:
            self._loop.call_soon_threadsafe(_resolve, done)
        except RuntimeError:  # the loop is closed: no one is waiting any more
            return

    def _alone(self, db: sqlite3.Connection, job: Job, decided: bool) -> int | StoreError:
        """Run one job so that its failure is its own, unless it is the database's."""
        db.execute("SAVEPOINT job")
        try:
            result = job(db)
            self._each(db)
        except Exception as e:
            if isinstance(e, sqlite3.Error) and not isinstance(e, GIVEN):
                raise
            db.execute("ROLLBACK TO job")
            db.execute("RELEASE job")
            self._rolled_back()
            self._poisoned |= decided
            log.exception("store_job_failed", next="report this with the lines above; nothing else was affected")
            return StoreError(f"not stored: {type(e).__name__}", "report the traceback in the log")
        db.execute("RELEASE job")
        return result


def _resolve(done: list[tuple[asyncio.Future[int], int | StoreError]]) -> None:
    for future, result in done:
        if future.done():
            continue
        if isinstance(result, StoreError):
            future.set_exception(result)
        else:
            future.set_result(result)


def no_room(e: sqlite3.Error) -> bool:
    """True when the disk did not take it: full, over a quota or a file size limit, or broken."""
    return getattr(e, "sqlite_errorcode", 0) & 0xFF in NO_ROOM


def advice(e: sqlite3.Error, path: Path) -> str:
    """Say what to do about an error of the database."""
    if hint := getattr(e, "hint", ""):
        return hint
    if getattr(e, "sqlite_errorcode", 0) & 0xFF in HELD:
        return f"another program holds the store: end it (fuser -v {path.name} in the store's folder names it)"
    return "look at free disk space, permissions and the health of the disk"

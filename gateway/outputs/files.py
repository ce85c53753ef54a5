"""Daily files in a folder: JSON lines, CSV, Parquet; every row once, whatever ends the process.

Rows of the running day are in <day>.part, one JSON line each with the number of its event, synced to disk before the cursor moves.
After a crash the events behind the cursor come again; rows of theirs that the journal holds are not written twice. A line names the
store that gave the number, since one that was restored or lost gives numbers again. When the first event of another day (UTC, by time of receipt) arrives, the day's files are made (day.py) and the journal goes;
the next one begins with its first row.

Someone may remove, cut or replace the journal or its folder, also while no gateway runs. Inode and size are compared with what was written before
the rows of every batch and behind their sync, so the cursor moves only over rows that stand in the file of that name; at every open() size and
checksum are compared with what is noted beside the cursor (held.py). When they differ, what the file lacks is written again from the spool, which
keeps what every output has taken for spool_hours; what it no longer holds is counted and named in the log.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from io import BufferedWriter
from json import loads
from pathlib import Path
from typing import Any

import structlog

from gateway.config import FilesOutputConfig
from gateway.core.model import Node
from gateway.core.value import replace
from gateway.health import Problem
from gateway.metrics import Metrics
from gateway.outputs.day import PART, line, lines, stem
from gateway.outputs.destination import BATCH, Destination
from gateway.outputs.held import (
    FilesError,
    Held,
    altered,
    believed,
    difference,
    first_event,
    holds,
    is_day,
    key_of,
    moved,
    noted,
    opened,
    ours,
    whole,
)
from gateway.outputs.records import Record, records
from gateway.outputs.remains import Remains, key
from gateway.store.engine import NO_NOTES, Engine, Entry, StoreError

MIDNIGHT_S = 300.0  # an event of yesterday that comes this late still goes to today's journal
FINISH_S = 600.0
CHANGED_TOLD_S = 3600.0  # so long health says that someone has changed the file
SPOOLED = "the store's spool no longer holds these events: citymote gateway export gives readings of that day"
FORMER = "they are of a store that was here before this one, which does not hold them: a backup of that one, or a copy of the file, may"

log = structlog.get_logger(__name__)


class FilesOutput(Destination):
    """One folder; a second process or output that wants it is refused."""

    def __init__(
        self,
        config: FilesOutputConfig,
        gateway: str,
        engine: Engine,
        metrics: Metrics,
        info: Callable[[], dict[str, Any]],
        nodes: Mapping[int, Node],
    ) -> None:
        super().__init__(config, gateway, engine, metrics, info, nodes)
        self._folder, self._formats = config.folder, config.formats
        self._life = engine.ledger.life
        self._lock = -1
        self._day = ""
        self._running: Held | None = None  # across connections
        self._journal: BufferedWriter | None = None
        self._file = 0, 0  # device and inode of the journal
        self._crc = 0  # of what was written, synced or not
        self._strange: set[Path] = set()  # files of others that the log has named
        self._changed: tuple[float, str] | None = (
            None  # when the journal was found to be changed (monotonic s), and what became of it
        )
        self._mending = False
        self._unsynced = self._pending = 0  # bytes written and not synced; rows of events that are not taken yet
        # rows that the journal holds of events that may come: how many they are beside those that are counted (1, 0 of another store's)
        self._written: dict[str, int] = {}
        self._track.beside = self._beside

    def advice(self, error: Exception) -> str:
        """What the operator is to do next."""
        hint = f"make room and check the permissions of {self._folder}; data are kept in the store"
        if getattr(error, "errno", None) in (errno.EROFS, errno.EACCES, errno.EPERM):
            hint = (
                f"write below /var/lib/citymote (StateDirectory of the unit), or let the unit write to {self._folder}: systemctl edit "
                "citymote-gateway, [Service], ReadWritePaths=FOLDER, and give it to the gateway's user; data are kept in the store"
            )
        return getattr(error, "hint", "") or hint

    async def open(self) -> None:
        """Take the folder, finish days that are over, and learn what the running day's journal holds."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise FilesError(
                f"{self._folder} is in use by another output or gateway", "give each output its own folder"
            ) from e
        self._written.clear()
        self._journal = None
        await self._inherit()
        await self._finish_others()
        was = self._running = await self._known()
        if was is None:
            self._mending = False
        elif not self._mending and (lost := await asyncio.to_thread(altered, was)):
            self._found(lost)
        own = None if was is None else was.path
        days = [p for p in self._folder.glob(f"*{PART}") if p != own and p.is_file() and is_day(p)]
        days.sort(key=lambda p: p.stat().st_mtime)
        if was is None and days:
            own = days.pop()
        for journal in days:
            opened(journal).close()
            if was is None or 0 <= await asyncio.to_thread(first_event, journal) <= was.begun:
                await self._finish(journal.name.removesuffix(PART), self._formats)
            elif journal not in self._strange:  # a copy of the running day, or that file under another name
                self._strange.add(journal)
                log.warning("day_file_not_ours", output=self.name, file=str(journal),
                            next="nothing is done with it: move it away when it is not wanted here")  # fmt: skip
        if own is None:
            return
        opened(own).close()
        await asyncio.to_thread(self._resume, own, was)
        if self._mending and was is not None:
            await self._again(was)
        elif was is None:
            await self._keep()

    async def _inherit(self) -> None:
        """Go on with the journal of this output under its former name, or from where its folder was before: no event is written twice."""
        name, folder, cursor = self.name, str(self._folder), self._track.cursor
        if self._running is not None or any(held.key == key_of(name, folder) for held in noted(self._engine)):
            return
        for was in [*noted(self._engine)]:
            now = None
            if was.output == name and holds(self._engine, was, cursor):
                now = await asyncio.to_thread(moved, was, folder)
            elif was.folder == folder and not cursor and not was.ending and was.life == self._life:
                now = replace(
                    was, output=name
                )  # one that has taken nothing yet: this output has another name, or that one has left
            if now is not None:
                self._track.cursor = self._track.sent = max(cursor, was.seq)
                self._running, self._mending = now, False
                await self._keep({was.key: None})
                log.info("folder_taken_over", output=name, folder=folder, from_output=was.output, from_folder=was.folder,
                         events_to=was.seq)  # fmt: skip
                return

    async def _known(self) -> Held | None:
        """Return what is known of the journal from before, of this process or of another; None where its day has become files meanwhile."""
        was = self._running or believed(self._engine, self.name, str(self._folder), self._track.cursor)
        if was is not None and was.is_over:
            self._running = was = None
            await self._keep({key_of(self.name, str(self._folder)): None})
        return was

    async def _finish_others(self) -> None:
        """End the days of outputs that had this folder before: the lock says that they have it no more."""
        for held in noted(self._engine):
            if held.folder == str(self._folder) and held.output != self.name:
                if held.path.is_file():
                    await self._finish(held.stem, held.formats)
                elif held.rows and not held.is_over:
                    self._metrics.totals["file_rows_lost"] += held.rows
                    log.error("file_rows_lost", output=held.output, file=str(held.path), rows_lost=held.rows, events_above=held.begun,
                              events_to=held.seq, next="someone has removed it: citymote gateway export gives readings of that day")  # fmt: skip
                await self._keep({held.key: None})

    def _beside(self) -> Mapping[str, bytes]:
        """Return what the journal holds as of the cursor; nothing, so that what was noted stays, while it is not what it is to be."""
        return {} if self._running is None or self._mending else self._running.noted(self._track.cursor)

    async def _keep(self, notes: Mapping[str, bytes | None] = NO_NOTES) -> None:
        try:
            await self._track.keep(notes)
        except StoreError as e:
            raise FilesError(
                "the store does not keep the cursor", e.hint or "look at free disk space and the health of the disk"
            ) from e

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{PART}"

    def _resume(self, journal: Path, was: Held | None) -> None:
        """Go on with a journal: cut a torn line off, remember what is in it of events that will come again."""
        size, crc = whole(journal)
        if size < journal.stat().st_size:
            os.truncate(journal, size)
        cursor, first, rows = self._track.cursor, self._track.cursor + 1, 0
        tags, others = ours(self._life, was), 0
        for seq, life, row in lines(journal):
            other = seq >= 0 and life not in tags
            if other or seq > cursor:
                self._written[key(row)] = int(not other)
            if 0 <= seq <= cursor:
                first = min(first, seq)
            others += other
            rows += other or 0 <= seq <= cursor
        if was is not None and self._mending:
            rows, others = (
                was.rows,
                was.others,
            )  # what is to be there in the end: mending may fail, and begins anew then
        name = journal.name.removesuffix(PART)
        self._begin(name, first - 1 if was is None else was.begun, size, crc, rows, others)

    def _begin(self, name: str, begun: int, size: int = 0, crc: int = 0, rows: int = 0, others: int = 0) -> None:
        """Write to a journal from here on. Raises OSError."""
        journal = opened(self._path(name))
        found = os.fstat(journal.fileno())
        self._file = found.st_dev, found.st_ino
        self._running = Held(
            self.name, str(self._folder), self._life, name, begun, self._formats,
            self._track.cursor, size, crc, rows, others=others,
        )  # fmt: skip
        self._day, self._journal, self._crc = name[:10], journal, crc
        self._unsynced = self._pending = 0

    def _write(self, data: bytes) -> None:
        assert self._journal is not None
        self._journal.write(data)
        self._unsynced += len(data)
        self._crc = zlib.crc32(data, self._crc)

    async def _check(self) -> None:
        """Raise FilesError unless the journal at its path is the one that is written to, and as large as what was written and synced."""
        now = self._running
        if now is not None and self._journal is not None:
            self._judge(await asyncio.to_thread(difference, now.path, self._file, now.size))

    def _judge(self, found: str) -> None:
        if found:
            self._found(found)
            raise FilesError(found, "what it lacks is written again from the store; find what changes files here")

    def _found(self, found: str) -> None:
        if not self._mending:
            self._mending = True
            self._metrics.totals["files_changed"] += 1
            self._changed = time.monotonic(), f"{found}: what it lacks is being written again"
            log.error("file_changed", output=self.name, error=found,
                      next="nothing: what it lacks is written again from the store; find what changes files here")  # fmt: skip

    async def _again(self, was: Held) -> None:
        """Write again what the journal held of events up to the cursor, and lacks now, as far as the spool still holds it. Raises OSError."""
        now, upto = self._running, self._track.cursor
        assert now is not None
        front = self._engine.fetch(was.begun, 1)
        after = min(front[0].seq - 1, upto) if front else upto
        left = await asyncio.to_thread(Remains, was.path, after, upto, ours(self._life, was))
        at, written = after, 0
        while at < upto:
            entries = [e for e in self._engine.fetch(at, BATCH) if e.seq <= upto]
            if not entries:
                break
            at = entries[-1].seq
            rows = await self._missing(entries, left)
            for one in rows:
                self._write(one)
            written += len(rows)
            await asyncio.sleep(0)
        await self._settle(())
        now.rows, now.others = left.rows + written, left.others
        lacking = max(was.rows - now.rows, 0)
        # while the spool holds the whole day nothing of this store is lost: what is not written again is not for this output any more
        of_former = min(lacking, max(was.others - now.others, 0))
        lost = lacking if after > was.begun else of_former
        self._metrics.totals["file_rows_again"] += written
        self._metrics.totals["file_rows_lost"] += lost
        self._mending = False
        told = {"output": self.name, "file": str(was.path), "rows_again": written, "rows_lost": lost}
        if lacking > lost:
            told["rows_withheld"] = lacking - lost
        if of_former:
            told["of_a_former_store"] = of_former
        if lost:
            log.error(
                "file_rows_lost",
                **told,
                events_above=was.begun,
                events_to=after,
                next=SPOOLED if lost > of_former else FORMER,
            )
        else:
            log.warning("file_mended", **told)
        text = f"{told['file']} was removed or changed by someone: {written} rows were written again, {lost} are lost"
        self._changed = time.monotonic(), text
        await self._keep()

    async def _missing(self, entries: Sequence[Entry], left: Remains) -> list[bytes]:
        """Return the lines of events that are not in the journal."""
        found: list[tuple[int, list[Record]]] = []
        for entry in entries:
            event = self.narrow(entry.event)
            rows = [] if event is None else list(records(event, self.known.nodes))
            if left.of(entry.seq) < len(rows):
                found.append((entry.seq, rows))
        partly = {seq for seq, _ in found if left.of(seq)}
        there = await asyncio.to_thread(left.keys, partly) if partly else set[str]()
        return [
            line(seq, self._life, row)
            for seq, rows in found
            for row in rows
            if not (key(row) in there or key(row) in left.theirs)
        ]

    def problems(self) -> Iterable[Problem]:
        """Say that someone has changed the running day's file."""
        if self._changed is not None and (self._mending or time.monotonic() - self._changed[0] < CHANGED_TOLD_S):
            yield Problem("file_changed", f"output {self.name}: {self._changed[1]}",
                          f"find what removes or changes files in {self._folder}; the log's line file_rows_lost names what is lost")  # fmt: skip

    async def shut(self) -> None:
        """Close the journal and let the folder go."""
        journal, self._journal = self._journal, None
        if journal is not None:
            try:
                journal.close()
            except OSError as e:  # what it still held was not taken and comes again
                log.warning("journal_not_closed", output=self.name, error=str(e))
        self._day = ""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def take(self, entries: Sequence[Entry]) -> None:
        """Append the rows of events and sync them."""
        track, began = self._track, 0
        await self._check()
        for n, entry in enumerate(entries):
            day, event = self._day_of(entry.event.received), self.narrow(entry.event)
            rows = [] if event is None else list(records(event, self.known.nodes))
            # one without a row ends a day that is over, and begins none: a file without a row would be all that the running day has
            if (day > self._day or rows) and (day != self._day or rows and self._journal is None):
                await self._settle(entries[began:n])
                began = n
                await self._turn(day, bool(rows))
            track.begin(entry.seq, 1)
            for row in rows:
                if self._written and (more := self._written.pop(key(row), None)) is not None:
                    self._pending += more
                    continue
                self._pending += 1
                self._write(line(entry.seq, self._life, row))
                self._metrics.totals["file_rows"] += 1
        await self._settle(entries[began:])

    async def _settle(self, entries: Sequence[Entry]) -> None:
        journal, now = self._journal, self._running
        if journal is None or now is None:  # no row of theirs is for this output
            for entry in entries:
                self._track.finish(entry.seq)
            return
        size, crc = now.size + self._unsynced, self._crc

        def sync() -> str:
            journal.flush()
            os.fsync(journal.fileno())
            return difference(now.path, self._file, size)

        self._judge(await asyncio.to_thread(sync))
        now.size, now.crc, now.rows = size, crc, now.rows + self._pending
        self._unsynced = self._pending = 0
        for entry in entries:
            self._track.finish(entry.seq)

    def _day_of(self, received: float) -> str:
        """Return the day of an event: the running one for its last stragglers too."""
        day = _utc_day(received)
        return self._day if self._day and _utc_day(received + MIDNIGHT_S) == self._day else day

    async def _turn(self, day: str, has_rows: bool) -> None:
        """End the running day, if there is one, and begin another where it has rows."""
        await self.end_day()
        self._written.clear()
        self._day = day
        if has_rows:
            self._begin(await asyncio.to_thread(stem, self._folder, day), self._track.cursor)

    async def end_day(self) -> None:
        """Make the files of the running day, if there is one. What it holds must be known as taken before its journal goes. Raises OSError."""
        now = self._running
        if self._journal is None or now is None:
            return
        await self._check()
        self._journal.close()
        self._journal = None
        now.ending, now.formats = True, self._formats
        await self._keep()
        await self._finish(now.stem, now.formats)
        self._running = None
        await self._keep({now.key: None})

    async def _finish(self, name: str, formats: Sequence[str]) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.outputs.day", str(self._folder), name, *formats,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(FINISH_S):
                told, complaint = await process.communicate()
        except TimeoutError as e:
            raise FilesError(
                f"the files of {name} were not made in {FINISH_S:.0f} s", "look at the load of this machine"
            ) from e
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            last = complaint.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
            raise FilesError(
                f"the files of {name} were not made: {last[0]}",
                f"make room in {self._folder}; {name}{PART} holds the data",
            )
        made = loads(told)
        self._metrics.totals["file_rows_damaged"] += made["damaged"]
        log.info("day_finished", output=self.name, day=name, **made)


def _utc_day(t: float) -> str:
    return datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d")

"""Daily files in a folder: JSON lines, CSV, Parquet; every row once, whatever ends the process.

Rows of the running day are in <day>.part, one JSON line each with the number of its event, synced to disk before the cursor moves.
After a crash the events behind the cursor come again; rows of theirs that the journal holds are not written twice. When the first
event of another day (UTC, by time of receipt) arrives, the day's files are made (day.py) and the journal goes.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from io import BufferedWriter
from json import loads
from pathlib import Path
from typing import Any

import structlog

from gateway.config import FilesOutputConfig
from gateway.core.model import Node
from gateway.metrics import Metrics
from gateway.outputs.day import PART, lines, stem
from gateway.outputs.destination import Destination
from gateway.outputs.message import json
from gateway.outputs.records import records
from gateway.store.engine import Engine, Entry

MIDNIGHT_S = 300.0  # an event of yesterday that comes this late still goes to today's journal
FINISH_S = 600.0

log = structlog.get_logger(__name__)


class FilesError(OSError):
    """The folder cannot be used; `hint` says what to do."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


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
        self._lock = -1
        self._day = self._stem = ""  # the running day, and the name of its journal
        self._journal: BufferedWriter | None = None
        self._written: set[str] = set()  # ids of rows behind the cursor that the journal holds

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
        parts = sorted(self._folder.glob(f"*{PART}"), key=lambda p: p.stat().st_mtime)
        for journal in parts[:-1]:
            await self._finish(journal.name.removesuffix(PART))
        if parts:
            await asyncio.to_thread(self._resume, parts[-1])

    def _resume(self, journal: Path) -> None:
        """Go on with a journal: cut a torn line off, remember what is in it of events that will come again."""
        whole = 0
        with journal.open("rb") as f:
            for line in f:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
        if whole < journal.stat().st_size:
            os.truncate(journal, whole)
        self._written.update(_key(row) for seq, row in lines(journal) if seq > self._track.cursor)
        self._stem = journal.name.removesuffix(PART)
        self._day, self._journal = self._stem[:10], journal.open("ab")

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
        for n, entry in enumerate(entries):
            day = self._day_of(entry.event.received)
            if day != self._day:
                await self._settle(entries[began:n])
                began = n
                await self._turn(day)
            track.begin(entry.seq, 1)
            event = self.narrow(entry.event)
            if event is None:
                continue
            for row in records(event, self.known.nodes):
                if self._written and (key := _key(row)) in self._written:
                    self._written.discard(key)
                    continue
                assert self._journal is not None
                self._journal.write(json({"seq": entry.seq, **row}) + b"\n")
                self._metrics.totals["file_rows"] += 1
        await self._settle(entries[began:])

    async def _settle(self, entries: Sequence[Entry]) -> None:
        journal = self._journal
        if not entries or journal is None:
            return

        def sync() -> None:
            journal.flush()
            os.fsync(journal.fileno())

        await asyncio.to_thread(sync)
        for entry in entries:
            self._track.finish(entry.seq)

    def _day_of(self, received: float) -> str:
        """Return the day of an event: the running one for its last stragglers too."""
        day = _utc_day(received)
        return self._day if self._day and _utc_day(received + MIDNIGHT_S) == self._day else day

    async def _turn(self, day: str) -> None:
        """End the running day, if there is one, and begin another. What the day holds must be known as taken before its journal goes."""
        if self._journal is not None:
            await self._track.persist()
            if self._track.durable < self._track.cursor:
                raise FilesError(
                    "the store does not keep the cursor", "look at free disk space and the health of the disk"
                )
            self._journal.close()
            self._journal = None
            await self._finish(self._stem)
        self._written.clear()
        self._day, self._stem = day, stem(self._folder, day)
        self._journal = (self._folder / f"{self._stem}{PART}").open("ab")

    async def _finish(self, name: str) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.outputs.day", str(self._folder), name, *self._formats,
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


def _key(row: Mapping[str, Any]) -> str:
    """What a row is known by: its id, and its time, since ids of older gateways lack the epoch and repeat under a new key."""
    return f"{row['id']} {row['t']}"

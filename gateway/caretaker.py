"""Looks after the store while the gateway works: retention in small steps, a full disk told once and looked at again, what to say of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

from gateway.health import Problem
from gateway.metrics import Metrics
from gateway.outputs.message import iso
from gateway.store.retention import MB
from gateway.store.sqlite import SqliteEngine

PURGE_S = 300.0
SHARE = 0.2  # of the writer's time that retention may take while a pass lasts
SIZE_S = 5.0  # how often it is looked whether the size limit is passed
ROOM_S = (1.0, 60.0)  # how often a full disk is looked at again: the rarer the oftener it was full
WIPE_S = (1.0, 60.0)  # between two emptyings of the log: doubled while a reader stands in the way
WIPE_TOLD_S = 600.0  # so long a reader may stand there before health says so
REMEMBER_S = 7 * 86_400.0  # how long a recovery is a problem that someone should look at
LOG_BYTES = 64 * MB  # of the store's log file: more means that something beside the gateway keeps reading


class Caretaker:
    """tick() about twice a second, at monotonic time `now`. wake() tells the outputs that the store has said something itself."""

    def __init__(
        self, engine: SqliteEngine, metrics: Metrics, wake: Callable[[], None], unix: Callable[[], float]
    ) -> None:
        self._engine, self._metrics, self._wake, self._unix = engine, metrics, wake, unix
        self._purging = False
        self._purge_due = self._size_due = 0.0
        self._full = False
        self._wait, self._due = ROOM_S[0], 0.0
        self._newest = engine.newest()
        self._wipe_wait, self._wipe_due, self._wiping = WIPE_S[0], 0.0, False
        self._unwiped_since: float | None = None

    def tick(self, now: float, may_purge: bool) -> None:
        """Do what is due; may_purge False: the clock is in doubt, nothing counts as old."""
        engine = self._engine
        engine.look()
        self._metrics.gauges.update(
            store_full=engine.full, store_dropped=engine.dropped, store_log_bytes=engine.log_bytes(),
            store_downlinks_above=engine.floor, quarantine_skipped=engine.quarantine_skipped,
        )  # fmt: skip
        if now >= self._size_due:
            self._size_due = now + SIZE_S
            if engine.too_big():
                self._purge_due = now
        if may_purge and not self._purging and now >= self._purge_due:
            self._purge_due = now + PURGE_S
            self._purging = True
            self._purge()
        if engine.full != self._full:
            self._full = engine.full
            if engine.full:
                self._wait = ROOM_S[0] if now - self._due > ROOM_S[1] else min(self._wait * 2, ROOM_S[1])
                self._due = now + self._wait
            engine.tell("disk_full" if engine.full else "disk_has_room")
        if engine.full and now >= self._due:
            self._due = now + self._wait
            engine.make_room()
        self._wipe(now)
        if (newest := engine.newest()) != self._newest:
            self._newest = newest
            self._wake()

    def _wipe(self, now: float) -> None:
        """Take what secrets left behind out of the log, often enough and not for every command. A full disk keeps its log: alarms fit in."""
        engine = self._engine
        if engine.unwiped and self._unwiped_since is None:
            self._unwiped_since = now
        if not engine.unwiped or self._wiping or now < self._wipe_due or engine.full:
            return

        def done(emptied: asyncio.Future[int]) -> None:
            self._wiping = False
            if not emptied.cancelled() and emptied.exception() is None and emptied.result():
                self._wipe_wait, self._unwiped_since = WIPE_S[0], None
            else:
                self._wipe_wait = min(self._wipe_wait * 2, WIPE_S[1])
            self._wipe_due = now + self._wipe_wait

        self._wiping = True
        engine.empty_log().add_done_callback(done)

    def _purge(self) -> None:
        """Do one step of retention; the next follows when the writer has had its time for everything else."""
        began = time.monotonic()

        def done(step: asyncio.Future[int]) -> None:
            self._purging = not step.cancelled() and step.exception() is None and bool(step.result())
            if self._purging:
                asyncio.get_running_loop().call_later((time.monotonic() - began) * (1 / SHARE - 1), self._purge)

        self._engine.purge(self._engine.time.believed()).add_done_callback(done)

    def problems(self) -> Iterator[Problem]:
        """What is wrong with the store now."""
        text, what = self._engine.moved
        if text:
            yield Problem("store_moved", f"{text}: no frame is acknowledged", what, "failing")
        if self._engine.full:
            yield Problem("disk_full", "the disk is full: only alarms are taken, nodes keep the rest",
                          "make room on the store's disk (df); the gateway goes on by itself", "failing")  # fmt: skip
        if self._engine.dropped:
            yield Problem("store_dropped", f"{self._engine.dropped} events were given up at store.size_mb before every output had them",
                          "look at outputs that are away; raise store.size_mb")  # fmt: skip
        if self._engine.floor_trouble:
            yield Problem("floor_unwritten", f"the second copy of the downlink counters cannot be written: {self._engine.floor_trouble}",
                          "make the store's folder writable and look at the disk (dmesg)")  # fmt: skip
        if (size := self._engine.log_bytes()) > LOG_BYTES:
            yield Problem("store_log", f"the store's log file has grown to {size // MB} MB",
                          "end the program that keeps reading the store beside the gateway")  # fmt: skip
        if self._unwiped_since is not None and time.monotonic() - self._unwiped_since > WIPE_TOLD_S:
            yield Problem("store_unwiped", "the store's log still holds secrets of commands that have ended: something keeps it from being emptied",
                          "end the program that keeps reading the store beside the gateway; on a full disk make room")  # fmt: skip
        if ahead := self._engine.time.doubted():
            yield Problem("clock_doubted", f"the host's clock is {ahead / 86_400:.0f} days ahead of what the store has come to",
                          "if it is right, wait: history is dropped by age again as time is caught up with; else set it (timedatectl)")  # fmt: skip
        r = self._engine.recovered
        if r is not None and self._unix() - r["at"] < REMEMBER_S:
            yield Problem("store_recovered", f"the store was damaged on {iso(r['at'])}; tables that lost something: {', '.join(r['damaged']) or 'none'}",
                          "look at the health of the disk (dmesg, smartctl); keep the file that was moved aside")  # fmt: skip

    def info(self) -> dict[str, Any]:
        """What gw info says of the store."""
        r = self._engine.recovered
        recovered = {} if r is None else {"recovered": {**r, "at": iso(r["at"])}}
        return {"state": "full" if self._engine.full else "ok", "dropped": self._engine.dropped, **recovered}

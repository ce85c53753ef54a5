"""Looks after the store while the gateway works: retention in small steps, a full disk told once and looked at again, what to say of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from gateway.health import Problem
from gateway.metrics import Metrics
from gateway.outputs.message import iso
from gateway.store.sqlite import SqliteEngine

PURGE_S = 300.0
ROOM_S = (1.0, 60.0)  # how often a full disk is looked at again: the rarer the oftener it was full
REMEMBER_S = 7 * 86_400.0  # how long a recovery is a problem that somebody should look at


class Caretaker:
    """tick() about twice a second, at monotonic time `now`. wake() tells the outputs that the store has said something itself."""

    def __init__(
        self, engine: SqliteEngine, metrics: Metrics, wake: Callable[[], None], unix: Callable[[], float]
    ) -> None:
        self._engine, self._metrics, self._wake, self._unix = engine, metrics, wake, unix
        self._purging: asyncio.Future[int] | None = None
        self._purge_due = 0.0
        self._full = False
        self._wait, self._due = ROOM_S[0], 0.0
        self._newest = engine.newest()

    def tick(self, now: float, may_purge: bool) -> None:
        """Do what is due; may_purge False: the clock is in doubt, nothing counts as old."""
        engine = self._engine
        self._metrics.gauges.update(store_full=engine.full, store_dropped=engine.dropped)
        if may_purge and (self._purging is None or self._purging.done()):
            p = self._purging
            more = p is not None and not p.cancelled() and p.exception() is None and p.result()
            if more or now >= self._purge_due:
                if not more:
                    self._purge_due = now + PURGE_S
                self._purging = engine.purge(self._unix())
        if engine.full != self._full:
            self._full = engine.full
            if engine.full:
                self._wait = ROOM_S[0] if now - self._due > ROOM_S[1] else min(self._wait * 2, ROOM_S[1])
                self._due = now + self._wait
            engine.tell("disk_full" if engine.full else "disk_has_room")
        if engine.full and now >= self._due:
            self._due = now + self._wait
            engine.make_room()
        if (newest := engine.newest()) != self._newest:
            self._newest = newest
            self._wake()

    def problems(self) -> Iterator[Problem]:
        """What is wrong with the store now."""
        if self._engine.full:
            yield Problem("disk_full", "the disk is full: only alarms are taken, nodes keep the rest",
                          "make room on the store's disk (df); the gateway goes on by itself", "failing")  # fmt: skip
        if self._engine.dropped:
            yield Problem("store_dropped", f"{self._engine.dropped} events were given up at store.size_mb before every output had them",
                          "look at outputs that are away; raise store.size_mb")  # fmt: skip
        r = self._engine.recovered
        if r is not None and self._unix() - r["at"] < REMEMBER_S:
            yield Problem("store_recovered", f"the store was damaged on {iso(r['at'])}; tables that lost something: {', '.join(r['damaged']) or 'none'}",
                          "look at the health of the disk (dmesg, smartctl); keep the file that was moved aside")  # fmt: skip

    def info(self) -> dict[str, Any]:
        """What gw info says of the store."""
        r = self._engine.recovered
        recovered = {} if r is None else {"recovered": {**r, "at": iso(r["at"])}}
        return {"state": "full" if self._engine.full else "ok", "dropped": self._engine.dropped, **recovered}

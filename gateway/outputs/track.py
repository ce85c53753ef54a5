"""How far a destination has come: events handed over, taken, and known on disk as taken. Shared by every kind of output.

Events go out in order and may be taken in any order; the cursor moves over a finished prefix only, and its place on disk follows
every PERSIST_S. At most SPAN events run ahead of the disk, so that is how many can come twice after a crash.
"""

from __future__ import annotations

import asyncio
from collections import deque

import structlog

from gateway.store.engine import Engine, StoreError

SPAN = 256  # events that may be handed over ahead of the durable cursor
PERSIST_S = 0.2

log = structlog.get_logger(__name__)


class Track:
    """cursor: newest event that was taken, and all before it. durable: the same on disk. sent: newest that was handed over.

    highest: newest that may have been handed over before, by a former connection or process. news: set whenever anything of this
    changes, or the spool grows.
    """

    def __init__(self, name: str, engine: Engine) -> None:
        self._name, self._engine = name, engine
        self.cursor = self.durable = self.sent = engine.cursor(name)
        self.highest = min(self.cursor + SPAN, engine.newest())
        self.news = asyncio.Event()
        self.moved = asyncio.Event()
        self._open: deque[list[int]] = deque()  # [event, parts outstanding], oldest first
        self._counts: dict[int, list[int]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def room(self) -> int:
        """How many more events may be handed over."""
        return SPAN - (self.sent - self.durable)

    def restart(self) -> None:
        """Forget what is in flight: what was not taken is handed over again from the cursor."""
        self.highest = max(self.highest, self.sent)
        self.sent = self.cursor
        self._open.clear()
        self._counts.clear()

    def passes_gap(self) -> bool:
        """Move over events that the spool no longer holds (a new output comes to a store that let them go); True if there were any."""
        newest = self._engine.newest()
        if self._open or newest <= self.sent or self._engine.fetch(self.sent, 1):
            return False
        self.cursor = self.sent = newest
        self.moved.set()
        return True

    def begin(self, seq: int, parts: int) -> None:
        """An event is about to go out in so many parts, one of which may be the caller's own."""
        self.sent = seq
        count = self._counts[seq] = [seq, parts]
        self._open.append(count)

    def finish(self, seq: int, parts: int = 1) -> None:
        """Parts of an event were taken."""
        self._counts[seq][1] -= parts
        while self._open and not self._open[0][1]:
            self.cursor = self._open.popleft()[0]
            del self._counts[self.cursor]
            self.news.set()
        self.moved.set()
        if self.cursor > self.durable and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PERSIST_S, self._persist)

    async def drained(self) -> None:
        """Wait until everything committed so far has been taken, and the cursor is durable."""
        target = self._engine.newest()
        while self.cursor < target:
            self.moved.clear()
            await self.moved.wait()
        await self.persist()

    async def persist(self) -> None:
        """Make the cursor durable now. A store that cannot is told in the log; the next try comes with the next event."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.cursor > self.durable:
            try:
                await self._persist()
            except StoreError as e:
                log.error("cursor_not_kept", output=self._name, error=str(e))
                await asyncio.sleep(1.0)

    def _persist(self) -> asyncio.Future[int]:
        self._timer = None
        seq = self.cursor

        def kept(future: asyncio.Future[int]) -> None:
            if not future.cancelled() and future.exception() is None:
                self.durable = max(self.durable, seq)
                self.news.set()

        future = self._engine.ack(self._name, seq)
        future.add_done_callback(kept)
        return future

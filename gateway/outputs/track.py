"""How far a destination has come: events handed over, taken, and known on disk as taken. Shared by every kind of output.

Events go out in order and may be taken in any order; the cursor moves over a finished prefix only, and its place on disk follows
every PERSIST_S. At most SPAN events run ahead of the disk, so that is how many can come twice after a crash (as many alarms again
where they have a lane of their own).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

import structlog

from gateway.store.engine import NO_NOTES, Engine, StoreError

SPAN = 256  # events that may be handed over ahead of the durable cursor
PERSIST_S = 0.2

log = structlog.get_logger(__name__)


class Order:
    """One lane: events that go out in order, and may be taken in any.

    cursor: newest event that was taken, and all of the lane before it. durable: the same on disk. sent: newest that was handed over.
    highest: newest that may have been handed over before, by a former connection or process.
    """

    def __init__(self, cursor: int, highest: int, moved: Callable[[], None]) -> None:
        self.cursor = self.durable = self.sent = cursor
        self.highest = highest
        self._moved = moved
        self._open: deque[list[int]] = deque()  # [event, parts outstanding], oldest first
        self._counts: dict[int, list[int]] = {}

    def restart(self) -> None:
        """Forget what is in flight: what was not taken is handed over again from the cursor."""
        self.highest = max(self.highest, self.sent)
        self.sent = self.cursor
        self._open.clear()
        self._counts.clear()

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
            self._passed()
        self._moved()

    def _passed(self) -> None:
        return None


class Express(Order):
    """The lane of alarms: they go out before any backlog. Its events are few and far between, so the span is counted, not measured."""

    def __init__(self, name: str, engine: Engine, moved: Callable[[], None]) -> None:
        cursor = engine.express_cursor(name)
        before = engine.fetch_express(cursor, SPAN)
        super().__init__(cursor, before[-1].seq if before else cursor, moved)
        self._engine = engine
        self._ahead: deque[int] = deque()  # events taken, but not known on disk as taken

    @property
    def room(self) -> int:
        """How many more events may be handed over."""
        return SPAN - len(self._ahead) - len(self._open)

    @property
    def waits(self) -> bool:
        """True when there are events to hand over."""
        return self._engine.newest_express > self.sent

    def _passed(self) -> None:
        self._ahead.append(self.cursor)

    def kept(self, seq: int) -> None:
        """The cursor is on disk as far as `seq`."""
        self.durable = max(self.durable, seq)
        while self._ahead and self._ahead[0] <= seq:
            self._ahead.popleft()


class Track(Order):
    """How far one destination has come. news: set whenever anything of this changes, or the spool grows. moved: a cursor has.

    lane: the express lane, for a destination that has one: then what is in it is none of this order's business. beside: returns what is
    noted in the commit that moves the cursor.
    """

    def __init__(self, name: str, engine: Engine, express: bool = False) -> None:
        cursor = engine.cursor(name)
        super().__init__(cursor, min(cursor + SPAN, engine.newest()), self._has_moved)
        self._name, self._engine = name, engine
        self.news = asyncio.Event()
        self.moved = asyncio.Event()
        self.lane = Express(name, engine, self._has_moved) if express else None
        self._timer: asyncio.TimerHandle | None = None
        self.beside: Callable[[], Mapping[str, bytes | None]] = lambda: NO_NOTES

    @property
    def room(self) -> int:
        """How many more events may be handed over."""
        return SPAN - (self.sent - self.durable)

    @property
    def is_durable(self) -> bool:
        """True when the disk knows all that was taken."""
        return self.cursor == self.durable and (self.lane is None or self.lane.cursor == self.lane.durable)

    def restart(self) -> None:
        super().restart()
        if self.lane is not None:
            self.lane.restart()

    def passes_gap(self) -> bool:
        """Move over events that the spool no longer holds (a new output comes to a store that let them go); True if there were any."""
        newest = self._engine.newest()
        if self._open or newest <= self.sent or self._engine.fetch(self.sent, 1):
            return False
        self.cursor = self.sent = newest
        self.moved.set()
        return True

    def _has_moved(self) -> None:
        self.news.set()
        self.moved.set()
        if not self.is_durable and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PERSIST_S, self._persist)

    async def drained(self) -> None:
        """Wait until everything committed so far has been taken, and the cursor is durable."""
        target = self._engine.newest()
        while self.cursor < target or (self.lane is not None and self._engine.fetch_express(self.lane.cursor, 1)):
            self.moved.clear()
            await self.moved.wait()
        await self.persist()

    async def persist(self) -> None:
        """Make the cursor durable now. A store that cannot is told in the log; the next try comes with the next event."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.is_durable:
            try:
                await self._persist()
                await asyncio.sleep(0)  # an engine may answer at once: let what waits for the answer run
            except StoreError as e:
                log.error("cursor_not_kept", output=self._name, error=str(e))
                await asyncio.sleep(1.0)

    async def keep(self, notes: Mapping[str, bytes | None] = NO_NOTES) -> None:
        """Make the cursor durable with what is beside it, and with these notes. Raises StoreError."""
        if self._timer is not None:
            self._timer.cancel()
        await self._persist(notes)

    def _persist(self, notes: Mapping[str, bytes | None] = NO_NOTES) -> asyncio.Future[int]:
        self._timer = None
        seq, lane = self.cursor, self.lane
        express = None if lane is None else lane.cursor

        def kept(future: asyncio.Future[int]) -> None:
            if not future.cancelled() and future.exception() is None:
                self.durable = max(self.durable, seq)
                if lane is not None and express is not None:
                    lane.kept(express)
                self.news.set()

        future = self._engine.ack(self._name, seq, express, {**self.beside(), **notes})
        future.add_done_callback(kept)
        return future

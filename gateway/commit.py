"""From a decision to the disk: frames wait a moment for copies, are committed in groups, and only then is anyone answered.

A failed commit forgets every state decided since, so that nothing is acknowledged that is not on disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from gateway.metrics import Metrics
from gateway.states import States
from gateway.store.engine import Engine, StoreError, Unstorable, Write
from gateway.supervise import caught
from gateway.unstorable import REASON, storable
from gateway.work import Work

RESUME_S = 1.0

log = structlog.get_logger(__name__)


class Commits:
    """put() frames, commit() what comes without one. Set by the pipeline: `committed` (writes that are on disk), `answer` (a frame that
    is), `finished` (a frame that is on disk or never gets there), `forget` (a commit has failed: only what is on disk counts)."""

    def __init__(self, engine: Engine, states: States, metrics: Metrics) -> None:
        self._engine, self._states, self._metrics = engine, states, metrics
        self._loop = asyncio.get_running_loop()
        self.committed: Callable[[list[Write]], None]
        self.answer: Callable[[Work], None]
        self.finished: Callable[[Work], None]
        self.forget: Callable[[], None]
        self.collect_s: dict[str, float] = {}  # by link: how long its frames wait for copies
        self._collecting: list[Work] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self.in_flight: set[asyncio.Future[int]] = set()
        self._generation = 0

    def put(self, work: Work, link: str) -> None:
        """Take a decided frame; it is committed when copies have had their time."""
        self._collecting.append(work)
        wait = self.collect_s.get(link, 0.0)
        due = self._loop.time() + wait
        if self._timer is None or due < self._timer_due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._timer_due = self._loop.call_later(wait, self.flush), due

    def flush(self) -> None:
        """Wait for no further copies: hand what was decided to the store."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        works, self._collecting = self._collecting, []
        if works:
            self.commit([self._write(w) for w in works], works)

    def _write(self, w: Work) -> Write:
        """Return what is to be stored of a frame: what cannot be put together for one of them is that one's fault."""
        try:
            return w.write()
        except Exception as e:
            caught(self._metrics, "write", e)
            self._metrics.refused[REASON] += 1
        try:
            return w.least(REASON)
        except Exception as e:
            caught(self._metrics, "write", e)
        if w.heard is not None:
            self._engine.quarantine(w.heard.first.data, REASON, w.heard.first.received)
        return Write(w.node.id, w.decision.state)

    def commit(
        self, writes: list[Write], works: list[Work], then: Callable[[], None] | None = None
    ) -> asyncio.Future[int]:
        """Hand writes to the store; `then` is called once they are on disk, and not when they never get there."""
        generation = self._generation
        if not works:  # decisions without a frame: their states must stay in memory until they are on disk all the same
            for w in writes:
                self._states.hold(w.node)
        try:
            future = self._engine.commit(writes)
        except Exception as e:
            # Unstorable, or a fault of ours while it was looked at: of one of them, not of the group
            if not isinstance(e, Unstorable):
                caught(self._metrics, "commit", e)
            writes = storable(writes, self._engine, self._metrics)
            future = self._commit(writes)
        self.in_flight.add(future)
        future.add_done_callback(lambda f: self._after(f, generation, writes, works, then))
        return future

    def _commit(self, writes: list[Write]) -> asyncio.Future[int]:
        """Hand over what is known to be storable. Whatever is raised all the same is a failed commit: whoever waits for it is released."""
        try:
            return self._engine.commit(writes)
        except Exception as e:
            caught(self._metrics, "commit", e)
            failed: asyncio.Future[int] = self._loop.create_future()
            failed.set_exception(StoreError(f"not stored: {type(e).__name__}", "report the log's line `internal`"))
            return failed

    def _after(
        self,
        future: asyncio.Future[int],
        generation: int,
        writes: list[Write],
        works: list[Work],
        then: Callable[[], None] | None,
    ) -> None:
        self.in_flight.discard(future)
        if not works:
            for write in writes:
                self._states.release(write.node)
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._failed(error, generation, len(works))
        else:
            self._guarded(self.committed, writes)
        for w in works:
            if error is None:
                self._guarded(self.answer, w)
            self._guarded(self._done, w)
        if error is None and then is not None:
            self._guarded(then)

    def _guarded(self, call: Callable[..., None], *args: object) -> None:
        """An exception of ours behind a commit is one frame's: what was committed beside it is answered and released all the same."""
        try:
            call(*args)
        except Exception as e:
            caught(self._metrics, "answer", e)

    def _done(self, w: Work) -> None:
        self.finished(w)
        self._states.release(w.node.id)
        if not w.done.done():
            w.done.set_result(None)

    def _failed(self, error: BaseException, generation: int, frames: int) -> None:
        self._metrics.refused["store_failed"] += frames
        if generation != self._generation:
            return  # decided on the same dead state as the one that failed first
        self._generation += 1
        # what waits for copies was decided on that state too: it goes the same way, the nodes will resend
        works, self._collecting = self._collecting, []
        self.forget()
        log.error("commit_failed", error=str(error), next=getattr(error, "hint", "") or "look at the log above")
        for w in works:
            self._metrics.refused["store_failed"] += 1
            self._done(w)
        self._resume()

    def _resume(self) -> None:
        def after(f: asyncio.Future[int]) -> None:
            if not f.cancelled() and f.exception() is not None:
                self._loop.call_later(RESUME_S, self._resume)

        self._engine.resume().add_done_callback(after)

"""What becomes of exceptions of ours: none ends a task unnoticed, none takes more with it than the one frame, request or step it met.

Two means. caught() is called where a boundary's handler has failed: counted as `internal`, logged once per place, shown in health.
Watch keeps tasks: one that ends while no one is stopping it, whether it returned, raised or was cancelled, is counted
(`restarts`), logged, shown in health and made anew with back-off. One that cannot be revived makes `alive` false, and then the watchdog is
not fed.
"""

from __future__ import annotations

import asyncio
import re
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import structlog

from gateway.health import Problem
from gateway.metrics import Fault, Metrics

BACKOFF_S = (1.0, 30.0)  # before a part is made anew: doubled every time, up to the second
STEADY_S = 60.0  # a part that ran for so long begins its back-off anew
TOLD_S = 600.0  # so long health shows what happened
TRIES = 8  # restarts in a row after which a part counts as one that cannot be revived
STEPS = 120  # failures in a row of a step of the main loop (twice a second), with the same meaning
MAX_FAULTS = 200  # places kept apart; code has only so many
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|b'[^']*'")

log = structlog.get_logger(__name__)


def caught(metrics: Metrics, where: str, error: BaseException) -> None:
    """Count and log an exception of ours that a boundary has stopped. where: a name from code or configuration, never from the outside.

    The log gets type, place and text without what is quoted in it (it may be anybody's data): once per place, then once an hour with
    how often it came.
    """
    metrics.refused["internal"] += 1
    frames = traceback.extract_tb(error.__traceback__)
    at = [f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in frames]
    key = (where, type(error).__name__, at[-1] if at else "")
    now = time.monotonic()
    fault = metrics.faults.get(key)
    if fault is None:
        if len(metrics.faults) >= MAX_FAULTS:
            del metrics.faults[min(metrics.faults, key=lambda k: metrics.faults[k].seen)]
        fault = metrics.faults[key] = Fault(where, key[1], key[2])
    fault.count += 1
    fault.seen = now
    if fault.told is None or now - fault.told >= 3600:
        fault.told = now
        log.error(
            "internal", where=where, error=f"{key[1]}: {_QUOTED.sub('...', str(error))[:200]}", at=at[-6:], count=fault.count,
            next="this is a fault of the gateway: report it with this line; the frame or request it met was left out, all else goes on",
        )  # fmt: skip


def faults(metrics: Metrics, now: float | None = None) -> Iterator[Problem]:
    """Say which exceptions were stopped within TOLD_S, one problem per place."""
    now = time.monotonic() if now is None else now
    for f in metrics.faults.values():
        if now - f.seen < TOLD_S:
            yield Problem(
                "internal", f"{f.where}: {f.error} at {f.at}, {f.count} times",
                "this is a fault of the gateway: report it with the log's line `internal`",
            )  # fmt: skip


class Kept:
    """One task that runs until stop(). Made by Watch.keep()."""

    def __init__(self, part: str, make: Callable[[], Coroutine[Any, Any, None]], metrics: Metrics) -> None:
        self.part, self.restarts, self.why = part, 0, ""
        self.ended_at = float("-inf")
        self._make, self._metrics = make, metrics
        self._stopping = False
        self._row = 0  # restarts since it last ran for STEADY_S
        self._began = 0.0
        self._task: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._begin()

    @property
    def revivable(self) -> bool:
        """False once TRIES restarts in a row did not help."""
        if self._row >= TRIES and self._task is not None and time.monotonic() - self._began >= STEADY_S:
            self._row = 0
        return self._row < TRIES

    def _begin(self) -> None:
        self._again = None
        self._began = time.monotonic()
        self._task = asyncio.create_task(self._make(), name=self.part)
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._stopping or task is not self._task:
            return
        self._task = None
        now = time.monotonic()
        if now - self._began >= STEADY_S:
            self._row = 0
        wait = min(BACKOFF_S[0] * 2**self._row, BACKOFF_S[1])
        self._row += 1
        self.restarts += 1
        self.ended_at = now
        self._metrics.restarts[self.part.replace(" ", "-")] += 1
        self.why = "was cancelled" if task.cancelled() else "returned" if error is None else type(error).__name__
        if error is not None:
            caught(self._metrics, self.part, error)
        log.error(
            "part_ended", part=self.part, why=self.why, restarts=self.restarts, retry_s=wait,
            next="it is made anew; report this line as a fault of the gateway",
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        if not loop.is_closed():
            self._again = loop.call_later(wait, self._begin)

    def may_end(self) -> None:
        """From now on its end is in order."""
        self._stopping = True
        if self._again is not None:
            self._again.cancel()

    async def stop(self) -> None:
        """End it for good; returns when it has ended."""
        self.may_end()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class Watch:
    """All tasks of the rim by part, and the steps of the loop that feeds the watchdog."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._kept: list[Kept] = []
        self._failed: dict[str, int] = {}

    def keep(self, part: str, make: Callable[[], Coroutine[Any, Any, None]]) -> Kept:
        """Run make() from now on until stop() of what this returns; part: what an operator calls it, "output city"."""
        kept = Kept(part, make, self._metrics)
        self._kept = [k for k in self._kept if not k._stopping]
        self._kept.append(kept)
        return kept

    def step(self, name: str, call: Callable[[], object]) -> None:
        """Do one step of the main loop; an exception of ours is caught(), and the next step is done all the same."""
        try:
            call()
        except Exception as e:
            self._failed[name] = self._failed.get(name, 0) + 1
            caught(self._metrics, name, e)
        else:
            self._failed.pop(name, None)

    def _dead(self) -> list[str]:
        parts = [k.part for k in self._kept if not k._stopping and not k.revivable]
        return parts + [name for name, n in self._failed.items() if n >= STEPS]

    @property
    def alive(self) -> bool:
        """False when a part cannot be revived: the watchdog is to restart the process then."""
        return not self._dead()

    def problems(self) -> Iterator[Problem]:
        """Say which parts have ended lately, and which cannot be revived."""
        dead = self._dead()
        for part in dead:
            yield Problem("part_dead", f"{part} ends again and again", "the watchdog restarts the gateway; report the log's lines part_ended and internal", "failing")  # fmt: skip
        now = time.monotonic()
        for k in self._kept:
            if not k._stopping and k.part not in dead and now - k.ended_at < TOLD_S:
                yield Problem("part_restarted", f"{k.part} ended unexpectedly ({k.why}) and was made anew, {k.restarts} times so far",
                              "report the log's lines part_ended and internal as a fault of the gateway")  # fmt: skip
        yield from faults(self._metrics, now)

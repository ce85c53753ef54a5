"""Reading the configuration again while the gateway runs. Whatever is in the files, a reload ends with READY, and says how it ended.

A refused reload changes nothing, and stays visible (log, STATUS, health) until one is accepted. One whose files lack something (asked.py) is
refused the first time: a file is empty, or half there, while an editor or a copy writes it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import structlog

from gateway.asked import files_of, lacking, was_of
from gateway.config import Config, ConfigError, load
from gateway.health import Problem
from gateway.links.link import LinkError
from gateway.metrics import Metrics
from gateway.supervise import caught
from gateway.withheld import Shrunk

READ_S = 90.0  # less than `citymote gateway reload` waits; 25,000 nodes take seconds; what takes longer is no configuration, or no disk
SURE_S = 5.0  # between the two: longer than a file stands half written
SURE_FOR_S = 600.0  # who asks for the second time later than this has seen to something else in between

log = structlog.get_logger(__name__)


Report = Callable[[float, list[tuple[str, str]]], None]
"""Gets when a reload began (monotonic seconds) and its mistakes, each with what to do next; no mistakes: it is in force."""

Apply = Callable[[Config], Awaitable[None]]
"""Puts a configuration in force. Raises ConfigError or LinkError while nothing has changed yet."""


class Reloads:
    """Serves requests for a reload one after another. current(): the configuration in force; settled(): called after each."""

    def __init__(
        self,
        metrics: Metrics,
        current: Callable[[], Config],
        apply: Apply,
        say: Callable[[str], object],
        settled: Callable[[], str],
        report: Report = lambda _began, _mistakes: None,
        clock: Callable[[], float] = time.monotonic,
        shrunk: Shrunk | None = None,
    ) -> None:
        self._report = report
        self._metrics, self._current, self._apply, self._say, self._settled = metrics, current, apply, say, settled
        self._clock = clock
        self._wanted = asyncio.Event()
        if shrunk is None:
            shrunk = Shrunk()
            shrunk.was = was_of(current(), files_of(current()))
        self._shrunk = shrunk
        self._asked: tuple[Any, float] | None = None  # what was refused for what it lacks, and when
        self.refused: Exception | None = None
        self._in_part = False
        self._mistakes: list[tuple[str, str]] = []

    def want(self) -> None:
        """Ask for a reload; asked twice while one is under way, it is done twice."""
        self._wanted.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            began, self._mistakes = time.monotonic(), []
            self._say(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                await self._once()
                self._report(began, self._mistakes)
                await asyncio.to_thread(sys.stderr.flush)  # whoever waits for READY finds in the log how it ended
            finally:
                self._say("READY=1\nSTATUS=" + self._settled())

    async def _once(self) -> None:
        try:
            c = await self._read()
            self._enough(c)
        except Exception as e:
            self._refuse(e)
            return
        try:
            await self._apply(c)
        except (ConfigError, LinkError) as e:
            self._refuse(e)
        except Exception as e:  # some of it is in force, and no one knows which
            self._in_part = True
            self._refuse(e)
        else:
            self.refused, self._in_part, self._asked = None, False, None
            await self._shrunk.keep(was_of(c, files_of(c)))

    async def _read(self) -> Config:
        file = self._current().file
        try:
            async with asyncio.timeout(READ_S):
                return await asyncio.to_thread(load, file)
        except TimeoutError:
            raise ConfigError(
                f"{file}: not read within {READ_S:.0f} s", "look at the disk, and at what the files are"
            ) from None
        except RecursionError:
            raise ConfigError(f"{file} or a file it names is nested too deep", "correct it and reload again") from None

    def _enough(self, c: Config) -> None:
        """Raise ConfigError for files that lack what was there, unless they were asked for before, and stand as they stood."""
        found = [] if c == self._current() else lacking(self._shrunk.was, c, files_of(c))
        if not found:
            self._asked = None
            return
        if self._shrunk.allows(c):
            return
        now, content = self._clock(), (c, c.seen)  # which write of each file it was, too
        if self._asked is None or self._asked[0] != content or now - self._asked[1] > SURE_FOR_S:
            self._asked = content, now
        elif now - self._asked[1] >= SURE_S:
            return
        first, *more = (
            ConfigError(
                f"{x}; is it still being written?",
                f"if they are to go, reload again with the same file as it is, {SURE_S:.0f} s to {SURE_FOR_S / 60:.0f} min from now",
                x.file,
            )
            for x in found
        )
        first.more = tuple(more)
        raise first

    def _refuse(self, e: Exception) -> None:
        self.refused = e
        self._metrics.totals["reloads_refused"] += 1
        if not isinstance(e, (ConfigError, LinkError)):
            caught(self._metrics, "reload", e)
        for mistake in (e, *(e.more if isinstance(e, ConfigError) else ())):
            self._mistakes.append((_words(mistake), _next(mistake, self._in_part)))
            log.error("reload_refused", error=self._mistakes[-1][0], next=self._mistakes[-1][1])

    def problems(self) -> Iterator[Problem]:
        """Say that what is on disk is not in force."""
        if self.refused is not None:
            state = "in force in part only" if self._in_part else "not in force"
            yield Problem("reload_refused", f"the configuration on disk is {state}: {_words(self.refused)}",
                          _next(self.refused, self._in_part))  # fmt: skip


def _words(e: Exception) -> str:
    """Return what is wrong; of an exception of ours only its kind, since its text may quote what is in the file."""
    return str(e) if isinstance(e, (ConfigError, LinkError)) else f"{type(e).__name__} while reading it"


def _next(e: Exception, in_part: bool) -> str:
    if in_part:
        return "correct it and restart the gateway; report the log's line internal"
    return getattr(e, "hint", "") or "correct it and reload again"

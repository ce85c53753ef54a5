"""Reading the configuration again while the gateway runs. Whatever is in the files, a reload ends with READY, and says how it ended.

A refused reload changes nothing, and stays visible (log, STATUS, health) until one is accepted. One that would take most of the nodes, rules or
outputs away, or show a personal node to more because a line is missing, is refused the first time: a file is empty, or half there, while an
editor or a copy writes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Set
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from gateway.config import Config, ConfigError, load
from gateway.core.model import PERSONAL, Node
from gateway.core.shape import Entry
from gateway.health import Problem
from gateway.links.link import LinkError
from gateway.metrics import Metrics
from gateway.supervise import caught

READ_S = 90.0  # less than `citymote gateway reload` waits; 25,000 nodes take seconds; what takes longer is no configuration, or no disk
MOST_GONE = 2  # a reload that takes away more than one in so many, and at least LEAST_GONE, has to be asked for twice
LEAST_GONE = 3
NAMED = 3  # of the nodes that are missing
SURE_S = 5.0  # between the two: longer than a file stands half written
SURE_FOR_S = 600.0  # who asks for the second time later than this has seen to something else in between

log = structlog.get_logger(__name__)


def most(gone: int, of: int) -> bool:
    """True when so many nodes that have gone are more than a registry loses by intent without being asked twice."""
    return gone >= LEAST_GONE and gone * MOST_GONE > of


class Shrunk:
    """What a gateway that starts with a registry short of most nodes withholds: what is known of them stays as it is.

    missing: stand-ins of those nodes, under the entries they had and without a key, for whoever publishes; empty when nothing is withheld.
    """

    def __init__(self) -> None:
        self.missing: Mapping[int, Node] = {}

    def look(self, nodes: Mapping[int, Node], known: Mapping[int, Entry]) -> None:
        """Compare the registry at the start with the entries that the store knows."""
        gone = {n: entry.node(n) for n, entry in known.items() if n not in nodes}
        self.missing = gone if most(len(gone), len(known)) else {}

    def whole(self, nodes: Mapping[int, Node]) -> Mapping[int, Node]:
        """Return the registry with the stand-ins."""
        return {**self.missing, **nodes} if self.missing else nodes

    def problems(self) -> Iterator[Problem]:
        """Say that the registry lacks most of the nodes."""
        if self.missing:
            names = ", ".join(node.name for node in islice(self.missing.values(), NAMED))
            more = f" and {len(self.missing) - NAMED} more" if len(self.missing) > NAMED else ""
            yield Problem(
                "registry_shrunk",
                f"{len(self.missing)} nodes that were there before the start are not in the registry: {names}{more}; their frames are "
                "refused, what was published of them and their alarms stay",
                "put the file back and reload; if they are to go, reload with the file as it is, or start once with --accept",
            )


class Lacking(NamedTuple):
    """What a file no longer has: `gone` of `of` things that were there."""

    file: Path
    what: str
    gone: int
    of: int


def _lacking(before: Config, after: Config, withheld: Mapping[int, Node]) -> Iterator[Lacking | None]:
    """Yield what each file would have to be asked for twice, None for what it has enough of. withheld: nodes of an earlier life."""
    nodes = before.nodes.keys() | withheld.keys()
    yield _lost(after.gateway.registry, "nodes", nodes, after.nodes.keys())
    personal = {n for n, node in before.nodes.items() if node.visibility == PERSONAL and n in after.nodes}
    if wider := personal & after.unsaid:  # the default is a wider circle, and the entry may be half there
        yield Lacking(after.gateway.registry, 'lines visibility = "personal"', len(wider), len(personal))
    if before.gateway.rules is not None:
        rules, now = _own(before), _own(after)
        file = before.gateway.rules if after.gateway.rules is None else after.gateway.rules
        # an empty file is one that is right for a start: shipped rules apply
        empty = Lacking(file, "entries", len(rules), len(rules)) if rules and not now else None
        yield empty or _lost(file, "entries", rules, now)
    yield _lost(after.file, "outputs", {o.name for o in before.outputs}, {o.name for o in after.outputs})


def _lost(file: Path, what: str, before: Set[Any], after: Set[Any]) -> Lacking | None:
    gone = len(before - after)
    return Lacking(file, what, gone, len(before)) if most(gone, len(before)) else None


def _own(c: Config) -> frozenset[str]:
    return frozenset() if c.rules is None else c.rules.own


Stamps = tuple[tuple[int, ...] | None, ...]
"""Inode, time of writing (ns) and size of the files of a configuration: one that was written again with the same content is another write."""


def _load(file: Path) -> tuple[Config, Stamps]:
    c = load(file)
    return c, tuple(map(_stamp, (c.file, c.gateway.registry, c.gateway.rules)))


def _stamp(file: Path | None) -> tuple[int, ...] | None:
    try:
        found = file.stat() if file is not None else None
    except FileNotFoundError:  # it has gone since it was read
        return None
    return None if found is None else (found.st_ino, found.st_mtime_ns, found.st_size)


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
        self._shrunk = Shrunk() if shrunk is None else shrunk
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
            finally:
                self._say("READY=1\nSTATUS=" + self._settled())

    async def _once(self) -> None:
        try:
            c, stamps = await self._read()
            self._enough(c, stamps)
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

    async def _read(self) -> tuple[Config, Stamps]:
        file = self._current().file
        try:
            async with asyncio.timeout(READ_S):
                return await asyncio.to_thread(_load, file)
        except TimeoutError:
            raise ConfigError(
                f"{file}: not read within {READ_S:.0f} s", "look at the disk, and at what the files are"
            ) from None
        except RecursionError:
            raise ConfigError(f"{file} or a file it names is nested too deep", "correct it and reload again") from None

    def _enough(self, c: Config, stamps: Stamps) -> None:
        """Raise ConfigError for files that lack most of what was there, unless they were asked for before, and stand as they stood."""
        before = self._current()
        lacking = [x for x in _lacking(before, c, self._shrunk.missing) if x is not None]
        if not lacking:
            self._asked = None
            return
        if self._shrunk.missing and c.nodes == before.nodes and [x.what for x in lacking] == ["nodes"]:
            return  # it has stood there since the start, and someone has looked at it since
        now, content = self._clock(), (c, stamps)
        if self._asked is None or self._asked[0] != content or now - self._asked[1] > SURE_FOR_S:
            self._asked = content, now
        elif now - self._asked[1] >= SURE_S:
            return
        first, *more = (
            ConfigError(
                f"{x.file}: {x.gone} of {x.of} {x.what} are gone from it; is it still being written?",
                f"if they are to go, reload again with the same file as it is, {SURE_S:.0f} s to {SURE_FOR_S / 60:.0f} min from now",
                x.file,
            )
            for x in lacking
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

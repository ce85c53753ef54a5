"""structlog set-up: JSON when stderr is no terminal. Keys and payloads are never logged, and repeats are bounded.

A flood of refused frames must not become a flood of the disk: of lines that say the same thing (event, reason, link, output) only so many are
told within WINDOW_S; the next one told says how many were left out. Errors are always told, and so is what was committed, at level debug.
Whoever logs never waits for whoever reads (logstream.py).
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from gateway.config import LogConfig
from gateway.health import Problem
from gateway.logstream import LogStream, take_over_stderr

WINDOW_S = 10.0
MAX_KINDS = 1000
ALWAYS = frozenset(("uplink_committed",))  # one line per uplink is the record of what was taken
_SECRET = re.compile(r"(^|_)(key|keys|password|token|secret|payload|plaintext)$")
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50, "exception": 40}


class Repeats:
    """At most `most` lines of one kind in WINDOW_S; 0 lets all pass."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self._clock = most, clock
        self._seen: dict[tuple[Any, ...], list[float]] = {}  # kind -> [since, told, left out]

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """Let a line pass, or raise DropEvent."""
        if not self.most or event["event"] in ALWAYS or _LEVELS.get(method, 0) >= 40:
            return event
        kind = (event["event"], event.get("reason"), event.get("link"), event.get("output"))
        now = self._clock()
        seen = self._seen.get(kind)
        if seen is None:
            if len(self._seen) >= MAX_KINDS:
                self._seen.clear()
            self._seen[kind] = [now, 1, 0]
            return event
        if now - seen[0] >= WINDOW_S:
            if seen[2]:
                event["left_out"] = int(seen[2])
            seen[:] = (now, 1, 0)
            return event
        if seen[1] >= self.most:
            seen[2] += 1
            raise structlog.DropEvent
        seen[1] += 1
        return event


class Seldom:
    """Lines that strangers can cause: one for each (kind, sender) in `every_s`, and no more than `most` in that time for all senders.

    The state is bounded whatever senders there are.
    """

    def __init__(self, every_s: float = 600.0, most: int = 64, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._most, self._clock = every_s, most, clock
        self._seen: dict[tuple[str, str], int] = {}  # told since `_since`, and how many were left out
        self._since = clock()
        self._before: dict[tuple[str, str], int] = {}

    def due(self, kind: str, sender: str) -> int | None:
        """Return None when no line is due, else how many of this kind and sender were left out since the last one."""
        now = self._clock()
        if now - self._since >= self._every_s:
            self._before, self._seen, self._since = self._seen, {}, now
        key = (kind, sender)
        if key in self._seen:
            self._seen[key] += 1
            return None
        if len(self._seen) >= self._most:
            return None
        self._seen[key] = 0
        return self._before.get(key, 0)


def no_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Blot out what a slip would let into the log: bytes, and values under the name of a secret."""
    for name, value in event.items():
        if isinstance(value, (bytes, bytearray, memoryview)):
            event[name] = f"<{len(value)} bytes>"
        elif _SECRET.search(name):
            event[name] = "<hidden>"
    return event


class _Least:
    """The level in force, which a reload may change though loggers are cached."""

    def __init__(self) -> None:
        self.level = 20

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if _LEVELS.get(method, 50) < self.level:
            raise structlog.DropEvent
        return event


class _Lines:
    """structlog's logger of finished lines. It writes, and never flushes: only the end of the process waits for a reader."""

    def __init__(self, stream: LogStream) -> None:
        self._stream = stream

    def msg(self, message: str) -> None:
        """Write a line."""
        self._stream.write(message + "\n")

    log = debug = info = warn = warning = err = error = critical = fatal = failure = exception = msg


_least = _Least()
_repeats = Repeats(20)
_stream: LogStream | None = None


def setup(config: LogConfig) -> None:
    """Configure logging once per process; level and repeats may be changed by apply().

    sys.stderr is a LogStream from then on: nothing that is written there waits for whoever reads it.
    """
    global _stream
    apply(config)
    console = config.style == "console" or config.style == "auto" and sys.stderr is not None and sys.stderr.isatty()
    _stream = stream = take_over_stderr(partial(_dropped_line, console))
    renderer: Processor = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(default=str)
    structlog.configure(
        processors=[
            _least,
            _repeats,
            structlog.contextvars.merge_contextvars,
            no_secrets,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=lambda *_: _Lines(stream),
        cache_logger_on_first_use=True,
    )


def _dropped_line(console: bool, lines: int) -> str:
    """Return the line that stands where `lines` of them were dropped."""
    t = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    if console:
        return f"{t} [warning  ] log_dropped lines={lines}"
    return json.dumps({"lines": lines, "event": "log_dropped", "level": "warning", "timestamp": t})


def dropped() -> int:
    """Return how many lines no one could read, since the start."""
    return _stream.dropped if _stream is not None else 0


def problems() -> Iterator[Problem]:
    """Say that no one reads the log."""
    if _stream is not None:
        yield from _stream.problems()


def apply(config: LogConfig) -> None:
    """Put another level and bound in force; the style stays what it was at the start."""
    _least.level = _LEVELS[config.level]
    _repeats.most = config.repeats

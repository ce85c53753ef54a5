"""The log's way out: a bounded queue, and a thread that writes it to stderr. Whoever logs never waits for whoever reads.

A terminal that is stopped with Ctrl-S, a full pipe, a journald that is frozen: write() to them does not return, and a gateway that writes in its
loop stands still with them. A reader that has left (`run | tee log`, and tee ended) makes write() fail, which must end nothing either.
Lines that find the queue full, or that cannot be written, are dropped and counted; a line `log_dropped` stands in their place once there is a reader.
"""

from __future__ import annotations

import asyncio
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from io import TextIOBase

from gateway.health import Problem

MOST = 4 << 20  # bytes that wait: some 15,000 lines
END_S = 1.0  # the end waits so long for a reader, once
UNREAD_S = 10.0  # a line that is not taken for so long is a problem in health
TOLD_S = 600.0  # so long health shows that lines were dropped

Notice = Callable[[int], str]
"""Returns the line that stands for so many dropped ones."""


class LogStream(TextIOBase):
    """A text stream for lines, which are written to `fd` by a thread of its own; None: there is nowhere to write, and all are dropped.

    write() never blocks and never raises. Lines keep their order. Only `fd` itself is written to: no buffer of the interpreter is held up at the end.
    """

    def __init__(self, fd: int | None, notice: Notice, encoding: str = "utf-8", most: int = MOST) -> None:
        super().__init__()
        self.dropped = 0  # lines in all
        self._fd, self._notice, self._encoding, self._most = fd, notice, encoding, most
        self._ready = threading.Condition()
        self._lines: deque[tuple[bytes, int]] = deque()  # a line, and how many were dropped directly before it
        self._waiting = self._gap = (
            0  # bytes that wait, the line under way among them; lines dropped since the last one that was taken
        )
        self._part = ""  # of a line without its end
        self._torn = False  # the last line that was written lacks its end
        self._since: float | None = None  # when the line under way was begun
        self._why, self._lost_at = "", float("-inf")
        if fd is not None:
            threading.Thread(target=self._work, name="log", daemon=True).start()

    def write(self, text: str, /) -> int:
        """Take text; whole lines of it are written, or dropped and counted."""
        if sys.is_finalizing():
            return len(text)  # the thread is gone, maybe with the lock
        with self._ready:
            *lines, self._part = (self._part + text).split("\n")
            for line in lines:
                self._take(line)
        return len(text)

    def _take(self, line: str) -> None:
        data = (line + "\n").encode(self._encoding, "backslashreplace")
        if self._fd is None or self._waiting + len(data) > self._most:
            self._gap += 1
            self._lost("no one reads it" if self._fd is not None else "stderr is closed", 1)
            return
        self._lines.append((data, self._gap))
        self._gap = 0
        self._waiting += len(data)
        self._ready.notify_all()

    def _lost(self, why: str, lines: int) -> None:
        self.dropped += lines
        self._why, self._lost_at = why, time.monotonic()

    def _work(self) -> None:
        missing = 0  # lines that are not there, before the next one
        while True:
            with self._ready:
                self._since = None
                while not self._lines:
                    self._ready.wait()
                data, gap = self._lines.popleft()
                self._since = time.monotonic()
            missing += gap
            why = ""
            try:
                if missing:
                    self._out((self._notice(missing) + "\n").encode(self._encoding, "backslashreplace"))
                    missing = 0
                self._out(data)
            except OSError as e:
                missing += 1
                why = e.strerror or type(e).__name__
            with self._ready:
                self._waiting -= len(data)
                if why:
                    self._lost(why, 1)
                self._ready.notify_all()

    def _out(self, data: bytes) -> None:
        assert self._fd is not None
        if self._torn:  # the next line begins as a line, so that it can be read
            data = b"\n" + data
        whole = len(data)
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # who started us made it so; a line is whole all the same
                select.select((), (self._fd,), ())
            except OSError:  # a full disk may have taken a part
                self._torn = self._torn or len(data) < whole
                raise
        self._torn = False

    def flush(self) -> None:
        """Wait until everything is written, for END_S at most; not at all in an event loop, and for a reader that has let us wait so long already."""
        if sys.is_finalizing() or _in_loop():
            return
        deadline = time.monotonic() + END_S
        with self._ready:
            if self._part:
                line, self._part = self._part, ""
                self._take(line)
            while self._waiting and (left := deadline - time.monotonic()) > 0:
                if self._since is not None and time.monotonic() - self._since >= END_S:
                    return
                self._ready.wait(left)

    def close(self) -> None:
        """Nothing: it is there until the process has ended, and the interpreter's last flush of it must not wait."""

    def problems(self) -> Iterator[Problem]:
        """Say that no one reads the log."""
        now = time.monotonic()
        since = self._since
        stuck = since is not None and now - since >= UNREAD_S
        if stuck or now - self._lost_at < TOLD_S:
            why = "no one reads it" if stuck else self._why
            yield Problem("log_unread", f"lines of the log wait or are lost: {why}",
                          "look at what reads stderr (a terminal: Ctrl-Q; systemctl status systemd-journald; tee); lost lines are counted in "
                          "citymote_log_dropped")  # fmt: skip

    def fileno(self) -> int:
        """Return the descriptor that is written to. Raises OSError when there is none."""
        if self._fd is None:
            raise OSError("stderr is closed")
        return self._fd

    def isatty(self) -> bool:
        return self._fd is not None and os.isatty(self._fd)

    def writable(self) -> bool:
        return True


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def take_over_stderr(notice: Notice) -> LogStream:
    """Put a LogStream in the place of sys.stderr for the rest of the process: what else writes there (warnings, tracebacks) must not block either.

    A sys.stderr that is one already is returned as it is; one without a descriptor of its own (a test's) is left, and descriptor 2 written to.
    """
    before = sys.stderr
    if isinstance(before, LogStream):
        return before
    fd: int | None = None
    if before is not None:  # None: closed when we were started, and by now 2 may be any file of ours
        before.flush()
        try:
            fd = before.fileno()
        except (OSError, ValueError):
            fd = 2
    sys.stderr = stream = LogStream(fd, notice, getattr(before, "encoding", None) or "utf-8")
    return stream

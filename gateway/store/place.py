"""Which file the store is: held by a lock on that file itself, and compared with what its path names.

A lock file beside it can be removed by someone who takes it for stale, and then keeps no one away; so can the store be, under a gateway that
would write into a file without a name. The lock is one of an open file description (fcntl(2), Linux) on a byte of the page that SQLite
leaves to locks (sqlite.org/fileformat2.html 1.3), behind SQLite's own 512. It clashes with none of those, holds under every name (hard link)
of the file, stays when another descriptor of the file is closed, and is not one on the whole file, as flock() is on NFS.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import struct
from pathlib import Path

from gateway.store import wal
from gateway.store.engine import StoreError

AT = 0x4000_0000 + 1024
_LOCK = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, AT, 1, 0)
BACK = (
    "put the very file back (mv; a copy is another file): the gateway continues with it; if it is lost, restart the gateway, which begins "
    "a new store, or restore a backup; find what removes files here"
)
LOG_BACK = "put the very file back (mv), or restart the gateway: at an orderly end what the log holds goes to the store; find what removes files here"

INDEX_BACK = (
    "put the very file back (mv), or restart the gateway: nothing is lost with this file, but two writers who each have an index of their own "
    "write over each other's part of the log; find what removes files here"
)


class Elsewhere(sqlite3.OperationalError):
    """The store's file is not what its path names: whatever is committed may be lost with it. `hint` says what to do."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


class Place:
    """hold() before the store is opened and when it is, watch() from then on: look() from any thread. close() when SQLite has closed it."""

    def __init__(self, path: Path) -> None:
        self._path, self._log = (
            path,
            wal.path_of(Path(os.path.realpath(path))),
        )  # SQLite puts it beside what a link names
        self._fds: list[int] = []
        self._is: tuple[int, int] | None = None
        self._log_is: tuple[int, int] | None = None
        self._index = index_of(Path(os.path.realpath(path)))
        self._index_is: tuple[int, int] | None = None

    def hold(self) -> None:
        """Lock the file that the path names now, if there is one; one that was locked before stays locked. Raises StoreError."""
        if self._is is not None and self._is == _identity(self._path):
            return
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # not there yet, or SQLite says of it what is wrong
            return
        self._fds.append(fd)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _LOCK)
        except OSError as e:
            raise StoreError(
                f"store {self._path} is in use by another gateway",
                "stop the other one, or give this one its own gateway.store",
            ) from e
        found = os.fstat(fd)
        self._is = found.st_dev, found.st_ino

    def watch(self) -> None:
        """Everything is open: the log that there is now, and its index, are the store's."""
        self._log_is, self._index_is = _identity(self._log), _identity(self._index)

    def look(self) -> tuple[str, str]:
        """Return what is wrong with the files that the paths name, and what to do about it; two empty texts when they are the store's."""
        for path, known, hint in (
            (self._path, self._is, BACK),
            (self._log, self._log_is, LOG_BACK),
            (self._index, self._index_is, INDEX_BACK),
        ):
            if known is None:
                continue
            try:
                found = os.stat(path)
            except FileNotFoundError:
                return f"{path} was removed or moved away under the gateway", hint
            except OSError as e:
                return f"{path} cannot be looked at: {e.strerror}", hint
            if (found.st_dev, found.st_ino) != known:
                return f"{path} is another file now than the one that the gateway works with", hint
        return "", ""

    def check(self) -> None:
        """Raise Elsewhere unless the paths name the store's files."""
        text, hint = self.look()
        if text:
            raise Elsewhere(text, hint)

    def close(self) -> None:
        """End the lock. Not before SQLite has closed the store: closing any descriptor of a file ends its locks on it (POSIX)."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


def index_of(store: Path) -> Path:
    """Return where SQLite keeps the index of a store's log, and the locks of all who write (sqlite.org/walformat.html 2)."""
    return Path(f"{store}-shm")


def is_held(path: Path) -> bool:
    """True while a gateway holds a store, whatever became of its lock file. Raises OSError when that cannot be found out.

    The descriptor stays open until this process ends, since it may have the store open (Place.close).
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    (kind, *_) = struct.unpack("hhqqi", fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _LOCK))
    return kind != fcntl.F_UNLCK


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino

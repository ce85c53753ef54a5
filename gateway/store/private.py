"""Files of the store belong to its user alone, whatever the umask: they hold households' readings."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path

from gateway.store.place import is_held

MODE = 0o600


def create(path: Path) -> None:
    """Make sure that a file is there, mode 0600 when it is new; SQLite gives its -wal and -shm the mode of the database. Raises OSError.

    One that is there is not opened: closing any descriptor of a database ends all locks that this process holds on it (POSIX), and
    another program that opens it then takes itself for the only one, and deletes the log that is in use (sqlite.org/howtocorrupt.html 2.2).
    """
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE))


def create_new(path: Path) -> int:
    """Make a file that was not there and return its descriptor; a link in its place is refused. Raises OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)


def in_use(store: Path) -> bool:
    """True while a gateway holds a store's lock, in the file beside it or on the store itself. Raises OSError when that cannot be found out."""
    try:
        fd = os.open(f"{store}.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return is_held(store)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return is_held(store)


def close_to_others(*paths: Path) -> None:
    """Take the rights of everyone else from files that an older version made with a wider umask; the group's stay as the operator set them."""
    for path in paths:
        with contextlib.suppress(OSError):  # not there, or another user's: nothing of ours to change
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o007:
                path.chmod(mode & ~0o007)


def sync(path: Path) -> None:
    """Bring a file or a folder to the disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

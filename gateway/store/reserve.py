"""A file of some MB that holds room on the disk, to be given up for alarms when there is no other room left."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from gateway.store import private

MARGIN = 1 << 20  # bytes that must be free besides the reserve, or the next bulk commit would fill the disk again


class Reserve:
    """hold() takes the room, give_up() lets go of it. Size 0: there is none, only the free room is watched."""

    def __init__(self, store: Path, size: int) -> None:
        self._path, self._size = Path(f"{store}.reserve"), size

    @property
    def held(self) -> bool:
        """True while the room is held."""
        try:
            return not self._size or self._path.stat().st_size == self._size
        except FileNotFoundError:
            return False

    def free(self) -> int:
        """Return the bytes of the disk that are free to us, besides what is held."""
        found = os.statvfs(self._path.parent)
        return found.f_bavail * found.f_frsize

    def hold(self) -> bool:
        """Take the room if it is there with some to spare; False: the disk is too full."""
        if self.held:
            return self.free() >= MARGIN
        if self.free() < self._size + MARGIN:
            return False
        try:
            self._path.unlink(missing_ok=True)
            fd = private.create_new(self._path)
            try:
                os.posix_fallocate(fd, 0, self._size)
            finally:
                os.close(fd)
        except OSError:  # a quota, or something else was faster
            self.give_up()
            return False
        return True

    def give_up(self) -> None:
        """Let go of the room. Never raises: this is what is left to try."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

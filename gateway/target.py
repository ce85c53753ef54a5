"""Where a verb may write a file: under a new name, or in the place of a regular file.

A file appears under its name by a rename, which takes the place of whatever has that name: of a device (/dev/null), a pipe or a link it would
leave a regular file, and no one would find what was there before. So those are refused; who means a pipe or a device redirects stdout into it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


def taken_by(path: Path) -> str | None:
    """Return what stands at a path if it is no regular file ("a device"), None where a file may be written. Raises OSError; links are not followed."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISREG(mode):
        return None
    return next((what for is_kind, what in _KINDS if is_kind(mode)), "something that is no file")


def another(path: Path, what: str) -> str:
    """Return what to do next where `what` stands at a path."""
    if what == "a folder":
        return "name a file in it"
    if what == "a symbolic link":
        return f"name the file itself ({os.path.realpath(path)}), or a new one"
    return "name a regular file, or a new one"

"""Passwords and tokens from the files that hold them, read when a connection is made, so that a changed one is in force at the next."""

from __future__ import annotations

import os
import stat
from pathlib import Path

MAX_BYTES = 16_384  # a token of an identity provider has a few thousand


def read_secret(file: Path) -> str:
    """Return the text of a file without the white space round it. Never waits: what is no plain file is refused.

    Raises OSError: not there, no plain file, too long, no UTF-8, empty. The text names the file and never what is in it.
    """
    fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{file} is no plain file")
        body = os.read(fd, MAX_BYTES + 1)
    finally:
        os.close(fd)
    if len(body) > MAX_BYTES:
        raise OSError(f"{file} has more than {MAX_BYTES} bytes, which is no password or token")
    try:
        text = body.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise OSError(f"{file} is no UTF-8 text") from None
    if not text:
        raise OSError(f"{file} is empty")
    return text

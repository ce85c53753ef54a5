"""A file as it was read: what is compared later is of the very bytes that were parsed, since a file may be written again at any moment."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from array import array
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

WIDE = array("I").itemsize  # bytes of a checksum


class Seen(NamedTuple):
    """lines: as lines_of() returns them. stamp: inode, times of writing and of change (ns) and size, before and after it was read: one that
    was written again with the same content is another write, and one that was written meanwhile is like no other."""

    lines: bytes
    stamp: tuple[int, ...]


def read_bytes(file: Path, most: int) -> tuple[bytes, Seen]:
    """Read a file, at most so many bytes. Raises OSError."""
    with file.open("rb") as f:
        before = _stamp(f)
        body = f.read(most)
        return body, Seen(lines_of(body), (*before, *_stamp(f)))


def _stamp(f: BufferedReader) -> tuple[int, ...]:
    found = os.fstat(f.fileno())
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def lines_of(text: bytes) -> bytes:
    """Return WIDE bytes for each line that is not blank, its checksum, blanks at its end apart; and one byte more where the last of them has no end."""
    lines = text.split(b"\n")
    found = array("I", map(zlib.crc32, filter(None, map(bytes.rstrip, lines)))).tobytes()
    return found + b"~" if lines[-1].strip() else found


def count(lines: bytes) -> int:
    """Return how many lines those are."""
    return len(lines) // WIDE


def begins(before: bytes, now: bytes) -> bool:
    """True when what is there now is only the beginning of what was; the last line may be there in part. Both as lines_of() returns them."""
    cut = len(now) % WIDE
    was, whole = _without_mark(before), _without_mark(now)
    if whole == was:
        return False
    ended = whole[:-WIDE] if cut else whole
    return len(ended) < len(was) and was.startswith(ended)


def _without_mark(lines: bytes) -> bytes:
    return lines[:-1] if len(lines) % WIDE else lines


def digests(tables: Mapping[str, Any]) -> dict[str, bytes]:
    """Return 8 bytes for each entry of a file that show whether it is as it was."""

    def of(entry: Any) -> bytes:
        return hashlib.blake2b(json.dumps(entry, sort_keys=True, default=str).encode(), digest_size=8).digest()

    return {name: of(entry) for name, entry in tables.items()}

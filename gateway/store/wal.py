"""SQLite's write-ahead log, looked at before it is opened: SQLite itself takes a damaged log for a short one and says nothing.

Format: sqlite.org/fileformat2.html section 4. The log is examined after an end that was not orderly, as it then holds commits that are
nowhere else.
"""

from __future__ import annotations

import sqlite3
import struct
from pathlib import Path
from typing import Literal

Found = Literal["none", "empty", "whole", "damaged"]

HEADER, FRAME = 32, 24
MAGIC = (0x377F0682, 0x377F0683)
MOST = 8 << 20  # bytes examined, about a second of a small board; after an end in order there is nothing to examine


def path_of(store: Path) -> Path:
    """Return where the log of a store is."""
    return Path(f"{store}-wal")


def size(store: Path) -> int:
    """Return the bytes of the log, 0 when there is none."""
    try:
        return path_of(store).stat().st_size
    except OSError:
        return 0


def empty(db: sqlite3.Connection, wait_ms: int, then_ms: int) -> bool:
    """Take everything in the log over into the store and cut the log to nothing: what was overwritten is in neither file any more.

    False: a reader that began before stands in the way for longer than wait_ms; nothing is lost, try again. then_ms: the connection's own
    busy_timeout. Not within a transaction. Raises sqlite3.Error.
    """
    db.execute(f"PRAGMA busy_timeout={wait_ms}")
    try:
        return not db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    finally:
        db.execute(f"PRAGMA busy_timeout={then_ms}")


def look(store: Path) -> Found:
    """Say what is to be had from the log. damaged: its head is spoilt, or frames of its generation stand behind one that is spoilt.

    A power cut in the middle of a commit may look like the latter; that commit was never acknowledged.
    """
    try:
        with path_of(store).open("rb") as f:
            data = f.read(MOST)
    except OSError:
        return "none"
    if not data:
        return "empty"
    if len(data) < HEADER:
        return "damaged"
    magic, _, page, _, salt1, salt2, sum1, sum2 = struct.unpack(">8I", data[:HEADER])
    order = ">" if magic & 1 else "<"
    if magic not in MAGIC or _checksum(order, data[:24], 0, 0) != (sum1, sum2):
        return "damaged"
    at, sums, salts = HEADER, (sum1, sum2), (salt1, salt2)
    while at + FRAME + page <= len(data):
        head = data[at : at + FRAME]
        if struct.unpack(">2I", head[8:16]) != salts:
            break  # of an earlier round through the file: here the log ends
        sums = _checksum(order, head[:8] + data[at + FRAME : at + FRAME + page], *sums)
        if struct.unpack(">2I", head[16:24]) != sums:
            return "damaged"
        at += FRAME + page
    later = range(at + FRAME + page, len(data) - FRAME - page + 1, FRAME + page)
    return "damaged" if any(struct.unpack(">2I", data[a + 8 : a + 16]) == salts for a in later) else "whole"


def _checksum(order: str, data: bytes, s0: int, s1: int) -> tuple[int, int]:
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for x, y in zip(words[::2], words[1::2], strict=True):
        s0 = (s0 + x + s1) & 0xFFFFFFFF
        s1 = (s1 + y + s0) & 0xFFFFFFFF
    return s0, s1

"""Which downlink counters may never be given out again, known in two places: in the store, and in a small file beside it.

A counter that is given out twice seals two plaintexts under one AES-CCM nonce, and nodes refuse what is not above what they have heard.
The store alone cannot promise that it is not: its log may be deleted, the file may be replaced by an older one, emptied, damaged.
So the file `<store>.floor` holds a ceiling that no counter has passed: it is raised, BLOCK counters at a time and for all nodes at once,
before the commit that would pass it. Every start that is not the continuation of an orderly end begins above it.

Orderly means: the store's last transaction has written down the token that the file got when that life began. A copy of an earlier moment
has another token or none. A folder that was restored whole, with both, is met by the clock: counters also begin above the seconds since
2026 (schema.down_floor), which no node's counter passes at one downlink a second.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from gateway.core.model import NodeState
from gateway.store import private
from gateway.store.schema import CEILING, CLOSED, DOWN_FLOOR, JUMP, LAST, down_floor

BLOCK = 64  # an fsync for so many counters of the busiest node; an end without order skips at most so many

_SLOT = struct.Struct("<8sQQ16s")  # magic, sequence, ceiling, token; then CRC-32
_SIZE = _SLOT.size + 4
_PLACE = 512  # a disk writes a sector whole or not: the two slots never share one
_MAGIC = b"cmfloor1"
TOKEN = 16

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Mark:
    """What the file says. token: of the life that wrote it, or is to write it at its end."""

    ceiling: int
    token: bytes
    sequence: int = 0


class FloorFile:
    """read() and write(); written in place, into the older of two slots, because that needs no room on a full disk."""

    def __init__(self, store: Path) -> None:
        self.path = Path(f"{store}.floor")

    def read(self) -> Mark | None:
        """Return the newest whole mark, None when the file is missing or holds none."""
        try:
            data = self.path.read_bytes()
        except OSError:
            return None
        found = [m for at in (0, _PLACE) if (m := _read(data[at : at + _SIZE])) is not None]
        return max(found, key=lambda m: m.sequence) if found else None

    def write(self, ceiling: int, token: bytes) -> None:
        """Bring a mark to the disk before returning. Raises OSError."""
        before = self.read()
        sequence = 1 if before is None else before.sequence + 1
        slot = _SLOT.pack(_MAGIC, sequence, ceiling, token)
        slot += zlib.crc32(slot).to_bytes(4, "little")
        if before is None:
            self._create(slot)
            return
        fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.pwrite(fd, slot, _PLACE * (sequence % 2))
            os.fsync(fd)
        finally:
            os.close(fd)

    def _create(self, slot: bytes) -> None:
        part = self.path.with_name(self.path.name + ".new")
        part.unlink(missing_ok=True)
        fd = private.create_new(part)
        try:
            os.pwrite(fd, slot.ljust(_PLACE, b"\0") * 2, 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        part.rename(self.path)
        private.sync(self.path.parent)


def _read(slot: bytes) -> Mark | None:
    if len(slot) < _SIZE or zlib.crc32(slot[: _SLOT.size]) != int.from_bytes(slot[_SLOT.size :], "little"):
        return None
    magic, sequence, ceiling, token = _SLOT.unpack(slot[: _SLOT.size])
    return Mark(ceiling, token, sequence) if magic == _MAGIC else None


class Floor:
    """The floor of one life of a store. begin() once, with the store open; then raise_to() in the writer, end() at an orderly end.

    at: what the counters of every node begin above. orderly: the life before ended in order. lost: the store has had a file and it is gone.
    behind: the store may lack what came before: it is a copy of an earlier moment, or no one can say that it is not.
    trouble: why the file could not be written, "" when it could.
    """

    def __init__(self, store: Path) -> None:
        self._file = FloorFile(store)
        self.before = self._file.read()
        self._token = os.urandom(TOKEN)
        self._ceiling = 0
        self.at = 0
        self.orderly = self.lost = self.behind = False
        self.trouble = ""

    def begin(self, db: sqlite3.Connection, now: float) -> None:
        """Decide where counters go on, note it in the store and in the file. Raises sqlite3.Error."""
        known = dict(
            db.execute("SELECT key, body FROM notes WHERE key IN (?, ?, ?)", (CLOSED, CEILING, DOWN_FLOOR)).fetchall()
        )
        ceiling = int(known.get(CEILING, 0))
        mark = self.before
        self.lost = mark is None and CEILING in known
        older = mark is None or mark.ceiling < ceiling  # gone, spoilt, or of an earlier day than the store
        self.orderly = mark is not None and not older and known.get(CLOSED) == mark.token
        # one that says how it ended, and the file does not know that end, was put back after another life
        self.behind = self.lost or not self.orderly and (mark is not None and older or CLOSED in known)
        at = max(int(known.get(DOWN_FLOOR, 0)), down_floor(now))
        if not self.orderly:
            at = max(at, ceiling, mark.ceiling if mark is not None else 0)
            if older:  # how far the counters had come is known by the store alone, which may itself be behind
                at = max(at, _highest(db))
        self.at = at
        self._ceiling = max(at, ceiling, mark.ceiling if mark is not None else 0)
        self._write(self._ceiling)
        db.execute("BEGIN IMMEDIATE")
        db.execute("DELETE FROM notes WHERE key = ?", (CLOSED,))
        self._note(db, DOWN_FLOOR, at)
        self._note(db, CEILING, self._ceiling)
        db.execute("COMMIT")

    @property
    def ceiling(self) -> int:
        """A counter that none which was given out is above."""
        return self._ceiling

    def raise_to(self, db: sqlite3.Connection, counter: int) -> None:
        """Make sure that `counter` may be given out once the caller's transaction is committed."""
        if counter > self._ceiling:
            self._ceiling = counter + BLOCK
            self._write(self._ceiling)
            self._note(db, CEILING, self._ceiling)

    def lift(self, unix: float) -> bool:
        """Let counters begin above those of Unix time `unix`; True when that is higher than before. Kept by the next raise_to()."""
        at = down_floor(unix)
        if at <= self.at:
            return False
        self.at = at
        return True

    def end(self, db: sqlite3.Connection) -> None:
        """Write down that this life ends in order, as its last transaction. Raises sqlite3.Error."""
        db.execute("BEGIN IMMEDIATE")
        self._note(db, DOWN_FLOOR, self.at)
        db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (CLOSED, self._token))
        db.execute("COMMIT")

    @staticmethod
    def _note(db: sqlite3.Connection, key: str, number: int) -> None:
        db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (key, str(number)))

    def _write(self, ceiling: int) -> None:
        try:
            self._file.write(ceiling, self._token)
            self.trouble = ""
        except OSError as e:
            if not self.trouble:
                log.error("floor_unwritten", file=str(self._file.path), error=e.strerror,
                          next="make the store's folder writable and its disk sound: a second copy of the downlink counters is kept there")  # fmt: skip
            self.trouble = e.strerror or type(e).__name__


def _highest(db: sqlite3.Connection) -> int:
    """Return a counter above what the states of a store have given out since it was copied, 0 for a store without nodes."""
    decode = msgspec.msgpack.Decoder(_Down).decode
    highest = 0
    for (body,) in db.execute("SELECT state FROM nodes"):
        with contextlib.suppress(msgspec.MsgspecError):  # one that cannot be read is looked after when it is loaded
            if (down := decode(body).down) < LAST - JUMP:
                highest = max(highest, down)
    return highest + JUMP if highest else 0


class _Down(msgspec.Struct):
    down: int = NodeState().down

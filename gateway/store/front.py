"""Repairs of a database file on a copy, before it is read for what is left: a header of its own, the list of tables, the length it ought to have.

SQLite gives up a file whose first page is spoilt, or that is shorter than its header says, though nearly all of it can be read. Format:
sqlite.org/fileformat2.html, sections 1.3 (header), 1.6 (b-tree pages) and 2.1 (records).

Where a table begins is written on the first page alone. When that is gone each table is looked for: a b-tree page that no other refers to,
whose first row has the columns and the kinds of value of that table.
"""

from __future__ import annotations

import shutil
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import structlog

from gateway.store import private, wal
from gateway.store.schema import migrate

MAGIC = b"SQLite format 3\0"
PAGE = 4096  # of every store that was made by us, unless its header says otherwise
HEADER = 100
INDEX_INNER, TABLE_INNER, INDEX_LEAF, TABLE_LEAF = 2, 5, 10, 13
DEEP = 20  # levels of a b-tree: more is a circle

# how the first row of a table looks: n NULL or alias of rowid, i integer, r real (may be stored as integer), t text, b blob
SHAPES = {
    "nodes": "iib", "frames": "iiiirttnrtb", "rows": "iiiiitn", "spool": "nribi", "cursors": "tii", "quarantine": "nrtb", "airtime": "tiii",
    "notes": "tb", "audit": "nrtttitttt", "alarms": "nrb", "forgotten": "iii",
    "current": "tiiib", "entries": "tiib", "places": "tib", "requests": "ntt",
}  # fmt: skip
ROWIDS = {"spool", "quarantine", "airtime", "audit", "alarms", "current", "requests"}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Wrong:
    header: bool
    tables: bool
    short: bool


def mend(path: Path, copy: Path) -> bool:
    """Write a repaired copy of a damaged store to `copy` (and its log beside it); False when there is nothing of this kind to repair, or
    no room for a copy. The original is not touched."""
    wrong, page = _look(path)
    if not (wrong.header or wrong.tables or wrong.short):
        return False
    try:
        private.create(copy)
        shutil.copyfile(path, copy)
        if wal.size(path):
            private.create(wal.path_of(copy))
            shutil.copyfile(wal.path_of(path), wal.path_of(copy))
        with copy.open("r+b") as f:
            pages = _lengthen(f, page) if wrong.short else -(-copy.stat().st_size // page)
            if wrong.header or wrong.tables:
                _new_front(f, page, pages, wal.size(path) > 0, wrong.tables)
    except OSError as e:
        log.warning("store_not_copied", store=str(path), error=e.strerror,
                    next="make room for a second copy and put the damaged file back: more of it could be read")  # fmt: skip
        return False
    log.info("store_front_mended", store=str(path), header=wrong.header, tables=wrong.tables, short=wrong.short)
    return True


def _look(path: Path) -> tuple[_Wrong, int]:
    size = path.stat().st_size
    with path.open("rb") as f:
        head = f.read(HEADER)
    if not size:
        return _Wrong(False, False, False), PAGE
    page, pages = struct.unpack(">H", head[16:18])[0] if len(head) == HEADER else 0, 0
    page = 65536 if page == 1 else page
    sound = (
        len(head) == HEADER and head.startswith(MAGIC) and page in {512 << n for n in range(8)}
        and head[21:24] == b"\x40\x20\x20" and head[18] in (1, 2) and head[19] in (1, 2)
        and struct.unpack(">I", head[44:48])[0] in range(1, 5) and struct.unpack(">I", head[56:60])[0] == 1
    )  # fmt: skip
    if sound:
        pages = struct.unpack(">I", head[28:32])[0]
    else:
        page = PAGE
    return _Wrong(not sound, not _lists_tables(path, page), sound and size < pages * page), page


def _lists_tables(path: Path, page: int) -> bool:
    """True when the b-tree that begins on the first page can be walked to rows that look like those of sqlite_master."""
    with path.open("rb") as f:
        shape = _shape(f, page, 1)
    return shape is not None and shape[0] == "T" and shape[1][:3] == "ttt"


def _lengthen(f: BinaryIO, page: int) -> int:
    f.seek(28)
    pages = struct.unpack(">I", f.read(4))[0]
    f.truncate(pages * page)
    return pages


def _new_front(f: BinaryIO, page: int, pages: int, logged: bool, tables: bool) -> None:
    """Write a header, and with `tables` a whole first page, of an empty store of this version whose tables begin where they were found."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.execute(f"PRAGMA page_size={page}")
        migrate(db, Path("front"), 0.0)
        if tables:
            found = _roots(f, page, pages)
            db.execute("PRAGMA writable_schema=ON")
            db.execute("DELETE FROM sqlite_master WHERE type <> 'table' OR name LIKE 'sqlite_%'")
            for (name,) in db.execute("SELECT name FROM sqlite_master").fetchall():
                if name in found:
                    db.execute("UPDATE sqlite_master SET rootpage = ? WHERE name = ?", (found[name], name))
                else:
                    db.execute("DELETE FROM sqlite_master WHERE name = ?", (name,))
        front = bytearray(db.serialize()[: page if tables else HEADER])
    front[18:20] = b"\2\2" if logged else b"\1\1"
    front[28:32] = struct.pack(">I", pages)
    front[32:40] = bytes(8)  # no free list: what was on it is read as nothing
    front[92:96] = front[24:28]
    f.seek(0)
    f.write(front)


def _roots(f: BinaryIO, page: int, pages: int) -> dict[str, int]:
    """Return where tables begin: pages of the right kind that nothing refers to. Of several the largest tree."""
    inner: dict[int, list[int]] = {}
    trees: list[int] = []
    for number in range(2, pages + 1):
        data = _page(f, page, number)
        if data and data[0] in (INDEX_INNER, TABLE_INNER):
            inner[number] = list(_children(data))
            trees.append(number)
        elif data and data[0] in (INDEX_LEAF, TABLE_LEAF):
            trees.append(number)
    below = {child for children in inner.values() for child in children}
    best: dict[str, tuple[int, int]] = {}
    for number in trees:
        if number in below or (shape := _shape(f, page, number)) is None:
            continue
        for table, wanted in SHAPES.items():
            if (shape[0] == "T") == (table in ROWIDS) and _fits(shape[1], wanted):
                size = _size(inner, number)
                if table not in best or size > best[table][0]:
                    best[table] = size, number
    return {table: number for table, (_, number) in best.items()}


def _size(inner: dict[int, list[int]], number: int) -> int:
    seen, todo = {number}, [number]
    while todo:
        for child in inner.get(todo.pop(), ()):
            if child not in seen:
                seen.add(child)
                todo.append(child)
    return len(seen)


def _fits(shape: str, wanted: str) -> bool:
    """True when a row has these columns; the last ones may be missing (added later), and any but the first may be NULL.

    What a note says is text as often as bytes.
    """
    if not wanted[:-1] or len(shape) not in (len(wanted), len(wanted) - (wanted == SHAPES["spool"])):
        return False
    pairs = zip(shape, wanted, strict=False)
    return all(have == want or (want == "r" and have == "i") or (have == "n" and want in "itr") or (want == "n" and have in "it") or (have == "t" and wanted == SHAPES["notes"]) for have, want in pairs)  # fmt: skip


def _page(f: BinaryIO, page: int, number: int) -> bytes:
    f.seek((number - 1) * page)
    data = f.read(page)
    return data[HEADER:] if number == 1 else data


def _children(data: bytes) -> Iterator[int]:
    cells, right = struct.unpack(">H", data[3:5])[0], struct.unpack(">I", data[8:12])[0]
    yield right
    for i in range(min(cells, (len(data) - 12) // 2)):
        at = struct.unpack(">H", data[12 + 2 * i : 14 + 2 * i])[0]
        if at + 4 <= len(data):
            yield struct.unpack(">I", data[at : at + 4])[0]


def _shape(f: BinaryIO, page: int, number: int) -> tuple[str, str] | None:
    """Return ("T" with rowid or "I" without, the kinds of value of the first row) of the tree at a page; None when it is none."""
    for _ in range(DEEP):
        data = _page(f, page, number)
        offset = HEADER if number == 1 else 0
        if len(data) < 12 or data[0] not in (INDEX_INNER, TABLE_INNER, INDEX_LEAF, TABLE_LEAF):
            return None
        cells = struct.unpack(">H", data[3:5])[0]
        leaf = data[0] in (INDEX_LEAF, TABLE_LEAF)
        if leaf and not cells:
            return None
        first = 8 if leaf else 12
        at = struct.unpack(">H", data[first : first + 2])[0] - offset if cells else 0
        if leaf:
            return ("T" if data[0] == TABLE_LEAF else "I"), _kinds(data, at, data[0] == TABLE_LEAF)
        number = struct.unpack(">I", data[at : at + 4])[0] if cells and 0 <= at <= len(data) - 4 else 0
        if number < 2:
            return None
    return None


def _kinds(data: bytes, at: int, rowid: bool) -> str:
    try:
        _, at = _varint(data, at)
        if rowid:
            _, at = _varint(data, at)
        length, types = _varint(data, at)
        end, out = at + length, ""
        while types < end and len(out) < 32:
            kind, types = _varint(data, types)
            out += (
                "n"
                if kind == 0
                else "r"
                if kind == 7
                else "i"
                if kind < 10
                else "?"
                if kind < 12
                else "t"
                if kind % 2
                else "b"
            )
        return out if types == end else ""
    except IndexError:
        return ""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for n in range(9):
        byte = data[at]
        at += 1
        if n == 8:
            return value << 8 | byte, at
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            break
    return value, at

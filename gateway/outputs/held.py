"""What the running day's file is to hold, noted in the store in the commit that moves the output's cursor.

So it outlives the object, the process and the file. A prefix of the file is compared by size and checksum: behind it there may be rows of
events above the cursor, which were synced before a crash and come again.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from datetime import date
from io import BufferedWriter
from pathlib import Path

import msgspec

from gateway.core.value import replace
from gateway.outputs.day import PART, TAG, lines
from gateway.store.engine import Engine

PREFIX = "files:"
CHUNK = 1 << 20
DAY = re.compile(r"(\d{4}-\d\d-\d\d)(?:\.([2-9]|[1-9]\d+))?", re.ASCII)


class FilesError(OSError):
    """The folder cannot be used; `hint` says what to do."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


class Held(msgspec.Struct):
    """begun: its events are above this number; seq: the cursor that the rest is as of. size, crc, rows: of what was synced. ending: its day's
    files are being made in `formats`, and it goes then. life: of the store; what another one noted is no longer known to be true. others: of the rows,
    those whose event was numbered by another store (one that was lost, or was there before a restore)."""

    output: str
    folder: str
    life: str
    stem: str
    begun: int
    formats: tuple[str, ...]
    seq: int = 0
    size: int = 0
    crc: int = 0
    rows: int = 0
    ending: bool = False
    others: int = 0

    @property
    def key(self) -> str:
        """The name of its note."""
        return key_of(self.output, self.folder)

    @property
    def path(self) -> Path:
        """Where it stands."""
        return Path(self.folder) / f"{self.stem}{PART}"

    @property
    def is_over(self) -> bool:
        """True when its day has become files, so that it went in order."""
        made = (Path(self.folder) / f"{self.stem}.{form}" for form in self.formats)
        return self.ending and not self.path.exists() and all(file.exists() for file in made)

    def noted(self, seq: int) -> dict[str, bytes]:
        """Return the note as of a cursor."""
        self.seq = seq
        return {self.key: msgspec.msgpack.encode(self)}


def key_of(output: str, folder: str) -> str:
    """Return the name of the note of an output and folder."""
    return f"{PREFIX}{output}@{folder}"


def noted(engine: Engine) -> Iterator[Held]:
    """Yield what is noted of all outputs and folders; what cannot be read is as if it were not there."""
    for body in engine.notes(PREFIX).values():
        try:
            yield msgspec.msgpack.decode(body, type=Held)
        except msgspec.MsgspecError:
            continue


def believed(engine: Engine, output: str, folder: str, cursor: int) -> Held | None:
    """Return what is noted of an output and folder, when it still holds: of this life of the store, and no event was taken elsewhere since."""
    return next((h for h in noted(engine) if h.key == key_of(output, folder) and holds(engine, h, cursor)), None)


def holds(engine: Engine, held: Held, cursor: int) -> bool:
    """True when a note still holds: of this life of the store, and no event was taken elsewhere since."""
    behind = engine.fetch(held.seq, 1) if held.seq < cursor else ()
    # the cursor moves alone over events that were dropped; others were taken in another folder, or by an older gateway
    return held.life == engine.ledger.life and held.seq <= cursor and not (behind and behind[0].seq <= cursor)


def moved(held: Held, folder: str) -> Held | None:
    """Return the note of a journal that stands in another folder by now, as someone has moved it there: whole, and gone where it was."""
    found = replace(held, folder=folder)
    if held.folder == folder or not held.size or held.ending or held.path.exists() or not found.path.is_file():
        return None
    return None if altered(found) else found


def ours(life: str, held: Held | None) -> frozenset[str]:
    """Return the tags of lines whose numbers this store gave. held: what is known of the journal from before.

    Lines without a tag are of a gateway that wrote none: this store's, in a journal that is known and has no rows of another."""
    return frozenset((life[:TAG], life[:TAG] if held is None or held.others else ""))


def is_day(journal: Path) -> bool:
    """True for names that this module's callers give to journals; another *.part is somebody else's."""
    found = DAY.fullmatch(journal.name.removesuffix(PART))
    try:
        return found is not None and bool(date.fromisoformat(found[1]))
    except ValueError:
        return False


def first_event(journal: Path) -> int:
    """Return the event number of a journal's first whole row, -1 when it has none. Raises OSError."""
    return next((line.seq for line in lines(journal) if line.seq >= 0), -1)


def altered(held: Held) -> str:
    """Return how a journal that is not open differs from what is held, "" when nothing of that is missing or changed."""
    path, left, crc = held.path, held.size, 0
    if not left:
        return ""
    try:
        if not path.is_file():
            return (
                f"{path} was removed or moved away by someone" if not path.exists() else f"{path} is no file any more"
            )
        with path.open("rb") as f:
            while left and (chunk := f.read(min(left, CHUNK))):
                crc, left = zlib.crc32(chunk, crc), left - len(chunk)
    except OSError as e:
        return f"{path} cannot be looked at any more: {e.strerror}"
    if left:
        return f"{path} was changed by someone: {held.size - left} bytes, {held.size} were written"
    return (
        ""
        if crc == held.crc
        else f"{path} was changed by someone: its first {held.size} bytes are not what was written"
    )


def whole(journal: Path) -> tuple[int, int]:
    """Return size and checksum of a journal's whole lines. Raises OSError."""
    size = crc = 0
    with journal.open("rb") as f:
        for line in f:
            if not line.endswith(b"\n"):
                break
            size, crc = size + len(line), zlib.crc32(line, crc)
    return size, crc


def difference(path: Path, file: tuple[int, int], size: int) -> str:
    """Return in what the file at a path differs from the one that is open (device and inode), "" when in nothing."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return f"{path} was removed or moved away by someone"
    except OSError as e:
        return f"{path} cannot be looked at any more: {e.strerror}"
    if (found.st_dev, found.st_ino) != file:
        return f"{path} was replaced by someone"
    return "" if found.st_size == size else f"{path} was changed by someone: {found.st_size} bytes, {size} were written"


def opened(journal: Path) -> BufferedWriter:
    """Open a journal to append to it. Raises OSError; FilesError for what is no file, which to open or to read may last without end."""
    if journal.exists() and not journal.is_file():
        raise FilesError(f"{journal} is no file", "move it away; data are kept in the store")
    return journal.open("ab")

"""The files of one day: a journal of JSON lines that only grows, and what is made of it when the day is over.

`python -m gateway.outputs.day FOLDER STEM FORMAT...` turns <STEM>.part into <STEM>.jsonl, .csv, .parquet and prints what it made. It is a
process of its own, so that pyarrow's memory is never the gateway's. Each file appears whole (written beside, synced, renamed); cut off
anywhere and done again it comes to the same.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gateway.outputs.message import json as fast
from gateway.outputs.records import COLUMNS, Record

PART = ".part"
TAG = 8  # digits of a store's life that stand in a line: enough to distinguish the few that one file comes to see
PARQUET_ROWS = 50_000


class Line(NamedTuple):
    """seq: number of the row's event, -1 of a line that is damaged, which has no row. life: the tag of the store that gave it this number, ""
    in lines of gateways that wrote none."""

    seq: int
    life: str
    row: dict[str, Any]


DAMAGED = Line(-1, "", {})


def line(seq: int, life: str, row: Record) -> bytes:
    """Return a line of a journal. life: of the store that numbered the event."""
    return fast({"seq": seq, "life": life[:TAG], **row}) + b"\n"


def lines(journal: Path) -> Iterator[Line]:
    """Yield a journal's lines. A torn last line is none."""
    with journal.open("rb") as f:
        for data in f:
            if not data.endswith(b"\n"):
                return
            try:
                row = json.loads(data)
                found = Line(row.pop("seq"), row.pop("life", ""), row)
                whole = type(found.seq) is int and type(found.life) is str and {"id", "t"} <= row.keys()
            except (ValueError, KeyError, AttributeError, RecursionError):
                whole, found = False, DAMAGED
            yield found if whole else DAMAGED


def rows(journal: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a journal that can be read."""
    return (found.row for found in lines(journal) if found.seq >= 0)


def stem(folder: Path, day: str) -> str:
    """Return the name of a new journal of a day; a clock that was set back comes to a day again, and another's file may have the name."""
    name, nth = day, 1
    while any((folder / f"{name}.{form}").exists() for form in (*_WRITERS, "part")):
        nth += 1
        name = f"{day}.{nth}"
    return name


def finish(folder: Path, name: str, formats: tuple[str, ...]) -> dict[str, Any]:
    """Make the day's files and remove its journal; return the files' names and how many lines were damaged."""
    journal = folder / f"{name}{PART}"
    targets = []
    for form in formats:
        target = folder / f"{name}.{form}"
        beside = target.with_name(f".{target.name}.new")
        _WRITERS[form](journal, beside)
        _sync(beside)
        targets.append((beside, target))
    damaged = sum(found.seq < 0 for found in lines(journal))
    for beside, target in targets:
        os.replace(beside, target)
    _sync(folder)
    if damaged:  # what cannot be read is kept for people
        os.replace(journal, folder / f"{name}.damaged")
    else:
        journal.unlink()
    _sync(folder)
    return {"files": [target.name for _, target in targets], "damaged": damaged}


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _jsonl(journal: Path, target: Path) -> None:
    with target.open("w", encoding="utf-8") as f:
        for row in rows(journal):
            f.write(
                json.dumps({k: v for k, v in row.items() if v is not None}, ensure_ascii=False, separators=(",", ":"))
                + "\n"
            )


def _csv(journal: Path, target: Path) -> None:
    with target.open("w", encoding="utf-8", newline="") as f:
        writer = csv.DictWriter(f, list(COLUMNS))
        writer.writeheader()
        for row in rows(journal):
            writer.writerow({name: row.get(name) for name in COLUMNS})


def _parquet(journal: Path, target: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    types = {"string": pyarrow.string(), "double": pyarrow.float64()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    with pyarrow.parquet.ParquetWriter(target, schema, compression="zstd") as writer:
        chunk: list[dict[str, Any]] = []
        for row in rows(journal):
            chunk.append({name: row.get(name) for name in COLUMNS})
            if len(chunk) == PARQUET_ROWS:
                writer.write_table(pyarrow.Table.from_pylist(chunk, schema))
                chunk.clear()
        writer.write_table(pyarrow.Table.from_pylist(chunk, schema))


_WRITERS: dict[str, Callable[[Path, Path], None]] = {"jsonl": _jsonl, "csv": _csv, "parquet": _parquet}


if __name__ == "__main__":
    print(json.dumps(finish(Path(sys.argv[1]), sys.argv[2], tuple(sys.argv[3:]))))

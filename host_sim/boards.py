"""The board files (boards/*.toml): what is wired where, and how much heap a board leaves to the firmware."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from host_sim import compile as mpy
from host_sim.schema import SchemaError, nearest, read, toml_of

WAYS = ("mpy", "romfs")


class BoardError(SchemaError):
    """There is no such board, or its file does not fit."""


@dataclass(frozen=True, slots=True)
class HeapKb:
    """[heap_kb]: thousands of bytes that Python's heap can grow to with nothing but LoRa (radio), with WiFi on, with WiFi and one TLS socket.

    source: where the numbers are from.
    """

    radio: int
    wifi: int
    tls: int
    source: str


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """[image]: what MicroPython runs there. stock: name of the downloadable image. way: "mpy", that one will do; "romfs", it takes an image of one's own,
    with MICROPY_VFS_ROM and a partition "romfs" (boards/README.md)."""

    stock: str
    way: str


def known() -> list[str]:
    """Names of all boards."""
    return sorted(p.stem for p in mpy.boards_root().glob("*.toml"))


def load(name: str) -> dict[str, Any]:
    """The board file as it is. BoardError."""
    path = mpy.boards_root() / f"{name}.toml"
    if name not in known():
        raise BoardError(f'unknown board "{name}"{nearest(name, known())}')
    try:
        board = toml_of(path)
    except (SchemaError, FileNotFoundError) as e:
        raise BoardError(str(e)) from e
    for table, keys in board.items():
        if not isinstance(keys, dict):
            raise BoardError(f"{path}: write [{table}], a table")
    if not isinstance(board.get("board", {}).get("chip"), str):
        raise BoardError(f'{path}: [board] lacks "chip", the name of its microcontroller')
    return board


def wiring(name: str) -> dict[str, Any]:
    """What a node gets as /board.json: the board file without what only the host needs. BoardError."""
    return {table: keys for table, keys in load(name).items() if table not in ("heap_kb", "image")}


T = TypeVar("T")


def _table(name: str, key: str, cls: type[T]) -> T:
    table = load(name).get(key)
    if not isinstance(table, dict):
        raise BoardError(f"{name}.toml: table [{key}] is missing")
    try:
        return read(cls, table, f"{name}.toml: [{key}]")
    except SchemaError as e:
        raise BoardError(str(e)) from e


def heap_kb(name: str) -> HeapKb:
    """BoardError."""
    return _table(name, "heap_kb", HeapKb)


def image(name: str) -> ImageSpec:
    """BoardError."""
    found = _table(name, "image", ImageSpec)
    if found.way not in WAYS:
        raise BoardError(f'{name}.toml: [image]: way "{found.way}" is unknown{nearest(found.way, WAYS)}')
    return found

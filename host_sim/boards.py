"""The board files (boards/*.toml): what is wired where, and how much heap a board leaves to the firmware."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Any

from host_sim import compile as mpy
from host_sim.schema import SchemaError, nearest, read

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


def known() -> list[str]:
    """Names of all boards."""
    return sorted(p.stem for p in mpy.boards_root().glob("*.toml"))


def load(name: str) -> dict[str, Any]:
    """The board file as it is. BoardError."""
    path = mpy.boards_root() / f"{name}.toml"
    if name not in known():
        raise BoardError(f'unknown board "{name}"{nearest(name, known())}')
    try:
        return tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as e:
        raise BoardError(f"{path}: {e}") from e


def wiring(name: str) -> dict[str, Any]:
    """What a node gets as /board.json: the board file without what only the host needs. BoardError."""
    return {table: keys for table, keys in load(name).items() if table not in ("heap_kb", "image")}


def heap_kb(name: str) -> HeapKb:
    """BoardError."""
    table = load(name).get("heap_kb")
    if table is None:
        raise BoardError(f"{name}.toml: table [heap_kb] is missing")
    try:
        return read(HeapKb, table, f"{name}.toml: [heap_kb]")
    except SchemaError as e:
        raise BoardError(str(e)) from e

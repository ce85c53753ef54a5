"""Strict reading of TOML tables into dataclasses: an unknown or wrong key is an error that names the nearest valid one."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import math
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
MAX_FILE = 1 << 20  # bytes; the largest shipped file has a few thousand
MAX_DEPTH = 16
LARGEST = 1e12  # of any number: hours, metres, seconds and seeds are far below, and products of two stay whole numbers


class SchemaError(Exception):
    """A file does not fit its schema. The text names file, key and what to do."""


def toml_of(path: Path) -> dict[str, Any]:
    """Return a file's TOML. Raises SchemaError for whatever it is instead, naming file and line or key; FileNotFoundError."""
    try:
        if not path.stat() or not path.is_file():
            raise SchemaError(f"{path}: is no file; next: name a file, not a folder, a pipe or a device")
        if path.stat().st_size > MAX_FILE:
            raise SchemaError(f"{path}: is larger than {MAX_FILE >> 20} MiB; next: look whether it is the right file")
        text = path.read_text(encoding="utf-8-sig")  # editors of other systems write a byte order mark
    except FileNotFoundError:
        raise
    except UnicodeDecodeError as e:
        raise SchemaError(f"{path}: not TOML: no UTF-8 text at byte {e.start + 1}; next: save it as UTF-8") from e
    except (OSError, ValueError) as e:  # ValueError: a NUL in the name
        raise SchemaError(f"{path}: cannot be read: {getattr(e, 'strerror', None) or e}") from e
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise SchemaError(f"{path}: not TOML: {e}") from e
    except RecursionError:
        raise SchemaError(f"{path}: nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as e:  # int() takes no thousands of digits
        digits = re.search(r"[0-9_]{300,}", text)
        line = text.count("\n", 0, digits.start()) + 1 if digits else 0
        raise SchemaError(f"{path}: line {line}: a number of too many digits") from e
    for key, value, depth in _values(table):
        if depth > MAX_DEPTH:
            raise SchemaError(f'{path}: "{key[:60]}": nested deeper than {MAX_DEPTH} levels')
        if isinstance(value, int | float) and not (math.isfinite(value) if isinstance(value, float) else True):
            raise SchemaError(f'{path}: "{key}" is {value}; next: write a number')
        if isinstance(value, int | float) and abs(value) > LARGEST:
            raise SchemaError(f'{path}: "{key}" is larger than {LARGEST:g}; next: look for a digit too many')
    return table


def _values(table: dict[str, Any]) -> Iterator[tuple[str, Any, int]]:
    """Yield every value below a table with its key (a.b, a[1].b) and depth, without recursion; not below what is nested too deep."""
    todo: list[tuple[str, Any, int]] = [("", table, 0)]
    while todo:
        key, value, depth = todo.pop()
        yield key, value, depth
        if depth > MAX_DEPTH:
            continue
        if isinstance(value, dict):
            todo += [(f"{key}.{k}".lstrip("."), v, depth + 1) for k, v in value.items()]
        elif isinstance(value, list):
            todo += [(f"{key}[{n}]", v, depth + 1) for n, v in enumerate(value, 1)]


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """' (did you mean "x"?)', or the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, 1, 0.6)
    return f' (did you mean "{close[0]}"?)' if close else f" (known: {', '.join(known)})"


def _fits(value: Any, kind: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, k) for k in typing.get_args(kind))
    if origin is tuple:
        return isinstance(value, list) and all(_fits(v, typing.get_args(kind)[0]) for v in value)
    if origin is dict or kind is dict:
        inner = typing.get_args(kind)[1] if origin is dict else Any
        return isinstance(value, dict) and all(_fits(v, inner) for v in value.values())
    if kind is Any:  # it goes into a node's configuration, which is JSON
        return not isinstance(value, datetime.date | datetime.time) and (
            all(_fits(v, Any) for v in (value.values() if isinstance(value, dict) else value))
            if isinstance(value, dict | list)
            else True
        )
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _frozen(value: Any, kind: Any) -> Any:
    """The value with every list for which `kind` wants a tuple made one."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return next((_frozen(value, k) for k in typing.get_args(kind) if _fits(value, k)), value)
    if origin is tuple:
        return tuple(_frozen(v, typing.get_args(kind)[0]) for v in value)
    if origin is dict:
        return {k: _frozen(v, typing.get_args(kind)[1]) for k, v in value.items()}
    return value


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind)) if typing.get_origin(kind) is None else str(kind)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Make a `cls` from a TOML table; `where` is "FILE: [table]". Raises SchemaError for unknown, missing and mistyped keys."""
    if not isinstance(table, Mapping):
        raise SchemaError(f"{where} must be a table, not {_shown(table)}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            raise SchemaError(f'{where}: unknown key "{key}"{nearest(key, fields)}')
        if not _fits(value, hints[key]):
            raise SchemaError(f'{where}: "{key}" must be {_name(hints[key])}, not {_shown(value)}')
        values[key] = _frozen(value, hints[key])
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SchemaError(f'{where}: key "{name}" is missing')
    return cls(**values)

"""Strict reading of TOML tables into dataclasses: an unknown or wrong key is an error that names the nearest valid one."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class SchemaError(Exception):
    """A file does not fit its schema. The text names file, key and what to do."""


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
    if kind is Any:
        return True
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


def read(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Make a `cls` from a TOML table; `where` is "FILE: [table]". Raises SchemaError for unknown, missing and mistyped keys."""
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            raise SchemaError(f'{where}: unknown key "{key}"{nearest(key, fields)}')
        if not _fits(value, hints[key]):
            raise SchemaError(f'{where}: "{key}" must be {_name(hints[key])}, not {value!r}')
        values[key] = _frozen(value, hints[key])
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SchemaError(f'{where}: key "{name}" is missing')
    return cls(**values)

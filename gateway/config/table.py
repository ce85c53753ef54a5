"""Checked access to one table of a TOML file. Every complaint names the file, the line, and what to do."""

from __future__ import annotations

import copy
import difflib
import errno
import glob
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import tomli

from gateway.config.rights import denied
from gateway.config.seen import Seen, read_bytes

SECRETS = frozenset(("key", "next_key", "password", "token"))  # keys whose values no message may hold
MAX_FILE = 64 << 20  # bytes; 25,000 nodes are 8 MiB
NAME = re.compile(r"[a-z0-9_-]{1,32}")


_MASK = "[32 hex digits]"
_WORD = re.compile(r"[0-9A-Za-z]{24,}")
_SPACED = re.compile(r"(?:[0-9A-Fa-f]{2}[ :._-]){11,}[0-9A-Fa-f]{2}")
_HEX = frozenset("0123456789abcdefABCDEF")


def masked(text: str) -> str:
    """Return a message without anything that looks like a key: it may have been written into a name, an id or another table by mistake.

    24 letters and digits in a row, four fifths of them hex digits (so also with a slip in it, or as a decimal number), or 12 pairs with
    separators. An EUI (16 digits) stays readable.
    """
    text = _WORD.sub(lambda m: _MASK if sum(c in _HEX for c in m[0]) * 5 >= len(m[0]) * 4 else m[0], text)
    return _SPACED.sub(_MASK, text)


class ConfigError(Exception):
    """A file that cannot be used; `hint` says what to do next. where, key: the table and the key in it that is wrong; missing: the
    key that is not there; item: the one in the key's list that is wrong; also: keys that were judged together with it. more: further
    mistakes of the same configuration; nodes: what could be read of its registry, the file `registry`."""

    def __init__(
        self,
        text: str,
        hint: str = "",
        file: Path | None = None,
        line: int | None = None,
        where: str = "",
        key: str | None = None,
        missing: str | None = None,
        item: Any = None,
        also: tuple[str, ...] = (),
    ) -> None:
        # the file's own path stays readable, whatever its folders are called
        super().__init__(
            (str(file) if file else "\0").join(masked(part) for part in text.split(str(file) if file else "\0"))
        )
        self.hint, self.file, self.line = masked(hint), file, line
        self.where, self.key, self.missing = where, key, missing
        self.item, self.also = item, also
        self.more: tuple[ConfigError, ...] = ()
        self.nodes: Mapping[int, Any] = {}
        self.registry: Path | None = None

    def document(self) -> dict[str, Any]:
        """Return it for --json."""
        file = str(self.file) if self.file else None
        return {"file": file, "line": self.line, "text": str(self), "hint": self.hint}


@dataclass(frozen=True)
class _Index:
    lines: list[str]
    spans: dict[str, list[tuple[int, int]]]


_HEADER = re.compile(r"\s*\[\[?([^\]]*)\]")


@lru_cache(maxsize=2)
def _index(text: str) -> _Index:
    """Return where each table of a text stands: looked for once, since a registry has 25,000 of them."""
    lines = text.splitlines()
    spans: dict[str, list[tuple[int, int]]] = {}
    name, start = "", 0
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith("["):
            spans.setdefault(name, []).append((start, number))
            header = _HEADER.match(line)
            name, start = ".".join(p.strip() for p in header[1].split(".")) if header else "[", number
    spans.setdefault(name, []).append((start, len(lines) + 1))
    return _Index(lines, spans)


class Table:
    """One table of a TOML file with checked access; `where` names it in messages, `line_of` finds keys in the text."""

    def __init__(self, file: Path, text: str, where: str, data: Any, nth: int = 0) -> None:
        self.file, self.text, self.where, self.nth = file, text, where, nth
        if not isinstance(data, dict):
            raise ConfigError(
                f"{file}: {where} must be a table", f"write [{where}] and its keys below it", file, None, where
            )
        self.data: dict[str, Any] = data

    def span(self) -> tuple[int, int] | None:
        """Return the 1-based lines of this table's header (the nth of its kind; 0 for the top) and of the next one; a best guess."""
        found = _index(self.text).spans.get(self.where, ())
        return found[self.nth] if self.nth < len(found) else None

    def line_of(self, key: str | None) -> int | None:
        """Best guess at the 1-based line of a key below this table's header, or of the header."""
        span = self.span()
        if span is None or key is None:
            return span[0] or None if span is not None else None
        start, end = span
        wanted = re.compile(r"\s*[\"']?" + re.escape(key) + r"[\"']?\s*=")
        lines = _index(self.text).lines
        return next((n for n in range(start + 1, end) if wanted.match(lines[n - 1])), None)

    def error(
        self,
        key: str | None,
        text: str,
        hint: str,
        missing: str | None = None,
        item: Any = None,
        also: tuple[str, ...] = (),
    ) -> ConfigError:
        """Return the mistake of a key of this table, None for the table as a whole. missing, item, also: see ConfigError."""
        line = self.line_of(key)
        place = f"{self.file}:{line}" if line else f"{self.file}"
        name = f"{self.where}.{key}" if key and self.where else key or self.where
        return ConfigError(f"{place}: {name} {text}", hint, self.file, line, self.where, key, missing, item, also)

    def without(self, *keys: str, **more: Any) -> Table:
        """Return this table with some keys left out and others added."""
        other = copy.copy(self)
        other.data = {k: v for k, v in self.data.items() if k not in keys} | more
        return other

    def only(self, allowed: tuple[str, ...]) -> None:
        """Refuse keys that are not in `allowed`, naming the nearest that is."""
        for key in self.data:
            if key not in allowed:
                near = difflib.get_close_matches(key, allowed, 1, 0.5)
                hint = f"did you mean `{near[0]}`?" if near else "known keys here: " + ", ".join(allowed)
                raise self.error(key, "is not a known key", hint)

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = ..., what: str = "") -> Any:
        """Return a value of the right type; without a default the key must be there."""
        if key not in self.data:
            if default is ...:
                for slip in difflib.get_close_matches(key, self.data, 1, 0.8):
                    raise self.error(slip, "is not a known key", f"did you mean `{key}`?", missing=key)
                raise self.error(None, f"needs the key `{key}`", f"add {key} = {what or '...'}", missing=key)
            return default
        value = self.data[key]
        if not isinstance(value, kind) or isinstance(value, bool) and kind is not bool:
            found = f"a {type(value).__name__}" if key in SECRETS else shown(value)
            raise self.error(key, f"must be {what or kind}, not {found}", f"write {key} = {what or '...'}")
        return value

    def number(self, key: str, default: int, low: int, high: int) -> int:
        value = self.get(key, int, default, f"a whole number {low}..{high}")
        if not low <= value <= high:
            raise self.error(key, f"is {value}", f"choose {low}..{high}")
        return value

    def name(self, key: str, default: Any = ...) -> str:
        value = self.get(key, str, default, '"a-name"')
        if not NAME.fullmatch(value):
            raise self.error(key, f"is {value!r}, it becomes a topic level", "use 1 to 32 of a-z 0-9 _ -")
        return value

    def names(self, key: str) -> tuple[str, ...]:
        """Return one name, or a list of names, as a tuple; () when the key is not there."""
        value = self.get(key, (str, list), [], '"a-name" or ["a-name", "another"]')
        found = [value] if isinstance(value, str) else value
        for name in found:
            if not isinstance(name, str) or not NAME.fullmatch(name):
                raise self.error(
                    key, f"holds {name!r}, it becomes a topic level", "use 1 to 32 of a-z 0-9 _ -", item=name
                )
        return tuple(dict.fromkeys(found))

    def choice(self, key: str, allowed: tuple[str, ...], default: Any = ...) -> str:
        value = self.get(key, str, default, " or ".join(f'"{a}"' for a in allowed))
        if value not in allowed:
            near = difflib.get_close_matches(value, allowed, 1, 0.5)
            raise self.error(
                key, f"is {value!r}", f"did you mean `{near[0]}`?" if near else "choose from " + ", ".join(allowed)
            )
        return value

    def choices(self, key: str, allowed: tuple[str, ...], default: tuple[str, ...]) -> tuple[str, ...]:
        values = self.get(key, list, list(default), "a list of " + ", ".join(allowed))
        for value in values:
            if value not in allowed:
                near = difflib.get_close_matches(str(value), allowed, 1, 0.5)
                hint = f"did you mean `{near[0]}`?" if near else "choose from " + ", ".join(allowed)
                raise self.error(key, f"holds {value!r}", hint, item=value)
        if not values:
            raise self.error(key, "is empty", "choose from " + ", ".join(allowed))
        return tuple(dict.fromkeys(values))

    def address(self, key: str, default_port: int | None, lowest: int = 1) -> tuple[str, int]:
        value = self.get(key, str, what=f'"127.0.0.1:{default_port or 1700}"')
        host, colon, port = value.rpartition(":")
        if not colon and default_port:
            host, port = value, str(default_port)
        if not host or not port.isascii() or not port.isdigit() or not lowest <= int(port) <= 65535:
            hint = f'write host:port, a port of {lowest}..65535, for example "127.0.0.1:{default_port or 1700}"'
            raise self.error(key, f"is {value!r}", hint)
        return host.strip("[]"), int(port)

    def path(self, key: str, default: Any = ...) -> Path | None:
        value = self.get(key, str, default, '"a/file"')
        if value is not None and "\0" in value:
            raise self.error(key, "holds a NUL, which no name of a file has", f'write {key} = "a/file"')
        if value is None:
            return None
        path = real(self.file.parent / value)
        if too_long(path):
            length = len(os.fsencode(path))
            raise self.error(key, f"is a path of {length} bytes, which no file can have", f'write {key} = "a/file"')
        return path

    def stat(self, key: str, path: Path) -> os.stat_result | None:
        """Return what is at a path that `key` names, None when nothing is. Raises ConfigError when that cannot be found out."""
        try:
            return os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as e:  # a folder on the way that may not be entered, links that lead back, a disk that fails
            hint = denied(path, "check the path, and the disk that it is on")
            raise self.error(key, f"names {path}, which cannot be looked at: {e.strerror}", hint) from e

    def tables(self, key: str) -> dict[str, Table]:
        """Return the sub-tables [key.NAME]."""
        value = self.data.get(key, {})
        if not isinstance(value, dict):
            raise self.error(key, "must be tables", f"write [{key}.NAME]")
        return {name: type(self)(self.file, self.text, f"{key}.{name}", data) for name, data in value.items()}


def too_long(path: Path) -> bool:
    """True when the system has no room for a path, or for a part of it."""
    try:
        os.lstat(path)
    except OSError as e:
        return e.errno == errno.ENAMETOOLONG
    return False


def real(path: Path) -> Path:
    """Return a path from the root without links; a loop of links stays in it, and reading it is the mistake. Raises ValueError for a NUL."""
    return Path(os.path.realpath(path))


def read(file: Path, what: str) -> tuple[str, dict[str, Any]]:
    """Return a file's text and its TOML. Raises ConfigError for whatever it is: a pipe or a device would never end, depth and digits have ends."""
    text = text_of(file, what)
    return text, parse(file, text)


def parse(file: Path, text: str) -> dict[str, Any]:
    """Return the TOML of a file's text. Raises ConfigError."""
    line = _long_line(text)
    try:
        data = tomli.loads(text)
        if line is None or not _holds_long(data):
            return data
    except tomli.TOMLDecodeError as e:
        at = re.search(r" \(at line (\d+), column \d+\)$", str(e))
        wrong = int(at[1]) if at else None
        raise ConfigError(
            f"{file}:{wrong}: not TOML: {str(e)[: at.start()]}" if at else f"{file}: not TOML: {e}",
            "text values need quotes; a table starts with [name]; a key stands once in a table",
            file,
            wrong,
        ) from e
    except RecursionError:
        raise ConfigError(f"{file}: nested too deep", "no value of ours has more than a few levels", file) from None
    except ValueError as e:  # a number of thousands of digits
        raise ConfigError(f"{file}: not TOML: {str(e)[:80]}", "look for a number that is too long", file) from e
    raise ConfigError(
        f"{file}:{line}: not TOML: a whole number of more than 64 bits", "look for a digit too many", file, line
    )


# begins with a digit, which is looked for fast: a registry of 8 MiB is searched at every reading
_LONG = re.compile(r"""[0-9](?<![\w"'].)[0-9a-zA-Z_]{15,}(?![\w"'])""", re.DOTALL)

_SIGN = re.compile(r"""(?:[^\w"'])?[+-]\Z""", re.DOTALL)


def _long_line(text: str) -> int | None:
    """Return the 1-based line of the first number that does not fit, None when there is none; it may stand in a comment or a text."""
    for m in _LONG.finditer(text):
        start = m.start() - bool(_SIGN.match(text[max(m.start() - 2, 0) : m.start()]))
        if not _fits(text[start : m.end()]):
            return text.count("\n", 0, start) + 1
    return None


def _fits(digits: str) -> bool:
    """False for a number that TOML need not take (v1.0.0, Integer): nothing of ours is that large, and float() fails on larger ones."""
    try:
        return -(1 << 63) <= int(digits.replace("_", ""), 0) < 1 << 63
    except ValueError:
        return True  # no number: it stands in a comment or a text


def _holds_long(data: Any) -> bool:
    if isinstance(data, dict):
        return any(_holds_long(v) for v in data.values())
    if isinstance(data, list):
        return any(_holds_long(v) for v in data)
    return isinstance(data, int) and not -(1 << 63) <= data < 1 << 63


def text_of(file: Path, what: str, seen: dict[Path, Seen] | None = None) -> str:
    """Return a file's text; `seen` gets what it is known by later. Raises ConfigError."""
    try:
        if file.exists() and not file.is_file():
            raise ConfigError(f"{what} {file} is no file", "name a file; a pipe or a device cannot be read again", file)
        body, was = read_bytes(file, MAX_FILE + 1)
        if len(body) > MAX_FILE:
            raise ConfigError(
                f"{what} {file} is larger than {MAX_FILE >> 20} MiB", "look whether it is the right file", file
            )
        if seen is not None:
            seen[file] = was
        # editors of other systems write a byte order mark, and end lines in their own way
        return io.TextIOWrapper(io.BytesIO(body), encoding="utf-8-sig").read()
    except FileNotFoundError:
        cut = any(file.parent.glob(f"{glob.escape(file.name)}.before-restore-*"))
        hint = "if a restore was cut off, do it again: citymote gateway restore ARCHIVE" if cut else "check the path"
        raise ConfigError(f"{what} {file} does not exist", hint, file) from None
    except UnicodeDecodeError as e:
        at = f"byte {e.start + 1} is {e.object[e.start]:#04x}"
        raise ConfigError(f"{what} {file} is no UTF-8 text: {at}", "save it as UTF-8", file) from e
    except OSError as e:
        if e.errno == errno.ELOOP:
            text = f"{what} {file} leads back to itself through symbolic links"
            raise ConfigError(text, "put a file there, or a link to one", file) from None
        if e.errno == errno.ENAMETOOLONG:
            raise ConfigError(f"{what} {file} cannot be read: {e.strerror}", "write a shorter name", file) from None
        hint = denied(file, "look at the file and the disk that it is on")
        raise ConfigError(f"{what} {file} cannot be read: {e.strerror or e}", hint, file) from e


def level(t: Table, name: str) -> str:
    """Return `name` if it can be a topic level. Raises ConfigError."""
    if not NAME.fullmatch(name):
        raise t.error(None, "has a name that does not fit", "use 1 to 32 of a-z 0-9 _ -")
    return name


def shown(value: Any) -> str:
    """Return a value for a message, short: what stands in a file may be a slip of any length."""
    text = masked(repr(value))  # before it is cut, or half a key would stay
    return text if len(text) <= 60 else f"{text[:57]}..."

"""All mistakes of a configuration at once, though every section's reader stops at its first.

A section is read again without the line that was wrong (or with an example in the place of what is missing), until it says nothing new.
So a reader stays plain code that raises ConfigError, and knows nothing of this. A line that is no TOML is left out, too, and what stands in
its table is not judged any further, since half of it may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import tomli

from gateway.config.manual import example
from gateway.config.seen import Seen
from gateway.config.table import ConfigError, Table, parse, text_of
from gateway.core.model import Node

WORK = 32 << 20  # characters that are parsed again to find further broken lines: seconds
MOST = 100  # mistakes that are told; who has more has taken the wrong file

T = TypeVar("T")
_KEY = re.compile(r"""\s*[\w"'.-]+\s*=""")


class Toml(NamedTuple):
    """What could be read of a file. broken: lines that are no TOML and were left out; whole: False when that was given up."""

    text: str = ""
    data: dict[str, Any] = {}
    broken: Set[int] = frozenset()
    whole: bool = True

    def hurt(self, t: Table) -> bool:
        """True when a line of a table is broken: what is missing of it cannot be known."""
        span = t.span() if self.broken else None
        if span is None:
            return bool(self.broken)
        start, end = span
        return any(start < n < end for n in self.broken)


def _is_toml(line: str) -> bool:
    try:
        parse(Path(), line)
    except ConfigError:
        return False
    return True


class Mistakes:
    """What was found wrong so far, in the order of the file. close() raises when there was anything. seen: the files that were read."""

    def __init__(self) -> None:
        self.found: list[ConfigError] = []
        self.seen: dict[Path, Seen] = {}
        self._texts: set[str] = set()

    def note(self, e: ConfigError) -> None:
        """Enter a mistake; the same one twice counts once, and only the first MOST are kept."""
        if str(e) not in self._texts and len(self.found) < MOST:
            self._texts.add(str(e))
            self.found.append(e)

    def toml(self, file: Path, what: str) -> Toml:
        """Return what can be read of a file; every line that is no TOML is noted."""
        try:
            text = text_of(file, what, self.seen)
        except ConfigError as e:
            self.note(e)
            return Toml(whole=False)
        lines, broken = text.split("\n"), set[int]()
        while True:
            try:
                return Toml(text, parse(file, "\n".join(lines)), broken)
            except ConfigError as e:
                self.note(e)
                line = "" if e.line is None or e.line > len(lines) else lines[e.line - 1]
                # a sound line stands behind a text or a list that does not end, as every other line behind it does
                alone = _KEY.match(line) and (not _is_toml(line) or "overwrite" in str(e))
                enough = len(self.found) >= MOST or len(text) * (len(broken) + 1) > WORK
                if e.line is None or e.line in broken or not alone or enough:
                    return Toml(text, {}, broken, False)
                lines[e.line - 1] = ""
                broken.add(e.line)

    def read(self, reader: Callable[[Table], T], t: Table) -> T | None:
        """Return what `reader` makes of a table; None, and every mistake noted, when it makes nothing of it."""
        sound = True
        told: set[str] = set()
        while True:
            try:
                made = reader(t)
                return made if sound else None
            except ConfigError as e:
                sound = False
                if e.missing is not None:
                    if e.missing not in told:
                        self.note(e)
                    sample = example(t.where, t.data.get("kind"), e.missing)
                    if sample is None or e.missing in t.data or e.where != t.where:
                        return None
                    t = t.without(**{e.missing: tomli.loads(f"x = {sample}")["x"]})
                    told.add(e.missing)
                    continue
                self.note(e)
                if e.key is None or e.where != t.where or e.key not in t.data or len(self.found) >= MOST:
                    return None
                told.add(e.key)
                rest = t.data[e.key]
                rest = [x for x in rest if x != e.item] if isinstance(rest, list) and e.item in rest else []
                t = t.without(e.key, *e.also, **({e.key: rest} if rest else {}))

    def table(self, top: Table, name: str) -> Table:
        """Return [name] of a file, an empty one when there is none or it is no table, which is noted."""
        try:
            return Table(top.file, top.text, name, top.data.get(name, {}))
        except ConfigError as e:
            self.note(e)
            return Table(top.file, top.text, name, {})

    def tables(self, top: Table, name: str) -> dict[str, Table]:
        """Return [name.NAME], {} when there are none or they are no tables, which is noted."""
        try:
            return top.tables(name)
        except ConfigError as e:
            self.note(e)
            return {}

    def parts(self, reader: Callable[[], T], entries: dict[str, tuple[Table, Any]], *tables: Table) -> T | None:
        """Return what is made of entries of several files, and of tables beside them; None, and every mistake noted, when nothing is.

        An entry that is wrong is taken out and the rest read again; a table is emptied of the key that is wrong.
        """
        sound, out = True, set[str]()
        while True:
            try:
                made = reader()
                return made if sound else None
            except ConfigError as e:
                sound = False
                if e.missing in out:
                    return None  # it was there, and wrong
                self.note(e)
                out |= {e.key} if e.key is not None else set()
                at = next((t for t in tables if t.where == e.where), None)
                if len(self.found) >= MOST:
                    return None
                if e.key in entries and entries[e.key][0].where == e.where:
                    t, _ = entries.pop(e.key)
                    t.data = {k: v for k, v in t.data.items() if k != e.key}
                elif at is None or e.key not in at.data:
                    return None
                else:
                    at.data = {k: v for k, v in at.data.items() if k != e.key}

    def close(self, nodes: Mapping[int, Node] | None = None, registry: Path | None = None) -> None:
        """Raise the first mistake, which carries the others, and the nodes of the registry that are sound."""
        if self.found:
            first, *more = self.found
            first.more, first.nodes, first.registry = tuple(more), nodes or {}, registry
            raise first

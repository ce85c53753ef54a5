"""What has to be asked for twice, by a reload and by a start alike: files that lack what was there, since they may be half written.

A file lacks something when it is the beginning of what it was, when most or all of what it held has gone, or when a line is missing that kept
something from those who may not see it. Pure: what was there comes from the configuration in force (a reload) or from the store (a start).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gateway.config import Config
from gateway.config.seen import begins, count
from gateway.core.model import OPEN, PERSONAL, RESTRICTED, Node

MOST_GONE = 2  # to lose more than one in so many, and at least LEAST_GONE, is seldom meant; nor is to lose all
LEAST_GONE = 3
CONFIG, REGISTRY, RULES = "configuration", "registry", "rules"


class Sieve(msgspec.Struct, frozen=True):
    """The filter of an output."""

    visibility: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    quantities: tuple[str, ...] = ()
    areas: tuple[str, ...] = ()


class Was(msgspec.Struct, frozen=True):
    """What was in force. nodes: number -> visibility. entries: of rules.toml, with the visibility that is written there, "" for none.

    files: CONFIG, REGISTRY, RULES -> the lines of the file (config/seen.py); one that is not there, or was not noted, has no place.
    digests: of each entry of gateway.toml and rules.toml. keep: [store].
    """

    nodes: Mapping[int, str] = {}
    entries: Mapping[str, str] = {}
    outputs: Mapping[str, Sieve] = {}
    files: Mapping[str, bytes] = {}
    digests: Mapping[str, bytes] = {}
    keep: Mapping[str, int] = {}

    def plus(self, nodes: Mapping[int, Node]) -> Was:
        """Return this with further nodes."""
        return msgspec.structs.replace(self, nodes={**{n: node.visibility for n, node in nodes.items()}, **self.nodes})

    def changed(self, c: Config, entry: str) -> bool:
        """True when an entry of a configuration ("output.city", "rule.hot") is not as it was, or it is not known how it was."""
        return c.digests.get(entry) != self.digests.get(entry)

    def stored(self) -> bytes:
        """Return what the store keeps of it: all but the nodes, whose entries it has."""
        return msgspec.msgpack.encode(msgspec.structs.replace(self, nodes={}))


def stored(body: bytes | None, nodes: Mapping[int, str]) -> Was:
    """Return what a store has kept; what cannot be read, or was never kept, is not known."""
    try:
        was = Was() if body is None else msgspec.msgpack.decode(body, type=Was)
    except msgspec.MsgspecError:
        was = Was()
    return msgspec.structs.replace(was, nodes=nodes)


def was_of(c: Config, files: Mapping[str, bytes]) -> Was:
    """Return what a configuration holds. files: as files_of() returns them."""
    nodes, outputs = {n: node.visibility for n, node in c.nodes.items()}, {o.name: _sieve(o) for o in c.outputs}
    return Was(nodes, _entries(c), outputs, files, c.digests, asdict(c.keep))


def files_of(c: Config) -> dict[str, bytes]:
    """Return the lines of a configuration's files, of the very bytes that it was made of."""
    places = {CONFIG: c.file, REGISTRY: c.gateway.registry, RULES: c.gateway.rules}
    return {kind: c.seen[path].lines for kind, path in places.items() if path in c.seen}


class Lacking(NamedTuple):
    """What a file no longer has: `gone` of `of` things that were there. kind: which file."""

    kind: str
    file: Path
    what: str
    gone: int
    of: int

    def __str__(self) -> str:
        return f"{self.file}: {self.gone} of {self.of} {self.what} are gone from it"


def lacking(was: Was, c: Config, files: Mapping[str, bytes]) -> list[Lacking]:
    """Return all that a configuration lacks of what was there, at most one thing of each kind."""
    config, registry = c.file, c.gateway.registry
    rules = c.gateway.rules or c.file
    personal = {n for n, seen in was.nodes.items() if seen == PERSONAL and n in c.nodes}
    entries = _entries(c)
    kept = {e for e, seen in was.entries.items() if e in entries and seen in (PERSONAL, *_wider_than(e))}
    silent = {e for e in kept if not entries[e]}
    filters = list(_filters(was, c))
    found = [
        _lost(REGISTRY, registry, "nodes", was.nodes.keys(), c.nodes.keys()),
        _some(REGISTRY, registry, 'lines visibility = "personal"', len(personal & c.unsaid), len(personal)),
        _lost(RULES, rules, "entries", was.entries.keys(), entries.keys()),
        _some(RULES, rules, "lines visibility", len(silent), len(kept)),
        _lost(CONFIG, config, "outputs", was.outputs.keys(), {o.name for o in c.outputs}),
        _some(CONFIG, config, "filter lines of outputs", sum(filters), len(filters)),
    ]
    known = [x for x in found if x is not None]
    for kind, file in ((REGISTRY, registry), (RULES, rules), (CONFIG, config)):
        if is_cut(was, files, kind) and all(x.kind != kind for x in known):
            before, now = count(was.files[kind]), count(files[kind])
            known.append(Lacking(kind, file, "lines", max(before - now, 1), before))
    return known


def is_cut(was: Was, files: Mapping[str, bytes], kind: str) -> bool:
    """True when a file is the beginning of what it was: its last entry may be there in part only."""
    now = files.get(kind)
    return now is not None and begins(was.files.get(kind, b""), now)


def _lost(kind: str, file: Path, what: str, before: Set[Any], after: Set[Any]) -> Lacking | None:
    gone = len(before - after)
    most = gone >= LEAST_GONE and gone * MOST_GONE > len(before)
    return Lacking(kind, file, what, gone, len(before)) if most or gone and not after else None


def _some(kind: str, file: Path, what: str, gone: int, of: int) -> Lacking | None:
    return Lacking(kind, file, what, gone, of) if gone else None


def _filters(was: Was, c: Config) -> Iterator[bool]:
    """Yield for each filter line that was there whether it is missing now, so that its output shows more."""
    for o in c.outputs:
        before = was.outputs.get(o.name)
        if before is None:
            continue
        if not {OPEN, RESTRICTED} <= set(before.visibility):  # narrower than what holds without the line
            yield "visibility" not in o.filter.written
        for key in ("profiles", "quantities", "areas"):
            if getattr(before, key):
                yield key not in o.filter.written


def _wider_than(entry: str) -> tuple[str, ...]:
    """Beside personal: circles that are narrower than what holds without the line. An area without it is restricted; a rule is as its node."""
    return (RESTRICTED,) if entry.startswith("rule.") else ()


def _entries(c: Config) -> dict[str, str]:
    return {} if c.rules is None else {e: c.rules.circles.get(e, "") for e in c.rules.own}


def _sieve(o: Any) -> Sieve:
    f = o.filter
    return Sieve(*(tuple(sorted(getattr(f, key))) for key in ("visibility", "profiles", "quantities", "areas")))

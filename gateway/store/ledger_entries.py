"""Records of the registry as the ledger keeps them: what a subject is, what it was, and under which entries its stored rows were taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from gateway.core.model import PERSONAL, Event, Node
from gateway.core.registry import strictest
from gateway.core.shape import Entry
from gateway.core.value import replace

PAST = 16  # former entries of a subject


class Was(msgspec.Struct, frozen=True):
    """Whose rows of a number are: those of an epoch with a counter lower than `below` says were taken while `entry` held, or before.

    other: what came behind is another device; else the same one, shown to more than before.
    """

    below: Mapping[int, int]
    entry: Entry
    other: bool

    def has(self, epoch: int, counter: int) -> bool:
        """True for rows of a frame that was taken by then."""
        return counter < self.below.get(epoch, 0)


NOT_KNOWN = Entry("", "unknown", PERSONAL)


class Known(msgspec.Struct, frozen=True):
    """A subject in the registry: its entry now (None: it has left) and what it was, each with the generation that ended it.

    was: of a node, under which entries its stored rows were taken, as far as those say who may see them; oldest first.
    """

    now: Entry | None
    past: tuple[tuple[int, Entry], ...] = ()
    was: tuple[Was, ...] = ()

    def until(self, below: Mapping[int, int], other: bool) -> Known:
        """Return what is known once the rows that are stored, those of counters lower than `below`, are not to be shown as those to come."""
        last = self.now or (self.past[-1][1] if self.past else None)
        if not below or last is None:
            return self
        was = (*self.was, Was(below, last, other))
        if len(was) > PAST:  # the two oldest become one
            a, b, *rest = was
            entry = (
                NOT_KNOWN if a.other else replace(b.entry, visibility=strictest(a.entry.visibility, b.entry.visibility))
            )
            was = (replace(b, entry=entry), *rest)
        return replace(self, was=was)

    def owner(self, epoch: int, counter: int) -> tuple[int | None, str]:
        """Return of which former device rows are, as index of `was`, None for the present one; and the narrowest circle of when they
        were taken, "" where only the entry of now says it."""
        first = next((i for i, was in enumerate(self.was) if was.has(epoch, counter)), None)
        if first is None:
            return None, ""
        owner = next((i for i in range(first, len(self.was)) if self.was[i].other), None)
        return owner, self.was[first].entry.visibility

    def shows_less(self, entry: Entry) -> bool:
        """True when fewer may see what there was until now than by `entry`."""
        last = self.now or (self.past[-1][1] if self.past else None)
        return last is not None and strictest(last.visibility, entry.visibility) != entry.visibility

    def last(self, name: str) -> Entry | None:
        """Return the newest entry under a name, None when there was none: a number may be another device's by now."""
        entries = (*(entry for _, entry in self.past), *(() if self.now is None else (self.now,)))
        return next((entry for entry in reversed(entries) if entry.name == name), None)


read_known = msgspec.msgpack.Decoder(Known).decode


def last_circle(e: Event, nodes: Mapping[int, Node], known: Callable[[str], Known | None]) -> str:
    """Return the circle of whom an event is about, as it was last under that name; "" where the registry says it, or nothing is known.

    known: what the ledger knows of a subject. Of areas, and of nodes that have left or have another name, only the ledger knows the end.
    """
    node = nodes.get(e.node)
    if e.area is None and node is not None and node.name == e.name:
        return ""
    found = known(str(e.node) if e.area is None else f"@{e.area.area}")
    entry = None if found is None else found.last(e.name if e.area is None else e.area.area)
    return "" if entry is None else entry.visibility


def last_entry(body: bytes) -> Entry | None:
    """Return the entry that a subject has, or had last, of a row of `entries`; None when it has none that is known, or cannot be read."""
    try:
        known = read_known(body)
    except msgspec.MsgspecError:
        return None
    return known.now or (known.past[-1][1] if known.past else None)

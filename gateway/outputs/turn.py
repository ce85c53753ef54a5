"""What one pass over a broker's memory is about, and what of it may be somebody else's by now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.core.current import NOTHING, Current
from gateway.core.shape import Entry
from gateway.outputs.owner import Claim, newest, ours
from gateway.outputs.reading import AT_ONCE, Name, Read, Reader
from gateway.outputs.retained import Tree
from gateway.store.ledger import Known, Ledger


class Doubt(NamedTuple):
    """Topics of a subject under a name that it has no more, or that another gateway may use as well."""

    subject: str
    name: Name
    topics: frozenset[str]


@dataclass
class Turn:
    """former: shapes of this output, to be emptied; others: at this broker, to be spared; left: outputs taken out there, with their shapes,
    to be emptied; strays: outputs at other addresses that have published at this broker, with theirs, to be emptied. as_of: the generation that others and left are of. spared: topics were left for an output that may be elsewhere.
    doubts: not looked at yet. unread: why some could not be, and what to do. looks: nothing is published, what is in doubt is looked at.
    lent: topics of other outputs were left that may hold what an emptied shape said last, and are to be published again by those.
    heirs: who has a name of another subject by now, whose topics may hold what that one said last: to be published again. crowded: names
    below which more is retained than is kept of one.
    """

    seq: int
    generation: int
    as_of: int
    former: list[Tree] = field(default_factory=list)
    others: list[Tree] = field(default_factory=list)
    left: dict[str, list[Tree]] = field(default_factory=dict)
    strays: dict[str, list[Tree]] = field(default_factory=dict)
    alarms: bool = False
    spared: bool = False
    lent: bool = False
    doubts: list[Doubt] = field(default_factory=list)
    unread: tuple[str, str] | None = None
    looks: bool = False
    heirs: set[str] = field(default_factory=set)
    crowded: set[str] = field(default_factory=set)
    whole: bool = False  # all subjects were gone through

    def shapes(self) -> list[Tree]:
        """Return all shapes whose topics are to be emptied."""
        theirs = (*self.left.values(), *self.strays.values())
        return [*self.former, *(shape for shapes in theirs for shape in shapes)]


def name_of(tree: Tree, subject: str, name: str) -> Name:
    """Return a name as a shape publishes it."""
    return Name(tree.shape.root, tree.shape.discovery, name, subject.startswith("@"))


def over(
    turn: Turn, subject: str, c: Current, tree: Tree, ledger: Ledger, strangers: Sequence[Tree], handed: int
) -> tuple[set[str], dict[Name, set[str]]]:
    """Return the topics of a subject that may hold what is no longer true, but for those of other outputs at this broker: those under the
    name that it has, and, by name, those that may be another gateway's by now. c: all its facts; strangers: outputs that may be at this broker;
    handed: the newest event that was handed over, behind which ends are this turn's business, since they are in the facts.
    """
    sure, doubts, entries = tree.over(subject, c, min(turn.seq, handed)), dict[Name, set[str]](), list[Entry]()
    emptied = set[str]()  # of the shapes alone
    if subject.startswith("@") and sure:
        doubts[name_of(tree, subject, subject[1:])], sure = sure, set()
    if not turn.alarms:
        known = ledger.known(subject) or Known(None)
        entries += [entry for g, entry in known.past if g > turn.generation]
        if known.now is not None:
            entries.append(known.now)
        own = None if known.now is None or subject.startswith("@") else known.now.name
        for shape in (*turn.shapes(), tree):
            for entry in entries:
                if shape is tree and entry is known.now:
                    continue
                topics = shape.under(subject, c, entry)
                if shape is not tree:
                    emptied |= topics
                if entry.name == own:
                    sure |= topics
                else:
                    doubts.setdefault(name_of(shape, subject, entry.name), set()).update(topics)
    every = sure.union(*doubts.values())
    spared = (
        _others(turn, {subject, *tree.owners(entry.name for entry in entries)}, every, tree, ledger, strangers, subject)
        if every
        else set()
    )
    if not turn.lent and (rest := emptied & spared):
        turn.lent = not rest <= tree.desired(subject, c).keys()
    return sure - spared, {name: topics - spared for name, topics in doubts.items() if topics - spared}


def _others(
    turn: Turn, heirs: Set[str], topics: Set[str], tree: Tree, ledger: Ledger, strangers: Sequence[Tree], subject: str
) -> set[str]:
    """Return what other outputs publish here, or may, of a subject and of whoever has a former name of it now."""
    mine, maybe = set[str](), set[str]()
    for heir in heirs:
        _, c = ledger.current(heir) or (0, NOTHING)
        if heir != subject and topics & (its := tree.desired(heir, c).keys()):
            mine |= its
            turn.heirs.add(heir)
        for other in turn.others:
            mine |= other.desired(heir, c).keys()
        for other in strangers:
            maybe |= other.desired(heir, c).keys()
    turn.spared = turn.spared or bool(topics & (maybe - mine))
    return mine | maybe


Judge = Callable[[], tuple[set[str], set[str]]]
"""Returns what is there at that moment and ours, and what is there and not."""
Empty = Callable[[Doubt, Judge], Awaitable[None]]
"""Empties topics of a doubt, by what the judge returns."""


Gateways = Callable[[], Set[str]]
"""Returns the ids that are this gateway's at that moment."""
Owners = Callable[[Iterable[str]], Set[str]]
"""Returns this gateway's nodes that have any of the names at that moment."""


async def look(
    reader: Reader, doubts: Sequence[Doubt], gateways: Gateways, ledger: Ledger, owners: Owners, empty: Empty
) -> tuple[set[str], set[str]]:
    """Have those topics emptied that are there and this gateway's; return the parts of the tree that could not be read, and the names that
    hold more than is kept of one. Raises Unread, MqttError.
    """
    deaf, crowded = set[str](), set[str]()
    for page in _pages(doubts):
        filters = sorted({f for d in page for f in d.name.filters(d.topics)})
        async with reader.reading(filters, {d.name.part(f) for d in page for f in d.name.filters(d.topics)}) as read:
            for d in page:
                await empty(d, lambda d=d, read=read: _judge(read, d, gateways(), ledger, owners))
                if not read.is_whole(d.name.filters(d.topics)):
                    crowded.add(d.name.below)
            deaf |= read.deaf
    return deaf, crowded


def _judge(
    read: Read[Claim], d: Doubt, gateways: Set[str], ledger: Ledger, owners: Owners
) -> tuple[set[str], set[str]]:
    subjects = {d.subject, *(() if d.name.area else owners((d.name.name,)))}  # who has the name by now is ours, too
    known = max(newest((ledger.current(s) or (0, NOTHING))[1]) for s in subjects)
    filters = d.name.filters(d.topics)
    found = read.of(filters)
    whole = read.is_whole(filters) and read.deaf.isdisjoint(d.name.part(f) for f in filters)
    mine = ours(found, gateways, known, whole)
    return mine, found.keys() - mine


def _pages(doubts: Sequence[Doubt]) -> Iterator[list[Doubt]]:
    page, n = list[Doubt](), 0
    for d in doubts:
        more = len(d.name.filters(d.topics))
        if page and n + more > AT_ONCE:
            yield page
            page, n = [], 0
        page.append(d)
        n += more
    if page:
        yield page

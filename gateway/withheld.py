"""What a start with files that lack something leaves as it was, until it is asked for: see asked.py.

The gateway works for what is there. Of nodes, rules and outputs that are missing everything stays as it is known: what is retained, alarms
that are up, what waits for an output; what a missing line would show to more is shown to as many as before. A reload with whole files, a reload
with the files as they stand, or a start with --accept ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from itertools import islice

import msgspec
import structlog

from gateway.asked import CONFIG, REGISTRY, RULES, Lacking, Sieve, Was, files_of, is_cut, lacking, stored, was_of
from gateway.config import Config, OutputConfig, RulesConfig, StoreConfig
from gateway.core.authorise import Policy
from gateway.core.model import PERSONAL, Described, Node
from gateway.core.registry import strictest
from gateway.core.shape import Entry
from gateway.core.value import replace
from gateway.health import Problem
from gateway.store.engine import StoreError
from gateway.store.ledger import Ledger, Place

NAMED = 3  # of what is missing

Look = Callable[[Sequence[int]], Mapping[int, Described]]
"""What is known of nodes' states, by number (Engine.described)."""

log = structlog.get_logger(__name__)


def unheard(_numbers: Sequence[int]) -> Mapping[int, Described]:
    """Know nothing of any node."""
    return {}


class Shrunk:
    """What is withheld. was: what was in force, for a reload to be held against.

    missing: stand-ins of nodes that are not in the registry, under the entries they had and without a key, for whoever publishes. absent: names
    of outputs that are not there, or in part only; places: where those were; areas: those that are not there. rules: nothing is concluded from
    what rules.toml lacks. asked: the configuration as it was read.
    """

    def __init__(self) -> None:
        self.was = Was()
        self._ledger: Ledger | None = None
        self.end()

    def end(self) -> None:
        """Withhold nothing any more."""
        self.missing: Mapping[int, Node] = {}
        self.absent: frozenset[str] = frozenset()
        self.places: Mapping[str, Place] = {}
        self.areas: Mapping[str, Entry] = {}
        self.rules = False
        self.asked: Config | None = None
        self._found: list[Lacking] = []

    def look(self, c: Config, ledger: Ledger, accept: bool, described: Look = unheard) -> Config:
        """Compare a configuration at the start with what the store knows; return the one that is to be in force until more is asked for.

        described: what the store knows of nodes' keys.
        """
        self._ledger = ledger
        files = files_of(c)
        entries = ledger.registry()
        was = stored(ledger.configured(), {n: entry.visibility for n, entry in entries.items()})
        found = lacking(was, c, files)
        self.was = was_of(c, files)
        for x in found:
            if accept:
                log.warning("shrunk_accepted", text=str(x), next="nothing: it was asked for")
        if accept or not found:
            return c
        kinds = {x.kind for x in found}
        cut = {kind for kind in kinds if is_cut(was, files, kind)}
        self.asked, self._found = c, found
        # an empty file of rules has no entries that could be missed, but its line in a file that is cut
        self.rules = RULES in kinds or CONFIG in cut and RULES in was.files and RULES not in files
        if REGISTRY in kinds:
            c = self._nodes(c, entries, REGISTRY in cut, described)
        if self.rules:
            self.areas = ledger.areas()
            c = replace(c, rules=_rules(c, was, RULES in cut))
        if CONFIG in kinds:
            c = self._outputs(c, was, CONFIG in cut)
        if self.missing and c.rules is not None:
            c = replace(c, rules=_gathering(c.rules, self.missing.values()))
        hangs = c != self.asked or self.missing or self.absent or was.entries != self.was.entries
        if not hangs and not any(was.changed(c, entry) for entry in was.digests):
            self.end()  # nothing hangs on the lines that have gone
            return c
        self.was = was.plus(self.missing)
        for x in found:
            log.warning("registry_shrunk", text=str(x), next="put the file back and reload")
        return c

    def _nodes(self, c: Config, entries: Mapping[int, Entry], cut: bool, described: Look) -> Config:
        """Return the configuration with its nodes in the circles they had, and without the last of a file that was cut where that is not whole."""
        nodes = dict(c.nodes)
        last = next(reversed(nodes), None) if cut else None
        if last is not None and last in entries and _in_part(nodes[last], entries[last], described([last]).get(last)):
            del nodes[last]
        self.missing = {n: entry.node(n) for n, entry in entries.items() if n not in nodes}
        for n in c.unsaid & nodes.keys():
            if n in entries and entries[n].visibility == PERSONAL:
                nodes[n] = replace(nodes[n], visibility=PERSONAL)
        return replace(c, nodes=nodes)

    def _outputs(self, c: Config, was: Was, cut: bool) -> Config:
        """Return the configuration with outputs that show no more than they did. Where the file was cut: without an output that is not as it
        was, with no one who may order anything where that is not as it was, and with a store that keeps no less."""
        there = [o for o in c.outputs if not (cut and was.changed(c, f"output.{o.name}"))]
        places = {key: place for key, (_, place) in self._places() if place.now is not None}
        known = {*was.outputs, *(place.output for place in places.values()), *(o.name for o in c.outputs)}
        self.absent = frozenset(known - {o.name for o in there})
        self.places = {key: place for key, place in places.items() if place.output in self.absent}
        c = replace(c, outputs=tuple(_output(o, was.outputs.get(o.name)) for o in there))
        if cut and was.keep:
            before = msgspec.convert(was.keep, StoreConfig)
            c = replace(
                c, keep=StoreConfig(*(max(a, b) for a, b in zip(astuple(c.keep), astuple(before), strict=True)))
            )
        if cut and c.commands is not None and was.changed(c, "commands"):
            c = replace(c, commands=replace(c.commands, policy=Policy(), console=None))
        return c

    def _places(self) -> Iterable[tuple[str, tuple[int, Place]]]:
        return () if self._ledger is None else self._ledger.places().items()

    async def keep(self, was: Was) -> None:
        """Take what is in force from now on, and let the store know it, for the next start to be held against."""
        self.was = was
        body = was.stored()
        if self._ledger is None or body == self._ledger.configured():
            return
        try:
            await self._ledger.keep_configured(body)
        except StoreError as e:  # the next start is held against what was noted before
            log.error("ledger_not_kept", error=str(e), next=e.hint or "look at the disk, then reload")

    def allows(self, c: Config) -> bool:
        """True for the files of the start, as they were read then: they have stood there since, and someone has looked at them since."""
        return self.asked is not None and c == self.asked

    def whole(self, nodes: Mapping[int, Node]) -> Mapping[int, Node]:
        """Return the registry with the stand-ins."""
        return {**self.missing, **nodes} if self.missing else nodes

    def outputs(self, c: Config) -> list[str]:
        """Return the names of all outputs for which events are kept."""
        return [*(o.name for o in c.outputs), *sorted(self.absent)]

    def gathered(self, c: Config) -> dict[str, Entry]:
        """Return the areas about which anything may be published, by name; nodes that are withheld are in them as they were."""
        return {**self.areas, **areas_of(c, self.whole(c.nodes))}

    def problems(self) -> Iterator[Problem]:
        """Say what the files lack since the start."""
        if not self._found:
            return
        texts = [str(x) for x in self._found]
        names = [node.name for node in islice(self.missing.values(), NAMED)] + sorted(self.absent)
        more = f" and {len(self.missing) - NAMED} more nodes" if len(self.missing) > NAMED else ""
        missing = f" ({', '.join(names)}{more})" if names else ""
        yield Problem(
            "registry_shrunk",
            f"at the start there was less in the files than before: {'; '.join(texts)}{missing}; what was published of it and its alarms stay, "
            "frames of missing nodes are refused",
            "put the file back and reload; if it is meant, reload with the files as they are, or start once with --accept",
        )


def areas_of(c: Config, nodes: Mapping[int, Node]) -> dict[str, Entry]:
    """Return the entries of a configuration's areas by name. nodes: who may be in them."""
    if c.rules is None:
        return {}
    return {a.name: Entry.area(a.name, a.visibility, a.kind, nodes.values()) for a in c.rules.areas}


def _in_part(node: Node, before: Entry, known: Described | None) -> bool:
    """True when an entry may lack lines: it is not as it was; its epoch is from before the one that has proven itself, so that its frames would
    count as forged; or it is about to change its key, and the epoch of that may be missing."""
    proven = max(known.keys, default=0) if known is not None else 0
    return Entry.of(node) != before or node.epoch < proven or node.next_key is not None


def _rules(c: Config, was: Was, cut: bool) -> RulesConfig | None:
    """Return the rules in circles no wider than they had; where the file was cut, without a rule or an area that is not as it was."""
    rules = c.rules
    if rules is None:
        return None

    def seen(entry: str, now: str | None) -> str | None:
        before = was.entries.get(entry)
        return now if not before or entry in rules.circles else before if now is None else strictest(now, before)

    def there(entry: str) -> bool:
        return not (cut and entry in rules.own and was.changed(c, entry))

    return replace(
        rules,
        rules=tuple(
            replace(r, visibility=seen(f"rule.{r.name}", r.visibility)) for r in rules.rules if there(f"rule.{r.name}")
        ),
        areas=tuple(
            replace(a, visibility=seen(f"area.{a.name}", a.visibility) or a.visibility)
            for a in rules.areas
            if there(f"area.{a.name}")
        ),
    )


def _gathering(rules: RulesConfig, missing: Iterable[Node]) -> RulesConfig:
    """Return the rules with areas that hold nodes which are withheld, too: what an area counts does not change with a file that is cut."""
    names = {a.name: tuple(n.name for n in missing if a.name in n.area) for a in rules.areas}
    return replace(rules, areas=tuple(replace(a, members=(*a.members, *names[a.name])) for a in rules.areas))


def _output(o: OutputConfig, before: Sieve | None) -> OutputConfig:
    """Return an output that shows no more than it did."""
    if before is None:
        return o
    kept = {
        key: frozenset(getattr(before, key))
        for key in ("visibility", "profiles", "quantities", "areas")
        if key not in o.filter.written and getattr(before, key)
    }
    return replace(o, filter=replace(o.filter, **kept))

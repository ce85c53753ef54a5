"""What a start with files that lack something leaves as it was, until it is asked for: see asked.py.

The gateway works for what is there. Of nodes, rules and outputs that are missing everything stays as it is known: what is retained, alarms
that are up, what waits for an output; what a missing line would show to more is shown to as many as before. A reload with whole files, a reload
with the files as they stand, or a start with --accept ends it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import structlog

from gateway.asked import CONFIG, REGISTRY, RULES, Lacking, Sieve, Was, files_of, is_cut, lacking, stored, was_of
from gateway.config import Config, Filter, MqttOutputConfig, OutputConfig, RulesConfig
from gateway.core.model import PERSONAL, Node
from gateway.core.registry import strictest
from gateway.core.shape import Entry, Shape
from gateway.core.value import replace
from gateway.health import Problem
from gateway.store.engine import StoreError
from gateway.store.ledger import Ledger, Place

NAMED = 3  # of what is missing

log = structlog.get_logger(__name__)


class Shrunk:
    """What is withheld. was: what was in force, for a reload to be held against.

    missing: stand-ins of nodes that are not in the registry, under the entries they had and without a key, for whoever publishes. places,
    areas: of outputs and areas that are not there. rules: nothing is concluded from what rules.toml lacks. asked: the configuration as it was read.
    """

    def __init__(self) -> None:
        self.was = Was()
        self._ledger: Ledger | None = None
        self.end()

    def end(self) -> None:
        """Withhold nothing any more."""
        self.missing: Mapping[int, Node] = {}
        self.places: Mapping[str, Place] = {}
        self.areas: Mapping[str, Entry] = {}
        self.rules = False
        self.asked: Config | None = None
        self._found: list[Lacking] = []

    def look(self, c: Config, ledger: Ledger, accept: bool) -> Config:
        """Compare a configuration at the start with what the store knows; return the one that is to be in force until more is asked for."""
        self._ledger = ledger
        files = files_of(c)
        entries = ledger.registry()
        was = stored(ledger.configured(), {n: entry.visibility for n, entry in entries.items()})
        found = lacking(was, c, files)
        self.was = was_of(c, files)
        if accept or not found:
            for x in found:
                log.warning("shrunk_accepted", text=str(x), next="nothing: it was asked for")
            return c
        kinds = {x.kind for x in found}
        self.asked, self._found, self.rules = c, found, RULES in kinds
        if REGISTRY in kinds:
            self.missing = {n: entry.node(n) for n, entry in entries.items() if n not in c.nodes}
            c = _registry(c, entries, is_cut(was, files, REGISTRY))
        if self.rules:
            self.areas = ledger.areas()
            c = replace(c, rules=_rules(c.rules, was.entries))
        if CONFIG in kinds:
            places = {key: place for key, (_, place) in ledger.places().items() if place.now is not None}
            names = {o.name for o in c.outputs}
            self.places = {key: place for key, place in places.items() if place.output not in names}
            cut = is_cut(was, files, CONFIG)
            c = replace(c, outputs=tuple(_output(o, was.outputs.get(o.name), places, cut) for o in c.outputs))
        if self.asked == c and not (self.missing or self.places) and was.entries == self.was.entries:
            self.end()  # nothing hangs on the lines that have gone
            return c
        self.was = was.plus(self.missing)
        for x in found:
            log.warning("registry_shrunk", text=str(x), next="put the file back and reload")
        return c

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
        return [o.name for o in c.outputs] + [place.output for place in self.places.values()]

    def problems(self) -> Iterator[Problem]:
        """Say what the files lack since the start."""
        if not self._found:
            return
        texts = [str(x) for x in self._found]
        names = [node.name for node in islice(self.missing.values(), NAMED)] + [p.output for p in self.places.values()]
        more = f" and {len(self.missing) - NAMED} more nodes" if len(self.missing) > NAMED else ""
        missing = f" ({', '.join(names)}{more})" if names else ""
        yield Problem(
            "registry_shrunk",
            f"at the start there was less in the files than before: {'; '.join(texts)}{missing}; what was published of it and its alarms stay, "
            "frames of missing nodes are refused",
            "put the file back and reload; if it is meant, reload with the files as they are, or start once with --accept",
        )


def _registry(c: Config, entries: Mapping[int, Entry], cut: bool) -> Config:
    """Return the configuration with its nodes in the circles they had; where the file was cut, its last entry is not whole: it stays as it was."""
    nodes = dict(c.nodes)
    for n, node in c.nodes.items():
        before = entries.get(n)
        if before is not None and cut and Entry.of(node) != before:
            nodes[n] = replace(
                node, name=before.name, profile=before.profile, visibility=before.visibility, area=before.areas,
                lat=before.lat, lon=before.lon, interval_s=before.interval_s,
            )  # fmt: skip
        elif before is not None and n in c.unsaid and before.visibility == PERSONAL:
            nodes[n] = replace(node, visibility=PERSONAL)
    return replace(c, nodes=nodes)


def _rules(rules: RulesConfig | None, circles: Mapping[str, str]) -> RulesConfig | None:
    """Return the rules in circles no wider than they had."""
    if rules is None:
        return None

    def seen(entry: str, now: str | None) -> str | None:
        before = circles.get(entry)
        return now if not before or entry in rules.circles else before if now is None else strictest(now, before)

    return replace(
        rules,
        rules=tuple(replace(r, visibility=seen(f"rule.{r.name}", r.visibility)) for r in rules.rules),
        areas=tuple(replace(a, visibility=seen(f"area.{a.name}", a.visibility) or a.visibility) for a in rules.areas),
    )


def _output(o: OutputConfig, before: Sieve | None, places: Mapping[str, Place], cut: bool) -> OutputConfig:
    """Return an output that shows no more than it did; where the file was cut it stays where it was, too."""
    if before is None:
        return o
    o = replace(o, filter=_filter(o.filter, before, cut))
    if isinstance(o, MqttOutputConfig) and cut:
        place = places.get(f"{o.name}@{o.broker.host}:{o.broker.port}")
        shape: Shape | None = None if place is None else place.now
        if shape is not None:
            o = replace(o, root=shape.root, formats=shape.formats, discovery=shape.discovery)
    return o


def _filter(f: Filter, before: Sieve, cut: bool) -> Filter:
    kept = {
        key: frozenset(getattr(before, key))
        for key in ("visibility", "profiles", "quantities", "areas")
        if key not in f.written and (cut or getattr(before, key))
    }
    return replace(f, **kept)

"""What a destination's retained tree ought to be, subject by subject: a pure function of facts, registry entry and the output's shape.

Topics that are to be emptied follow from the same function: what the facts give under an entry or a shape that held before, without
what they give now. So nothing needs to be remembered topic by topic, and only topics that this gateway published are ever emptied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from gateway.config import MqttOutputConfig
from gateway.config.filter import Filter
from gateway.core.current import Closed, Current, Up
from gateway.core.decide import as_entered
from gateway.core.model import Aggregate, Alarm, Node
from gateway.core.shape import Entry, Shape
from gateway.core.value import replace
from gateway.outputs import RETAINED
from gateway.outputs.filter import Sieve
from gateway.outputs.message import BETWEEN, Known, Message

GATEWAY_LEAVES = ("state", "info", "health")


def shape_of(c: MqttOutputConfig, version: str) -> Shape:
    """Return the shape of a configured output under a version of the gateway."""
    f = c.filter

    def names(of: frozenset[str]) -> tuple[str, ...]:
        return tuple(sorted(of))

    return Shape(
        c.root,
        c.formats,
        c.discovery,
        names(f.visibility),
        names(f.profiles),
        names(f.quantities),
        names(f.areas),
        version,
        BETWEEN,
    )


def always(subject: str) -> Entry | None:
    """The registry of whoever does not ask it: every area is there, and as visible as its facts say."""
    return Entry(subject[1:])


@dataclass
class Tree:
    """The retained tree of one output's shape. entry: the registry's entry of an area now ("@lot-3"), None once it has left."""

    shape: Shape
    gateway: str
    nodes: Mapping[int, Node]
    entry: Callable[[str], Entry | None] = always
    known: Known = field(init=False)
    _numbers: dict[str, str] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        s = self.shape
        f = Filter(*(frozenset(x) for x in (s.visibility, s.profiles, s.quantities, s.areas)))
        self._sieve = Sieve(f)
        self.known = Known(self.gateway, self.nodes, f, self.shape.discovery, s.between)

    def use(self, nodes: Mapping[int, Node]) -> None:
        """Follow another registry."""
        self.nodes, self.known = nodes, self.known.with_nodes(nodes)
        self._numbers = None

    def owners(self, names: Iterable[str]) -> set[str]:
        """Return the nodes that have these names now."""
        if self._numbers is None:
            self._numbers = {node.name: str(number) for number, node in self.nodes.items()}
        return {self._numbers[name] for name in names if name in self._numbers}

    def see(self, subject: str, c: Current) -> tuple[Current, str, Node | None] | None:
        """Return a subject's facts as far as this output may see them, its name, and its node; None when it has left the registry."""
        if subject.startswith("@"):
            entry = self.entry(subject)
            if entry is None:
                return None
            return self._sieve.area_facts(c, entry, self.nodes), entry.name, None
        node = self.nodes.get(int(subject))
        if node is None:
            return None
        seen = self._sieve.facts(c, node)
        if seen is None:
            return None
        if (
            seen.meta is not None and seen.meta["name"] != node.name
        ):  # renamed: the event that says so comes in a moment
            seen = replace(seen, meta=as_entered(seen.meta, node))
        return seen, node.name, node

    def desired(self, subject: str, c: Current, formats: Iterable[str] | None = None) -> dict[str, Message]:
        """Return the retained messages of a subject by topic, in all formats or some."""
        seen = self.see(subject, c)
        if seen is None:
            return {}
        return self.render(*seen, self.shape.formats if formats is None else formats)

    def render(
        self, c: Current, name: str, node: Node | None, formats: Iterable[str], nodes: Mapping[int, Node] | None = None
    ) -> dict[str, Message]:
        """Return the messages of facts that were seen already. nodes: another registry than the one of now."""
        root, known = self.shape.root, self.known if nodes is None else self.known.with_nodes(nodes)
        return {m.topic: m for f in formats if f in RETAINED for m in RETAINED[f](c, name, root, node, known)}

    def under(self, subject: str, c: Current, entry: Entry) -> set[str]:
        """Return the topics that the facts, and those of former devices, give under another registry entry, however narrow their circle has become since."""
        if subject.startswith("@"):  # with a member that has a place, whether it still has one or not
            inside = Node(0, "", b"", lat=0.0, lon=0.0, area=(entry.name,))
            return set(self.render(with_ended(c), entry.name, None, self.shape.formats, {0: inside}))
        node, topics = entry.node(int(subject)), set[str]()
        for device in c.devices():
            seen = self._sieve.facts(with_ended(device), node, lifted=True)
            if seen is not None:
                topics |= self.render(with_ended(seen), node.name, node, self.shape.formats).keys()
        return topics

    def shows_area(self, subject: str, visibility: str, name: str = "") -> bool:
        """True when what was published of an area with that visibility may still be retained: it is there, and no narrower since.

        name: of what is gathered, "" for an alarm.
        """
        entry = self.entry(subject)
        return (
            entry is not None
            and (not name or entry.gathers(name))
            and self._sieve.sees_area(entry, visibility, self.nodes)
        )

    def over(self, subject: str, c: Current, since: int) -> set[str]:
        """Return the topics of alarms and aggregates that have ended with an event behind number `since`."""
        late = {rule: end for rule, end in c.ended.items() if end.seq > since}
        lapsed = {name: end for name, end in c.lapsed.items() if end.seq > since and name not in c.aggregates}
        if not late and not lapsed:
            return set()
        seen = self.see(subject, Current(c.visibility, ended=late, lapsed=lapsed))
        if seen is None:
            return set()
        facts, name, node = seen
        return set(self.render(with_ended(facts), name, node, self.shape.formats))

    def own(self) -> set[str]:
        """Return the topics on which the gateway speaks of itself."""
        return {f"{self.shape.root}/v1/gw/{self.gateway}/{leaf}" for leaf in GATEWAY_LEAVES}


def with_ended(c: Current) -> Current:
    """Return facts with the alarms and aggregates that are over as if they were not: for their topics."""
    if not c.ended and not c.lapsed:
        return c
    up = {
        rule: Up(Alarm("cleared", "", "warning", end.quantity, "", None, None, 0, 0), 0.0, 0)
        for rule, end in c.ended.items()
    }
    made = {name: Closed(Aggregate(name, 0, 0, 0, True, ()), 0.0, 0) for name in c.lapsed}
    return Current(
        c.visibility, c.online, c.meta, c.device, c.values, {**up, **c.alerts}, {}, {**made, **c.aggregates}, c.areas
    )

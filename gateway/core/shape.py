"""Under what facts are published: a subject's registry entry and an output's shape. Both are kept beside what they were before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from gateway.core.model import Node

GATHERED = {"bays": "lot", "counters": "lot", "balance": "balance"}
"""Kind of an area -> name under which it publishes what it gathers."""
NOTHING = "nothing"


class Entry(msgspec.Struct, frozen=True):
    """What of a node's registry entry its retained topics depend on. Of an area: its name, visibility, as profile what it gathers, the
    profiles of the nodes in it (members), and their middle."""

    name: str
    profile: str = ""
    visibility: str = ""
    areas: tuple[str, ...] = ()
    lat: float | None = None
    lon: float | None = None
    interval_s: int = 0
    members: tuple[str, ...] = ()

    @classmethod
    def of(cls, node: Node) -> Entry:
        """Return the entry of a node."""
        return cls(node.name, node.profile, node.visibility, node.area, node.lat, node.lon, node.interval_s)

    @classmethod
    def area(cls, name: str, visibility: str, kind: str, nodes: Iterable[Node] = ()) -> Entry:
        """Return the entry of an area. kind: of core/aggregates/areas.py; nodes: the registry."""
        inside = [node for node in nodes if name in node.area]
        lat, lon = middle(inside) or (None, None)
        members = tuple(sorted({node.profile for node in inside}))
        return cls(name, GATHERED.get(kind, NOTHING), visibility, lat=lat, lon=lon, members=members)

    def gathers(self, name: str) -> bool:
        """True when an area of this entry publishes what is gathered under `name`; one of unknown kind may."""
        return self.profile in ("", name)

    def node(self, number: int) -> Node:
        """Return a node with this entry and no key."""
        return Node(
            number, self.name, b"", profile=self.profile, interval_s=self.interval_s, lat=self.lat, lon=self.lon,
            visibility=self.visibility, area=self.areas,
        )  # fmt: skip

    def shown_as(self) -> tuple[str, str, str, tuple[str, ...]]:
        """Return what decides to whom the subject is shown, and under which name."""
        return self.name, self.profile, self.visibility, self.areas


def middle(nodes: Iterable[Node]) -> tuple[float, float] | None:
    """Return the mean latitude and longitude of those nodes that have a place; None when none has."""
    places = [(n.lat, n.lon) for n in nodes if n.lat is not None and n.lon is not None]
    if not places:
        return None
    return round(sum(lat for lat, _ in places) / len(places), 6), round(sum(lon for _, lon in places) / len(places), 6)


@dataclass(frozen=True, slots=True)
class Shape:
    """All of an output's configuration that its retained tree depends on. version: the gateway's own, which some messages name.

    between: what stands between node and rule in the id of an NGSI-LD alert. A shape that was noted without it had "-", which names contain, too.
    """

    root: str
    formats: tuple[str, ...]
    discovery: str
    visibility: tuple[str, ...]
    profiles: tuple[str, ...] = ()
    quantities: tuple[str, ...] = ()
    areas: tuple[str, ...] = ()
    version: str = ""
    between: str = "-"

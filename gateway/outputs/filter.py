"""What of an event a destination may see: a pure function in front of every format, so that none can forget it.

Each quantity counts by its own default circle and its node's, whichever is narrower: a water meter's register stays personal on a
node that somebody provisioned as open. The registry as it is now counts beside what was true when the event was made.

The exception is a clear: it passes wherever its raise passed, or the alarm would stay up there and nothing would end it. Where only that lets
it through it carries no value, since the node may have become personal in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.config.filter import Filter
from gateway.core.current import Closed, Current
from gateway.core.model import Alarm, Circle, Event, Node
from gateway.core.registry import VISIBILITIES, strictest, visibility_of
from gateway.core.shape import Entry
from gateway.core.value import replace


def may_see(key: str, visibility: str, f: Filter) -> bool:
    """True when a quantity (or status value) `key` of a node of that visibility may pass."""
    if f.quantities and key not in f.quantities and key.partition("-")[0] not in f.quantities:
        return False
    return strictest(visibility, visibility_of(key)) in f.visibility


class Sieve:
    """One destination's filter; remembers what it answered, since there are few quantities and many events."""

    def __init__(self, f: Filter) -> None:
        self._filter = f
        self._answers: dict[tuple[str, str], bool] = {}
        self._members: dict[str, frozenset[str]] = {}  # area -> profiles of its nodes
        self._of: Mapping[int, Node] | None = None

    def narrow(self, e: Event, nodes: Mapping[int, Node], circle: str = "") -> Event | None:
        """Return what of the event may be seen: the event itself, less of it, or None. circle: narrower than its own, where that is known."""
        if e.kind == "store":  # of the gateway itself
            return e
        own = replace(e, visibility=strictest(e.visibility, circle)) if circle else e
        if e.alarm is not None and e.alarm.circle is not None:
            return self._narrow(own, nodes) or self._clear(e, e.alarm, e.alarm.circle)
        return self._narrow(own, nodes)

    def _clear(self, e: Event, a: Alarm, circle: Circle) -> Event | None:
        """Return what of a clear passes where its alarm was seen."""
        f, areas = self._filter, circle.areas if e.area is None else (e.area.area,)
        if e.area is not None:
            seen = e.visibility in f.visibility  # an area's profiles are those of its nodes, which may have gone
        else:
            seen = may_see(a.quantity, e.visibility, f) and (not f.profiles or circle.profile in f.profiles)
        if not seen or f.areas and f.areas.isdisjoint(areas):
            return None
        return replace(e, alarm=replace(a, value=None, limit=None, text=None))

    def _narrow(self, e: Event, nodes: Mapping[int, Node]) -> Event | None:
        f, node = self._filter, nodes.get(e.node)
        if e.area is not None:
            return e if self._sees_area(e.area.area, e.visibility, nodes) else None
        profile, areas = (node.profile, node.area) if node is not None else (None, ())
        visibility = e.visibility if node is None else strictest(e.visibility, node.visibility)
        if f.profiles and profile not in f.profiles:
            return None
        if f.areas and f.areas.isdisjoint(areas):
            return None

        def sees(key: str) -> bool:
            return self._sees(key, visibility)

        if e.command is not None:
            return e if visibility in f.visibility else None
        changed: dict[str, Any] = {}
        if e.columns:
            kept = [i for i, c in enumerate(e.columns) if sees(c.key)]
            if len(kept) < len(e.columns):
                at = {old: new for new, old in enumerate(kept)}
                changed["columns"] = tuple(e.columns[i] for i in kept)
                changed["latest"] = tuple((at[c], row) for c, row in e.latest if c in at)
        if e.aggregates:
            parts = tuple(replace(a, values=tuple(v for v in a.values if sees(v.quantity))) for a in e.aggregates)
            parts = tuple(a for a in parts if a.values)
            if parts != e.aggregates:
                changed["aggregates"] = parts
        if e.alarm is not None and not sees(e.alarm.quantity):
            changed["alarm"] = None
        if e.rssi is not None and not sees("rssi"):
            changed["rssi"] = None
        if e.snr is not None and not sees("snr"):
            changed["snr"] = None
        if e.status is not None:
            status = {key: value for key, value in e.status.items() if sees(key)}
            if len(status) < len(e.status):
                changed["status"] = status or None
        if visibility not in f.visibility:  # what is said of the node itself
            changed |= {"online": None, "meta": None}
        elif e.meta is not None and not all(map(sees, e.meta["quantities"])):
            quantities = {key: unit for key, unit in e.meta["quantities"].items() if sees(key)}
            changed["meta"] = {**e.meta, "quantities": quantities}
        if not changed:
            return e
        rest = replace(e, **changed)
        return rest if _says_something(rest) else None

    def _sees(self, key: str, visibility: str) -> bool:
        answer = self._answers.get((key, visibility))
        if answer is None:
            answer = self._answers[key, visibility] = may_see(key, visibility, self._filter)
        return answer

    def facts(self, c: Current, node: Node, lifted: bool = False) -> Current | None:
        """Return what of a node's facts may be seen under this registry entry.

        Whether it is there now is a fact of now, which the entry alone decides about; no event may come to say it again.
        lifted: leave out of account how narrow the circle was when each fact was told; for what may have been published before that.
        """
        f = self._filter
        if f.profiles and node.profile not in f.profiles or f.areas and f.areas.isdisjoint(node.area):
            return None

        def sees(key: str, circle: int) -> bool:
            return self._sees(key, node.visibility if lifted else strictest(VISIBILITIES[circle], node.visibility))

        changes: dict[str, Any] = {
            "values": {key: v for key, v in c.values.items() if sees(key, v.circle)},
            "alerts": {rule: up for rule, up in c.alerts.items() if sees(up.alarm.quantity, up.circle)},
            "ended": {rule: end for rule, end in c.ended.items() if self._sees(end.quantity, node.visibility)},
        }
        if c.aggregates:
            seen = {}
            for name, (a, received, circle) in c.aggregates.items():
                values = tuple(v for v in a.values if sees(v.quantity, circle))
                if values:
                    seen[name] = Closed(
                        a if len(values) == len(a.values) else replace(a, values=values), received, circle
                    )
            changes["aggregates"] = seen
        if c.lapsed:
            changes["lapsed"] = {
                name: end
                for name, end in c.lapsed.items()
                if any(self._sees(q, node.visibility) for q in end.quantities)
            }
        own = node.visibility if lifted else strictest(c.visibility, node.visibility)
        if node.visibility not in f.visibility:
            changes["online"] = None
        if own not in f.visibility:
            changes |= {"meta": None, "device": None}
        else:
            if c.meta is not None:
                quantities = {key: unit for key, unit in c.meta["quantities"].items() if self._sees(key, own)}
                if len(quantities) < len(c.meta["quantities"]):
                    changes["meta"] = {**c.meta, "quantities": quantities}
            if c.device is not None and c.device.rssi is not None and not self._sees("rssi", own):
                changes["device"] = c.device._replace(rssi=None)
        return replace(c, **changes)

    def area_facts(self, c: Current, area: Entry, nodes: Mapping[int, Node]) -> Current:
        """Return what of an area's facts may be seen under this entry."""

        def sees(circle: int) -> bool:
            return self.sees_area(area, VISIBILITIES[circle], nodes)

        return replace(
            c,
            alerts={rule: up for rule, up in c.alerts.items() if sees(up.circle)},
            areas={name: body for name, body in c.areas.items() if area.gathers(name) and sees(body.circle)},
        )

    def sees_area(self, area: Entry, visibility: str, nodes: Mapping[int, Node]) -> bool:
        """True when a fact of an area may be seen: by what was true when it was published, and by the configuration of now."""
        return self._sees_area(area.name, strictest(visibility, area.visibility or visibility), nodes)

    def _sees_area(self, area: str, visibility: str, nodes: Mapping[int, Node]) -> bool:
        """What is gathered over many nodes counts by the area's own visibility, and belongs to every profile that is in it."""
        f = self._filter
        if visibility not in f.visibility or f.areas and area not in f.areas:
            return False
        if not f.profiles:
            return True
        if nodes is not self._of:
            self._of = nodes
            self._members.clear()
        found = self._members.get(area)
        if found is None:
            found = self._members[area] = frozenset(n.profile for n in nodes.values() if area in n.area)
        return not found.isdisjoint(f.profiles)


def _says_something(e: Event) -> bool:
    told = (e.alarm, e.status, e.online, e.meta, e.rssi, e.snr)
    return bool(e.columns or e.aggregates) or any(x is not None for x in told)

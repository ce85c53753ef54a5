"""What is gathered over many nodes: free places of car parks, and the water balance of shafts. Collectors of City.

A car park is counted bay by bay ("bays"), or by what drives in and out ("counters", gates.py); the balance of a district is inflow less what
its meters used, hour by hour. Each area has notes of its own: "city:@<area>/<part>".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from gateway.core.aggregates.cells import HOUR
from gateway.core.city import Turn
from gateway.core.model import PERSONAL, RESTRICTED, Aggregate, Area, Event
from gateway.core.registry import visibility_of
from gateway.core.report import FUTURE_S

KEEP_HOURS = 8 * 24
LIMIT_HOURS = 24  # so long an hour waits for the last few households, whose use would be the difference to what was published before
LEAST = 5
MEMBERS = "@members"  # no name of a node


@dataclass(frozen=True)
class AreaSpec:
    """An area by name. kind "group" only names nodes for rules.

    bays: members are parking bays, `capacity` of them. counters: entries and exits are (node, quantity) whose rows count cars.
    reset_hour: local hour at which the count is set to reset_to (how many stay over night), None for never.
    balance: inflow and outflow are names of meters (patterns); register: the quantity; least: of how many households a sum is published, and by how
    many it may differ from the one before.
    """

    name: str
    kind: str
    members: tuple[str, ...] = ()
    visibility: str = RESTRICTED
    capacity: int = 0
    entries: tuple[tuple[str, str], ...] = ()
    exits: tuple[tuple[str, str], ...] = ()
    reset_hour: int | None = None
    reset_to: int = 0
    inflow: tuple[str, ...] = ()
    outflow: tuple[str, ...] = ()
    register: str = "water_volume"
    least: int = LEAST

    def has(self, node: str) -> bool:
        """True if a node belongs to it."""
        named = (*self.members, *self.inflow, *self.outflow, *(n for n, _ in (*self.entries, *self.exits)))
        return any(fnmatchcase(node, pattern) for pattern in named)

    def households(self, nodes: Mapping[str, str]) -> frozenset[str]:
        """Meters of a balance whose use no one else may see, of node names with their visibility: nodes that are personal, and what is behind
        the inflow of a quantity that is. None where the area itself is published to those alone who see personal data."""
        if self.visibility == PERSONAL:
            return frozenset()
        behind = visibility_of(f"{self.register}-used") == PERSONAL
        return frozenset(
            n for n, circle in nodes.items()
            if any(fnmatchcase(n, p) for p in (*self.inflow, *self.outflow))
            and (circle == PERSONAL or behind and not any(fnmatchcase(n, p) for p in self.inflow))
        )  # fmt: skip


def tell(turn: Turn, spec: AreaSpec, name: str, t: int, body: Mapping[str, Any], latest: bool = True) -> None:
    """Add what is known of an area at row time `t`."""
    turn.tell("area", f"{spec.name}-{name}", spec.visibility, area=Area(spec.name, name, t, body, latest))


class Bays:
    """Counts the occupied bays of each car park; a bay that went silent is unknown, and so is one never heard.

    note "<area>/<node>": [t, occupied or None]; the sums are in memory and made anew from the notes when first needed.
    note "<area>/@members": [capacity, bays] of the configuration that was told last.
    """

    def __init__(self, specs: Sequence[AreaSpec], nodes: Sequence[str]) -> None:
        self._specs = specs
        self._bays = {spec.name: [n for n in nodes if spec.has(n)] for spec in specs}
        self._of = {node: [s for s in specs if s.has(node)] for node in nodes}
        self._known: dict[str, dict[str, list[int | None]]] = {}

    def forget(self) -> None:
        self._known.clear()

    def follow(self, turn: Turn, event: Event) -> None:
        for spec in self._of.get(turn.subject.name, ()):
            news = _occupied(event)
            if news is None:
                continue
            t, value = news
            known = self._all(turn, spec)
            before = known.get(turn.subject.name)
            if before is not None:
                since, is_silent = before[0], before[1] is None
                if value is None and is_silent:
                    continue
                # of two states the decision says which was sealed last; of silence and a state, their times do, unless the clock was set back
                if is_silent != (value is None) and since is not None and t <= since <= turn.now + FUTURE_S:
                    continue
            known[turn.subject.name] = [t, value]
            turn.keep(key_of(spec, turn.subject.name), [t, value])
            if before is None or before[1] != value:
                self._told(turn, spec, known, t)

    def review(self, turn: Turn) -> None:
        """Tell a car park anew when its bays or its capacity are others; a bay that has left is unknown when it comes back."""
        spec = next((s for s in self._specs if s.name == turn.subject.name), None)
        if spec is None:
            return
        now = [spec.capacity, sorted(self._bays[spec.name])]
        before = turn.look(key_of(spec, MEMBERS))
        if before == now:
            return
        turn.keep(key_of(spec, MEMBERS), now)
        for node in set(before[1] if before is not None else ()) - set(now[1]):
            turn.keep(key_of(spec, node), None)
        known = self._all(turn, spec)
        if known or before is not None:
            self._told(turn, spec, known, int(turn.now))

    def _all(self, turn: Turn, spec: AreaSpec) -> dict[str, list[int | None]]:
        known = self._known.get(spec.name)
        if known is None:
            known = self._known[spec.name] = {
                node: found for node in self._bays[spec.name] if (found := turn.look(key_of(spec, node))) is not None
            }
        return known

    def _told(self, turn: Turn, spec: AreaSpec, known: Mapping[str, list[int | None]], t: int) -> None:
        values = [v for _, v in known.values()]
        occupied, heard = values.count(1), len(values) - values.count(None)
        capacity = spec.capacity or len(self._bays[spec.name])
        body = {
            "capacity": capacity,
            "occupied": occupied,
            "free": max(heard - occupied, 0),
            "unknown": max(capacity - heard, 0),
        }
        future = turn.now + FUTURE_S  # marks behind it are of before the clock was set back
        newest = max((x[0] for x in known.values() if x[0] is not None and x[0] <= future), default=0)
        tell(turn, spec, "lot", max(t, newest), body)


def _occupied(event: Event) -> tuple[int, int | None] | None:
    """Return (time, 0 or 1) of the newest state in an event, (time, None) when the node went silent, None when it says nothing."""
    if event.kind == "offline":
        return int(event.received), None
    for c, row in event.latest:
        column = event.columns[c]
        if column.key == "occupied" and row not in column.suspect:
            value = column.values[row]
            return event.times[row], None if value is None else int(value > 0)
    return None


class Balance:
    """Inflow less outflow per hour. note "<area>/<hour>": {"m": {node: litres or None}, "r": revision}; "<area>/hours": [noted hours].

    Told when all meters have told the hour, or, for what is late, with every later hour that some meter tells.

    What an hour's sums differ by from one revision to the next is never the use of fewer than `least` households (of all of them, where there are
    fewer): those that came since wait for others, as "s", {node: litres as they were published}, shows. Without the rest an hour is published once a later
    one has begun and the rest is as many too, or LIMIT_HOURS are over.
    """

    def __init__(self, specs: Sequence[AreaSpec], nodes: Mapping[str, str]) -> None:
        """nodes: visibility by name."""
        self._private = {s.name: s.households(nodes) for s in specs}
        self._meters = {
            s.name: (
                frozenset(n for n in nodes if any(fnmatchcase(n, p) for p in s.inflow)),
                frozenset(n for n in nodes if any(fnmatchcase(n, p) for p in s.outflow)),
            )
            for s in specs
        }
        self._of = {n: [s for s in specs if n in self._meters[s.name][0] | self._meters[s.name][1]] for n in nodes}

    def forget(self) -> None:
        return None

    def review(self, turn: Turn) -> None:
        """Nothing: each hour is counted with the meters of the configuration as it is then."""

    def follow(self, turn: Turn, event: Event) -> None:
        if event.kind != "aggregate":
            return
        for spec in self._of.get(turn.subject.name, ()):
            for a in event.aggregates:
                if a.name == "hour":
                    self._hour(turn, spec, a)

    def _hour(self, turn: Turn, spec: AreaSpec, a: Aggregate) -> None:
        use = next((v.value for v in a.values if v.quantity == f"{spec.register}-used"), None)
        hour = a.start // HOUR
        state = turn.look(key_of(spec, str(hour))) or {"m": {}, "r": 0}
        if use is None and turn.subject.name not in state["m"]:
            return
        hours: list[int] = turn.look(key_of(spec, "hours")) or []
        last = int(turn.now + FUTURE_S) // HOUR  # later hours are of before the clock was set back
        newest = max((h for h in hours if h <= last), default=hour)
        if hour < newest - KEEP_HOURS:
            turn.refuse("late_for_aggregates", 1)
            return
        state["m"][turn.subject.name] = use
        if hour not in hours:
            hours.append(hour)
            for old in [h for h in hours if h < max(newest, hour) - KEEP_HOURS]:
                hours.remove(old)
                turn.keep(key_of(spec, str(old)), None)
            turn.keep(key_of(spec, "hours"), hours)
            before = turn.look(key_of(spec, str(hour - 1)))
            self._told(turn, spec, hour - 1, before, latest=hour >= newest, whole=False, age=max(newest - hour, 0) + 1)
            for old in [
                h for h in hours if newest - LIMIT_HOURS < h <= hour - LIMIT_HOURS
            ]:  # nothing may come for these any more
                waiting = turn.look(key_of(spec, str(old)))
                if waiting is not None and self._private[spec.name]:
                    self._told(turn, spec, old, waiting, latest=False, whole=True, age=hour - old)
                    turn.keep(key_of(spec, str(old)), waiting)
        self._told(turn, spec, hour, state, latest=hour >= newest, whole=True, age=newest - hour)
        turn.keep(key_of(spec, str(hour)), state)

    def _told(
        self, turn: Turn, spec: AreaSpec, hour: int, state: dict[str, Any] | None, latest: bool, whole: bool, age: int
    ) -> None:
        """Publish an hour: whole when every meter is there (or it was published before), else what there is once the next hour has begun.

        age: how many hours later the newest one is that some meter has reported.
        """
        if state is None:
            return
        into, out = self._meters[spec.name]
        private = self._private[spec.name]
        meters = self._shown(spec, state, private, age) if private else state["m"]
        there = [n for n in (*into, *out) if meters.get(n) is not None]
        waits = not (
            private and age > 0
        )  # households that come behind the next hour are published when they are enough
        if whole and len(there) < len(into) + len(out) and not state["r"] and waits:
            return
        if not whole and state["r"]:
            return
        if private:
            if private.isdisjoint(there) or meters == state.get("s"):
                return
            state["s"] = meters
        state["r"] += 1
        body: dict[str, Any] = {
            "start": hour * HOUR,
            "unit": "l",
            "meters": len(there),
            "capture": round(100 * len(there) / (len(into) + len(out)), 1),
            "revision": state["r"],
        }
        if all(n in there for n in into):
            body["inflow"] = round(sum(meters[n] for n in into), 1)
            body["outflow"] = round(sum(meters[n] for n in out if n in there), 1)
            if len(there) == len(into) + len(out):
                body["balance"] = round(body["inflow"] - body["outflow"], 1)
        if not whole:
            turn.keep(key_of(spec, str(hour)), state)
        tell(turn, spec, "balance", (hour + 1) * HOUR, body, latest)

    def _shown(self, spec: AreaSpec, state: Mapping[str, Any], private: frozenset[str], age: int) -> dict[str, Any]:
        """What each meter counts with: households with what was published before, unless those that differ from it are enough to be published now."""
        before, meters = state.get("s", {}), state["m"]
        known = {n: meters[n] for n in meters if n in private}
        differ = sum(known.get(n) != before.get(n) for n in private)
        missing = sum(known.get(n) is None for n in private)
        least = min(spec.least, len(private))
        if differ < least or missing and not (age > 0 and (missing >= least or age >= LIMIT_HOURS)):
            known = {n: before[n] for n in before if n in private}
        return {n: v for n, v in meters.items() if n not in private} | known


def key_of(spec: AreaSpec, part: str) -> str:
    """Return the key of one of an area's notes."""
    return f"city:@{spec.name}/{part}"

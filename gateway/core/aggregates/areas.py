"""What is gathered over many nodes: free places of car parks, and the water balance of shafts. Collectors of City.

A car park is counted bay by bay ("bays"), or by what drives in and out ("counters"); the balance of a district is inflow less what
its meters used, hour by hour. Each area has notes of its own: "city:@<area>/<part>".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any

from gateway.core.aggregates.calendar import Calendar
from gateway.core.aggregates.cells import HOUR
from gateway.core.city import Turn
from gateway.core.model import RESTRICTED, Aggregate, Area, Event

KEEP_HOURS = 8 * 24


@dataclass(frozen=True)
class AreaSpec:
    """An area by name. kind "group" only names nodes for rules.

    bays: members are parking bays, `capacity` of them. counters: entries and exits are (node, quantity) whose rows count cars.
    reset_hour: local hour at which the count is set to reset_to (how many stay over night), None for never.
    balance: inflow and outflow are names of meters (patterns); register: the quantity.
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

    def has(self, node: str) -> bool:
        """True if a node belongs to it."""
        named = (*self.members, *self.inflow, *self.outflow, *(n for n, _ in (*self.entries, *self.exits)))
        return any(fnmatchcase(node, pattern) for pattern in named)


def _tell(turn: Turn, spec: AreaSpec, name: str, t: int, body: Mapping[str, Any], latest: bool = True) -> None:
    turn.tell("area", f"{spec.name}-{name}", spec.visibility, area=Area(spec.name, name, t, body, latest))


class Bays:
    """Counts the occupied bays of each car park; a bay that went silent is unknown, and so is one never heard.

    note "<area>/<node>": [t, occupied or None]; the sums are in memory and made anew from the notes when first needed.
    """

    def __init__(self, specs: Sequence[AreaSpec], nodes: Sequence[str]) -> None:
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
            if (
                before is not None
                and before[0] is not None
                and (t <= before[0] or before[1] == value and value is None)
            ):
                continue
            known[turn.subject.name] = [t, value]
            turn.keep(_key(spec, turn.subject.name), [t, value])
            if before is None or before[1] != value:
                self._told(turn, spec, known, t)

    def _all(self, turn: Turn, spec: AreaSpec) -> dict[str, list[int | None]]:
        known = self._known.get(spec.name)
        if known is None:
            known = self._known[spec.name] = {
                node: found for node in self._bays[spec.name] if (found := turn.look(_key(spec, node))) is not None
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
        newest = max(x[0] or 0 for x in known.values())
        _tell(turn, spec, "lot", max(t, newest), body)


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


class Counters:
    """Counts what drives in and out. note "<area>/count": {"n": occupied, "t": newest row, "z": rows up to then are settled, "drift"}.

    A count never leaves 0..capacity: what would is drift, summed and told. At `reset_hour` the count becomes reset_to, and the difference
    is drift too; rows from before, that come later, are history.
    """

    def __init__(self, specs: Sequence[AreaSpec], calendar: Calendar) -> None:
        self._calendar = calendar
        self._of: dict[str, list[AreaSpec]] = {}
        for spec in specs:
            for node, _ in (*spec.entries, *spec.exits):
                if spec not in self._of.setdefault(node, []):
                    self._of[node].append(spec)

    def forget(self) -> None:
        return None

    def follow(self, turn: Turn, event: Event) -> None:
        if event.kind != "report":
            return
        for spec in self._of.get(turn.subject.name, ()):
            changes = _passages(spec, turn.subject.name, event)
            if not changes:
                continue
            state = turn.look(_key(spec, "count")) or {"n": spec.reset_to, "t": 0, "z": 0, "drift": 0}
            before, before_t = state["n"], state["t"]
            for t, change in changes:
                if t <= state["z"]:
                    continue
                self._reset(spec, state, t)
                if t <= state["z"]:
                    continue
                wanted = state["n"] + change
                state["n"] = min(max(wanted, 0), spec.capacity)
                state["drift"] += state["n"] - wanted
                state["t"] = max(state["t"], t)
            turn.keep(_key(spec, "count"), state)
            if state["n"] != before or not before_t:
                body = {
                    "capacity": spec.capacity,
                    "occupied": state["n"],
                    "free": spec.capacity - state["n"],
                    "unknown": 0,
                    "drift": state["drift"],
                }
                _tell(turn, spec, "lot", state["t"], body)

    def _reset(self, spec: AreaSpec, state: dict[str, int], t: int) -> None:
        """Set the count if a quiet hour lies between the newest row and this one."""
        if spec.reset_hour is None:
            return
        local = self._calendar.local(t).replace(minute=0, second=0, microsecond=0, tzinfo=None)
        quiet = self._calendar.hour(local.replace(hour=spec.reset_hour)) * HOUR
        if quiet >= t:
            quiet = self._calendar.hour(local.replace(hour=spec.reset_hour) - timedelta(days=1)) * HOUR
        if state["z"] < quiet:
            if state["t"]:
                state["drift"] += spec.reset_to - state["n"]
                state["n"] = spec.reset_to
            state["z"] = quiet


def _passages(spec: AreaSpec, node: str, event: Event) -> list[tuple[int, int]]:
    """Return (time, cars that came or went) of an event's rows, in order of time."""
    found = []
    for column in event.columns:
        sign = ((node, column.key) in spec.entries) - ((node, column.key) in spec.exits)
        if sign:
            for i, v in enumerate(column.values):
                if v and i not in column.suspect:
                    found.append((event.times[i], sign * int(v)))
    return sorted(found)


class Balance:
    """Inflow less outflow per hour. note "<area>/<hour>": {"m": {node: litres or None}, "r": revision}; "<area>/hours": [noted hours].

    Told when all meters have told the hour, or, for what is late, with every later hour that some meter tells.
    """

    def __init__(self, specs: Sequence[AreaSpec], nodes: Sequence[str]) -> None:
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
        state = turn.look(_key(spec, str(hour))) or {"m": {}, "r": 0}
        if use is None and turn.subject.name not in state["m"]:
            return
        hours: list[int] = turn.look(_key(spec, "hours")) or []
        newest = max(hours, default=hour)
        if hour < newest - KEEP_HOURS:
            turn.refuse("late_for_aggregates", 1)
            return
        state["m"][turn.subject.name] = use
        if hour not in hours:
            hours.append(hour)
            for old in [h for h in hours if h < max(newest, hour) - KEEP_HOURS]:
                hours.remove(old)
                turn.keep(_key(spec, str(old)), None)
            turn.keep(_key(spec, "hours"), hours)
            self._told(turn, spec, hour - 1, turn.look(_key(spec, str(hour - 1))), latest=hour >= newest, whole=False)
        self._told(turn, spec, hour, state, latest=hour >= newest, whole=True)
        turn.keep(_key(spec, str(hour)), state)

    def _told(
        self, turn: Turn, spec: AreaSpec, hour: int, state: dict[str, Any] | None, latest: bool, whole: bool
    ) -> None:
        """Tell an hour: whole when every meter is there (or it was told before), else what there is once the next hour has begun."""
        if state is None:
            return
        into, out = self._meters[spec.name]
        meters = state["m"]
        there = [n for n in (*into, *out) if meters.get(n) is not None]
        if whole and len(there) < len(into) + len(out) and not state["r"]:
            return
        if not whole and state["r"]:
            return
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
            turn.keep(_key(spec, str(hour)), state)
        _tell(turn, spec, "balance", (hour + 1) * HOUR, body, latest)


def _key(spec: AreaSpec, part: str) -> str:
    return f"city:@{spec.name}/{part}"

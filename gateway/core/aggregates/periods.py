"""From hours to what a period was: means with capture, running 8 hours, Lden, hourly use and the night's least flow. Pure functions.

`cells(h)` returns what hour h holds, quantity -> cell, empty when nothing. Shares are of the period's actual hours, DST days too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from gateway.core.aggregates import cells as c
from gateway.core.aggregates.calendar import Calendar, Period
from gateway.core.aggregates.cells import ENERGY, HOUR, MEAN, REGISTER, Cell
from gateway.core.aggregates.index import Index, rate
from gateway.core.model import AggregateValue

Hours = Callable[[int], Mapping[str, Cell]]
PENALTIES_DB = (0, 5, 10)  # day, evening, night: 2002/49/EC Annex I


@dataclass(frozen=True)
class Plan:
    """What is aggregated: quantity -> (kind, unit, decimals). capture: least share, percent (75: 2024/2881 Annex III, 2008/50/EC Annex XI).

    most: what a register can rise by in an hour, (pattern of node names, units) in the order in which they count; beyond it is another meter's.
    eight_hour, day, max8h: quantities with a running 8 h mean, a daily mean, a daily maximum of the 8 h means. index: or None.
    """

    calendar: Calendar
    kinds: Mapping[str, tuple[str, str, int]]
    eight_hour: frozenset[str] = frozenset()
    day: frozenset[str] = frozenset()
    max8h: frozenset[str] = frozenset()
    noise: frozenset[str] = frozenset()
    index: Index | None = None
    capture: float = 75.0
    keep_days: int = 8
    grace_s: int = 900
    most: tuple[tuple[str, float], ...] = ()

    def most_of(self, node: str) -> float:
        """Return what a node's register can rise by in an hour."""
        return next((units for pattern, units in self.most if fnmatchcase(node, pattern)), float("inf"))

    @property
    def text(self) -> str:
        """What of the plan decides which aggregates are made, to compare it with another."""
        parts = (self.kinds, self.eight_hour, self.day, self.max8h, self.noise, self.index.scales if self.index else ())
        registers = [q for q, kind in self.kinds.items() if kind[0] == REGISTER]
        return repr([sorted(part) for part in (*parts, registers)])

    def makes(self, name: str, quantities: Set[str]) -> bool:
        """True when an aggregate of this name is made of any of these quantities."""
        of: dict[str, Iterable[str]] = {
            "hour": self.kinds,
            "8h": self.eight_hour,
            "day": self.day,
            "day-max8h": self.max8h,
            "index": self.index.scales if self.index else (),
            "noise": self.noise & {"laeq"},
            "night": [q for q, kind in self.kinds.items() if kind[0] == REGISTER],
        }
        return not quantities.isdisjoint(of[name] if name in of else self.noise & {name.partition("-")[2]})

    def enough(self, capture: float) -> bool:
        """True when a share in percent is enough for a value."""
        return capture >= self.capture

    def needs(self, p: Period) -> int:
        """Return the first hour that a period looks at: 8 h means and 24 h classes reach back beyond its beginning."""
        if p.name == "day" and self.max8h:
            return p.first - 7
        if p.name == "hour" and self.index is not None:
            return p.end - max((s.hours for s in self.index.scales.values()), default=1)
        return p.first


@dataclass(slots=True)
class Found:
    """Values and further facts of a period."""

    name: str
    values: list[AggregateValue] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)


def found(plan: Plan, period: Period, cells: Hours, most: float = float("inf")) -> list[Found]:
    """Return what a period was, nothing where it has no data; a period may tell under several names. most: see Plan."""
    if period.name == "hour":
        out = [_hour(plan, period, cells, most), _index(plan, period, cells)]
    elif period.name == "8h":
        out = [_running(plan, period, cells)]
    elif period.name == "day":
        out = [_day(plan, period, cells), _max8h(plan, period, cells)]
    elif period.name == "noise":
        out = _noise(plan, period, cells)
    else:
        out = [_night(plan, period, cells, most)]
    return [f for f in out if f is not None and f.values]


def told_of(name: str, quantities: Iterable[str]) -> list[str]:
    """Return what an aggregate of this name calls its values when it is made of these quantities."""
    if name == "index":
        return ["index"]
    if name.startswith("noise"):
        return ["lday", "levening", "lnight", "lden"]
    return sorted(q.replace("volume", "flow") if name == "night" else q for q in quantities)


def _share(n: float, of: float) -> float:
    return round(100 * min(n / of, 1), 1)


def hourly(plan: Plan, cells: Mapping[str, Cell], q: str) -> float | None:
    """Return a quantity's mean over an hour if enough of the hour is covered (an energy for energies)."""
    cell = cells.get(q)
    return c.mean(cell) if cell and plan.enough(_share(cell[0], HOUR)) else None


def _hour(plan: Plan, p: Period, cells: Hours, most: float) -> Found:
    out = Found("hour")
    here = cells(p.first)
    for q, cell in here.items():
        kind, unit, decimals = plan.kinds[q]
        if kind == REGISTER:
            out.values += _use(q, unit, decimals, p.first, cells, most)
            continue
        capture = _share(cell[0], HOUR)
        value = None
        if plan.enough(capture):
            value = c.level(c.mean(cell)) if kind == ENERGY else round(c.mean(cell), decimals)
        out.values.append(AggregateValue(q, unit, value, capture))
    return out


def used(hour: int, q: str, cells: Hours, most: float = float("inf")) -> tuple[float | None, float, bool]:
    """Return (register at the hour's end or None, use within the hour, True if both ends were read on the second).

    The use is NaN when it is not known: an end is missing, or `doubted` names why it is none.
    """
    here = cells(hour).get(q)
    end = c.register_at(hour, here, cells(hour + 1).get(q), most)
    start = c.register_at(hour - 1, cells(hour - 1).get(q), here, most)
    if end is None or start is None or doubted(hour, q, cells, most):
        return (None if end is None else end[0]), float("nan"), False
    return end[0], end[0] - start[0], end[1] and start[1]


def doubted(hour: int, q: str, cells: Hours, most: float) -> str | None:
    """Return why the readings of an hour, from the one before it on, tell no use: cells.FELL or cells.JUMPED, None where they may.

    The register fell, rose by more than `most` an hour (another meter), or was back where it had been before it fell (one wrong reading).
    """
    here, before = c.readings(cells(hour).get(q)), c.readings(cells(hour - 1).get(q))
    if not here:
        return None
    found = c.broken([*before[-1:], *here], most)
    if found or not before:
        return found
    end, start = c.register_at(hour, cells(hour).get(q), cells(hour + 1).get(q), most), before[-1][1]
    if max(here[-1][1], end[0] if end else 0.0) - start > most * max(HOUR, here[-1][0] - before[-1][0]) / HOUR:
        return c.JUMPED
    peak = max(v for _, v in (*c.readings(cells(hour - 2).get(q))[-1:], *before))
    return c.FELL if start < peak <= here[-1][1] else None


def _use(q: str, unit: str, decimals: int, hour: int, cells: Hours, most: float) -> list[AggregateValue]:
    register, use, exact = used(hour, q, cells, most)
    share = 100.0 if exact else 50.0 if use == use else 0.0
    return [
        AggregateValue(q, unit, None if register is None else round(register, decimals), share),
        AggregateValue(f"{q}-used", unit, round(use, decimals) if use == use else None, share),
    ]


def _index(plan: Plan, p: Period, cells: Hours) -> Found | None:
    if plan.index is None or not cells(p.first):
        return None
    known: dict[str, float] = {}
    for q, scale in plan.index.scales.items():
        value = mean_of_hours(plan, range(p.end - scale.hours, p.end), q, cells)[0]
        if value is not None:
            known[q] = value
    rating = rate(plan.index, known)
    if rating is None:
        return None
    detail = {"version": plan.index.version, "class": rating.name, "worst": rating.worst, "partial": rating.partial}
    detail["classes"] = dict(rating.classes)
    return Found(
        "index", [AggregateValue("index", "1", rating.level, _share(len(known), len(plan.index.scales)))], detail
    )


def mean_of_hours(plan: Plan, hours: Iterable[int], q: str, cells: Hours) -> tuple[float | None, float]:
    """Return (mean of the valid hourly means or None when too few, share of valid hours in percent)."""
    means = [hourly(plan, cells(h), q) for h in hours]
    valid = [m for m in means if m is not None]
    capture = _share(len(valid), len(means))
    return (sum(valid) / len(valid) if valid and plan.enough(capture) else None), capture


def _running(plan: Plan, p: Period, cells: Hours) -> Found:
    return _means("8h", plan, p, plan.eight_hour, cells)


def _day(plan: Plan, p: Period, cells: Hours) -> Found:
    return _means("day", plan, p, plan.day, cells)


def _means(name: str, plan: Plan, p: Period, quantities: Iterable[str], cells: Hours) -> Found:
    out = Found(name)
    for q in sorted(quantities):
        if any(q in cells(h) for h in range(p.first, p.end)):
            value, capture = mean_of_hours(plan, range(p.first, p.end), q, cells)
            _, unit, decimals = plan.kinds[q]
            out.values.append(AggregateValue(q, unit, None if value is None else round(value, decimals), capture))
    return out


def _max8h(plan: Plan, p: Period, cells: Hours) -> Found:
    """The greatest of the day's 8 h means, a mean belonging to the day on which it ends (2024/2881 Annex I section 1)."""
    out = Found("day-max8h")
    for q in sorted(plan.max8h):
        if not any(q in cells(h) for h in range(p.first, p.end)):
            continue
        means = [mean_of_hours(plan, range(end - 8, end), q, cells)[0] for end in range(p.first + 1, p.end + 1)]
        valid = [m for m in means if m is not None]
        capture = _share(len(valid), len(means))
        _, unit, decimals = plan.kinds[q]
        value = round(max(valid), decimals) if valid and plan.enough(capture) else None
        out.values.append(AggregateValue(q, unit, value, capture))
    return out


def lden(levels: tuple[float, float, float], hours: tuple[float, float, float]) -> float:
    """Return Lden for Lday, Levening, Lnight in dB over that many hours (2002/49/EC Annex I: 12, 4, 8), not rounded."""
    energy = sum(h * 10 ** ((x + p) / 10) for x, h, p in zip(levels, hours, PENALTIES_DB, strict=True))
    return 10 * c.log10(energy / sum(hours))


def _noise(plan: Plan, p: Period, cells: Hours) -> list[Found]:
    out: list[Found] = []
    parts = plan.calendar.noise_periods(p)
    for q in sorted(plan.noise):
        if not any(q in cells(h) for h in range(p.first, p.end)):
            continue
        unit = plan.kinds[q][1]
        told = Found("noise" if q == "laeq" else f"noise-{q}")
        levels: list[float] = []
        lengths: list[float] = []
        captures: list[float] = []
        for name, hours in zip(("lday", "levening", "lnight"), parts, strict=True):
            here = [cell for h in hours if (cell := cells(h).get(q))]
            capture = _share(sum(map(c.covered, here)), HOUR * len(hours))
            value = None
            if plan.enough(capture):
                energy = 10 * c.log10(sum(x[1] for x in here) / sum(x[0] for x in here))
                levels.append(energy)
                lengths.append(len(hours))
                value = round(energy, 1)
            captures.append(capture)
            told.values.append(AggregateValue(name, unit, value, capture))
        whole = None
        if len(levels) == 3:
            whole = round(lden((levels[0], levels[1], levels[2]), (lengths[0], lengths[1], lengths[2])), 1)
        told.values.append(AggregateValue("lden", unit, whole, min(captures)))
        out.append(told)
    return out


def _night(plan: Plan, p: Period, cells: Hours, most: float) -> Found:
    """The least hourly flow of the night, in l/h; every hour of the window must be known."""
    out = Found("night")
    for q, (kind, _, _) in plan.kinds.items():
        if kind != REGISTER or not any(q in cells(h) for h in range(p.first, p.end)):
            continue
        uses = [use for h in range(p.first, p.end) if (use := used(h, q, cells, most)[1]) == use]
        capture = _share(len(uses), p.end - p.first)
        least = round(min(uses), 1) if uses and plan.enough(capture) else None
        out.values.append(AggregateValue(q.replace("volume", "flow"), "l/h", least, capture))
    return out


__all__ = ["ENERGY", "MEAN", "REGISTER", "Found", "Plan", "doubted", "found", "lden", "mean_of_hours", "used"]

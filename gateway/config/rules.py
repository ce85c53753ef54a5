"""rules.toml: limits, aggregates, areas, faults. Shipped files of gateway/defaults come first, the operator's own entries replace theirs.

[rules] defaults, time_zone, settle_s; [aggregates]; [index.VERSION]; [fault]; [battery.PROFILE]; [area.NAME]; [rule.NAME].
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from motewire.quantities import EXPONENT, ID, KEY, QUANTITIES

from gateway.config.mistakes import Mistakes, Toml
from gateway.config.seen import digests
from gateway.config.table import Table, level, read
from gateway.core.aggregates.areas import LEAST, AreaSpec
from gateway.core.aggregates.calendar import Calendar
from gateway.core.aggregates.cells import ENERGY, MEAN, REGISTER
from gateway.core.aggregates.index import DAILY, HOURLY, Index, Scale
from gateway.core.aggregates.periods import Plan
from gateway.core.model import RESTRICTED, Node
from gateway.core.normalise import quantity_of
from gateway.core.registry import LANGUAGES, VISIBILITIES
from gateway.core.rules.battery import BatteryLimits, BatteryPlan
from gateway.core.rules.faults import FaultPlan
from gateway.core.rules.rule import SEVERITIES, WEEKDAYS, Rule, Schedule, Selector

# litres an hour: Q4 = 1.25 x Q3 (2014/32/EU Annex III) of meters of Q3 = 16 and 1,000 m3/h
MOST, MOST_OF_MAINS = 20_000, 1_250_000
DEFAULTS = Path(__file__).parents[1] / "defaults"
TOP = ("rules", "aggregates", "index", "fault", "battery", "area", "rule")
KEYS: Mapping[str, tuple[int, str, int]] = {
    str(q[KEY]): (int(q[ID]), quantity_of(int(q[ID])).unit, max(-int(q[EXPONENT]), 0)) for q in QUANTITIES
}
AGGREGATES: Mapping[str, tuple[str, ...]] = {
    "hour": (), "8h": (), "day": (), "day-max8h": (), "index": ("index",),
    "noise": ("lday", "levening", "lnight", "lden"), "night": ("water_flow",),
    "lot": ("free", "occupied", "unknown", "drift"), "balance": ("balance", "inflow", "outflow", "capture"),
}  # fmt: skip
_RULE_KEYS = (
    "quantity", "aggregate", "above", "below", "rise_per_min", "over_s", "clear", "severity", "profile", "node", "area", "hold",
    "clear_hold", "for_s", "stays", "update_step", "update_s", "fresh_s", "from", "until", "season", "hours", "weekdays", "reference",
    "visibility", "text", "indicative", "round_to", "off",
)  # fmt: skip
_AGGREGATE_KEYS = (
    "mean", "energy", "register", "eight_hour", "day", "max8h", "noise", "index", "capture_percent", "grace_s", "keep_days", "noise_hours",
    "night_flow", "most_per_hour",
)  # fmt: skip
_OWN_NAMES = re.compile(r".*-(above|below|fault)|(stuck|stale|sensor|battery)-.*|offline")


@dataclass(frozen=True)
class RulesConfig:
    """All that follows from readings, ready to be built (gateway/followers.py)."""

    plan: Plan
    faults: FaultPlan
    rules: tuple[Rule, ...] = ()
    areas: tuple[AreaSpec, ...] = ()
    settle_s: int = 900
    defaults: tuple[str, ...] = ()
    own: frozenset[str] = frozenset()
    """What stands in rules.toml itself, by section and name: "rule.underpass", "area.market", "rules.time_zone"; nothing for an empty file."""
    circles: Mapping[str, str] = field(default_factory=dict)
    """Of those with a line `visibility`, what is written there."""
    digests: Mapping[str, bytes] = field(default_factory=dict, compare=False)
    """Of all of `own`: whether an entry is as it was (config/seen.py)."""


@dataclass
class _Read:
    """What has been read so far; later files replace entries of the same name."""

    aggregates: dict[str, tuple[Table, Any]] = field(default_factory=dict)
    fault: dict[str, tuple[Table, Any]] = field(default_factory=dict)
    tables: dict[str, dict[str, Table]] = field(default_factory=dict)


def shipped() -> tuple[str, ...]:
    """Names of the shipped files."""
    return tuple(sorted(p.stem for p in DEFAULTS.glob("*.toml")))


def load_rules(file: Path, nodes: Mapping[int, Node], book: Mistakes | None = None) -> RulesConfig | None:
    """Read rules.toml. Mistakes, each with the file, the line and what to do, go into `book` (None is returned then), or are raised as ConfigError."""
    own, book = book is None, book or Mistakes()
    before = len(book.found)
    toml = book.toml(file, "rules")
    made = _load(file, toml, nodes, book) if toml.whole else None
    if own:
        book.close()
    return made if len(book.found) == before else None


def _load(file: Path, toml: Toml, nodes: Mapping[int, Node], book: Mistakes) -> RulesConfig | None:
    top = Table(file, toml.text, "", toml.data)
    book.read(lambda t: t.only(TOP), top)
    top = top.without(*(k for k in top.data if k not in TOP))
    head = book.table(top, "rules")
    top = top.without("rules")
    known_head = book.read(lambda t: _head(t), head)
    names, zone, settle_s = known_head or (shipped(), ZoneInfo("Europe/Ljubljana"), 900)
    got = _Read()
    for name in names:
        path = DEFAULTS / f"{name}.toml"
        shipped_text, shipped_data = read(path, "shipped rules")
        _collect(got, Table(path, shipped_text, "", shipped_data), book)
    _collect(got, top, book)
    for kind, tables in got.tables.items():
        got.tables[kind] = {name: t for name, t in tables.items() if t.file != file or not toml.hurt(t)}
    found = {name: book.read(lambda t, n=name: _area(n, t, nodes), t) for name, t in got.tables.get("area", {}).items()}
    areas = tuple(a for a in found.values() if a is not None)
    known = {*found} | {name for n in nodes.values() for name in n.area}
    rules = tuple(
        rule
        for name, t in got.tables.get("rule", {}).items()
        if (rule := book.read(lambda t, n=name: _rule(n, t, zone, known, strict=t.file == file), t)) is not None
    )
    plan = book.parts(lambda: _plan(got, zone, areas), got.aggregates, *got.tables.get("index", {}).values())
    faults = book.parts(lambda: _faults(got), got.fault, *got.tables.get("battery", {}).values())
    if plan is None or faults is None or toml.broken:
        return None
    own = {
        f"{section}.{name}": entry
        for section, entries in toml.data.items() if isinstance(entries, dict)
        for name, entry in entries.items()
    }  # fmt: skip
    circles = {
        f"{section}.{name}": entry["visibility"]
        for section, tables in toml.data.items() if isinstance(tables, dict)
        for name, entry in tables.items() if isinstance(entry, dict) and "visibility" in entry
    }  # fmt: skip
    return RulesConfig(plan, faults, rules, areas, settle_s, names, frozenset(own), circles, digests(own))


def _head(t: Table) -> tuple[tuple[str, ...], tzinfo, int]:
    t.only(("defaults", "time_zone", "settle_s"))
    names = () if t.data.get("defaults") == [] else t.choices("defaults", shipped(), shipped())
    return names, _zone(t), t.number("settle_s", 900, 0, 86_400)


def _collect(got: _Read, top: Table, book: Mistakes) -> None:
    for section, keys in (("aggregates", _AGGREGATE_KEYS), ("fault", _FAULT_KEYS)):
        if section in top.data:
            t = book.table(top, section)
            book.read(lambda t, keys=keys: t.only(keys), t)
            getattr(got, section).update({k: (t, v) for k, v in t.data.items() if k in keys})
    for kind in ("index", "battery", "area", "rule"):
        for name, t in book.tables(top, kind).items():
            if book.read(lambda t, n=name: level(t, n), t) is not None:
                got.tables.setdefault(kind, {})[name] = t


def _zone(head: Table) -> tzinfo:
    name = head.get("time_zone", str, "Europe/Ljubljana", '"Europe/Ljubljana"')
    try:
        zone = ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        raise head.error(
            "time_zone", f"is {name!r}, which this box does not know",
            'use a name like "Europe/Ljubljana"; if that one is unknown too: apt-get install tzdata',
        ) from None  # fmt: skip
    for month in range(1, 13):
        offset = datetime(2026, month, 15, tzinfo=zone).utcoffset() or timedelta()
        if offset % timedelta(hours=1):
            raise head.error(
                "time_zone", f"is {name!r}, {offset} from UTC", "hours are aggregated: choose a zone of whole hours"
            )
    return zone


# aggregates


def _quantities(t: Table, key: str, allowed: Iterable[str] | None = None) -> tuple[str, ...]:
    """Read a list of quantity keys; instances (`pm25-1`) are allowed. It may be empty."""
    known = tuple(KEYS if allowed is None else allowed)
    values = t.get(key, list, [], "a list of quantities")
    for v in values:
        _quantity(t, key, v, known)
    return tuple(dict.fromkeys(values))


def _quantity(t: Table, key: str, value: Any, known: Iterable[str]) -> str:
    base = re.sub(r"-\d+$", "", value) if isinstance(value, str) else ""
    if value not in known and base not in known:
        near = difflib.get_close_matches(str(value), known, 1, 0.4)
        hint = f"did you mean `{near[0]}`?" if near else "choose from " + ", ".join(sorted(known))
        raise t.error(key, f"is or holds {value!r}", hint, item=value)
    return value


def _merged(parts: Mapping[str, tuple[Table, Any]], key: str) -> Table:
    """The table that says `key` last, or an empty one."""
    return parts[key][0] if key in parts else Table(Path("defaults"), "", "aggregates", {})


def _pair(t: Table, key: str, default: tuple[int, ...], highest: int = 23) -> tuple[int, ...]:
    values = t.get(key, list, list(default), f"{list(default)}")
    fits = len(values) == len(default) and all(type(v) is int and 0 <= v <= highest for v in values)
    if not fits or sorted(set(values)) != values:
        raise t.error(key, f"is {values}", f"write {len(default)} rising hours of the day, for example {list(default)}")
    return tuple(values)


def _plan(got: _Read, zone: tzinfo, areas: Iterable[AreaSpec]) -> Plan:
    a = got.aggregates
    kinds: dict[str, tuple[str, str, int]] = {}
    for key, kind in (("mean", MEAN), ("energy", ENERGY), ("register", REGISTER)):
        t = _merged(a, key)
        for q in _quantities(t, key):
            if q in kinds:
                raise t.error(
                    key, f"holds {q!r}, which is {kinds[q][0]} already", "a quantity is aggregated in one way"
                )
            number, unit, decimals = KEYS[re.sub(r"-\d+$", "", q)]
            kinds[q] = (kind, unit, max(decimals, 1))
    by_kind = {k: [q for q, x in kinds.items() if x[0] == k] for k in (MEAN, ENERGY, REGISTER)}

    def subset(key: str, kind: str) -> frozenset[str]:
        t = _merged(a, key)
        if t.file.parent == DEFAULTS:  # what the operator does not average is no mistake of the shipped file
            return frozenset(_quantities(t, key)).intersection(by_kind[kind])
        return frozenset(_quantities(t, key, by_kind[kind]))

    day, evening, night = _pair(_merged(a, "noise_hours"), "noise_hours", (6, 18, 22))
    first, last = _pair(_merged(a, "night_flow"), "night_flow", (2, 4))
    indices = got.tables.get("index", {})
    t = _merged(a, "index")
    version = t.get("index", str, "", '"eea-revised-2024"')
    if version and version not in indices:
        near = difflib.get_close_matches(version, indices, 1, 0.4)
        raise t.error("index", f"is {version!r}", f"did you mean `{near[0]}`?" if near else f"write [index.{version}]")
    return Plan(
        Calendar(zone, day, evening, night, (first, last)), kinds, subset("eight_hour", MEAN), subset("day", MEAN),
        subset("max8h", MEAN), subset("noise", ENERGY),
        _index(version, indices[version], by_kind[MEAN]) if version else None,
        _merged(a, "capture_percent").number("capture_percent", 75, 1, 100),
        _merged(a, "keep_days").number("keep_days", 8, 1, 40),
        _merged(a, "grace_s").number("grace_s", 900, 0, 86_400), _most(_merged(a, "most_per_hour"), areas),
    )  # fmt: skip


def _most(t: Table, areas: Iterable[AreaSpec]) -> tuple[tuple[str, float], ...]:
    """What a register can rise by in an hour: what is written, then for what feeds a district, then for every other meter."""
    written = t.get("most_per_hour", dict, {}, '{ "shaft-*" = 1_250_000 }')
    for pattern, units in written.items():
        if isinstance(units, bool) or not isinstance(units, (int, float)) or units <= 0:
            raise t.error(
                "most_per_hour", f"holds {pattern} = {units!r}", "write units an hour, 1.25 x Q3 of the meter"
            )
    own = [(pattern, float(units)) for pattern, units in written.items() if pattern != "*"]
    mains = [(pattern, MOST_OF_MAINS) for area in areas for pattern in area.inflow]
    return (*own, *mains, ("*", float(written.get("*", MOST))))


def _index(version: str, t: Table, means: list[str]) -> Index:
    t.only(("names", "complete", "source", "scale", "daily"))
    names = t.get("names", list, what='["good", "fair", ...]')
    daily = t.get("daily", list, [], "a list of pollutants")
    scales = t.get("scale", dict, what="a table pollutant = [bounds]")
    found: dict[str, Scale] = {}
    inner = Table(t.file, t.text, f"{t.where}.scale", scales)
    for q, bounds in scales.items():
        if not isinstance(bounds, list) or len(bounds) != len(names) - 1 or sorted(set(bounds)) != bounds:
            raise inner.error(
                q, f"is {bounds!r}", f"write {len(names) - 1} rising upper bounds, the last class is open"
            )
        if q in means:  # others cannot be measured here
            found[q] = Scale(tuple(bounds), DAILY if q in daily else HOURLY)
    complete = tuple(frozenset(x) for x in t.get("complete", list, [], "a list of lists of pollutants"))
    return Index(version, tuple(names), found, complete)


# faults

_FAULT_KEYS = ("offline", "stuck", "stuck_rows", "stuck_except", "stale_rows", "stale_intervals", "reference")


def _faults(got: _Read) -> FaultPlan:
    f = got.fault
    rows = _merged(f, "stuck_rows").number("stuck_rows", 36, 2, 100_000)
    stuck = _quantities(_merged(f, "stuck"), "stuck")
    but = _merged(f, "stuck_except")
    except_ = but.get("stuck_except", dict, {}, "{ pm10 = [0] }")
    for q, values in except_.items():
        _quantity(but, "stuck_except", q, KEYS)
        if not isinstance(values, list) or not all(isinstance(v, (int, float)) for v in values):
            raise but.error("stuck_except", f"holds {q} = {values!r}", f"write {q} = [0]")
    limits = {name: _battery(t) for name, t in got.tables.get("battery", {}).items()}
    other = limits.pop("other", None)
    return FaultPlan(
        _merged(f, "offline").get("offline", bool, True, "true or false"),
        dict.fromkeys(stuck, rows),
        {q: tuple(v) for q, v in except_.items()},
        _merged(f, "stale_rows").number("stale_rows", 12, 1, 100_000),
        _merged(f, "stale_intervals").number("stale_intervals", 6, 2, 1000),
        BatteryPlan(limits, other) if limits or other else None,
        reference=_merged(f, "reference").get("reference", str, "", '"a text"'),
    )


def _number(t: Table, key: str, default: Any = ...) -> float:
    return float(t.get(key, (int, float), default, "a number"))


def _battery(t: Table) -> BatteryLimits:
    t.only(("low", "clear", "empty", "warn_days"))
    low, clear, empty = _number(t, "low"), _number(t, "clear"), _number(t, "empty")
    if not empty <= low < clear:
        raise t.error("low", f"is {low}", "volts must be empty <= low < clear")
    return BatteryLimits(low, clear, empty, t.number("warn_days", 60, 1, 3650))


# areas


def _names(t: Table, key: str) -> tuple[str, ...]:
    """Read a name or a list of names or patterns."""
    value = t.get(key, (str, list), [], '"a-name" or a list')
    values = [value] if isinstance(value, str) else value
    for v in values:
        if not isinstance(v, str) or not re.fullmatch(r"[a-z0-9_*?-]{1,64}", v):
            raise t.error(key, f"holds {v!r}", "write names of a-z 0-9 _ -, with * and ? for any", item=v)
    return tuple(values)


def _area(name: str, t: Table, nodes: Mapping[int, Node]) -> AreaSpec:
    kind = t.choice("kind", ("group", "lot", "gate-lot", "balance"), "group")
    allowed = {
        "group": ("nodes",),
        "lot": ("nodes", "capacity"),
        "gate-lot": ("entries", "exits", "capacity", "reset_hour", "reset_to"),
        "balance": ("inflow", "outflow", "register", "least"),
    }[kind]
    t.only(("kind", "visibility", *allowed))
    passages = [tuple(_passage(t, key, v) for v in _names_with_quantity(t, key)) for key in ("entries", "exits")]
    register = t.get("register", str, "water_volume", '"water_volume"')
    spec = AreaSpec(
        name, {"lot": "bays", "gate-lot": "counters"}.get(kind, kind), (*_names(t, "nodes"), *(n.name for n in nodes.values() if name in n.area)),
        t.choice("visibility", VISIBILITIES, RESTRICTED), t.number("capacity", 0, 0, 100_000), passages[0], passages[1],
        t.number("reset_hour", 4, 0, 23) if "reset_hour" in t.data else None, t.number("reset_to", 0, 0, 100_000),
        _names(t, "inflow"), _names(t, "outflow"), _quantity(t, "register", register, KEYS),
        t.number("least", LEAST, 1, 1000),
    )  # fmt: skip
    if kind == "gate-lot" and not (spec.capacity and spec.entries and spec.exits):
        raise t.error(
            None, "needs capacity, entries and exits", 'for example capacity = 120, entries = ["gate-1:count"]'
        )
    if kind == "balance" and not (spec.inflow and spec.outflow):
        raise t.error(None, "needs inflow and outflow", 'for example inflow = ["shaft-1"], outflow = ["wm-*"]')
    if not any(spec.has(n.name) for n in nodes.values()):
        raise t.error(
            None,
            "has no node of the registry",
            "check the names (* stands for any characters), or give nodes of nodes.toml this area",
        )
    return spec


def _names_with_quantity(t: Table, key: str) -> list[str]:
    return t.get(key, list, [], '["gate-1:count"]')


def _passage(t: Table, key: str, value: Any) -> tuple[str, str]:
    node, colon, quantity = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not colon:
        raise t.error(key, f"holds {value!r}", 'write "node:quantity", for example "gate-1:count"')
    return node, _quantity(t, key, quantity, KEYS)


# rules


def _rule(name: str, t: Table, zone: tzinfo, areas: set[str], strict: bool) -> Rule | None:
    t.only(_RULE_KEYS)
    if t.get("off", bool, False, "true or false"):
        return None
    if _OWN_NAMES.fullmatch(name):
        raise t.error(None, "has a name of a node's own or a fault alarm", f"call it, for example, {name}-rule")
    aggregate = t.choice("aggregate", tuple(AGGREGATES), "") if "aggregate" in t.data else ""
    directions = [k for k in ("above", "below", "rise_per_min") if k in t.data]
    if len(directions) != 1:
        raise t.error(None, f"has {' and '.join(directions) or 'no limit'}", "give one of above, below, rise_per_min")
    limit = _number(t, directions[0])
    direction = directions[0].split("_")[0]
    clear = _number(t, "clear", limit)
    if clear > limit if direction != "below" else clear < limit:
        raise t.error("clear", f"is {clear:g}, on the wrong side of {limit:g}", "it ends where the value is good again")
    selector = Selector(_names(t, "profile"), _names(t, "node"), _names(t, "area"))
    for area in selector.areas:
        if strict and area not in areas:
            near = difflib.get_close_matches(area, areas, 1, 0.4)
            raise t.error("area", f"names {area!r}", f"did you mean `{near[0]}`?" if near else f"write [area.{area}]")
    text = t.get("text", dict, {}, '{ sl = "...", it = "...", en = "..." }')
    for language, form in text.items():
        _check_text(t, language, form)
    of = AGGREGATES.get(aggregate) or ((*KEYS, *(f"{q}-used" for q in KEYS)) if aggregate else KEYS)
    return Rule(
        name,
        _quantity(t, "quantity", t.get("quantity", str, what='"pm10"'), of),
        direction,  # type: ignore[arg-type]
        limit,
        clear,
        t.choice("severity", SEVERITIES, "warning"),
        aggregate,
        selector,
        _schedule(t, zone),
        t.number("hold", 1, 1, 1000),
        t.number("clear_hold", 1, 1, 1000),
        t.number("for_s", 0, 0, 366 * 86_400),
        t.number("over_s", 600, 1, 86_400),
        t.get("stays", bool, False, "true or false"),
        _number(t, "update_step", abs(limit) / 10),
        t.number("update_s", 600, 0, 86_400),
        t.number("fresh_s", 0, 0, 366 * 86_400),
        t.get("reference", str, "", '"law or protocol"'),
        t.choice("visibility", VISIBILITIES, None) if "visibility" in t.data else None,
        text,
        t.get("indicative", bool, False, "true or false"),
        t.number("round_to", 0, 0, 6) if "round_to" in t.data else None,
    )


def _check_text(t: Table, language: str, form: Any) -> None:
    if language not in LANGUAGES:
        raise t.error("text", f"has {language!r}", "languages are " + ", ".join(LANGUAGES))
    try:
        str(form).format(label="", value="", limit="", unit="")
    except (KeyError, IndexError, ValueError):
        raise t.error("text", f"has {form!r}", "places are {label} {value} {limit} {unit}") from None


def _schedule(t: Table, zone: tzinfo) -> Schedule:
    first, last = (t.get(k, date, None, "2026-12-11") for k in ("from", "until"))
    if first is not None and last is not None and last < first:
        raise t.error("until", f"is {last}, before {first}", "write the last day on which it holds")
    days = t.choices("weekdays", WEEKDAYS, WEEKDAYS) if "weekdays" in t.data else ()
    return Schedule(
        zone, first, last, _season(t), _hours(t), frozenset(WEEKDAYS.index(d) for d in days)
    )  # fmt: skip


def _season(t: Table) -> tuple[tuple[int, int], tuple[int, int]] | None:
    value = t.get("season", str, None, '"05-01..09-30"')
    if value is None:
        return None
    m = re.fullmatch(r"(\d\d)-(\d\d)\.\.(\d\d)-(\d\d)", value)
    try:
        if m is None:
            raise ValueError
        a, b, c, d = map(int, m.groups())
        _ = date(2024, a, b), date(2024, c, d)
    except ValueError:
        raise t.error("season", f"is {value!r}", 'write first and last month-day, for example "05-01..09-30"') from None
    return (a, b), (c, d)


def _hours(t: Table) -> tuple[int, int] | None:
    value = t.get("hours", str, None, '"22:00-06:00"')
    if value is None:
        return None
    m = re.fullmatch(r"(\d\d):(\d\d)-(\d\d):(\d\d)", value)
    if m is not None:
        a, b, c, d = map(int, m.groups())
        if a < 24 and b < 60 and d < 60 and (c < 24 or (c, d) == (24, 0)) and (a, b) != (c, d):
            return a * 60 + b, c * 60 + d
    raise t.error("hours", f"is {value!r}", 'write local times, for example "22:00-06:00"')


__all__ = ["RulesConfig", "load_rules", "shipped"]

"""What is current of one subject, a node ("263") or an area ("@lot-3"): the newest facts, from which every format renders its retained tree.

`fold` takes events in the order of their commits and trusts their word on what is newest (`latest`, `Aggregate.latest`, the state of an
alarm): what is late or suspect was decided before. Facts know nothing of names, topics, formats and filters, so a renamed node, another
root or another format is rendered from the same facts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from gateway.core.model import RESTRICTED, Aggregate, Alarm, Area, Event
from gateway.core.registry import VISIBILITIES
from gateway.core.report import is_int
from gateway.core.rhythm import DAY_S
from gateway.core.value import replace

MAX_VALUES = 128  # quantities and status values of one subject
MAX_FORMER = 4  # devices that had a number before
MAX_ENDED = 64  # alarms of a subject that are over and whose end a broker may have to be told again

HEALTH = {
    "uptime": "s",
    "boots": "count",
    "heap_free": "B",
    "outbox_depth": "count",
    "rows_lost": "count",
    "downlink_rssi": "dBm",
    "battery_voltage": "V",
    "board_temperature": "Cel",
    "clock_drift": "ppm",
    "writes_refused": "count",
}
"""Values of a status that are published like quantities, with their units."""
SCALE = {"battery_voltage": 100}  # 10 mV steps
ALWAYS = (
    "uptime",
    "outbox_depth",
    "battery_voltage",
)  # in every health report; others when they change, and once a day
VALID_INTERVALS = 3


def health_life_s(key: str, health_s: int) -> int:
    """Return how long a value of a status frame is valid."""
    return VALID_INTERVALS * (health_s if key in ALWAYS else max(health_s, DAY_S))


class Reading(NamedTuple):
    """A value inside its range, its row's end, and how long the row was (Unix seconds, s)."""

    value: int | float
    t: int | float
    step: int


class Value(NamedTuple):
    """The newest value of a quantity or status value. life_s: for how long behind t it is valid. circle: index into VISIBILITIES of the event that brought it.

    valid: the newest reading that was not suspect; None for what no report brought (status values, radio).
    """

    value: int | float | None
    unit: str
    t: int | float
    suspect: bool
    received: float
    life_s: int
    circle: int
    valid: Reading | None = None


class Up(NamedTuple):
    """An alarm that is up, as it was raised or updated last."""

    alarm: Alarm
    received: float
    circle: int


class Closed(NamedTuple):
    """The newest closed period of an aggregate."""

    aggregate: Aggregate
    received: float
    circle: int


class Gathered(NamedTuple):
    """The newest body of an area."""

    area: Area
    received: float
    circle: int


class Ended(NamedTuple):
    """The last end of an alarm, which may be up again: the number of the event that ended it, and the quantity."""

    seq: int
    quantity: str


class Lapsed(NamedTuple):
    """The last end of an aggregate, which may be made again: the number of the event that ended it, and of which quantities it was."""

    seq: int
    quantities: tuple[str, ...]


class Device(NamedTuple):
    """What was said of the node itself. at: newest event that did; online_at: of its presence; heard: newest that it sent; rssi: dBm."""

    at: float = 0.0
    online: bool | None = None
    online_at: float = 0.0
    heard: float | None = None
    rssi: int | None = None
    firmware: str | None = None


class Current(msgspec.Struct, frozen=True):
    """The facts. former: of devices that had this number before, which no one sees any more; their topics may have to be emptied yet. visibility: the node's as of the newest event that spoke of the node itself. meta: its metadata, as published last. changed_at: when the event
    was received that changed these facts last, also where that ended something (Unix s; 0: noted by a gateway of before).
    """

    visibility: str = RESTRICTED
    online: bool | None = None
    meta: Mapping[str, Any] | None = None
    device: Device | None = None
    values: Mapping[str, Value] = msgspec.field(default_factory=dict)
    alerts: Mapping[str, Up] = msgspec.field(default_factory=dict)
    ended: Mapping[str, Ended] = msgspec.field(default_factory=dict)
    aggregates: Mapping[str, Closed] = msgspec.field(default_factory=dict)
    areas: Mapping[str, Gathered] = msgspec.field(default_factory=dict)
    former: Current | None = None
    lapsed: Mapping[str, Lapsed] = msgspec.field(default_factory=dict)
    changed_at: float = 0.0

    def taken_over(self) -> Current:
        """Return the facts of a device that takes over the number: none, but those under whose topics the ones before may stand somewhere."""
        kept = list(self.devices())[:MAX_FORMER]
        former: Current | None = None
        for c in reversed(kept):
            former = replace(c, former=former)
        return Current(former=former)

    def devices(self) -> Iterator[Current]:
        """Yield these facts and those of each former device, newest first."""
        c: Current | None = self
        while c is not None:
            yield c
            c = c.former

    def alerts_only(self) -> Current:
        """Return these facts without all that is no alarm."""
        return Current(self.visibility, alerts=self.alerts, ended=self.ended, former=self.former)


NOTHING = Current()


def subject_of(e: Event) -> str | None:
    """Return whom an event is about; None for what the gateway says of itself and for steps of commands, which are never retained."""
    if e.command is not None or e.kind == "store":
        return None
    if e.area is not None:
        return f"@{e.area.area}"
    return str(e.node) if e.node else None


def fold(c: Current, e: Event, seq: int = 0) -> Current:
    """Return the facts after an event of the subject, which is number `seq` of the spool; the same object when nothing changed."""
    changes: dict[str, Any] = {}
    circle = VISIBILITIES.index(e.visibility)
    if e.area is not None:
        if e.alarm is not None:
            _alarm(c, e, e.alarm, seq, circle, changes)
        elif e.area.latest:
            changes["areas"] = {**c.areas, e.area.name: Gathered(e.area, e.received, circle)}
        return _changed(c, e, changes)
    if e.online is not None or e.meta is not None:
        changes["visibility"] = e.visibility
        if e.online is not None:
            changes["online"] = e.online
        if e.meta is not None:
            changes["meta"] = e.meta
    if e.online is not None or e.meta is not None or e.status is not None:
        changes["device"] = _device(c, e)
    if e.kind == "aggregate":
        newest = {a.name: Closed(a, e.received, circle) for a in e.aggregates if a.latest and not a.over}
        lapsed = {a.name: Lapsed(seq, tuple(v.quantity for v in a.values)) for a in e.aggregates if a.over}
        if newest or lapsed:
            changes["aggregates"] = {name: a for name, a in c.aggregates.items() if name not in lapsed} | newest
        if lapsed:
            changes["lapsed"] = {**c.lapsed, **lapsed}
    elif e.kind not in ("offline", "meta"):
        values = dict(c.values)
        if _values(values, e, circle):
            changes["values"] = values
        if e.alarm is not None:
            _alarm(c, e, e.alarm, seq, circle, changes)
    return _changed(c, e, changes)


def _changed(c: Current, e: Event, changes: dict[str, Any]) -> Current:
    return replace(c, **changes, changed_at=e.received) if changes else c


def _values(values: dict[str, Value], e: Event, circle: int) -> bool:
    told = False

    def put(key: str, value: Value) -> None:
        nonlocal told
        if key in values or len(values) < MAX_VALUES:
            values[key] = value
            told = True

    if e.latest:
        step = e.times[1] - e.times[0] if len(e.times) > 1 and not e.occurrences else e.interval_s
        for n, row in e.latest:
            if n >= len(e.columns) or row >= len(e.times):  # an event of another make: formats could not say it either
                continue
            column, t = e.columns[n], e.times[row]
            value, suspect = column.values[row], row in column.suspect
            before = values.get(column.key)
            valid = before.valid if before is not None else None
            if value is not None and not suspect:
                valid = Reading(value, t, step)
            put(
                column.key,
                Value(value, column.unit, t, suspect, e.received, VALID_INTERVALS * e.interval_s, circle, valid),
            )
    if e.rssi is not None:
        put("rssi", Value(e.rssi, "dBm", e.received, False, e.received, VALID_INTERVALS * e.interval_s, circle))
    if e.snr is not None:
        put("snr", Value(e.snr, "dB", e.received, False, e.received, VALID_INTERVALS * e.interval_s, circle))
    for key, unit in HEALTH.items() if e.status is not None else ():
        value = e.current_status.get(key)
        if is_int(value):
            scaled = value / SCALE[key] if key in SCALE else value
            put(key, Value(scaled, unit, e.received, False, e.received, health_life_s(key, e.health_s), circle))
    return told


def _alarm(c: Current, e: Event, a: Alarm, seq: int, circle: int, changes: dict[str, Any]) -> None:
    if not a.rules:
        return
    alerts, ended = dict(c.alerts), dict(c.ended)
    for rule in a.rules:
        if a.state == "cleared":
            alerts.pop(rule, None)
            ended.pop(rule, None)  # the newest stands last
            ended[rule] = Ended(seq, a.quantity)
        else:
            alerts[rule] = Up(
                a, e.received, circle
            )  # its last end stays known: it may have been shown to others before that
    while len(ended) > MAX_ENDED:
        del ended[next(iter(ended))]
    changes["alerts"], changes["ended"] = alerts, ended


def _device(c: Current, e: Event) -> Device:
    d = c.device or Device()
    firmware = (e.meta or {}).get("firmware") or e.current_status.get("firmware")
    d = d._replace(at=e.received, firmware=firmware if isinstance(firmware, str) else d.firmware)
    online = True if e.online is None and e.status is not None else e.online
    if online is not None:
        d = d._replace(online=online, online_at=e.received)
    if e.kind in ("offline", "meta"):
        return d
    return d._replace(heard=e.received, rssi=e.rssi)

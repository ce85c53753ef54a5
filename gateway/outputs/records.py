"""Flat rows for files and open data: one per value, alarm message, aggregate and area, the same columns in every format. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.core.model import Area, Event, Node
from gateway.outputs.message import iso

# name -> type in Parquet; in this order in CSV
COLUMNS: Mapping[str, str] = {
    "id": "string",  # <event id>:<row>:<quantity>, the same at every repeat
    "kind": "string",  # reading, alarm, aggregate or area
    "node": "string",
    "profile": "string",
    "area": "string",  # names, separated by spaces
    "lat": "double",
    "lon": "double",
    "t": "string",  # when it was measured
    "received": "string",  # when the gateway had it
    "quantity": "string",
    "value": "double",
    "unit": "string",
    "quality": "string",  # readings: ok or suspect; alarms: suspect or nothing
    "state": "string",  # alarms: raised, updated, cleared, event, late
    "severity": "string",
    "limit": "double",
    "name": "string",  # of an aggregate, or what is said of an area
    "start": "string",  # aggregates: when the period began; t is its end
    "capture": "double",  # aggregates: share of the period that is known, percent
    "revision": "double",  # aggregates: a higher one replaces a lower one
}
Record = dict[str, Any]


def records(e: Event, nodes: Mapping[int, Node]) -> Iterator[Record]:
    """Yield the rows of an event, in order of time; those of events that measure nothing are none."""
    node = nodes.get(e.node)
    who: Record = dict.fromkeys(COLUMNS)
    who["received"] = iso(e.received) if e.received else None  # not known any more (store/history.py)
    if e.area is not None and e.alarm is None:
        yield from _area(e.id, e.area, who)
        return
    who["node"] = e.name
    if node is not None:
        who |= {"profile": node.profile, "area": " ".join(node.area) or None, "lat": node.lat, "lon": node.lon}
    for row, t in enumerate(e.times):
        for column in e.columns:
            value = column.values[row]
            if value is None:
                continue
            yield who | {
                "id": f"{e.id}:{row}:{column.key}", "kind": "reading", "t": iso(t), "quantity": column.key, "value": float(value),
                "unit": column.unit, "quality": "suspect" if row in column.suspect else "ok",
            }  # fmt: skip
    for g in e.aggregates:
        for v in () if g.over else g.values:
            yield who | {
                "id": f"{e.id}:{g.name}.{g.start}.{g.revision}:{v.quantity}", "kind": "aggregate", "t": iso(g.end), "start": iso(g.start),
                "name": g.name, "quantity": v.quantity, "value": None if v.value is None else float(v.value), "unit": v.unit,
                "capture": float(v.capture), "revision": float(g.revision),
            }  # fmt: skip
    a = e.alarm
    if a is not None:
        yield who | {
            "id": f"{e.id}:{a.state}:{a.quantity}", "kind": "alarm", "t": iso(a.t), "quantity": a.quantity,
            "value": None if a.value is None else float(a.value), "unit": a.unit, "state": a.state, "severity": a.severity,
            "limit": None if a.limit is None else float(a.limit), **({"quality": "suspect"} if a.suspect else {}),
        }  # fmt: skip


def _area(ident: str, area: Area, who: Record) -> Iterator[Record]:
    """Yield a row per number of what is said of an area."""
    for key, value in area.body.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield who | {
                "id": f"{ident}:{area.name}.{area.t}:{key}", "kind": "area", "area": area.area, "t": iso(area.t), "name": area.name,
                "quantity": key, "value": float(value), "unit": "",
            }  # fmt: skip

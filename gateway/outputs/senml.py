"""`senml`: one SenML JSON pack per report with every sample (RFC 8428), primary units only.

The first record carries the extension label `id`, "<node id>:<key epoch>:<counter>", by which a repeat is known; values outside their valid
range carry `q`: "suspect". Receivers that do not know a label ignore it (RFC 8428 section 4.4).
"""

from __future__ import annotations

import math
from typing import Any

from gateway.core.model import Event
from gateway.outputs.message import NOTHING, Known, Message, json, node_topic

# registry unit -> (SenML primary unit, numerator, denominator, summand, decimals). Units absent here are primary already; None: SenML has
# no unit for it and the record carries none.
_PRIMARY: dict[str, tuple[str | None, float, float, float, int]] = {
    "ug/m3": ("kg/m3", 1, 10**9, 0, 12),
    "ppb": ("/", 1, 10**9, 0, 12),
    "hPa": ("Pa", 100, 1, 0, 3),
    "bar": ("Pa", 100_000, 1, 0, 1),
    "l": ("m3", 1, 1000, 0, 7),
    "l/h": ("m3/s", 1, 3_600_000, 0, 15),
    "mm": ("m", 1, 1000, 0, 6),
    "%": ("/", 1, 100, 0, 6),
    "1": ("/", 1, 1, 0, 6),
    "deg": ("rad", math.pi, 180, 0, 12),
    "uT": ("T", 1, 10**6, 0, 12),
    "dBm": ("dBW", 1, 1, -30, 3),
    "1/cm3": (None, 1, 1, 0, 6),
}


def primary(value: float, unit: str) -> tuple[float, str | None]:
    """Return value and unit as SenML wants them. An unknown quantity's empty unit stays absent."""
    known = _PRIMARY.get(unit)
    if known is None:
        return value, unit or None
    name, numerator, denominator, summand, decimals = known
    if numerator == denominator and not summand:
        return value, name
    return round(value * numerator / denominator + summand, decimals), name


def messages(e: Event, root: str, known: Known = NOTHING) -> list[Message]:
    """Return the pack of a report; nothing for other events."""
    records = pack(e)
    return [Message(node_topic(root, e.name, "senml"), json(records))] if records else []


def pack(e: Event) -> list[dict[str, Any]]:
    """Return the records of a report, in order of time; none for other events, and where there is no value."""
    if e.kind != "report":
        return []
    base_time = e.times[0]
    records: list[dict[str, Any]] = []
    for row, t in enumerate(e.times):
        for column in e.columns:
            value = column.values[row]
            if value is None:
                continue
            value, unit = primary(value, column.unit)
            record: dict[str, Any] = {"n": column.key}
            if unit is not None:
                record["u"] = unit
            if t != base_time:
                record["t"] = t - base_time
            record["v"] = value
            if row in column.suspect:
                record["q"] = "suspect"
            records.append(record)
    if records:
        records[0] = {"bn": f"urn:dev:ops:citymote-{e.name}:", "bt": base_time, "id": e.id, **records[0]}
    return records

"""A SenML reader written from RFC 8428 alone, for both spellings: it shares nothing with the gateway's writer.

No library on PyPI does it: `senml` 0.1.0 applies base fields of the first record only and reads no CBOR.
"""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cbor2

# RFC 8428 section 6, table 4
_CBOR = {
    -1: "bver",
    -2: "bn",
    -3: "bt",
    -4: "bu",
    -5: "bv",
    -6: "bs",
    0: "n",
    1: "u",
    2: "v",
    3: "vs",
    4: "vb",
    5: "s",
    6: "t",
    7: "ut",
    8: "vd",
}
_NAME_FIRST = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_NAME = _NAME_FIRST | set("-:./_")
UNITS = {
    row["unit"]: row
    for row in csv.DictReader(line for line in (Path(__file__).parents[1] / "vectors/senml_units.csv").read_text().splitlines() if not line.startswith("#"))
}  # fmt: skip


class NotSenml(Exception):
    """A pack that a receiver must refuse."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A record after resolution (section 4.6); extra: labels that RFC 8428 does not know."""

    name: str
    unit: str
    t: float
    value: float
    extra: tuple[tuple[str, Any], ...]


def resolve(pack: Any) -> list[Resolved]:
    """Resolve a decoded pack of numeric records. Raises NotSenml."""
    if not isinstance(pack, list) or not pack:
        raise NotSenml("a pack is an array of at least one record")
    base: dict[str, Any] = {"bn": "", "bt": 0, "bu": "", "bv": 0, "bver": 10}
    found = []
    for record in pack:
        record = {_CBOR.get(k, k) if isinstance(k, int) else k: v for k, v in record.items()}
        if any(isinstance(k, int) for k in record):
            raise NotSenml("an integer label that is not in the table")
        for key in list(record):
            if key.endswith("_"):
                raise NotSenml(f"{key} must be understood")  # section 4.4
            if key in base:
                base[key] = record.pop(key)
        if base["bver"] != 10:
            raise NotSenml("version")
        name = base["bn"] + record.pop("n", "")
        if not name or name[0] not in _NAME_FIRST or not set(name) <= _NAME:
            raise NotSenml(f"name {name!r}")
        if [k for k in ("v", "vs", "vb", "vd") if k in record] != ["v"]:
            raise NotSenml("exactly one value")
        unit = record.pop("u", base["bu"])
        if unit and UNITS.get(unit, {}).get("kind") != "primary":
            raise NotSenml(f"unit {unit!r} is no primary unit")  # RFC 8798: secondary ones need a feature bit
        t = base["bt"] + record.pop("t", 0)
        if t < 1 << 28:
            raise NotSenml("relative time")
        value = record.pop("v")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise NotSenml("value")
        found.append(Resolved(name, unit, float(t), float(base["bv"] + value), tuple(sorted(record.items()))))
    return found


def from_json(payload: bytes) -> list[Resolved]:
    """Read application/senml+json."""
    return resolve(json.loads(payload, parse_constant=lambda c: (_ for _ in ()).throw(NotSenml(c))))


def from_cbor(payload: bytes) -> list[Resolved]:
    """Read application/senml+cbor; a pack that is no stream has a definite length."""
    if payload[0] >> 5 != 4 or payload[0] & 31 == 31:
        raise NotSenml("not an array of definite length")
    return resolve(cbor2.loads(payload))


# units of ours that SenML's registry has not, or does not recommend: primary unit and scale, by the definitions of SI
_OURS = {
    "l": ("m3", 1e-3), "l/h": ("m3/s", 1 / 3.6e6), "%": ("/", 1e-2), "deg": ("rad", math.pi / 180), "1": ("/", 1.0), "uT": ("T", 1e-6),
    "bar": ("Pa", 1e5), "ppb": ("/", 1e-9),
}  # fmt: skip


def physical(value: float, unit: str, wanted: str) -> float:
    """Return a resolved value in another unit, by the units registry's scale and offset."""
    if not unit or wanted == unit:
        return value
    if wanted in _OURS:
        primary, scale, offset = *_OURS[wanted], 0.0
    else:
        row = UNITS[wanted]
        primary, scale, offset = row["primary_unit"], float(Fraction(row["scale"])), float(Fraction(row["offset"]))
    assert primary == unit, (wanted, unit)
    return (value - offset) / scale

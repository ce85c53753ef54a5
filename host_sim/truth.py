"""What the nodes persisted against what the backend got: sampled, delivered, lost, and the hash that must repeat."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from motewire.quantities import EXPONENT, ID, KEY, OFFSET, QUANTITIES

from host_sim.protocol import EPOCH_2000

Key = tuple[str, str, int]  # node name, quantity, Unix seconds
_BY_ID = {row[ID]: row for row in QUANTITIES}


def quantity(number: int) -> str:
    """Key of a quantity id; an unknown one is q<id>, as the gateway names it."""
    return _BY_ID[number][KEY] if number in _BY_ID else f"q{number}"


def physical(number: int, raw: int) -> float:
    """Physical value of a raw reading (registry scale)."""
    row = _BY_ID.get(number)
    return float(raw) if row is None else (raw + row[OFFSET]) * 10.0 ** row[EXPONENT]


def same(a: float, b: float) -> bool:
    """Equal up to the representation of a decimal fraction."""
    return abs(a - b) <= 1e-6 * max(1.0, abs(a), abs(b))


@dataclass(slots=True)
class Truth:
    """Readings the truth probe saw persisted before Unix second `end`."""

    end: int
    readings: dict[Key, float] = field(default_factory=dict)
    clashes: list[Key] = field(default_factory=list)

    def add(self, node: str, t2000: int, row: list[tuple[int, int]]) -> None:
        t = t2000 + EPOCH_2000
        if t >= self.end:
            return
        for number, raw in row:
            key = (node, quantity(number), t)
            value = physical(number, raw)
            if key in self.readings and not same(self.readings[key], value):
                self.clashes.append(key)
            self.readings[key] = value

    def missing(self, delivered: Mapping[Key, float]) -> list[Key]:
        """Sampled readings that did not arrive, or arrived with another value."""
        return [k for k, v in self.readings.items() if k not in delivered or not same(delivered[k], v)]


def delivered_hash(air_log: bytes, delivered: Mapping[Key, float], end: int) -> str:
    """SHA-256 over the air log's digest and the sorted readings taken before `end`."""
    digest = hashlib.sha256(air_log)
    for (node, name, t), value in sorted(delivered.items()):
        if t < end:
            digest.update(f"{node} {name} {t} {value:.6g}\n".encode())
    return digest.hexdigest()

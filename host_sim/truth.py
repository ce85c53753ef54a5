"""What the nodes persisted against what the backend got: sampled, delivered, lost, and the hash that must repeat."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from motewire.quantities import ID, KEY, QUANTITIES

from host_sim.protocol import EPOCH_2000

Key = tuple[str, str, int]  # node name, quantity, Unix seconds
_NAMES = {int(row[ID]): str(row[KEY]) for row in QUANTITIES}


def quantity(number: int) -> str:
    """Key of a quantity id; an unknown one is q<id>, as the gateway names it."""
    return _NAMES.get(number, f"q{number}")


@dataclass(slots=True)
class Truth:
    """Raw readings the truth probe saw persisted before Unix second `end`. `clashes`: one key, two values.

    What is in here stays: a row that a node evicts afterwards is missing like any other.
    """

    end: int
    readings: dict[Key, int] = field(default_factory=dict)
    clashes: list[Key] = field(default_factory=list)

    def add(self, node: str, t2000: int, row: list[tuple[int, int]]) -> None:
        t = t2000 + EPOCH_2000
        if t >= self.end:
            return
        for number, raw in row:
            key = (node, quantity(number), t)
            if self.readings.get(key, raw) != raw:
                self.clashes.append(key)
            self.readings[key] = raw

    def missing(self, delivered: Mapping[Key, int]) -> list[Key]:
        """Sampled readings that did not arrive, or arrived with another value; of two values under one key one is lost."""
        gone = [k for k, v in self.readings.items() if delivered.get(k) != v]
        return gone + [k for k in set(self.clashes) if delivered.get(k) == self.readings[k]]


def delivered_hash(air_log: bytes, delivered: Mapping[Key, int], end: int) -> str:
    """SHA-256 over the air log's digest and the sorted readings taken before `end`."""
    digest = hashlib.sha256(air_log)
    for (node, name, t), value in sorted(delivered.items()):
        if t < end:
            digest.update(f"{node} {name} {t} {value}\n".encode())
    return digest.hexdigest()

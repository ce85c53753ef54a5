"""World files: the true course of each quantity at one node, which the VM reads in small windows (vm/sim_hw.py)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """Points (virtual seconds, value) in order of time; linear between them, or held until the next."""

    points: Sequence[Point]
    linear: bool = True

    def at(self, t: float) -> float:
        """The value at t seconds, by the same rule as in the VM (for tests)."""
        points = self.points
        if t <= points[0][0]:
            return points[0][1]
        for (t0, v0), (t1, v1) in zip(points, points[1:], strict=False):
            if t0 <= t < t1:
                return v0 + (v1 - v0) * (t - t0) / (t1 - t0) if self.linear else v0
        return points[-1][1]


def write(path: Path, world: Mapping[str, Series]) -> None:
    """Write a world file: count, a 32-byte entry per series (name 24 s, linear u32, points u32), then the points (2 doubles)."""
    head, body = [struct.pack("<I", len(world))], []
    for name, series in world.items():
        if len(name) > 24 or not series.points:
            raise ValueError(f"series {name!r}: name over 24 bytes, or no points")
        head.append(struct.pack("<24sII", name.encode(), series.linear, len(series.points)))
        body.extend(struct.pack("<dd", t, v) for t, v in series.points)
    path.write_bytes(b"".join(head + body))

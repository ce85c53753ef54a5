"""Brown-out: a supply that sinks below what the board needs is a power cut, at whatever instruction and flash operation runs then.

The voltage is a known course, so the cuts are known before the run, and node and fleet need nothing new (vm/sim_flash.py tears the operation).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from host_sim.node import NodeSpec, PowerCut
from host_sim.protocol import NEVER
from host_sim.series import Series

RELEASE_MV = 100  # so much more ends a brown-out, and what mote/power.py refuses
PAUSE_S = 600  # mote/supervisor.py: a node with a low supply looks again


def brownouts(volts: Series, below: float, release: float) -> list[PowerCut]:
    """When `volts` sinks below `below`, until it is back at `release` (V, release >= below); at the end of time if it never is."""
    if release < below:
        raise ValueError(f"a brown-out ends at {release} V, below the {below} V at which it begins")
    points = list(volts.points)
    if not volts.linear:  # steps: the value holds up to the next point
        points = [p for (t0, v0), (t1, _) in zip(points, points[1:], strict=False) for p in ((t0, v0), (t1, v0))]
        points.append(volts.points[-1])
    cuts: list[PowerCut] = []
    away = 0.0 if points[0][1] < below else None
    for (t0, v0), (t1, v1) in itertools.pairwise(points):
        if away is None and v1 < below:
            away = t0 + (t1 - t0) * (v0 - below) / (v0 - v1)
        elif away is not None and v1 >= release:
            cuts.append(_cut(away, t0 + (t1 - t0) * (release - v0) / (v1 - v0)))
            away = None
    if away is not None:
        cuts.append(PowerCut(round(away * 1e6), NEVER))
    return cuts


def _cut(away: float, back: float) -> PowerCut:
    return PowerCut(round(away * 1e6), round(back * 1e6))


def merged(cuts: Iterable[PowerCut]) -> tuple[PowerCut, ...]:
    """In order of time; what overlaps or touches becomes one."""
    out: list[PowerCut] = []
    for cut in sorted(cuts, key=lambda c: (c.at, c.back)):
        if out and cut.at <= out[-1].back:
            out[-1] = PowerCut(out[-1].at, max(out[-1].back, cut.back))
        else:
            out.append(cut)
    return tuple(out)


def with_supply(spec: NodeSpec, world: Mapping[str, Series], limits: Mapping[str, Any]) -> NodeSpec:
    """The node with the brown-outs of its board ([limits] brownout_mv, brownout_release_mv) added to its power cuts, and when its supply is low
    (flash_write_min_mv): from there on it sleeps, and looks again every PAUSE_S."""
    volts = world.get("battery_voltage")
    if volts is None:
        return spec
    if "brownout_mv" in limits:
        below = limits["brownout_mv"] / 1000
        release = limits.get("brownout_release_mv", limits["brownout_mv"] + RELEASE_MV) / 1000
        spec = dataclasses.replace(spec, cuts=merged([*spec.cuts, *brownouts(volts, below, release)]))
    least = limits.get("flash_write_min_mv", 0) / 1000
    low = [
        PowerCut(c.at, min(c.back + PAUSE_S * 1_000_000, NEVER))
        for c in brownouts(volts, least, least + RELEASE_MV / 1000)
    ]
    return dataclasses.replace(spec, low=merged([*spec.cuts, *low]) if low else ())

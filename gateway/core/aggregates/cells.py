"""What one hour of one quantity comes to, whatever the order in which its rows arrive.

Two kinds of cell, as plain lists so that they can be noted:
mean, energy: [seconds covered, sum of seconds x value]; energy sums 10^(dB/10), because levels are never averaged in dB.
register:     [t, value of the first row, t, value of the last row]; a register only rises.
Rows are stamped with their end, so hour h (counted from 1970) has the rows with 3600 h < t <= 3600 (h + 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log10

HOUR = 3600
MEAN, ENERGY, REGISTER = "mean", "energy", "register"
KINDS = (MEAN, ENERGY, REGISTER)
REACH_S = 2 * HOUR
"""How far apart two register readings may be to say what it was on the hour between them."""

Cell = list[float]


def hour_of(t: int) -> int:
    """The hour that a row stamped `t` belongs to."""
    return (t - 1) // HOUR


def add(cell: Cell, kind: str, values: Sequence[float], times: Sequence[int], step: int) -> None:
    """Add rows of one hour, each `step` seconds long, to a cell that may be empty."""
    if kind == REGISTER:
        for t, v in zip(times, values, strict=True):
            if not cell:
                cell += (t, v, t, v)
            elif t < cell[0]:
                cell[0], cell[1] = t, v
            elif t > cell[2]:
                cell[2], cell[3] = t, v
        return
    if not cell:
        cell += (0, 0)
    cell[0] += step * len(values)
    cell[1] += step * (sum(values) if kind == MEAN else sum([10 ** (v / 10) for v in values]))


def mean(cell: Cell) -> float:
    """The mean over what is covered: of energies for an energy cell, in 10^(dB/10)."""
    return cell[1] / cell[0]


def level(energy: float) -> float:
    """Return dB for an energy mean, to 0.1 dB."""
    return round(10 * log10(energy), 1) if energy > 0 else 0.0


def covered(cell: Cell) -> float:
    """Seconds of the hour that rows cover, 0..3600."""
    return min(cell[0], HOUR)


def register_at(hour: int, before: Cell | None, after: Cell | None) -> tuple[float, bool] | None:
    """Return a register at the end of `hour` and whether it was read in that very second.

    before, after: the cells of that hour and of the next. Between two readings at most REACH_S apart it is interpolated.
    """
    t = (hour + 1) * HOUR
    if before and before[2] == t:
        return before[3], True
    if not before or not after or after[0] - before[2] > REACH_S or after[1] < before[3]:
        return None
    return before[3] + (after[1] - before[3]) * (t - before[2]) / (after[0] - before[2]), False

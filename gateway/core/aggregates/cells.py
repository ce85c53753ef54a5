"""What one hour of one quantity comes to, whatever the order in which its rows arrive.

Two kinds of cell, as plain lists so that they can be noted:
mean, energy: [seconds covered, sum of seconds x value, runs]; energy sums 10^(dB/10), because levels are never averaged in dB.
register:     [t, value, t, value, ...]: the first row of each minute, rising, and the last row of the hour; a register only rises, and
              whether it did is seen by all of them. Which rows these are hangs on what came, not on the order in which it did.
Rows are stamped with their end, so hour h (counted from 1970) has the rows with 3600 h < t <= 3600 (h + 1).

A time counts once: `runs` are the parts of the hour that rows have told of, and a row whose last second is told already is left out.
So rows that come twice, or once more a few seconds beside (the node's clock was set back), neither fill an hour nor weigh double.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import log10
from typing import Any

HOUR = 3600
MEAN, ENERGY, REGISTER = "mean", "energy", "register"
KINDS = (MEAN, ENERGY, REGISTER)
REACH_S = 2 * HOUR
"""How far apart two register readings may be to say what it was on the hour between them."""

MAX_RUNS = 32  # of a cell; beyond that the two nearest become one

JUMP_S = 600  # shorter distances say little of a flow: a pulse may be ten litres
PLACE_S = 60  # of a register's rows nearer to each other than this the first is kept: 60 of an hour at most
FELL, JUMPED = "register_fall", "register_jump"

Cell = list[Any]


def hour_of(t: int) -> int:
    """The hour that a row stamped `t` belongs to."""
    return (t - 1) // HOUR


def add(cell: Cell, kind: str, values: Sequence[float], times: Sequence[int], step: int) -> bool:
    """Add rows of one hour, each `step` seconds long, to a cell that may be empty. Return whether a register's last reading is lower than the last was."""
    if kind == REGISTER:
        last = cell[-1] if cell else float("-inf")
        for t, v in zip(times, values, strict=True):
            _read(cell, t, v)
        return cell[-1] < last
    if not cell:
        cell += (0, 0, [])
    elif len(cell) == 2:  # noted before runs were
        cell.append([])
    if not _extends(cell[2], times, step):
        pairs = [(t, v) for t, v in sorted(zip(times, values, strict=True)) if cover(cell[2], t - step, t)]
        _bound(cell[2])
        values = [v for _, v in pairs]
    cell[0] += step * len(values)
    cell[1] += step * (sum(values) if kind == MEAN else sum([10 ** (v / 10) for v in values]))
    return False


def _read(cell: Cell, t: int, v: float) -> None:
    """Add a reading of a register: the first of its minute stays, and the last of all. Of two with one time the lesser is the first."""
    if not cell:
        cell += (t, v, t, v)
        return
    last = len(cell) - 2
    place = (t - 1) // PLACE_S
    at = last  # behind the rows of earlier minutes
    while at and (cell[at - 2] - 1) // PLACE_S > place:
        at -= 2
    if not at or (cell[at - 2] - 1) // PLACE_S < place:
        cell[at:at] = (t, v)
    elif (t, v) < (cell[at - 2], cell[at - 1]):
        cell[at - 2 : at] = (t, v)
    if (t, v) > (cell[-2], cell[-1]):
        cell[-2:] = (t, v)


def broken(readings: Sequence[tuple[int, float]], most: float) -> str | None:
    """Return what shows that rows of a register, in order, are not one meter's: FELL, JUMPED (by more than `most` an hour), or None."""
    for (t, v), (then, value) in pairwise(readings):
        if value < v:
            return FELL
        if value - v > most * max(then - t, JUMP_S) / HOUR:
            return JUMPED
    return None


def readings(cell: Cell | None) -> list[tuple[int, float]]:
    """Return (t, value) of the rows that a register's cell holds, the last one twice where it is the first of its minute."""
    return list(zip(cell[::2], cell[1::2], strict=True)) if cell else []


def fits(cell: Cell, kind: str) -> bool:
    """True if a noted cell is of this kind: a quantity may be aggregated in another way since."""
    return (len(cell) >= 4) == (kind == REGISTER)


def _extends(runs: list[int], times: Sequence[int], step: int) -> bool:
    """Add rows that are a grid behind all that was told, as nearly all are; False, and nothing added, when they are anything else."""
    n, first = len(times), times[0] - step
    if runs and first < runs[-1] or times[-1] - times[0] != step * (n - 1):
        return False
    if n > 2 and any(times[i] - times[i - 1] != step for i in range(1, n)):
        return False
    if runs and 4 * (first - runs[-1]) <= step:
        runs[-1] = times[-1]
    else:
        runs += (first, times[-1])
        _bound(runs)
    return True


def cover(runs: list[int], begin: int, end: int) -> bool:
    """Add begin..end to what was told, False when its last second was told already. The caller bounds how many runs there are.

    runs: begin, end, begin, end ... rising. Gaps of a quarter of a row are no place for another one and are closed.
    """
    if any(runs[i] < end <= runs[i + 1] for i in range(0, len(runs), 2)):
        return False
    close = (end - begin) // 4
    out: list[int] = []
    for i in range(0, len(runs), 2):
        a, b = runs[i], runs[i + 1]
        if b + close < begin:
            out += (a, b)
        elif a > end + close:
            out += (begin, end, *runs[i:])
            break
        else:
            begin, end = min(a, begin), max(b, end)
    else:
        out += (begin, end)
    runs[:] = out
    return True


def _bound(runs: list[int]) -> None:
    while len(runs) > 2 * MAX_RUNS:
        nearest = min(range(1, len(runs) - 1, 2), key=lambda i: runs[i + 1] - runs[i])
        del runs[nearest : nearest + 2]


def mean(cell: Cell) -> float:
    """The mean over what is covered: of energies for an energy cell, in 10^(dB/10)."""
    return cell[1] / cell[0]


def level(energy: float) -> float:
    """Return dB for an energy mean, to 0.1 dB."""
    return round(10 * log10(energy), 1) if energy > 0 else 0.0


def covered(cell: Cell) -> float:
    """Seconds of the hour that rows cover, 0..3600."""
    return min(cell[0], HOUR)


def register_at(
    hour: int, before: Cell | None, after: Cell | None, most: float = float("inf")
) -> tuple[float, bool] | None:
    """Return a register at the end of `hour` and whether it was read in that very second.

    before, after: the cells of that hour and of the next. Between two readings at most REACH_S apart it is interpolated, unless it fell or
    rose by more than `most` an hour: then it is another meter's.
    """
    t = (hour + 1) * HOUR
    if before and before[-2] == t:
        return before[-1], True
    if not before or not after or after[0] - before[-2] > REACH_S:
        return None
    if broken([(before[-2], before[-1]), (after[0], after[1])], most):
        return None
    return before[-1] + (after[1] - before[-1]) * (t - before[-2]) / (after[0] - before[-2]), False

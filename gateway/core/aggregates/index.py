"""The air quality index: each pollutant's class by its concentration, the worst of them as the index.

Breakpoints are configuration (gateway/defaults/eaqi.toml). Concentrations are rounded to whole numbers first, as the bands are
printed (0-5, 6-15, ...), halves up; a value on a bound belongs to the better class.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from math import floor

HOURLY, DAILY = 1, 24


@dataclass(frozen=True, slots=True)
class Scale:
    """One pollutant: upper bounds of the classes but the last, which is open; hours that its mean is taken over (1 or 24)."""

    bounds: tuple[float, ...]
    hours: int = HOURLY


@dataclass(frozen=True, slots=True)
class Index:
    """version: which breakpoints. names: of the classes, best first. complete: sets of pollutants that make a whole index."""

    version: str
    names: tuple[str, ...]
    scales: Mapping[str, Scale]
    complete: tuple[frozenset[str], ...]


@dataclass(frozen=True, slots=True)
class Rating:
    """The index, 1 best; worst: the pollutant that decides; partial: pollutants are missing."""

    level: int
    name: str
    worst: str
    classes: Mapping[str, int]
    partial: bool


def class_of(scale: Scale, concentration: float) -> int:
    """Return the class of a concentration, 1 best."""
    return bisect_left(scale.bounds, floor(concentration + 0.5)) + 1


def rate(index: Index, concentrations: Mapping[str, float]) -> Rating | None:
    """Rate the pollutants that are there; None when there is none that the index knows."""
    classes = {q: class_of(scale, concentrations[q]) for q, scale in index.scales.items() if q in concentrations}
    if not classes:
        return None
    worst = max(classes, key=lambda q: classes[q])
    partial = not any(need <= classes.keys() for need in index.complete)
    return Rating(classes[worst], index.names[classes[worst] - 1], worst, classes, partial)

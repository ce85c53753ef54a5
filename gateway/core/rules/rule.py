"""What a rule is: which subjects and values, which limit, when it applies. All of it is configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, tzinfo
from fnmatch import fnmatchcase
from math import floor
from typing import Literal

from gateway.core.city import Subject

SEVERITIES = ("fault", "preventive", "warning", "emergency")
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Direction = Literal["above", "below", "rise"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a rule applies, in local time. Empty parts mean always.

    first, last: validity, last included. season: (month, day) first and last, may span the new year. hours: minutes of the day
    from..to, to excluded, may span midnight (the part after midnight belongs to the weekday it began on). weekdays: 0 is Monday.
    """

    zone: tzinfo = UTC
    first: date | None = None
    last: date | None = None
    season: tuple[tuple[int, int], tuple[int, int]] | None = None
    hours: tuple[int, int] | None = None
    weekdays: frozenset[int] = frozenset()

    @property
    def always(self) -> bool:
        """True when there is nothing to look up."""
        return not (self.first or self.last or self.season or self.hours or self.weekdays)

    def applies(self, t: float) -> bool:
        """True if Unix time `t` is within all parts."""
        now = datetime.fromtimestamp(t, self.zone)
        today = now.date()
        if self.first is not None and today < self.first or self.last is not None and today > self.last:
            return False
        if self.season is not None:
            begin, end = self.season
            day = (today.month, today.day)
            if not (begin <= day <= end if begin <= end else day >= begin or day <= end):
                return False
        weekday = today.weekday()
        if self.hours is not None:
            minute = now.hour * 60 + now.minute
            begin_m, end_m = self.hours
            if begin_m <= end_m:
                if not begin_m <= minute < end_m:
                    return False
            elif minute < end_m:
                weekday = (weekday - 1) % 7
            elif minute < begin_m:
                return False
        return not self.weekdays or weekday in self.weekdays


@dataclass(frozen=True, slots=True)
class Selector:
    """Which subjects: every part that is given must fit; names may have * and ?."""

    profiles: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    areas: tuple[str, ...] = ()

    def fits(self, s: Subject) -> bool:
        """True if a rule is about this subject. An area is chosen by its name only."""
        if s.node is None:
            return s.name in self.areas and not self.nodes and not self.profiles
        return (
            (not self.profiles or s.profile in self.profiles)
            and (not self.nodes or any(fnmatchcase(s.name, pattern) for pattern in self.nodes))
            and (not self.areas or bool(s.areas.intersection(self.areas)))
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit. aggregate: name of the aggregate or area value it is about, "" for rows as they come.

    direction: above or below `limit`, or risen by more than `limit` units per minute over the last `over_s`. It is up when the value was
    beyond for `hold` values in a row and for `for_s` seconds of row time; it ends when `clear_hold` values in a row are at or inside
    `clear`. stays: a value holds until the next one comes (occupied), so that for_s may end without one. update_step: how much worse it
    must get to be told again, at most every update_s. fresh_s: rows older than that when they arrive change the state, but raise
    nothing; 0: three intervals, at least 15 minutes. round_to: decimals of the limit, to which a value is rounded (halves up) before it is
    compared; None: as it is. What is published stays the value.
    """

    name: str
    quantity: str
    direction: Direction
    limit: float
    clear: float
    severity: str = "warning"
    aggregate: str = ""
    select: Selector = field(default_factory=Selector)
    schedule: Schedule = field(default_factory=Schedule)
    hold: int = 1
    clear_hold: int = 1
    for_s: int = 0
    over_s: int = 600
    stays: bool = False
    update_step: float = 0.0
    update_s: int = 600
    fresh_s: int = 0
    reference: str = ""
    visibility: str | None = None
    text: Mapping[str, str] = field(default_factory=dict)
    indicative: bool = False
    round_to: int | None = None

    def _compared(self, v: float) -> float:
        if self.round_to is None:
            return v
        scale = 10**self.round_to
        return floor(round(v * scale, 6) + 0.5) / scale

    def beyond(self, v: float) -> bool:
        """True on the wrong side of the limit; a value on it is not."""
        v = self._compared(v)
        return v < self.limit if self.direction == "below" else v > self.limit

    def inside(self, v: float) -> bool:
        """True where the alarm may end."""
        v = self._compared(v)
        return v >= self.clear if self.direction == "below" else v <= self.clear

    def worse(self, v: float, than: float) -> bool:
        """True if `v` is worse than what was told by at least a step."""
        return (than - v if self.direction == "below" else v - than) >= self.update_step > 0

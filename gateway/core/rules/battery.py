"""A battery's voltage: low with hysteresis, and how many days are left, by a straight line through the daily minima."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

DAY = 86400
KEEP = 30  # days that the line is laid through
LEAST = 7  # days it needs


@dataclass(frozen=True, slots=True)
class BatteryLimits:
    """Volts: low raises, `clear` ends it. empty: where the node stops. warn_days: how early the forecast is told."""

    low: float
    clear: float
    empty: float
    warn_days: int = 60


@dataclass(frozen=True)
class BatteryPlan:
    """Limits by profile; `other` for the rest, None when they run on mains."""

    profiles: Mapping[str, BatteryLimits] = field(default_factory=dict)
    other: BatteryLimits | None = None

    def of(self, profile: str) -> BatteryLimits | None:
        """Return a profile's limits."""
        return self.profiles.get(profile, self.other)


def note(days: list[list[float]], t: int, volt: float, now: float) -> bool:
    """Keep the minimum of each day, newest KEEP days, in order; True if anything changed. Late values count for their day.

    Days that have not come yet by `now` are of a clock that was set back since, and left out.
    """
    day, last = t // DAY, now // DAY + 1
    days[:] = [entry for entry in days if entry[0] <= last]
    for entry in days:
        if entry[0] == day:
            if volt >= entry[1]:
                return False
            entry[1] = volt
            return True
    if len(days) == KEEP and day < days[0][0]:
        return False
    days.append([day, volt])
    days.sort()
    del days[:-KEEP]
    return True


def is_low(limits: BatteryLimits, volt: float, was: bool) -> bool:
    """Low with hysteresis."""
    return volt < limits.clear if was else volt < limits.low


def days_left(limits: BatteryLimits, days: list[list[float]]) -> float | None:
    """Return in how many days the line through the daily minima reaches `empty`; None when it does not fall or days are few."""
    if len(days) < LEAST:
        return None
    n = len(days)
    mx, my = sum(d for d, _ in days) / n, sum(v for _, v in days) / n
    sxx = sum((d - mx) ** 2 for d, _ in days)
    slope = sum((d - mx) * (v - my) for d, v in days) / sxx
    if slope > -1e-4:  # less than 0.1 mV a day: rounding of 10 mV steps
        return None
    now = my + slope * (days[-1][0] - mx)
    return max((limits.empty - now) / slope, 0.0)

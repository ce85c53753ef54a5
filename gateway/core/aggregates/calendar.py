"""Which periods end on which hour, in local time with its DST days. Hours are counted from 1970 in UTC.

The time zone's offsets must be whole hours (all of the EU's are): then every local hour is an hour of UTC, and a day of 23 or 25
hours is nothing special.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache

from gateway.core.aggregates.cells import HOUR

LONGEST = (
    32  # hours that the longest period looks at: a day when clocks are put back, and 7 before it for its 8 h means
)


@dataclass(frozen=True, slots=True)
class Period:
    """Hours first..end-1; `end` is the hour that begins when it is over."""

    name: str
    first: int
    end: int


@dataclass(frozen=True)
class Calendar:
    """zone: time zone. day, evening, night: local hours at which the noise periods begin (2002/49/EC; Slovenia 6, 18, 22).

    night_flow: local hours between which the least water flow is looked for.
    """

    zone: tzinfo
    day: int = 6
    evening: int = 18
    night: int = 22
    night_flow: tuple[int, int] = (2, 4)
    ending_at: Callable[[int], tuple[Period, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ending_at", lru_cache(maxsize=4096)(self._ending_at))

    def local(self, t: float) -> datetime:
        """Return local time."""
        return datetime.fromtimestamp(t, self.zone)

    def hour(self, local: datetime) -> int:
        """Return the hour that begins at a local full hour, or at the next that exists."""
        return int(local.replace(tzinfo=self.zone).astimezone(UTC).timestamp()) // HOUR

    def _ending_at(self, end: int) -> tuple[Period, ...]:
        now = self.local(end * HOUR)
        found = [Period("hour", end - 1, end), Period("8h", end - 8, end)]
        midnight = now.replace(hour=0, tzinfo=None)
        if end == self.hour(midnight):
            found.append(Period("day", self.hour(midnight - timedelta(days=1)), end))
        morning = midnight.replace(hour=self.day)
        if end == self.hour(morning):
            found.append(Period("noise", self.hour(morning - timedelta(days=1)), end))
        first, last = self.night_flow
        if end == self.hour(midnight.replace(hour=last)):
            found.append(Period("night", self.hour(midnight.replace(hour=first)), end))
        return tuple(p for p in found if p.first < p.end)

    def noise_periods(self, noise_day: Period) -> tuple[range, range, range]:
        """Return the hours of day, evening and night of a noise day."""
        morning = self.local(noise_day.first * HOUR).replace(tzinfo=None)
        evening = self.hour(morning.replace(hour=self.evening))
        night = self.hour(morning.replace(hour=self.night))
        return range(noise_day.first, evening), range(evening, night), range(night, noise_day.end)

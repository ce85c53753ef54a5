"""The life of one rule at one subject: idle, pending, up; a pure step per value, in order of row time.

Two things are kept apart: what the values say (phase, since) and what has been told. A row that is old when it arrives moves the first
and not the second, so that a backlog raises nothing that is over, and an alarm that is still on is told by the first fresh row, with
the time when it really began.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gateway.core.rules.rule import Rule

PENDING, UP = 1, 2
WINDOW = 32  # values kept for a rate of rise


@dataclass(slots=True)
class Track:
    """phase 0: nothing. since: first row beyond. t: newest row seen. n: values beyond, or in phase UP inside, in a row.

    told: value told last, None when nothing was; told_t: when. window: (t, value) of the last over_s, for a rise. about: what the rule
    looked at (see `about`), because a name may stay while the rule behind it becomes another one.
    """

    phase: int = 0
    since: int = 0
    t: int = 0
    n: int = 0
    told: float | None = None
    told_t: int = 0
    window: list[list[float]] | None = None
    about: str = ""

    def back_to(self, t: int) -> None:
        """The clock was set back: nothing that is known is later than t."""
        self.t, self.since, self.told_t = min(self.t, t), min(self.since, t), min(self.told_t, t)
        self.window = None

    @classmethod
    def of(cls, kept: list[Any] | None) -> Track:
        """Return the track of what was noted."""
        return cls(*kept) if kept else cls()

    def kept(self) -> list[Any] | None:
        """Return what is to be noted; None when there is nothing to know."""
        if not self.phase and not self.window:
            return None
        return [self.phase, self.since, self.t, self.n, self.told, self.told_t, self.window, self.about]


@dataclass(frozen=True, slots=True)
class Told:
    """What is to be told: raised, updated or cleared, at row time t."""

    what: str
    t: int
    since: int
    value: float


def about(rule: Rule) -> str:
    """What a rule looks at, and from which side."""
    return f"{rule.aggregate}/{rule.quantity}/{rule.direction}"


def steps(rule: Rule, track: Track, rows: Iterable[tuple[int, float]], stale_before: float) -> list[Told]:
    """Take rows in order of time; those not newer than the newest seen are left out. stale_before: older rows raise nothing.

    Rows and periods are stamped with their end, so the schedule is asked for the second before.
    """
    out: list[Told] = []
    track.about = about(rule)
    always = rule.schedule.always
    for t, v in rows:
        if t <= track.t:
            continue
        track.t = t
        if rule.direction == "rise":
            rate = _rate(rule, track, t, v)
            if rate is None:
                continue
            v = rate
        out += _step(rule, track, t, v, t >= stale_before, always or rule.schedule.applies(t - 1))
    return out


def _step(rule: Rule, track: Track, t: int, v: float, fresh: bool, applies: bool) -> list[Told]:
    if not applies:
        return end(track, t, v)
    if track.phase != UP:
        if not rule.beyond(v):
            track.phase = track.n = 0
            return []
        if not track.phase:
            track.phase, track.since, track.n = PENDING, t, 0
        track.n += 1
        if track.n < rule.hold or t - track.since < rule.for_s:
            return []
        track.phase, track.n, track.told = UP, 0, None
    elif rule.inside(v):
        track.n += 1
        if track.n >= rule.clear_hold:
            return end(track, t, v)
    else:
        track.n = 0
    if not fresh:
        return []
    if track.told is None:
        return [_tell(track, "raised", t, v)]
    if rule.worse(v, track.told) and t - track.told_t >= rule.update_s:
        return [_tell(track, "updated", t, v)]
    return []


def _tell(track: Track, what: str, t: int, v: float) -> Told:
    track.told, track.told_t = v, t
    return Told(what, t, track.since, v)


def end(track: Track, t: int, v: float) -> list[Told]:
    """Back to idle; told only if it was told that it is up."""
    told = [Told("cleared", t, track.since, v)] if track.phase == UP and track.told is not None else []
    track.phase, track.n, track.told = 0, 0, None
    return told


def waits_until(rule: Rule, track: Track) -> int | None:
    """Return when a pending rule whose value stays comes up by the clock alone."""
    return track.since + rule.for_s if rule.stays and track.phase == PENDING and track.n >= rule.hold else None


def by_clock(rule: Rule, track: Track, now: int) -> list[Told]:
    """The value still stands at `now`; `track.told` is 1 for what only has a state."""
    due = waits_until(rule, track)
    if due is None or due > now:
        return []
    track.phase, track.n = UP, 0
    return [_tell(track, "raised", now, 1)]


def _rate(rule: Rule, track: Track, t: int, v: float) -> float | None:
    """Return the rise per minute since the oldest value of the window; None for the first."""
    window = track.window = [p for p in track.window or [] if p[0] >= t - rule.over_s][-WINDOW + 1 :]
    window.append([t, v])
    if len(window) < 2:
        return None
    return (v - window[0][1]) * 60 / (t - window[0][0])

"""An alarm that is up, as it was raised: what was said, under which name and in which circle.

A rule may lose its visibility, an area its name, a node its place in the registry while an alarm is up. Whoever saw the raise must see the
clear, so what decided who sees it is noted with the alarm, and the clear is judged by that (outputs/filter.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from gateway.core.model import Alarm, Circle
from gateway.core.value import replace


class Who(Protocol):
    """What of a subject decides who sees its alarms."""

    @property
    def name(self) -> str: ...

    @property
    def profile(self) -> str: ...

    @property
    def areas(self) -> frozenset[str]: ...


@dataclass(frozen=True, slots=True)
class Raised:
    """The subject's name, profile, areas, the alarm's visibility, and the alarm itself; t: newest time that was published of it."""

    name: str
    profile: str
    areas: list[str]
    visibility: str
    code: str
    severity: str
    quantity: str
    unit: str
    value: int | float | None
    limit: int | float | None
    t: int
    since: int
    reference: str
    text: dict[str, str] | None

    @classmethod
    def of(cls, who: Who, visibility: str, a: Alarm) -> Raised:
        """Return an alarm of `who` that is raised or updated."""
        return cls(
            who.name, who.profile, sorted(who.areas), visibility, a.code, a.severity, a.quantity, a.unit, a.value, a.limit, a.t, a.since,
            a.reference, None if a.text is None else dict(a.text),
        )  # fmt: skip

    def kept(self) -> list[Any]:
        """Return what is noted; Raised(*kept) reads it."""
        return [
            self.name, self.profile, self.areas, self.visibility, self.code, self.severity, self.quantity, self.unit, self.value, self.limit,
            self.t, self.since, self.reference, self.text,
        ]  # fmt: skip

    def is_in(self, who: Who, visibility: str) -> bool:
        """True if `who` has the name and the circle that the alarm was raised in."""
        here = (who.name, who.profile, sorted(who.areas), visibility)
        return here == (self.name, self.profile, list(self.areas), self.visibility)


def clearing(raised: Raised, clear: Alarm) -> Alarm:
    """Return a clear that speaks of what was raised, and passes where that passed. It began no later than it ends, though the clock was set back."""
    return replace(
        clear, quantity=raised.quantity, unit=raised.unit, severity=raised.severity,
        since=min(raised.since, clear.t), circle=Circle(raised.profile, tuple(raised.areas)),
    )  # fmt: skip


def raising(raised: Raised, t: int) -> Alarm:
    """Return the alarm once more, as of `t`; it began when it began."""
    return Alarm("raised", raised.code, raised.severity, raised.quantity, raised.unit, raised.value, raised.limit, t, raised.since, (),
                 raised.reference, raised.text)  # fmt: skip

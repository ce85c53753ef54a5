"""What is wrong with this gateway right now, in words: for STATUS, /health, /ready and gw/<gw>/health.

Whoever can be ill adds a source: a function that returns its problems now. Nothing is remembered here but since when.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["degraded", "failing"]


@dataclass(frozen=True, slots=True)
class Problem:
    """failing: frames are not taken. degraded: they are, but somebody has to look. code: stable; next: what to do."""

    code: str
    text: str
    next: str
    level: Level = "degraded"


Source = Callable[[], Iterable[Problem]]


class Health:
    """Asks its sources; the worst of them is the state."""

    def __init__(self) -> None:
        self.sources: list[Source] = []

    def problems(self) -> list[Problem]:
        """Return what is wrong, the worst first."""
        found = [p for source in self.sources for p in source()]
        return sorted(found, key=lambda p: p.level != "failing")

    def status(self, problems: Iterable[Problem]) -> str:
        """Return ok, degraded or failing."""
        levels = {p.level for p in problems}
        return "failing" if "failing" in levels else "degraded" if levels else "ok"

    def line(self, problems: list[Problem], sound: str) -> str:
        """Return one line for systemctl status: what is wrong, or `sound`."""
        if not problems:
            return sound
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return f"{self.status(problems)}: {problems[0].text}{more}"


def twin(part: str, client_id: str, more: str = "") -> Problem:
    """Return the problem of two clients of one name at a broker. more: what is known of the other."""
    return Problem(
        "twin",
        f"{part}: another client called {client_id} takes our connection again and again{more and ' (' + more + ')'}",
        "two gateways of one id: give one of them another gateway.id and restart it; if there is only one, its broker closes our "
        "connection for another reason, which the broker's log says",
    )


class Since:
    """For how long a condition has held, in seconds of the monotonic clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: dict[Any, float] = {}

    def held(self, key: Any, condition: bool) -> float:
        """Return the seconds since `condition` became true, 0 while it is false."""
        if not condition:
            self._began.pop(key, None)
            return 0.0
        now = self._clock()
        return now - self._began.setdefault(key, now)

    def forget(self, key: Any) -> None:
        """Whatever held begins anew."""
        self._began.pop(key, None)

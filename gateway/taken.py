"""One line a minute of what was taken and what was refused, instead of one for each frame: 25,000 nodes would write 3.6 million lines a day."""

from __future__ import annotations

from collections import Counter
from typing import Any

import structlog

from gateway.metrics import Metrics

EVERY_S = 60.0

log = structlog.get_logger(__name__)


class Taken:
    """Compares the counters with those of a minute ago."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._at: float | None = None
        self._totals: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()

    def tick(self, now: float) -> None:
        """Write the line when it is due and there is something to say. now: monotonic seconds."""
        if self._at is not None and now - self._at < EVERY_S:
            return
        if self._at is not None:
            self.tell(now - self._at)
        self._at = now
        self._totals, self._refused = Counter(self._metrics.totals), Counter(self._metrics.refused)

    def tell(self, seconds: float) -> None:
        """Write the line for what came within `seconds`, if anything did."""
        m = self._metrics
        frames = m.totals["committed"] - self._totals["committed"]
        refused = {reason: n - self._refused[reason] for reason, n in m.refused.items() if n > self._refused[reason]}
        if not frames and not refused:
            return
        more: dict[str, Any] = {"refused": refused} if refused else {}
        log.info(
            "taken", frames=frames, rows=m.totals["rows"] - self._totals["rows"], nodes=len(m.heard),
            copies=m.totals["copies"] - self._totals["copies"], seconds=round(seconds), **more,
        )  # fmt: skip
        m.heard.clear()

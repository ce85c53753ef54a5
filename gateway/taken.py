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
        self.tell(now)

    def tell(self, now: float) -> None:
        """Write the line for what came since the last one, if anything did."""
        m, before, self._at = self._metrics, self._at, now
        totals, reasons = self._totals, self._refused
        self._totals, self._refused = Counter(m.totals), Counter(m.refused)
        frames = m.totals["committed"] - totals["committed"]
        refused = {reason: n - reasons[reason] for reason, n in m.refused.items() if n > reasons[reason]}
        if not frames and not refused:
            return
        more: dict[str, Any] = {"refused": refused} if refused else {}
        log.info(
            "taken", frames=frames, rows=m.totals["rows"] - totals["rows"], nodes=len(m.heard),
            copies=m.totals["copies"] - totals["copies"], seconds=round(now - (now if before is None else before)), **more,
        )  # fmt: skip
        m.heard.clear()

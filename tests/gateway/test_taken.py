"""The log's line a minute: what was taken and refused since the last one, and none when nothing was."""

from __future__ import annotations

import pytest
import structlog
from structlog.testing import capture_logs

from gateway import taken
from gateway.metrics import Metrics
from gateway.taken import EVERY_S, Taken


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Metrics:
    structlog.reset_defaults()
    monkeypatch.setattr(taken, "log", structlog.get_logger("t"))
    return Metrics()


def test_a_line_a_minute_says_what_came_since_the_last_one(metrics: Metrics) -> None:
    t = Taken(metrics)
    with capture_logs() as lines:
        for second in range(int(3 * EVERY_S)):
            t.tick(float(second))
            if second < EVERY_S:
                metrics.totals["committed"] += 2
                metrics.totals["rows"] += 20
                metrics.heard |= {second % 7}
            if second == EVERY_S + 5:
                metrics.refused["bad_tag"] += 3
    assert [(line["frames"], line["rows"], line["nodes"], line["seconds"]) for line in lines] == [
        (120, 1200, 7, 60),
        (0, 0, 0, 60),
    ]
    assert "refused" not in lines[0] and lines[1]["refused"] == {"bad_tag": 3}


def test_the_end_tells_what_is_left(metrics: Metrics) -> None:
    t = Taken(metrics)
    t.tick(0.0)
    metrics.totals["committed"] += 1
    with capture_logs() as lines:
        t.tell(12.0)
        t.tell(13.0)
    assert [(line["frames"], line["seconds"]) for line in lines] == [(1, 12)]

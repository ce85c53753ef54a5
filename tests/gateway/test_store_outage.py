"""A small broker outage of a small district, by the real gateway: nothing lost, alarms first, the newest retained."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.value import replace
from host_sim.outage import SPAN, Tally, outage


@pytest.mark.slow
def test_an_outage_ends_with_alarms_first_and_everything_right(tmp_path: Path) -> None:
    tally = outage(tmp_path, nodes=60, days=0.5, seed=2)
    assert tally.ok, tally.as_dict()
    assert tally.alarms > 0 and tally.bulk_before_last_alarm == 0
    assert tally.spool_events >= tally.frames > 600 and tally.retained >= 60 * 6


@pytest.mark.parametrize(
    "wrong", [{"lost": 1}, {"wrong_values": 1}, {"wrong_alerts": 1}, {"stepped_back": 1}, {"duplicates": 2 * SPAN + 1},
              {"bulk_before_last_alarm": SPAN + 1}, {"retained": 0}],
)  # fmt: skip
def test_whatever_is_wrong_is_a_failure(wrong: dict[str, int]) -> None:
    assert Tally(1, 1, 1, retained=9).ok and not replace(Tally(1, 1, 1, retained=9), **wrong).ok

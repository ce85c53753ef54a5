"""How often a node says how it is, and how long that is believed: learnt from its status frames, whatever its readings' interval is."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import Event, NodeState
from gateway.core.rhythm import BURST_S, DEFAULT_S, LONGEST_S, health_s, next_rhythm
from gateway.outputs import FORMATS
from tests.gateway.test_decide import T0, mote, take

D = 86_400


def lives(e: Event) -> dict[str, float]:
    """Return how many seconds each value of an event is valid."""
    found = {}
    for m in FORMATS["native"](e, "city"):
        if "/q/" in m.topic:
            body = json.loads(m.payload)
            until, t = (datetime.fromisoformat(body[k].replace("Z", "+00:00")) for k in ("until", "t"))
            found[m.topic.rpartition("/")[2]] = (until - t).total_seconds()
    return found


@pytest.mark.parametrize("every", [600, 3600, 21_600, 43_200, D, 3 * D, LONGEST_S])
def test_a_value_of_a_status_frame_is_valid_until_three_further_ones_are_missing(every: int) -> None:
    m, state = mote(), NodeState()
    for i in range(4):
        d = take(state, m.status({1: 100 + i * every, 12: 371, 3: 1}), received=T0 + i * every)
        state = d.state
        assert d.event is not None
    found = lives(d.event)
    assert found["battery_voltage"] == found["uptime"] >= 3 * every
    assert found["battery_voltage"] <= max(3 * DEFAULT_S, 6 * every)
    assert found["boots"] >= 3 * D, "said when it changes, and once a day"


def test_a_report_says_nothing_of_the_rhythm_and_keeps_its_own() -> None:
    m = mote()
    first = take(NodeState(), m.status({1: 5, 12: 371}))
    d = take(first.state, m.report(T0 + 600, [[1, 2, 3, 231, 631, 121]]), received=T0 + 660)
    assert d.event is not None and lives(d.event)["pm10"] == 3 * d.event.interval_s
    assert (d.state.status, d.state.rhythm) == (first.state.status, first.state.rhythm)


def test_a_longer_rhythm_is_published_with_the_metadata_and_a_default_one_is_not() -> None:
    m, state = mote(), NodeState()
    told = []
    for i in range(4):
        d = take(state, m.status({1: 100 + i * D, 12: 371}), received=T0 + i * D)
        state = d.state
        told.append(None if d.event is None or d.event.meta is None else d.event.meta.get("health"))
    assert told == [None, 86_400, None, None]


def test_a_status_frame_that_comes_late_says_nothing_of_the_rhythm() -> None:
    m = mote()
    old = m.status({1: 5, 12: 371})
    first = take(NodeState(), m.status({1: 50, 12: 370}), received=T0)
    late = take(first.state, old, received=T0 + 3 * D)
    assert late.state.rhythm == (0, 0) and late.state.status == T0


@given(st.lists(st.tuples(st.integers(-10_000, 3_000_000), st.booleans()), max_size=12))
def test_whatever_comes_the_rhythm_stays_within_its_bounds(gaps: list[tuple[int, bool]]) -> None:
    told, rhythm, now = 0.0, (0, 0), float(T0)
    for gap, away in gaps:
        now += gap
        told, rhythm = next_rhythm(told, rhythm, now, away)
        assert DEFAULT_S <= health_s(rhythm) <= 2 * LONGEST_S
        assert all(x == 0 or BURST_S <= x <= 2 * LONGEST_S for x in rhythm)


def test_a_silence_is_no_rhythm_and_a_boot_makes_none_shorter() -> None:
    told, rhythm = next_rhythm(1.0, (D, D), 1.0 + 9 * D, True)
    assert rhythm == (D, D) and told == 1.0 + 9 * D
    _, rhythm = next_rhythm(told, rhythm, told + 3 * 3600, False)
    assert health_s(rhythm) == 86_400
    assert next_rhythm(told, rhythm, told + 5, False) == (told, rhythm)

"""Whatever times a node says: a second of an hour counts once, old and future rows open nothing, and a frame's cost is bounded."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.aggregates.calendar import LONGEST
from gateway.core.aggregates.cells import ENERGY, HOUR, MAX_RUNS, MEAN, REGISTER, Cell, add, cover
from gateway.core.city import City
from tests.gateway.town import NO_DEFAULTS, T0, D, H, Town, config

AIR = (
    NO_DEFAULTS
    + '[aggregates]\nmean = ["pm10", "temperature"]\nenergy = ["laeq"]\nregister = ["water_volume"]\neight_hour = ["pm10"]\nday = ["pm10"]\n'
)
SHIPPED = "[rules]\nsettle_s = 0\n"
KEEP_D = 8


def count_steps(city: City) -> list[int]:
    """Count how many ends of periods the aggregates look at."""
    calendar = city.stages[0]._plan.calendar  # type: ignore[attr-defined]
    steps, real = [0], calendar.ending_at

    def counted(end: int) -> object:
        steps[0] += 1
        return real(end)

    object.__setattr__(calendar, "ending_at", counted)
    return steps


# what a frame may cost


@pytest.mark.parametrize("first", [1, 2 * D, 946_684_900, 1_420_070_400, T0 - 400 * D, T0 - 9 * D])
def test_a_first_row_of_long_ago_opens_no_hours(tmp_path: Path, first: int) -> None:
    town = Town(tmp_path, SHIPPED)
    steps = count_steps(town.city)
    town.row("n-1", first, received=float(T0), pm10=10)
    assert town.refused == {"late_for_aggregates": 1}
    town.row("n-1", T0 + H, pm10=10)
    town.row("n-1", T0 + 2 * H, pm10=10)
    assert steps[0] < 3 * LONGEST
    assert {e.aggregates[0].start for e in town.events if e.aggregates} <= {T0, T0 + H}


STAMPS = st.one_of(
    st.integers(0, (1 << 32) - 1),
    st.integers(T0 - 20 * D, T0 + 20 * D),
    st.sampled_from([0, 1, T0 - KEEP_D * D, T0 - KEEP_D * D - H, T0 + 300, T0 + 301, (1 << 32) - 1]),
)


@given(frames=st.lists(st.lists(STAMPS, min_size=1, max_size=40), min_size=1, max_size=6), gap=st.integers(0, 4 * D))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_cost_of_a_frame_is_bounded_whatever_its_stamps(tmp_path: Path, frames: list[list[int]], gap: int) -> None:
    town = Town(tmp_path, SHIPPED)
    steps = count_steps(town.city)
    for i, times in enumerate(frames):
        before = steps[0]
        received = T0 + i * gap + 5
        town.send("n-1", times, {"pm10": [1] * len(times), "water_volume": [1.0] * len(times)}, received=received)
        assert steps[0] - before <= 24 * KEEP_D + 2 * LONGEST
        before = steps[0]
        town.tick(received + 2 * H)
        assert steps[0] - before <= 24 * KEEP_D + 2 * LONGEST
    now = T0 + len(frames) * gap
    for e in town.events:
        for a in e.aggregates:
            assert a.start >= T0 - (KEEP_D + 2) * D and a.end <= now + 5 + (2 + LONGEST) * H


def test_a_node_that_comes_back_after_weeks_costs_no_more_than_one_that_never_left(tmp_path: Path) -> None:
    town = Town(tmp_path, SHIPPED)
    town.row("n-1", T0, pm10=10)
    steps = count_steps(town.city)
    town.row("n-1", T0 + 300 * D, pm10=10)
    town.row("n-1", T0 + 300 * D + H, pm10=10)
    assert steps[0] <= 3 * LONGEST
    assert town.values("hour", "pm10").keys() == {T0 - H, T0 + 300 * D - H, T0 + 300 * D}


def test_a_node_that_goes_silent_gets_its_last_periods_when_it_is_back(tmp_path: Path) -> None:
    town = Town(tmp_path, AIR)
    for h in range(30):
        town.send("n-1", [T0 + h * H + 600 * i for i in range(1, 7)], {"pm10": [50.0] * 6})
    town.row("n-1", T0 + 20 * D, pm10=10)
    assert set(town.values("hour", "pm10")) == {*(T0 + h * H for h in range(30)), T0 + 20 * D - H}
    eight = town.values("8h", "pm10")
    assert {T0 + h * H for h in range(-7, 30)} <= set(eight)
    assert town.values("day", "pm10")[T0] == 50.0 and T0 + D in town.values("day", "pm10")


@pytest.mark.parametrize("ahead", [301, H, D, 400 * D])
def test_no_hour_of_the_future_is_opened_by_a_row_beside_good_ones(tmp_path: Path, ahead: int) -> None:
    town = Town(tmp_path, AIR)
    good = [T0 + 600 * i for i in range(1, 7)]
    town.send("n-1", [*good, good[-1] + ahead], {"pm10": [10] * 6 + [900]}, received=good[-1])
    town.row("n-1", T0 + H + 600, pm10=10)
    assert town.values("hour", "pm10") == {T0: 10.0}


def test_marks_of_a_time_when_the_hosts_clock_was_ahead_do_not_outlast_it(tmp_path: Path) -> None:
    town = Town(tmp_path, AIR)
    ahead = T0 + 3650 * D
    for i in range(1, 7):
        town.row("n-1", ahead + 600 * i, pm10=1)
    town.row("n-1", ahead + 2 * H, pm10=1)
    told = len(town.events)
    town.restart()
    for h in range(3):
        town.send("n-1", [T0 + h * H + 600 * i for i in range(1, 7)], {"pm10": [50.0] * 6})
    found = [a for e in town.events[told:] for a in e.aggregates if a.name == "hour"]
    assert [(a.start, a.latest, a.values[0].value) for a in found] == [
        (T0, True, 50.0),
        (T0 + H, True, 50.0),
        (T0 + 2 * H, True, 50.0),
    ]
    assert not town.refused


@pytest.mark.parametrize("behind", [T0 - 3 * D, 86_400, 1_262_304_000])
def test_nothing_is_forgotten_while_the_hosts_clock_is_behind(tmp_path: Path, behind: int) -> None:
    town = Town(tmp_path, AIR)
    for h in range(3):
        town.send("n-1", [T0 + h * H + 600 * i for i in range(1, 7)], {"pm10": [50.0] * 6})
    town.row("n-1", T0 + 3 * H + 600, pm10=50.0)
    town.latest.clear()
    town.row("n-1", behind, received=float(behind), pm10=1)  # an age, read by a clock that is not set
    town.tick(behind + 3 * H)
    town.latest.clear()
    town.restart()
    town.send("n-1", [T0 + 3 * H + 600 * i for i in range(2, 7)], {"pm10": [50.0] * 5})
    found: dict[int, list[tuple[int, float | None]]] = {}
    for e in town.events:
        for a in e.aggregates:
            if a.name == "hour":
                found.setdefault(a.start, []).append((a.revision, a.values[0].value))
    for h in range(4):
        told = found[T0 + h * H]
        assert told[-1][1] == 50.0 and [r for r, _ in told] == sorted({r for r, _ in told}), "revisions rise"


# a time counts once


@pytest.mark.parametrize("beside", [0, 1, 15, -15, 29, -29])
@pytest.mark.parametrize("cut", [1, 5, 15, 30])
def test_rows_that_come_twice_do_not_fill_an_hour(tmp_path: Path, beside: int, cut: int) -> None:
    """The node's clock was set back half an hour: the second half hour is measured under the times of the first."""
    times = [T0 + 60 * i for i in range(1, 31)]
    found = []
    for passes in (((0, 10),), ((0, 10), (beside, 100))):
        town = Town(tmp_path, AIR)
        for shift, value in passes:
            for i in range(0, 30, cut):
                part = [t + shift for t in times[i : i + cut]]
                town.send("n-1", part, {"pm10": [value] * len(part), "laeq": [60.0] * len(part)}, received=T0 + 2000.0)
            town.restart()
        town.row("n-1", T0 + H + 60, pm10=50)
        (a,) = town.aggregates("hour").values()
        found.append({v.quantity: (v.value, v.capture) for v in a.values})
    once, twice = found
    # a single row that is a node's first stands for an interval of 600 s
    assert once == dict.fromkeys(("pm10", "laeq"), (None, 50.0 if cut > 1 else 65.0))
    for quantity, (value, capture) in twice.items():
        assert value is None and capture == pytest.approx(once[quantity][1], abs=1.75), "at most one row at each end"


def test_a_row_that_comes_again_after_its_hour_closed_changes_nothing(tmp_path: Path) -> None:
    town = Town(tmp_path, AIR)
    times = [T0 + 600 * i for i in range(1, 7)]
    town.send("n-1", times, {"pm10": [10] * 6})
    town.row("n-1", T0 + H + 600, pm10=10)
    town.restart()
    town.send("n-1", times, {"pm10": [90] * 6}, received=T0 + 2 * H)
    town.until(T0 + 2 * H, T0 + 4 * H)
    assert town.values("hour", "pm10")[T0] == 10.0
    assert town.aggregates("hour")[T0].values[0].capture == 100.0


def test_a_quantity_that_is_aggregated_in_another_way_since_does_no_harm(tmp_path: Path) -> None:
    town = Town(tmp_path, AIR)
    town.send(
        "n-1", [T0 + 600 * i for i in range(1, 9)], {"pm10": [5.0] * 8, "water_volume": [100.0 + i for i in range(8)]}
    )
    text = NO_DEFAULTS + '[aggregates]\nmean = ["water_volume"]\nregister = ["pm10"]\nnoise = []\n'
    town.restart(config(tmp_path, text, list(town.nodes.values())))
    for i in range(9, 20):
        town.row("n-1", T0 + 600 * i, pm10=float(i), water_volume=3.0)
    town.until(T0 + 4 * H, T0 + 8 * H)
    assert town.values("hour", "water_volume")[T0 + H] is None and town.values("hour", "pm10-used")[T0 + H] is None
    assert town.values("hour", "water_volume")[T0 + 2 * H] == 3.0


@given(
    rows=st.lists(st.tuples(st.integers(0, 3600), st.integers(1, 900)), max_size=120),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=100, deadline=None)
def test_what_was_told_is_never_told_again_and_stays_small(rows: list[tuple[int, int]], order: object) -> None:
    runs: list[int] = []
    seconds: set[int] = set()
    for t, step in rows:
        if cover(runs, t - step, t):
            assert runs == sorted(runs)
            seconds |= set(range(t - step, t))
        assert not cover(runs, t - step, t), "the same row again"
    assert sum(runs[i + 1] - runs[i] for i in range(0, len(runs), 2)) >= len(seconds)
    cell: Cell = []
    for t, step in rows:
        add(cell, MEAN, [1.0], [t], step)
    assert not rows or len(cell[2]) <= 2 * MAX_RUNS and cell[0] == cell[1]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_grid_in_any_order_with_any_repeats_is_the_grid(data: st.DataObject) -> None:
    step = data.draw(st.sampled_from([1, 10, 60, 300, 600, 900, 1800, 3600]))
    offset = data.draw(st.integers(0, step - 1))
    times = list(range(offset + step if offset == 0 else offset, HOUR + 1, step))[-MAX_RUNS * 2 :]
    kind = data.draw(st.sampled_from([MEAN, ENERGY]))
    value = {t: float(t % 7) for t in times}
    once: Cell = []
    add(once, kind, [value[t] for t in times], times, step)
    pieces = data.draw(st.lists(st.sampled_from(times), max_size=3 * len(times)))
    cell: Cell = []
    for t in pieces[:60]:
        add(cell, kind, [value[t]], [t], step)
    rest = data.draw(st.permutations(times)) if len(times) < 40 else times
    if len(times) < 40:
        add(cell, kind, [value[t] for t in rest], rest, step)
        assert cell[0] == once[0] and cell[1] == pytest.approx(once[1])


def test_registers_are_the_same_however_often_a_row_comes(tmp_path: Path) -> None:
    cell: Cell = []
    for _ in (1, 2):
        add(cell, REGISTER, [5.0, 6.0], [10, 20], 10)
    assert cell == [10, 5.0, 20, 6.0]

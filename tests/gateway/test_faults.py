"""Offline, stuck, stale, broken, weak: told once, ended, and silent about everything that a backlog explains."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.model import Node
from gateway.core.rules.battery import BatteryLimits, days_left, is_low, note
from tests.gateway.town import T0, D, H, Town

FAULTS = """
[rules]
defaults = []
settle_s = 300
[fault]
stuck = ["temperature", "pm10"]
stuck_rows = 10
stuck_except = { pm10 = [0] }
stale_rows = 4
stale_intervals = 6
[battery.other]
low = 3.3
clear = 3.4
empty = 3.0
warn_days = 30
"""


def town_of(folder: Path, n: int) -> Town:
    return Town(
        folder, FAULTS, [Node(i, f"n-{i}", b"", profile="air_quality", interval_s=600) for i in range(1, n + 1)]
    )


def alive(town: Town, names: list[str], start: int, end: int) -> None:
    """These nodes report every ten minutes; the clock goes on; presence is told as the pipeline does it."""
    for t in range(start, end, 600):
        for i, name in enumerate(names):
            town.row(name, t + i % 600, temperature=20 + (t // 600 + i) % 7)
        town.tick(t + 300)


def silent(town: Town, name: str, t: float) -> None:
    town.follow(town.event(name, t, "offline", online=False, link=""))


def test_one_silent_node_among_others_is_an_alarm_and_comes_back(tmp_path: Path) -> None:
    town = town_of(tmp_path, 30)
    names = list(town.nodes)
    alive(town, names, T0, T0 + 2 * H)
    silent(town, "n-7", T0 + 2 * H)
    others = [n for n in names if n != "n-7"]
    alive(town, others, T0 + 2 * H, T0 + 4 * H)
    assert town.alarms() == [("raised", "offline")]
    a = town.last_alarm()
    assert (a.code, a.severity, a.quantity, a.unit, a.since, a.limit) == (
        "offline",
        "fault",
        "presence",
        "s",
        T0 + 2 * H,
        1800,
    )
    town.restart()
    town.row("n-7", T0 + 4 * H + 10, temperature=3)
    assert town.alarms()[1:] == [("cleared", "offline")] and town.last_alarm().since == T0 + 2 * H


def test_a_link_or_broker_that_was_away_is_no_storm_of_alarms(tmp_path: Path) -> None:
    town = town_of(tmp_path, 200)
    names = list(town.nodes)
    alive(town, names, T0, T0 + 2 * H)
    for name in names:
        silent(town, name, T0 + 2 * H + 1800)
    town.until(T0 + 2 * H, T0 + 30 * H, 300)
    assert town.alarms() == [], "while the link is silent nobody can be"
    back = names[:199]
    for i in range(8):  # they come back one after the other, within their patience
        alive(town, back[: 25 * (i + 1)], T0 + 30 * H + i * 200, T0 + 30 * H + i * 200 + 1)
    alive(town, back, T0 + 30 * H + 1800, T0 + 33 * H)
    assert town.alarms() == [("raised", "offline")] and town.events[-1].name == names[199]


def test_a_restart_of_the_gateway_raises_nothing_until_nodes_had_their_time(tmp_path: Path) -> None:
    town = town_of(tmp_path, 100)
    names = list(town.nodes)
    alive(town, names, T0, T0 + 2 * H)
    town.restart()  # after half a day
    start = T0 + 14 * H
    for name in names:  # presence is computed from what was heard last
        silent(town, name, start + 1)
    for i in range(12):  # one after the other over 20 minutes
        for name in names[: 8 * (i + 1)]:
            town.row(name, start + 100 * i, temperature=i)
        town.tick(start + 100 * i)
    alive(town, names[:96], start + 1300, start + 3 * H)
    assert sorted(e.name for e in town.events if e.alarm) == sorted(names[96:])


def test_the_only_node_of_a_link_is_told_an_hour_later(tmp_path: Path) -> None:
    town = town_of(tmp_path, 1)
    alive(town, ["n-1"], T0, T0 + H)
    silent(town, "n-1", T0 + H + 1800)
    town.until(T0 + H + 1800, T0 + 2 * H + 1800 + 1700, 100)
    assert town.alarms() == []
    town.until(T0 + 2 * H + 1800 + 1700, T0 + 3 * H + 1800, 100)
    assert town.alarms() == [("raised", "offline")]


def test_a_value_that_does_not_change_is_stuck_and_one_that_may_rest_is_not(tmp_path: Path) -> None:
    town = town_of(tmp_path, 1)
    for i in range(38):
        if i == 6:
            town.restart()
        town.row("n-1", T0 + 600 * i, temperature=20.5 if i < 30 else 21, pm10=0, humidity=50)
        assert len(town.alarms()) == (i >= 9) + (i >= 30)
    assert town.alarms() == [("raised", "stuck-temperature"), ("cleared", "stuck-temperature")]


def test_a_backlog_of_equal_values_is_not_stuck_now(tmp_path: Path) -> None:
    town = town_of(tmp_path, 1)
    for i in range(40):
        town.row("n-1", T0 + 600 * i, received=T0 + 2 * D + i, temperature=20.5)
    assert town.alarms() == []


def test_a_quantity_that_disappears_is_stale_until_it_is_back(tmp_path: Path) -> None:
    town = town_of(tmp_path, 1)
    for i in range(12):
        pm10 = None if 3 <= i < 9 else i
        town.send("n-1", [T0 + 600 * i], {"temperature": [i], "pm10": [pm10], "o3": [None]})
        assert len(town.alarms()) == (i >= 6) + (i >= 9)
    assert town.alarms() == [("raised", "stale-pm10"), ("cleared", "stale-pm10")]


def test_only_status_frames_are_stale_unless_readings_wait_in_the_outbox(tmp_path: Path) -> None:
    for waiting in (0, 12):
        town = town_of(tmp_path, 1)
        town.row("n-1", T0, temperature=1)
        for i in range(1, 4):
            town.follow(town.event("n-1", T0 + i * H, "status", status={"outbox_depth": waiting}))
        assert town.alarms() == ([] if waiting else [("raised", "stale-report")])
        town.row("n-1", T0 + 4 * H, temperature=2)
        assert len(town.alarms()) == (0 if waiting else 2)


def test_sensors_that_a_node_calls_broken_are_told_by_name(tmp_path: Path) -> None:
    town = town_of(tmp_path, 1)
    for t, faults in ((0, [6, 1]), (H, [6]), (2 * H, [])):
        town.follow(town.event("n-1", T0 + t, "status", status={"sensor_faults": faults}))
    assert town.alarms() == [
        ("raised", "sensor-pm10"), ("raised", "sensor-temperature"), ("cleared", "sensor-temperature"), ("cleared", "sensor-pm10"),
    ]  # fmt: skip


def test_a_status_that_was_overtaken_raises_and_ends_nothing(tmp_path: Path) -> None:
    town = town_of(tmp_path, 1)
    now = {"sensor_faults": [6], "battery_voltage": 300, "outbox_depth": 0}
    town.follow(town.event("n-1", T0, "status", status=now))
    raised = sorted(town.alarms())
    assert raised == [("raised", "battery-low"), ("raised", "sensor-pm10")]
    for old in (
        {"sensor_faults": [], "battery_voltage": 360, "outbox_depth": 0},
        {"sensor_faults": [1], "battery_voltage": 310},
    ):
        town.follow(town.event("n-1", T0 + 60, "status", status=old, stale=tuple(old)))
    town.row("n-1", T0 + 100, temperature=1)
    town.follow(
        town.event("n-1", T0 + 6 * H, "status", status={"outbox_depth": 0, "uptime": 5}, stale=("outbox_depth",))
    )
    assert sorted(town.alarms()) == raised


def test_a_battery_is_forecast_before_it_is_low_and_both_end_with_a_new_one(tmp_path: Path) -> None:
    town = town_of(tmp_path, 1)
    for day, centivolts in enumerate([*range(360, 328, -1), 360, *[360] * 30]):
        town.follow(town.event("n-1", T0 + day * D, "status", status={"battery_voltage": centivolts}))
        if day % 5 == 0:
            town.restart()
    names = [x for x in town.alarms() if "battery" in x[1]]
    assert names[0] == ("raised", "battery-forecast") and ("raised", "battery-low") in names
    assert names[-1][0] == "cleared" and sorted(x for x, _ in names).count("raised") == 2
    forecast = next(e.alarm for e in town.events if e.alarm and e.alarm.rules == ("battery-forecast",))
    assert forecast.severity == "preventive" and forecast.unit == "d" and forecast.value == 30


def test_a_forecast_is_the_straight_line_through_daily_minima() -> None:
    limits = BatteryLimits(3.3, 3.4, 3.0)
    days: list[list[float]] = []
    for d in range(40):
        for hour, dip in ((2, 0.02), (12, 0.0)):
            note(days, (t := T0 + d * D + hour * H), 3.6 - 0.002 * d - dip, t)
    assert not note(days, T0 + 39 * D, 3.7, T0 + 39 * D)
    assert note([*days], T0, 3.5, T0) and len(days) == 30, (
        "of a clock that was set back nothing is left but what has come"
    )
    assert len(days) == 30 and days_left(limits, days) == pytest.approx((3.6 - 0.002 * 39 - 0.02 - 3.0) / 0.002)
    assert days_left(limits, days[:6]) is None, "six days are no line"
    assert days_left(limits, [[d, 3.6] for d in range(30)]) is None
    assert [is_low(limits, v, was) for v, was in ((3.29, False), (3.3, False), (3.39, True), (3.4, True))] == [
        True,
        False,
        True,
        False,
    ]

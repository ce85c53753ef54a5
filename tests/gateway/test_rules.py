"""Limits: hysteresis, holding, schedules, late data, restarts. The machine against a reference that looks at all of history at once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import Node
from gateway.core.registry import LANGUAGES
from gateway.core.rules.machine import Track, steps
from gateway.core.rules.rule import Rule, Schedule
from gateway.core.rules.texts import OTHERS, TEXTS, text_of
from tests.gateway.town import NO_DEFAULTS, T0, D, H, Town, config

HOT = (
    NO_DEFAULTS
    + """
[rule.hot]
quantity = "temperature"
above = 35
clear = 33
severity = "warning"
reference = "house rule"
"""
)


# the machine


def reference(rule: Rule, rows: Sequence[tuple[int, float]]) -> list[tuple[str, int, int]]:
    """What is raised and cleared, found by looking back over all rows at each one; no state but since when it is as it is."""
    out: list[tuple[str, int, int]] = []
    up, turned, since = False, 0, 0
    for i, (t, _) in enumerate(rows):
        back = i
        if not up:
            while back >= turned and rule.beyond(rows[back][1]):
                back -= 1
            run = rows[back + 1 : i + 1]
            if len(run) >= rule.hold and run and t - run[0][0] >= rule.for_s:
                up, turned, since = True, i + 1, run[0][0]
                out.append(("raised", t, since))
        else:
            while back >= turned and rule.inside(rows[back][1]):
                back -= 1
            if i - back >= rule.clear_hold:
                up, turned = False, i + 1
                out.append(("cleared", t, since))
    return out


@given(
    values=st.lists(st.tuples(st.integers(1, 400), st.integers(0, 12)), max_size=60),
    below=st.booleans(), gap=st.integers(0, 3), hold=st.integers(1, 3), clear_hold=st.integers(1, 3), for_s=st.sampled_from([0, 300, 900]),
    cuts=st.lists(st.integers(0, 60), max_size=5),
)  # fmt: skip
def test_the_machine_does_what_all_of_history_says_however_it_is_cut(
    values: list[tuple[int, int]], below: bool, gap: int, hold: int, clear_hold: int, for_s: int, cuts: list[int]
) -> None:
    rule = Rule(
        "r", "q", "below" if below else "above", 6, 6 + gap if below else 6 - gap, hold=hold, clear_hold=clear_hold,
        for_s=for_s,
    )  # fmt: skip
    rows, t = [], T0
    for step, v in values:
        t += step
        rows.append((t, float(v)))
    track, told = Track(), []
    edges = [0, *sorted(min(c, len(rows)) for c in cuts), len(rows)]
    for a, b in zip(edges, edges[1:], strict=False):
        told += steps(rule, track, rows[a:b], 0)
        track = Track.of(track.kept())  # a restart: nothing but what was noted
    assert [(x.what, x.t, x.since) for x in told] == reference(rule, rows)


@given(
    values=st.lists(st.tuples(st.integers(1, 400), st.integers(0, 12)), max_size=60),
    fresh_from=st.integers(T0, T0 + 12_000),
)
def test_old_rows_raise_nothing_but_what_is_still_on_is_told_with_its_beginning(
    values: list[tuple[int, int]], fresh_from: int
) -> None:
    rule = Rule("r", "q", "above", 6, 4, clear_hold=2)
    rows, t = [], T0
    for step, v in values:
        t += step
        rows.append((t, float(v)))
    told = [(x.what, x.t, x.since) for x in steps(rule, Track(), rows, fresh_from)]
    expected, since = [], None
    every = reference(rule, rows)
    for row_t, _ in rows:
        for what, at, began in every:
            if at == row_t:
                if what == "raised":
                    since = began
                else:
                    if expected and expected[-1][0] == "raised":
                        expected.append((what, at, began))
                    since = None
        if since is not None and row_t >= fresh_from and (not expected or expected[-1][0] == "cleared"):
            expected.append(("raised", row_t, since))
    assert told == expected


def test_an_alarm_that_gets_worse_is_updated_but_not_too_often() -> None:
    rule = Rule("r", "q", "above", 50, 45, update_step=5, update_s=600)
    rows = [(T0, 51), (T0 + 60, 57), (T0 + 600, 55), (T0 + 700, 58), (T0 + 760, 90), (T0 + 1300, 90), (T0 + 1400, 44)]
    told = [(x.what, x.t - T0, x.value) for x in steps(rule, Track(), rows, 0)]
    assert told == [("raised", 0, 51), ("updated", 700, 58), ("updated", 1300, 90), ("cleared", 1400, 44)]


def test_a_rate_of_rise_is_per_minute_over_its_window() -> None:
    rule = Rule("r", "q", "rise", 5, 1, over_s=600)
    water = [0, 0, 10, 70, 130, 130, 130, 130, 130]  # mm, every 5 minutes: 2, 7, 12, 6, 0 mm/min over ten minutes
    told = steps(rule, Track(), [(T0 + 300 * i, float(v)) for i, v in enumerate(water)], 0)
    assert [(x.what, (x.t - T0) // 300, x.value) for x in told] == [("raised", 3, 7.0), ("cleared", 6, 0.0)]


# schedules


LJUBLJANA = ZoneInfo("Europe/Ljubljana")


@pytest.mark.parametrize(
    ("schedule", "inside", "outside"),
    [
        ({"hours": (22 * 60, 6 * 60)}, ["2026-07-01T20:00Z", "2026-07-02T03:59Z"], ["2026-07-01T19:59Z", "2026-07-02T04:00Z"]),
        ({"hours": (22 * 60, 6 * 60)}, ["2026-12-01T21:00Z", "2026-12-02T04:59Z"], ["2026-12-01T20:59Z", "2026-12-02T05:00Z"]),
        ({"hours": (6 * 60, 24 * 60)}, ["2026-12-01T05:00Z", "2026-12-01T22:59Z"], ["2026-12-01T23:00Z"]),
        ({"weekdays": frozenset({5, 6})}, ["2026-11-20T23:00Z", "2026-11-22T22:59Z"], ["2026-11-20T22:59Z", "2026-11-22T23:00Z"]),
        ({"weekdays": frozenset({4}), "hours": (22 * 60, 6 * 60)}, ["2026-11-20T21:00Z", "2026-11-21T04:00Z"], ["2026-11-20T02:00Z"]),
        ({"first": date(2026, 12, 11)}, ["2026-12-10T23:00Z", "2031-01-01T00:00Z"], ["2026-12-10T22:59Z"]),
        ({"last": date(2029, 12, 31)}, ["2029-12-31T22:59Z"], ["2029-12-31T23:00Z"]),
        ({"season": ((5, 1), (9, 30))}, ["2026-04-30T22:00Z", "2026-09-30T21:59Z"], ["2026-04-30T21:59Z", "2026-09-30T22:00Z"]),
        ({"season": ((11, 1), (2, 29))}, ["2026-10-31T23:00Z", "2027-02-28T12:00Z"], ["2027-03-01T12:00Z", "2026-10-31T22:59Z"]),
    ],
)  # fmt: skip
def test_a_schedule_is_local_time_with_its_last_day_included(
    schedule: dict, inside: list[str], outside: list[str]
) -> None:
    s = Schedule(LJUBLJANA, **schedule)
    for text, expected in [*((x, True) for x in inside), *((x, False) for x in outside)]:
        assert s.applies(datetime.fromisoformat(text).timestamp()) is expected, text


def test_an_alarm_ends_with_its_hours_by_a_row_or_by_the_clock(tmp_path: Path) -> None:
    text = HOT + 'hours = "22:00-06:00"\n'
    town = Town(tmp_path, text)
    night = int(datetime(2026, 6, 1, 20, tzinfo=UTC).timestamp())
    town.row("n-1", night, temperature=40)  # stamped with its end: it is of before 22 h
    town.row("n-1", night + 60, temperature=40)
    assert town.alarms() == [("raised", "hot")]
    town.row("n-1", night + 8 * H + 60, temperature=40)
    assert town.alarms()[1:] == [("cleared", "hot")]
    town.row("n-1", night + D + 60, temperature=40)
    town.until(night + D + 60, night + D + 10 * H)
    assert town.alarms()[2:] == [("raised", "hot"), ("cleared", "hot")]
    assert 8 * H <= town.last_alarm().t - night - D <= 8 * H + 1800


# at a node


def test_a_rule_is_raised_updated_and_cleared_with_all_that_people_need(tmp_path: Path) -> None:
    town = Town(tmp_path, HOT)
    town.row("n-1", T0, temperature=36)
    town.row("n-1", T0 + 600, temperature=34)
    town.row("n-1", T0 + 1200, temperature=40.5)
    town.row("n-1", T0 + 1800, temperature=33)
    assert town.alarms() == [("raised", "hot"), ("updated", "hot"), ("cleared", "hot")]
    a, b, c = (e.alarm for e in town.events)
    assert a and b and c
    assert (a.code, a.severity, a.quantity, a.unit, a.value, a.limit, a.t, a.since, a.reference) == (
        "above", "warning", "temperature", "Cel", 36, 35, T0, T0, "house rule",
    )  # fmt: skip
    assert (b.value, b.since, c.since, c.t) == (40.5, T0, T0, T0 + 1800)
    assert a.text == {
        "sl": "Temperatura: 36 °C, nad mejo 35 °C",
        "it": "Temperatura: 36 °C, sopra il limite di 35 °C",
        "en": "Temperature: 36 °C, above the limit of 35 °C",
    }
    assert b.text is not None and b.text["sl"].startswith("Temperatura: 40,5 °C")
    assert [e.id for e in town.events] == ["1:0:1:city:hot", "1:0:3:city:hot", "1:0:4:city:hot"]


def test_rows_of_one_report_raise_and_clear_in_order_under_different_ids(tmp_path: Path) -> None:
    town = Town(tmp_path, HOT)
    town.send("n-1", [T0 + 60 * i for i in range(5)], {"temperature": [20, 36, 30, 37, None]})
    assert town.alarms() == [("raised", "hot"), ("cleared", "hot"), ("raised", "hot")]
    assert len({e.id for e in town.events}) == 3


def test_late_rows_neither_raise_nor_clear_nor_overwrite(tmp_path: Path) -> None:
    town = Town(tmp_path, HOT)
    town.row("n-1", T0 + 3600, temperature=20)
    town.row("n-1", T0, temperature=50, received=T0 + 3700)
    town.row("n-1", T0 + 3000, temperature=50, received=T0 + 3700)  # young enough, but overtaken
    assert town.alarms() == []
    town.row("n-1", T0 + 7200, temperature=36)
    town.row("n-1", T0 + 6600, temperature=20, received=T0 + 7300)
    assert town.alarms() == [("raised", "hot")]


def test_a_backlog_in_order_raises_nothing_that_is_over_and_tells_what_is_still_on(tmp_path: Path) -> None:
    town = Town(tmp_path, HOT)
    now = T0 + 3 * D
    for i in range(0, 3 * D, 600):  # hot every noon; it arrives all at once, oldest first
        hot = i % D // H == 12 or i >= 3 * D - 7200
        town.row("n-1", T0 + i, temperature=36 if hot else 20, received=now + i / 600)
    assert town.alarms() == [("raised", "hot")]
    assert town.last_alarm().since == now - 7200


def test_suspect_values_are_no_alarm(tmp_path: Path) -> None:
    town = Town(tmp_path, HOT)
    town.send("n-1", [T0], {"temperature": [99]}, suspect=(0,))
    assert town.alarms() == []


def test_pending_and_raised_rules_survive_a_restart(tmp_path: Path) -> None:
    town = Town(tmp_path, HOT + "for_s = 1200\n")
    town.row("n-1", T0, temperature=36)
    town.restart()
    town.row("n-1", T0 + 600, temperature=36)
    town.restart()
    town.row("n-1", T0 + 1200, temperature=36)
    town.restart()
    town.row("n-1", T0 + 1800, temperature=36)
    assert town.alarms() == [("raised", "hot")] and town.last_alarm().since == T0
    town.restart()
    town.row("n-1", T0 + 2400, temperature=20)
    assert town.alarms()[1:] == [("cleared", "hot")]


def test_a_rule_that_is_taken_out_of_the_configuration_ends_its_alarms(tmp_path: Path) -> None:
    town = Town(tmp_path, HOT)
    town.row("n-1", T0, temperature=36)
    town.restart(config(tmp_path, NO_DEFAULTS, list(town.nodes.values())))
    town.until(T0 + 10, T0 + 1000)
    assert town.alarms() == [("raised", "hot"), ("cleared", "hot")] and town.last_alarm().rules == ("hot",)


def test_overstay_is_raised_by_the_clock_because_a_bay_says_nothing_while_occupied(tmp_path: Path) -> None:
    text = NO_DEFAULTS + '[rule.overstay]\nquantity = "occupied"\nabove = 0\nfor_s = 7200\nstays = true\n'
    town = Town(tmp_path, text, [Node(5, "bay-1", b"", profile="parking", interval_s=86400)])
    town.row("bay-1", T0, occupied=1)
    town.until(T0, T0 + 7100)
    assert town.alarms() == []
    town.restart()
    town.until(T0 + 7100, T0 + 9000)
    assert town.alarms() == [("raised", "overstay")] and town.last_alarm().since == T0
    town.row("bay-1", T0 + 9100, occupied=0)
    town.until(T0 + 9100, T0 + 30_000)
    assert town.alarms()[1:] == [("cleared", "overstay")]


def test_rules_choose_their_nodes_by_profile_name_and_area(tmp_path: Path) -> None:
    nodes = [
        Node(1, "aq-1", b"", profile="air_quality"), Node(2, "aq-2", b"", profile="air_quality", area=("old-town", "harbour")), Node(3, "bin-1", b"", profile="bin_fill"),
    ]  # fmt: skip
    text = NO_DEFAULTS + '[area.old-town]\nnodes = ["bin-*"]\n'
    for name, chosen in (("by-profile", 'profile = "air_quality"'), ("by-name", 'node = ["*-1"]'), ("by-area", 'area = "old-town"'),
                         ("by-registry", 'area = "harbour"'), ("by-both", 'area = "old-town"\nprofile = ["air_quality", "noise"]')):  # fmt: skip
        text += f'[rule.{name}]\nquantity = "temperature"\nabove = 35\n{chosen}\n'
    town = Town(tmp_path, text, nodes)
    found = {}
    for n in town.nodes:
        found[n] = {e.alarm.rules[0] for e in town.row(n, T0, temperature=40) if e.alarm}
    assert found == {
        "aq-1": {"by-profile", "by-name"},
        "aq-2": {"by-profile", "by-area", "by-registry", "by-both"},
        "bin-1": {"by-name", "by-area"},
    }


def test_the_shipped_limits_hold_on_aggregates_with_their_dates(tmp_path: Path) -> None:
    """O3 over 180 and 240 ug/m3 in an hour, NO2 over 200 in three, before and after the new directive."""
    for day, expected in (
        ("2026-12-08", {"no2-hour-limit", "o3-information"}),
        ("2026-12-13", {"no2-hour-limit", "no2-information", "no2-alert", "o3-information"}),
        ("2030-03-01", {"no2-hour-limit-2030", "no2-information", "no2-alert", "o3-information"}),
    ):
        town = Town(tmp_path, "")
        start = int(datetime.fromisoformat(day).replace(tzinfo=LJUBLJANA).timestamp()) + 10 * H
        for i in range(1, 25):
            town.row("n-1", start + 600 * i, no2=210, o3=200)
        assert {rule for what, rule in town.alarms() if what == "raised"} == expected
        text = town.last_alarm().text or {}
        assert "informativna" in text["sl"] and "indicativa" in text["it"] and "not official" in text["en"]


def test_a_day_above_50_of_pm10_is_told_at_midnight_and_ends_with_a_better_day(tmp_path: Path) -> None:
    town = Town(tmp_path, "")
    for i in range(1, 2 * 144 + 1):
        town.row("n-1", T0 + 600 * i, pm10=60 + i % 7 if i <= 144 else 20 + i % 7)
    assert town.alarms() == [("raised", "pm10-day-limit"), ("cleared", "pm10-day-limit")]
    assert town.last_alarm().since == T0 + D


@pytest.mark.parametrize(
    ("mean", "told"),
    [
        (50.0, []), (50.4, []), (50.5, [("raised", "pm10-day-limit")]), (51.0, [("raised", "pm10-day-limit")]), (90.4, [("raised", "pm10-day-limit")]),
    ],
)  # fmt: skip
def test_a_value_is_rounded_to_the_limits_precision_before_it_is_compared(
    tmp_path: Path, mean: float, told: list[tuple[str, str]]
) -> None:
    town = Town(tmp_path, "[rules]\n")
    for h in range(24):
        town.send("n-1", [T0 + h * H + 600 * i for i in range(1, 7)], {"pm10": [mean] * 6})
    town.row("n-1", T0 + D + 600, pm10=10)
    assert town.values("day", "pm10")[T0] == mean
    assert [x for x in town.alarms() if not x[1].startswith("stuck")] == told
    if told:
        (alarm,) = [e.alarm for e in town.events if e.alarm and e.alarm.rules == ("pm10-day-limit",)]
        assert alarm.value == mean, "what is published is the value itself"


@given(v=st.floats(-1e6, 1e6), digits=st.integers(0, 3), below=st.booleans())
def test_no_value_is_beyond_and_inside_at_once(v: float, digits: int, below: bool) -> None:
    rule = Rule("r", "q", "below" if below else "above", 50, 50, round_to=digits)
    assert rule.beyond(v) != rule.inside(v)
    if abs(v - 50) < 0.49 * 10**-digits:
        assert rule.inside(v)


@pytest.mark.parametrize(("rule", "quantity", "limit"), [("o3-information", "o3", 180), ("no2-hour-limit", "no2", 200)])
def test_hours_round_a_shipped_limit_are_one_alarm(tmp_path: Path, rule: str, quantity: str, limit: int) -> None:
    town = Town(tmp_path, "[rules]\n")
    for h in range(12):
        v = limit + 1 if h % 2 == 0 else limit - 1
        town.send("n-1", [T0 + h * H + 600 * i for i in range(1, 7)], {quantity: [v] * 6})
    for h, v in ((12, limit * 0.91), (13, limit * 0.89), (14, 10)):
        town.send("n-1", [T0 + h * H + 600 * i for i in range(1, 7)], {quantity: [v] * 6})
    assert [x for x in town.alarms() if x[1] == rule] == [("raised", rule), ("cleared", rule)]
    cleared = [e.alarm for e in town.events if e.alarm and e.alarm.rules == (rule,)][-1]
    assert cleared.t == T0 + 14 * H


def test_every_shipped_hourly_limit_has_room_between_its_two_ends_and_is_rounded(tmp_path: Path) -> None:
    rules = [r for r in config(tmp_path, "[rules]\n", []).rules if r.indicative and not r.name.startswith("noise")]
    assert len(rules) == 16
    for r in rules:
        assert r.round_to == 0 and (r.clear == 0.9 * r.limit if r.aggregate == "hour" else r.clear == r.limit), r.name


def test_a_row_of_the_same_time_is_no_further_value(tmp_path: Path) -> None:
    rule = Rule("r", "q", "above", 6, 6, hold=2)
    track = Track()
    assert steps(rule, track, [(T0, 9.0)], 0) == []
    assert steps(rule, track, [(T0, 9.0), (T0 - 1, 9.0)], 0) == [], "one value twice is one value"
    assert [x.what for x in steps(rule, track, [(T0 + 1, 9.0)], 0)] == ["raised"]
    assert steps(rule, track, [(T0 + 1, 1.0)], 0) == []


def test_the_first_row_of_all_counts_whenever_it_was(tmp_path: Path) -> None:
    assert [x.what for x in steps(Rule("r", "q", "above", 6, 6), Track(), [(1, 9.0)], 0)] == ["raised"]


def test_rows_of_a_time_when_the_hosts_clock_was_ahead_do_not_hold_a_rule_back(tmp_path: Path) -> None:
    town = Town(tmp_path, HOT)
    town.row("n-1", T0 + 3650 * D, temperature=40)
    town.restart()
    town.latest.clear()
    town.row("n-1", T0, temperature=20)
    town.row("n-1", T0 + 600, temperature=40)
    assert town.alarms() == [("raised", "hot"), ("cleared", "hot"), ("raised", "hot")]


def test_every_text_exists_in_every_language_and_can_be_filled() -> None:
    for code in TEXTS:
        said = text_of(code, "pm10", 51.5, 50, "ug/m3", indicative=True)
        assert set(said) == set(LANGUAGES) and len(set(said.values())) == 3
        assert all("{" not in text and text.strip() for text in said.values())
    assert all(len(names) == len(LANGUAGES) and all(names) for names in OTHERS.values())
    own = text_of("above", "pm10", 51, 50, "ug/m3", own={"sl": "Prah {value}!"})
    assert own["sl"] == "Prah 51!" and own["en"].startswith("Particles")

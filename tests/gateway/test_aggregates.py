"""Hours, 8 hours, days, noise days and nights: against brute force in any order of arrival, on DST days, over a restart."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.core.aggregates import cells
from gateway.core.aggregates.calendar import Calendar, Period
from gateway.core.aggregates.index import class_of, rate
from gateway.core.aggregates.periods import lden
from gateway.core.model import Node
from tests.gateway.town import NO_DEFAULTS, T0, D, H, Town, config

ZONE = ZoneInfo("Europe/Ljubljana")
AIR = (
    NO_DEFAULTS
    + """
[aggregates]
mean = ["pm10", "o3", "temperature"]
energy = ["laeq"]
register = ["water_volume"]
eight_hour = ["o3"]
day = ["pm10", "o3"]
max8h = ["o3"]
noise = ["laeq"]
"""
)
Rows = dict[int, tuple[float | None, float | None]]


def local(t: float) -> datetime:
    return datetime.fromtimestamp(t, ZONE)


def brute(rows: Rows, step: int) -> dict[tuple[str, int, str], float | None]:
    """Every period from all rows at once, by the words of the definitions: (name, start, quantity) -> value."""

    def hour(h: int, which: int) -> float | None:
        there = [v[which] for t, v in rows.items() if h < t <= h + H and v[which] is not None]
        if len(there) * step < 0.75 * H:
            return None
        return sum(there) / len(there)  # type: ignore[arg-type]

    def has(start: int, end: int, which: int) -> bool:
        return any(start < t <= end and v[which] is not None for t, v in rows.items())

    def mean(hours: Iterable[float | None], of: int) -> float | None:
        good = [x for x in hours if x is not None]
        return sum(good) / len(good) if len(good) >= 0.75 * of else None

    out: dict[tuple[str, int, str], float | None] = {}
    first = (min(rows) - 1) // H * H
    last = (max(rows) - 1) // H * H
    for end in range(first + H, last + 27 * H, H):
        if has(end - H, end, 0):
            v = hour(end - H, 0)
            out["hour", end - H, "o3"] = v
        if has(end - 8 * H, end, 0):
            out["8h", end - 8 * H, "o3"] = mean([hour(h, 0) for h in range(end - 8 * H, end, H)], 8)
        if local(end).hour == 0:
            day = (local(end) - timedelta(hours=12)).date()
            start = int(datetime(day.year, day.month, day.day, tzinfo=ZONE).timestamp())
            if has(start, end, 0):
                hours = list(range(start, end, H))
                out["day", start, "o3"] = mean([hour(h, 0) for h in hours], len(hours))
                runs = [mean([hour(h, 0) for h in range(e - 8 * H, e, H)], 8) for e in range(start + H, end + H, H)]
                good = [x for x in runs if x is not None]
                out["day-max8h", start, "o3"] = max(good) if len(good) >= 0.75 * len(runs) else None
        if local(end).hour == 6:
            day = (local(end) - timedelta(hours=12)).date()
            start = int(datetime(day.year, day.month, day.day, 6, tzinfo=ZONE).timestamp())
            if has(start, end, 1):
                parts: dict[str, list[float]] = {"lday": [], "levening": [], "lnight": []}
                length = dict.fromkeys(parts, 0)

                def part(t: int) -> str:
                    return "lday" if 6 <= local(t).hour < 18 else "levening" if 18 <= local(t).hour < 22 else "lnight"

                for h in range(start, end, H):
                    length[part(h)] += 1
                for t, v in rows.items():
                    if start < t <= end and v[1] is not None:
                        parts[part(t - 1)].append(v[1])
                levels: dict[str, float | None] = {}
                for name, there in parts.items():
                    enough = len(there) * step >= 0.75 * H * length[name]
                    levels[name] = 10 * math.log10(sum(10 ** (x / 10) for x in there) / len(there)) if enough else None
                    out["noise", start, name] = levels[name]
                if None in levels.values():
                    out["noise", start, "lden"] = None
                else:
                    energy = sum(
                        length[n] * 10 ** ((levels[n] + p) / 10)  # type: ignore[operator]
                        for n, p in (("lday", 0), ("levening", 5), ("lnight", 10))
                    )
                    out["noise", start, "lden"] = 10 * math.log10(energy / sum(length.values()))
    return out


def compare(town: Town, rows: Rows, step: int) -> int:
    """Every period told last must be what brute force says, and none may be missing; returns how many."""
    expected = brute(rows, step)
    told: dict[tuple[str, int, str], float | None] = {}
    for name in ("hour", "8h", "day", "day-max8h", "noise"):
        for start, a in town.aggregates(name).items():
            for v in a.values:
                if v.quantity != "laeq":
                    told[name, start, v.quantity] = v.value
    assert told.keys() == expected.keys()
    for key, value in expected.items():
        if value is None:
            assert told[key] is None, key
        else:
            assert told[key] == pytest.approx(value, abs=0.0501), key
    return len(expected)


def frames(rows: Rows, size: int) -> list[list[int]]:
    times = sorted(rows)
    return [times[i : i + size] for i in range(0, len(times), size)]


def send(town: Town, rows: Rows, times: list[int], received: float) -> None:
    values = {"o3": [rows[t][0] for t in times], "laeq": [rows[t][1] for t in times]}
    town.send("n-1", times, values, received=received)


def weather(random: Random, start: int, hours: int, step: int, gaps: float) -> Rows:
    """A grid of rows; whole hours are missing, and single values."""
    rows: Rows = {}
    missing = {h for h in range(hours) if random.random() < gaps}
    for t in range(start + step, start + hours * H + 1, step):
        if (t - start - 1) // H in missing:
            continue
        o3 = None if random.random() < gaps / 3 else random.randrange(0, 3000) / 10
        rows[t] = (o3, None if random.random() < gaps / 3 else random.randrange(300, 900) / 10)
    return rows


STARTS = {
    "winter": int(datetime(2026, 1, 14, 3, tzinfo=UTC).timestamp()),
    "spring DST": int(datetime(2026, 3, 27, 20, tzinfo=UTC).timestamp()),
    "autumn DST": int(datetime(2026, 10, 23, 22, tzinfo=UTC).timestamp()),
    "year end": int(datetime(2026, 12, 30, 11, tzinfo=UTC).timestamp()),
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
@given(seed=st.integers(0, 1 << 32), order=st.sampled_from(["in order", "newest first", "shuffled", "outage"]))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_periods_are_what_brute_force_says_in_any_order_of_arrival(
    tmp_path: Path, start: int, seed: int, order: str
) -> None:
    random = Random(seed)
    step = random.choice((300, 600))
    rows = weather(random, start, 70, step, random.choice((0, 0.1, 0.4)))
    town = Town(tmp_path, AIR)
    parts = frames(rows, random.choice((3, 6, 12)))
    if order == "newest first":
        parts.reverse()
    elif order == "shuffled":
        random.shuffle(parts)
    elif order == "outage":  # the second half first, then what waited, while it goes on
        half = len(parts) // 2
        parts = parts[half:] + parts[:half]
    now = float(max(rows)) + 10
    restart = random.randrange(len(parts))
    for i, part in enumerate(parts):
        received = part[-1] + 5.0 if order == "in order" else now
        send(town, rows, part, received)
        now += 60
        if i == restart:
            town.restart()
        if random.random() < 0.3:
            town.tick(received + 30 if order == "in order" else now)
    town.until(now, now + 36 * H)
    assert compare(town, rows, step) > 60


def test_a_late_row_reopens_its_hour_and_tells_it_again_under_a_higher_revision(tmp_path: Path) -> None:
    town = Town(tmp_path, AIR)
    rows: Rows = dict.fromkeys(range(T0 + 600, T0 + 12 * H + 1, 600), (100.0, None))
    late = [t for t in rows if 2 * H < t - T0 <= 3 * H]
    for t in rows:
        if t not in late:
            send(town, rows, [t], t + 5)
    assert T0 + 2 * H not in town.values("hour", "o3")
    before = town.aggregates("8h")
    for t in late:
        rows[t] = (200.0, None)
        send(town, rows, [t], T0 + 12 * H + 60)
    town.tick(T0 + 12 * H + 100)
    assert T0 + 2 * H not in town.values("hour", "o3"), "more may come"
    town.restart()
    town.until(T0 + 12 * H + 1000, T0 + 14 * H)
    again = town.aggregates("hour")[T0 + 2 * H]
    assert (again.values[0].value, again.revision, again.latest) == (200.0, 2, False)
    after = town.aggregates("8h")
    changed = {start for start, a in after.items() if start in before and a.revision > before[start].revision}
    assert changed == {T0 + k * H for k in range(-5, 3)}, "the eight running means that it belongs to"
    assert after[T0].values[0].value == pytest.approx((7 * 100 + 200) / 8)
    compare_end = town.aggregates("8h")[T0 + 4 * H]
    assert compare_end.latest and compare_end.revision == 1


def test_less_than_75_percent_of_an_hour_is_told_without_a_value(tmp_path: Path) -> None:
    town = Town(tmp_path, AIR)
    for minute, h in ((45, 0), (44, 1)):
        times = [T0 + h * H + 60 * m for m in range(1, minute + 1)]
        town.send("n-1", times, {"o3": [50.0] * minute})
    town.row("n-1", T0 + 2 * H + 60, o3=50)
    hours = town.aggregates("hour")
    assert [(a.values[0].value, a.values[0].capture) for a in hours.values()] == [(50.0, 75.0), (None, 73.3)]


def test_suspect_and_future_rows_count_for_nothing_and_too_late_ones_are_counted(tmp_path: Path) -> None:
    town = Town(tmp_path, AIR)
    town.send("n-1", [T0 + 600 * i for i in range(1, 7)], {"o3": [10, 10, 999, 10, 10, 10]}, suspect=(2,))
    town.send("n-1", [T0 + 9 * D], {"o3": [10]}, received=T0 + 4000, suspect=(0,))
    town.row("n-1", T0 + H + 600, o3=10)
    assert town.values("hour", "o3") == {T0: 10.0}
    assert town.aggregates("hour")[T0].values[0].capture == 83.3
    town.send("n-1", [T0 - 9 * D, T0 - 9 * D + 600], {"o3": [1, 1]}, received=T0 + 2 * H)
    assert town.refused == {"late_for_aggregates": 2}


def test_single_rows_stand_for_the_time_since_the_row_before(tmp_path: Path) -> None:
    """The registry says 600 s, the node sends a row every 60 s: an hour is 60 of them, not 6."""
    town = Town(tmp_path, AIR)
    for m in range(1, 61 + 30):
        town.row("n-1", T0 + 60 * m, o3=m)
    first = town.aggregates("hour")[T0]
    assert first.values[0].value == pytest.approx(sum(range(1, 61)) / 60, abs=5)
    assert first.values[0].capture == 100.0
    town.row("n-1", T0 + 2 * H + 60, o3=1)
    assert town.aggregates("hour")[T0 + H].values[0].capture < 75


def test_state_is_bounded_and_old_days_are_forgotten(tmp_path: Path) -> None:
    town = Town(tmp_path, AIR)
    sizes = []
    for day in range(40):
        for h in range(24):
            town.send("n-1", [T0 + day * D + h * H + 600 * i for i in range(1, 7)], {"o3": [50.0] * 6, "pm10": [9] * 6})
        sizes.append(sum(map(len, town.store.values())))
    assert len(town.store) <= 2 + 8 + 3 and max(sizes[20:]) <= sizes[15] * 1.05
    assert max(map(len, town.store.values())) < 4000


def test_a_thousand_hours_of_backlog_newest_first_keep_few_hours_open(tmp_path: Path) -> None:
    town = Town(tmp_path, AIR)
    for h in reversed(range(190)):
        town.send("n-1", [T0 + h * H + 600 * i for i in range(1, 7)], {"o3": [50.0] * 6}, received=T0 + 190 * H + 5)
    assert len(town.store["city:1"]) < 3000
    town.until(T0 + 190 * H + 1000, T0 + 192 * H)
    assert set(town.values("hour", "o3").values()) == {50.0} and len(town.values("hour", "o3")) == 190


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ((60, 60, 60), 66.40),
        ((65, 60, 55), 65.00),
        ((58, 53, 48), 58.00),
        ((70, 65, 60), 70.00),
        ((55.0, 50.0, 45.0), 55.00),
        ((62.3, 60.1, 54.7), 63.75),
    ],
)
def test_lden_is_the_formula_of_2002_49_ec(levels: tuple[float, float, float], expected: float) -> None:
    """Vectors computed from Annex I, independently of this code."""
    assert lden(levels, (12, 4, 8)) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(
    ("levels", "expected"), [((60, 70), 67.4), ((60, 60), 60.0), ((50, 60, 70, 80), 74.4), ((40,) * 9 + (80,), 70.0)]
)
def test_levels_are_averaged_as_energies(tmp_path: Path, levels: tuple[int, ...], expected: float) -> None:
    town = Town(tmp_path, AIR, [Node(1, "n-1", b"", interval_s=3600)])
    step = H // len(levels)
    town.send("n-1", [T0 + step * (i + 1) for i in range(len(levels))], {"laeq": levels})
    assert town.values("hour", "laeq") == {T0: expected}


@pytest.mark.parametrize(
    ("day", "hours", "night"),
    [("2026-03-28", 23, 7), ("2026-10-24", 25, 9), ("2026-06-01", 24, 8), ("2026-12-31", 24, 8)],
)
def test_noise_days_have_their_actual_hours(day: str, hours: int, night: int) -> None:
    calendar = Calendar(ZONE)
    morning = datetime.fromisoformat(f"{day}T06:00:00").replace(tzinfo=ZONE) + timedelta(days=1)
    end = int(morning.timestamp()) // H
    (noise,) = [p for p in calendar.ending_at(end) if p.name == "noise"]
    assert noise.end - noise.first == hours
    assert [len(r) for r in calendar.noise_periods(noise)] == [12, 4, night]


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-12-31", 24), ("2028-02-29", 24)]
)
def test_days_are_local_days(day: str, hours: int) -> None:
    calendar = Calendar(ZONE)
    midnight = datetime.fromisoformat(day).replace(tzinfo=ZONE) + timedelta(days=1)
    end = int(midnight.timestamp()) // H
    assert Period("day", end - hours, end) in calendar.ending_at(end)
    for near in (*range(end - 22, end), *range(end + 1, end + 23)):
        assert all(p.name != "day" for p in calendar.ending_at(near))


EDGES = {
    "pm25": (5, 15, 50, 90, 140), "pm10": (15, 45, 120, 195, 270), "no2": (10, 25, 60, 100, 150), "o3": (60, 100, 120, 160, 180),
}  # fmt: skip


@pytest.mark.parametrize("pollutant", EDGES)
def test_each_edge_of_the_air_quality_index_belongs_to_the_better_class(tmp_path: Path, pollutant: str) -> None:
    index = config(tmp_path, "", [Node(1, "n-1", b"")]).plan.index
    assert index is not None and index.version == "eea-revised-2024"
    scale = index.scales[pollutant]
    assert class_of(scale, 0) == 1
    for level, edge in enumerate(EDGES[pollutant], 1):
        found = [class_of(scale, x) for x in (edge - 0.6, edge, edge + 0.4, edge + 0.5, edge + 1)]
        assert found == [level, level, level, level + 1, level + 1]
    assert class_of(scale, 10_000) == 6


def test_the_index_is_the_worst_pollutant_and_says_when_it_is_partial(tmp_path: Path) -> None:
    index = config(tmp_path, "", [Node(1, "n-1", b"")]).plan.index
    assert index is not None
    whole = rate(index, {"pm25": 4, "no2": 61, "o3": 10})
    assert whole is not None and (whole.level, whole.name, whole.worst, whole.partial) == (4, "poor", "no2", False)
    part = rate(index, {"pm25": 16, "pm10": 3})
    assert part is not None and (part.level, part.partial) == (3, True)
    assert rate(index, {"temperature": 3}) is None


def test_a_node_gets_an_index_each_hour_from_the_shipped_files(tmp_path: Path) -> None:
    town = Town(tmp_path, "")
    town.send("n-1", [T0 + 600 * i for i in range(1, 7)], {"pm10": [46] * 6, "pm25": [3] * 6, "no2": [5] * 6})
    (a,) = town.aggregates("index").values()
    assert a.values[0].value == 3
    assert a.detail == {
        "version": "eea-revised-2024", "class": "moderate", "worst": "pm10", "partial": False,
        "classes": {"pm25": 1, "pm10": 3, "no2": 1},
    }  # fmt: skip


WATER = AIR + "night_flow = [2, 4]\n"


def meter(town: Town, t: int, volume: float, **more: Any) -> None:
    town.row("n-1", t, water_volume=volume, **more)


def test_hourly_use_is_the_register_on_the_hour_less_that_of_the_hour_before(tmp_path: Path) -> None:
    town = Town(tmp_path, WATER)
    for h, volume in enumerate((1000.0, 1010.5, 1010.5, 1200.0)):
        meter(town, T0 + h * H, volume)
        meter(town, T0 + h * H + 1800, volume)
    used = town.values("hour", "water_volume-used")
    assert used == {T0 - H: None, T0: 10.5, T0 + H: 0.0, T0 + 2 * H: 189.5}
    assert town.values("hour", "water_volume")[T0 + 2 * H] == 1200.0


def test_a_register_between_two_hours_is_interpolated_once_the_next_reading_is_there(tmp_path: Path) -> None:
    town = Town(tmp_path, WATER)
    for i in range(10):  # 100 l every half hour, a quarter past and a quarter to
        meter(town, T0 + 900 + 1800 * i, 100.0 * i)
    used = town.values("hour", "water_volume-used")
    assert used[T0 + H] == used[T0 + 2 * H] == pytest.approx(200)
    capture = {v.quantity: v.capture for v in town.aggregates("hour")[T0 + H].values}
    assert capture["water_volume-used"] == 50.0, "not read on the second"


def test_a_register_that_falls_is_another_meter_and_no_use(tmp_path: Path) -> None:
    town = Town(tmp_path, WATER)
    for h, volume in enumerate((1000.0, 1010.0, 3.0, 8.0)):
        meter(town, T0 + h * H, volume)
    assert list(town.values("hour", "water_volume-used").values()) == [None, 10.0, None, 5.0]


def every_ten_minutes(folder: Path, hour: list[float], then: float) -> Town:
    """A meter that stands at 1000 for an hour, has these readings in the next, and stands at `then` for two more."""
    town = Town(folder, "[rules]\nsettle_s = 0\n", [Node(1, "n-1", b"", profile="water_meter", interval_s=600)])
    for i, v in enumerate([1000.0] * 6 + hour + [then] * 12, 1):
        meter(town, T0 + 600 * i, v)
    town.until(T0 + 4 * H, T0 + 7 * H)
    return town


@pytest.mark.parametrize(
    ("hour", "reason"),
    [
        ([1300, 1600, 0, 300, 600, 1200], "register_fall"),  # lost its register, and more came by than it shows
        ([1100, 1200, 1100, 1110, 1120, 1130], "register_fall"),  # an older register out of flash
        ([1000, 1000, 0, 1000, 1000, 1000], "register_fall"),  # one wrong reading
        ([1000, 1000, 20_000, 20_010, 20_020, 20_030], "register_jump"),  # a used meter: less than 20,000 in the hour
        ([1000, 1000, 9000, 9000, 9000, 9000], "register_jump"),
        ([4000, 7000, 10_000, 13_000, 16_000, 21_001], "register_jump"),  # by no step, but by the hour
    ],
)
def test_a_register_that_falls_or_jumps_within_an_hour_tells_no_use_and_is_counted(
    tmp_path: Path, hour: list[float], reason: str
) -> None:
    town = every_ten_minutes(tmp_path, hour, hour[-1])
    assert town.values("hour", "water_volume-used") == {T0: None, T0 + H: None, T0 + 2 * H: 0.0, T0 + 3 * H: 0.0}
    assert town.values("hour", "water_volume")[T0 + H] == hour[-1] and town.refused == {reason: 1}


def test_what_comes_back_from_one_wrong_reading_on_the_hour_is_no_use(tmp_path: Path) -> None:
    town = every_ten_minutes(tmp_path, [1000.0] * 5 + [0.0], 1000.0)
    used = town.values("hour", "water_volume-used")
    assert used == {T0: None, T0 + H: None, T0 + 2 * H: None, T0 + 3 * H: 0.0}
    town = Town(tmp_path, WATER)
    for h, volume in enumerate((1000.0, 1000.0, 0.0, 1001.0, 1002.0)):  # one reading an hour
        meter(town, T0 + h * H, volume)
    assert list(town.values("hour", "water_volume-used").values()) == [None, 0.0, None, None, 1.0]
    town = every_ten_minutes(tmp_path, [1000.0] * 5 + [0.0], 30.0)  # a new meter
    assert town.values("hour", "water_volume-used")[T0 + 2 * H] == 30.0


ROWS_OF_METERS = st.lists(
    st.tuples(st.integers(1, 4 * H), st.sampled_from([0.0, 5.0, 1000.0, 1300.0, 1600.0, 9000.0])),
    min_size=1,
    max_size=14,
)


@given(ROWS_OF_METERS, st.permutations(range(14)), st.booleans())
@example(
    [(1, 1300.0), (3601, 0.0)], list(range(14)), False
)  # a late row takes back what put the hour after the next in doubt
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_used_does_not_hang_on_the_order_in_which_rows_come(
    tmp_path: Path, rows: list[tuple[int, float]], order: list[int], rising: bool
) -> None:
    """Also rows of one time, of one minute, on the hour, and whether they come before hours close or after."""
    rows += [(H * h, v) for h, v in zip(range(1, 4), (1000.0, 1000.0, 1600.0), strict=True)]
    if rising:
        rows = list(zip(sorted(t for t, _ in rows), sorted(v for _, v in rows), strict=True))
    told = []
    for sequence in (rows, sorted(rows), [rows[i] for i in order if i < len(rows)] + rows):
        town = Town(tmp_path, "[rules]\nsettle_s = 0\n", [Node(1, "n-1", b"", profile="water_meter", interval_s=600)])
        for t, v in sequence:
            meter(town, T0 + t, v, received=T0 + 5 * H)
        town.until(T0 + 5 * H, T0 + 8 * H)
        told.append(
            {s: [(v.quantity, v.value, v.capture) for v in a.values] for s, a in town.aggregates("hour").items()}
        )
    assert told[0] == told[1] == told[2]


@given(st.lists(st.tuples(st.integers(1, H), st.integers(0, 50)), min_size=1, max_size=200), st.randoms())
def test_a_registers_cell_is_of_its_rows_alone_bounded_and_shows_every_fall_between_minutes(
    rows: list[tuple[int, int]], shuffle: Any
) -> None:
    made = []
    for _ in range(3):
        cell: list[Any] = []
        for t, v in rows:
            cells.add(cell, cells.REGISTER, [v], [t], 600)
        made.append(cell)
        shuffle.shuffle(rows)
    assert made[0] == made[1] == made[2] and len(made[0]) <= 122
    assert (made[0][0], made[0][1]) == min(rows) and (made[0][-2], made[0][-1]) == max(rows)
    of_minutes = [min(r for r in rows if (r[0] - 1) // 60 == m) for m in sorted({(t - 1) // 60 for t, _ in rows})]
    falls = any(b < a for (_, a), (_, b) in pairwise([*of_minutes, max(rows)]))
    assert (cells.broken(cells.readings(made[0]), float("inf")) == "register_fall") == falls


def test_a_cell_that_an_older_gateway_noted_is_gone_on_with() -> None:
    cell: list[Any] = [600, 5.0, 1800, 7.0]
    assert cells.fits(cell, cells.REGISTER)
    cells.add(cell, cells.REGISTER, [6.0, 9.0], [1200, 2400], 600)
    assert cell == [600, 5.0, 1200, 6.0, 2400, 9.0, 2400, 9.0]


@pytest.mark.parametrize("late", [0, 1, 2, 3, 4])
def test_a_late_reading_revises_the_hours_that_hang_on_it_and_no_others(tmp_path: Path, late: int) -> None:
    """Readings on the hour but one: with it the use of the hour before it and of the hour after it can be told, and only they change."""
    town = Town(tmp_path, WATER)
    for h in range(6):
        if h != late:
            meter(town, T0 + h * H, 100.0 * h)
    before = set(town.aggregates("hour"))
    told = len(town.events)
    meter(town, T0 + late * H, 100.0 * late, received=T0 + 5 * H + 60.0)
    town.until(T0 + 5 * H + 60, T0 + 5 * H + 3000)
    revised = {a.start: a for e in town.events[told:] for a in e.aggregates if a.name == "hour"}
    around = {T0 + (late - 1) * H, T0 + late * H}
    assert set(revised) >= around
    assert {s for s, a in revised.items() if a.revision > 1} <= around and revised[T0 + late * H].revision == 2
    for start in around - {T0 - H}:
        used = {v.quantity: (v.value, v.capture) for v in revised[start].values}
        assert used["water_volume-used"] == (100.0, 100.0)
    assert before >= around - {T0 + (late - 1) * H}


@pytest.mark.parametrize("off", ["begin", "end"])
def test_a_use_is_exact_when_both_ends_were_read_on_the_second(tmp_path: Path, off: str) -> None:
    town = Town(tmp_path, WATER)
    for i in range(12):  # every half hour, one of them a minute early
        early = 60 if i == (4 if off == "begin" else 6) else 0
        meter(town, T0 + i * 1800 - early, 50.0 * i)
    captures = {a.start: {v.quantity: v.capture for v in a.values} for a in town.aggregates("hour").values()}
    assert captures[T0 + 2 * H]["water_volume-used"] == 50.0


@pytest.mark.parametrize("step", [300, 600, 1800, 3600, 5400])
@pytest.mark.parametrize("first", [0.0, 812_000.0, 812_340.0 + 40_000, 1_500_000.0])
def test_a_meter_that_is_swapped_makes_no_use_whatever_the_other_ones_register(
    tmp_path: Path, step: int, first: float
) -> None:
    town = Town(tmp_path, "[rules]\nsettle_s = 0\n", [Node(1, "n-1", b"", profile="water_meter", interval_s=step)])
    swap = T0 + 5 * H + 700
    register, last = 812_340.0, T0
    for t in range(T0 + step, T0 + 12 * H + 1, step):
        if last < swap <= t:
            register = first
        register, last = register + 10 * step / H, t
        meter(town, t, round(register, 1))
    town.until(T0 + 12 * H, T0 + 15 * H)
    used = town.values("hour", "water_volume-used")
    assert all(u is None or 0 <= u <= 11 for u in used.values()), used
    assert sum(u is not None for u in used.values()) >= (7 if step <= H else 3)
    assert town.refused.get("register_jump", 0) == (1 if first > 812_400 else 0)


def test_what_a_meter_can_pass_is_configured_and_a_districts_inflow_may_pass_more(tmp_path: Path) -> None:
    nodes = [
        Node(i, n, b"", profile="water_meter", interval_s=3600) for i, n in enumerate(("shaft", "wm-1", "works-1"), 1)
    ]
    rules = '[rules]\nsettle_s = 0\n[area.zone]\nkind = "balance"\ninflow = ["shaft"]\noutflow = ["wm-*", "works-*"]\n'
    for most, works in (("", None), ('[aggregates]\nmost_per_hour = { "works-*" = 40_000 }\n', 30_000.0)):
        town = Town(tmp_path, rules + most, nodes)
        for h in range(4):
            for name, flow in (("shaft", 300_000.0), ("wm-1", 10.0), ("works-1", 30_000.0)):
                town.row(name, T0 + h * H, water_volume=1000.0 + h * flow)
        found = {
            e.name: v.value for e in town.events for a in e.aggregates for v in a.values if v.quantity.endswith("-used")
        }
        assert found == {"shaft": 300_000.0, "wm-1": 10.0, "works-1": works}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_the_nights_least_flow_is_that_of_its_lowest_hour_in_local_time(tmp_path: Path, start: int) -> None:
    town = Town(tmp_path, WATER)
    volume, uses = 0.0, {}
    for i in range(72):
        t = start + i * H
        meter(town, t, volume)
        uses[t] = 5.0 + (i * 7) % 13
        volume += uses[t]
    night = town.values("night", "water_flow")
    assert len(night) >= 2
    for begin, least in night.items():
        here = [
            uses[t] for t in uses if begin <= t and local(t).date() == local(begin).date() and 2 <= local(t).hour < 4
        ]
        if local(begin) > local(start) + timedelta(hours=2):
            assert least == min(here) and local(begin).hour in (2, 3)


def test_what_a_household_used_is_personal_whatever_its_node_says(tmp_path: Path) -> None:
    town = Town(tmp_path, WATER, [Node(1, "n-1", b"", visibility="open"), Node(2, "aq", b"", visibility="open")])
    for h in range(3):
        meter(town, T0 + h * H, 10.0 * h)
        town.row("aq", T0 + h * H, o3=10)
    assert {(e.name, e.visibility) for e in town.events} == {("n-1", "personal"), ("aq", "open")}

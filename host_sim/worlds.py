"""What happens around each node: real series (data/, attribution there), shifted by whole days per node, or a seeded model.

Time of day is kept: virtual second 0 is midnight of some day of the data. Every world covers `hours` and six more.
"""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Callable
from pathlib import Path

from host_sim import chance
from host_sim.series import Point, Series

DATA = Path(__file__).resolve().parent / "data"
DAY = 86_400
MARGIN_S = 6 * 3600
World = dict[str, Series]


class WorldEnds(ValueError):
    """A series is shorter than the run."""


PARKING_CAPACITY = 1920  # "Shopping", UCI data set 482
FREE_S = 600  # a bay is free while its node is installed: the magnetometer learns the empty bay's field
BIN_EMPTY_MM, BIN_FULL_MM = 1000, 200


@functools.cache
def _columns(name: str) -> tuple[dict[str, float | None], ...]:
    with (DATA / name).open(newline="") as f:
        return tuple({k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(f))


def _window(name: str, column: str, seconds: float, *seed: object) -> list[Point]:
    """Points of a column from midnight of a day chosen by seed, time counted from there; missing values left out."""
    rows = _columns(name)
    first, last = rows[0]["t"] or 0, rows[-1]["t"] or 0
    midnight = math.ceil(first / DAY)
    days = int((last - seconds) // DAY) - midnight + 1
    if days < 1:
        most = (last - midnight * DAY - MARGIN_S) // 3600
        raise WorldEnds(
            f"{name} has {most:.0f} h from its first midnight on, hours and drain_hours are {(seconds - MARGIN_S) / 3600:.0f}"
        )
    start = (midnight + int(chance.uniform(*seed, name, "day") * days)) * DAY
    points = []
    for row in rows:
        t, v = row["t"], row[column]
        if t is not None and v is not None and start - 7200 <= t <= start + seconds + 7200:
            points.append((t - start, v))
    return points


def _stitched(name: str, column: str, seconds: float, *seed: object) -> list[Point]:
    """As _window for a series with closed days: consecutive days that have data, one after the other, from the start again."""
    days: dict[int, list[Point]] = {}
    for row in _columns(name):
        t, v = row["t"], row[column]
        if t is not None and v is not None:
            days.setdefault(int(t // DAY), []).append((t % DAY, v))
    chosen = sorted(days)
    first = int(chance.uniform(*seed, name, "day") * len(chosen))
    count = int(seconds // DAY) + 2
    return [(i * DAY + t, v) for i in range(count) for t, v in days[chosen[(first + i) % len(chosen)]]]


def _scaled(points: list[Point], factor: float, offset: float = 0.0) -> Series:
    return Series([(t, max(v * factor + offset, 0.0)) for t, v in points])


def weather(seconds: float, *seed: object) -> World:
    """Temperature, pressure (Beijing, hourly) and humidity (from temperature and dew point, Magnus formula)."""
    temp = _window("air_beijing.csv", "temp", seconds, *seed)
    dew = Series(_window("air_beijing.csv", "dewp", seconds, *seed))
    shade = 0.6 * chance.gauss(*seed, "shade")

    def magnus(c: float) -> float:
        return math.exp(17.62 * c / (243.12 + c))

    humid = [(t, min(100.0, 100 * magnus(dew.at(t)) / magnus(v))) for t, v in temp]
    return {
        "temperature": Series([(t, v + shade) for t, v in temp]),
        "humidity": Series(humid),
        "pressure": Series(_window("air_beijing.csv", "pres", seconds, *seed)),
        "battery_voltage": Series([(0.0, 3.9 + 0.2 * chance.uniform(*seed, "battery"))]),
        "tilt": Series([(0.0, 1.0 + 2 * chance.uniform(*seed, "tilt"))]),
    }


def air_quality(seconds: float, *seed: object) -> World:
    """Particles (Beijing, hourly). PM1 is not in the data: 0.7 of PM2.5, a usual urban ratio."""
    local = 0.85 + 0.3 * chance.uniform(*seed, "local")
    pm25 = _window("air_beijing.csv", "pm25", seconds, *seed)
    pm10 = _window("air_beijing.csv", "pm10", seconds, *seed)
    particles = {"pm1": _scaled(pm25, 0.7 * local), "pm25": _scaled(pm25, local), "pm10": _scaled(pm10, local)}
    return weather(seconds, *seed) | particles


def noise(seconds: float, *seed: object) -> World:
    """Seeded street noise (DECISIONS.md "noise"): diurnal background, slow wander, single vehicles; a point every 10 s."""
    rng = chance.stream(*seed, "noise")
    quiet = 42 + 6 * chance.uniform(*seed, "street")
    wander, points, passing = 0.0, [], 0.0
    for i in range(int(seconds // 10) + 1):
        hour = i * 10 / 3600 % 24
        traffic = max(0.05, 0.5 - 0.5 * math.cos(2 * math.pi * (hour - 3) / 24) + 0.25 * math.exp(-((hour - 8) ** 2)))
        wander = 0.97 * wander + rng.gauss(0, 0.5)
        passing *= 0.45
        if rng.random() < 0.25 * traffic:
            passing = max(passing, rng.uniform(6, 17))
        points.append((i * 10.0, quiet + 16 * traffic + wander + passing))
    return weather(seconds, *seed) | {"laeq": Series(points)}


def water_meter(seconds: float, *seed: object) -> World:
    """A building of 12 to 30 flats: the Naples flat on as many different days, summed; one pulse per litre."""
    flats = 12 + int(19 * chance.uniform(*seed, "flats"))
    start = 1000 + int(chance.uniform(*seed, "index") * 90_000)
    curves = []
    for flat in range(flats):
        points = _window("water_naples.csv", "volume_l", seconds, *seed, flat)
        base = Series(points).at(0.0)
        curves.append({t: v - base for t, v in points if t >= 0})
    times = sorted(set.intersection(*(set(c) for c in curves)))
    total = [(t, sum(c[t] for c in curves)) for t in times]
    flow = [(t0, (v1 - v0) / (t1 - t0) * 3600) for (t0, v0), (t1, v1) in zip(total, total[1:], strict=False)]
    return weather(seconds, *seed) | {
        "water_pulses": Series([(t, start + v) for t, v in total]),
        "water_flow": Series(flow, linear=False),
    }


def parking(seconds: float, *seed: object) -> World:
    """One bay of the Birmingham car park (DECISIONS.md "parking"): occupied with the probability its occupancy gives."""
    taken = _stitched("parking_birmingham.csv", "occupancy", seconds, *seed)
    curve = Series([(t, min(0.98, max(0.02, v / PARKING_CAPACITY))) for t, v in taken])
    rng = chance.stream(*seed, "bay")
    t, occupied = float(FREE_S), False
    events: list[Point] = [(0.0, 0.0)]
    stay = 5400 * math.exp(0.4 * chance.gauss(*seed, "stay"))
    while t < seconds:
        p = curve.at(t)
        mean = stay if occupied else stay * (1 - p) / p
        if rng.random() < 1 - math.exp(-60 / mean):  # a minute at a time: the rates change through the day
            occupied = not occupied
            events.append((round(t + 60 * rng.random(), 1), float(occupied)))
        t += 60
    return weather(seconds, *seed) | {"occupied": Series(events, linear=False)}


def bin_fill(seconds: float, *seed: object) -> World:
    """A litter bin of Edinburgh: fills evenly up to the level found at each collection, then starts from what was left."""
    rows = _columns("bin_edinburgh.csv")
    bins = sorted({row["bin"] for row in rows}, key=str)
    mine = [r for r in rows if r["bin"] == bins[int(chance.uniform(*seed, "bin") * len(bins))]]
    first, last = mine[0]["t"] or 0, mine[-1]["t"] or 0
    start = (
        math.ceil(first / DAY) * DAY + int(chance.uniform(*seed, "day") * max(1, (last - first - seconds) // DAY)) * DAY
    )
    points: list[Point] = []
    for row in mine:
        t = (row["t"] or 0) - start
        for at, fill in ((t, row["fill_before"] or 0), (t + 60, row["fill_after"] or 0)):
            points.append((at, BIN_EMPTY_MM - (BIN_EMPTY_MM - BIN_FULL_MM) * fill / 100))
    return weather(seconds, *seed) | {"distance": Series(points)}


WORLDS: dict[str, Callable[..., World]] = {
    "air_quality": air_quality,
    "noise": noise,
    "water_meter": water_meter,
    "parking": parking,
    "bin_fill": bin_fill,
}


def build(profile: str, hours: float, seed: int, node: str) -> World:
    """The world of one node: its profile's series over `hours` and MARGIN_S more. KeyError for an unknown profile; WorldEnds."""
    return WORLDS[profile](hours * 3600 + MARGIN_S, seed, node)

"""Rules and aggregates in the pipeline: in the frame's transaction or not at all; and every payload as its schema says."""

from __future__ import annotations

import asyncio
import json
import random
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gateway.core.city import CACHE, City
from gateway.core.model import Node
from gateway.followers import build
from gateway.notebook import Notebook
from gateway.outputs import FORMATS
from gateway.outputs.message import Message
from gateway.schemas import schema
from gateway.store.engine import Write
from gateway.store.memory import MemoryEngine
from gateway.store.sqlite import SqliteEngine
from tests.gateway.test_pipeline import World
from tests.gateway.town import NO_DEFAULTS, T0, H, Town, config
from tests.gateway.world import T0 as W0

HOT = '[rule.hot]\nquantity = "temperature"\nabove = 35\n'
NODES = [Node(263, "n-263", b"", interval_s=600)]


def row(celsius: float) -> list[list[int]]:
    return [[3, 5, 5, round(celsius * 10), 631, 121]]


def world(tmp_path: Path, text: str = NO_DEFAULTS + HOT, engine: Any = None) -> World:
    followers = build(config(tmp_path, text, NODES), {263: NODES[0]})
    return World(followers=followers, **({"engine": engine} if engine is not None else {}))


async def test_an_alarm_is_committed_with_the_frame_that_raised_it_or_not_at_all(tmp_path: Path) -> None:
    w = world(tmp_path)
    hot = w.mote.report(W0, row(40))
    w.engine.failing = True
    await w.take(hot)
    assert w.ids() == [] and w.engine.notes("city:") == {}
    w.engine.failing = False
    w.clock.time += 20
    await asyncio.sleep(0)
    transactions = w.engine.transactions
    await w.take(hot)
    assert w.ids() == ["263:0:1", "263:0:1:city:hot"], "raised again, although it had been raised in memory before"
    assert w.engine.transactions == transactions + 1 and w.engine.note("city:263") is not None
    w.clock.time += 20
    await w.take(hot)
    assert len(w.ids()) == 2, "a repeat raises nothing"


async def test_a_frame_that_fails_takes_nothing_of_what_is_counted_along(tmp_path: Path) -> None:
    """The failed hour must not count twice: same rows, same mean, with and without failures in between."""
    text = NO_DEFAULTS + '[aggregates]\nmean = ["temperature"]\n'
    told = []
    for failures in (set(), {1, 4, 5}):
        w = world(tmp_path, text)
        for i in range(8):
            frame = w.mote.report(W0 + 600 * (i + 1), row(10 + i), interval=600)
            w.clock.time = W0 + 600 * (i + 1) + 5
            if i in failures:
                w.engine.failing = True
                await w.take(frame)
                w.engine.failing = False
                w.clock.time += 20
                await asyncio.sleep(0)
            await w.take(frame)
        found = [a for e in w.engine.fetch(0, 1000) for a in e.event.aggregates if a.name == "hour"]
        told.append([(a.start, a.revision, a.values) for a in found])
    assert told[0] == told[1] and [v.value for v in told[0][0][2]] == [12.5]


async def test_a_pipeline_on_the_real_store_goes_on_after_a_restart(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "gateway.db", ["city"])
    w = world(tmp_path, NO_DEFAULTS + HOT + '[aggregates]\nmean = ["temperature"]\n', engine)
    for i in range(3):
        w.clock.time = W0 + 600 * (i + 1) + 5
        await w.take(w.mote.report(W0 + 600 * (i + 1), row(40)))
    engine.close()
    engine = SqliteEngine(tmp_path / "gateway.db", ["city"])
    again = world(tmp_path, NO_DEFAULTS + HOT + '[aggregates]\nmean = ["temperature"]\n', engine)
    again.mote = w.mote
    again.nodes[263] = w.nodes[263]
    again.pipeline = again.start()
    for i in range(3, 7):
        again.clock.time = W0 + 600 * (i + 1) + 5
        await again.take(w.mote.report(W0 + 600 * (i + 1), row(40 if i < 5 else 20)))
    events = [e.event for e in engine.fetch(0, 100)]
    assert [e.alarm.state for e in events if e.alarm] == ["raised", "cleared"]
    (hour,) = [a for e in events for a in e.aggregates]
    assert hour.values[0].value == pytest.approx((5 * 40 + 20) / 6, abs=0.05) and hour.values[0].capture == 100
    engine.close()


async def test_notes_under_way_are_seen_before_they_are_committed_and_gone_when_they_fail() -> None:
    engine = MemoryEngine()
    book = Notebook(engine)
    view = book.of("a")
    await engine.commit([Write(0, None, notes={"a:1": b"old", "b:1": b"other"})])
    one, two = {"a:1": b"x" * 2, "a:2": b"new"}, {"a:1": b"y" * 2, "a:2": None}
    book.add(one)
    book.add(two)
    assert dict(view) == {"a:1": b"yy"} and view.get("a:2") is None and len(view) == 1
    await engine.commit([Write(0, None, notes=one)])
    book.committed(one)
    assert view["a:1"] == b"yy" and view.get("a:2") is None, "the newer one still waits"
    book.forget()
    assert dict(view) == {"a:1": b"xx", "a:2": b"new"}


def test_more_nodes_than_the_cache_holds_lose_nothing(tmp_path: Path) -> None:
    nodes = [Node(i, f"n-{i}", b"", interval_s=600) for i in range(1, CACHE + 200)]
    town = Town(tmp_path, NO_DEFAULTS + '[aggregates]\nmean = ["temperature"]\n', nodes)
    for k in range(1, 8):
        for i, name in enumerate(town.nodes):
            town.row(name, T0 + 600 * k, temperature=i % 50)
    assert len(town.city._states) == CACHE
    hours = [(e.name, e.aggregates[0].values[0].value) for e in town.events]
    assert hours == [(name, i % 50) for i, name in enumerate(town.nodes)]


def test_a_tick_looks_at_a_bounded_number_and_gets_round_to_all(tmp_path: Path) -> None:
    nodes = [Node(i, f"n-{i}", b"", interval_s=600) for i in range(1, 1501)]
    town = Town(tmp_path, NO_DEFAULTS + '[aggregates]\nmean = ["temperature"]\n', nodes)
    for name in town.nodes:
        town.send(name, [T0 + 600 * i for i in range(1, 6)], {"temperature": [7] * 5})
    most = 0
    now = T0 + 3001.0
    while now < T0 + 3 * H:
        most = max(most, len(town.tick(now)))
        now += 10
    assert len(town.events) == 1500 and most <= 200


SCHEMA_OF = {"agg": "aggregate", "lot": "area-lot", "balance": "area-balance", "alert": "alert", "event": "event"}


def check(messages: list[Message]) -> set[str]:
    seen = set()
    for m in messages:
        levels = m.topic.removeprefix("city/v1/").split("/")
        name = SCHEMA_OF[levels[2]]
        assert all(1 <= len(level) <= 32 for level in m.topic.split("/"))
        if m.payload:
            jsonschema.Draft202012Validator(schema(name)).validate(json.loads(m.payload))
            seen.add(name)
    return seen


def test_everything_that_follows_is_as_its_schema_says(tmp_path: Path) -> None:
    nodes = [
        Node(1, "n-1", b"", profile="air_quality", interval_s=600), Node(2, "noise-1", b"", profile="noise", interval_s=600),
        Node(3, "wm-1", b"", profile="water_meter", interval_s=3600), Node(4, "shaft", b"", interval_s=3600),
        Node(5, "bay-1", b"", profile="parking", interval_s=600), Node(6, "gate-1", b"", interval_s=600),
    ]  # fmt: skip
    text = """
[area.noise-zone-1]
nodes = ["noise-*"]
[area.lot-1]
kind = "lot"
nodes = ["bay-*"]
[area.lot-2]
kind = "gate-lot"
entries = ["gate-1:count"]
exits = ["gate-1:count-1"]
capacity = 4
reset_hour = 4
[area.zone]
kind = "balance"
inflow = ["shaft"]
outflow = ["wm-*"]
[rule.loss]
quantity = "balance"
aggregate = "balance"
area = "zone"
above = 1
[rule.full]
quantity = "free"
aggregate = "lot"
area = "lot-2"
below = 1
[rule.fast]
quantity = "distance"
rise_per_min = 1
"""
    town = Town(tmp_path, text, nodes)
    dice = random.Random(5)
    for i in range(1, 3 * 144):
        t = T0 + 600 * i
        if i % 40:
            air = {
                "pm10": dice.randrange(40, 90),
                "pm25": 30,
                "no2": dice.randrange(100, 260),
                "o3": dice.randrange(100, 260),
            }
            town.row("n-1", t, temperature=20.5, distance=(i % 10) * 30, **air)
        town.row("noise-1", t, laeq=dice.randrange(500, 800) / 10)
        if i % 6 == 0:
            town.row("wm-1", t, water_volume=float(i))
            town.row("shaft", t, water_volume=float(2 * i))
        town.row("bay-1", t, occupied=dice.randrange(2))
        town.send("gate-1", [t], {"count": [dice.randrange(3)], "count-1": [dice.randrange(3)]})
        town.tick(t + 10)
    town.send("n-1", [T0 + 600 * 40], {"pm10": [400], "o3": [300]}, received=T0 + 600 * 3 * 144)
    town.follow(town.event("wm-1", T0 + 600 * 433, "status", status={"battery_voltage": 310, "sensor_faults": [14]}))
    town.tick(T0 + 600 * 433 + 1000)
    messages = [m for e in town.events for m in FORMATS["native"](e, "city")]
    assert check(messages) == set(SCHEMA_OF.values())
    aggregates = {a.name for e in town.events for a in e.aggregates}
    assert aggregates == {"hour", "8h", "day", "day-max8h", "noise", "night", "index"}
    assert any(m.topic.endswith("/revised") and not m.retain for m in messages)
    retained = {m.topic for m in messages if m.retain}
    assert retained >= {
        "city/v1/area/zone/alert/loss",
        "city/v1/area/lot-2/alert/full",
        "city/v1/node/noise-1/alert/noise-zone-1-lden",
    }
    assert len({e.id for e in town.events}) == len(town.events), "every event has an id of its own"
    assert isinstance(town.city, City)


def test_what_follows_from_a_frame_of_ten_readings_costs_little(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All shipped rules and aggregates, more nodes than are cached. 0.3 ms is the bound; `pytest -s -k costs_little` prints what it is."""
    nodes = [Node(i, f"n-{i}", b"", profile="air_quality", interval_s=600) for i in range(1, CACHE + 1001)]
    town = Town(tmp_path, "", nodes)
    keys = (
        "pm1",
        "pm25",
        "pm10",
        "no2",
        "o3",
        "temperature",
        "humidity",
        "pressure",
        "battery_voltage",
        "particle_count",
    )
    spent, frames = 0.0, 0
    for k in range(1, 8):  # an hour ends within
        t = T0 + 600 * k
        reports = [town.report(n, [t], {key: [10 + (k * i) % 7] for i, key in enumerate(keys)}) for n in town.nodes]
        begun = time.process_time()
        for report in reports:
            town.follow(report)
        spent, frames = spent + time.process_time() - begun, frames + len(reports)
    noted = sum(map(len, town.store.values())) / len(nodes)
    with capsys.disabled():
        print(f"\n{1e6 * spent / frames:.0f} us per frame, {noted:.0f} bytes of notes per node")
    assert spent / frames < 0.0003

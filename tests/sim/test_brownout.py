"""A sinking supply resets the board, and what it was writing then is torn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_sim import provision, worlds
from host_sim.brownout import PAUSE_S, brownouts, merged, with_supply
from host_sim.node import PowerCut
from host_sim.protocol import NEVER, PWRON
from host_sim.scenario import load
from host_sim.series import Series

from .conftest import plan


def test_the_power_is_away_from_the_lower_level_to_the_upper():
    volts = Series([(0, 4.0), (100, 3.0), (200, 2.0), (300, 3.0), (400, 4.0)])
    assert brownouts(volts, 2.5, 3.5) == [PowerCut(150_000_000, 350_000_000)]
    assert brownouts(volts, 1.9, 2.0) == []
    assert brownouts(Series([(0, 2.0), (10, 4.0), (20, 2.0)]), 2.5, 3.0) == [
        PowerCut(0, 5_000_000),
        PowerCut(17_500_000, NEVER),
    ]
    with pytest.raises(ValueError, match="below"):
        brownouts(volts, 2.5, 2.4)


def test_a_supply_that_steps_goes_and_comes_with_its_steps():
    volts = Series([(0, 4.0), (10, 2.0), (20, 2.9), (30, 3.1), (40, 4.0)], linear=False)
    assert brownouts(volts, 2.5, 3.0) == [PowerCut(10_000_000, 30_000_000)]


@given(
    st.lists(st.tuples(st.floats(1, 100), st.floats(2, 4.2)), min_size=1, max_size=20),
    st.booleans(),
    st.floats(2.1, 3.5),
    st.floats(0, 0.5),
)
def test_while_it_runs_the_voltage_is_never_too_low(steps, linear, below, margin):
    t, points = 0.0, []
    for dt, v in steps:
        points.append((t, v))
        t += dt
    volts = Series(points, linear)
    cuts = brownouts(volts, below, below + margin)
    for i in range(400):
        at = t * i / 400
        inside = any(c.at <= at * 1e6 < c.back for c in cuts)
        v = volts.at(at)
        near = any(abs(at * 1e6 - e) < 10 for c in cuts for e in (c.at, c.back))
        assert near or v >= below or inside, (at, v)
        assert near or v < below + margin + 1e-9 or not inside, (at, v)


def test_overlapping_cuts_become_one():
    cuts = [PowerCut(30, 40), PowerCut(0, 10), PowerCut(10, 20), PowerCut(32, 34)]
    assert merged(cuts) == (PowerCut(0, 20), PowerCut(30, 40))


def test_a_node_resets_when_its_battery_sinks_and_comes_back_with_it(play, monkeypatch: pytest.MonkeyPatch):
    def world(seconds: float, *seed: object) -> worlds.World:
        volts = [(0.0, 4.0), (3600.0, 2.8), (3660.0, 2.0), (5400.0, 2.0), (5460.0, 3.0)]
        return worlds.weather(seconds, *seed) | {"battery_voltage": Series([(float(t), v) for t, v in volts])}

    monkeypatch.setitem(worlds.WORLDS, "air_quality", world)
    played = play(plan(group=[{"name": "aq", "profile": "air_quality", "count": 1}]), hours=2)
    node = played.fleet.nodes[0]
    assert node.stats.boots == 2 and node.stats.cuts == 1
    boots = [e for e in played.events if e["event"] == "boot"]
    assert [b["cause"] for b in boots] == [PWRON, PWRON], "the port tells a brown-out as a power-on"
    cut = next(e for e in played.events if e["event"] == "power_cut")
    assert cut["t"] == 3_600_000_000 and boots[1]["t"] == 5_454_000_000


def test_a_low_supply_is_no_time_to_sample_in(tmp_path):
    """The board refuses to write flash below 3.3 V: a node sleeps then, and that it takes no rows is no fault of the run."""
    volts = Series([(0.0, 3.9), (36_000.0, 3.0), (72_000.0, 3.9)])
    member = provision.nodes(load("lossy"), hours=24, count=None, seed=1, folder=tmp_path)[0]
    limits = {"brownout_mv": 2800, "flash_write_min_mv": 3300}
    spec = with_supply(
        replace(member.spec, cuts=(PowerCut(80_000_000_000, 81_000_000_000),)), {"battery_voltage": volts}, limits
    )
    supervisor = (Path(__file__).parents[2] / "firmware" / "mote" / "supervisor.py").read_text()
    assert f"_LOW_SUPPLY_MS = const({PAUSE_S * 1000})" in supervisor
    day = 86_400_000_000
    assert spec.powered_us(day) == day - spec.power_on - 1_000_000_000
    away = (36_000 - 24_000) + (52_000 - 36_000) + 600  # 3.3 V downwards, 3.4 V upwards, and the pause
    assert abs(spec.working_us(day) - (spec.powered_us(day) - away * 1_000_000)) < 1_000_000

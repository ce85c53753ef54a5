"""The whole: firmware on the real VM, real gateway, real broker. Nothing lost, nothing twice, the same again, and true."""

from __future__ import annotations

from dataclasses import replace

import pytest

from host_sim import probe, runner, worlds
from host_sim.scenario import CutSpec, LossSpec, Scenario, load
from host_sim.truth import Truth


def rough(scenario: Scenario) -> Scenario:
    """The district with its troubles moved into the first three hours."""
    cuts = (CutSpec(("aq-02", "water-03", "aqw-01", "bin-01"), 0.8, 25.0), CutSpec(("bay-01",), 1.5, 2.0))
    return replace(scenario, cuts=cuts, losses=(LossSpec(1.2, 2.2, 0.4),))


@pytest.fixture
def truth(monkeypatch) -> list[Truth]:
    """The books of every run of the test."""
    made: list[Truth] = []

    class Kept(Truth):
        def __init__(self, end: int) -> None:
            super().__init__(end)
            made.append(self)

    monkeypatch.setattr(probe, "Truth", Kept)
    return made


@pytest.mark.slow
def test_through_power_cuts_and_loss_every_reading_arrives_once_and_two_runs_agree(truth):
    one = runner.run(rough(load("district")), hours=3, seed=4)
    assert one.sampled > 2000
    assert (one.lost, one.duplicates, one.unaccounted, one.at_repl) == (0, 0, 0, []), one.lost_examples
    assert one.power_cuts == 5 and one.boots == one.nodes + 5 and one.lossy > 5
    assert one.duty_violations == [] and one.wifi_unanswered == 0
    assert truth[0].clashes == []
    two = runner.run(rough(load("district")), hours=3, seed=4)
    assert two.result_hash == one.result_hash
    assert truth[0].readings == truth[1].readings


@pytest.mark.slow
def test_what_arrives_is_what_the_world_was(truth):
    district = load("district")
    result = runner.run(district, hours=3, seed=2)
    assert result.lost == 0
    start = int(district.head.start.timestamp())
    profiles = {name: g.profile for g, name in district.members()}
    made = {n: worlds.build(p, 3 + district.head.drain_hours, 2, n) for n, p in profiles.items()}
    seen: dict[str, int] = {}
    first_volume: dict[str, tuple[int, int]] = {}
    for (node, quantity, unix), raw in sorted(truth[0].readings.items(), key=lambda r: r[0][2]):
        t = unix - start
        world = made[node]
        seen[quantity] = seen.get(quantity, 0) + 1
        if quantity in ("temperature", "humidity"):
            assert raw / 10 == pytest.approx(world[quantity].at(t - 150), abs=1.5), (node, quantity, t)
        elif quantity == "pressure":
            assert (raw + 10_000) / 10 == pytest.approx(world[quantity].at(t - 150), abs=1.0), (node, t)
        elif quantity in ("pm1", "pm25", "pm10"):
            assert raw == pytest.approx(world[quantity].at(t - 150), rel=0.03, abs=2), (node, quantity, t)
        elif quantity == "laeq":
            near = [world["laeq"].at(t + d) for d in (-20, -15, -10, -5, 0, 5)]
            assert min(near) - 1.5 < raw / 10 < max(near) + 1.5, (node, t, near)
        elif quantity == "distance":
            assert raw == pytest.approx(world["distance"].at(t - 5), abs=30), (node, t)
        elif quantity == "tilt":
            assert raw == pytest.approx(world["tilt"].at(t), abs=2), (node, t)
        elif quantity == "water_volume":
            pulses = int(world["water_pulses"].at(t))
            raw0, pulses0 = first_volume.setdefault(node, (raw, pulses))
            assert raw - raw0 == pytest.approx(10 * (pulses - pulses0), abs=10), (node, t)
        elif quantity == "occupied":
            around = {world["occupied"].at(t + d) for d in range(-90, 30, 5)}
            assert float(raw) in around, (node, t)
    assert {"temperature", "pm10", "laeq", "distance", "tilt", "water_volume", "occupied", "fill_level"} <= set(seen)

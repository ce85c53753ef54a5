"""Worlds: real series and models are what they claim, and the VM reads them as written."""

from __future__ import annotations

import pytest

from host_sim import series, worlds
from host_sim.series import Series
from host_sim.vm.run import run_vm

DAY = 86_400


@pytest.mark.parametrize("profile", worlds.WORLDS)
def test_a_world_covers_the_day_and_repeats_with_its_seed(profile):
    world = worlds.build(profile, 24, 1, "n-01")
    for name, s in world.items():
        times = [t for t, _ in s.points]
        assert times == sorted(times), name
        assert times[0] <= 3600 and (len(times) == 1 or times[-1] >= DAY), name
    assert world == worlds.build(profile, 24, 1, "n-01")
    assert world != worlds.build(profile, 24, 1, "n-02")
    assert world != worlds.build(profile, 24, 2, "n-01")


def test_values_are_physically_possible():
    limits = {
        "temperature": (-40, 60),
        "humidity": (0, 100),
        "pressure": (900, 1100),
        "pm25": (0, 1000),
        "laeq": (30, 100),
        "distance": (150, 1050),
        "water_flow": (0, 20_000),
        "occupied": (0, 1),
    }
    for profile in worlds.WORLDS:
        for i in range(8):
            for name, s in worlds.build(profile, 24, 7, f"n-{i}").items():
                low, high = limits.get(name, (-1e9, 1e9))
                assert all(low <= v <= high for _, v in s.points), (profile, name)


def test_water_only_ever_runs_forward():
    for i in range(10):
        values = [v for _, v in worlds.build("water_meter", 48, 3, f"n-{i}")["water_pulses"].points]
        assert values == sorted(values) and values[-1] - values[0] > 100


def test_bays_are_as_full_as_the_car_park_they_come_from():
    shares = {10: [], 13: []}
    for i in range(300):
        occupied = worlds.build("parking", 24, 5, f"bay-{i}")["occupied"]
        for hour, found in shares.items():
            found.append(occupied.at(hour * 3600.0))
    # Birmingham "Shopping": about 55 % at ten, 72 % at one; a bay follows within the hour
    assert 0.35 < sum(shares[10]) / 300 < 0.7
    assert 0.55 < sum(shares[13]) / 300 < 0.85


def test_street_noise_has_a_night_a_day_and_vehicles():
    points = worlds.build("noise", 24, 1, "n-01")["laeq"].points
    night = sorted(v for t, v in points if 2 * 3600 <= t < 4 * 3600)
    day = sorted(v for t, v in points if 15 * 3600 <= t < 17 * 3600)
    assert day[len(day) // 2] - night[len(night) // 2] > 8
    assert day[len(day) * 9 // 10] - day[len(day) // 10] > 5  # L10 - L90


def test_a_scenario_longer_than_the_data_is_refused():
    with pytest.raises(ValueError, match="air_beijing.csv has 496 h"):
        worlds.build("air_quality", 24 * 60, 1, "n")


def test_the_vm_reads_a_world_as_it_was_written(tmp_path):
    world = {
        "laeq": Series([(10.0 * i, 50 + (i * 37 % 23) / 7) for i in range(1000)]),
        "occupied": Series([(0.0, 0.0), (100.5, 1.0), (4000.0, 0.0)], linear=False),
        "tilt": Series([(0.0, 2.5)]),
    }
    series.write(tmp_path / "world.bin", world)
    times = [0, 5, 100.4, 100.5, 333.3, 9989, 9990, 20_000, 50, 7777.7]
    script = f"""
import sim_clock, sim
for t in {times}:
    sim_clock.now = int(t * 1000000)
    print(*[repr(sim.sense(n)) for n in ("laeq", "occupied", "tilt")])
"""
    done = run_vm(script, world=str(tmp_path / "world.bin"))
    assert done.code == 0, done.out
    for t, line in zip(times, done.out.splitlines(), strict=True):
        got = [float(v) for v in line.split()]
        assert got == pytest.approx([world[n].at(t) for n in ("laeq", "occupied", "tilt")], abs=1e-9), t

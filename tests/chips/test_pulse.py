"""The line of a pulse meter as a function of time: what a sampling counter sees, replayed at any pace."""

from __future__ import annotations

import itertools
import random

import pytest

from host_sim.chips.pulse import BOUNCE_US, BOUNCES, PulseChip

from .world import World

HOUR = 3_600_000_000


def meter(rate_us: float = 1e6, fault: str | None = None) -> PulseChip:
    world = World(water_pulses=lambda t: 5 + t / rate_us)
    chip = PulseChip(world.sense, world.now_us)
    chip.fault = fault
    return chip


def edges(chip: PulseChip, start: int, end: int) -> list[int]:
    found, t = [], start
    while (e := chip.next_edge(t, end)) is not None:
        found.append(e)
        t = e
    return found


def test_the_line_is_high_in_the_first_half_of_each_pulse():
    chip = meter()
    assert [chip.level(t) for t in (0, 499_999, 500_000, 999_999, 1_000_000)] == [1, 1, 0, 0, 1]
    assert edges(meter(), 0, 3_000_000) == [500_000, 1_000_000, 1_500_000, 2_000_000, 2_500_000, 3_000_000]


def test_rising_edges_are_the_count():
    world = World(water_pulses=lambda t: (t / HOUR) ** 2 * 2000)
    chip = PulseChip(world.sense, world.now_us)
    found = edges(chip, 0, 3 * HOUR)
    rising = [e for e in found if chip.level(e) == 1]
    world.us = 3 * HOUR
    assert len(rising) == int(world.sense("water_pulses"))


@pytest.mark.parametrize("fault", [None, "bounce"])
def test_a_replay_in_pieces_sees_what_one_look_sees(fault: str | None):
    whole = edges(meter(700_000, fault), 0, 60_000_000)
    rng = random.Random(7)
    cuts = sorted({0, 60_000_000, *(rng.randrange(60_000_000) for _ in range(40))})
    one, pieces = meter(700_000, fault), []
    for start, end in itertools.pairwise(cuts):
        pieces += edges(one, start, end)
    assert pieces == whole
    levels = [meter(700_000, fault).level(t) for t in range(0, 60_000_000, 33_000)]
    walker = meter(700_000, fault)
    assert levels == [walker.level(t) for t in range(0, 60_000_000, 33_000)]


def test_level_and_edges_agree():
    for fault in (None, "bounce"):
        chip, looker = meter(900_000, fault), meter(900_000, fault)
        for e in edges(chip, 0, 20_000_000):
            assert looker.level(e - 1) != looker.level(e), (fault, e)


def test_a_worn_reed_bounces_at_every_edge_and_settles():
    clean, worn = edges(meter(), 0, 30_000_000), edges(meter(1e6, "bounce"), 0, 30_000_000)
    assert len(worn) > 6 * len(clean)
    chip = meter(1e6, "bounce")
    for e in clean:
        assert chip.level(e + BOUNCES * BOUNCE_US) == meter().level(e)
    assert 5_000 < max(b - a for a, b in itertools.pairwise(worn) if b - a < 100_000) * BOUNCES < 15_000


def test_a_cut_cable_and_a_meter_at_rest_have_no_edges():
    for chip in (meter(1e6, "silent"), meter(1e6, "stuck"), meter(1e18)):
        assert edges(chip, 0, HOUR) == []

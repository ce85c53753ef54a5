"""The microphone model: its A-weighted level, judged by a float filter bank (a discrete Fourier transform) here."""

import cmath
import math
from array import array

import pytest

from host_sim.chips import inmp441
from host_sim.chips.inmp441 import INMP441Chip

from .world import DATA, World


def listen(chip, frames=2400, start_us=1_000_000):
    buf = bytearray(4 * frames)
    chip.fill(buf, frames, start_us, 48000)
    return array("i", bytes(buf))


def level(words):
    """A-weighted level of one 50 ms period by the tones' own powers, dB(A)."""
    n = len(words)
    x = [w >> 8 for w in words]
    power = 0.0
    for f, _ in inmp441.SPECTRUM:
        k = f * n // 48000
        step = cmath.exp(-2j * math.pi * k / n)
        s, r = 0j, 1 + 0j
        for v in x:
            s += v * r
            r *= step
        power += 2 * abs(s / n) ** 2 * 10 ** (inmp441.a_weighting(f) / 10)
    return 10 * math.log10(power / (8388607**2 / 2)) + 120


@pytest.mark.parametrize("db", [35.0, 60.0, 100.0])
def test_level_is_the_sensed_one_plus_self_noise(db, monkeypatch):
    monkeypatch.setattr(inmp441, "STEPS", (0.0,) * 9)
    inmp441._shared.clear()
    try:
        world = World(laeq=db)
        chip = INMP441Chip(world.sense, lambda: -1_000_000)
        want = 10 * math.log10(10 ** (db / 10) + 10**3.3)
        assert level(listen(chip)) == pytest.approx(want, abs=0.05)
    finally:
        inmp441._shared.clear()


def test_a_weighting_is_the_standards():
    for line in (DATA / "a_weighting.csv").read_text().splitlines()[1:]:
        nominal, a = (float(c) for c in line.split(",")[:2])
        exact = 1000 * 10 ** (round(10 * math.log10(nominal / 1000)) / 10)
        assert inmp441.a_weighting(exact) == pytest.approx(a, abs=0.06)


def test_words_are_24_bits_left_justified():
    world = World()
    words = listen(INMP441Chip(world.sense, lambda: -1_000_000))
    assert all(w & 255 == 0 for w in words)
    assert sum(words) / len(words) / 256 == pytest.approx(inmp441.DC, abs=50)


def test_signal_goes_on_where_the_last_block_ended():
    world = World()
    chip = INMP441Chip(world.sense, lambda: -1_000_000)
    whole = listen(chip, 2400)
    parts = array("i")
    for i in range(5):
        parts += listen(chip, 480, 1_000_000 + i * 10_000)
    assert parts == whole


def test_start_up_is_silent():
    world = World()
    chip = INMP441Chip(world.sense, world.now_us)  # power on at 1 s
    words = listen(chip, 48 * 120, 1_000_000)
    assert not any(words[: 48 * 85])
    assert any(words[48 * 112 :])


def test_faults():
    world = World()
    chip = INMP441Chip(world.sense, lambda: -1_000_000)
    chip.fault = "silent"
    assert not any(listen(chip, 100))
    chip.fault = "stuck"
    assert set(listen(chip, 100)) == {8388607 << 8}
    chip.fault = "clipped"
    assert max(listen(chip)) == 8388607 << 8 and min(listen(chip)) == -8388608 << 8


def test_other_rates_are_refused():
    world = World()
    with pytest.raises(ValueError):
        INMP441Chip(world.sense, world.now_us).fill(bytearray(4), 1, 0, 16000)

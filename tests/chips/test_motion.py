"""Magnetometer, accelerometer, hygrometer, meter: registers, samples, faults."""

import math

import pytest

from host_sim.chips.lis3dh import LIS3DHChip
from host_sim.chips.pulse import PulseChip
from host_sim.chips.qmc5883l import QMC5883LChip
from host_sim.chips.sht4x import SHT4xChip, crc8

from .world import VECTORS, World


def get(chip, register, n=1):
    chip.write(bytes((register,)))
    return chip.read(n)


def field(chip):
    r = get(chip, 0, 7)
    return [int.from_bytes(r[i : i + 2], "little", signed=True) / 120 for i in (0, 2, 4)], r[6]  # uT at 2 G


def test_qmc_has_data_ready_once_per_sample():
    world = World()
    chip = QMC5883LChip(world.sense, world.now_us)
    assert get(chip, 0x0D) == b"\xff"
    assert field(chip)[1] == 0  # standby
    chip.write(b"\x09\x01")
    assert field(chip)[1] & 1 == 0
    world.wait_ms(101)
    xyz, status = field(chip)
    assert status == 1
    assert math.hypot(*xyz) == pytest.approx(48.3, abs=0.6)
    assert field(chip)[1] & 1 == 0
    world.wait_ms(350)
    assert field(chip)[1] == 5  # new, and some were missed


def test_qmc_car_arrives_with_a_transient_and_stays():
    world = World()
    chip = QMC5883LChip(world.sense, world.now_us)
    chip.write(b"\x09\x01")
    world.wait_ms(1000)
    empty = field(chip)[0]
    world.values["occupied"] = 1
    seen = []
    for _ in range(80):
        world.wait_ms(100)
        xyz = field(chip)[0]
        seen.append([a - b for a, b in zip(xyz, empty, strict=True)])
    assert min(d[0] for d in seen) < -2 < 14 < max(d[0] for d in seen)  # the engine block has the other sign on x
    assert seen[-1] == pytest.approx([15, -9, 26], abs=1)


@pytest.mark.parametrize("fault", ["stuck", "overflow", "wrong_chip"])
def test_qmc_faults(fault):
    world = World()
    chip = QMC5883LChip(world.sense, world.now_us)
    chip.write(b"\x09\x01")
    chip.fault = fault
    world.wait_ms(500)
    status = field(chip)[1]
    assert {"stuck": status == 0, "overflow": status & 2, "wrong_chip": get(chip, 0x0D) == b"\x00"}[fault]


@pytest.mark.parametrize("tilt", [0, 30, 90, 150])
def test_lis_measures_gravity_when_awake(tilt):
    world = World(tilt=tilt)
    chip = LIS3DHChip(world.sense, world.now_us)
    chip.write(b"\x23\x88")
    world.wait_ms(50)
    assert get(chip, 0x27) == b"\x00"
    chip.write(b"\x20\x57")
    assert get(chip, 0x27) == b"\x00"
    world.wait_ms(12)
    assert get(chip, 0x27)[0] & 8
    r = get(chip, 0x28 | 0x80, 6)
    x, y, z = (int.from_bytes(r[i : i + 2], "little", signed=True) >> 4 for i in (0, 2, 4))
    assert x == pytest.approx(1000 * math.sin(math.radians(tilt)), abs=6)
    assert z == pytest.approx(1000 * math.cos(math.radians(tilt)), abs=6)
    assert abs(y) <= 6
    assert get(chip, 0x28, 2) == get(chip, 0x28)[:1] * 2  # without bit 7 the register number stays


def test_sht_crc_gives_the_published_vectors():
    for v in VECTORS["sensirion_crc8"]["vectors"]:
        assert crc8(bytes.fromhex(v["in"])) == int(v["crc"], 16)


def test_sht_needs_its_conversion_time():
    world = World(temperature=25, humidity=50)
    chip = SHT4xChip(world.sense, world.now_us)
    with pytest.raises(OSError):
        chip.read(6)
    chip.write(b"\xfd")
    with pytest.raises(OSError):
        chip.read(6)
    world.wait_ms(8.4)
    r = chip.read(6)
    assert crc8(r[:2]) == r[2] and crc8(r[3:5]) == r[5]
    assert -45 + 175 * int.from_bytes(r[:2], "big") / 65535 == pytest.approx(25, abs=0.01)
    assert -6 + 125 * int.from_bytes(r[3:5], "big") / 65535 == pytest.approx(50, abs=0.01)


def test_pulses_count_from_power_on_and_never_fall():
    world = World(water_pulses=100.7)
    chip = PulseChip(world.sense, world.now_us)
    assert chip.count() == 0
    world.values["water_pulses"] = 103.2
    assert chip.count() == 3
    world.values["water_pulses"] = 50
    assert chip.count() == 3
    world.values["water_pulses"] = 104
    assert chip.count() == 4
    chip.fault = "silent"
    world.values["water_pulses"] = 200
    assert chip.count() == 4
    chip.fault = "bounce"
    world.values["water_pulses"] = 220
    assert chip.count() == 26

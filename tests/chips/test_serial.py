"""UART models on byte level, against published frames."""

import pytest

from host_sim.chips.a02yyuw import A02YYUWChip
from host_sim.chips.pms5003 import PMS5003Chip

from .world import VECTORS, World

WAKE = bytes.fromhex("424de400010174")
SLEEP = bytes.fromhex("424de400000173")
PASSIVE = bytes.fromhex("424de100000170")
ACTIVE = bytes.fromhex("424de100010171")
READ = bytes.fromhex("424de200000171")


def pms(**values):
    world = World(**values)
    return world, PMS5003Chip(world.sense, world.now_us)


def frames(data):
    """Split a clean stream into PMS frames; asserts header and sum of each."""
    out = []
    while data:
        assert data[:2] == b"\x42\x4d", data
        n = 4 + int.from_bytes(data[2:4], "big")
        assert sum(data[: n - 2]) == int.from_bytes(data[n - 2 : n], "big")
        out.append(data[:n])
        data = data[n:]
    return out


def test_pms_frame_has_the_layout_of_the_vector():
    world, chip = pms()
    world.wait_ms(31000)
    want = next(v for v in VECTORS["pms5003"] if v["valid"])
    frame, model = bytes.fromhex(want["hex"]), chip.frame()
    assert len(model) == len(frame) and model[:4] == frame[:4]
    word = [int.from_bytes(model[i : i + 2], "big") for i in range(4, 30, 2)]
    assert word[3:6] == [11, 17, 24] == [want["pm1_atm"], want["pm25_atm"], want["pm10_atm"]]
    assert all(a >= b for a, b in zip(word[6:11], word[7:12], strict=True))  # counts above a size fall with the size
    frames(model)


def test_pms_speaks_every_second_until_told_to_be_passive():
    world, chip = pms()
    world.wait_ms(3500)
    assert len(frames(chip.produce())) == 3
    chip.receive(PASSIVE)
    world.wait_ms(5000)
    assert [len(f) for f in frames(chip.produce())] == [8]  # the command's answer and no more
    chip.receive(READ)
    world.wait_ms(40)
    assert [len(f) for f in frames(chip.produce())] == [32]
    chip.receive(ACTIVE)
    world.wait_ms(2500)
    assert [len(f) for f in frames(chip.produce())] == [8, 32, 32]


def test_pms_bytes_arrive_at_9600_baud():
    world, chip = pms()
    chip.receive(WAKE)
    world.wait_ms(200)
    chip.receive(PASSIVE)
    world.wait_ms(1000)
    chip.produce()
    chip.receive(READ)
    due = world.us + 3000
    got = b""
    for _ in range(60):
        nxt = chip.next_us()
        if nxt is None:
            break
        world.us = nxt
        got += chip.produce()
    assert len(got) == 32
    assert world.us == due + 32 * 1042


def test_pms_asleep_is_deaf_and_dumb_but_for_the_wake_command():
    world, chip = pms()
    world.wait_ms(500)
    chip.receive(SLEEP)
    world.wait_ms(100)
    assert len(frames(chip.produce())) == 1
    chip.receive(READ + PASSIVE)
    world.wait_ms(100000)
    assert chip.produce() == b"" and chip.next_us() is None
    chip.receive(WAKE)
    world.wait_ms(2100)
    assert [len(f) for f in frames(chip.produce())] == [32, 32]


def test_pms_reads_low_until_it_is_warm():
    world, chip = pms(pm25=100)
    world.wait_ms(5000)
    assert int.from_bytes(chip.frame()[12:14], "big") < 60
    world.wait_ms(26000)
    assert int.from_bytes(chip.frame()[12:14], "big") == 100


def test_pms_ignores_damaged_commands():
    world, chip = pms()
    world.wait_ms(500)
    chip.receive(SLEEP[:6] + b"\x00")
    chip.receive(b"\x00\x42" + PASSIVE)
    world.wait_ms(300)
    assert [f[4:6] for f in frames(chip.produce())] == [b"\xe1\x00"]


def test_pms_unread_frames_are_made_for_no_more_than_a_buffer():
    world, chip = pms()
    world.wait_ms(3600_000)
    assert len(chip.produce()) <= 12 * 32
    world.wait_ms(1100)
    assert len(frames(chip.produce())) >= 1


@pytest.mark.parametrize("fault", PMS5003Chip.FAULTS)
def test_pms_faults_show_on_the_line(fault):
    world, chip = pms()
    world.wait_ms(31000)
    chip.produce()
    world.wait_ms(1500)
    chip.produce()
    chip.fault = fault
    world.values["pm25"] = 80
    world.wait_ms(2000)
    data = chip.produce()
    if fault == "silent":
        assert data == b""
    elif fault == "stuck":
        assert {int.from_bytes(f[12:14], "big") for f in frames(data)} == {17}
    elif fault == "dead":
        assert {f[4:28] for f in frames(data)} == {bytes(24)}, "good frames that count nothing"
    else:
        with pytest.raises(AssertionError):
            frames(data)


def test_a02_sends_the_published_frame():
    world = World(distance=1953, temperature=14.53)
    chip = A02YYUWChip(world.sense, world.now_us)
    chip._noise.around = lambda n: 0
    world.wait_ms(250)
    want = next(bytes.fromhex(v["hex"]) for v in VECTORS["a02yyuw"] if v["valid"])
    assert chip.produce() == want * 2


def test_a02_in_a_world_without_weather_tells_the_distance():
    world = World(distance=2000)
    del world.values["temperature"]
    f = A02YYUWChip(world.sense, world.now_us).frame()
    assert (f[1] << 8 | f[2]) == pytest.approx(2000, abs=3)


@pytest.mark.parametrize("distance", [10, 5000])
def test_a02_out_of_range_is_zero(distance):
    world = World(distance=distance)
    chip = A02YYUWChip(world.sense, world.now_us)
    assert chip.frame() == b"\xff\x00\x00\xff"


def test_a02_at_340_metres_a_second_sees_the_air():
    world = World(distance=2000, temperature=20)
    chip = A02YYUWChip(world.sense, world.now_us)
    f = chip.frame()
    assert (f[1] << 8 | f[2]) == pytest.approx(2000 * 340 / 343.2, abs=3)


def test_a02_after_an_hour_gives_one_buffer_of_old_frames_then_fresh_ones():
    world = World(distance=1000, temperature=14.53)
    chip = A02YYUWChip(world.sense, world.now_us)
    world.wait_ms(3600_000)
    assert len(chip.produce()) == 256
    world.values["distance"] = 1500
    world.wait_ms(150)
    f = chip.produce()[-4:]
    assert (f[1] << 8 | f[2]) == pytest.approx(1500, abs=3)

"""The microphone driver on the I2S model."""

import asyncio
import math
import micropython
import sim
from chips.inmp441 import INMP441Chip, Words, plain_tone
from machine import I2S
from mote.hal.board import Board
from mote.drivers import open_driver
from mote.drivers.errors import NoAnswer, OutOfRange


def board(level=60.0, **options):
    sim.values["laeq"] = level
    chip = INMP441Chip(sim.sense, sim.now_us)
    sim.attach_i2s(0, chip)
    i2s = I2S(0, sck=1, ws=2, sd=3, mode=I2S.RX, bits=32, format=I2S.MONO, rate=48000, ibuf=19200)
    return chip, open_driver("inmp441", i2s, options)


async def test_levels_follow_the_truth():
    chip, d = board(listen_ms=250)
    out = [0] * 5
    for level in (38, 44.4, 52.1, 60, 71.5, 90, 108):
        sim.values["laeq"] = level
        await asyncio.sleep(60)
        began = sim.now_us()
        await d.read_into(out)
        want = 10 * math.log10(10 ** (level / 10) + 10**3.3)
        assert abs(out[0] - want * 10) <= 2, (level, want, out)
        laeq, top, l10, l50, l90 = out
        assert top >= l10 >= l50 >= l90 and l90 <= laeq < top, out  # a quiet window may be as even as that
        assert sim.now_us() - began < 800000


async def test_calibration_shifts_every_level():
    chip, d = board(60.0, listen_ms=250, cal=-13)
    out = [0] * 5
    await d.read_into(out)
    assert abs(out[0] - 587) <= 2, out


async def test_settling_hides_the_start_of_the_microphone():
    chip, d = board(50.0, listen_ms=250)
    out = [0] * 5
    await d.read_into(out)
    assert abs(out[0] - 501) <= 2 and out[1] < 530, out


async def test_no_frame_is_lost_while_flash_is_erased_and_the_loop_turns_no_more_often_than_it_must():
    """An erase of a block takes 45 ms, in which nothing else runs; the port wakes a reader every 256 frames."""
    sim.values["laeq"] = 60.0
    sim.attach_i2s(0, INMP441Chip(sim.sense, sim.now_us))
    i2s = Board({"i2s": {"0": {"sck": 1, "ws": 2, "sd": 3}}}).i2s()
    d = open_driver("inmp441", i2s, {"listen_ms": 2000})
    reads = []
    take, out = d.process, [0] * 5

    def process(n, count):
        reads.append(n)
        if len(reads) % 10 == 0:
            sim.advance_ms(45)
        take(n, count)

    d.process = process
    await d.read_into(out)
    assert i2s.lost == 0 and abs(out[0] - 600) <= 2, (i2s.lost, out)
    seconds = sum(reads) / 48000
    assert len(reads) < 50 * seconds, (len(reads), seconds)


async def test_dead_data_line_is_no_reading():
    for fault in ("silent", "stuck"):
        chip, d = board(60.0, listen_ms=100)
        chip.fault = fault
        out = [None] * 5
        try:
            await d.read_into(out)
            raise AssertionError(out)
        except OutOfRange:
            assert out == [None] * 5


async def test_overdriven_input_reads_loud_and_breaks_nothing():
    chip, d = board(60.0, listen_ms=250)
    chip.fault = "clipped"
    out = [0] * 5
    await d.read_into(out)
    assert 1100 < out[0] <= out[1] <= 1300, out
    chip.fault = None
    await asyncio.sleep(1)
    for _ in range(2):
        await d.read_into(out)
    assert abs(out[0] - 600) <= 2, out


async def test_no_clock_no_audio_times_out():
    import io

    class Stalled(io.IOBase):
        def ioctl(self, op, arg):
            return 0 if op == 3 else -1

        def sim_next(self):
            return None

    d = open_driver("inmp441", Stalled(), {"listen_ms": 200})
    began = sim.now_us()
    try:
        await d.read_into([0] * 5)
        raise AssertionError
    except NoAnswer:
        assert sim.now_us() - began < 2200000


def test_a_block_allocates_nothing():
    chip, d = board()
    chip.fill(d._buf, 2400, 1000000, 48000)
    micropython.heap_lock()
    try:
        d.process(2400, True)
    finally:
        micropython.heap_unlock()


def test_model_twins_are_equal():
    from chips import inmp441 as model
    from array import array

    table, rms, tone, gains = model._prepare()
    assert tone is not plain_tone
    a, b = array("i", bytes(4000)), bytearray(4000)
    for gain in (0, 1, 4096, 1 << 22, 1 << 30):
        what = array("i", [10, 900, 2000, gain, 3000])
        tone(a, table, what)
        plain_tone(Words(b), table, what)
        assert bytes(a) == bytes(b), gain

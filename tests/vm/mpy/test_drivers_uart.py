"""UART drivers against their chip models and against byte vectors."""

import asyncio
import micropython
import sim
from chips.a02yyuw import A02YYUWChip
from chips.pms5003 import PMS5003Chip
from machine import UART
from mote.drivers import open_driver
from mote.drivers.errors import BadChecksum, NoAnswer, NoEcho, OutOfRange

GOOD = bytes.fromhex("424d001c000c00120019000b0011001807f802640076001500050001970003a3")
LOST_TWO = bytes.fromhex("424d001c0004000500050004000500037e00e20017000200000000970002424d")


class Replay:
    """A UART that hands out given bytes in pieces of n."""

    def __init__(self, data, n=64):
        self.data, self.n = data, n
        self.sent = b""

    def any(self):
        return min(len(self.data), self.n)

    def readinto(self, buf, n):
        n = min(n, self.n, len(self.data))
        buf[:n] = self.data[:n]
        self.data = self.data[n:]
        return n

    def write(self, data):
        self.sent += data


def board(name, chip_class, **options):
    sim.values.update({"temperature": 14.53, "pm1": 11, "pm25": 17.2, "pm10": 24, "distance": 1234.0})
    chip = chip_class(sim.sense, sim.now_us)
    sim.attach_uart(1, chip)
    return chip, open_driver(name, UART(1, 9600, rxbuf=256), options)


async def fails(error, driver, bound_ms):
    out = [None] * len(driver.CHANNELS)
    began = sim.now_us()
    try:
        await driver.read_into(out)
    except error:
        assert out == [None] * len(out), out
        assert sim.now_us() - began <= bound_ms * 1000, sim.now_us() - began
        return
    raise AssertionError("no error, out = %r" % (out,))


async def test_pms5003_reads_after_its_warm_up_and_sleeps():
    chip, d = board("pms5003", PMS5003Chip)
    out = [0, 0, 0]
    for _ in range(3):
        began = sim.now_us()
        await d.read_into(out)
        assert out == [11, 17, 24], out
        assert 30000000 <= sim.now_us() - began < 31500000
        await asyncio.sleep_ms(200)
        assert chip.produce() == b"" or chip._asleep
        assert chip._asleep
        await asyncio.sleep(29)


async def test_pms5003_kept_awake_reads_at_once():
    chip, d = board("pms5003", PMS5003Chip, keep_awake=True)
    out = [0, 0, 0]
    await d.read_into(out)
    began = sim.now_us()
    sim.values["pm25"] = 99
    await d.read_into(out)
    assert out == [11, 99, 24] and sim.now_us() - began < 500000
    await d.stop()
    assert chip._asleep


async def test_pms5003_silent_times_out_and_is_sent_to_sleep():
    chip, d = board("pms5003", PMS5003Chip)
    chip.fault = "silent"
    await fails(NoAnswer, d, 33000)
    assert d.timeouts == 3 and chip._asleep
    chip.fault = None
    out = [0, 0, 0]
    await d.read_into(out)
    assert out == [11, 17, 24]


async def test_pms5003_that_counts_no_particle_at_all_is_dead_and_clean_air_is_not():
    chip, d = board("pms5003", PMS5003Chip)
    chip.fault = "dead"
    await fails(OutOfRange, d, 33000)
    assert chip._asleep
    chip.fault = None
    sim.values.update({"pm1": 0, "pm25": 0, "pm10": 0})
    out = [9, 9, 9]
    await d.read_into(out)
    assert out == [0, 0, 0], "particles below the first ug/m3 are counted"
    sim.values.update({"pm1": 11, "pm25": 17, "pm10": 24})


async def test_pms5003_refuses_and_counts_a_bad_sum():
    chip, d = board("pms5003", PMS5003Chip)
    chip.fault = "checksum"
    await fails(BadChecksum, d, 33000)
    assert d.refused == 3


async def test_pms5003_reads_through_noise_on_the_line():
    chip, d = board("pms5003", PMS5003Chip)
    chip.fault = "noise"
    out = [0, 0, 0]
    for _ in range(5):
        await d.read_into(out)
        assert out == [11, 17, 24], out


async def test_pms5003_cancelled_in_its_warm_up_sleeps():
    chip, d = board("pms5003", PMS5003Chip)
    task = asyncio.create_task(d.read_into([0, 0, 0]))
    await asyncio.sleep(5)
    task.cancel()
    await asyncio.sleep(1)
    assert chip._asleep


def test_pms5003_vector_and_resynchronisation_in_every_cut():
    for n in (1, 2, 3, 7, 31, 32, 33, 64):
        d = open_driver("pms5003", Replay(LOST_TWO + GOOD[2:] + GOOD, n))
        out = [0, 0, 0]
        good = 0
        while d._in.fill():
            while d._in.pos < d._in.end:
                good += d.take(out)
        assert good == 2 and out == [11, 17, 24] and d.refused == 1, (n, good, out, d.refused)


def test_pms5003_takes_no_bad_frame_from_random_bytes():
    x = 1
    data = bytearray(20000)
    for i in range(len(data)):
        x = (x * 1103515245 + 12345) & 0x7FFFFFFF
        data[i] = (0x42, 0x4D, 0x00, 0x1C, x >> 16 & 255)[(x >> 8) % 5]
    d = open_driver("pms5003", Replay(bytes(data)))
    out = [0, 0, 0]
    good = 0
    while d._in.fill():
        while d._in.pos < d._in.end:
            good += d.take(out)
    assert good <= 1, good
    assert d.refused > 0


def test_frame_parsing_allocates_nothing():
    d = open_driver("pms5003", Replay(LOST_TWO + GOOD, 64))
    out = [0, 0, 0]
    assert d._in.fill()
    micropython.heap_lock()
    try:
        d.take(out)
    finally:
        micropython.heap_unlock()
    assert out == [11, 17, 24]
    d = open_driver("a02yyuw", Replay(b"\xff\x07\xa1\xa8\xff\x07\xa1\xa7"))
    assert d._in.fill()
    micropython.heap_lock()
    try:
        kind = d.take()
    finally:
        micropython.heap_unlock()
    assert kind == 1 and d._frame[1] << 8 | d._frame[2] == 1953 and d.refused == 1


async def test_a02yyuw_reads_the_median_of_fresh_frames():
    chip, d = board("a02yyuw", A02YYUWChip)
    out = [0]
    for mm in (31, 300.0, 1234, 2999, 4490):
        sim.values["distance"] = mm
        await asyncio.sleep(600)  # the buffer is full of stale frames
        began = sim.now_us()
        await d.read_into(out)
        assert abs(out[0] - mm) <= 2, (mm, out)
        assert sim.now_us() - began < 1000000


async def test_a02yyuw_without_echo_says_so():
    chip, d = board("a02yyuw", A02YYUWChip)
    sim.values["distance"] = 8000
    await fails(NoEcho, d, 2700)
    sim.values["distance"] = 10
    await fails(NoEcho, d, 2700)
    chip.fault = "no_echo"
    await fails(NoEcho, d, 2700)


async def test_a02yyuw_silent_times_out():
    chip, d = board("a02yyuw", A02YYUWChip)
    chip.fault = "silent"
    await fails(NoAnswer, d, 2700)
    assert d.timeouts == 1


async def test_a02yyuw_refuses_and_counts_a_bad_sum():
    chip, d = board("a02yyuw", A02YYUWChip)
    chip.fault = "checksum"
    await fails(BadChecksum, d, 2700)
    assert d.refused > 5


async def test_a02yyuw_reads_through_noise():
    chip, d = board("a02yyuw", A02YYUWChip)
    chip.fault = "noise"
    out = [0]
    for _ in range(10):
        await d.read_into(out)
        assert abs(out[0] - 1234) <= 2, out
        await asyncio.sleep(30)


async def test_a02yyuw_corrects_for_the_air_temperature():
    sim.values.update({"distance": 2000.0})
    chip = A02YYUWChip(sim.sense, sim.now_us)
    sim.attach_uart(1, chip)
    d = open_driver("a02yyuw", UART(1, 9600), {"compensate": True})
    out = [0]
    for celsius in (-20.0, 0.0, 20.0, 45.0):
        sim.values["temperature"] = celsius
        d.set_temperature(int(celsius * 10))
        await d.read_into(out)
        assert abs(out[0] - 2000) <= 4, (celsius, out)


async def test_line_that_babbles_for_ever_ends_in_time():
    class Babble:
        def any(self):
            sim.advance_ms(1)  # one byte a millisecond, always one more than taken
            return 1

        def readinto(self, buf, n):
            buf[0] = 0x42
            return 1

        def write(self, data):
            pass

    await fails(NoAnswer, open_driver("pms5003", Babble(), {"warm_up_ms": 1000}), 4000)
    await fails(NoAnswer, open_driver("a02yyuw", Babble()), 3000)


async def test_frozen_values_are_delivered_as_they_stand():
    for name, cls, key in (("pms5003", PMS5003Chip, "pm1"), ("a02yyuw", A02YYUWChip, "distance")):
        chip, d = board(name, cls)
        out = [0] * len(d.CHANNELS)
        await d.read_into(out)
        chip.fault = "stuck"
        sim.values[key] = 555
        again = [0] * len(d.CHANNELS)
        await d.read_into(again)
        assert abs(again[0] - out[0]) <= 3, (out, again)

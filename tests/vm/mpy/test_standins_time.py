"""The stand-ins behave like the esp32 port where the unix port does not."""

import asyncio
import time

import sim


def test_ticks_wrap_ten_minutes_after_boot():
    sim.advance_ms((1 << 30) - 1000 - time.ticks_ms())
    a = time.ticks_ms()
    time.sleep(2)
    b = time.ticks_ms()
    assert b < a
    assert time.ticks_diff(b, a) == 2000 or time.ticks_diff(b, a) == 2001


def test_time_counts_from_2000_and_starts_at_zero_after_power_on():
    assert isinstance(time.time(), int)
    assert time.gmtime(0) == (2000, 1, 1, 0, 0, 0, 5, 1)
    assert time.mktime(time.gmtime(820540800)) == 820540800


async def test_sleep_takes_no_real_time_and_the_right_virtual_time():
    t = sim.now_us()
    await asyncio.sleep(3600)
    assert 3600_000_000 <= sim.now_us() - t < 3600_010_000


def test_a_file_on_the_fresh_flash():
    with open("/x.bin", "wb") as f:
        f.write(b"abc")
    with open("x.bin", "rb") as f:
        assert f.read() == b"abc"

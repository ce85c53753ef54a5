"""The pulse meter on the counter stand-in."""

import asyncio
import esp32
import micropython
import sim
from chips.pulse import PulseChip
from machine import Pin
from mote.drivers import open_driver

pin = 30


def board(**options):
    global pin
    pin += 1
    sim.values["water_pulses"] = 1000.0
    chip = PulseChip(sim.sense, sim.now_us)
    sim.attach_pulse(pin, chip)
    pcnt = esp32.PCNT(pin, pin=Pin(pin), rising=esp32.PCNT.INCREMENT)
    pcnt.start()
    return chip, open_driver("pulse", pcnt, options)


async def test_volume_and_flow():
    chip, d = board(litres_per_pulse=10, start_l=123.4)
    out = [0, 0]
    await d.read_into(out)
    assert out == [1234, 0]
    await asyncio.sleep(60)
    sim.values["water_pulses"] += 3
    await d.read_into(out)
    assert out == [1234 + 300, 1800], out  # 30 l in a minute
    await asyncio.sleep(60)
    await d.read_into(out)
    assert out == [1534, 0], out
    assert d.total == 3


async def test_tenth_of_a_litre_per_pulse():
    chip, d = board(litres_per_pulse=0.1)
    out = [0, 0]
    sim.values["water_pulses"] += 521
    await asyncio.sleep(60)
    await d.read_into(out)
    assert out == [521, 3126], out


async def test_register_goes_on_over_a_restart_and_never_falls():
    chip, d = board()
    sim.values["water_pulses"] += 5
    d.restore(70000)
    out = [0, 0]
    await asyncio.sleep(60)
    await d.read_into(out)
    assert d.total == 70005 and out == [700050, 300], (d.total, out)  # what was before is no flow of now
    try:
        d.restore(-1)
        raise AssertionError
    except ValueError:
        assert d.total == 70005


async def test_counter_wraps_unnoticed():
    chip, d = board(litres_per_pulse=0.1)
    want = 0
    for n in (32766, 1, 1, 20000, 20000, 30000, 5):
        sim.values["water_pulses"] += n
        want += n
        d.poll()
        assert d.total == want, (n, d.total, want)


async def test_days_between_two_readings():
    chip, d = board(litres_per_pulse=100)
    out = [0, 0]
    sim.values["water_pulses"] += 3000
    await asyncio.sleep(86400)
    await d.read_into(out)
    assert out[0] == 3000000 and abs(out[1] - 12500) <= 10, out


async def test_cut_cable_stands_still():
    for fault in ("silent", "stuck"):
        chip, d = board()
        out = [0, 0]
        chip.fault = fault
        sim.values["water_pulses"] += 50
        await asyncio.sleep(60)
        await d.read_into(out)
        assert out == [0, 0]
        chip.fault = None
        sim.values["water_pulses"] += 1
        await asyncio.sleep(60)
        await d.read_into(out)
        assert out == [10, 60], out


async def test_bouncing_reed_counts_too_much_so_filter_it_in_hardware():
    chip, d = board()
    chip.fault = "bounce"
    sim.values["water_pulses"] += 100
    d.poll()
    assert d.total == 110


async def test_poll_allocates_nothing():
    chip, d = board()

    class Counter:
        n = 0

        def value(self):
            return Counter.n

    d._pcnt = Counter()
    Counter.n = 17
    micropython.heap_lock()
    try:
        d.poll()
    finally:
        micropython.heap_unlock()
    assert d.total == 17


def test_options_out_of_range_are_refused():
    try:
        board(litres_per_pulse=0.01)
        raise AssertionError
    except ValueError:
        pass
    try:
        board(litre=1)
        raise AssertionError
    except TypeError:
        pass

"""The pulse meter on the counter stand-in."""

import asyncio
import esp32
import micropython
import random
import sim
from chips.pulse import PulseChip
from machine import Pin
from mote.drivers import open_driver
from mote.drivers.pulse import PulseMeter

pins = [32, 33, 25, 26, 27, 14, 12, 13, 4, 16, 17, 18, 19, 21, 22, 23, 34, 35, 36, 39, 2, 5, 15]  # of an ESP32
pin = 0


def board(**options):
    global pin
    pin = pins.pop()  # one that no counter of another test has
    sim.values["water_pulses"] = 1000.0
    chip = PulseChip(sim.sense, sim.now_us)
    sim.attach_pulse(pin, chip)
    return chip, open_driver("pulse", counter(), options)


def counter(**limits):
    """A PCNT as the port makes it, without limits unless some are given."""
    pcnt = esp32.PCNT(pin, pin=Pin(pin), rising=esp32.PCNT.INCREMENT, **limits)
    pcnt.start()
    return pcnt


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


def test_what_the_register_cannot_hold_is_refused_where_it_is_written():
    board()
    for options in (
        {"litres_per_pulse": 0.25},  # would be read as 0.3, 20 % too much
        {"litres_per_pulse": 0.33},
        {"litres_per_pulse": 0.04},
        {"litres_per_pulse": 2000},
        {"start_l": -1},
        {"start_l": 13421773},  # 2**27 tenths of a litre: the wire ends there
        {"start_l": 20000000, "litres_per_pulse": 100},
    ):
        try:
            PulseMeter(counter(), **options)
            raise AssertionError(options)
        except ValueError as e:
            assert str(e).split(":")[0] in options, (options, e)
    for k in (0.1, 0.3, 0.7, 1, 2.5, 10, 100):
        assert PulseMeter(counter(), litres_per_pulse=k)._k == round(k * 10), k


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


async def test_counter_wraps_unnoticed_with_and_without_a_limit():
    for limits in ({}, {"max": 32767}):  # a port may have the limit on or off: neither may make the register fall
        board()
        sim.attach_pulse(pin, PulseChip(sim.sense, sim.now_us))
        d = PulseMeter(counter(**limits), litres_per_pulse=0.1)
        want = 0
        for n in (32766, 1, 1, 20000, 20000, 30000, 5, 32766, 32766, 1, 32766):
            sim.values["water_pulses"] += n
            want += n
            d.poll()
            assert d.total == want, (limits, n, d.total, want)


async def test_a_meter_on_the_board_counts_past_the_16_bits_of_its_counter():
    from mote.hal.board import Board

    board()
    b = Board({"pulse": {str(pin): {"pin": pin}}})
    d = PulseMeter(b.pulse(pin))
    for n in (32766, 2, 7232, 30000):
        sim.values["water_pulses"] += n
        d.poll()
    assert d.total == 70000, d.total


async def test_a_flow_that_is_not_whole_is_a_lower_bound_and_a_reading_out_of_turn_ends_none():
    chip, d = board(litres_per_pulse=100)
    d.least_ms, d.fine_ms, d.enough = 58000, 360000, 3
    out = [0, 0]
    told = []
    for pulses in (1, 0, 1, 0):  # the first may have begun long before
        sim.values["water_pulses"] += pulses
        await asyncio.sleep(60)
        await d.read_aside(out)
        aside = out[1]
        await d.read_into(out)
        assert aside == out[1]
        told.append((d.whole, out[1]))
    assert told == [(False, 0), (False, 0), (False, 2000), (False, 1500)], told
    sim.values["water_pulses"] += 1
    await asyncio.sleep(60)
    await d.read_aside(out)
    assert d.whole and out[1] == 3600, out
    await d.read_into(out)
    assert d.whole and out[1] == 3600 and d.ms // 1000 == 300, (out, d.ms)  # enough of them
    await asyncio.sleep(360)
    await d.read_into(out)
    assert d.whole and out[1] == 0, out
    assert d.more_than(2000) == 2
    sim.values["water_pulses"] += 2
    await asyncio.sleep(20)
    await d.read_into(out)
    assert not d.whole and out[1] == 6207, out  # as if it had taken least_ms


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

    d._counter = Counter()
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


class Ulp:
    """A counter with mote.hal.ulp.Counter's face."""

    def __init__(self, count=0, life=5, fresh=False, modulus=1 << 24):
        self.count, self.life, self.fresh, self.modulus = count, life, fresh, modulus

    def value(self):
        return self.count % self.modulus


async def test_a_counter_that_runs_on_is_resumed():
    counter = Ulp(100)
    d = PulseMeter(counter)
    d.restore(70000)
    counter.count += 7
    d.poll()
    total, seen = d.state()
    assert total == 70007 and seen < 1 << 30
    counter.count += 50  # asleep
    d = PulseMeter(counter)
    assert d.resume(total, seen)
    assert d.total == 70057
    out = [0, 0]
    await asyncio.sleep(60)
    counter.count += 1
    await d.read_into(out)
    assert out == [700580, 60], out  # what came asleep is no flow of the minute since


async def test_the_first_flow_is_the_mean_since_the_state_when_its_age_is_known():
    counter = Ulp()
    d = PulseMeter(counter)
    total, seen = d.state()
    counter.count += 100
    d = PulseMeter(counter)
    assert d.resume(total, seen, 3590)
    await asyncio.sleep(10)
    out = [0, 0]
    await d.read_into(out)
    assert out == [1000, 100], out
    for ago_s in (1, 1 << 29):  # bounded: ticks tell no more than six days
        d = PulseMeter(counter)
        assert d.resume(total, seen, ago_s)
        await d.read_into(out)
        assert out[0] == 1000 and 0 < out[1] <= 360000, out


def test_resume_refuses_what_it_cannot_continue():
    counter = Ulp(50)
    d = PulseMeter(counter)
    total, seen = d.state()
    for other in (Ulp(60, life=6), Ulp(60, fresh=True)):
        d = PulseMeter(other)
        assert not d.resume(9, seen) and d.total == 0
        d.restore(1000)
        other.count += 3
        d.poll()
        assert d.total == 1003
    chip, d = board()
    total, seen = d.state()
    assert not d.resume(total, seen), "a PCNT dies with the boot"
    try:
        PulseMeter(counter).resume(-1, 0)
        raise AssertionError
    except ValueError:
        pass


def test_states_of_every_age_and_life_lead_to_the_same_total():
    for life in (0, 1, 63):
        counter = Ulp((1 << 24) - 20, life)
        d = PulseMeter(counter)
        states, true = [d.state()], 0
        for n in (1, 18, 1, 1, 0, 500, 1 << 20):
            counter.count += n
            true += n
            d.poll()
            states.append(d.state())
            for total, seen in states:
                e = PulseMeter(counter)
                assert e.resume(total, seen) and e.total == true == d.total, (life, n)


class Node:
    """The pulses of a meter through the life of a node, kept as a profile would: total on flash, state() in RTC memory.

    The flash is written now and then; RTC memory is written more often; power-on takes RTC memory and the counting with it.
    """

    def __init__(self, rng):
        self.rng = rng
        self.true = self.lost = self.shown = self.flash = 0
        self.rtc = None
        self.counter = Ulp(rng.randrange(1 << 24), rng.randrange(64), True, rng.choice((1 << 24, 1 << 24, 4096)))
        self.boot()

    def boot(self):
        self.meter = PulseMeter(self.counter)
        if self.rtc is None or not self.meter.resume(self.rtc[0], self.rtc[1]):
            self.lost = self.true - self.flash
            self.meter.restore(self.flash)
        self.rtc = self.meter.state()
        self.counter.fresh = False

    def step(self):
        rng = self.rng
        what = rng.randrange(10)
        pulses = rng.randrange(3) * rng.randrange(1000)
        self.true += pulses
        self.counter.count += pulses
        if what < 5 or self.true - self.lost - self.meter.total > 1500:
            self.meter.poll()
        if what < 3 or self.meter.total - self.rtc[0] > 1500:  # before the smallest modulus goes round
            self.rtc = self.meter.state()
        if what < 2:
            self.flash = self.meter.total
        if what == 6:  # deep sleep or a reset: the counter runs on
            self.boot()
        if what == 7 and not rng.randrange(3):  # power
            self.rtc = None
            self.counter = Ulp(rng.randrange(1 << 24), rng.randrange(64), True, self.counter.modulus)
            self.boot()
        if what == 8 and not rng.randrange(3):  # an update of the firmware: another program, RTC memory stays
            self.counter = Ulp(0, (self.counter.life + 1) % 64, True, self.counter.modulus)
            self.boot()
        self.meter.poll()
        assert self.meter.total == self.true - self.lost, (self.meter.total, self.true, self.lost)
        # the register that left the node was on flash before: it never falls
        assert self.flash >= self.shown
        self.shown = self.flash


def test_the_register_is_exact_over_sleeps_resets_power_cuts_and_wraps():
    class Rng:
        def __init__(self, seed):
            random.seed(seed)

        def randrange(self, n):
            return random.randrange(n)

        def choice(self, a):
            return a[random.randrange(len(a))]

    lost = 0
    for seed in range(30):
        node = Node(Rng(seed))
        for _ in range(400):
            node.step()
        lost += node.lost
    assert lost, "power cuts did happen"

"""The bay's state machine: on synthetic fields, and on the magnetometer's driver and model for a day."""

import asyncio
import micropython
import sim
from chips.qmc5883l import QMC5883LChip
from machine import I2C
from mote.drivers import open_driver
from mote.dsp.occupancy import FREE, OCCUPIED, UNKNOWN, Occupancy, isqrt

EARTH = (220, 15, 430)


class Bay:
    """Drives an Occupancy with a field; time passes at its own wish."""

    def __init__(self, **options):
        self.o = Occupancy(**options)
        self.ms = 0
        self.changes = []

    def hold(self, ms, x=0, y=0, z=0, noise=2):
        end = self.ms + ms
        while self.ms < end:
            dt = self.o.wait_ms
            self.ms += dt
            n = (self.ms // 100 * 7919) % (2 * noise + 1) - noise if noise else 0
            if self.o.step(EARTH[0] + x + n, EARTH[1] + y - n, EARTH[2] + z + n, dt):
                self.changes.append((self.ms, self.o.occupied))


def test_isqrt():
    for n in list(range(200)) + [k * k + d for k in (100, 4095, 32767) for d in (-1, 0, 1)] + [(1 << 30) - 1]:
        r = isqrt(n)
        assert r * r <= n < (r + 1) * (r + 1), n


def test_arrival_and_departure_are_decided_once_within_ten_seconds():
    b = Bay()
    b.hold(60000)
    assert b.o.state == FREE and b.o.occupied == 0 and b.changes == []
    for _ in range(5):
        at, n = b.ms, len(b.changes)
        b.hold(2000, -110, 130, 70)  # rolling in
        b.hold(3600000, 150, -90, 260)
        assert len(b.changes) == n + 1 and b.changes[-1][1] == 1 and b.changes[-1][0] - at < 15000, b.changes
        assert b.o.state == OCCUPIED and b.o.confidence >= 70, b.o.confidence
        at = b.ms
        b.hold(600000)
        assert len(b.changes) == n + 2 and b.changes[-1][0] - at < 15000, (b.changes, at)
        assert b.o.confidence >= 80, b.o.confidence


def test_car_that_passes_is_no_arrival():
    b = Bay()
    b.hold(60000)
    for _ in range(20):
        for k in range(6):
            b.hold(500, 60 * k, -40 * k, 100)
        b.hold(30000)
    assert b.changes == []


def test_manoeuvring_counts_once():
    b = Bay()
    b.hold(60000)
    for k in range(10):
        b.hold(1000, 150 if k & 1 else -100, 90, 200)
    b.hold(60000, 150, -90, 260)
    assert [c[1] for c in b.changes] == [1]


def test_small_disturbance_between_the_thresholds_keeps_the_state():
    b = Bay()
    b.hold(60000)
    b.hold(600000, 90, 0, 0)
    assert b.o.occupied == 0 and b.o.state == FREE
    b.hold(60000, 200, 0, 0)
    assert b.o.occupied == 1
    b.hold(600000, 90, 0, 0)
    assert b.o.occupied == 1 and b.o.confidence < 60


def test_baseline_follows_slow_drift_and_never_a_car():
    b = Bay()
    b.hold(60000)
    for k in range(20):
        b.hold(3600000, 10 * k, 0, 0, 0)  # 1 uT an hour, 19 in all: far beyond the threshold to enter
    assert b.o.occupied == 0 and b.changes == []
    base = b.o.baseline
    b.hold(48 * 3600000, 190 + 150, -90, 260)
    assert b.o.occupied == 1
    assert b.o.baseline == base


def test_step_allocates_nothing():
    o = Occupancy()
    for _ in range(20):
        o.step(220, 15, 430, 500)
    micropython.heap_lock()
    try:
        for _ in range(200):
            o.step(420, -75, 690, 500)
        for _ in range(200):
            o.step(220, 15, 430, 500)
        for _ in range(200):
            o.step(221, 14, 430, 5000)
    finally:
        micropython.heap_unlock()
    assert o.occupied == 0 and o.state == FREE


def test_resume_under_a_car():
    b = Bay()
    b.o.resume(EARTH, True)
    b.hold(60000, 150, -90, 260)
    assert b.changes == [] and b.o.occupied == 1
    b.hold(60000)
    assert [c[1] for c in b.changes] == [0]


def test_set_free_makes_a_new_baseline():
    b = Bay()
    b.hold(60000)
    b.hold(60000, 150, 0, 0)  # a bollard was put up
    assert b.o.occupied == 1
    b.o.set_free()
    assert b.o.state == UNKNOWN and b.o.baseline is None
    b.hold(60000, 150, 0, 0)
    assert b.o.occupied == 0 and b.o.state == FREE


def test_options_are_checked():
    for bad in ({"enter": 50, "leave": 70}, {"leave": 0}, {"quiet": 0}):
        try:
            Occupancy(**bad)
            raise AssertionError(bad)
        except ValueError:
            pass


async def test_a_day_of_parking_on_the_model():
    sim.values["occupied"] = 0
    chip = QMC5883LChip(sim.sense, sim.now_us)
    sim.attach_i2c(0, 0x0D, chip)
    d = open_driver("qmc5883l", I2C(0, freq=400000), {})
    await d.start()
    o = Occupancy()
    xyz = [0, 0, 0]
    began = sim.now_us() // 1000
    truth, seen = [], []
    x, at = 42, began + 600000
    last = began
    while last - began < 86400000:
        await asyncio.sleep_ms(o.wait_ms)
        now = sim.now_us() // 1000
        if now >= at:
            sim.values["occupied"] = 1 - sim.values["occupied"]
            truth.append(now)
            x = (x * 1103515245 + 12345) & 0x7FFFFFFF
            at = now + 120000 + (x >> 8) % 3600000
        if d.read_xyz_into(xyz):
            if o.step(xyz[0], xyz[1], xyz[2], now - last):
                seen.append((now, o.occupied))
            last = now
    assert len(truth) > 20
    if truth[-1] > last - 30000:
        truth.pop()
    assert len(seen) == len(truth), (len(seen), len(truth))
    for i in range(len(truth)):
        assert 0 < seen[i][0] - truth[i] < 20000 and seen[i][1] == 1 - i % 2, (i, truth[i], seen[i])

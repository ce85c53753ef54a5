"""Repeating paths of drivers and dsp on a VM with 31-bit small ints: under heap_lock an int that reaches 2**30 fails.

test_small_ints.py runs the cases in the 32-bit VM.
"""

import micropython
from array import array
from chips.bme280 import TRIM, BME280Chip
from mote.drivers.a02yyuw import A02YYUW
from mote.drivers.bme280 import BME280
from mote.drivers.lis3dh import degrees
from mote.drivers.pms5003 import PMS5003
from mote.drivers.pulse import PulseMeter
from mote.drivers.qmc5883l import QMC5883L
from mote.dsp import aweight, aweight_plain
from mote.dsp.decibel import mdb, mdb3
from mote.dsp.levels import Levels
from mote.dsp.occupancy import Occupancy, isqrt

WORLD = {}


def locked(f, a, b, c, d):
    """f(a, b, c, d) with the heap locked; MemoryError when it allocates."""
    micropython.heap_lock()
    try:
        return f(a, b, c, d)
    finally:
        micropython.heap_unlock()


class Bus:
    """An I2C whose reads give what the test put into `data`."""

    data = b""

    def readfrom_mem_into(self, addr, register, buf):
        for i in range(len(buf)):
            buf[i] = self.data[i]

    def any(self):
        return len(self.data)

    def readinto(self, buf, n):
        for i in range(len(self.data)):
            buf[i] = self.data[i]
        n = len(self.data)
        self.data = b""
        return n

    def value(self):
        return self.data


def bme280():
    d = BME280(None)
    d._t, d._p, d._h = TRIM["T"], TRIM["P"], TRIM["H"]
    chip = BME280Chip(lambda name: WORLD[name], lambda: 0)
    out = [0, 0, 0]
    for celsius in (-40, -20, 0, 25, 60, 85):
        for percent in (0, 50, 100):
            for hpa in (300, 700, 1013, 1100):
                WORLD.update({"temperature": celsius, "humidity": percent, "pressure": hpa})
                chip._put(*chip.raw())
                rx = bytearray(chip.reg[0xF7:0xFF])
                locked(lambda rx, out, _, __: d.convert(rx, out), rx, out, 0, 0)
                assert abs(out[0] - celsius * 10) <= 1 and abs(out[1] - percent * 10) <= 2, (out, celsius, percent)
                assert abs(out[2] + 10000 - hpa * 10) <= 1, (out, hpa)


def a_weighting():
    st = aweight.new_state()
    n = 1500
    signs = bytearray(n)
    one = array("i", (4000000 << 8,))
    for i in range(n):
        aweight_plain.run(one, 0, 1, st)
        one[0] = 0
        signs[n - 1 - i] = st[3] >= 0
    st = aweight.new_state()
    buf = array("i", [(8388607 if s else -8388608) << 8 for s in signs])
    # reading a word above 2**30 from an array makes a bignum of its own: halve the words, double the rest of the way
    small = array("i", [v >> 2 for v in buf])
    locked(aweight_plain.run, small, 0, n, st)
    levels = Levels()
    locked(lambda st, h, _, __: h.add((mdb(st[10], st[11]) - 30276) // 100, 31), st, levels, 0, 0)
    for high, low in ((0, 1), (0, 0xFFFFFF), ((1 << 30) - 1, 0xFFFFFF), (0x7FFF, 5), (1, 0)):
        locked(lambda a, b, _, __: mdb(a, b), high, low, 0, 0)
        locked(lambda a, b, _, __: mdb3(a & 0xFFFFFFF, b, b), high, low, 0, 0)
    assert levels.exceeded(50) > 900


def occupancy():
    o = Occupancy()
    for x in (220, 420, -8000, 8000, 220):
        for _ in range(30):
            locked(o.step, x, 15, 430, 500)
    assert isqrt((1 << 30) - 1) == 32767
    for _ in range(100):
        locked(o.step, 8000, 8000, 8000, 60000)


def frames():
    bus = Bus()
    d = PMS5003(bus)
    out = [0, 0, 0]
    bus.data = bytes.fromhex("424d001c000c00120019000b0011001807f802640076001500050001970003a3")
    d._in.fill()
    assert locked(lambda o, _, __, ___: d.take(o), out, 0, 0, 0) and out == [11, 17, 24]
    bus.data = bytes.fromhex("ff07a1a8ff07a1a7")
    a = A02YYUW(bus)
    a._in.fill()
    assert locked(lambda _, __, ___, ____: a.take(), 0, 0, 0, 0) == 1 and a.refused == 1
    m = QMC5883L(bus)
    bus.data = bytes.fromhex("ff7f0080e02e01")
    assert locked(lambda o, _, __, ___: m.read_xyz_into(o), out, 0, 0, 0) and out == [2731, -2731, 1000], out
    bus.data = 5
    p = PulseMeter(bus)
    bus.data = 4
    locked(lambda _, __, ___, ____: p.poll(), 0, 0, 0, 0)
    assert p.total == 32766
    for along in (-2000, 0, 1000, 2000):
        locked(lambda a, b, _, __: degrees(a, b), 2000, along, 0, 0)


def the_lock_can_fail():
    try:
        locked(lambda a, b, _, __: a * b, 1 << 15, 1 << 15, 0, 0)
    except MemoryError:
        return
    raise AssertionError("2**30 came for free: not a 32-bit VM")

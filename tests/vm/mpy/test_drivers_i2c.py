"""I2C drivers against their chip models: right values, and each fault ends in its named error within a bound."""

import asyncio
import json
import micropython
import sim
from chips.bme280 import BME280Chip, humidity, pressure, temperature
from chips.lis3dh import LIS3DHChip
from chips.qmc5883l import QMC5883LChip
from chips.sht4x import SHT4xChip
from machine import I2C
from mote.drivers import open_driver
from mote.drivers.errors import BadChecksum, NoAnswer, OutOfRange, WrongChip


def board(name, chip_class, addr, **options):
    sim.values.update({"temperature": 21.5, "humidity": 48.3, "pressure": 987.65, "tilt": 0, "occupied": 0})
    chip = chip_class(sim.sense, sim.now_us)
    sim.attach_i2c(0, addr, chip)
    return chip, open_driver(name, I2C(0, freq=400000), options)


async def fails(error, driver, bound_ms, out=None):
    """The reading must raise `error` within bound_ms of virtual time and leave `out` alone."""
    out = out if out is not None else [None] * len(driver.CHANNELS)
    before = list(out)
    began = sim.now_us()
    try:
        await driver.read_into(out)
    except error:
        assert out == before, out
        assert sim.now_us() - began <= bound_ms * 1000, sim.now_us() - began
        return
    raise AssertionError("no error, out = %r" % (out,))


async def test_bme280_reads_the_weather_over_its_whole_range():
    chip, d = board("bme280", BME280Chip, 0x76)
    out = [0, 0, 0]
    for celsius in (-40, -12.3, 0, 21.5, 36.6, 60, 85):
        for percent in (0.4, 20, 48.3, 77.7, 99.6):
            for hpa in (600, 700.1, 987.65, 1013.25, 1099):
                sim.values.update({"temperature": celsius, "humidity": percent, "pressure": hpa})
                await d.read_into(out)
                assert abs(out[0] - celsius * 10) <= 0.6, (celsius, out)
                assert abs(out[1] - percent * 10) <= 1.2, (percent, celsius, out)
                assert abs(out[2] + 10000 - hpa * 10) <= 0.6, (hpa, celsius, out)


def test_bme280_integers_give_the_datasheets_example():
    with open("/host0/data/sensor_vectors.json") as f:
        vectors = json.load(f)
    v, h = vectors["bmp280_bme280"], vectors["bme280_humidity"]
    d = open_driver("bme280", None, {})
    d._t = tuple([v["trim"]["dig_T%d" % i] for i in range(1, 4)])
    d._p = tuple([v["trim"]["dig_P%d" % i] for i in range(1, 10)])
    d._h = tuple([h["trim"]["dig_H%d" % i] for i in range(1, 7)])
    fine = d.fine(v["adc_T"])
    assert fine == v["t_fine"] and fine * 5 + 128 >> 8 == v["temperature_centi_c"]
    assert abs(d.pressure(v["adc_P"], fine) / 4 - v["pressure_pa_float_full_t_fine"]) < 0.6
    for case in h["cases"]:
        assert abs(d.humidity(case["adc_H"], fine) / 1024 - case["rh_float"]) < 0.02, case


def test_bme280_integers_follow_the_double_formula_for_other_trims():
    # trims spread around those of real pieces, from a seeded generator
    x = 7
    d = open_driver("bme280", None, {})
    worst = [0, 0, 0]
    for _ in range(300):
        r = []
        for _ in range(18):
            x = (x * 1103515245 + 12345) & 0x7FFFFFFF
            r.append((x >> 8) % 2001 - 1000)
        trim = {
            "T": (27700 + r[0], 26500 + r[1] // 2, r[2] // 20 + 50),
            "P": (37000 + 2 * r[3], -10600 + r[4] // 3, 3024, 6000 + 5 * r[5], r[6] // 5, -7, 12000 + 4 * r[7], -12000 + 3 * r[8], 5000 + r[9]),
            "H": (75, 365 + r[10] // 50, 0, 320 + r[11] // 20, 50 + r[12] // 100, 30),
        }  # fmt: skip
        d._t, d._p, d._h = trim["T"], trim["P"], trim["H"]
        t, p, h = 520000 + 120 * r[13], 400000 + 120 * r[14], 28000 + 8 * r[15]
        celsius, fine = temperature(trim, t)
        got = d.fine(t)
        worst[0] = max(worst[0], abs(got / 5120 - celsius))
        worst[1] = max(worst[1], abs(d.pressure(p, got) / 4 - pressure(trim, p, fine)))
        percent = min(100, max(0, humidity(trim, h, fine)))
        worst[2] = max(worst[2], abs(d.humidity(h, got) / 1024 - percent))
    print("largest differences to double precision: Cel, Pa, %RH:", worst)
    assert worst[0] < 0.01 and worst[1] < 1 and worst[2] < 0.05, worst


async def test_bme280_conversion_allocates_nothing():
    chip, d = board("bme280", BME280Chip, 0x76)
    out = [0, 0, 0]
    await d.read_into(out)
    rx = d._rx
    micropython.heap_lock()
    try:
        d.convert(rx, out)
    finally:
        micropython.heap_unlock()
    assert out == [215, 483, -124] or out == [215, 483, -123], out


async def test_bme280_is_asleep_between_readings_and_done_in_20_ms():
    chip, d = board("bme280", BME280Chip, 0x76)
    out = [0, 0, 0]
    await d.read_into(out)
    assert chip.reg[0xF4] & 3 == 0
    began = sim.now_us()
    await d.read_into(out)
    assert sim.now_us() - began < 20000


async def test_bme280_nack_is_an_oserror():
    for fault in ("nack", "silent"):
        chip, d = board("bme280", BME280Chip, 0x76)
        chip.fault = fault
        await fails(OSError, d, 1)
        chip.fault = None
        await d.read_into([0, 0, 0])
        chip.fault = fault  # and once it has worked
        await fails(OSError, d, 1)


async def test_frozen_values_are_delivered_as_they_stand():
    # no driver can tell still air from a frozen chip: the gateway's "stuck" rule does
    for name, cls, addr, fault in (("bme280", BME280Chip, 0x76, "frozen"), ("sht4x", SHT4xChip, 0x44, "stuck")):
        chip, d = board(name, cls, addr)
        out = [0] * len(d.CHANNELS)
        await d.read_into(out)
        chip.fault = fault
        sim.values["temperature"] = -5
        again = [0] * len(d.CHANNELS)
        await d.read_into(again)
        assert again == out and out[0] == 215, (name, out, again)


async def test_bme280_that_never_finishes_is_given_up():
    chip, d = board("bme280", BME280Chip, 0x76)
    chip.fault = "stuck"
    await fails(NoAnswer, d, 60)
    chip.fault = None
    out = [0, 0, 0]
    await d.read_into(out)
    assert out[0] == 215


async def test_bme280_reset_values_are_no_reading():
    for fault in ("skipped", "reset", "no_humidity"):
        chip, d = board("bme280", BME280Chip, 0x76)
        chip.fault = fault
        await fails(OutOfRange, d, 60)
        chip.fault = None
        out = [0, 0, 0]
        await d.read_into(out)
        assert out[0] == 215, (fault, out)


async def test_bme280_takes_air_whose_raw_value_is_the_reset_value_of_a_register():
    # at x1 a register has 16 bits, so each reset value is one step of 65,536 in the middle of the range: 26.46 Cel, 64.1 or 70 %RH
    chip, d = board("bme280", BME280Chip, 0x76)
    await d.start()
    fine = d.fine(0x80000)
    middle = (fine * 5 + 128 >> 8) / 100, d.humidity(0x8000, d.fine(0x7EED0)) / 1024
    sim.values.update({"temperature": middle[0], "humidity": 50, "pressure": 1013.25})
    assert chip.raw()[1] == 0x80000
    out = [0, 0, 0]
    await d.read_into(out)
    assert abs(out[0] - middle[0] * 10) <= 1 and abs(out[1] - 500) <= 1 and abs(out[2] - 132) <= 1, out
    for t, p, h in ((0x80000, 0x655AC, 0x7530), (0x7EED0, 0x655AC, 0x8000), (0x7EED0, 0x80000, 0x7530)):
        d.convert(
            bytes((p >> 12, p >> 4 & 255, p << 4 & 255, t >> 12, t >> 4 & 255, t << 4 & 255, h >> 8, h & 255)), out
        )
        assert 248 <= out[0] <= 266 and 500 <= out[1] <= 710 and -1900 <= out[2] <= 120, (t, p, h, out)


async def test_bme280_refuses_a_bmp280():
    chip, d = board("bme280", BME280Chip, 0x76)
    chip.fault = "wrong_chip"
    await fails(WrongChip, d, 5)


async def test_bme280_without_power_for_a_moment_reads_right_again():
    chip, d = board("bme280", BME280Chip, 0x76)
    out = [0, 0, 0]
    await d.read_into(out)
    chip._reset()
    await d.read_into(out)
    assert out[0] == 215


async def test_sht4x_reads_the_weather():
    chip, d = board("sht4x", SHT4xChip, 0x44)
    out = [0, 0]
    for celsius in (-39.9, -5, 0, 21.5, 84):
        for percent in (0, 33.3, 99.9):
            sim.values.update({"temperature": celsius, "humidity": percent})
            await d.read_into(out)
            assert abs(out[0] - celsius * 10) < 0.7 and abs(out[1] - percent * 10) < 0.7, (celsius, percent, out)


async def test_sht4x_counts_and_refuses_a_wrong_crc():
    chip, d = board("sht4x", SHT4xChip, 0x44)
    chip.fault = "crc"
    await fails(BadChecksum, d, 40)
    assert d.refused == 2


async def test_sht4x_nack_is_an_oserror():
    chip, d = board("sht4x", SHT4xChip, 0x44)
    for fault in ("nack", "silent"):
        chip.fault = fault
        await fails(OSError, d, 40)


async def test_lis3dh_tells_the_tilt_in_degrees():
    chip, d = board("lis3dh", LIS3DHChip, 0x18)
    out = [0]
    for angle in (0, 1, 5, 12, 44, 45, 46, 60, 89, 90, 91, 135, 179, 180):
        sim.values["tilt"] = angle
        await d.read_into(out)
        assert abs(out[0] - angle) <= 1, (angle, out)
    assert chip.reg[0x20] >> 4 == 0  # powered down


async def test_lis3dh_mounted_upside_down_is_upright():
    chip, d = board("lis3dh", LIS3DHChip, 0x18, up="-z")
    sim.values["tilt"] = 180
    out = [90]
    await d.read_into(out)
    assert out[0] <= 1


async def test_lis3dh_faults():
    chip, d = board("lis3dh", LIS3DHChip, 0x18)
    for fault, error in (
        ("nack", OSError),
        ("silent", OSError),
        ("wrong_chip", WrongChip),
        ("stuck", NoAnswer),
        ("shaken", OutOfRange),
    ):
        chip, d = board("lis3dh", LIS3DHChip, 0x18)
        chip.fault = fault
        await fails(error, d, 80)


async def test_qmc5883l_measures_the_earth_in_tenths_of_a_microtesla():
    chip, d = board("qmc5883l", QMC5883LChip, 0x0D)
    xyz = [0, 0, 0]
    await d.wait_xyz_into(xyz)
    for i in range(3):
        assert abs(xyz[i] - (220, 15, 430)[i]) <= 3, xyz
    out = [0]
    await d.read_into(out)
    assert out[0] <= 6
    sim.values["occupied"] = 1
    await d.read_into(out)
    await asyncio.sleep(6)
    await d.read_into(out)
    assert abs(out[0] - 313) < 12, out  # |(15, -9, 26)| uT


async def test_qmc5883l_says_when_there_is_no_new_sample():
    chip, d = board("qmc5883l", QMC5883LChip, 0x0D)
    xyz = [0, 0, 0]
    await d.wait_xyz_into(xyz)
    assert d.read_xyz_into(xyz) is False
    await asyncio.sleep_ms(100)
    assert d.read_xyz_into(xyz) is True


async def test_qmc5883l_faults():
    for fault, error, ms in (
        ("nack", OSError, 5),
        ("wrong_chip", WrongChip, 5),
        ("stuck", NoAnswer, 600),
        ("overflow", OutOfRange, 300),
    ):
        chip, d = board("qmc5883l", QMC5883LChip, 0x0D)
        chip.fault = fault
        await fails(error, d, ms)
        chip.fault = None
        await d.read_into([0])

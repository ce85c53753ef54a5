"""The BME280 model: its formulas against published values, its registers, its timing, its faults."""

import pytest

from host_sim.chips.bme280 import TRIM, BME280Chip, humidity, pressure, temperature

from .world import VECTORS, World

BMP = VECTORS["bmp280_bme280"]
HUM = VECTORS["bme280_humidity"]
DATASHEET = {
    "T": tuple(BMP["trim"][f"dig_T{i}"] for i in range(1, 4)),
    "P": tuple(BMP["trim"][f"dig_P{i}"] for i in range(1, 10)),
    "H": tuple(HUM["trim"][f"dig_H{i}"] for i in range(1, 7)),
}


def test_temperature_formula_gives_the_datasheets_example():
    celsius, fine = temperature(DATASHEET, BMP["adc_T"])
    assert celsius == pytest.approx(BMP["temperature_centi_c"] / 100, abs=0.005)
    assert int(fine) == BMP["t_fine"]


def test_pressure_formula_gives_the_datasheets_example():
    fine = temperature(DATASHEET, BMP["adc_T"])[1]
    pa = pressure(DATASHEET, BMP["adc_P"], fine)
    assert pa == pytest.approx(BMP["pressure_pa_float_full_t_fine"], abs=0.005)
    assert pa == pytest.approx(BMP["datasheet_prints"]["pressure_pa"], abs=0.05)


@pytest.mark.parametrize("case", HUM["cases"], ids=lambda c: str(c["adc_H"]))
def test_humidity_formula_gives_the_computed_cases(case):
    assert humidity(DATASHEET, case["adc_H"], HUM["t_fine"]) == pytest.approx(case["rh_float"], abs=0.001)


@pytest.mark.parametrize("celsius", [-39.5, -10.0, 0.0, 21.5, 60.0, 84.0])
@pytest.mark.parametrize("percent", [0.5, 50.0, 99.0])
@pytest.mark.parametrize("hpa", [300.0, 987.65, 1100.0])
def test_raw_values_are_the_inverse_of_the_compensation(celsius, percent, hpa):
    chip_world = World(temperature=celsius, humidity=percent, pressure=hpa)
    p, t, h = BME280Chip(chip_world.sense, chip_world.now_us).raw(5, 5, 5)
    got, fine = temperature(TRIM, t)
    assert got == pytest.approx(celsius, abs=0.006)
    assert pressure(TRIM, p, fine) == pytest.approx(hpa * 100, abs=0.2)
    assert humidity(TRIM, h, fine) == pytest.approx(percent, abs=0.01)


def chip():
    world = World()
    made = BME280Chip(world.sense, world.now_us)
    world.wait_ms(5)
    return world, made


def get(made, register, n=1):
    made.write(bytes((register,)))
    return made.read(n)


def test_trim_registers_hold_the_trims_as_the_datasheet_packs_them():
    _, made = chip()
    r = get(made, 0x88, 26)
    words = [int.from_bytes(r[i : i + 2], "little", signed=i not in (0, 6)) for i in range(0, 24, 2)]
    assert tuple(words[:3]) == TRIM["T"] and tuple(words[3:]) == TRIM["P"]
    e = get(made, 0xE1, 7)
    h4 = int.from_bytes(e[3:4], "big", signed=True) * 16 | e[4] & 15
    h5 = int.from_bytes(e[5:6], "big", signed=True) * 16 | e[4] >> 4
    assert (r[25], int.from_bytes(e[:2], "little", signed=True), e[2], h4, h5, e[6]) == TRIM["H"]


def test_forced_mode_is_busy_then_sleeps_with_fresh_data():
    world, made = chip()
    assert get(made, 0xF7, 8) == bytes.fromhex("8000008000008000")
    made.write(b"\xf2\x01")
    made.write(b"\xf4\x25")
    world.wait_ms(7.9)
    assert get(made, 0xF3)[0] & 8
    assert get(made, 0xF7, 8) == bytes.fromhex("8000008000008000")
    world.wait_ms(1)
    assert not get(made, 0xF3)[0] & 8
    assert get(made, 0xF4)[0] & 3 == 0
    data = get(made, 0xF7, 8)
    assert temperature(TRIM, data[3] << 12 | data[4] << 4 | data[5] >> 4)[0] == pytest.approx(21.5, abs=0.006)


def test_humidity_stays_off_until_ctrl_meas_is_written():
    world, made = chip()
    made.write(b"\xf4\x25")
    made.write(b"\xf2\x01")
    world.wait_ms(20)
    get(made, 0xF3)
    assert get(made, 0xFD, 2) == b"\x80\x00"


def test_reset_command_forgets_settings():
    world, made = chip()
    made.write(b"\xf2\x01")
    made.write(b"\xe0\xb6")
    assert get(made, 0xF2) == b"\x00"
    assert get(made, 0xF3)[0] & 1
    world.wait_ms(3)
    assert get(made, 0xF3)[0] & 1 == 0


@pytest.mark.parametrize("fault", ["nack", "silent"])
def test_absent_chip_answers_with_enodev(fault):
    _, made = chip()
    made.fault = fault
    with pytest.raises(OSError) as error:
        get(made, 0xD0)
    assert error.value.args[0] == 19  # ENODEV

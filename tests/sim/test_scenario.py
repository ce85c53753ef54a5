"""Scenario and board files: what is shipped is right, what is wrong is named with the fix."""

from __future__ import annotations

import ast
import json
import tomllib
from dataclasses import replace

import pytest

from host_sim import boards, provision, romfs
from host_sim import compile as mpy
from host_sim.scenario import Group, ScenarioError, known, load
from host_sim.scenario_checks import RULE
from host_sim.vm.run import heap_bytes

GOOD = """
[scenario]
description = "x"
start = 2026-03-02T00:00:00Z
[area]
lat = 45.5
lon = 13.7
[[receiver]]
name = "rx"
eui = "aa555a0000000001"
lat = 45.5
lon = 13.7
[[group]]
name = "aq"
profile = "air_quality"
count = 2
"""


@pytest.mark.parametrize("name", known())
def test_shipped_scenarios_load(name):
    assert load(name).members()


def test_district_is_what_the_mission_asks_for():
    district = load("district")
    members = district.members()
    assert len(members) >= 20
    assert {g.profile for g, _ in members} == set(provision.CHIPS)
    assert {g.link for g, _ in members} == {"lora", "wifi"}
    assert len(district.receivers) >= 2 and district.cuts and district.losses


@pytest.mark.parametrize("count", [1, 5, 7, 20, 40])
def test_a_chosen_number_of_nodes_is_kept(count):
    members = load("district").members(count)
    assert len(members) == count == len({name for _, name in members})


@pytest.mark.parametrize(
    "broken, words",
    [
        (GOOD.replace("count = 2", "cuont = 2"), ["[[group]] number 1", '"cuont"', 'did you mean "count"']),
        (GOOD.replace("count = 2", 'count = "2"'), ['"count" must be int']),
        (
            GOOD + 'config = { mdoe = "sleep" }\n',
            ["[[group]] number 1", 'config: unknown key "mdoe"', 'did you mean "mode"'],
        ),
        (GOOD + "config = { wdt = 1 }\n", ['unknown key "wdt"']),
        (GOOD.replace("air_quality", "air_qualty"), ['"air_qualty" is unknown', 'did you mean "air_quality"']),
        (GOOD.replace("[area]", "[aera]"), ['unknown table "aera"', 'did you mean "area"']),
        (GOOD.replace('description = "x"', ""), ['"description" is missing']),
        (GOOD.replace("00:00:00Z", "00:00:00"), ["needs a time zone"]),
        (
            GOOD + '[[power_cut]]\nnodes = ["aq-1"]\nat_h = 1\nminutes = 5\n',
            ['"aq-1" is unknown', 'did you mean "aq-01"'],
        ),
        (GOOD + "[[loss]]\nfrom_h = 2\nto_h = 1\nfraction = 0.5\n", ["from_h < to_h"]),
        (GOOD.replace("aa555a0000000001", "AA55"), ["16 lower-case hex digits"]),
        (GOOD.replace("[[group]]", "[group]"), ["write [[group]]"]),
        (GOOD + "[scenario\n", ["not TOML"]),
        (
            GOOD + '[[power]]\nnodes = ["aq"]\non = 17\noff_h = 6\n',
            ["[[power]] number 1", '"on"', 'did you mean "on_h"'],
        ),
        (GOOD + '[[power]]\nnodes = ["aqq"]\non_h = 17\noff_h = 6\n', ['"aqq" is unknown', 'did you mean "aq"']),
        (GOOD + '[[power]]\nnodes = ["aq"]\non_h = 17\noff_h = 24\n', ["within 0..24"]),
        (GOOD + '[[power]]\nnodes = ["aq"]\non_h = 6\noff_h = 6\n', ["not equal"]),
        (GOOD + '[power]\nnodes = ["aq"]\n', ["write [[power]]"]),
        (GOOD + "[[gateway_down]]\nfrom = 1\nto_h = 2\n", ['"from"', 'did you mean "from_h"']),
        (GOOD + "[[gateway_down]]\nfrom_h = 2\nto_h = 2\n", ["[[gateway_down]] number 1", "from_h < to_h"]),
        (
            GOOD + "[[gateway_down]]\nfrom_h = 1\nto_h = 3\n[[gateway_down]]\nfrom_h = 2\nto_h = 4\n",
            ["number 2", "the one before"],
        ),
        (GOOD + "[[gateway_down]]\nfrom_h = 1\nto_h = 2\nkill = 9\n", ['"kill" must be bool']),
        (GOOD + "[[gatewaydown]]\nfrom_h = 1\n", ['did you mean "gateway_down"']),
        (GOOD + 'drift_ppm = "fast"\n', ['"drift_ppm" must be']),
        (GOOD + "drift_ppm = [300, -300]\n", ['"drift_ppm" must be a number or [low, high]']),
        (GOOD + "drfit_ppm = 10\n", ['did you mean "drift_ppm"']),
        (GOOD + "battery = [[0, 3.9], [0, 3.2]]\n", ["in order of time"]),
        (GOOD + 'broken = { pms503 = "raises" }\n', ['no "pms503"', 'did you mean "pms5003"']),
        (GOOD + 'broken = { inmp441 = "raises" }\n', ['air_quality has no "inmp441"', "bme280, pms5003"]),
        (GOOD + 'broken = { pms5003 = "hang" }\n', ['fault "hang" is unknown', 'did you mean "hangs"']),
        (GOOD + "broken = { pms5003 = 1 }\n", ['"broken" must be']),
        (GOOD + '[expect]\nshed = { aq-02 = ["pm25"] }\nfault = {}\n', ['"fault"', 'did you mean "faults"']),
        (GOOD + '[expect.shed]\naq-3 = ["pm25"]\n', ["[expect] shed", '"aq-3" is unknown', "did you mean"]),
        (GOOD + '[expect.shed]\naq = ["pm2.5"]\n', ['"pm2.5" is unknown', 'did you mean "pm25"']),
        (GOOD + '[expect.resets]\naq = ["wtd"]\n', ['"wtd" is unknown', 'did you mean "wdt"']),
        (GOOD + '[expect.shed]\naq = "pm25"\n', ['"shed" must be']),
        (GOOD + "[[expect]]\n", ["write [expect]"]),
        (
            GOOD + '[[loss]]\nfrom_h = 0\nto_h = 1\nfraction = 0.3\nreceivers = ["rxx"]\n',
            ['receiver "rxx" is unknown', 'did you mean "rx"'],
        ),
        (
            GOOD + "[[gateway_clock]]\nfrom_h = 3\nto_h = 2\noffset_s = 5\n",
            ["[[gateway_clock]] number 1", "from_h < to_h"],
        ),
        (GOOD + "[[gateway_clock]]\nfrom_h = 1\nto_h = 2\nrate = 2\n", ['"rate" must be -0.5..0.5']),
        (GOOD + "[[gateway_clock]]\nfrom_h = 1\nto_h = 2\noffset_s = 1e12\n", ['"offset_s" must be']),
        (GOOD + "[[wifi_down]]\nfrom_h = 3\nto_h = 1\n", ["[[wifi_down]] number 1", "from_h < to_h"]),
        (GOOD + "[[loss]]\nfrom_h = -1\nto_h = 1\nfraction = 0.5\n", ["0 <= from_h"]),
        (GOOD + "[[loss]]\nfrom_h = 24\nto_h = 25\nfraction = 0.5\n", ['"from_h" is 24', "ends at 24 h"]),
        (GOOD + "[[power_cut]]\nnodes = []\nat_h = 1\nminutes = 5\n", ["[[power_cut]] number 1", "names none"]),
        *(
            (GOOD + f'[[power_cut]]\nnodes = ["aq"]\n{keys}\n', ["[[power_cut]] number 1", words])
            for keys, words in (
                ("at_h = -1\nminutes = 5", "at_h >= 0"),
                ("at_h = 1\nminutes = -5", "minutes > 0"),
                ("at_h = 1\nminutes = 5\nevery_h = -1", "every_h longer"),
                ("at_h = 1\nminutes = 5\nevery_h = 0.05", "every_h longer"),
                ("at_h = 1\nminutes = 0.00001\nevery_h = 0.00001", "every_h longer"),
                ("at_h = 30\nminutes = 5", '"at_h" is 30, but the scenario ends at 24 h'),
            )
        ),
        (GOOD + '[[command]]\nnode = "aq-01"\nat_h = 24\nname = "ping"\n', ["[[command]] number 1", '"at_h" is 24']),
        *(
            (
                GOOD.replace(
                    "[[group]]", f'[[receiver]]\nname = "{name}"\neui = "{eui}"\nlat = 45.5\nlon = 13.7\n[[group]]'
                ),
                ["[[receiver]] number 2", "that of another receiver"],
            )
            for name, eui in (("rx", "aa555a0000000002"), ("rx2", "aa555a0000000001"))
        ),
        *(
            (GOOD + f"alarms = [{{ {rule} }}]\n", ["[[group]] number 1: alarms number 1", words])
            for rule, words in (
                ('q = "pm10", above = 50, hld = 3', '"hld" (did you mean "hold"?)'),
                ('q = "pm1o0", above = 50', '"pm1o0" is unknown (did you mean "pm10"?)'),
                ('q = "pm10", above = 50, clear = 70', '"clear" 70 is on the wrong side of above 50'),
                ('q = "pm10", below = 50, clear = 40', '"clear" 40 is on the wrong side of below 50'),
                ('q = "pm10", above = 1500', '"above" must be 0..1000'),
                ('q = "pm10", above = "50"', '"above" must be a number'),
                ('q = "pm10", above = 50, below = 20', "one of"),
                ('q = "pm10"', "one of"),
                ("above = 50", '"None" is unknown'),
            )
        ),
        (GOOD + 'heap = "10wK"\n', ['"heap" must be at least']),
        (
            GOOD + 'link = "wifi"\n[[radio_fault]]\nnodes = ["aq"]\nkind = "busy"\nfrom_h = 1\n',
            ['"aq" has no LoRa chip'],
        ),
        (
            GOOD + '[[chip_fault]]\nnodes = ["aq"]\nchip = "inmp441"\nfault = "silent"\nfrom_h = 1\nminutes = 5\n',
            ['"aq" has no inmp441', "pms5003, bme280"],
        ),
        (
            GOOD + '[[radio_fault]]\nnodes = ["aq"]\nkind = "busy"\nfrom_h = 25\n',
            ["[[radio_fault]] number 1", '"from_h" is 25'],
        ),
        (
            GOOD + '[[radio_fault]]\nnodes = ["aq"]\nkind = "bussy"\nfrom_h = 1\n',
            ['"bussy" is unknown', 'did you mean "busy"'],
        ),
        (GOOD + '[[radio_fault]]\nnodes = ["aqq"]\nkind = "busy"\nfrom_h = 1\n', ["[[radio_fault]] number 1", '"aqq"']),
        (
            GOOD + '[[radio_fault]]\nnodes = ["aq"]\nkind = "busy"\nfrom_h = 1\nminutes = 90\nevery_h = 1\n',
            ["every_h longer"],
        ),
        (
            GOOD + '[[chip_fault]]\nnodes = ["aq"]\nchip = "pms503"\nfault = "dead"\nfrom_h = 1\nminutes = 5\n',
            ['"pms503" is unknown', 'did you mean "pms5003"'],
        ),
        (
            GOOD + '[[chip_fault]]\nnodes = ["aq"]\nchip = "pms5003"\nfault = "ded"\nfrom_h = 1\nminutes = 5\n',
            ['fault "ded" is unknown', 'did you mean "dead"'],
        ),
    ],
)
def test_a_broken_file_is_named_with_key_and_fix(tmp_path, broken, words):
    path = tmp_path / "mine.toml"
    path.write_text(broken)
    with pytest.raises(ScenarioError) as e:
        load(str(path))
    for word in [str(path), *words]:
        assert word in str(e.value)


def test_a_run_that_is_longer_than_its_worlds_data_is_refused_by_name(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    with pytest.raises(
        ScenarioError, match=r'mine: \[\[group\]\] "aq": air_beijing.csv has [0-9]+ h .* are 9006; next'
    ):
        provision.nodes(load(str(path)), hours=9000, count=None, seed=1, folder=tmp_path)


def test_the_keys_of_a_rule_are_those_that_a_node_knows():
    """mote.rules imports what no CPython has."""
    tree = ast.parse((mpy.firmware_root() / "mote" / "rules.py").read_text())
    (keys,) = (n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "_KEYS")
    assert ast.literal_eval(keys) == RULE


def test_an_unknown_scenario_lists_the_known_ones():
    with pytest.raises(ScenarioError, match='did you mean "district".*next: citymote sim list'):
        load("distrikt")


def loaded(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return load(str(path))


def cuts_of(tmp_path, scenario, **how):
    folder = tmp_path / "nodes"
    folder.mkdir()
    how = {"hours": 48.0, "count": None, "seed": 1} | how
    return {m.spec.name: m.spec for m in provision.nodes(scenario, folder=folder, **how)}


def test_faults_of_hardware_come_to_the_nodes_that_are_named_as_often_as_they_are_said_to(tmp_path):
    text = GOOD + (
        '[[radio_fault]]\nnodes = ["aq-02"]\nkind = "busy"\nfrom_h = 1\nminutes = 2\nevery_h = 20\n'
        '[[chip_fault]]\nnodes = ["aq"]\nchip = "adc"\nfault = "noise"\nfrom_h = 3\nminutes = 60\n'
        "[[gateway_clock]]\nfrom_h = 5\nto_h = 6\noffset_s = -90\nrate = 0.01\n"
    )
    scenario = loaded(tmp_path, text)
    specs = cuts_of(tmp_path, scenario)
    adc = ["adc", "noise", 3 * 3_600_000_000, 4 * 3_600_000_000]
    busy = [["radio", "busy", h * 3_600_000_000, h * 3_600_000_000 + 120_000_000] for h in (1, 21, 41)]
    assert specs["aq-01"].hw["faults"] == [adc] and specs["aq-02"].hw["faults"] == [*busy, adc]
    assert [(c.from_h, c.to_h, c.offset_s, c.rate) for c in scenario.gateway_clock] == [(5, 6, -90, 0.01)]


def test_a_nightly_supply_becomes_a_cut_every_day_shifted_a_little_per_node(tmp_path):
    text = GOOD.replace("00:00:00Z", "02:00:00Z") + '[[power]]\nnodes = ["aq"]\non_h = 17.5\noff_h = 6.5\n'
    specs = cuts_of(tmp_path, loaded(tmp_path, text))
    seen = set()
    for spec in specs.values():
        hours = [(c.at / 3.6e9, c.back / 3.6e9) for c in spec.cuts]
        shift = hours[0][0] - 4.5
        assert abs(shift) <= 5 / 60
        # 6.5 UTC is 4.5 h after a start at 2:00; the supply goes on failing through the drain
        assert hours == [pytest.approx((4.5 + d + shift, 15.5 + d + shift)) for d in (0, 24, 48)]
        assert spec.powered_us(spec.cuts[1].at) == spec.cuts[1].at - spec.power_on - (
            spec.cuts[0].back - spec.cuts[0].at
        )
        seen.add(shift)
    assert len(seen) == 2


def test_a_run_that_starts_by_day_begins_without_power(tmp_path):
    text = (
        GOOD.replace("00:00:00Z", "12:00:00Z") + '[[power]]\nnodes = ["aq-02"]\non_h = 18\noff_h = 6\nspread_min = 0\n'
    )
    specs = cuts_of(tmp_path, loaded(tmp_path, text))
    assert specs["aq-01"].cuts == ()
    first = specs["aq-02"].cuts[0]
    assert (first.at, first.back) == (-6 * provision.HOUR_US, 6 * provision.HOUR_US)
    assert specs["aq-02"].powered_us(7 * provision.HOUR_US) == provision.HOUR_US


def test_overlapping_cuts_are_one(tmp_path):
    text = GOOD + '[[power]]\nnodes = ["aq-01"]\non_h = 18\noff_h = 6\nspread_min = 0\n'
    text += '[[power_cut]]\nnodes = ["aq"]\nat_h = 5.5\nminutes = 60\n'
    specs = cuts_of(tmp_path, loaded(tmp_path, text), hours=24.0)
    hours = [(c.at / 3.6e9, c.back / 3.6e9) for c in specs["aq-01"].cuts]
    assert hours == [(5.5, 18.0)]
    assert len(specs["aq-02"].cuts) == 1


@pytest.mark.parametrize("drift, low, high", [("12.5", 12.5, 12.5), ("-40", -40, -40), ("[-500, 300]", -500, 300)])
def test_a_drift_is_given_or_drawn(tmp_path, drift, low, high):
    specs = cuts_of(tmp_path, loaded(tmp_path, GOOD + f"drift_ppm = {drift}\n"))
    drifts = [s.drift_ppm for s in specs.values()]
    assert all(low <= d <= high for d in drifts)
    assert (drifts[0] == drifts[1]) == (low == high)


@pytest.mark.parametrize("battery, volts", [("3.2", [3.2, 3.2]), ("[[0, 4.0], [10, 3.0]]", [4.0, 3.5])])
def test_a_battery_is_a_voltage_or_a_course(tmp_path, battery, volts):
    from host_sim import worlds

    scenario = loaded(tmp_path, GOOD + f"battery = {battery}\n")
    world = worlds.build("air_quality", 10, 1, "aq-01")
    supply = provision.supply(scenario.groups[0], world)
    assert [supply.at(t) for t in (0, 5 * 3600)] == volts


def test_a_battery_that_sinks_too_low_is_a_cut(tmp_path):
    low = "[[0, 3.9], [10, 3.9], [11, 1.0], [12, 1.0], [13, 4.0], [40, 4.0]]"
    (cut,) = cuts_of(tmp_path, loaded(tmp_path, GOOD + f"battery = {low}\n"))["aq-01"].cuts
    assert 10 < cut.at / 3.6e9 < 11 and 12 < cut.back / 3.6e9 < 13


def test_a_broken_driver_stands_in_the_sound_ones_place(tmp_path):
    rom = mpy.with_faults(mpy.firmware_root(), {"pms5003": "hangs"})
    plain = mpy.compiled(mpy.firmware_root())
    drivers = rom / "mote" / "drivers"
    assert rom != plain and rom == mpy.with_faults(mpy.firmware_root(), {"pms5003": "hangs"})
    assert rom != mpy.with_faults(mpy.firmware_root(), {"pms5003": "raises"})
    assert (drivers / "pms5003.mpy").read_bytes() != (plain / "mote" / "drivers" / "pms5003.mpy").read_bytes()
    assert b"PMS5003" in (drivers / "pms5003_sound.mpy").read_bytes()
    assert (drivers / "bme280.mpy").read_bytes() == (plain / "mote" / "drivers" / "bme280.mpy").read_bytes()


@pytest.mark.parametrize("path", sorted(mpy.boards_root().glob("*.toml")), ids=lambda p: p.stem)
def test_board_files_describe_what_every_profile_needs(path):
    board = tomllib.loads(path.read_text())
    assert board["board"]["name"] == path.stem
    for profile in provision.CHIPS:
        assert provision.hardware(profile, board)
    radio = board["radio"]
    assert str(radio["spi"]) in board["spi"]
    assert radio["power_dbm"] + radio["antenna_gain_dbi"] <= 16.15
    pins = [
        v
        for t in ("i2c", "uart", "i2s", "pulse", "spi")
        for bus in board[t].values()
        for k, v in bus.items()
        if k != "freq_hz"
    ]
    pins += [radio[k] for k in ("cs", "busy", "dio1", "reset")] + [board["battery"]["pin"], board["led"]["pin"]]
    assert len(pins) == len(set(pins)), "a pin is used twice"


def test_a_node_runs_from_its_boards_image_with_what_the_board_leaves_and_the_scenario_may_say_otherwise(tmp_path):
    """110,000 bytes with LoRa and 100,000 with WiFi on a plain ESP32, in words of 32 bits; the real radio driver has 6,576 of the former."""
    groups = (
        Group("a", "parking", 1),
        Group("b", "parking", 1, link="wifi"),
        Group("c", "parking", 1, way="mpy", heap="97wK"),
        Group("d", "parking", 1, board="lilygo_t3s3"),
    )
    plan = replace(load("district"), groups=groups, cuts=(), losses=())
    a, b, c, d = (m.spec for m in provision.nodes(plan, hours=1, count=None, seed=1, folder=tmp_path))
    assert [heap_bytes(s.heap) // 2 for s in (a, b, c, d)] == [110_000 - 6_576, 100_000, 97 * 1024, 1_500_000 - 13_536]
    assert a.partition == b.partition and c.partition is None and d.partition is None
    image = romfs.image(mpy.compiled(mpy.firmware_root()))
    assert a.partition is not None and a.partition.read_bytes() == romfs.partition(image)
    assert {n: p.read_bytes() for n, p in a.files.items() if n.startswith(("/a/", "/slot"))} == image.proven()
    assert json.loads(c.files["/board.json"].read_text()) == boards.wiring("esp32_generic")


def test_a_broken_driver_is_in_the_image_of_its_node_only(tmp_path):
    groups = (Group("a", "air_quality", 1), Group("b", "air_quality", 1, broken={"pms5003": "raises"}))
    plan = replace(load("district"), groups=groups, cuts=(), losses=())
    a, b = (m.spec for m in provision.nodes(plan, hours=1, count=None, seed=1, folder=tmp_path))
    assert b"pms5003_sound" in b.partition.read_bytes() and b"pms5003_sound" not in a.partition.read_bytes()

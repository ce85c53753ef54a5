"""Scenario and board files: what is shipped is right, what is wrong is named with the fix."""

from __future__ import annotations

import tomllib

import pytest

from host_sim import compile as mpy
from host_sim import provision
from host_sim.scenario import ScenarioError, known, load

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
    ],
)
def test_a_broken_file_is_named_with_key_and_fix(tmp_path, broken, words):
    path = tmp_path / "mine.toml"
    path.write_text(broken)
    with pytest.raises(ScenarioError) as e:
        load(str(path))
    for word in [str(path), *words]:
        assert word in str(e.value)


def test_an_unknown_scenario_lists_the_known_ones():
    with pytest.raises(ScenarioError, match='did you mean "district".*known: .*district'):
        load("distrikt")


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

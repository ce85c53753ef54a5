"""What a configuration may say, for the node, the gateway and the simulator: tables that must agree with those of the drivers and of the duty cycle."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from motewire import config

FIRMWARE = Path(__file__).parents[2] / "firmware" / "mote"


def options() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in config._OPTIONS.split("\n"):  # pyright: ignore[reportPrivateUsage]
        if line:
            name, key = line.split(" ")[:2]
            found.setdefault(name, set()).add(key)
    return found


def arguments(path: Path) -> dict[str, set[str]]:
    """{class: optional arguments of its constructor} of a file."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            for f in node.body:
                if isinstance(f, ast.FunctionDef) and f.name == "__init__":
                    found[node.name] = {a.arg for a in f.args.args[len(f.args.args) - len(f.args.defaults) :]}
    return found


def test_every_option_of_every_driver_is_judged_and_no_other() -> None:
    tree = ast.parse((FIRMWARE / "drivers" / "__init__.py").read_text())
    table: dict[str, str] = next(ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign))
    judged = options()
    for name, where in table.items():
        module, cls = where.split(":")
        assert judged[name] == arguments(FIRMWARE / "drivers" / f"{module}.py")[cls], name
    assert set(config._CHIPS) == set(table)  # pyright: ignore[reportPrivateUsage]
    bay = arguments(FIRMWARE / "dsp" / "occupancy.py")["Occupancy"]
    assert judged["bay"] == bay - {"slow_ms"}, "slow_ms is sample_s"


def test_the_bands_are_those_whose_time_on_air_is_accounted_for() -> None:
    tree = ast.parse((FIRMWARE / "duty.py").read_text())
    bands = next(
        ast.literal_eval(n.value)
        for n in tree.body
        if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "SUB_BANDS"
    )
    assert tuple(b[:2] for b in bands) == config.BANDS


def test_profiles_of_event_rows_are_named() -> None:
    events = [p.stem for p in (FIRMWARE / "profiles").glob("*.py") if 'return config["sample_s"], 0' in p.read_text()]
    assert tuple(events) == config.EVENTS


def test_defaults_are_right() -> None:
    why, filled = config.judged({"node": 1, "profile": "air_quality"})
    assert not why and set(filled) == set(config.KEYS)
    for key, (*_, default) in config.KEYS.items():
        if default is not config.MUST and key != "name":
            assert not config.wrong(key, default), key


def test_every_profile_has_rules_on_what_its_rows_hold_and_on_nothing_else() -> None:
    columns: dict[str, str] = {}
    for file in (FIRMWARE / "profiles").glob("*.py"):
        for cls in (n for n in ast.parse(file.read_text()).body if isinstance(n, ast.ClassDef)):
            for line in (n for n in cls.body if isinstance(n, ast.Assign)):
                if getattr(line.targets[0], "id", "") == "KEYS" and file.stem != "__init__":
                    columns[file.stem] = " ".join(ast.literal_eval(line.value))
    assert columns == config._COLUMNS  # pyright: ignore[reportPrivateUsage]
    assert (
        config.foreign({"profile": "noise", "alarms": [{"q": "fill_level", "above": 5}]})
        == "alarms: noise has no fill_level"
    )
    assert config.foreign({"profile": "noise", "alarms": [{"above": 5}]})
    for fine in (
        {"profile": "noise"},
        {"alarms": [{"q": "x"}]},
        {"profile": "to_come", "alarms": [{"q": "x"}]},
        {"profile": None, "alarms": None},
        {"profile": "noise", "alarms": [{"q": "laeq"}]},
    ):
        assert not config.foreign(fine), fine


def test_an_option_that_no_driver_has_is_named() -> None:
    assert not config.misspelt({"bme280": {"addr": 118, "unit": 0}, "leak": None, "next": {"x": 1}})
    assert config.misspelt({"bme280": {"adr": 118}}) == "sensors.bme280.adr is none"
    assert config.misspelt({"leak": {"unit": 1}})


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"channels_khz": [868100, 869525]}, ""),
        ({"channels_khz": [865100, 868100, 869525]}, "two sub-bands"),
        ({"channels_khz": [868700]}, "868700"),
        ({"wifi": {"ssid": "s" * 32, "password": "", "host": "h", "port": 8883}}, ""),
        ({"wifi": {"password": "a" * 64}}, ""),
        ({"wifi": {"password": "g" * 64}}, "password"),
        ({"wifi": {"ssid": "ü" * 17}}, "ssid"),
        ({"name": "ü" * 17}, "name"),
        (
            {
                "sensors": {
                    "leak": {"hours": 24, "litres": 0.5},
                    "pulse": {"litres_per_pulse": 0.1, "unit": 0},
                    "new": {"x": 1},
                }
            },
            "",
        ),
        ({"sensors": {"pulse": {"litres_per_pulse": float("nan")}}}, "litres_per_pulse"),
        ({"sensors": {"qmc5883l": {"zero": [1, 2, -3]}, "lis3dh": {"up": "-z"}, "bay": None}}, ""),
        ({"sensors": {"qmc5883l": {"zero": [1, 2]}}}, "zero"),
        ({"sensors": {"lis3dh": {"up": "w"}}}, "up"),
        ({"sensors": {"bay": {"enter": 50}}}, "leave"),
        ({"profile": "noise", "row_s": 0, "sample_s": 10}, "listen_ms"),
        ({"mode": "sleep", "link": "wifi"}, "mode sleep"),
        ({"link": "wifi"}, "wifi.ssid is missing"),
    ],
)
def test_a_value_is_right_or_is_named(values: dict[str, Any], word: str) -> None:
    why, _ = config.judged({"node": 1, "profile": "air_quality"} | values)
    assert (word in why) if word else not why, why

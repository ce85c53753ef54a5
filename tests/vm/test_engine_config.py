"""Configurations that cannot work, on boot.py and main.py as the port runs them: no reset without end, never the REPL, and rows on flash all the same."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from host_sim import provision, series, worlds
from host_sim.vm.run import run_vm
from tests.vm.test_engine_boot import PLAYED, UNTIL

ROOT = Path(__file__).resolve().parents[2]
BOARD: dict[str, Any] = tomllib.loads((ROOT / "boards" / "esp32_generic.toml").read_text())
NVS = {"citymote": {"key": "00" * 16, "epoch": 0, "ceiling": 0}}
WIFI = {"ssid": "city", "password": "simulated", "host": "10.0.0.1"}
SCRIPT = (
    """
import json, os, sys, sim, sim_clock, machine, esp32
for name, text in %r.items():
    with open(name, "w") as f:
        f.write(text)
"""
    + UNTIL
    + "sim.set_unix_time(1767225600)\n"
    + PLAYED
    + """supervisor = sys.modules["mote.supervisor"]
rows = 0
for folder in ("/stage", "/out"):
    try:
        for name in os.listdir(folder):
            rows += folder == "/stage" and os.stat(folder + "/" + name)[6] or 0
    except OSError:
        pass
print("\\x1e" + json.dumps({"end": end, "rtc": machine.RTC().memory().hex(), "nvs": esp32._store, "level": supervisor.level, "rows": rows}))
"""
)


def boot(node: Path, config: object, board: object, seconds: int, **how: Any) -> dict[str, Any]:
    profile = config.get("profile") if isinstance(config, dict) else None
    files = {
        "/config.json": config if isinstance(config, str) else json.dumps(config),
        "/board.json": json.dumps(board),
    }
    world = node / "world.bin"
    series.write(
        world,
        worlds.build(profile if profile in provision.CHIPS else "air_quality", 2, 1, "n")
        | {"battery_pin_voltage": series.Series([(0.0, 2.0)])},
    )
    hw = provision.hardware(profile if profile in provision.CHIPS else "air_quality", BOARD)
    done = run_vm(SCRIPT % (files, seconds), node_dir=node, heap="160wK", hw=hw, world=str(world), **how)
    for line in done.out.split("\n"):
        if line.startswith("\x1e"):
            return json.loads(line[1:]) | {"log": done.out}
    raise AssertionError(done.out[-2000:] + done.err[-3000:])


def life(
    node: Path,
    config: object,
    board: object = BOARD,
    *,
    boots: int = 8,
    seconds: int = 1500,
    until: tuple[str, ...] = ("running",),
) -> list[dict[str, Any]]:
    """Boots one after the other until one stays up."""
    rtc, nvs, found = "", NVS, []
    for _ in range(boots):
        found.append(boot(node, config, board, seconds, rtc=rtc, nvs=nvs, cause=2 if found else 1))
        rtc, nvs = found[-1]["rtc"], found[-1]["nvs"]
        if found[-1]["end"].startswith(until):
            break
    return found


def config(**values: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "node": 263,
        "profile": "air_quality",
        "sample_s": 60,
        "row_s": 300,
        "report_s": 3600,
        "log": 0,
    }
    return {k: v for k, v in (base | values).items() if v is not ...}


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("channels_khz", {"channels_khz": wrong})
    for wrong in (
        [],
        ["868100"],
        [865100.5],
        [434000],
        [868100] * 2,
        [True],
        [865100, 868100, 869525],
        [868100] * 9,
        "868100",
        {},
        None,
        [None],
    )
]
WRONG += [("sf", {"sf": v}) for v in (6, 13, "7", 7.5, None, True)]
WRONG += [(k, {k: v}) for k in ("sample_s", "row_s", "report_s") for v in (-1, "60", 7.5, 1 << 40, None, [])]
WRONG += [("row_s", {"row_s": 61}), ("row_s", {"report_s": 1000}), ("sample_s", {"sample_s": 0})]
WRONG += [
    ("emergency_row_s", {"emergency_sample_s": 7, "emergency_row_s": 15}),
    ("emergency_row_s", {"emergency_row_s": "x"}),
]
WRONG += [
    (k, {k: v})
    for k in ("stage_every", "outbox_kb", "outbox_frames", "backoff_s", "health_s")
    for v in (0, "1", 1 << 40)
]
WRONG += [
    (k, {k: v})
    for k in ("jitter_s", "hello_s", "ack_age_s", "prove_s", "wdt_s", "log", "repl", "version", "refused")
    for v in ("1", 1 << 40)
]
WRONG += [("wdt_s", {"wdt_s": 5}), ("ack_age_s", {"ack_age_s": 5}), ("prove_s", {"prove_s": 5})]
WRONG += [("mode", {"mode": v}) for v in ("doze", 1, None)]
WRONG += [("link", {"link": v}) for v in ("pigeon", 1, None)]
WRONG += [("wifi.ssid", {"link": "wifi"}), ("wifi.password", {"link": "wifi", "wifi": {"ssid": "a", "host": "b"}})]
WRONG += [
    (f"wifi.{k}", {"link": "wifi", "wifi": WIFI | {k: v}})
    for k, v in (
        ("ssid", ""),
        ("ssid", "s" * 33),
        ("ssid", 5),
        ("password", "seven77"),
        ("password", "p" * 65),
        ("password", "z" * 64),
        ("host", ""),
        ("port", 0),
        ("port", "1883"),
        ("port", 70000),
        ("user", 7),
    )
]
WRONG += [("wifi", {"link": "wifi", "wifi": v}) for v in ([], "city")]
WRONG += [("name", {"name": v, "link": "wifi", "wifi": WIFI}) for v in ("", "n" * 33, "ä" * 20, 5)]
WRONG += [("alarms", {"alarms": v}) for v in ({}, [5], [{}] * 16)]
WRONG += [
    ("sensors", {"sensors": v})
    for v in (
        [],
        "x",
        {"bme280": 5},
        {"bme280": {"addr": "x"}},
        {"bme280": {"addr": 500}},
        {"bme280": {"speed": 1}},
        {"pms5003": {"warm_up_ms": None}},
        {"pms5003": {"tries": 0}},
        {"bme280": {"unit": "0"}},
    )
]
# right each for itself by what is known of a configuration alone, wrong on this board or profile
HERE: list[tuple[str, dict[str, Any]]] = [
    ("alarms", {"alarms": rules})
    for rules in (
        [{"q": "zebra", "above": 5}],
        [{"q": "laeq", "above": 5}],
        [{"q": "pm10"}],
        [{"q": "pm10", "above": "5"}],
        [{"q": "pm10", "above": 1e30}],
        [{"q": "pm10", "above": 5, "clear": 9}],
        [{"q": [1], "above": 1}],
        [{"q": "pm10", "above": 5, "hold": 0}],
        [{"q": "pm10", "above": 5, "least_s": "x"}],
    )
]
HERE += [("board.json", {"sensors": {chip: {"unit": 7}}}) for chip in ("bme280", "pms5003")]


@pytest.mark.parametrize(("word", "wrong"), [pytest.param(w, c, id=f"{w}-{json.dumps(c)[:60]}") for w, c in WRONG])
def test_a_first_configuration_that_cannot_work_costs_no_reset_and_no_row(
    tmp_path: Path, word: str, wrong: dict[str, Any]
) -> None:
    found = life(tmp_path, config(**wrong))
    assert [f["end"] for f in found] == ["running"], found[0]["log"]
    assert found[0]["level"] == 0 and found[0]["rows"] > 0 and word in found[0]["log"], found[0]["log"]


@pytest.mark.parametrize(("word", "wrong"), [pytest.param(w, c, id=f"{w}-{json.dumps(c)[:60]}") for w, c in HERE])
def test_what_only_the_profile_or_the_board_can_refuse_costs_the_sensor_or_the_rule_alone(
    tmp_path: Path, word: str, wrong: dict[str, Any]
) -> None:
    found = life(tmp_path, config(**wrong))
    assert [f["end"] for f in found] == ["running"], found[0]["log"]
    assert found[0]["level"] == 0 and found[0]["rows"] > 0 and word in found[0]["log"], found[0]["log"]


def without(table: str, *keys: str) -> dict[str, Any]:
    board = json.loads(json.dumps(BOARD))
    at = board
    for name in table.split("."):
        holder, at = at, at[name]
    if not keys:
        del holder[table.split(".")[-1]]
    for key in keys:
        del at[key]
    return board


def wired(table: str, key: str, pin: object) -> dict[str, Any]:
    board = json.loads(json.dumps(BOARD))
    at = board
    for name in table.split("."):
        at = at[name]
    at[key] = pin
    return board


BOARDS = [("radio", without("radio")), ("spi", without("spi")), ("i2c", without("i2c")), ("uart", without("uart"))]
BOARDS += [(key, without("radio", key)) for key in ("chip", "spi", "cs", "dio1", "busy")]
BOARDS += [(key, without("spi.2", key)) for key in ("sck", "mosi", "miso")]
BOARDS += [(key, without("i2c.0", key)) for key in ("scl", "sda")] + [
    (key, without("uart.2", key)) for key in ("tx", "rx")
]
BOARDS += [
    ("pin", wired(t, k, pin))
    for t, k in (("radio", "cs"), ("radio", "busy"), ("spi.2", "sck"), ("i2c.0", "scl"), ("i2c.0", "sda"))
    for pin in (99, "5", None)
]
BOARDS += [("chip", wired("radio", "chip", 5)), ("pms5003", wired("uart.2", "tx", 99))]


@pytest.mark.parametrize(("word", "board"), [pytest.param(w, b, id=f"{i}-{w}") for i, (w, b) in enumerate(BOARDS)])
def test_a_board_file_that_is_wrong_in_one_place_costs_what_hangs_on_it(
    tmp_path: Path, word: str, board: dict[str, Any]
) -> None:
    """The radio, or one of two buses: what is left is measured."""
    found = life(tmp_path, config(), board)
    assert [f["end"] for f in found] == ["running"], found[0]["log"]
    assert found[0]["level"] == 0 and found[0]["rows"] > 0 and word in found[0]["log"], found[0]["log"]


@pytest.mark.parametrize("mode", ["always", "sleep"])
def test_a_node_without_a_radio_measures_to_flash_in_either_mode(tmp_path: Path, mode: str) -> None:
    found = life(
        tmp_path, config(mode=mode), without("radio"), until=("running",) if mode == "always" else ("running", "Z")
    )
    assert found[-1]["rows"] or found[-1]["end"].startswith("Z"), found[-1]["log"]
    assert all(f["end"] == "running" or f["end"].startswith("Z") for f in found), [f["end"] for f in found]
    assert "no radio" in found[0]["log"]


SCALES = [
    ("bin_fill", {"bin": v})
    for v in (
        5,
        "x",
        [1],
        {"empty_mm": "1200"},
        {"empty_mm": 100, "full_mm": 200},
        {"full_mm": None},
        {"empty_mm": True},
    )
]
SCALES += [
    ("water_meter", {"pulse": v})
    for v in (
        5,
        [1],
        {"litres_per_pulse": "10"},
        {"litres_per_pulse": 0},
        {"litres_per_pulse": 0.25},
        {"start_l": -1},
        {"start_l": None},
        {"typo": 1},
    )
]
SCALES += [("water_meter", "x"), ("bin_fill", [1])]


@pytest.mark.parametrize(
    ("profile", "sensors"), [pytest.param(p, s, id=f"{p}-{json.dumps(s)[:50]}") for p, s in SCALES]
)
def test_wrong_options_that_say_what_a_value_means_climb_to_no_sensors_and_no_further(
    tmp_path: Path, profile: str, sensors: object
) -> None:
    """No register, no level: those of another scale would be wrong for ever. The node says why, and is there to be told better."""
    found = life(tmp_path, config(profile=profile, sensors=sensors), boots=12)
    assert found[-1]["end"] == "running" and found[-1]["level"] == 3 and not found[-1]["rows"], [
        (f["end"], f["level"]) for f in found
    ]
    assert len(found) <= 8 and "sensors" in found[0]["log"]
    told = boot(tmp_path, config(profile=profile), BOARD, 1500, rtc=found[-1]["rtc"], nvs=found[-1]["nvs"], cause=1)
    assert told["end"] == "running", "a right one is measured under again"


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"profile": "parking", "mode": "sleep", "sample_s": 10}, "mode sleep"),
        ({"profile": "noise", "sensors": {"inmp441": {"listen_ms": 400_000}}}, "listen_ms"),
    ],
)
def test_what_a_profile_cannot_do_is_left_out_at_once(tmp_path: Path, wrong: dict[str, Any], word: str) -> None:
    found = life(tmp_path, config(**wrong), seconds=4000)
    assert [f["end"] for f in found] == ["running"] and found[0]["level"] == 0 and word in found[0]["log"], found[0][
        "log"
    ]

"""`citymote boards check`: a profile that does not fit is refused before anybody flashes it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from host_sim import boards, fits, pins, provision
from host_sim.vm32.held import HELD, RESERVE, on_board
from tools.boards import command


def check(*args: str) -> tuple[int, dict]:
    done = CliRunner().invoke(command, ["check", *args, "--json"])
    return done.exit_code, json.loads(done.stdout)


def ways(said: dict) -> dict[str, bool]:
    return {w["way"]: w["fits"] for w in said["ways"]}


@pytest.mark.parametrize("link", fits.LINKS)
@pytest.mark.parametrize("profile", provision.CHIPS)
def test_every_profile_fits_a_plain_esp32_from_an_image_only_and_a_board_with_psram_as_it_is(
    profile: str, link: str
) -> None:
    code, said = check("esp32_generic", "--profile", profile, "--link", link)
    assert (code, ways(said)) == (0, {"mpy": False, "romfs": True}), said
    assert "MICROPY_VFS_ROM" in said["advice"][0] and "ESP32_GENERIC" in said["advice"][0]
    code, said = check("lilygo_t3s3", "--profile", profile, "--link", link)
    assert (code, ways(said)) == (0, {"mpy": True, "romfs": True}), said
    assert said["advice"] == ["the stock image LILYGO_T3_S3 and .mpy files will do"]


@pytest.mark.parametrize("profile", provision.CHIPS)
def test_tls_takes_psram(profile: str) -> None:
    code, said = check("esp32_generic", "--profile", profile, "--tls")
    assert (code, ways(said), said["link"]) == (1, {"mpy": False, "romfs": False}, "wifi")
    assert "PSRAM" in said["advice"][0]
    assert check("lilygo_t3s3", "--profile", profile, "--tls")[0] == 0


def test_what_is_needed_is_what_was_measured_and_room_for_garbage() -> None:
    said = check("esp32_generic", "--profile", "parking")[1]
    mpy, romfs = said["ways"]
    assert mpy["held"] == HELD["parking", "lora", "mpy"] == on_board("parking", "lora", "mpy")
    assert romfs["need"] == romfs["held"] + RESERVE and romfs["left"] == 110_000


def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change) -> None:
    """A board "mine" as esp32_generic but for what change(text) does."""
    text = (Path(boards.mpy.boards_root()) / "esp32_generic.toml").read_text()
    (tmp_path / "mine.toml").write_text(change(text))
    monkeypatch.setattr(boards.mpy, "boards_root", lambda: tmp_path)


def test_a_bus_or_a_radio_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, monkeypatch, lambda t: t.replace("[i2s.0]", "[i2x.0]").replace("[radio]", "[oidar]"))
    code, said = check("mine", "--profile", "noise", "--link", "lora")
    assert code == 1 and len(said["refusals"]) == 2
    assert said["refusals"][0].startswith("no [i2s.N]: the inmp441 of noise")
    assert check("mine", "--profile", "parking")[1]["link"] == "wifi"


@pytest.mark.parametrize("name", boards.known())
def test_the_pins_of_every_board_fit_its_chip_and_its_image(name: str) -> None:
    assert pins.problems(boards.load(name), boards.image(name).stock) == []


def test_pins_that_an_image_has_its_repl_on_are_refused() -> None:
    code, said = check("lilygo_t3s3", "--profile", "air_quality", "--image", "ESP32_GENERIC_S3")
    assert code == 1 and [r[:15] for r in said["refusals"]] == ["[uart.2] tx = 4", "[uart.2] rx = 4"], said
    assert all("the REPL of the image ESP32_GENERIC_S3 is on UART 0 (GPIO 43 and 44)" in r for r in said["refusals"])
    assert check("lilygo_t3s3", "--profile", "air_quality")[0] == 0, "on the board's own image it is on USB"
    args = ["check", "lilygo_t3s3", "--profile", "air_quality", "--image", "ESP32_GENERIC_S3"]
    assert "refused: [uart.2] tx = 43" in CliRunner().invoke(command, args).output, (
        "what the document has is on the screen, too"
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("tx = 17", "tx = 1", "[uart.2] tx = 1: the REPL of the image ESP32_GENERIC is on UART 0"),
        ("scl = 22", "scl = 36", "[i2c.0] scl = 36: GPIO 36 of an esp32 is an input only"),
        ("cs = 5", "cs = 39", "[radio] cs = 39: GPIO 39 of an esp32 is an input only"),
        ("sda = 21", "sda = 24", "[i2c.0] sda = 24: esp32 has no such GPIO"),
        ("sda = 21", "sda = 40", "[i2c.0] sda = 40: esp32 has no such GPIO"),
        ("sda = 21", 'sda = "21"', "[i2c.0] sda = 21: esp32 has no such GPIO"),
        ("busy = 4", "busy = 22", "[radio] busy = 22: [i2c.0] scl has it already"),
        ("reset = 14", "reset = 9", "[radio] reset = 9: the esp32's flash memory is there"),
        ("pin = 35", "pin = 15", "[battery] pin = 15: the ADC that works beside WiFi does not reach it"),
        ('chip = "esp32"', 'chip = "esp33"', '[board] chip "esp33": its pins are not known here'),
    ],
)
def test_a_pin_that_does_not_fit_is_named_with_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, words: str
) -> None:
    made(tmp_path, monkeypatch, lambda t: t.replace(old, new))
    code, said = check("mine", "--profile", "parking")
    assert code == 1 and len(said["refusals"]) == 1 and said["refusals"][0].startswith(words), said


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("radio = 110", "", 'key "radio" is missing'),
        ("radio = 110", 'radio = "many"', '"radio" must be int'),
        ("tls = 70", "tsl = 70", 'unknown key "tsl" (did you mean "tls"?)'),
        ("[heap_kb]", "[heap]", "table [heap_kb] is missing"),
        ('way = "romfs"', 'way = "romf"', 'did you mean "romfs"'),
        ("[board]", "[board", "mine.toml"),
    ],
)
def test_a_board_file_that_does_not_fit_is_named_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, words: str
) -> None:
    made(tmp_path, monkeypatch, lambda t: t.replace(old, new))
    code, said = check("mine", "--profile", "parking")
    assert code == 2 and words in said["text"], said


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("esp32_generik", "--profile", "parking"), 'did you mean "esp32_generic"'),
        (("esp32_generic", "--profile", "parkin"), 'did you mean "parking"'),
        (("esp32_generic", "--profile", "parking", "--link", "lora", "--tls"), "TLS is for a connection over WiFi"),
    ],
)
def test_what_is_not_known_is_refused_with_the_nearest(args: tuple[str, ...], words: str) -> None:
    code, said = check(*args)
    assert code == 2 and words in said["text"]


def test_what_only_the_host_needs_does_not_go_onto_a_node() -> None:
    for name in boards.known():
        whole = tomllib.loads((boards.mpy.boards_root() / f"{name}.toml").read_text())
        assert set(whole) - set(boards.wiring(name)) == {"heap_kb", "image"}
        assert whole["heap_kb"]["source"]


def test_people_read_what_to_do_next() -> None:
    done = CliRunner().invoke(command, ["check", "esp32_generic", "--profile", "noise", "--tls"])
    assert (
        done.exit_code == 1
        and "does not fit" in done.stdout
        and "next: TLS on a node takes a board with PSRAM" in done.stdout
    )

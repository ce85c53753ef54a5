"""Duty-cycled mode: chains of boots with deep sleep between, as the port would start them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from host_sim.vm.run import run_vm
from tests.vm.test_engine_boot import BOARD, NVS, SCRIPT, with_known_time

POWER_ON, WDT, DEEPSLEEP = 1, 3, 4
HW = {"uart": {"2": "a02yyuw"}, "i2c": {"0": {"0x76": "bme280", "0x18": "lis3dh"}}, "analog": {"35": "pin_volts"}}
CONFIG = {
    "node": 263,
    "profile": "bin_fill",
    "mode": "sleep",
    "sample_s": 300,
    "row_s": 300,
    "report_s": 3600,
    "log": 0,
}
WATCH = """
import sim
sim.values.update(distance=0.6, temperature=21.0, humidity=40.0, pressure=1000.0, tilt=2.0, pin_volts=%r)
from mote import counter, batcher
taken, rows = [], []
def take(self, old=counter.Counter.take):
    c = old(self)
    taken.append(c)
    return c
counter.Counter.take = take
def append(self, t, values, present, old=batcher.Batcher.append):
    old(self, t, values, present)
    rows.append(t)
batcher.Batcher.append = append
"""


class Board:
    """What survives a boot, and a clock that the test turns on."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder, self.files = folder, {"/config.json": json.dumps(CONFIG | config), "/board.json": BOARD}
        self.rtc, self.nvs = with_known_time(), NVS
        self.now = 1_000_000_000
        self.off = 825_552_000_000_000  # RTC: 2026-02-28 at virtual time 0
        self.volts = 2.0
        self.taken: list[int] = []
        self.rows: list[int] = []

    def boot(self, cause: int = DEEPSLEEP, seconds: float = 900, more: str = "", tell: str = "0") -> dict[str, Any]:
        """One boot from the reset to its end; returns what the script printed, with the value of `tell` as "told"."""
        script = SCRIPT % (WATCH % self.volts + more, self.files, self.now // 1_000_000 + seconds)
        script += (
            'print("\\x1f" + json.dumps({"taken": taken, "rows": rows, "now": sim_clock.now, "told": TELL}))\n'.replace(
                "TELL", tell
            )
        )
        done = run_vm(
            script, node_dir=self.folder, heap="140wK", hw=HW, rtc=self.rtc, nvs=self.nvs, cause=cause, now=self.now, rtc_off=self.off,
        )  # fmt: skip
        found = [json.loads(line[1:]) for line in done.out.split("\n") if line[:1] in ("\x1e", "\x1f")]
        assert len(found) == 2, done.out[-2000:] + done.err[-3000:]
        result = found[0] | found[1] | {"log": done.out}
        self.files = {}
        self.rtc, self.nvs, self.now = result["rtc"], result["nvs"], result["now"]
        self.taken += result["taken"]
        self.rows += result["rows"]
        if result["end"][0] == "Z":
            self.now += int(result["end"][1:]) * 1000
        return result


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


def test_a_sleeper_goes_on_where_it_stopped(board: Board) -> None:
    ends = [board.boot(POWER_ON if not i else DEEPSLEEP)["end"] for i in range(30)]
    assert all(e[0] == "Z" and int(e[1:]) > 8000 for e in ends), ends
    assert board.nvs["citymote"]["boots"] == 1, "the end of a sleep is no start"
    assert board.nvs["citymote"]["ceiling"] == 65, "and takes no block of counters"
    assert board.taken == list(range(1, len(board.taken) + 1))
    assert len(board.rows) >= 15 and all(b - a == 300 for a, b in zip(board.rows, board.rows[1:], strict=False)), (
        board.rows
    )
    assert all(t % 300 == 0 for t in board.rows)
    asleep, awake, radio, sensor = struct.unpack_from(">4I", bytes.fromhex(board.rtc), 272)  # tenths of a second
    assert asleep > 20 * awake > 20 * (radio + sensor) > 0, (asleep, awake, radio, sensor)
    assert abs(asleep + awake - (board.now - 1_000_000_000) / 100_000) < 600 * len(ends), (asleep, awake)


def test_an_image_is_believed_once(board: Board) -> None:
    """G2: what resets a node after it woke makes it count from the ceiling, whatever RTC memory still says."""
    board.boot(POWER_ON)
    for _ in range(6):
        board.boot()
    before = len(board.taken)
    assert before
    awake = board.boot(seconds=0.5)  # the watchdog bites half a second after it woke
    assert awake["end"] == "running" and bytes.fromhex(awake["rtc"])[7] == 0
    board.boot(WDT)
    for _ in range(13):
        board.boot()
    assert len(board.taken) == len(set(board.taken)), board.taken
    assert board.taken[before] > 64, board.taken


def test_a_stale_or_rotten_image_is_not_resumed(board: Board) -> None:
    board.boot(POWER_ON)
    for _ in range(5):
        board.boot()
    image = bytearray.fromhex(board.rtc)
    image[1400] ^= 1
    board.rtc = image.hex()
    board.boot()
    assert board.nvs["citymote"]["boots"] == 2
    assert len(board.taken) == len(set(board.taken))


def test_rows_in_rtc_memory_survive_a_watchdog_bite_and_are_sealed(board: Board) -> None:
    board.boot(POWER_ON)
    for _ in range(12):
        board.boot()
    assert len(board.rows) >= 3
    assert board.boot(seconds=0.5)["end"] == "running"
    # the probe sees rows of before again when they are read from the file that RTC memory was spilled to
    seen = "import mote.staging as s\nspilled = []\ndef next_row(self, old=s.Staged.next_row):\n    there = old(self)\n    if there: spilled.append(self.t)\n    return there\ns.Staged.next_row = next_row\n"
    bitten = board.boot(WDT, more=seen, tell="spilled")
    assert bitten["end"][0] == "Z" and bitten["taken"]
    told = bitten["told"]
    assert told and told == board.rows[len(board.rows) - len(bitten["rows"]) - len(told) :][: len(told)], (
        told,
        board.rows,
    )


def test_a_supply_too_low_for_flash_puts_the_node_to_sleep_and_nothing_is_written(board: Board) -> None:
    board.boot(POWER_ON)
    before = (board.folder / "flash.img").read_bytes()
    board.volts = 1.6  # x 2 at the battery: below 3.3 V
    for _ in range(4):
        result = board.boot()
        assert result["end"] == "Z600000" and not result["crash"], result
    assert (board.folder / "flash.img").read_bytes() == before
    assert board.nvs["citymote"]["boots"] == 1
    board.volts = 1.66  # 3.32 V: above the limit, but not by enough after it was refused
    assert board.boot()["end"] == "Z600000"
    board.volts = 1.8
    result = board.boot()
    assert result["end"][0] == "Z" and result["end"] != "Z600000" and board.nvs["citymote"]["boots"] == 2


def test_an_always_on_node_whose_supply_sinks_stops_writing_and_comes_back(tmp_path: Path) -> None:
    board = Board(tmp_path, mode="always")
    assert board.boot(POWER_ON)["end"] == "running"
    crashes = bytes.fromhex(board.rtc)[2]
    board.volts = 1.5
    assert [board.boot(WDT)["end"] for _ in range(5)] == ["Z600000"] * 5
    assert bytes.fromhex(board.rtc)[2] == crashes, "a low supply is no crash"
    board.volts = 2.0
    assert board.boot(DEEPSLEEP)["end"] == "running"


@pytest.mark.parametrize("config", [{"mode": "nap"}, {"link": "wifi"}, {"profile": "parking", "row_s": 0}])
def test_what_cannot_sleep_is_refused_by_name(tmp_path: Path, config: dict[str, Any]) -> None:
    result = Board(tmp_path, **config).boot(POWER_ON)
    assert "mode" in result["crash"] + result["log"].split("\x1e")[0], result


def test_a_wake_is_built_without_collections_and_a_start_with_many(board: Board) -> None:
    """Half of the instructions of a wake were collections; a start that lives for long is scattered over the heap without them."""
    watch = """
import gc
from mote import app
built = []
def init(self, *given, old=app.Node.__init__, **named):
    built.append(gc.threshold())
    old(self, *given, **named)
app.Node.__init__ = init
"""
    assert board.boot(POWER_ON, more=watch, tell="built")["told"] == [8192]
    assert board.boot(more=watch, tell="built")["told"] == [-1]

"""`citymote bench wake`: what is made of the counts; a missing valgrind and a folder that is no checkout are said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools import energy
from tools.bench_wake import WakeError, ratios, summary

CITYMOTE = str(Path(sys.executable).with_name("citymote"))


def counted(idle: int, frame: int, wakes: int = 25) -> dict[str, Any]:
    """An hour with dear wakes; then one every 300 s, every sixth with a frame."""
    found = [
        {
            "t": 300.0 * n,
            "frames": int(n % 6 == 5),
            "instructions": 1000 + (99_999 if n < 12 else frame if n % 6 == 5 else idle),
            "awake_s": 1.5,
            "tx_s": 0.4 * (n % 6 == 5),
            "rx_s": 0.2 * (n % 6 == 5),
        }
        for n in range(wakes + 12)
    ]
    return {"base": 1000, "wakes": found, "sampled": wakes, "lost": 0}


def citymote(*arguments: str | Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    env = None if path is None else {"PATH": path, "HOME": "/nonexistent"}
    return subprocess.run([CITYMOTE, "bench", "wake", *arguments], capture_output=True, text=True, timeout=120, env=env)


def test_a_wake_is_what_it_costs_beyond_a_boot_without_firmware() -> None:
    found = summary(counted(200, 300))
    assert (found["idle"], found["frame"]) == (200, 300)
    assert found["wakes_a_day"] == 288 and found["counted"] == {"idle": 21, "frame": 4}
    assert found["meter_day"] == pytest.approx(288 * (200 + 100 * 4 / 24), rel=0.01)


def test_one_wake_that_was_not_counted_is_left_out() -> None:
    some = counted(200, 300)
    some["wakes"][21]["instructions"] = None
    assert summary(some)["idle"] == 200


def test_too_few_wakes_of_a_kind_are_said() -> None:
    with pytest.raises(WakeError, match=r"1 wakes of the kind frame: play more hours"):
        summary(counted(200, 300, wakes=10))


def test_ratios_are_shares_of_the_other_checkout() -> None:
    assert ratios(summary(counted(100, 240)), summary(counted(200, 300))) == {
        "ratio_idle": 0.5,
        "ratio_frame": 0.8,
        "ratio_meter_day": pytest.approx((100 + 140 * 4 / 24) / (200 + 100 * 4 / 24), abs=0.01),
    }


def test_the_ledger_charges_python_start_waiting_radio_and_sleep() -> None:
    """288 wakes a day of 1.5 s, one in six with 0.4 s of sending: each item by its own arithmetic."""
    million = round(energy.INSTRUCTIONS_A_SECOND)  # a second of Python each
    found = summary(counted(million, million, wakes=100))
    mah = found["mah_a_day"]
    waiting = 240 * (1.5 - 1.0) + 48 * 1.5  # for its row's instant Python's time is no wait
    assert found["seconds_a_day"] == {
        "starts": 288.0,
        "python": pytest.approx(288, rel=0.001),
        "waiting": pytest.approx(waiting, rel=0.02),
    }
    assert mah["python"] == pytest.approx(288 * 44 / 3600, rel=0.001)
    assert mah["waiting"] == pytest.approx(waiting * 27 / 3600, rel=0.02)
    assert mah["starts"] == pytest.approx(288 * 26.92 / 3600, rel=0.001)
    assert mah["sending"] == pytest.approx(48 * 0.4 * 90 / 3600, rel=0.02)
    assert mah["asleep"] == pytest.approx((86_400 - 288 - waiting) * 30.6 / 3.6e6, rel=0.001)
    assert mah["sum"] == pytest.approx(sum(v for k, v in mah.items() if k != "sum"), abs=0.01)
    assert found["months_19ah"] == pytest.approx(19_000 / mah["sum"] / 30.4375, abs=0.1)
    assert found["months_19ah_100ua"] < found["months_19ah"]


def test_a_wake_that_was_not_counted_is_charged_like_the_others() -> None:
    some = counted(2_000_000, 3_000_000)
    some["wakes"][21]["instructions"] = None
    whole = summary(counted(2_000_000, 3_000_000))["mah_a_day"]
    assert summary(some)["mah_a_day"]["sum"] == pytest.approx(whole["sum"], rel=0.02)


def test_a_missing_valgrind_is_said_with_the_way_to_get_it() -> None:
    done = citymote("--json", path="/nonexistent")
    found = json.loads(done.stdout)
    assert done.returncode == 1 and "valgrind is not installed" in found["text"]
    assert "apt-get install valgrind" in found["hint"] and "Traceback" not in done.stderr


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    done = citymote("--beside", tmp_path)
    assert done.returncode == 2 and "no checkout of citymote" in done.stderr and "git worktree add" in done.stderr

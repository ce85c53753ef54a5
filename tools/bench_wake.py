"""`citymote bench wake`: what a wake of a sleeping node costs on the VM, in instructions, which a noisy machine cannot blur.

One water meter plays a scenario, and every boot of its VM is counted by valgrind's callgrind. What the simulator itself needs to begin a
boot (its interpreter, the stand-ins) is measured by a boot without firmware and taken off; what the stand-ins do during the wake is not.
Counts rank changes of the firmware on one machine; they are not an ESP32's. --beside measures another checkout in the same run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from host_sim.boards import image
from host_sim.runner import firmware_root
from tools.duration import Number
from tools.energy import DAY_S, ledger
from tools.report import FAILED, USAGE, document, fail

RUNNER = firmware_root().parent / "host_sim" / "count_wakes.py"
BOARD = "esp32_generic"
LEAST = 3  # wakes of a kind
SETTLED_S = 3600  # from power-on: hello, the first questions for the time, the configuration proven are not what a day is made of
KNOWN_S = 7800  # from then on the node knows how fast its clock runs asleep, for good, and wakes no earlier than it must: what a battery lasts by
TIMEOUT_S = 7200
HINT = "sudo apt-get install valgrind  (make bench does it when root)"

SCENARIO = """[scenario]
description = "one sleeping water meter, counted"
start = 2026-03-02T00:00:00Z
hours = {hours}
seed = 1
drain_hours = 0.1

[area]
lat = 45.5481
lon = 13.7302
radius_m = 300

[[receiver]]
name = "rx"
eui = "aa555a0000000001"
lat = 45.5481
lon = 13.7302

[[group]]
name = "water"
profile = "water_meter"
count = 1
row_s = 300
report_s = 3600
config = {{ mode = "sleep" }}
"""


class WakeError(Exception):
    """The measurement could not be made."""


def count(checkout: Path, hours: float) -> dict[str, Any]:
    """Play the scenario with a checkout's own simulator and firmware; return what host_sim/count_wakes.py found. Raises WakeError."""
    if shutil.which("valgrind") is None:
        raise WakeError("valgrind is not installed: it counts the VM's instructions")
    with tempfile.TemporaryDirectory(prefix="citymote-wake-") as work:
        scenario, out = Path(work, "wake.toml"), Path(work, "out.json")
        scenario.write_text(SCENARIO.format(hours=hours))
        path = os.pathsep.join(str(checkout / part) for part in (".", "firmware"))
        done = subprocess.run(
            [sys.executable, "-P", str(RUNNER), str(scenario), str(out)],
            cwd=checkout, env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        if done.returncode or not out.exists():
            lines = done.stderr.strip().splitlines() or ["no output"]
            raise WakeError(f"{checkout}: the scenario ended with code {done.returncode}: {lines[-1]}")
        return json.loads(out.read_text())


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Return instructions of a wake without and with a frame (medians), of a day at the run's own rhythm, and what they take out of a battery.

    The first hour is another matter. Raises WakeError when there are too few.
    """
    settled = [w for w in found["wakes"] if w["t"] >= found["wakes"][0]["t"] + SETTLED_S]
    wakes = [w for w in settled if w["instructions"] is not None]
    base = found["base"]
    kinds = {"idle": [w for w in wakes if not w["frames"]], "frame": [w for w in wakes if w["frames"]]}
    for kind, of in kinds.items():
        if len(of) < LEAST:
            raise WakeError(f"{len(of)} wakes of the kind {kind}: play more hours (--hours)")
    cost = {kind: round(median(w["instructions"] - base for w in of)) for kind, of in kinds.items()}
    span = wakes[-1]["t"] - wakes[0]["t"]
    day = sum(w["instructions"] - base for w in wakes[:-1]) * DAY_S / span
    return {
        **cost,
        "wakes_a_day": round((len(wakes) - 1) * DAY_S / span, 1),
        "meter_day": round(day),
        "counted": {kind: len(of) for kind, of in kinds.items()},
        "base": base,
        "sampled": found["sampled"],
        "lost": found["lost"],
        **ledger(steady(settled, found["wakes"][0]["t"]), base),
    }


def steady(wakes: list[dict[str, Any]], power_on: float) -> list[dict[str, Any]]:
    """Return the wakes of the whole hours behind KNOWN_S, so that each hour has its report; all of them when there is no such hour."""
    known = [w for w in wakes if w["t"] >= power_on + KNOWN_S]
    if not known:
        return wakes
    hours = int((known[-1]["t"] - known[0]["t"] + 60) // 3600)
    return [w for w in known if w["t"] <= known[0]["t"] + 3600 * hours + 60] if hours else wakes


def ratios(now: dict[str, Any], beside: dict[str, Any]) -> dict[str, float]:
    """Return this checkout's costs as shares of the other's."""
    return {f"ratio_{key}": round(now[key] / beside[key], 3) for key in ("idle", "frame", "meter_day")}


@click.command("wake")
@click.option(
    "--beside",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A checkout to be measured in the same run: git worktree add DIR COMMIT.",
)
@click.option("--hours", type=Number(1.5, 48), default=4.5, show_default=True, help="Virtual hours to play.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(beside: Path | None, hours: float, as_json: bool) -> None:
    """Instructions of a water meter's wakes: without a frame, with one, and of a day; and how long a cell of 19 Ah lasts by them, Python's time
    charged (tools/energy.py). Some minutes for each checkout."""
    if beside is not None and not (beside / "host_sim" / "zygote.py").is_file():
        fail(
            "bad_checkout",
            f"{beside} is no checkout of citymote",
            hint="git worktree add DIR COMMIT",
            as_json=as_json,
            code=USAGE,
        )
    here = Path(__file__).resolve().parent.parent
    status = Console(stderr=True)
    found: dict[str, dict[str, Any]] = {}
    try:
        with status.status("") as spinner:
            for name, folder in (("now", here), *((("beside", beside.resolve()),) if beside else ())):
                spinner.update(f"a water meter under valgrind: {name}")
                found[name] = summary(count(folder, hours))
    except WakeError as e:
        fail("wake_failed", str(e), hint=HINT, as_json=as_json, code=FAILED)
    except subprocess.TimeoutExpired:
        fail(
            "wake_failed",
            f"the scenario did not end within {TIMEOUT_S} s",
            hint="try fewer --hours",
            as_json=as_json,
            code=FAILED,
        )
    way = image(BOARD).way
    result = {
        "ok": True,
        "unit": "instructions, valgrind callgrind on the 64-bit MicroPython VM, less a boot without firmware",
        "way": f"{way}, what {BOARD} runs from",
        "months_19ah": found["now"]["months_19ah"],
        **found,
    }
    if "beside" in found:
        result |= ratios(found["now"], found["beside"])
    if as_json:
        document(result)
        return
    table = Table(title="a water meter's wakes, millions of instructions", title_justify="left")
    for name in ("", "without a frame", "with a frame", "wakes a day", "a day", "mAh a day", "months of 19 Ah"):
        table.add_column(name, justify="right" if name else "left")
    for name, m in found.items():
        table.add_row(name, f"{m['idle'] / 1e6:,.1f}", f"{m['frame'] / 1e6:,.1f}", f"{m['wakes_a_day']:,.0f}", f"{m['meter_day'] / 1e6:,.0f}", f"{m['mah_a_day']['sum']:.2f}", f"{m['months_19ah']:.0f}")  # fmt: skip
    console = Console(width=None if Console().is_terminal else 120, highlight=False)
    console.print(table)
    if "beside" in found:
        console.print(", ".join(f"{k} {result[k]}" for k in ("ratio_idle", "ratio_frame", "ratio_meter_day")))

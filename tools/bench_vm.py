"""`citymote bench vm`: what encoding and sealing cost on the VM, in instructions, which a noisy machine cannot blur.

The VM runs under valgrind's callgrind. Each job is measured as the difference of two runs that differ in nothing but how often
the job is done (N and 2N times), so start-up, imports and the other jobs cancel. Counts depend on the VM's build and on the
processor features that valgrind offers (AES), not on load; they rank changes of our code, they are not an ESP32's.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from host_sim.compile import CompileError, compiled
from host_sim.runner import firmware_root
from tools.duration import Number
from tools.report import FAILED, USAGE, document, fail

SCRIPT = Path(__file__).with_name("bench_vm_script.py")
ROWS, COLUMNS = 24, 6
JOBS = {
    "fill": "append 24 rows of 6 columns",
    "packed": "encode them as a packed report",
    "plain": "encode them as a plain report",
    "seal": "seal the packed report",
    "seal_and_open": "seal it and open it again",
}
DIFFERS = 5
TIMEOUT_S = 300
HINT = "sudo apt-get install valgrind  (make bench does it when root)"


class BenchError(Exception):
    """The measurement could not be made; the text is for people, `hint` says what to do."""

    def __init__(self, name: str, text: str, hint: str) -> None:
        super().__init__(text)
        self.name, self.hint = name, hint


def instructions(repeats: int, names: Iterable[str] = JOBS) -> dict[str, dict[str, int]]:
    """Instructions of each of these jobs, averaged over `repeats`, and the bytes it wrote. Raises BenchError."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise BenchError("no_valgrind", "valgrind is not installed: it counts the VM's instructions", HINT)
    try:
        firmware = compiled(firmware_root())
    except CompileError as e:
        raise BenchError("firmware", str(e), "make lint names the file") from e
    base, sizes = _count(valgrind, firmware, dict.fromkeys(JOBS, repeats))
    jobs: dict[str, dict[str, int]] = {}
    for job in names:
        more, _ = _count(valgrind, firmware, {**dict.fromkeys(JOBS, repeats), job: 2 * repeats})
        jobs[job] = {"instructions": round((more - base) / repeats), "size": sizes[job]}
    return jobs


def measure(repeats: int) -> dict[str, Any]:
    """The document of a measurement: instructions of each job, and what a value and a byte of it take. Raises BenchError."""
    jobs = instructions(repeats)
    cells = ROWS * COLUMNS
    return {
        "ok": True,
        "unit": "instructions per call, valgrind callgrind on the 64-bit MicroPython VM",
        "rows": ROWS,
        "columns": COLUMNS,
        "repeats": repeats,
        "jobs": jobs,
        "packed_per_value": round(jobs["packed"]["instructions"] / cells, 1),
        "seal_per_byte": round(jobs["seal"]["instructions"] / jobs["packed"]["size"], 1),
        "batch": sum(jobs[j]["instructions"] for j in ("fill", "packed", "seal")),
    }


def _count(valgrind: str, firmware: Path, times: dict[str, int]) -> tuple[int, dict[str, int]]:
    """Run the script once; return all instructions of the process and the size that each job printed."""
    start = "import sys; from micropython_run import run_main; sys.exit(run_main(sys.argv[1:]))"
    with tempfile.TemporaryDirectory(prefix="citymote-bench-") as work:
        log = Path(work, "log")
        command = [
            valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null", f"--log-file={log}",
            sys.executable, "-s", "-c", start, "micropython", str(SCRIPT), str(firmware),
            *(f"{job}={n:04d}" for job, n in times.items()),  # equal lengths: the argument vector is on the stack
        ]  # fmt: skip
        environment = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "HOME": work, "LC_ALL": "C"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, cwd=work, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            text = f"the VM did not end within {TIMEOUT_S} s under valgrind"
            raise BenchError("valgrind_failed", text, "try a smaller --repeats") from None
        said = log.read_text(errors="replace") if log.exists() else ""
    found = re.search(r"Collected : (\d+)", said)
    sizes = {
        job: int(size) for job, _, size in (line.partition(" ") for line in done.stdout.splitlines()) if job in JOBS
    }
    if done.returncode or found is None or sizes.keys() != JOBS.keys():
        tail = (done.stderr.strip() or said.strip() or "no output").splitlines()[-1]
        raise BenchError("valgrind_failed", f"the VM under valgrind ended with code {done.returncode}: {tail}", HINT)
    return int(found[1]), sizes


def compare(now: dict[str, Any], before: dict[str, Any], percent: float) -> list[str]:
    """What became dearer by more than `percent` since a former document."""
    out: list[str] = []
    for job, found in now["jobs"].items():
        was = before["jobs"][job]["instructions"]
        change = 100 * (found["instructions"] - was) / was
        if change > percent:
            out.append(f"{job}: {was} -> {found['instructions']} instructions ({change:+.1f} %)")
    return out


@click.command("vm")
@click.option("--repeats", type=click.IntRange(1, 4999), default=100, show_default=True, help="N of N and 2N.")
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="A former --json document: exit code 5 if something became dearer.",
)
@click.option("--percent", type=Number(0, 1000), default=1.0, show_default=True, help="How much dearer is borne.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(repeats: int, against: Path | None, percent: float, as_json: bool) -> None:
    """Instructions that the MicroPython VM needs to fill, encode and seal one fixed batch of 24 rows and 6 columns."""
    before = _before(against, as_json) if against else None
    try:
        found = measure(repeats)
    except BenchError as e:
        fail(e.name, str(e), hint=e.hint, as_json=as_json, code=FAILED)
    worse = compare(found, before, percent) if before else []
    if worse:
        found |= {
            "ok": False,
            "error": "dearer",
            "text": "; ".join(worse),
            "hint": "see what changed in firmware/motewire",
        }
    if as_json:
        document(found)
    else:
        table = Table(title="instructions on the MicroPython VM (64-bit), per call", title_justify="left")
        for name in ("job", "instructions", "result", ""):
            table.add_column(name, justify="right" if name in ("instructions", "result") else "left")
        for job, m in found["jobs"].items():
            unit = "rows" if job == "fill" else "B"
            table.add_row(job, f"{m['instructions']:,}", f"{m['size']} {unit}", JOBS[job])
        console = Console(width=None if Console().is_terminal else 120, highlight=False)
        console.print(table)
        console.print(
            f"a batch, filled, packed and sealed: {found['batch']:,}; {found['packed_per_value']} per packed value, "
            f"{found['seal_per_byte']} per sealed byte"
        )
    if worse:
        for line in worse:
            print(f"error: {line}", file=sys.stderr)
        sys.exit(DIFFERS)


def _before(path: Path, as_json: bool) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if {int(found["jobs"][job]["instructions"]) > 0 for job in JOBS} == {True}:
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    hint = "make one with: citymote bench vm --json > FILE"
    fail("bad_document", f"{path} is no document of `citymote bench vm --json`", hint=hint, as_json=as_json, code=USAGE)

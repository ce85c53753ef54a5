"""Start 32-bit MicroPython VMs with the stand-ins in virtual time (CPython side): the npm build for WebAssembly, run by Node.js.

What it shares with an ESP32: 31-bit small ints, objects and heap blocks of the same size. What it lacks: littlefs, viper, a watch on the
heap's size, single-precision floats. DECISIONS.md of host_sim says what follows from that.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from host_sim import compile as mpy

HERE = Path(__file__).resolve().parent
PACKAGE = "node_modules/@micropython/micropython-webassembly-pyscript"
HEAP = 1 << 22  # bytes to begin with; the VM takes more when they do not do


class No32BitVm(Exception):
    """There is no 32-bit VM here; the text says what is missing and what to do."""


@dataclass(frozen=True)
class Job:
    """One VM: `script` runs, then the steps, with a collection of garbage between them. paths: host folders as /host0, /host1...

    romfs: what the board's partition of that name holds; the VM works on a copy of its own.
    root: compiled folder that stands for the flash root instead of all of the firmware.
    """

    name: str
    script: str
    steps: Sequence[str] = ()
    paths: Sequence[Path] = ()
    argv: Sequence[str] = ()
    hw: Mapping[str, Any] = field(default_factory=dict)
    boot: Mapping[str, Any] = field(default_factory=dict)
    romfs: Path | None = None
    root: Path | None = None


@dataclass(frozen=True)
class Results:
    """out: what each job that was begun printed, by name. ms: how long each took that came to its end. timed_out: the next one did not."""

    out: dict[str, str]
    ms: dict[str, int]
    code: int
    timed_out: bool


def package() -> Path:
    """Folder of the VM. No32BitVm."""
    found = Path(sys.prefix) / "wasm" / PACKAGE
    if shutil.which("node") is None:
        raise No32BitVm("no node: the 32-bit VM needs Node.js >= 18 with npm")
    if not (found / "micropython.mjs").is_file():
        raise No32BitVm("no 32-bit VM: `make test` and `make bench` install it through npm")
    return found


def missing() -> str | None:
    """Why there is no 32-bit VM, or None."""
    try:
        package()
    except No32BitVm as e:
        return str(e)
    return None


def run_jobs(jobs: Iterable[Job], *, firmware: Path | None = None, timeout_s: float = 120) -> Results:
    """Run every job in a VM and on a flash of its own, one after another in one process. No32BitVm, CompileError."""
    vm = package()
    chips = mpy.chips_parent() / "chips"
    trees = [
        ("/v/lib32", HERE / "lib"),
        ("/v/lib", mpy.compiled(mpy.VM_FOLDER)),
        ("/v/chips", chips.resolve()),
    ]
    whole = mpy.compiled(firmware if firmware is not None else mpy.firmware_root())
    plan: list[dict[str, Any]] = []
    for job in jobs:
        hosts = [("/v/root", job.root or whole), *((f"/v/host{i}", p) for i, p in enumerate(job.paths))]
        plan.append(
            {
                "name": job.name,
                "heap": HEAP,
                "trees": [(there, str(here)) for there, here in (*trees, *hosts)],
                "script": job.script,
                "steps": list(job.steps),
                "romfs": str(job.romfs) if job.romfs is not None else None,
                "boot": {
                    "rom": True,
                    "keep_chips": True,
                    "paths": len(job.paths),
                    "argv": [job.name, *job.argv],
                    "hw": dict(job.hw),
                    **job.boot,
                },
            }
        )
    with tempfile.TemporaryDirectory(prefix="citymote-vm32-") as work:
        file = Path(work, "jobs.json")
        file.write_text(json.dumps(plan))
        timed_out, code = False, 0
        with Path(work, "out").open("w+b") as said:
            try:
                code = subprocess.run(
                    ["node", str(HERE / "run.mjs"), str(vm), str(file)],
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    timeout=timeout_s,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                timed_out = True
            said.seek(0)
            text = said.read().decode(errors="replace")
    parts = text.split("\x1d")  # output of the first job, its time and the output of the second, ...
    names = [str(job["name"]) for job in plan]
    ends = [part.partition("\n") for part in parts[1:]]
    return Results(
        dict(zip(names, [parts[0], *(said_of_it for _, _, said_of_it in ends)], strict=False)),
        dict(zip(names, (int(ms) for ms, _, _ in ends), strict=False)),
        code,
        timed_out,
    )

"""Start one real MicroPython VM with the stand-ins in virtual time (CPython side; tests and tools use it)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from host_sim import compile as mpy
from host_sim.vm import mapped

HEAP = "100wK"
STANDINS_BYTES = 224 * 1024  # room for stand-ins and chips; what they leave over is blocked before the firmware starts
FLASH_BYTES = 1 << 20


@dataclass(frozen=True)
class VmResult:
    """What a VM left behind: exit code, its output, and the node folder (image, files) when one was given."""

    code: int
    out: str
    err: str = field(repr=False)


def heap_bytes(heap: str) -> int:
    """Bytes of a -X heapsize text: "256k", or in words ("100wK": objects are twice as big on a 64-bit VM as on the ESP32)."""
    text, word = heap, 1
    scale = {"k": 1024, "m": 1 << 20}.get(text[-1].lower(), 0)
    if scale:
        text = text[:-1]
    if text.endswith("w"):
        text, word = text[:-1], 2  # bytes per word of a 32-bit VM -> 64-bit
    return int(text) * (scale or 1) * word


def boot_config(
    *,
    heap: str = HEAP,
    image: Path | None = None,
    folder: Path | None = None,
    rom: Path | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The boot file of sim_boot.py: flash as a littlefs image, or as a plain folder; rom = compiled firmware.

    heap: what the firmware has free when it starts.
    """
    config: dict[str, Any] = {
        "lib": str(mpy.compiled(mpy.VM_FOLDER)),
        "chips": str(mpy.chips_parent()),
        "flash": FLASH_BYTES,
        "heap": heap_bytes(heap),
    }
    if image is not None:
        config["image"] = str(image)
    if folder is not None:
        config["folder"] = str(folder)
    if rom is not None:
        config["rom"] = str(rom)
    return config | more


def run_vm(
    script: str | Path,
    *,
    node_dir: Path | None = None,
    heap: str = HEAP,
    firmware: Path | str | None = None,
    path: Iterable[Path] = (),
    hw: Mapping[str, Any] | None = None,
    argv: Iterable[str] = (),
    seed: int = 1,
    timeout_s: float = 120,
    partition: Path | None = None,
    **boot: Any,
) -> VmResult:
    """Run `script` (a path, or source text) in a VM of its own and return what it printed.

    node_dir: keeps flash.img between calls (None: a fresh flash). firmware: folder put on sys.path compiled as /root
    (None: the repository's). path: more host folders for sys.path, read-only. hw: hardware description. boot: further
    keys of the boot file (now, cause, rtc, nvs, cut_at, romfs). partition: file that is the board's partition romfs; what the VM writes there stays.
    Raises subprocess.TimeoutExpired after timeout_s of real time.
    machine.reset(), deepsleep() and a watchdog bite raise sim.Reset in the script.
    """
    work = Path(tempfile.mkdtemp(prefix="citymote-vm-"))
    try:
        if isinstance(script, str):
            (work / "script.py").write_text(script)
            script = work / "script.py"
        rom = mpy.compiled(Path(firmware) if firmware is not None else mpy.firmware_root())
        config = boot_config(
            heap=heap,
            image=(node_dir or work) / "flash.img",
            rom=rom,
            script=str(script),
            argv=[str(script), *argv],
            path=[str(p) for p in path],
            keep_chips=True,
            hw=dict(hw or {}),
            seed=seed,
            **boot,
        )
        if partition is not None:
            config["romfs"] = {"at": mapped.ADDRESS, "size": partition.stat().st_size, "writable": True}
        (work / "boot.json").write_text(json.dumps(config))
        size = heap_bytes(heap) + STANDINS_BYTES
        done = subprocess.run(
            vm_command(size, Path(config["lib"]) / "sim_boot.py", work / "boot.json", mapping=partition),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
            cwd=work,
            env=vm_environment(),
        )
        return VmResult(done.returncode, done.stdout, done.stderr)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def vm_environment() -> dict[str, str]:
    """UTC and nothing of the caller's: a node must not see the machine it is simulated on."""
    return {"PATH": os.environ.get("PATH", ""), "HOME": "/nonexistent", "TZ": "UTC"}


def vm_command(heap: int, *argv: Path | str, mapping: Path | None = None) -> list[str]:
    """Command line of one VM process; mapping: file that it has in its memory, writable."""
    start = "import sys; from micropython_run import run_main; sys.exit(run_main(sys.argv[1:]))"
    begin = ["-c", start] if mapping is None else [str(Path(mapped.__file__)), str(mapping), "w"]
    return [sys.executable, *begin, "micropython", "-X", f"heapsize={heap}", *map(str, argv)]

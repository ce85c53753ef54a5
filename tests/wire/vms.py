"""Runs one of this folder's common-subset modules inside the 64-bit VM or the 32-bit VM (CPython side)."""

import subprocess
import sys
from pathlib import Path

import pytest

from host_sim.vm32.run import Job, missing, run_jobs

ROOT = Path(__file__).parents[2]
FIRMWARE = ROOT / "firmware"
HERE = Path(__file__).parent
VECTORS = ROOT / "tests" / "vectors" / "wire.json"


def in_64_bit_vm(module: str, data: Path) -> list[str]:
    """Lines that module.run(json of data, cryptolib's AES) yields on the unix VM."""
    vm = Path(sys.executable).with_name("micropython")
    return _lines([vm, HERE / "vm_replay.py", FIRMWARE, HERE, data, module])


def in_32_bit_vm(module: str, data: Path) -> list[str]:
    """The same on the VM with an ESP32's small ints and object sizes, with AES in plain Python; skips where there is none."""
    why = missing()
    if why:
        pytest.skip(why)
    script = f"""
import json
import aes_block, {module}
with open("/host1/{data.name}") as f: data = json.load(f)
for line in {module}.run(data, aes_block.Aes128): print(line)
print("done")
"""
    done = run_jobs([Job(module, script, paths=(HERE, data.parent))])
    return _whole(done.out[module], "")


def _lines(command: list[object]) -> list[str]:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120, check=False)
    return _whole(done.stdout, done.stderr)


def _whole(out: str, err: str) -> list[str]:
    warning = "Warning: Comparison between bytes and str\n"  # of a map with keys of both kinds
    lines = out.replace(warning, "").splitlines()
    assert lines[-1:] == ["done"] and not err.replace(warning, ""), (out[-2000:], err[-4000:])
    return lines[:-1]

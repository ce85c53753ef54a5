"""Runs one of this folder's common-subset modules inside the 64-bit VM or the 32-bit VM (CPython side)."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIRMWARE = ROOT / "firmware"
HERE = Path(__file__).parent
VECTORS = ROOT / "tests" / "vectors" / "wire.json"
WASM = ROOT / ".venv/wasm/node_modules/@micropython/micropython-webassembly-pyscript"


def in_64_bit_vm(module: str, data: Path) -> list[str]:
    """Lines that module.run(json of data, cryptolib's AES) yields on the unix VM."""
    vm = Path(sys.executable).with_name("micropython")
    return _lines([vm, HERE / "vm_replay.py", FIRMWARE, HERE, data, module])


def in_32_bit_vm(module: str, data: Path) -> list[str]:
    """The same on the VM with an ESP32's small ints and object sizes, with AES in plain Python; skips where there is none."""
    if shutil.which("node") is None:
        pytest.skip("no node: the 32-bit VM needs Node.js >= 18")
    if not WASM.exists():
        pytest.skip("no 32-bit VM: `make test` installs it through npm")
    return _lines(["node", HERE / "wasm_replay.mjs", WASM, FIRMWARE, HERE, data, module])


def _lines(command: list[object]) -> list[str]:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120, check=False)
    lines = done.stdout.splitlines()
    noise = done.stderr.replace("Warning: Comparison between bytes and str\n", "")  # of a map with keys of both kinds
    assert lines[-1:] == ["done"] and not noise, (done.stdout[-2000:], done.stderr[-4000:])
    return lines[:-1]

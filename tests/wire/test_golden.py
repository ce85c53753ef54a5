"""The golden vectors hold on CPython, on the 64-bit VM and on the 32-bit VM (an ESP32's small ints and object sizes)."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.wire import replay
from tests.wire.aes_block import Aes128

ROOT = Path(__file__).parents[2]
FIRMWARE = ROOT / "firmware"
HERE = Path(__file__).parent
VECTORS = ROOT / "tests" / "vectors" / "wire.json"
WASM = ROOT / ".venv/wasm/node_modules/@micropython/micropython-webassembly-pyscript"


def test_vectors_hold_on_cpython() -> None:
    assert replay.run(json.loads(VECTORS.read_text()), Aes128) == []


def test_vectors_hold_on_the_64_bit_vm() -> None:
    vm = Path(sys.executable).with_name("micropython")
    out = subprocess.run(
        [vm, HERE / "vm_replay.py", FIRMWARE, HERE, VECTORS], capture_output=True, text=True, timeout=60
    )
    assert (out.stdout, out.stderr) == ("done\n", "")


@pytest.mark.skipif(shutil.which("node") is None, reason="no node: the 32-bit VM needs Node.js >= 18")
@pytest.mark.skipif(not WASM.exists(), reason="no 32-bit VM: `make test` installs it through npm")
def test_vectors_hold_on_the_32_bit_vm() -> None:
    out = subprocess.run(
        ["node", HERE / "wasm_replay.mjs", WASM, FIRMWARE, HERE, VECTORS], capture_output=True, text=True, timeout=120
    )
    assert (out.stdout.strip(), out.stderr) == ("done", "")


def test_the_replay_can_fail() -> None:
    """A changed vector must be noticed, or the three tests above say nothing."""
    vectors = json.loads(VECTORS.read_text())
    vectors["reports"][0]["rows"][1][0] += 1
    vectors["frames"][0]["counter"] += 1
    complaints = replay.run(vectors, Aes128)
    assert len(complaints) >= 2

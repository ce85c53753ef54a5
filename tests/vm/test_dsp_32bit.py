"""Drivers and dsp on the 32-bit VM: nothing on a repeating path reaches 2**30, or it would allocate (see mpy/repeating_paths.py)."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WASM = ROOT / ".venv/wasm/node_modules/@micropython/micropython-webassembly-pyscript"


@pytest.mark.skipif(shutil.which("node") is None, reason="no node: the 32-bit VM needs Node.js >= 18")
@pytest.mark.skipif(not WASM.exists(), reason="no 32-bit VM: `make test` installs it through npm")
def test_repeating_paths_stay_below_2_to_the_30() -> None:
    done = subprocess.run(
        ["node", ROOT / "tests" / "vm" / "dsp_32bit.mjs", WASM, ROOT],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.endswith("done\n"), done.stdout + done.stderr

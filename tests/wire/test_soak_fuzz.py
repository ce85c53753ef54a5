"""Coverage-guided fuzzing of every reader, in `make soak` only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.wire import vms


@pytest.mark.soak
def test_a_coverage_guided_run_finds_no_other_exception(tmp_path: Path) -> None:
    """WIRE_FUZZ_S seconds (120); an input that takes longer than 5 s or 1 GiB ends the run too. A finding stays in the corpus folder."""
    pytest.importorskip("atheris", reason="no atheris: pip install -e '.[soak]'")
    seconds = os.environ.get("WIRE_FUZZ_S", "120")
    done = subprocess.run(
        [sys.executable, "-m", "tests.wire.fuzz_coverage", seconds, tmp_path],
        cwd=vms.ROOT,
        env=os.environ | {"PYTHONPATH": f"{vms.ROOT}:{vms.FIRMWARE}"},
        capture_output=True,
        text=True,
        timeout=int(seconds) + 300,
        check=False,
    )
    tail = done.stderr[-3000:]
    assert done.returncode == 0, tail
    assert "stat::number_of_executed_units" in tail
    print(tail)

"""`citymote bench vm`: the same code counts the same, dearer code is seen, and a missing valgrind is said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import bench_vm

CITYMOTE = str(Path(sys.executable).with_name("citymote"))
needs_valgrind = pytest.mark.skipif(
    shutil.which("valgrind") is None, reason="no valgrind (next: apt-get install valgrind)"
)


def citymote(*arguments: str | Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    env = None if path is None else {"PATH": path, "HOME": "/nonexistent"}
    return subprocess.run([CITYMOTE, "bench", *arguments], capture_output=True, text=True, timeout=280, env=env)


def test_the_summary_still_stands_alone() -> None:
    done = citymote("--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["wire"][0]["series"] == "air_beijing.csv"
    assert found["mpy_bytes"]["motewire"] > 1000 and found["mpy_bytes"]["all"] > found["mpy_bytes"]["motewire"]


def test_the_parts_are_named_and_an_unknown_one_is_refused() -> None:
    assert all(part in citymote("--help").stdout for part in ("vm", "wire"))
    done = citymote("vmm")
    assert done.returncode == 2 and "vmm" in done.stderr


def test_a_missing_valgrind_is_said_with_the_way_to_get_it() -> None:
    done = citymote("vm", "--json", path="/nonexistent")
    found = json.loads(done.stdout)
    assert done.returncode == 1 and found["error"] == "no_valgrind" and "apt-get install valgrind" in found["hint"]
    assert "Traceback" not in done.stderr


def test_a_wrong_former_document_is_refused_before_anything_runs(tmp_path: Path) -> None:
    wrong = tmp_path / "old.json"
    wrong.write_text('{"jobs": {"packed": 1}}')
    done = citymote("vm", "--against", wrong)
    assert done.returncode == 2 and "old.json is no document" in done.stderr


@pytest.mark.slow
@needs_valgrind
def test_the_same_code_counts_the_same_and_dearer_code_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = bench_vm.measure(5), bench_vm.measure(5)
    assert first["jobs"].keys() == bench_vm.JOBS.keys()
    for job, found in first["jobs"].items():
        assert found["instructions"] > 10_000 and found["size"] == again["jobs"][job]["size"]
        assert found["instructions"] == pytest.approx(again["jobs"][job]["instructions"], rel=0.005)
    assert bench_vm.compare(again, first, 1) == []

    copy = shutil.copytree(bench_vm.firmware_root(), tmp_path / "firmware")
    bits = copy / "motewire" / "bits.py"
    text = bits.read_text()
    slower = text.replace(
        "        q = u >> k\n", "        q = u >> k\n        for _ in range(3):\n            q = u >> k\n", 1
    )
    assert slower != text
    bits.write_text(slower)
    monkeypatch.setattr(bench_vm, "firmware_root", lambda: copy)
    worse = bench_vm.compare(bench_vm.measure(5), first, 1)
    assert len(worse) == 1 and worse[0].startswith("packed: ")


@pytest.mark.slow
@needs_valgrind
def test_a_dearer_job_fails_the_command(tmp_path: Path) -> None:
    done = citymote("vm", "--repeats", "2", "--json")
    former = json.loads(done.stdout)
    assert done.returncode == 0 and former["batch"] > former["jobs"]["packed"]["instructions"]
    former["jobs"]["seal"]["instructions"] //= 2
    (tmp_path / "old.json").write_text(json.dumps(former))
    done = citymote("vm", "--repeats", "2", "--json", "--against", tmp_path / "old.json")
    assert done.returncode == 5 and json.loads(done.stdout)["error"] == "dearer" and "seal: " in done.stderr

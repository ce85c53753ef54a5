"""`citymote bench vm`: the same code counts the same, dearer code is seen, and a missing valgrind is said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

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


@pytest.fixture(scope="module")
def former() -> dict[str, Any]:
    """A document of the command."""
    done = citymote("vm", "--repeats", "2", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.xdist_group("bench_vm")
@needs_valgrind
def test_the_same_code_counts_the_same_and_dearer_code_is_seen(
    former: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert former["jobs"].keys() == bench_vm.JOBS.keys() and former["batch"] > former["jobs"]["packed"]["instructions"]
    assert all(found["instructions"] > 10_000 for found in former["jobs"].values())
    again = bench_vm.instructions(2, ["packed"])
    assert again["packed"]["size"] == former["jobs"]["packed"]["size"]
    assert again["packed"]["instructions"] == pytest.approx(former["jobs"]["packed"]["instructions"], rel=0.005)
    assert bench_vm.compare({"jobs": again}, former, 1) == []

    copy = shutil.copytree(bench_vm.firmware_root(), tmp_path / "firmware")
    bits = copy / "motewire" / "bits.py"
    text = bits.read_text()
    slower = text.replace(
        "        q = u >> k\n", "        q = u >> k\n        for _ in range(3):\n            q = u >> k\n", 1
    )
    assert slower != text
    bits.write_text(slower)
    monkeypatch.setattr(bench_vm, "firmware_root", lambda: copy)
    worse = bench_vm.compare({"jobs": bench_vm.instructions(2, ["packed", "seal"])}, former, 1)
    assert len(worse) == 1 and worse[0].startswith("packed: ")


@pytest.mark.slow
@pytest.mark.xdist_group("bench_vm")
@needs_valgrind
def test_a_dearer_job_fails_the_command(
    former: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.loads(json.dumps(former))
    before["jobs"]["seal"]["instructions"] //= 2
    (tmp_path / "old.json").write_text(json.dumps(before))
    monkeypatch.setattr(bench_vm, "measure", lambda _repeats: dict(former))
    done = CliRunner().invoke(bench_vm.command, ["--json", "--against", str(tmp_path / "old.json")])
    assert done.exit_code == 5 and json.loads(done.stdout)["error"] == "dearer" and "seal: " in done.stderr

"""Each fault that was found by trying the gateway as strangers would has a test that holds its kind now, or a measured reason why it stays.

faults.toml: entry (where it was written down), kind, report (public, "" if none), tests (pytest ids without parameters) or stays.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "tests" / "faults.toml"


def _of(page: str, *names: str) -> Iterator[str]:
    for name in names:
        numbered = re.fullmatch(r"([A-Z])(\d+)(?:\.\.(\d+))?", name)
        letter, first, last = numbered.groups() if numbered else (name, "", None)
        if not first:
            yield f"{page}.md {name}"
        else:
            yield from (f"{page}.md {letter}{n}" for n in range(int(first), int(last or first) + 1))


REQUIRED = (
    *_of("gateway", "G1..19", "C rsig", "C lock", "C day-mean", "C hysteresis", "C ppb", "C names", "C texts"),
    *_of("security", "A1..10", "B1..14"),
    *_of("security", "C http-slots", "C forwarder-table", "C future-rows", "C terminal", "C key-shown", "C restore", "C texts", "C last-counter"),
    *_of("operation", "R1..5", "R7..10", "R12..15", "R19..20", "R22"),
    *_of("peers", "A1", "B1..9", "C1..2"),
    *_of("wire", "A1", "B2..5", "B9", "C1..2"),
    *_of("node", "A1..6", "B1..10", "C1..7", "section 3"),
    *_of("board", "A1..6", "B1..7", "section 2"),
    *_of("board", "C hold", "C ulp", "C pins", "C rssi", "C tick", "C adc", "C uart", "C texts", "C receive"),
)  # fmt: skip
BESIDE = {"wire.md B6", "wire.md B8", "peers.md section 5"}  # mended though they were left to others
KEYS = {"entry", "kind", "report", "tests", "stays"}
_REPORTS = re.compile(r"([\w.-]+/[\w.-]+#\d+(, )?)*")
LEFT_OUT = {"skip", "xfail", "soak", "hil"}


@cache
def faults() -> list[dict[str, Any]]:
    return tomllib.loads(FILE.read_text())["fault"]


def wanted() -> list[str]:
    return sorted({test for f in faults() for test in f.get("tests", ())})


def test_every_fault_is_in_the_list_once() -> None:
    entries = [f["entry"] for f in faults()]
    assert sorted(set(REQUIRED) - set(entries)) == [], "faults without an entry"
    assert sorted(e for e in set(entries) if entries.count(e) > 1) == []
    pages = {e.partition(" ")[0] for e in REQUIRED}
    unknown = {e for e in set(entries) - set(REQUIRED) - BESIDE if e.partition(" ")[0] in pages}
    assert sorted(unknown) == [], "unknown names of faults"


@pytest.mark.parametrize("fault", faults(), ids=lambda f: f["entry"])
def test_a_fault_says_its_kind_and_what_holds_it(fault: dict[str, Any]) -> None:
    assert set(fault) <= KEYS and len(fault["kind"]) > 20 and _REPORTS.fullmatch(fault["report"])
    tests, stays = fault.get("tests", []), fault.get("stays", "")
    assert tests or stays, "tests that hold it, or why it stays, or of a part each"
    assert not stays or len(stays) > 40, "a reason with its measurement"


@cache
def _defined(file: Path) -> dict[str, list[str]]:
    """Return the tests of a file by name, `Class::name` in classes, and the marks each carries."""
    found: dict[str, list[str]] = {}
    tree = ast.parse(file.read_text())
    everywhere: list[str] = []
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "pytestmark" for t in statement.targets
        ):
            everywhere = _marks([statement.value])
    for node in tree.body:
        members = (
            [(f"{node.name}::", n, node.decorator_list) for n in node.body]
            if isinstance(node, ast.ClassDef)
            else [("", node, [])]
        )
        for prefix, member, above in members:
            if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
                found[prefix + member.name] = everywhere + _marks([*above, *member.decorator_list])
    return found


def _marks(expressions: list[ast.expr]) -> list[str]:
    """Return the names of pytest marks among decorators: of skip(...) too, not of skipif."""
    return [
        n.attr
        for e in expressions
        for n in ast.walk(e)
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Attribute) and n.value.attr == "mark"
    ]


@pytest.mark.parametrize("test", wanted())
def test_a_test_that_holds_a_fault_is_there_and_runs(test: str) -> None:
    file, _, name = test.partition("::")
    assert "[" not in test, "ids without parameters: all of them hold it"
    assert (ROOT / file).is_file() and Path(file).name.startswith("test_"), f"no file {file}"
    defined = _defined(ROOT / file)
    assert name in defined and name.rpartition("::")[2].startswith("test_"), f"{file} has no {name}"
    assert not LEFT_OUT & set(defined[name]), "it does not run in `make test`"


@pytest.mark.slow
def test_pytest_itself_finds_them_all() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
        "-n",
        "0",
        *wanted(),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = {line.partition("[")[0] for line in done.stdout.splitlines() if "::" in line}
    assert sorted(set(wanted()) - found) == []


def test_the_list_sees_what_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "test_x.py"
    file.write_text(
        "import pytest\n@pytest.mark.skip(reason='no')\ndef test_a(): ...\n@pytest.mark.skipif(1, reason='x')\ndef test_b(): ...\n"
        "class TestC:\n    @pytest.mark.soak\n    def test_d(self): ...\n"
    )
    assert _defined(file) == {"test_a": ["skip"], "test_b": ["skipif"], "TestC::test_d": ["soak"]}
    assert "gateway.md G19" in REQUIRED and "security.md B5" in REQUIRED and "operation.md R6" not in REQUIRED

"""Runs tests/vm/engine/*.py: the whole node and a gateway in one VM, each function in a VM and on a flash of its own, on 64 and 32 bits.

The heap is wider than a board's, because the gateway and the world of the test live in it too; what the node itself takes is measured in
engine/memory.py. mpy/test_engine_*.py has what fits beside it on the board's own heap.
"""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from host_sim import compile as mpy
from host_sim.vm.run import run_vm
from tests.vm import tier32

HERE = Path(__file__).resolve().parent
HEAP = "320wK"


def functions() -> list[tuple[str, str]]:
    found = []
    for path in sorted((HERE / "engine").glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found.append((path.name, node.name))
    return found


SLOW = {"test_the_heap_is_flat_over_thirty_days"}
HW = {"node": 0x0107}
CASES = [
    pytest.param(f, n, marks=[pytest.mark.slow] if n in SLOW else [], id=f"{f[:-3]}-{n[5:]}") for f, n in functions()
]
CASES_32 = [
    pytest.param(*c.values, marks=pytest.mark.xdist_group(f"{c.values[0]}32"), id=c.id) for c in CASES if not tier32.OFF
]
_results: dict[str, dict[str, dict[str, Any]]] = {}


@pytest.mark.parametrize(("file", "name"), CASES_32)
def test_engine_on_32_bits(file: str, name: str, request: pytest.FixtureRequest) -> None:
    why = tier32.why_not(file, name)
    if why:
        pytest.skip(why)
    if file not in _results:  # one process for the functions of a file that were selected
        wanted = [
            i.callspec.params
            for i in request.session.items
            if getattr(i, "originalname", "") == request.node.originalname
        ]
        names = [p["name"] for p in wanted if p["file"] == file and tier32.why_not(file, p["name"]) is None]
        _results[file] = tier32.run_functions(HERE / "engine" / file, names, more=[HERE / "mpy"], hw=HW)
    result = _results[file][name]
    if result["skip"]:
        pytest.skip(result["skip"])
    assert result["ok"], result["trace"] + result["out"][-2000:]


@pytest.mark.parametrize(("file", "name"), CASES)
def test_engine(file: str, name: str) -> None:
    done = run_vm(
        mpy.VM_FOLDER / "sim_tests.py",
        path=[HERE / "engine", HERE / "mpy"],
        argv=["/host0/" + file, name],
        heap=HEAP,
        hw=HW,
    )
    records = [json.loads(line[1:]) for line in done.out.split("\n") if line.startswith("\x1e")]
    results = [r for r in records if r.get("name") == name]
    assert results, f"the VM ended with code {done.code}\n{done.out[-2000:]}\n{done.err[-4000:]}"
    if results[0]["skip"]:
        pytest.skip(results[0]["skip"])
    assert results[0]["ok"], results[0]["trace"] + done.out[-2000:]

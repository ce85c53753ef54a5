"""Runs tests/vm/engine/*.py: the whole node and a gateway in one VM, each function in a VM and on a flash of its own.

The heap is wider than a board's, because the gateway and the world of the test live in it too; what the node itself takes is measured in
engine/memory.py. mpy/test_engine_*.py has what fits beside it on the board's own heap.
"""

import ast
import json
from pathlib import Path

import pytest

from host_sim import compile as mpy
from host_sim.vm.run import run_vm

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
CASES = [
    pytest.param(f, n, marks=[pytest.mark.slow] if n in SLOW else [], id=f"{f[:-3]}-{n[5:]}") for f, n in functions()
]


@pytest.mark.parametrize(("file", "name"), CASES)
def test_engine(file: str, name: str) -> None:
    done = run_vm(
        mpy.VM_FOLDER / "sim_tests.py",
        path=[HERE / "engine", HERE / "mpy"],
        argv=["/host0/" + file, name],
        heap=HEAP,
        hw={"node": 0x0107},
    )
    records = [json.loads(line[1:]) for line in done.out.split("\n") if line.startswith("\x1e")]
    results = [r for r in records if r.get("name") == name]
    assert results, f"the VM ended with code {done.code}\n{done.out[-2000:]}\n{done.err[-4000:]}"
    if results[0]["skip"]:
        pytest.skip(results[0]["skip"])
    assert results[0]["ok"], results[0]["trace"] + done.out[-2000:]

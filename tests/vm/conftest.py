"""Collects tests/vm/mpy/test_*.py: each function test_* (or async def) runs inside the MicroPython VM, on 64 and on 32 bits; see README.md."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from host_sim import compile as mpy
from host_sim.vm.run import run_vm
from tests.vm import tier32

HERE = Path(__file__).resolve().parent


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if module_path.parent == HERE / "mpy":
        return VmFile.from_parent(parent, path=module_path)
    return None


class VmFile(pytest.Module):
    """One file. 64 bits: one VM; 32 bits: one process, a VM for each function. The first item takes every selected function along."""

    results: dict[int, dict[str, dict[str, Any]]]

    def _getobj(self) -> None:
        return None

    def collect(self):
        self.results = {}
        tree = ast.parse(self.path.read_text(), str(self.path))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for bits in (32,) if self.path.name in tier32.ONLY_32 else (64,) if tier32.OFF else (64, 32):
                    item = VmItem.from_parent(self, name=f"{node.name}[vm{bits}]")
                    item.add_marker(pytest.mark.xdist_group(f"{self.path.name}{bits}"))
                    item.vm_name, item.bits, item.line = node.name, bits, node.lineno
                    yield item

    def result(self, item: VmItem) -> dict[str, Any]:
        if item.bits not in self.results:
            same = [
                i for i in self.session.items if isinstance(i, VmItem) and i.path == self.path and i.bits == item.bits
            ]
            names = [i.vm_name for i in same] or [item.vm_name]
            if item.bits == 32:
                names = [n for n in names if tier32.why_not(self.path.name, n) is None]
                self.results[32] = tier32.run_functions(self.path, names)
            else:
                results: dict[str, dict[str, Any]] = {}
                while names:
                    results |= run_file(self.path, names)
                    names = [n for n in names if n not in results]
                self.results[64] = results
        return self.results[item.bits][item.vm_name]


def run_file(path: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Run the functions in one VM; when it dies the function it died in fails, and the caller runs the rest again."""
    done = run_vm(
        mpy.VM_FOLDER / "sim_tests.py",
        path=[path.parent],
        argv=["/host0/" + path.name, *names],
    )
    results: dict[str, dict[str, Any]] = {}
    began, out = names[0], []
    for line in done.out.split("\n"):
        if not line.startswith("\x1e"):
            out.append(line)
            continue
        record = json.loads(line[1:])
        if "begin" in record:
            began, out = record["begin"], []
        else:
            results[record["name"]] = record | {"out": "\n".join(out)}
    if not results or len(results) < len(names) and began not in results:
        results[began] = {
            "ok": False,
            "trace": f"the VM ended with code {done.code}\n{done.err[-4000:]}",
            "out": "\n".join(out),
        }
    return results


class VmFailure(Exception):
    pass


class VmItem(pytest.Item):
    parent: VmFile
    vm_name = ""
    bits = 64
    line = 1

    def runtest(self) -> None:
        why = tier32.why_not(self.path.name, self.vm_name) if self.bits == 32 else None
        if why:
            pytest.skip(why)
        result = self.parent.result(self)
        if result.get("out"):
            self.add_report_section("call", "stdout", result["out"])
        if result.get("skip"):
            pytest.skip(result["skip"])
        if not result["ok"]:
            raise VmFailure(result["trace"])

    def repr_failure(self, excinfo, style=None):
        if isinstance(excinfo.value, VmFailure):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self):
        return self.path, self.line, f"vm: {self.name}"

"""Collects tests/vm/mpy/test_*.py: each function test_* (or async def) runs inside the MicroPython VM; see README.md."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from host_sim import compile as mpy
from host_sim.vm.run import run_vm

HERE = Path(__file__).resolve().parent


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if module_path.parent == HERE / "mpy":
        return VmFile.from_parent(parent, path=module_path)
    return None


class VmFile(pytest.Module):
    """One file, one VM process: the first item that runs takes every selected function of the file along."""

    results: dict[str, dict[str, Any]] | None = None

    def _getobj(self) -> None:
        return None

    def collect(self):
        tree = ast.parse(self.path.read_text(), str(self.path))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                item = VmItem.from_parent(self, name=node.name)
                item.add_marker(pytest.mark.xdist_group(self.path.name))
                item.line = node.lineno
                yield item

    def result(self, name: str) -> dict[str, Any]:
        if self.results is None:
            names = [i.name for i in self.session.items if i.path == self.path] or [name]
            results: dict[str, dict[str, Any]] = {}
            while names:
                results |= run_file(self.path, names)
                names = [n for n in names if n not in results]
            self.results = results
        return self.results[name]


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
    line = 1

    def runtest(self) -> None:
        result = self.parent.result(self.name)
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

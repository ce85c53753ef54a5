"""Collects tests/vm/mpy/test_*.py: each function test_* (or async def) runs inside the MicroPython VM, on 64 and on 32 bits; see README.md."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from host_sim import compile as mpy
from host_sim.vm.run import VmResult, run_vm
from tests.vm import radio, tier32

HERE = Path(__file__).resolve().parent


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if module_path.parent == HERE / "mpy":
        return VmFile.from_parent(parent, path=module_path)
    return None


class VmFile(pytest.Module):
    """One file. 64 bits: one VM; 32 bits: one process, a VM for each function. The first item takes every selected function along.

    What uses the board's radio runs over the stand-in and, `-driver`, over micropython-lib's own (radio.py).
    """

    results: dict[tuple[int, bool], dict[str, dict[str, Any]]]

    def _getobj(self) -> None:
        return None

    def collect(self):
        self.results = {}
        tree = ast.parse(self.path.read_text(), str(self.path))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                sizes = (32,) if self.path.name in tier32.ONLY_32 else (64,) if tier32.OFF else (64, 32)
                for driver in (False, True) if self.path.name in radio.FILES else (False,):
                    for bits in sizes:
                        item = VmItem.from_parent(self, name=f"{node.name}[vm{bits}{'-driver' * driver}]")
                        item.add_marker(pytest.mark.xdist_group(f"{self.path.name}{bits}{driver}"))
                        item.vm_name, item.bits, item.driver, item.line = node.name, bits, driver, node.lineno
                        yield item

    def result(self, item: VmItem) -> dict[str, Any]:
        if item.kind not in self.results:
            same = [
                i for i in self.session.items if isinstance(i, VmItem) and i.path == self.path and i.kind == item.kind
            ]
            names = [i.vm_name for i in same] or [item.vm_name]
            if item.bits == 32:
                names = [n for n in names if tier32.why_not(self.path.name, n) is None]
                self.results[item.kind] = tier32.run_functions(self.path, names, **where(self.path, item.driver))
            else:
                results: dict[str, dict[str, Any]] = {}
                while names:
                    results |= run_file(self.path, names, item.driver)
                    names = [n for n in names if n not in results]
                self.results[item.kind] = results
        return self.results[item.kind][item.vm_name]


def where(path: Path, driver: bool) -> dict[str, Any]:
    """What a file's VMs get besides: the board's radio, the driver."""
    if path.name not in radio.FILES:
        return {}
    found: dict[str, Any] = {"hw": radio.hw()}
    return found | {"more": [radio.driver()], "lora": "driver"} if driver else found


def run_file(path: Path, names: list[str], driver: bool) -> dict[str, dict[str, Any]]:
    """Run the functions in one VM; when it dies the function it died in fails, and the caller runs the rest again."""
    given = where(path, driver)
    try:
        done = run_vm(
            mpy.VM_FOLDER / "sim_tests.py",
            path=[path.parent, *given.pop("more", ())],
            argv=["/host0/" + path.name, *names],
            **given,
        )
    except subprocess.TimeoutExpired as e:  # else every item of the file would wait for it again
        said = e.stdout.decode(errors="replace") if isinstance(e.stdout, bytes) else e.stdout or ""
        done = VmResult(-1, said, f"it did not end within {e.timeout} s")
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
    driver = False
    line = 1

    @property
    def kind(self) -> tuple[int, bool]:
        return self.bits, self.driver

    def runtest(self) -> None:
        why = tier32.why_not(self.path.name, self.vm_name) if self.bits == 32 else None
        why = why or (radio.missing() if self.driver else None)
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

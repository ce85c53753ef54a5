"""What a new sensor must bring: a driver, its registry line, a chip model of the same name, tests that name its faults.

Drivers run in the MicroPython VM only, so this reads them as text.
"""

import ast
import importlib
import re
from pathlib import Path

import pytest
from motewire.quantities import KEY, QUANTITIES

from host_sim.chips import BUS, CHIPS

from .world import World

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "firmware" / "mote" / "drivers"
HELPERS = {"__init__", "errors", "uart"}
CITES = re.compile(r"datasheet|data sheet|data manual|reference manual", re.IGNORECASE)
METHODS = {"i2c": {"write", "read"}, "uart": {"receive", "produce", "next_us"}, "i2s": {"fill"}, "pulse": {"count"}}


def registry() -> dict[str, str]:
    for node in ast.parse((FOLDER / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "DRIVERS":
            return ast.literal_eval(node.value)
    raise AssertionError("mote/drivers/__init__.py has no DRIVERS table")


DRIVERS = registry()


def parse(name: str) -> tuple[ast.Module, ast.ClassDef]:
    module, cls = DRIVERS[name].split(":")
    tree = ast.parse((FOLDER / f"{module}.py").read_text())
    found = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == cls]
    assert found, f"{module}.py has no class {cls}"
    return tree, found[0]


def channels(cls: ast.ClassDef) -> tuple[str, ...]:
    for node in cls.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "CHANNELS":
            return ast.literal_eval(node.value)
    raise AssertionError(f"{cls.name} has no CHANNELS")


def test_every_file_is_registered():
    files = {p.stem for p in FOLDER.glob("*.py")} - HELPERS
    assert files == {line.split(":")[0] for line in DRIVERS.values()}, "one registry line per driver file"


def test_drivers_and_models_have_the_same_names():
    assert set(DRIVERS) == set(CHIPS), "each driver needs host_sim/chips/<name>.py and its line in CHIPS (and back)"
    assert set(BUS) == set(CHIPS), "each model needs its bus kind in BUS"


@pytest.mark.parametrize("name", sorted(DRIVERS))
def test_driver_cites_its_datasheet(name):
    tree, cls = parse(name)
    text = ast.get_docstring(tree) or ""
    assert CITES.search(text), f"{name}: the module's docstring names the datasheet it was written from"
    assert ast.get_docstring(cls), f"{name}: the class says what it needs and what its options mean"


@pytest.mark.parametrize("name", sorted(DRIVERS))
def test_driver_names_registered_quantities(name):
    keys = {row[KEY] for row in QUANTITIES}
    names = channels(parse(name)[1])
    assert names and not set(names) - keys, f"{name}: no such quantity: {set(names) - keys}; see motewire/quantities.py"


@pytest.mark.parametrize("name", sorted(DRIVERS))
def test_driver_reads_into_a_buffer(name):
    _, cls = parse(name)
    methods = {n.name: n for n in cls.body if isinstance(n, ast.AsyncFunctionDef | ast.FunctionDef)}
    read = methods.get("read_into")
    assert isinstance(read, ast.AsyncFunctionDef), f"{name}: async def read_into(self, out)"
    assert [a.arg for a in read.args.args] == ["self", "out"]
    doc = ast.get_docstring(read) or ""
    assert "out[0" in doc, f"{name}: read_into's docstring says what out[0:n] holds, and in which unit"
    defaults = methods["__init__"].args
    assert len(defaults.defaults) >= len(defaults.args) - 2, f"{name}: every option after the bus has a default"


@pytest.mark.parametrize("name", sorted(DRIVERS))
def test_driver_has_no_hardware_import(name):
    tree, _ = parse(name)
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not {"machine", "esp32", "network"} & set(names), f"{name}: only mote/hal imports hardware modules"


@pytest.mark.parametrize("name", sorted(CHIPS))
def test_model_is_built_from_the_world_and_serves_its_bus(name):
    module, cls = CHIPS[name].split(":")
    model = getattr(importlib.import_module(f"host_sim.chips.{module}"), cls)
    world = World()
    chip = model(world.sense, world.now_us)
    assert chip.fault is None
    assert all(callable(getattr(chip, m, None)) for m in METHODS[BUS[name]]), METHODS[BUS[name]]
    assert "silent" in model.FAULTS, "every chip can be made to fall silent"


@pytest.mark.parametrize("name", sorted(DRIVERS))
def test_each_fault_of_the_model_is_tried_on_the_driver(name):
    module, cls = CHIPS[name].split(":")
    faults = getattr(importlib.import_module(f"host_sim.chips.{module}"), cls).FAULTS
    text = "".join(
        p.read_text() for p in (ROOT / "tests" / "vm" / "mpy").glob("test_drivers_*.py") if cls in p.read_text()
    )
    assert text, f"no tests/vm/mpy/test_drivers_*.py uses {cls}"
    missing = {f for f in faults if f'"{f}"' not in text}
    assert not missing, f"{name}: no test in the VM uses the faults {missing}"

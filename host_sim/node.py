"""One node as the world sees it: what survives its boots (flash, NVS, RTC), how far its VM has come, what it waits for."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from host_sim import chance, standins
from host_sim import compile as mpy
from host_sim.air import Modulation, Station, Transmission
from host_sim.mqtt_endpoint import Endpoint
from host_sim.protocol import NEVER, PWRON, Delivery, answer, slept_us
from host_sim.vm import mapped
from host_sim.vm.run import STANDINS_BYTES, heap_bytes
from host_sim.zygote import LINE_FD, Zygote, inside

BOOT_US = 300_000  # ROM, bootloader and MicroPython's own start
# What Python takes of a board's start (citymote bench wake: 28 million instructions a wake without a frame, 143 with one, at tools/energy.py's 29 million a
# second), charged when these modules have been imported: every boot asks mote.nap first, and most wakes of a meter end
# there; the others build the node.
PYTHON_US = {"mote.nap": 950_000, "mote.app": 3_900_000}


@dataclass(frozen=True, slots=True)
class PowerCut:
    """Power is away from `at` to `back` (us)."""

    at: int
    back: int


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """What a node is. heap: of the firmware ("100wK"). flash: bytes of the littlefs image, or 0 for a plain folder.

    drift_ppm: by how much the clock of deep sleep is fast. broken: {chip: fault} of drivers that are replaced. partition: file that is the board's
    partition romfs, which the application runs from; None: from .mpy files. driver: folder of micropython-lib's compiled radio driver, which then works
    on a model of its chip; None: the stand-in. low: when power is away or below what the board writes
    flash at, so that the node takes nothing; empty: as the cuts.
    """

    index: int
    id: int
    name: str
    profile: str
    link: str
    station: Station
    hw: dict[str, Any]
    files: dict[str, Path]
    nvs: dict[str, dict[str, Any]]
    world: Path
    folder: Path
    power_on: int
    cuts: tuple[PowerCut, ...] = ()
    heap: str = "100wK"
    flash: int = 1 << 20
    drift_ppm: float = 0.0
    broken: dict[str, str] = field(default_factory=dict)
    partition: Path | None = None
    driver: Path | None = None
    low: tuple[PowerCut, ...] = ()

    def powered_us(self, until: int) -> int:
        """How long before `until` the node had power (us). Cuts do not overlap."""
        return self._without(self.cuts, until)

    def working_us(self, until: int) -> int:
        """How long before `until` the node had power that it works with (us)."""
        return self._without(self.low or self.cuts, until)

    def stretches_us(self, until: int) -> list[int]:
        """How long each stretch of power was that the node works with, in order (us); only the last may have no cut at its end."""
        found, at = [], self.power_on
        for cut in self.low or self.cuts:
            if cut.at < until and cut.back > at:
                found.append(max(0, cut.at - at))
                at = cut.back
        return [*found, max(0, until - at)]

    def _without(self, cuts: tuple[PowerCut, ...], until: int) -> int:
        away = sum(max(0, min(c.back, until) - max(c.at, self.power_on)) for c in cuts)
        return max(0, until - self.power_on - away)


@dataclass(slots=True)
class Listening:
    """The radio receives with `mod` since `since`; `locked` is the frame it is decoding."""

    mod: Modulation
    since: int
    locked: Transmission | None = None


@dataclass(slots=True)
class NodeStats:
    boots: int = 0
    cuts: int = 0
    frames: int = 0
    bytes: int = 0
    airtime_us: int = 0
    wifi_frames: int = 0
    standins_bytes: int = 0
    erases: int = 0
    peak_outbox: int = 0
    resets: dict[str, int] = field(default_factory=dict)
    injected: dict[str, int] = field(default_factory=dict)


class Node:
    """Lock-step state. `low` is the earliest virtual time at which this node may still do something others can notice."""

    def __init__(self, spec: NodeSpec, rom: Path, seed: int) -> None:
        self.spec, self._rom, self._seed = spec, rom, seed
        self.nvs: dict[str, Any] = dict(spec.nvs)
        self.rtc = ""
        self.kept = ""  # RTC domain besides RTC memory, JSON
        self.rtc_off = 0
        self._erased = 0  # blocks in this boot
        self.stats = NodeStats()
        self.pid = 0
        self.line: socket.socket | None = None
        self.buffer = b""
        self.now = 0
        self.running = False
        self.asking: tuple[int, bool] | None = None  # (target, listening)
        self.inbox: list[Delivery] = []
        self.radio: Listening | None = None
        self.sockets: dict[int, Endpoint] = {}
        self.serial = 0  # of transmissions
        self.sequence = 0  # of messages
        self.console = spec.folder / "console.log"
        self.ended: str | None = None

    @property
    def low(self) -> int:
        if self.running:
            return self.now
        if self.asking is None:
            return NEVER
        target, listening = self.asking
        if listening and self.inbox:
            return max(self.now, min(target, min(d.t for d in self.inbox)))
        return target

    def erased(self, n: int, *, counted: bool) -> None:
        """This boot has erased n blocks so far; counted: as part of the statistics."""
        if counted:
            self.stats.erases += n - self._erased
        self._erased = n

    def asleep(self, text: str) -> int:
        """The node sleeps deeply, as Z says: move its RTC, return the us that really pass."""
        rate = (1e6 + self.spec.drift_ppm) / 1e6
        us = slept_us(text, rate)
        self.rtc_off += round(us * rate) - us
        return us

    def next_cut(self, t: int) -> PowerCut | None:
        """The first power cut that has not begun by t."""
        return next((c for c in self.spec.cuts if c.at > t), None)

    def boot(self, t: int, cause: int, zygote: Zygote) -> None:
        """Start the VM at virtual time t with this reset cause."""
        spec = self.spec
        if cause == PWRON:
            self.rtc, self.kept, self.rtc_off = "", "", -t
        self.stats.boots += 1
        self._erased = 0
        cut = self.next_cut(t)
        home, lib, chips, rom = (inside(i) for i in range(4))
        flash = {"image": f"{home}/flash.img", "flash": spec.flash} if spec.flash else {"folder": f"{home}/flash"}
        if not spec.flash:
            self._fill_plain_folder()
        config = {
            "lib": lib,
            "chips": chips,
            "rom": rom,
            "heap": heap_bytes(spec.heap),
            "files": {name: f"{home}/{path.name}" for name, path in spec.files.items()},
            "now": t,
            "rtc_off": self.rtc_off,
            "cause": cause,
            "rtc": self.rtc,
            "kept": json.loads(self.kept) if self.kept else None,
            "nvs": self.nvs,
            "seed": chance.number(self._seed, "node", spec.id, self.stats.boots),
            "world": f"{home}/{spec.world.name}",
            "hw": spec.hw,
            "fd": LINE_FD,
            "probe": True,
            "python_us": PYTHON_US,
            "standins": zygote.standins,
            "cut_at": NEVER if cut is None else cut.at,
            **flash,
        }
        folders = [spec.folder, mpy.compiled(mpy.VM_FOLDER), mpy.chips_parent(), self._rom]
        if spec.driver is not None:
            config["lora"] = "driver"
            if spec.partition is None:  # else it is in the image
                config["path"] = [inside(len(folders))]
                folders.append(spec.driver)
        if spec.partition is not None:
            config["romfs"] = {"at": mapped.ADDRESS, "size": spec.partition.stat().st_size}
        (spec.folder / "boot.json").write_text(json.dumps(config))
        size = heap_bytes(spec.heap) + (standins.room(spec.hw) if zygote.standins else STANDINS_BYTES)
        argv = ["micropython", "-X", f"heapsize={size}", f"{lib}/sim_boot.py", f"{home}/boot.json"]
        with self.console.open("ab") as console:
            self.pid, self.line = zygote.spawn(argv, folders, console.fileno(), spec.partition)
        self.line.setblocking(False)
        self.now, self.running, self.asking, self.buffer = t, True, None, b""
        self.inbox, self.radio, self.sockets = [], None, {}

    def _fill_plain_folder(self) -> None:
        folder = self.spec.folder / "flash"
        if not folder.is_dir():
            folder.mkdir()
            for name, path in self.spec.files.items():
                (folder / name.lstrip("/")).parent.mkdir(exist_ok=True)
                (folder / name.lstrip("/")).write_bytes(path.read_bytes())

    def stop(self, zygote: Zygote) -> None:
        """End the VM process, if there is one."""
        if self.line is not None:
            zygote.kill(self.pid)
            self.line.close()
            self.line = None
        self.running, self.asking, self.inbox = False, None, []

    def grant(self, t: int) -> None:
        """Let the VM run to t and hand over what has arrived when it listens."""
        assert self.line is not None and self.asking is not None
        deliveries: list[Delivery] = []
        if self.asking[1]:
            deliveries, self.inbox = self.inbox, []
        self.asking, self.running = None, True
        self.line.setblocking(True)
        self.line.sendall(answer(t, deliveries))
        self.line.setblocking(False)

    def console_tail(self) -> str:
        try:
            return self.console.read_text(errors="replace")[-1500:]
        except FileNotFoundError:
            return ""

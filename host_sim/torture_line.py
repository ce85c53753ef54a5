"""One node on its line against one gateway: no fleet, no air but the time that frames take. The fast lane of the torture.

A Life is played boot after boot; what it says is an ordered journal, so that "the power went here" is an index into it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from host_sim import chance
from host_sim.lora import LOCK_SYMBOLS, symbol_us, time_on_air_us
from host_sim.node import BOOT_US
from host_sim.protocol import DEEPSLEEP, FINAL, HARD, NEVER, PWRON, SOFT, WDT, Delivery, answer, slept_us
from host_sim.torture_gateway import Gateway, Pair, Row
from host_sim.vm.run import STANDINS_BYTES, heap_bytes
from host_sim.zygote import LINE_FD, Zygote, inside

CAUSES = {"hard": HARD, "wdt": WDT, "soft": SOFT}
HEAP = "130wK"  # a board's 100 and what the probes take
RX_DELAY_US = 1_000_000
MODEM_US = 500
STEP_US = 120_000_000
SILENCE_S = 30.0
READ_SIZE = (
    512  # littlefs' reads when nothing is recorded: six times fewer than with the port's 32, and nobody sees them
)


class LineError(Exception):
    """The VM died or hung: the simulator's fault or an endless loop in the firmware; the text holds the end of its console."""


@dataclass(frozen=True, slots=True)
class Op:
    """One flash or NVS operation: kind "p" program, "e" erase, "n" NVS commit; `label` says what the firmware was about."""

    t: int
    label: str
    kind: str
    block: int = 0
    offset: int = 0
    data: bytes = b""

    def apply(self, image: bytearray, half: bool = False) -> None:
        """Do it to the image; half: the power goes in the middle."""
        at = self.block * 4096 + self.offset
        if self.kind == "p":
            data = self.data[: len(self.data) // 2] if half else self.data
            image[at : at + len(data)] = data
        elif self.kind == "e":
            size = 2048 if half else 4096
            image[at : at + size] = b"\xff" * size


@dataclass(frozen=True, slots=True)
class Sealed:
    """A frame as it left the sealer."""

    pair: Pair
    data: bytes


@dataclass(slots=True)
class Power:
    """What survives between boots. The image is a file, <home>/flash.img."""

    nvs: dict[str, Any]
    now: int
    rtc: str = ""
    kept: Any = None  # the rest of the RTC domain
    rtc_off: int = 0
    cause: int = PWRON

    @classmethod
    def on(cls, nvs: dict[str, Any], now: int) -> Power:
        """Power comes at `now` (us): RTC memory and clock are gone."""
        return cls(nvs, now, rtc_off=-now)


@dataclass(slots=True)
class Heard:
    """What a node said since its power came: everything the judges need."""

    rows: list[Row] = field(default_factory=list)
    sealed: list[Sealed] = field(default_factory=list)
    evicted: list[Pair] = field(default_factory=list)
    depth: int = -1
    clock_set: bool = False  # an authentic answer was believed: after a power cut only the gateway can tell the time
    boots: int = 0
    frames: int = 0
    repl: str | None = None


class Line:
    """Plays boots of a node in `home` (flash.img, world.bin; folders: compiled stand-ins, chips, firmware), from `power` on, against `gateway`.

    record: journal flash and NVS operations through on_op(Op), called before each. acts: (us, label, code). deaf(us): the gateway hears nothing
    then. before(us): called before a frame that ended at us is heard. cuts: times at which the power goes, and for how long.
    """

    def __init__(
        self,
        zygote: Zygote,
        home: Path,
        folders: tuple[Path, Path, Path],
        hw: dict[str, Any],
        power: Power,
        gateway: Gateway,
        unix0: int,
        seed: int,
        *,
        record: Callable[[Op], None] | None = None,
        acts: tuple[tuple[int, str, str], ...] = (),
        deaf: Callable[[int], bool] = lambda _t: False,
        before: Callable[[int], None] = lambda _t: None,
        cuts: tuple[tuple[int, int], ...] = (),
        flash: int = 1 << 20,
    ) -> None:
        self._zygote, self._home, self._folders, self._hw, self._flash = zygote, home, folders, hw, flash
        self.power, self.gateway, self._unix0, self._seed = power, gateway, unix0, seed
        self._record, self._acts, self._deaf, self._before, self._cuts = record, acts, deaf, before, cuts
        self.heard = Heard()
        self.now = power.now
        self._pid = 0
        self._sock: socket.socket | None = None
        self._buffer = b""
        self._flying: tuple[int, str, bytes] | None = None  # (end, modulation, frame)
        self._coming: tuple[int, int, str, bytes] | None = None  # (start, end, modulation, frame)
        self._radio: tuple[int, str] | None = None

    # ---- boots

    def play(self, limit: int, done: Callable[[], bool] = lambda: False) -> bool:
        """Play until done(), asked at every word of the node, or virtual time `limit`. False: limit, or the node ended at the REPL."""
        try:
            while self.power.now < limit and self.heard.repl is None:
                if self._boot(limit, done):
                    return True
            return False
        finally:
            self.stop()

    def stop(self) -> None:
        """End the VM, if one runs."""
        if self._sock is not None:
            self._zygote.kill(self._pid)
            self._sock.close()
            self._sock = None

    def _start(self) -> None:
        p = self.power
        home, lib, chips, rom = (inside(i) for i in range(4))
        self.heard.boots += 1
        self._radio = self._flying = self._coming = None
        cut = next((at for at, _ in self._cuts if at > p.now), NEVER)
        config = {
            "lib": lib, "chips": chips, "rom": rom, "heap": heap_bytes(HEAP), "image": f"{home}/flash.img", "flash": self._flash,
            "now": p.now, "rtc_off": p.rtc_off, "cause": p.cause, "rtc": p.rtc, "kept": p.kept, "nvs": p.nvs,
            "seed": chance.number(self._seed, "boot", p.now, self.heard.boots), "world": f"{home}/world.bin", "hw": self._hw, "fd": LINE_FD, "probe": False,
            "cut_at": cut, "readsize": 32 if self._record else READ_SIZE, "mtime": False,
            "torture": {"record": self._record is not None, "acts": [a for a in self._acts if a[0] > p.now]},
        }  # fmt: skip
        (self._home / "boot.json").write_text(json.dumps(config))
        size = heap_bytes(HEAP) + STANDINS_BYTES
        argv = ["micropython", "-X", f"heapsize={size}", f"{lib}/sim_boot.py", f"{home}/boot.json"]
        folders = [self._home, *self._folders]
        with (self._home / "console.log").open("ab") as console:
            self._pid, self._sock = self._zygote.spawn(argv, folders, console.fileno())
        self._sock.settimeout(SILENCE_S)
        self._buffer = b""

    def _boot(self, limit: int, done: Callable[[], bool]) -> bool:
        """Play one boot; leaves in self.power how the next one begins. True when done()."""
        self._start()
        while True:
            for line in self._lines():
                op, stamp, *rest = line.split(" ", 2)
                self.now = int(stamp)
                self._pass(self.now)
                text = rest[0] if rest else ""
                if op in FINAL:
                    self._last_word(op, text)
                    return False
                self._take(op, text, limit)
                if done():
                    return True
                if op == "A" and self.now >= limit:
                    self.power.now = limit
                    self.stop()
                    return False

    def _lines(self) -> list[str]:
        assert self._sock is not None
        try:
            data = self._sock.recv(1 << 16)
        except TimeoutError:
            raise LineError(
                f"no word for {SILENCE_S:.0f} s of real time at virtual {self.now / 1e6:.3f} s\n{self.tail()}"
            ) from None
        if not data:
            raise LineError(f"the VM died at virtual {self.now / 1e6:.3f} s\n{self.tail()}")
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [line.decode() for line in lines]

    def tail(self) -> str:
        """The end of the console of all boots in this home."""
        path = self._home / "console.log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""

    def _last_word(self, op: str, text: str) -> None:
        self.stop()
        p, t = self.power, self.now
        if op == "R":
            p.now, p.cause = t + BOOT_US, CAUSES[text]
        elif op == "Z":
            p.now, p.cause = t + slept_us(text) + BOOT_US, DEEPSLEEP
        elif op == "X":
            back = next(back for at, back in self._cuts if at <= t < back)
            self.power = Power.on(p.nvs, back)
        else:
            self.heard.repl = text

    # ---- what the node says

    def _take(self, op: str, text: str, limit: int) -> None:
        heard, power = self.heard, self.power
        if op == "J":
            self._journal(text)
        elif op == "A":
            target, listening = text.split()
            self._answer(int(target), listening != "0", limit)
        elif op == "N":
            power.nvs = json.loads(text)
        elif op == "M":
            power.rtc = "" if text == "-" else text
        elif op == "Q":
            power.kept = json.loads(text)
        elif op == "K":
            power.rtc_off, heard.clock_set = int(text), True
        elif op in "PG":
            t2000, cells = text.split(" ")
            heard.rows.append((int(t2000), {int(i): int(v) for i, v in (c.split(":") for c in cells.split(",") if c)}))
        elif op == "S":
            epoch, counter, data = text.split(" ")
            heard.sealed.append(Sealed((int(epoch), int(counter)), bytes.fromhex(data)))
        elif op == "V":
            epoch = heard.sealed[-1].pair[0] if heard.sealed else self.gateway.epoch
            heard.evicted += [(epoch, int(c)) for c in text.split(",") if c]
        elif op == "D":
            heard.depth = int(text)
        elif op == "T":
            *air, _dbm, payload = text.split()
            data = bytes.fromhex(payload)
            freq, sf, bw, cr, preamble, sync = map(int, air)
            del freq, sync
            self._flying = (
                self.now + time_on_air_us(sf, len(data), bw=bw, cr=cr, preamble=preamble),
                " ".join(air),
                data,
            )
            heard.frames += 1
        elif op == "L":
            self._radio = (self.now, text)
        elif op == "U":
            self._radio = None
        elif op not in "HBF":
            raise LineError(f"unknown word {op} {text[:60]}")

    def _journal(self, text: str) -> None:
        label, kind, *more = text.split(" ")
        if kind == "p":
            op = Op(self.now, label, kind, int(more[0]), int(more[1]), bytes.fromhex(more[2]))
        else:
            op = Op(self.now, label, kind, int(more[0]) if more else 0)
        assert self._record is not None
        self._record(op)

    def _pass(self, t: int) -> None:
        """What was in the air and ended by t reaches the gateway; its answer goes out a second later."""
        if self._flying is None or self._flying[0] > t:
            return
        (end, air, data), self._flying = self._flying, None
        self._before(end)
        if self._deaf(end):
            return
        reply = self.gateway.hear(data, self._unix0 + end // 1_000_000 + 1)
        if reply is not None:
            _, sf, bw, cr, preamble, _ = map(int, air.split())
            start = end + RX_DELAY_US
            self._coming = (start, start + time_on_air_us(sf, len(reply), bw=bw, cr=cr, preamble=preamble), air, reply)

    def _answer(self, target: int, listening: bool, limit: int) -> None:
        assert self._sock is not None
        deliveries: list[Delivery] = []
        grant = max(target, self.now + STEP_US)
        if listening:
            grant = target
            if self._coming is not None and self._radio is not None:
                start, end, air, reply = self._coming
                self._coming = None
                if self._radio[0] <= start and self._radio[1] == air:
                    _, sf, bw, *_ = map(int, air.split())
                    lock = start + round(LOCK_SYMBOLS * symbol_us(sf, bw))
                    deliveries = [
                        Delivery.lock(lock, end + MODEM_US),
                        Delivery.packet(end + MODEM_US, -90, 40, reply),
                    ]
        self._sock.sendall(answer(min(grant, limit), deliveries))

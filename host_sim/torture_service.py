"""Kill the gateway where it hurts: SIGKILL at random moments under load, the broker bounced, the disk filled. Then count.

What was acknowledged to a node must arrive at a backend; what arrives twice must be recognisable as a repeat; no downlink counter may be
used twice; and everything must be acknowledged in the end.
"""

from __future__ import annotations

import os
import random
import resource
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from host_sim.gateway_process import GatewayError, GatewayProcess
from host_sim.load import Mote, registry
from host_sim.mosquitto import Mosquitto
from host_sim.outboxes import Key, Load, Subscriber

SPAN = 256  # events that a gateway may send again after a kill or a lost connection (gateway/DECISIONS.md)
NODES = 24
DISK_MB = 96
RESERVE_MB = 4
READY_S = 30.0
DRAIN_S = 60.0
FRAMES_PER_LIFE = 120
MB = 1 << 20

Progress = Callable[[dict[str, Any]], None]


class KillError(Exception):
    """The torture could not go on; the text says why, after `; next: ` what to do."""


@dataclass
class Toll:
    """What a torture cost. lost: acknowledged frames that no backend got. never_acked: frames nobody took in the end.

    duplicates: messages that came again. undetectable: repeats that look like news. reused: downlink counters with two contents.
    """

    seed: int
    kills: int = 0
    kills_at_start: int = 0
    bounces: int = 0
    frames: int = 0
    acked: int = 0
    lost: int = 0
    never_acked: int = 0
    duplicates: int = 0
    duplicates_allowed: int = 0
    undetectable: int = 0
    downlinks_reused: int = 0
    ready_ms_p50: float = 0.0
    ready_ms_max: float = 0.0
    disk: str = ""
    disk_full_seen: bool = False
    alarms_while_full: int = 0
    resumed_s: float | None = None
    wall_s: float = 0.0
    examples: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when every promise held."""
        return not (self.lost or self.never_acked or self.undetectable or self.downlinks_reused) and (
            self.duplicates <= self.duplicates_allowed
            and (not self.disk or (self.disk_full_seen and self.alarms_while_full > 0 and self.resumed_s is not None))
        )

    def as_dict(self) -> dict[str, Any]:
        """The result as a document."""
        return {"ok": self.ok, **{f: getattr(self, f) for f in self.__dataclass_fields__}}


def torture_service(
    folder: Path, kills: int = 50, seed: int = 1, fill: bool = True, progress: Progress = lambda _: None
) -> Toll:
    """Run the real gateway through `kills` lives in `folder`. Raises KillError, MosquittoError."""
    started = time.monotonic()
    with ExitStack() as stack:
        broker_folder = folder / "mosquitto"
        broker_folder.mkdir()
        broker = Mosquitto(broker_folder)
        stack.callback(broker.stop)
        broker.start()
        disk = stack.enter_context(_disk(folder / "disk"))
        run = _Run(folder, broker, disk, kills, seed, fill, progress)
        stack.callback(run.close)
        toll = run.all()
    toll.wall_s = round(time.monotonic() - started, 1)
    return toll


@dataclass(frozen=True)
class Disk:
    """Where the store is; how it can be made full: "tmpfs", a disk of its own, or "rlimit_fsize", a limit on the size of files."""

    folder: Path
    kind: str


@contextmanager
def _disk(folder: Path) -> Iterator[Disk]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "citymote-torture", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        yield Disk(folder, "rlimit_fsize")
        return
    try:
        yield Disk(folder, "tmpfs")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


class _Run:
    def __init__(
        self, folder: Path, broker: Mosquitto, disk: Disk, kills: int, seed: int, fill: bool, progress: Progress
    ) -> None:
        self._rng = random.Random(seed)
        self._broker, self._disk, self._kills, self._fill, self._progress = broker, disk, kills, fill, progress
        motes = [Mote(263 + i, bytes(self._rng.randrange(256) for _ in range(16))) for i in range(NODES)]
        self.port = _free_udp()
        self._config = folder / "gateway.toml"
        (folder / "nodes.toml").write_text(registry(motes))
        self._config.write_text(
            f'[gateway]\nid = "gw-1"\nstore = "{disk.folder}/gateway.db"\n[store]\nreserve_mb = {RESERVE_MB}\n'
            f'[link.lora]\nkind = "udp-forwarder"\nbind = "127.0.0.1:{self.port}"\n'
            f'[output.city]\nkind = "mqtt"\nbroker = "{broker.host}:{broker.port}"\n'
        )
        self.toll = Toll(seed)
        self._ready: list[float] = []
        self._process: GatewayProcess | None = None
        self._subscriber = Subscriber((broker.host, broker.port))
        t0 = int(time.time()) - 30 * 86_400
        self._load = Load(motes, kills * FRAMES_PER_LIFE, seed, t0)
        self._load.start()

    def close(self) -> None:
        """Leave nothing behind."""
        self._load.end()
        if self._process is not None:
            self._process.kill()
        self._subscriber.close()

    def all(self) -> Toll:
        t, rng = self.toll, self._rng
        bounce_at = set(range(1, self._kills, 5))
        fill_at = self._kills // 2 if self._fill else -1
        while t.kills < self._kills:
            self._tell("killing")
            if t.kills == fill_at:
                fill_at = -1
                self._full_disk()
                continue
            bounce = t.kills in bounce_at
            if not bounce and rng.random() < 0.15:
                self._kill_at_start(rng.uniform(0.02, 0.6))
                continue
            self._start()
            self._load.go(self.port)
            time.sleep(rng.uniform(0.02, 0.5))
            if bounce:
                self._broker.stop()
                time.sleep(rng.uniform(0.05, 0.4))
                if rng.random() < 0.5:
                    self._broker.start()
                    bounce = False
                    t.bounces += 1
                    time.sleep(rng.uniform(0.02, 0.5))
            self._kill()
            if bounce:  # the broker comes back to a gateway that is gone, or comes back later
                self._broker.start()
                t.bounces += 1
        self._finish()
        return t

    def _start(self) -> None:
        began = time.monotonic()
        try:
            self._process = GatewayProcess(self._config, ready_s=READY_S)
        except GatewayError as e:
            raise KillError(
                f"after {self.toll.kills} kills the gateway does not come back: {e}; next: look at its log"
            ) from e
        self._ready.append((time.monotonic() - began) * 1000)

    def _kill(self) -> None:
        assert self._process is not None
        if self._process.dead:
            raise KillError(f"the gateway ended by itself: {self._process.tail()}; next: look at its log")
        self._process.kill()
        self._load.hold()
        self.toll.kills += 1

    def _kill_at_start(self, after_s: float) -> None:
        """SIGKILL before it is ready: migrations, recovery and replays of the spool are cut, too."""
        try:
            self._process = GatewayProcess(self._config, ready_s=after_s)
            self._process.kill()
        except GatewayError as e:
            if "before it was ready" in str(e):
                raise KillError(f"the gateway does not come back: {e}; next: look at its log") from e
        self.toll.kills += 1
        self.toll.kills_at_start += 1

    def _full_disk(self) -> None:
        """Fill the disk under load, see that alarms go on, kill it while it is full, let it start on the full disk, make room."""
        t = self.toll
        t.disk = self._disk.kind
        self._load.more(NODES * 40)
        self._start()
        self._load.go(self.port)
        time.sleep(0.3)
        room = self._take_room()
        try:
            t.disk_full_seen = self._until(self._is_full, 40, "filling the disk")
            since = time.monotonic()
            self._until(lambda: "alarm" in self._load.acked_since(since), 10, "alarms on a full disk")
            t.alarms_while_full = self._load.acked_since(since).count("alarm")
            self._kill()
            if self._disk.kind == "tmpfs":
                self._start()
                self._load.go(self.port)
                time.sleep(0.5)
        finally:
            room()
        since = time.monotonic()
        if self._process is None or self._process.dead:
            self._start()
            self._load.go(self.port)
        before = len(self._load.acked)
        if self._until(lambda: any(k != "alarm" for k in self._load.acked_since(since)), 30, "room again"):
            t.resumed_s = round(time.monotonic() - since, 2)
        if len(self._load.acked) == before:
            t.examples.append("nothing was taken after there was room again")
        self._kill()

    def _is_full(self) -> bool:
        """What the log of the database has room for must be used up first: go on with the load until the gateway says so."""
        if "disk_full" in self._subscriber.gateway_events:
            self._load.more(NODES * 20)  # alarms for meanwhile
            return True
        if self._load.waiting < NODES * 8:
            self._load.more(NODES * 8)
        return False

    def _take_room(self) -> Callable[[], None]:
        """Make the disk full; return how to undo it."""
        if self._disk.kind == "tmpfs":
            filler = self._disk.folder / "filler"
            with filler.open("wb", buffering=0) as f:
                try:
                    while f.write(bytes(1 << 16)):
                        pass
                    while f.write(bytes(512)):
                        pass
                except OSError:
                    pass
            return lambda: filler.unlink(missing_ok=True)
        assert self._process is not None
        wal = self._disk.folder / "gateway.db-wal"
        pid = self._process.pid
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (wal.stat().st_size, before[1]))

        def undo() -> None:
            try:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
            except ProcessLookupError:
                return  # it was killed with its limit

        return undo

    def _until(self, what: Callable[[], bool], seconds: float, phase: str) -> bool:
        deadline = time.monotonic() + seconds
        while not what() and time.monotonic() < deadline:
            self._tell(phase)
            if self._load.error is not None:
                raise KillError(f"the load ended: {self._load.error!r}; next: this is a bug of the torture")
            time.sleep(0.05)
        return time.monotonic() < deadline or what()

    def _finish(self) -> None:
        t, load = self.toll, self._load
        self._start()
        load.go(self.port)
        self._until(lambda: load.done, DRAIN_S, "draining")
        acked: set[Key] = set(load.acked)
        self._until(lambda: acked <= self._subscriber.seen.keys(), DRAIN_S, "delivering")
        assert self._process is not None
        try:
            code = self._process.stop()
        except GatewayError as e:
            raise KillError(f"{e}; next: look at its log") from e
        if code:
            raise KillError(f"the gateway ended with code {code}: {self._process.tail()}; next: look at its log")
        seen = self._subscriber.counts()  # its client still receives
        missing = sorted(acked - seen.keys())
        t.frames, t.acked, t.lost, t.never_acked = load.made, len(acked), len(missing), load.waiting
        t.duplicates = sum(n - 1 for n in seen.values())
        t.duplicates_allowed = SPAN * (t.kills + t.bounces)
        t.undetectable, t.downlinks_reused = len(self._subscriber.undetectable), len(load.reused)
        t.examples += [f"{load.kinds[k]} {k[0]}:{k[1]} was acknowledged and never arrived" for k in missing[:5]]
        t.examples += self._subscriber.undetectable[:5] + [
            f"downlink counter {c} of node {n}" for n, c in load.reused[:5]
        ]
        t.ready_ms_p50, t.ready_ms_max = round(statistics.median(self._ready), 1), round(max(self._ready), 1)

    def _tell(self, phase: str) -> None:
        self._progress({"phase": phase, "done": self.toll.kills, "total": self._kills, "acked": len(self._load.acked),
                        "waiting": self._load.waiting})  # fmt: skip


def _free_udp() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])

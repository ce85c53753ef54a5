"""Runs in a checkout for `citymote bench wake`: plays a scenario of one node whose VMs run under callgrind, and writes their counts.

    python -P count_wakes.py SCENARIO.toml OUT.json        with that checkout as working directory and on PYTHONPATH
    python -P count_wakes.py serve FD CHECKOUT             the forking process, under valgrind; started by the former

It takes the checkout's own host_sim, so it uses no more of it than every checkout has: Zygote, runner.run, and of Fleet _transmit, _listen, _deaf
and _last_word.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

if sys.argv[1:2] == ["serve"]:  # its environment is the VMs', which names no checkout: an installed one would be taken
    sys.path.insert(0, sys.argv[3])

from host_sim import zygote

HANG_S = 900.0  # under valgrind, on a busy machine


def serve(fd: int) -> None:
    """As the zygote does; but a VM that is ended by SIGTERM lets valgrind say what it has counted."""

    class Soft:
        def __getattr__(self, name: str) -> Any:
            return getattr(signal, "SIGTERM" if name == "SIGKILL" else name)

    zygote.die_with_parent()
    zygote.signal = Soft()  # type: ignore[assignment]
    zygote.serve(socket.socket(fileno=fd))


class Counting(zygote.Zygote):
    """A zygote whose forks are counted, each in a log of its own; the first fork is a boot without firmware."""

    def __init__(self, *_image: Path) -> None:
        """Without the image: instructions are compared with checkouts that have none, and collections are the firmware's."""
        self.logs = Path(tempfile.mkdtemp(prefix="citymote-wake-logs-"))
        self.wakes: list[dict[str, Any]] = []
        self.base: int | None = None
        Counting.last = self
        popen = subprocess.Popen

        def counted(argv: list[str], **more: Any) -> Any:
            fd = argv[argv.index("host_sim.zygote") + 1]
            valgrind = [
                "valgrind",
                "--tool=callgrind",
                "--callgrind-out-file=/dev/null",
                f"--log-file={self.logs}/%p",
            ]
            return popen(
                [*valgrind, sys.executable, "-P", str(Path(__file__).resolve()), "serve", fd, str(Path.cwd())], **more
            )

        zygote.subprocess.Popen = counted  # type: ignore[assignment,misc]
        try:
            super().__init__()
        finally:
            zygote.subprocess.Popen = popen  # type: ignore[misc]

    def spawn(self, argv: list[str], folders: list[Path], *more: Any, **options: Any) -> tuple[int, socket.socket]:
        if self.base is None:
            self.base = self._bare(argv, folders, *more, **options)
        pid, line = super().spawn(argv, folders, *more, **options)
        self.wakes.append({"pid": pid, "frames": 0, "tx_s": 0.0, "rx_s": 0.0, "until": None})
        return pid, line

    def _bare(self, argv: list[str], folders: list[Path], *more: Any, **options: Any) -> int:
        """Boot once without firmware: what every boot costs before the firmware begins."""
        empty = self.logs / "empty"
        empty.mkdir()
        for name in ("boot.py", "main.py"):
            (empty / name).write_text("")
        pid, line = super().spawn(argv, [*folders[:3], empty, *folders[4:]], *more, **options)
        with line:
            line.settimeout(HANG_S)
            said = b""
            while b"ended\n" not in said and (got := line.recv(4096)):
                said += got
            self.kill(pid)
        return pid

    def instructions(self, pid: int) -> int | None:
        """Return what a VM has counted, None when it was ended before it could say so."""
        log = self.logs / str(pid)
        found = re.findall(r"Collected : (\d+)", log.read_text(errors="replace")) if log.exists() else []
        return int(found[-1]) if found else None


def main(scenario: str, out: str) -> None:
    """Play the scenario and write {base, wakes: [{t, frames, instructions, awake_s, tx_s, rx_s}], sampled, lost}."""
    from host_sim import fleet, node, runner  # here: the forking process, under valgrind, does without

    node.PYTHON_US = {}  # tools/energy.py charges Python's time by the instructions that are counted here; older checkouts charge none

    transmit, listen, deaf, last = (
        getattr(fleet.Fleet, name) for name in ("_transmit", "_listen", "_deaf", "_last_word")
    )

    def transmitted(self: Any, t: int, node: Any, *args: Any) -> None:
        before = node.stats.airtime_us
        wake = Counting.last.wakes[-1]
        wake["frames"] += 1
        transmit(self, t, node, *args)
        wake["tx_s"] += (node.stats.airtime_us - before) / 1e6

    def listening(self: Any, t: int, node: Any, *args: Any) -> None:
        Counting.last.wakes[-1]["from"] = t
        listen(self, t, node, *args)

    def deafened(self: Any, t: int, node: Any) -> None:
        wake = Counting.last.wakes[-1]
        wake["rx_s"] += (t - wake.pop("from", t)) / 1e6
        deaf(self, t, node)

    def ended(self: Any, node: Any, op: str, t: int, text: str) -> None:
        Counting.last.wakes[-1]["until"] = t
        last(self, node, op, t, text)

    fleet.Fleet._transmit = transmitted  # type: ignore[method-assign]
    fleet.Fleet._listen = listening  # type: ignore[method-assign]
    fleet.Fleet._deaf = deafened  # type: ignore[method-assign]
    fleet.Fleet._last_word = ended  # type: ignore[method-assign]
    runner.Zygote = Counting  # type: ignore[misc,assignment]
    runner.Fleet = partial(fleet.Fleet, hang_s=HANG_S)  # type: ignore[misc,assignment]
    boots: list[float] = []

    def on_event(e: dict[str, Any]) -> None:
        if e["event"] == "boot":
            boots.append(e["t"] / 1e6)

    result = runner.run(scenario, on_event=on_event)
    counting = Counting.last
    wakes = [
        {
            "t": t,
            "frames": w["frames"],
            "instructions": counting.instructions(w["pid"]),
            "awake_s": None if w["until"] is None else w["until"] / 1e6 - t,
            "tx_s": w["tx_s"],
            "rx_s": w["rx_s"],
        }
        for t, w in zip(boots, counting.wakes, strict=True)
    ]
    base = counting.instructions(counting.base or 0)
    if base is None:
        sys.exit("the boot without firmware was not counted")
    shutil.rmtree(counting.logs)
    Path(out).write_text(json.dumps({"base": base, "wakes": wakes, "sampled": result.sampled, "lost": result.lost}))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        main(*sys.argv[1:])

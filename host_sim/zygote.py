"""Forks node VMs: imports the MicroPython extension once, then one fork per boot (1 to 3 ms, half a MiB each).

Runs as `python -m host_sim.zygote FD [IMAGE]`; every VM has IMAGE (standins.py) in its memory. Over the inherited socket: one JSON request per message, descriptors attached,
one JSON answer each. {"spawn": argv, "folders": [...], "mapping": file or null} with [line fd, console fd] -> {"pid": n}; {"kill": pid} -> {"status": s}.
Both carry a number "n", which the answer repeats: a caller that was interrupted never reads its answer, the next one passes it over.
Children die with the zygote, and the zygote ends when its socket closes.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from host_sim.vm import mapped
from host_sim.vm.run import vm_environment

PR_SET_PDEATHSIG = 1
LINE_FD = 10
FOLDER_FD = 11  # the first of the folders a VM is given


class Zygote:
    """Handle on a zygote process. Use as a context manager; close() kills every VM that is left."""

    def __init__(self, image: Path | None = None) -> None:
        """image: the stand-ins, which every VM then has in its memory (standins.image())."""
        self._asked = 0
        # as the boot file says it
        self.standins = None if image is None else {"at": mapped.STANDINS, "size": image.stat().st_size}
        self._sock, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with child:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "host_sim.zygote",
                    str(child.fileno()),
                    *([] if image is None else [str(image)]),
                ],
                pass_fds=[child.fileno()],
                start_new_session=True,  # a Ctrl-C at the terminal is the runner's business
                stdin=subprocess.DEVNULL,
                cwd=Path(__file__).resolve().parent.parent,
                env=vm_environment(),
            )

    def spawn(
        self, argv: list[str], folders: list[Path], console: int, mapping: Path | None = None
    ) -> tuple[int, socket.socket]:
        """Start a VM with `argv` (micropython's own); return its pid and our end of its line (fd LINE_FD there).

        mapping: file that it has in its memory, read-only (vm/mapped.py).

        The VM sees folders[i] as inside(i): no path of this machine gets into its heap, whose use it reports.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            request = {
                "spawn": argv,
                "folders": [str(f) for f in folders],
                "mapping": str(mapping) if mapping is not None else None,
            }
            answer = self._ask(request, [theirs.fileno(), console])
        return answer["pid"], ours

    def kill(self, pid: int) -> int:
        """SIGKILL a VM this zygote started and reap it; return its wait status, 0 when that had been done before."""
        return self._ask({"kill": pid})["status"]

    def _ask(self, request: dict[str, Any], fds: Sequence[int] = ()) -> dict[str, int]:
        self._asked += 1
        socket.send_fds(self._sock, [json.dumps({**request, "n": self._asked}).encode()], list(fds))
        while True:
            data = self._sock.recv(4096)
            if not data:
                raise ChildProcessError(f"the zygote process ended with code {self._process.wait()}")
            answer = json.loads(data)
            if answer["n"] == self._asked:
                return answer

    def close(self) -> None:
        self._sock.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def die_with_parent(with_signal: int = signal.SIGKILL) -> None:
    """Ask Linux for a signal to this process when its parent ends, however it ends; survives exec."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, with_signal, 0, 0, 0)


def inside(index: int) -> str:
    """Path of a spawned VM's folder number `index`, the same on every machine."""
    return f"/proc/self/fd/{FOLDER_FD + index}"


def _become_vm(argv: list[str], folders: list[str], mapping: str | None, line: int, console: int) -> None:
    parent = os.getppid()
    die_with_parent()
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(console, 1)
    os.dup2(console, 2)
    os.dup2(line, LINE_FD)
    os.set_inheritable(LINE_FD, True)
    os.closerange(3, LINE_FD)
    os.closerange(LINE_FD + 1, 64)
    for i, folder in enumerate(folders):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        if fd != FOLDER_FD + i:
            os.dup2(fd, FOLDER_FD + i)
            os.close(fd)
    os.chdir("/")
    if mapping is not None:
        mapped.map_file(mapping, False)
    from micropython_run import run_main

    os._exit(run_main(argv) or 0)


def serve(sock: socket.socket) -> None:
    """Answer requests until the other end closes, then kill and reap what still runs."""
    import micropython_run  # noqa: F401  (loaded once, shared by every fork)

    children: set[int] = set()
    while True:
        data, fds, _, _ = socket.recv_fds(sock, 65536, 2)
        if not data:
            break
        request = json.loads(data)
        if "spawn" in request:
            pid = os.fork()
            if not pid:
                try:
                    _become_vm(request["spawn"], request["folders"], request["mapping"], *fds)
                finally:
                    os._exit(70)
            children.add(pid)
            for fd in fds:
                os.close(fd)
            answer = {"pid": pid}
        else:
            pid, status = request["kill"], 0
            if pid in children:
                os.kill(pid, signal.SIGKILL)
                status = os.waitpid(pid, 0)[1]
                children.discard(pid)
            answer = {"status": status}
        sock.send(json.dumps({**answer, "n": request["n"]}).encode())
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    die_with_parent()
    for image in sys.argv[2:]:
        mapped.map_file(image, False, mapped.STANDINS)
    serve(socket.socket(fileno=int(sys.argv[1])))

"""Gateways that are forked from a process which has imported them already: a start costs milliseconds instead of a second of CPU time.

Runs as `python -m host_sim.warm_gateway`. One JSON request per line of its input, {"config", "notify", "log"}; the answer is the process
id. It ends with its input, and its gateways with it. For gateways that are started often to compare with; what is tested is started whole.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from host_sim.zygote import die_with_parent

SERVICE = "gateway.service"  # by its name, as -m names it: no part of the simulator is built on the gateway's modules


class Forked:
    """A forked gateway, to be used as a subprocess.Popen. Its exit code is not known: 0 stands for any end."""

    def __init__(self, pid: int) -> None:
        self.pid, self.returncode = pid, None
        self._fd = os.pidfd_open(pid)

    returncode: int | None

    def poll(self) -> int | None:
        """Return None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Return when it has ended. Raises subprocess.TimeoutExpired."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("gateway", timeout or 0)
        return code

    def send_signal(self, sig: int) -> None:
        """Send a signal, if it runs."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._fd, sig)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._fd], [], [], timeout)[0]:
            self.returncode = 0
            os.close(self._fd)
        return self.returncode


class Warm:
    """Handle on the process that forks. close() ends it and what is left of its gateways."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "host_sim.warm_gateway"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            cwd=Path(__file__).resolve().parent.parent,
        )

    def start(self, config: Path, notify: Path, log: Path) -> Forked:
        """Start a gateway. Raises ChildProcessError when the process that forks has ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"config": str(config), "notify": str(notify), "log": str(log)}).encode() + b"\n")  # fmt: skip
            self._process.stdin.flush()
            return Forked(int(self._process.stdout.readline()))
        except (OSError, ValueError) as e:
            raise ChildProcessError(
                f"the process that forks gateways has ended with code {self._process.wait(10)}"
            ) from e

    def close(self) -> None:
        """Leave nothing behind."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def _become(config: str, notify: str, log: str, server: int) -> int:
    die_with_parent()
    if os.getppid() != server:
        return 1
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    null, out = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for old, new in ((null, 0), (out, 1), (out, 2)):
        os.dup2(old, new)
    os.setsid()
    os.environ["NOTIFY_SOCKET"] = notify
    return importlib.import_module(SERVICE).run(Path(config))


def serve() -> None:
    """Fork at every request until the input ends."""
    importlib.import_module(SERVICE)  # once, shared by every fork
    server = os.getpid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no one here waits for them
    while line := sys.stdin.buffer.readline():
        pid = os.fork()
        if not pid:
            code = 70
            try:
                code = _become(**json.loads(line), server=server)
            finally:
                sys.stdout.flush()
                os._exit(code)
        print(pid, flush=True)


if __name__ == "__main__":
    die_with_parent()
    serve()

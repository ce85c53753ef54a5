"""The gateway as a subprocess: started with a configuration file, READY by sd_notify, ended by SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from host_sim import interrupt

# a runner that is killed outright must not leave its gateway behind
_LEASH = (
    "import os, signal, sys; from host_sim.zygote import die_with_parent; die_with_parent(signal.SIGTERM); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


class GatewayError(Exception):
    """The gateway is missing, does not become ready, or died; the text holds the end of its log."""


class Running(Protocol):
    """What is needed of a subprocess.Popen."""

    pid: int

    @property
    def returncode(self) -> Any: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int, /) -> None: ...

    def kill(self) -> None: ...


Start = Callable[[Path, Path, Path], Running]


def _execute(config: Path, notify: Path, log: Path, command: list[str] | None) -> Running:
    program = command or [sys.executable, "-m", "gateway", "run"]
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-c", _LEASH, *program, "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=Path(__file__).resolve().parent.parent,
            env={**os.environ, "NOTIFY_SOCKET": str(notify)},
        )


class GatewayProcess:
    """`python -m gateway run --config FILE`. command: another program with the same contract (tests). Its log grows with every start.
    start: another way to the same process, given configuration, NOTIFY_SOCKET and log.

    What it notifies is read for as long as it lives, as a supervisor does.
    """

    def __init__(
        self, config: Path, *, command: list[str] | None = None, ready_s: float = 30.0, start: Start | None = None
    ) -> None:
        self._log = config.with_suffix(".log")
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._log_from = self._log.stat().st_size if self._log.exists() else 0  # what this process writes begins there
        self._logged_to = self._log_from
        path = config.parent / "notify.sock"
        path.unlink(missing_ok=True)  # of the process before
        self._notify.bind(str(path))
        self._process: Running = _execute(config, path, self._log, command) if start is None else start(config, path, self._log)  # fmt: skip
        self._said: list[str] = []
        self._news = threading.Condition()
        try:
            self._wait_ready(ready_s)
        except BaseException:
            self.kill()
            raise
        threading.Thread(target=self._listen, daemon=True, name="notify").start()

    def _wait_ready(self, ready_s: float) -> None:
        deadline = time.monotonic() + ready_s
        self._notify.settimeout(0.1)
        while True:
            interrupt.check()
            try:
                if b"READY=1" in self._notify.recv(4096):
                    return
            except TimeoutError:
                pass
            if self._process.poll() is not None:
                raise GatewayError(
                    f"the gateway ended with code {self._process.returncode} before it was ready\n{self.tail()}"
                )
            if time.monotonic() > deadline:
                raise GatewayError(f"the gateway was not ready after {ready_s:.0f} s\n{self.tail()}")

    def linked(self, link: str, wait_s: float = 60.0) -> None:
        """Return when its log says that this link is connected: READY does not wait longer than 5 s for a broker. GatewayError when it is not."""
        deadline = time.monotonic() + wait_s
        while not self._said_connected(link):
            if self.dead or time.monotonic() > deadline:
                raise GatewayError(f"link {link} of the gateway was not connected after {wait_s:.0f} s\n{self.tail()}")
            interrupt.check()
            time.sleep(0.02)

    def _said_connected(self, link: str) -> bool:
        with self._log.open("rb") as log:
            log.seek(self._log_from)
            lines = [line for line in log if b'"link_connected"' in line and line.endswith(b"\n")]
        return any(json.loads(line).get("link") == link for line in lines)

    def logged(self, *events: str) -> list[dict[str, Any]]:
        """Return what its log says of these events since the last call, or since its start."""
        with self._log.open("rb") as log:
            log.seek(self._logged_to)
            lines = [line for line in log if line.endswith(b"\n")]
        self._logged_to += sum(map(len, lines))
        said = (json.loads(line) for line in lines if any(event.encode() in line for event in events))
        return [x for x in said if x.get("event") in events]

    @property
    def dead(self) -> bool:
        return self._process.poll() is not None

    @property
    def pid(self) -> int:
        return self._process.pid

    def tail(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-2000:]

    def _listen(self) -> None:
        while True:
            try:
                said = self._notify.recv(4096).decode(errors="replace")
            except TimeoutError:
                continue
            except OSError:
                return  # closed by kill()
            with self._news:
                self._said += said.splitlines()
                self._news.notify_all()

    def reload(self, wait_s: float = 30.0) -> None:
        """SIGHUP; returns when it says READY again, whether it took the configuration or refused it. GatewayError when it does not."""

        def done() -> bool:
            lines = self._said[at:]
            told = next((i for i, line in enumerate(lines) if line == "RELOADING=1"), None)
            return told is not None and "READY=1" in lines[told:]

        with self._news:
            at = len(self._said)
            self._process.send_signal(signal.SIGHUP)
            if not self._news.wait_for(done, wait_s):
                raise GatewayError(f"the gateway did not finish a reload within {wait_s:.0f} s\n{self.tail()}")

    def stop(self, wait_s: float = 45.0) -> int:
        """SIGTERM, wait for its drain, return its exit code. GatewayError when it does not end in time."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return interrupt.wait_end(self._process, wait_s)
        except subprocess.TimeoutExpired as e:
            raise GatewayError(f"the gateway did not end within {wait_s:.0f} s of SIGTERM\n{self.tail()}") from e
        finally:
            self.kill()

    def kill(self) -> None:
        """End it whatever it does (SIGKILL); harmless when it has ended."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._notify.close()


class Gateway:
    """One gateway through its lives: processes on the same configuration and store, one after the other. Started at once.

    links: names of links to brokers that must be connected before a start counts as done, else it is chance whether it hears the first frame.
    """

    def __init__(self, config: Path, command: list[str] | None = None, links: Sequence[str] = ()) -> None:
        self._config, self._command, self._links = config, command, links
        self._process = GatewayProcess(config, command=command)
        self._wait_linked()

    def start(self) -> None:
        """Start it again after stop() or kill(); returns when it is ready. GatewayError."""
        self._process = GatewayProcess(self._config, command=self._command)
        self._wait_linked()

    def _wait_linked(self) -> None:
        try:
            for link in self._links:
                self._process.linked(link)
        except GatewayError:
            self._process.kill()
            raise

    def stop(self) -> None:
        """SIGTERM and its drain; harmless when it has ended in order. GatewayError when it says that something was wrong."""
        if code := self._process.stop():
            raise GatewayError(f"the gateway ended with code {code}\n{self.tail()}")

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    @property
    def dead(self) -> bool:
        return self._process.dead

    def tail(self) -> str:
        """The end of its log."""
        return self._process.tail()

"""A real mosquitto on a free loopback port, for measurements and tortures: nothing is left of it when the context ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

HINT = "sudo apt-get install mosquitto  (make bench and make test do it when root)"


class MosquittoError(Exception):
    """It is not installed, or does not start; the text says why after `; next: ` what to do."""


class Mosquitto:
    """Listens on `host`, `port` from start() to stop(); its configuration, log and database are in `folder`. Context manager.

    Nothing in it is bounded (queues, inflight), so that what is measured is its client. port: None for a free one.
    persistent: False forgets everything when it ends; memory: the file that holds what it knows otherwise, written by save() and stop().
    """

    def __init__(self, folder: Path, port: int | None = None, persistent: bool = True) -> None:
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise MosquittoError(f"mosquitto is not installed; next: {HINT}")
        self.host, self.port = "127.0.0.1", port or _free_port()
        self.folder = folder
        self.memory = folder / "mosquitto.db"
        config = folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} {self.host}\nallow_anonymous true\npersistence {str(persistent).lower()}\npersistence_location {folder}/\n"
            f"max_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true\n"
            + ("user root\n" if os.geteuid() == 0 else "")  # it would drop to a user that may not write here
        )
        self._log = folder / "mosquitto.log"
        self._command = [program, "-c", str(config)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """True from start() until it has ended, frozen or not."""
        return self._process is not None and self._process.poll() is None

    def start(self, wait_s: float = 10.0) -> None:
        """Start and wait until it accepts connections. Raises MosquittoError."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + wait_s
        while True:
            try:
                socket.create_connection((self.host, self.port), 0.5).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    tail = self._log.read_text(errors="replace")[-500:]
                    raise MosquittoError(f"mosquitto does not start: {tail}; next: {HINT}") from None
                time.sleep(0.02)

    def kill(self) -> None:
        """End it as a power cut does: what it had not written is gone. Harmless when it has ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP: the kernel goes on accepting connections for it, and no one answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def save(self, wait_s: float = 5.0) -> None:
        """Have it write its memory now. Raises MosquittoError."""
        before = self.memory.stat().st_mtime_ns if self.memory.exists() else 0
        os.kill(self.pid, signal.SIGUSR1)
        deadline = time.monotonic() + wait_s
        while not self.memory.exists() or self.memory.stat().st_mtime_ns == before:
            if time.monotonic() > deadline:
                raise MosquittoError("mosquitto does not write its memory; next: look at its log and the disk")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it in order; harmless when it has ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __enter__(self) -> Mosquitto:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])

"""A real mosquitto on a free loopback port, for measurements and tortures: nothing is left of it when the context ends."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

HINT = "sudo apt-get install mosquitto  (make bench and make test do it when root)"


class MosquittoError(Exception):
    """It is not installed, or does not start; the text says why after `; next: ` what to do."""


class Mosquitto:
    """Listens on `host`, `port` from start() to stop(); its configuration, log and database are in `folder`. Context manager.

    Nothing in it is bounded (queues, inflight), so that what is measured is its client.
    """

    def __init__(self, folder: Path) -> None:
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise MosquittoError(f"mosquitto is not installed; next: {HINT}")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.host, self.port = "127.0.0.1", int(s.getsockname()[1])
        self.folder = folder
        config = folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} {self.host}\nallow_anonymous true\npersistence true\npersistence_location {folder}/\n"
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

"""The real process with a log that no one reads: a frozen reader, a terminal that is stopped, a reader that has left."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.world import REPO, Concentrator, Mote, toml_of, until


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def frozen() -> tuple[int, Callable[[], object]]:
    """A pipe of one page whose reader holds it and reads nothing."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    return writer, lambda: reader


def left() -> tuple[int, Callable[[], object]]:
    """`run | tee log`, and tee ends."""
    reader, writer = os.pipe()
    return writer, lambda: os.close(reader)


def stopped() -> tuple[int, Callable[[], object]]:
    """A terminal that is read, until someone presses Ctrl-S in it."""
    master, slave = pty.openpty()

    def read() -> None:
        with suppress(OSError):
            while os.read(master, 4096):
                pass

    threading.Thread(target=read, daemon=True).start()
    return slave, lambda: os.write(master, b"\x13")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[int, list[Mote]], tuple[subprocess.Popen[bytes], int, str]]]:
    running: list[subprocess.Popen[bytes]] = []

    def make(log: int, motes: list[Mote]) -> tuple[subprocess.Popen[bytes], int, str]:
        udp, http = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)
        config = toml_of(tmp_path, ("127.0.0.1", 1), motes)
        text = config.read_text().replace('bind = "127.0.0.1:0"', f'bind = "127.0.0.1:{udp}"')
        config.write_text(f'{text}[http]\nbind = "127.0.0.1:{http}"\n')
        command = [sys.executable, "-m", "gateway", "run", "--config", str(config), "--log-level", "debug"]
        running.append(subprocess.Popen(command, cwd=REPO, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        os.close(log)
        place = f"http://127.0.0.1:{http}/"
        assert until(lambda: running[0].poll() is not None or answers(place)) and running[0].poll() is None
        return running[0], udp, place

    yield make
    for p in running:
        p.kill()
        p.wait()


def answers(place: str) -> bool:
    with suppress(OSError):
        return bool(health(place))
    return False


def health(place: str) -> dict[str, Any]:
    return json.loads(get(place, "health"))


def get(place: str, what: str) -> str:
    with urllib.request.urlopen(place + what, timeout=5) as f:
        return f.read().decode()


@pytest.mark.parametrize("kind", [frozen, left, stopped])
def test_a_log_that_no_one_reads_stops_nothing(
    kind: Callable[[], tuple[int, Callable[[], object]]],
    start: Callable[[int, list[Mote]], tuple[subprocess.Popen[bytes], int, str]],
) -> None:
    log, end = kind()
    motes = [Mote(263), Mote(264)]
    p, udp, place = start(log, motes)
    end()
    c = Concentrator(udp)
    for n in range(40):
        c.push(motes[n % 2].report(int(time.time()) - 60, [[3, 5, n % 9, 231, 631, 121]]))
        c.pull(5)
    assert until(lambda: 'citymote_frames_total{link="lora"} 40.0' in get(place, "metrics"), 10)
    assert until(lambda: any(x["code"] == "log_unread" for x in health(place)["problems"]), 40)
    p.send_signal(signal.SIGTERM)
    assert p.wait(20) == 0
    c.close()

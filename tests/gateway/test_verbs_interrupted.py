"""Ctrl-C while a verb of `citymote gateway` waits: exit code 130, no traceback, and what stays of the request."""

from __future__ import annotations

import json
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway import __main__ as entry
from tests.gateway.world import REPO, Mote, Process, toml_of, until

Started = subprocess.Popen[str]


@pytest.fixture
def mute() -> Iterator[socket.socket]:
    """A broker's address where connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        s.settimeout(60)
        yield s


@pytest.fixture
def run() -> Iterator[Callable[..., Started]]:
    started: list[Started] = []

    def start(*args: object) -> Started:
        command = [sys.executable, "-m", "gateway", *map(str, args)]
        started.append(subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)))  # fmt: skip
        return started[-1]

    # SIG_DFL: what a shell starts behind & ignores Ctrl-C, and so would its children
    yield start
    for p in started:
        p.kill()
        p.communicate()


def interrupted(p: Started) -> tuple[str, str]:
    """Press Ctrl-C and return what it has printed."""
    assert p.poll() is None, p.communicate()
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 130, err
    assert err.startswith("error: interrupted") and "Traceback" not in err, err
    return out, err


def connection(mute: socket.socket, client: bytes) -> socket.socket:
    """Take connections until one is this client's: others may look for a broker that had the port before."""
    while True:
        c, _ = mute.accept()
        c.settimeout(60)
        if client in c.recv(1000):
            return c
        c.close()


def test_republish_names_the_request_that_stays(
    tmp_path: Path, mute: socket.socket, run: Callable[..., Started]
) -> None:
    config = toml_of(tmp_path, ("127.0.0.1", mute.getsockname()[1]), [Mote(263)])
    gateway = Process(config)
    try:
        p = run("republish", "--config", config, "--output", "city", "--json")
        with closing(sqlite3.connect(f"file:{tmp_path / 'gateway.db'}?mode=ro", uri=True)) as db:
            waiting = "SELECT count(*) FROM requests"
            assert until(lambda: db.execute(waiting).fetchone()[0] == 1)
            out, err = interrupted(p)
            assert json.loads(out)["error"] == "interrupted"
            assert "the request stays noted" in err
            assert db.execute(waiting).fetchone()[0] == 1
    finally:
        gateway.kill()


def test_verbs_that_wait_for_a_broker_end(tmp_path: Path, mute: socket.socket, run: Callable[..., Started]) -> None:
    config = toml_of(tmp_path, ("127.0.0.1", mute.getsockname()[1]), [Mote(263)])
    p = run("check", "--config", config, "--brokers")
    with connection(mute, b"citymote-ask-"):
        interrupted(p)
    Process(config).kill()  # which leaves a store
    p = run("replay", "--config", config, "--output", "city", "--from", "2026-01-01", "--to", "2026-01-02")
    with connection(mute, b"citymote-gw-1-replay-"):
        assert "can be sent again" in interrupted(p)[1]


def test_reload_leaves_the_end_to_the_log(tmp_path: Path, mute: socket.socket, run: Callable[..., Started]) -> None:
    config = toml_of(tmp_path, ("127.0.0.1", mute.getsockname()[1]), [Mote(263)])
    gateway = Process(config)
    try:
        gateway.process.send_signal(signal.SIGSTOP)  # it cannot answer
        status = Path(f"/proc/{gateway.process.pid}/status")

        def asked() -> bool:
            pending = next(line for line in status.read_text().splitlines() if line.startswith("ShdPnd:"))
            return bool(int(pending.split()[1], 16) & 1 << signal.SIGHUP - 1)

        p = run("reload", "--config", config, "--pid", gateway.process.pid)
        assert until(asked)
        assert "may have been asked" in interrupted(p)[1]
    finally:
        gateway.process.send_signal(signal.SIGCONT)
        gateway.kill()


@pytest.mark.parametrize("verb", ["run", "check", "reload", "replay", "republish", "export"])
def test_no_verb_ends_in_a_traceback_wherever_it_is_interrupted(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ctrl_c(_: object) -> int:
        raise KeyboardInterrupt

    more = {"reload": ["--pid", "1"], "replay": ["--output", "city"], "republish": ["--output", "city"]}.get(verb, [])
    period = ["--from", "2026-01-01", "--to", "2026-01-02"] if verb in ("replay", "export") else []
    name = secrets.token_hex(4)
    monkeypatch.setattr(sys, "argv", ["gateway", verb, "--config", name, *more, *period])
    monkeypatch.setattr(entry, "_run", ctrl_c)
    assert entry.main() == 130
    assert capsys.readouterr().err.startswith("error: interrupted\n")

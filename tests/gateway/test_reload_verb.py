"""`citymote gateway reload`, which the unit's ExecReload= runs: exit code and complaint are the running gateway's own answer."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway import reloading
from tests.gateway.conftest import BrokerAddress
from tests.gateway.world import REPO, Mote, Process, toml_of, until


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """RUNTIME_DIRECTORY, as the unit has it."""
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(folder))
    return folder


@pytest.fixture
def running(tmp_path: Path, mosquitto: BrokerAddress, runtime: Path) -> Iterator[tuple[Process, Path]]:
    config = toml_of(tmp_path, mosquitto, [Mote(263)])
    p = Process(config)
    yield p, config
    p.kill()


def ask(config: Path, pid: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", "reload", "--config", str(config), "--pid", str(pid)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)


def test_a_reload_ends_as_the_running_gateway_ended_it(running: tuple[Process, Path], runtime: Path) -> None:
    p, config = running
    pid, good, nodes = p.process.pid, config.read_text(), (config.parent / "nodes.toml").read_text()
    done = ask(config, pid)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    config.write_text(good.replace('id = "gw-1"', 'id = "gw-9"'))  # only the running gateway can know that
    done = ask(config, pid)
    assert (
        done.returncode == 1 and "gateway.id has changed" in done.stderr and "next: restart the gateway" in done.stderr
    )
    config.write_text(good.replace("bind", "bnd"))
    done = ask(config, pid)
    assert done.returncode == 2 and "did you mean `bind`?" in done.stderr
    # it was offered all the same: its health says that a start would fail
    assert until(lambda: sum(line["event"] == "reload_refused" for line in p.lines()) >= 2)
    config.write_text(good)
    refused = len([line for line in p.lines() if line["event"] == "reload_refused"])
    (config.parent / "nodes.toml").write_text(
        nodes + nodes.replace("263", "264")
    )  # it would take a key twice, so it is not asked
    done = ask(config, pid)
    assert done.returncode == 2 and "is a key of" in done.stderr
    (config.parent / "nodes.toml").write_text(nodes + f'[[node]]\nid = 264\nkey = "{secrets.token_hex(16)}"\n')
    assert ask(config, pid).returncode == 0
    assert len([line for line in p.lines() if line["event"] == "reload_refused"]) == refused
    assert [line["nodes"] for line in p.lines() if line["event"] == "reloaded"] == [1, 2]
    assert {f.name for f in runtime.iterdir()} == {"reload.json"}
    p.kill()
    done = ask(config, pid)
    assert done.returncode == 1 and "No such process" in done.stderr


@contextmanager
def deaf() -> Iterator[subprocess.Popen[bytes]]:
    """A process that takes SIGHUP and never answers."""
    code = "import signal, time; signal.signal(1, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    p = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert p.stdout is not None and p.stdout.readline()
        yield p
    finally:
        p.kill()
        p.communicate()


def test_an_older_reloads_answer_is_not_taken_for_this_ones(runtime: Path) -> None:
    """The answer of a reload that had read the files before they were written, or of the gateway's former life."""
    reloading.report(time.monotonic(), [])
    with deaf() as p:
        with pytest.raises(TimeoutError, match="has not ended its reload"):
            reloading.ask(p.pid, wait_s=0.3)
        reloading.report(time.monotonic() + 3600, [("x", "y")])
        assert reloading.ask(p.pid, wait_s=5) == [{"text": "x", "next": "y"}]


def test_without_a_runtime_folder_it_can_only_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    reloading.report(0.0, [])
    with deaf() as p:
        assert reloading.ask(p.pid) is None
    assert list(tmp_path.iterdir()) == []


def test_an_outcome_that_cannot_be_written_ends_no_reload(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}/gone:/run/other")
    assert reloading.runtime_folder() == tmp_path / "gone"
    reloading.report(1.0, [])
    (tmp_path / "gone").mkdir()
    reloading.report(1.0, [("a", "b")])
    assert json.loads((tmp_path / "gone/reload.json").read_text()) == {
        "began": 1.0,
        "mistakes": [{"text": "a", "next": "b"}],
    }
    assert os.listdir(tmp_path / "gone") == ["reload.json"]

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
    assert done.stdout == f"{config} is in force: 1 nodes, 0 new or changed, 0 gone\n"
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
    done = ask(config, pid)
    assert (done.returncode, done.stdout) == (0, f"{config} is in force: 2 nodes, 1 new or changed, 0 gone\n")
    assert until(lambda: [line["nodes"] for line in p.lines() if line["event"] == "reloaded"] == [1, 2])
    assert len([line for line in p.lines() if line["event"] == "reload_refused"]) == refused
    assert {f.name for f in runtime.iterdir()} == {"reload.json"}
    p.kill()
    done = ask(config, pid)
    assert done.returncode == 1 and f"no process {pid}" in done.stderr


def test_by_hand_too_a_refused_reload_ends_with_an_error(
    tmp_path: Path, mosquitto: BrokerAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the unit's RUNTIME_DIRECTORY, of the gateway or of who asks."""
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    config = toml_of(tmp_path, mosquitto, [Mote(263)])
    p = Process(config)
    try:
        assert ask(config, p.process.pid).returncode == 0
        config.write_text(config.read_text().replace('id = "gw-1"', 'id = "gw-9"'))
        done = ask(config, p.process.pid)
        assert done.returncode == 1 and "gateway.id has changed" in done.stderr
        (tmp_path / "run").mkdir()
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
        assert ask(config, p.process.pid).returncode == 1, (
            "where the gateway writes counts, not what the asker's shell has"
        )
    finally:
        p.kill()


def test_nothing_but_a_gateway_of_this_configuration_is_sent_a_signal(
    tmp_path: Path, mosquitto: BrokerAddress, runtime: Path
) -> None:
    """SIGHUP ends what does not expect it."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    config, other = toml_of(here, mosquitto, [Mote(263)]), toml_of(there, mosquitto, [Mote(264)])
    code = f"import sys, time; print(1, flush=True); time.sleep(600)  # gateway run --config {config}"
    stranger = subprocess.Popen([sys.executable, "-c", code, "run", "--config", str(config)], stdout=subprocess.PIPE)
    p = Process(config)
    try:
        assert stranger.stdout is not None and stranger.stdout.readline()
        for pid, file in ((stranger.pid, config), (p.process.pid, other), (1, config), (2**22 + 1, config)):
            done = ask(file, pid)
            assert (
                done.returncode == 1
                and "next: " in done.stderr
                and ("is no gateway" in done.stderr or "no process" in done.stderr)
            )
        time.sleep(0.3)
        assert stranger.poll() is None
        assert [x for x in p.lines() if x["event"] in ("reloaded", "reload_refused")] == []
        (tmp_path / "link.toml").symlink_to(config)
        assert ask(tmp_path / "link.toml", p.process.pid).returncode == 0, "another name of the same file"
    finally:
        stranger.kill()
        stranger.communicate()
        p.kill()


def test_a_gateway_that_was_started_with_a_relative_name_is_known(tmp_path: Path, runtime: Path) -> None:
    for words, known in (
        (["gateway", "run", "--config", "g.toml"], True), (["gateway", "run", "--config=g.toml"], True), (["gateway", "check", "--config", "g.toml"], False),
        (["gateway", "run", "--config", "h.toml"], False), (["run", "--config", "g.toml"], False), (["gateway", "run"], False),
    ):  # fmt: skip
        p = subprocess.Popen(
            [sys.executable, "-c", "print(1, flush=True); import time; time.sleep(60)", *words],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
        )
        try:
            assert p.stdout is not None and p.stdout.readline()
            assert reloading.is_gateway(p.pid, tmp_path / "g.toml") is known, words
        finally:
            p.kill()
            p.communicate()


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
        answer = reloading.ask(p.pid, wait_s=5)
        assert answer is not None and answer["mistakes"] == [{"text": "x", "next": "y"}]


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


def test_a_file_that_does_not_exist_is_named_instead_of_the_process(tmp_path: Path) -> None:
    for pid in (1, 2**22 + 1):
        done = ask(tmp_path / "nope.toml", pid)
        assert done.returncode == 2 and "nope.toml does not exist" in done.stderr and "next: " in done.stderr


def test_a_gateway_whose_file_has_gone_is_asked_all_the_same(running: tuple[Process, Path]) -> None:
    p, config = running
    config.unlink()
    assert ask(config, p.process.pid).returncode == 2
    assert until(lambda: any(line["event"] == "reload_refused" for line in p.lines()))


@pytest.mark.parametrize("pid", [-1, 0, 1 << 31, 99_999_999_999_999, 10**30])
def test_a_number_that_no_process_has_is_refused_with_what_to_do_next(
    tmp_path: Path, pid: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reloading.reload(toml_of(tmp_path, ("127.0.0.1", 1), [Mote(263)]), pid) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: --pid {pid} is the number of no process") and "\nnext: systemctl show" in said

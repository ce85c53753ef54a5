"""`citymote sim` as its users meet it: one JSON document, one hash a seed, clear refusals, a real broker."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.gateway.conftest import BrokerAddress
from tools import sim

CITYMOTE = str(Path(sys.executable).with_name("citymote"))
KEYS = {
    "nodes",
    "virtual_s",
    "wall_s",
    "sampled",
    "delivered",
    "lost",
    "duplicates",
    "frames",
    "bytes_on_air",
    "airtime_ms",
    "alarms",
    "result_hash",
}


def citymote(*arguments: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CITYMOTE, *arguments], capture_output=True, text=True, timeout=timeout)


@pytest.mark.slow
def test_one_seed_gives_one_hash_and_another_seed_another() -> None:
    runs = [
        citymote("sim", "run", "district", "--hours", "2", "--nodes", "7", "--seed", seed, "--json")
        for seed in ("3", "3", "4")
    ]
    assert [r.returncode for r in runs] == [0, 0, 0], runs[0].stderr
    documents = [json.loads(r.stdout) for r in runs]
    assert documents[0].keys() >= KEYS
    for d in documents:
        assert d["lost"] == d["duplicates"] == 0 and d["sampled"] == d["delivered"] > 100
        assert d["nodes"] == 7 and d["virtual_s"] == 7200 and d["duty_violations"] == []
    hashes = [d["result_hash"] for d in documents]
    assert hashes[0] == hashes[1] != hashes[2]


def test_scenarios_are_listed_though_one_of_them_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = json.loads(CliRunner().invoke(sim.list_scenarios, ["--json"]).stdout)
    assert {"district", "commands", "outage"} <= whole["scenarios"].keys() and whole["broken"] == {}
    load = sim.load

    def broken(name: str) -> Any:
        if name == "commands":
            raise sim.ScenarioError("commands.toml:3: table `area` is missing")
        return load(name)

    monkeypatch.setattr(sim, "load", broken)
    done = CliRunner().invoke(sim.list_scenarios, ["--json"])
    listed = json.loads(done.stdout)
    assert done.exit_code == 1 and listed["broken"] == {"commands": "commands.toml:3: table `area` is missing"}
    assert listed["scenarios"].keys() == whole["scenarios"].keys() - {"commands"}
    assert "error: commands: commands.toml:3" in done.stderr and "next: " in done.stderr


def test_an_unknown_scenario_names_the_nearest() -> None:
    done = citymote("sim", "run", "distrikt", "--json")
    assert done.returncode == 2
    refusal = json.loads(done.stdout)
    assert refusal["ok"] is False and refusal["error"] == "bad_scenario" and "district" in refusal["text"]
    assert "district" in done.stderr


def test_broken_toml_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[scenario]\ndescription = "x"\nstart = \n')
    done = citymote("sim", "run", str(path))
    assert done.returncode == 2
    assert "mine.toml" in done.stderr and "line 3" in done.stderr and "Traceback" not in done.stderr


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        '[scenario]\ndescription = "x"\nstart = 2026-01-01T00:00:00Z\nhuors = 3\n[area]\nlat = 1\nlon = 1\n[[group]]\n'
    )
    done = citymote("sim", "run", str(path))
    assert done.returncode == 2
    assert "huors" in done.stderr and '"hours"' in done.stderr


@pytest.mark.parametrize(("broker", "words"), [("127.0.0.1:1", "no MQTT broker answers"), ("nowhere", "not HOST:PORT")])
def test_a_missing_broker_is_said(broker: str, words: str) -> None:
    done = citymote("sim", "run", "district", "--broker", broker, "--json")
    assert done.returncode == 1
    assert words in json.loads(done.stdout)["text"] and "Traceback" not in done.stderr


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_running() -> None:
    run = subprocess.Popen(
        [CITYMOTE, "sim", "run", "district"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while len(family(run.pid)) < 10 and time.monotonic() < deadline:
        time.sleep(0.1)
    started = family(run.pid)
    assert len(started) >= 10
    run.send_signal(signal.SIGINT)
    try:
        _, err = run.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGABRT)
        pytest.fail(f"does not end; left of it {family(run.pid)}; where it stands:\n{run.communicate(timeout=30)[1]}")
    assert run.returncode == 130 and "Traceback" not in err
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in started) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []


def family(pid: int) -> list[int]:
    """Descendants of a process, by /proc."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    out: list[int] = []
    todo = [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        out += children
        todo += children
    return out


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("mosquitto_sub") is None, reason="no mosquitto_sub (next: apt-get install mosquitto-clients)"
)
def test_mosquitto_sub_sees_the_topic_tree(mosquitto: BrokerAddress, tmp_path: Path) -> None:
    out = tmp_path / "seen"
    with out.open("w") as f:
        sub = subprocess.Popen(
            [
                "mosquitto_sub",
                "-h",
                mosquitto.host,
                "-p",
                str(mosquitto.port),
                "-t",
                "sim-district/v1/gw/#",
                "-t",
                "sim-district/v1/node/#",
                "-v",
            ],
            stdout=f,
        )
        try:
            done = citymote(
                "sim",
                "run",
                "district",
                "--hours",
                "4",
                "--nodes",
                "10",
                "--broker",
                f"{mosquitto.host}:{mosquitto.port}",
                "--json",
            )
            time.sleep(0.5)
        finally:
            sub.terminate()
            sub.wait(60)
    assert done.returncode == 0, done.stderr
    seen = [line.split(" ", 1) for line in out.read_text().splitlines()]
    seen = [said for said in seen if said[1] != "(null)"]  # at its end it removes what was retained
    topics = {topic for topic, *_ in seen}
    (gateway,) = {topic.split("/")[3] for topic in topics if topic.startswith("sim-district/v1/gw/")}
    assert gateway.startswith("sim-")
    for topic in (f"gw/{gateway}/state", f"gw/{gateway}/info", "node/aq-01/state", "node/aq-01/meta"):
        assert f"sim-district/v1/{topic}" in topics, sorted(topics)
    for topic in (
        "aq-01/q/pm25",
        "noise-01/q/laeq",
        "water-01/q/water_volume",
        "bay-01/q/occupied",
        "bin-01/q/fill_level",
        "aqw-01/senml",
    ):
        assert f"sim-district/v1/node/{topic}" in topics, sorted(topics)
    assert any("/alert/" in t for t in topics)
    value = json.loads(next(payload for topic, payload in seen if topic == "sim-district/v1/node/aq-01/q/pm25"))
    assert {"v", "u", "t", "q"} <= value.keys() and value["u"] == "ug/m3" and value["t"].endswith("Z")
    pack = json.loads(next(payload for topic, payload in seen if topic == "sim-district/v1/node/aq-01/senml"))
    assert pack[0]["bn"].startswith("urn:dev:") and pack[0]["bt"] > 1_700_000_000
    states = [payload for topic, payload in seen if topic == f"sim-district/v1/gw/{gateway}/state"]
    assert states[0] == "online" and states[-1] == "offline"
    with socket.create_connection(mosquitto, 2):
        pass  # the broker was not ours to end

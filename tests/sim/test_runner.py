"""A whole run with stand-ins for firmware and gateway: what it reports, what it says when something is missing, what it leaves."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from host_sim import compile as mpy
from host_sim import provision, runner
from host_sim.broker import Broker, BrokerError
from host_sim.gateway_process import Gateway, GatewayError, GatewayProcess
from host_sim.wifi import BrokerUnreachable

from .conftest import FAKE_GATEWAY, HERE, plan


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(provision, "CHIPS", dict.fromkeys(provision.CHIPS, ()))
    monkeypatch.setattr(mpy, "firmware_root", lambda: HERE / "tiny")


def family() -> set[int]:
    """Processes below this one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(stat.parent.name)] = int(fields[1])
    found, grew = {os.getpid()}, True
    while grew:
        new = {pid for pid, parent in parents.items() if parent in found} - found
        found |= new
        grew = bool(new)
    return found


def gateways() -> int:
    """Gateway processes below this one."""
    return sum(b"fake_gateway.py" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in family())


def short(**changes):
    scenario = plan(**changes)
    return scenario, {"hours": 0.5, "gateway_command": FAKE_GATEWAY}


def test_a_run_ends_by_itself_and_counts_what_did_not_arrive(monkeypatch, tmp_path):
    scenario, how = short()
    monkeypatch.setattr(runner, "DRAIN_STEP_US", 3_600_000_000)
    before, events, seen = family(), [], []
    result = runner.run(scenario, **how, on_event=events.append, progress=seen.append, keep=tmp_path / "kept")
    assert result.nodes == 4 and result.virtual_s == 1800
    # the fake gateway forwards nothing: everything sampled with a date inside the run is missing, and said so
    assert result.lost == result.sampled and result.delivered == 0
    assert result.frames_wifi == 2 and result.wifi_unanswered == 0 and result.frames > 6
    assert result.drain_s == 3600
    assert {e["event"] for e in events} >= {"ready", "boot", "drain"}
    assert set(result.per_node) == {"aq-01", "aq-02", "aq-03", "w-01"}
    assert (tmp_path / "kept" / "gateway.log").exists() and (
        tmp_path / "kept" / "nodes" / "aq-01" / "console.log"
    ).exists()
    assert family() == before


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "SIGKILL"])
def test_a_gateway_that_is_away_is_a_process_that_ended_and_the_run_repeats(monkeypatch, tmp_path, kill):
    monkeypatch.setattr(runner, "DRAIN_STEP_US", 3_600_000_000)
    scenario, how = short(gateway_down=[{"from_h": 0.6, "to_h": 1.4, "kill": kill}])
    how["hours"] = 2
    alive: list[tuple[str, int]] = []
    events: list[dict] = []

    def watch(event):
        if event["event"] in ("ready", "gateway_down", "gateway_back"):
            alive.append((event["event"], gateways()))
            events.append(event)

    began = time.monotonic()
    one = runner.run(scenario, **how, on_event=watch, keep=tmp_path / "kept")
    assert time.monotonic() - began < 60
    assert alive == [("ready", 1), ("gateway_down", 0), ("gateway_back", 1)]
    assert [e["t"] for e in events[1:]] == [2_160_000_000, 5_040_000_000]
    # of every node's frames, one each ten minutes, those between 36 and 84 minutes found nobody
    lora = [n for name, n in one.per_node.items() if name.startswith("aq")]
    assert [n["frames"] for n in lora] == [11, 11, 11] and one.frames_down < 3 * 8
    assert one.frames_wifi == 11 and one.wifi_unanswered == 0
    two = runner.run(scenario, **how)
    assert (two.result_hash, two.frames_down) == (one.result_hash, one.frames_down)


def test_a_run_that_ends_in_an_outage_has_its_gateway_back_for_the_drain(monkeypatch):
    monkeypatch.setattr(runner, "DRAIN_STEP_US", 900_000_000)
    scenario, how = short(gateway_down=[{"from_h": 0.2, "to_h": 30}])
    seen: list[tuple[str, int]] = []
    result = runner.run(scenario, **how, on_event=lambda e: seen.append((e["event"], e.get("t", -1))))
    assert ("gateway_back", 1_800_000_000) in seen
    assert result.drain_s == 3600


def test_a_gateway_that_does_not_come_back_is_reported(monkeypatch):
    scenario, how = short(gateway_down=[{"from_h": 0.2, "to_h": 0.3}])
    before = family()

    def spoil(event):
        if event["event"] == "gateway_down":
            monkeypatch.setenv("FAKE_GATEWAY", "die")

    with pytest.raises(GatewayError, match="(?s)before it was ready.*fake gateway dies"):
        runner.run(scenario, **how, on_event=spoil)
    assert family() == before


@pytest.mark.parametrize(
    "fault, words",
    [("die", "ended with code 1 before it was ready.*fake gateway dies"), ("silent", "no PULL_ACK")],
)
def test_a_gateway_that_fails_is_reported_with_its_words(monkeypatch, fault, words):
    monkeypatch.setenv("FAKE_GATEWAY", fault)
    monkeypatch.setattr("host_sim.forwarder.Forwarder.TIMEOUT_S", 1.0)
    before = family()
    scenario, how = short()
    with pytest.raises(GatewayError, match=f"(?s){words}"):
        runner.run(scenario, **how)
    assert family() == before


LATE = """import os, socket, time
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
time.sleep(0.6)
print('{"link": "%s", "event": "link_connected"}' % os.environ["LATE_LINK"], flush=True)
time.sleep(60)
"""


def test_a_gateway_is_started_when_its_link_to_the_broker_is_connected_and_ready_may_be_earlier(monkeypatch, tmp_path):
    config, command = tmp_path / "gateway.toml", [sys.executable, "-c", LATE]
    monkeypatch.setenv("LATE_LINK", "wifi")
    began = time.monotonic()
    gateway = Gateway(config, command, ["wifi"])
    assert time.monotonic() - began > 0.6
    gateway.kill()
    began = time.monotonic()
    gateway.start()  # its log tells of the connection of the process before
    assert time.monotonic() - began > 0.6
    gateway.kill()
    monkeypatch.setenv("LATE_LINK", "other")
    process = GatewayProcess(config, command=command)
    with pytest.raises(GatewayError, match="link wifi of the gateway was not connected after 1 s"):
        process.linked("wifi", 1.0)
    process.kill()


def test_a_gateway_that_does_not_exist_is_reported():
    scenario, how = short()
    with pytest.raises(GatewayError, match="(?s)before it was ready.*No module named nowhere"):
        runner.run(scenario, **(how | {"gateway_command": [sys.executable, "-m", "nowhere"]}))


@pytest.mark.parametrize(
    "broker, words", [("127.0.0.1:1", "no MQTT broker answers at 127.0.0.1:1"), ("nonsense", "is not HOST:PORT")]
)
def test_a_missing_broker_is_reported(broker, words):
    scenario, how = short()
    with pytest.raises(BrokerUnreachable, match=words):
        runner.run(scenario, **how, broker=broker)


def test_a_busy_port_is_reported():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        with pytest.raises(BrokerError, match="in use"):
            Broker(s.getsockname()[1])


def test_an_interrupt_ends_everything_that_was_started(monkeypatch):
    scenario, how = short()
    before = family()
    main = threading.main_thread().ident

    def interrupt(event):
        if event["event"] == "boot":
            raise KeyboardInterrupt

    assert main == threading.get_ident()
    with pytest.raises(KeyboardInterrupt):
        runner.run(scenario, **how, on_event=interrupt)
    deadline = time.monotonic() + 60
    while family() != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert family() == before


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "DRAIN_STEP_US", 3_600_000_000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    scenario, how = short()
    runner.run(scenario, **how)
    assert [
        p for p in os.listdir(tmp_path) if p.startswith("citymote-") and "-vm-" not in p and Path(p).suffix == ""
    ] == []

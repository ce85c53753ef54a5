"""The unit under a real systemd: it comes back from everything but a bad configuration, says so when a reload was refused, and its outputs
write. Skipped by name without root or systemd-nspawn."""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.install import CONFIG, REGISTRY
from tests.gateway.machine import UNIT, Machine
from tests.gateway.world import Mote

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("systemd")]
ARCHIVE = '[output.archive]\nkind = "files"\nfolder = "/var/lib/citymote/archive"\n'
CITY = (
    '[output.city]\nkind = "mqtt"\nbroker = "127.0.0.1:1883"\n'  # nobody listens there, unless a test starts a broker
)
REPORTS = """\
import time
from tests.gateway.world import Concentrator, Mote
m = Mote({id}, bytes.fromhex("{key}"))
m.counter = {counter}
c = Concentrator(1700)
c.push(m.report(int(time.time()) - 60, [[3, 5, 5, 231, 631, 121]]))
c.push(m.status({{1: 1}}))
print(len(c.pull()))
"""


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """One booted system for all tests of this file."""
    folder = Path("/tmp") / f"cm-{secrets.token_hex(4)}"  # nspawn refuses a root that only its owner may reach
    folder.mkdir(mode=0o755)
    m = None
    try:
        m = Machine(folder)
        yield m
    finally:
        if m is not None:
            m.end()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def unit(machine: Machine) -> Iterator[Machine]:
    """The unit as installed, not running, configured with one node and no store; restarts follow after 0.5 s instead of 5, which is harder."""
    machine.mote = Mote(263)  # type: ignore[attr-defined]
    machine.configure(ARCHIVE, mote=machine.mote)  # type: ignore[attr-defined]
    machine.drop_in("test", "RestartSec=500ms")
    machine.run("systemctl", "daemon-reload")
    yield machine
    machine.ctl("stop", check=False)
    machine.ctl("reset-failed", check=False)
    shutil.rmtree(machine.root / "var/lib/citymote", ignore_errors=True)


def active(machine: Machine) -> bool:
    return machine.show("ActiveState") == "active"


def pid(machine: Machine) -> int:
    return int(machine.show("MainPID"))


def report(machine: Machine) -> str:
    m: Mote = machine.mote  # type: ignore[attr-defined]
    told = machine.python(REPORTS.format(id=m.id, key=m.key.hex(), counter=m.counter))
    m.counter += 2
    return told.strip()


def rows(machine: Machine) -> int:
    return sum(len(p.read_text().splitlines()) for p in (machine.root / "var/lib/citymote/archive").glob("*.part"))


def test_it_is_ready_answers_and_its_outputs_write(unit: Machine) -> None:
    unit.configure(ARCHIVE, CITY, mote=unit.mote)  # type: ignore[attr-defined]
    unit.run("systemd-run", "--unit=broker", "sh", "-c",
             "printf 'user root\\nlistener 1883 127.0.0.1\\nallow_anonymous true\\n' > /tmp/m.conf; exec mosquitto -c /tmp/m.conf")  # fmt: skip
    try:
        unit.ctl("start")
        assert active(unit) and "1 nodes; lora on 127.0.0.1:1700" in unit.show("StatusText")
        assert report(unit) == "1", "the status frame is acknowledged"
        unit.until(lambda: rows(unit) > 0, "rows in the files output")
        if shutil.which("mosquitto_sub"):
            told = unit.run(
                "mosquitto_sub", "-h", "127.0.0.1", "-t", "city/v1/node/n-263/state", "-C", "1", "-W", "20"
            ).stdout
            assert told.strip() == "online"
        status = unit.run("cat", f"/proc/{pid(unit)}/status").stdout
        assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status and "CapEff:\t0000000000000000" in status
        modes = {p.name: p.stat().st_mode & 0o777 for p in (unit.root / "var/lib/citymote").iterdir()}
        assert {mode & 0o077 for mode in modes.values()} == {0}, modes
        began = time.monotonic()
        unit.ctl("stop")
        assert unit.show("Result") == "success" and time.monotonic() - began < 30
    finally:
        unit.run("systemctl", "stop", "broker.service", check=False)


def test_it_comes_back_however_often_it_is_killed(unit: Machine) -> None:
    unit.ctl("start")
    for n in range(6):
        before = pid(unit)
        unit.run("kill", "-9", str(before))
        unit.until(lambda before=before: active(unit) and pid(unit) not in (0, before), f"back after SIGKILL {n + 1}")
    assert unit.show("NRestarts") == "6" and report(unit) == "1"
    for _ in range(3):  # and restarts by hand are not limited either
        unit.ctl("restart")
    assert active(unit)


def test_one_that_hangs_is_ended_by_the_watchdog_and_started_again(unit: Machine) -> None:
    unit.drop_in("test", "RestartSec=500ms", "WatchdogSec=4")
    unit.run("systemctl", "daemon-reload")
    unit.ctl("start")
    before = pid(unit)
    time.sleep(5)
    assert pid(unit) == before, "it feeds the watchdog"
    unit.run("kill", "-STOP", str(before))
    unit.until(lambda: active(unit) and pid(unit) not in (0, before), "back after the watchdog")
    assert "Watchdog timeout" in unit.journal()


def test_a_reload_that_was_refused_fails_and_the_old_configuration_stays_in_force(unit: Machine) -> None:
    unit.ctl("start")
    before = pid(unit)
    first = unit.ctl("reload", check=False)
    assert first.returncode == 0, unit.journal()
    config, registry = unit.root / CONFIG, unit.root / REGISTRY
    good, nodes = config.read_text(), registry.read_text()
    m: Mote = unit.mote  # type: ignore[attr-defined]
    trials = {
        "did you mean": (good.replace("bind =", "bnd ="), nodes),  # what check can see
        "gateway.id has changed": (good.replace('"roof"', '"cellar"'), nodes),  # what only the running gateway can
        "is a key of": (good, f'{nodes}[[node]]\nid = 264\nkey = "{m.key.hex()}"\n'),  # what it would take
    }
    for told, (text, registered) in trials.items():
        config.write_text(text)
        registry.write_text(registered)
        assert unit.ctl("reload", check=False).returncode != 0, told
        assert told in unit.journal() and m.key.hex() not in unit.journal()
        assert active(unit) and pid(unit) == before and report(unit) == "1"
    config.write_text(good.replace("bind =", "bnd ="))
    unit.ctl("reload", check=False)
    unit.until(lambda: "the configuration on disk is not in force" in unit.show("StatusText"), "STATUS of it")
    config.write_text(good)
    registry.write_text(f'{nodes}[[node]]\nid = 264\nkey = "{secrets.token_hex(16)}"\n')
    unit.ctl("reload")
    unit.until(lambda: unit.show("StatusText").startswith("2 nodes"), "the second node")


@pytest.mark.parametrize("taken", ["port", "store"])
def test_what_is_in_use_at_the_start_is_tried_again_until_it_is_free(unit: Machine, taken: str) -> None:
    unit.ctl("start")  # so that there is a store
    unit.ctl("stop")
    hold = "import socket, time; s = socket.socket(2, 2); s.bind(('127.0.0.1', 1700)); time.sleep(600)"
    if taken == "store":
        hold = (
            "import asyncio, time; from pathlib import Path; from gateway.store.sqlite import SqliteEngine\n"
            "async def hold(): engine = SqliteEngine(Path('/var/lib/citymote/gateway.db')); time.sleep(600)\nasyncio.run(hold())"
        )
    environment = [f"--setenv={k}={v}" for k, v in unit.environment.items()]
    unit.run("systemd-run", f"--unit=holds-{taken}", *environment, "/opt/citymote/bin/python", "-c", hold)
    try:
        if taken == "store":
            unit.until(lambda: "gateway.db" in unit.run("ls", "-l", "/proc/" + unit.run(
                "systemctl", "show", "--value", "-p", "MainPID", "holds-store").stdout.strip() + "/fd", check=False).stdout, "it holds the store")  # fmt: skip
        else:
            unit.until(lambda: ":06A4 " in unit.run("cat", "/proc/net/udp").stdout, "it holds the port")
        assert unit.ctl("start", check=False).returncode != 0
        unit.until(lambda: int(unit.show("NRestarts")) >= 4, "four tries")
        assert unit.show("ActiveState") == "activating"
    finally:
        unit.run("systemctl", "stop", f"holds-{taken}.service", check=False)
    unit.until(lambda: active(unit), f"the {taken} is free")


def test_only_a_bad_configuration_stays_down(unit: Machine) -> None:
    config = unit.root / CONFIG
    config.write_text(config.read_text().replace("bind =", "bnd ="))
    assert unit.ctl("start", check=False).returncode != 0
    time.sleep(2)
    assert (unit.show("ActiveState"), unit.show("ExecMainStatus"), unit.show("NRestarts")) == ("failed", "2", "0")
    assert "did you mean `bind`?" in unit.journal()


def test_a_drain_that_is_longer_than_the_units_time_is_not_cut_off(unit: Machine) -> None:
    """A broker that accepts and never acknowledges makes the drain last as long as it may."""
    unit.configure(ARCHIVE, CITY, mote=unit.mote, gateway="drain_s = 8")  # type: ignore[attr-defined]
    unit.drop_in("test", "TimeoutStopSec=2")
    unit.run("systemctl", "daemon-reload")
    silent = "import time; from tests.gateway.world import ScriptedBroker; ScriptedBroker(1883, acknowledges=False).start(); time.sleep(600)"
    environment = [f"--setenv={k}={v}" for k, v in unit.environment.items()]
    unit.run("systemd-run", "--unit=silent", *environment, "/opt/citymote/bin/python", "-c", silent)
    try:
        unit.until(lambda: ":075B " in unit.run("cat", "/proc/net/tcp").stdout, "it listens")
        unit.ctl("start")
        unit.until(lambda: "output_connected" in unit.journal(), "connected")
        assert report(unit) == "1"
        began = time.monotonic()
        unit.ctl("stop")
        assert time.monotonic() - began >= 6
        assert unit.show("Result") == "success" and '"not_drained"' in unit.journal()
    finally:
        unit.run("systemctl", "stop", "silent.service", check=False)


def test_a_folder_the_unit_may_not_write_to_is_named_with_what_to_do(unit: Machine) -> None:
    unit.configure('[output.archive]\nkind = "files"\nfolder = "archive"\n', mote=unit.mote, gateway="drain_s = 1")  # type: ignore[attr-defined]
    told = unit.run("/opt/citymote/bin/python", "-m", "gateway", "check", "--config", f"/{CONFIG}", "--json")
    assert [w["code"] for w in json.loads(told.stdout)["warnings"]] == ["read_only"]
    unit.ctl("start")
    assert report(unit) == "1"
    unit.until(lambda: "StateDirectory of the unit" in unit.journal(), "the advice of the output itself")
    unit.drop_in("folder", "ReadWritePaths=/etc/citymote/archive")
    (unit.root / "etc/citymote/archive").mkdir()
    shutil.chown(unit.root / "etc/citymote/archive", *[(unit.root / "var/lib/citymote").stat().st_uid] * 2)
    unit.run("systemctl", "daemon-reload")
    unit.ctl("restart")
    unit.until(lambda: any((unit.root / "etc/citymote/archive").glob("*.part")), "rows in the opened folder")
    told = unit.run("/opt/citymote/bin/python", "-m", "gateway", "check", "--config", f"/{CONFIG}", "--json")
    assert json.loads(told.stdout)["warnings"] == []
    unit.drop_in("folder")


def test_the_unit_is_the_one_that_install_writes(machine: Machine) -> None:
    text = machine.run("systemctl", "cat", UNIT).stdout
    assert "StartLimitIntervalSec=0" in text and "RestartPreventExitStatus=2" in text

# ruff: noqa: ASYNC240 - a small folder, and no one else in the loop
"""`citymote gateway replay` and `export`, on the store of a real gateway with a real broker."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import ConfigError
from gateway.export import _sink
from gateway.store.sqlite import SqliteEngine
from tests.gateway.conftest import BrokerAddress
from tests.gateway.world import REPO, Backend, Concentrator, Mote, Process

NOW = int(time.time()) // 3600 * 3600
PROFILES = {
    263: ("air_quality", "open"),
    264: ("water_meter", "open"),
    265: ("parking", "open"),
    266: ("air_quality", "restricted"),
}
TOML = """\
[gateway]
id = "gw-1"
[link.lora]
kind = "udp-forwarder"
bind = "127.0.0.1:0"
[output.city]
kind = "mqtt"
broker = "{0}:{1}"
formats = ["native", "senml", "senml-cbor"]
[output.days]
kind = "files"
folder = "days"
"""

Ran = subprocess.CompletedProcess[str]


def gateway(folder: Path, verb: str, *args: str) -> Ran:
    command = [sys.executable, "-m", "tools.cli", "gateway", verb, "--config", str(folder / "gateway.toml"), *args]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[BrokerAddress], Process]]:
    running: list[Process] = []

    def make(broker: BrokerAddress) -> Process:
        (tmp_path / "gateway.toml").write_text(TOML.format(*broker))
        running.append(Process(tmp_path / "gateway.toml"))
        return running[-1]

    yield make
    for p in running:
        p.kill()


@pytest.fixture
def motes(tmp_path: Path) -> dict[int, Mote]:
    found = {number: Mote(number) for number in PROFILES}
    (tmp_path / "nodes.toml").write_text(
        "".join(
            f'[[node]]\nid = {m.id}\nname = "n-{m.id}"\nkey = "{m.key.hex()}"\nprofile = "{PROFILES[m.id][0]}"\ninterval_s = 600\n'
            f'visibility = "{PROFILES[m.id][1]}"\narea = "centre"\n'
            + ("lat = 45.5\nlon = 13.7\n" if m.id == 263 else "")
            for m in found.values()
        )
    )
    return found


def feed(p: Process, motes: dict[int, Mote]) -> None:
    c = Concentrator(p.port)
    for hour in range(3, 0, -1):
        t = NOW - 3600 * hour
        for number in (263, 266):
            c.push(motes[number].report(t, [[3, 5, hour, 231, 631, 121], [4, None, 9, 230, 630, 120]], interval=600))
        c.push(motes[264].report(t, [[1000 + hour, 15]], schema=4))
        c.pull()
    c.push(motes[265].report(NOW - 900, [[1], [0]], schema=12, interval=0))
    c.push(motes[263].alarm(2, NOW - 800, 6, 181, 150))
    c.pull()
    c.close()


def packs(backend: Backend, since: int) -> dict[str, Any]:
    found = {}
    for topic, payload, retained in backend.messages[since:]:
        assert not retained
        if topic.endswith("/senml"):
            found[json.loads(payload)[0]["id"]] = json.loads(payload)
    return found


def test_a_time_range_is_sent_again_with_the_same_ids_and_no_retained_topic_is_touched(
    tmp_path: Path, mosquitto: BrokerAddress, start: Callable[[BrokerAddress], Process], motes: dict[int, Mote]
) -> None:
    began = int(time.time())
    p, backend = start(mosquitto), Backend(mosquitto)
    feed(p, motes)
    backend.wait(lambda: backend.on("node/n-263/alert/pm10-above") and len(backend.packs()) == 7)
    # the mark says that the pass behind the connection is over: nothing retained follows of itself
    backend.wait(lambda: any(topic.startswith("gw/") and "/mark/" in topic for topic, _, _ in backend.messages))
    time.sleep(1.0)
    first, events, mark = backend.packs(), backend.on("node/n-265/event"), len(backend.messages)
    done = gateway(tmp_path, "replay", "--output", "city", "--from", str(began - 5), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    backend.wait(lambda: len(backend.messages) >= mark + told["messages"])
    again = backend.messages[mark:]
    assert packs(backend, mark) == first, "the same packs under the same ids"
    assert [payload for topic, payload, _ in again if topic == "node/n-265/event"] == events
    assert {topic.split("/")[2] for topic, _, _ in again if not topic.startswith("gw/")} == {
        "senml",
        "senml-cbor",
        "event",
    }, "nothing that is retained"
    assert not [payload for topic, payload, _ in again if b"water" in payload], "the output's filter holds"
    dry = gateway(tmp_path, "replay", "--output", "city", "--from", "1h", "--dry-run", "--json")
    assert json.loads(dry.stdout)["messages"] == told["messages"] and json.loads(dry.stdout)["dry_run"] is True
    assert p.stop() == 0, "the gateway did not mind"
    # what the spool has let go of comes back from frames and rows
    db = sqlite3.connect(tmp_path / "gateway.db")
    db.execute("DELETE FROM spool")
    db.commit()
    db.close()
    mark = len(backend.messages)
    done = gateway(tmp_path, "replay", "--output", "city", "--from", "1h")
    assert done.returncode == 0 and done.stdout.startswith("sent "), done.stderr
    backend.wait(lambda: len(packs(backend, mark)) == 7)
    assert packs(backend, mark) == first
    # rows outlive the frames that brought them by a year; the run may have begun in the hour before
    before = rows(gateway(tmp_path, "export", "--from", "6h"))
    db = sqlite3.connect(tmp_path / "gateway.db")
    db.execute("DELETE FROM frames")
    db.commit()
    db.close()
    mark = len(backend.messages)
    done = gateway(tmp_path, "replay", "--output", "city", "--from", "6h")
    assert done.returncode == 0 and "17 rows have no frame any more" in done.stdout, done.stdout + done.stderr
    backend.wait(lambda: len(packs(backend, mark)) == 7)
    assert packs(backend, mark) == first
    done = gateway(tmp_path, "export", "--from", "6h")
    assert rows(done) == [{k: v for k, v in r.items() if k != "received"} for r in before] and len(before) == 35
    assert "8 rows have no frame any more" in done.stderr, done.stderr
    backend.close()


def test_a_replay_that_cannot_be_says_why(
    tmp_path: Path, mosquitto: BrokerAddress, start: Callable[[BrokerAddress], Process], motes: dict[int, Mote]
) -> None:
    p = start(mosquitto)
    assert p.stop() == 0
    for args, code, says in (
        (("--output", "town", "--from", "1h"), 2, "outputs of this configuration: city, days"),
        (("--output", "days", "--from", "1h"), 2, "citymote gateway export"),
        (("--output", "city", "--from", "yesterday"), 2, "'yesterday' is no time"),
        (("--output", "city", "--from", "2026-03-02", "--to", "2026-03-01"), 2, "is not after"),
        (("--output", "city", "--from", "2001-01-01", "--to", "2001-01-02"), 0, "the store holds nothing of that time"),
    ):
        done = gateway(tmp_path, "replay", *args)
        assert (done.returncode, says in done.stderr) == (code, True), done.stderr
        assert "Traceback" not in done.stderr
    (tmp_path / "gateway.toml").write_text(TOML.format("127.0.0.1", 1))
    done = gateway(tmp_path, "replay", "--output", "city", "--from", "1h", "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["error"] == "failed" and "refused" in done.stderr
    (tmp_path / "gateway.db").unlink()
    done = gateway(tmp_path, "replay", "--output", "city", "--from", "1h")
    assert done.returncode == 1 and "does not exist" in done.stderr


def test_open_data_hold_open_quantities_of_open_nodes_only(
    tmp_path: Path, mosquitto: BrokerAddress, start: Callable[[BrokerAddress], Process], motes: dict[int, Mote]
) -> None:
    p = start(mosquitto)
    feed(p, motes)
    times = ("--from", str(NOW - 3 * 3600), "--to", str(NOW))
    done = gateway(tmp_path, "export", *times, "--licence", "CC-BY-4.0")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["licence"] == "CC-BY-4.0" and document["gateway"] == "gw-1"
    readings = document["readings"]
    assert {r["node"] for r in readings} == {"n-263", "n-265"}, "neither personal water nor a restricted node"
    assert len(readings) == 3 * 11 + 2
    pm10 = next(r for r in readings if r["quantity"] == "pm10")
    assert pm10 == {
        "id": "263:0:1:0:pm10", "node": "n-263", "profile": "air_quality", "area": "centre", "lat": 45.5, "lon": 13.7, "quantity": "pm10",
        "t": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW - 3 * 3600)), "received": pm10["received"], "value": 3.0,
        "unit": "ug/m3", "quality": "ok",
    }  # fmt: skip
    done = gateway(tmp_path, "export", *times, "--format", "csv")
    table = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [{k: v for k, v in row.items() if v} for row in table] == [
        {k: str(v) for k, v in r.items()} for r in readings
    ]
    target = tmp_path / "map.geojson"
    done = gateway(tmp_path, "export", *times, "--format", "geojson", "--file", str(target), "--json")
    assert json.loads(done.stdout) | {"file": ""} == {
        "ok": True,
        "exit_code": 0,
        "reason": None,
        "file": "",
        "format": "geojson",
        "nodes": 2,
        "readings": 7,
        "hidden_nodes": 1,
        "hidden_readings": 6,
        "without_frame": 0,
    }
    collection = json.loads(target.read_text())
    assert collection["type"] == "FeatureCollection" and [f["id"] for f in collection["features"]] == ["n-263", "n-265"]
    air, bay = collection["features"]
    assert air["geometry"] == {"type": "Point", "coordinates": [13.7, 45.5]} and bay["geometry"] is None
    assert (
        air["properties"]["quantities"]["pm10"]["value"] == 9
        and air["properties"]["quantities"]["temperature"]["label"]["sl"] == "temperatura"
    )
    # a part of a report is exactly the rows of the range
    half = json.loads(
        gateway(
            tmp_path, "export", "--from", str(NOW - 3 * 3600 + 600), "--to", str(NOW - 2 * 3600), "--quantity", "pm10"
        ).stdout
    )
    assert [(r["id"], r["value"]) for r in half["readings"]] == [("263:0:1:1:pm10", 9.0)]
    assert (
        json.loads(gateway(tmp_path, "export", *times, "--profile", "parking").stdout)["readings"][0]["node"] == "n-265"
    )
    one = json.loads(gateway(tmp_path, "export", *times, "--node", "n-263").stdout)["readings"]
    assert one and {r["node"] for r in one} == {"n-263"}
    for slip, hint in (
        (("--quantity", "temprature"), "did you mean `temperature`?"),
        (("--profile", "parkin"), "did you mean `parking`?"),
        (("--area", "elsewhere"), "known: centre"),
        (("--node", "n-2633"), "did you mean `n-263`?"),
    ):
        done = gateway(tmp_path, "export", *times, *slip)
        assert (done.returncode, done.stdout) == (2, "") and repr(slip[1]) in done.stderr and hint in done.stderr
    assert sorted(f.name for f in tmp_path.glob("*map*")) == ["map.geojson"]
    done = gateway(tmp_path, "export", *times, "--file", str(tmp_path / "no" / "x.json"))
    assert done.returncode == 1 and "error: " in done.stderr and "Traceback" not in done.stderr
    p.stop()


def test_an_export_counts_what_it_left_out_and_the_operator_may_have_it(
    tmp_path: Path, mosquitto: BrokerAddress, start: Callable[[BrokerAddress], Process], motes: dict[int, Mote]
) -> None:
    p = start(mosquitto)
    feed(p, motes)
    times = ("--from", str(NOW - 3 * 3600), "--to", str(NOW))
    done = gateway(tmp_path, "export", *times)
    assert "left out, since they are not open: 1 nodes, and 6 readings of other nodes" in done.stderr
    assert gateway(tmp_path, "export", *times, "--profile", "parking").stderr == "", (
        "nothing was left out of what was asked for"
    )
    every = [w for v in ("open", "restricted", "personal") for w in ("--visibility", v)]
    done = gateway(tmp_path, "export", *times, *every)
    assert {r["node"] for r in json.loads(done.stdout)["readings"]} == {"n-263", "n-264", "n-265", "n-266"}
    assert done.stderr == ""
    # households' readings are their owner's, and a link that somebody planted is not followed
    target, victim = tmp_path / "out.json", tmp_path / "victim"
    victim.write_text("mine")
    target.symlink_to(victim)
    (tmp_path / ".out.json.new").symlink_to(victim)
    done = gateway(tmp_path, "export", *times, *every, "--file", str(target))
    assert done.returncode == 2 and f"next: name the file itself ({victim})" in done.stderr, done.stderr
    assert victim.read_text() == "mine" and target.is_symlink()
    target.unlink()
    assert gateway(tmp_path, "export", *times, *every, "--file", str(target)).returncode == 0
    assert victim.read_text() == "mine" and stat.S_IMODE(target.stat().st_mode) == 0o600
    target.chmod(0o644)  # whoever publishes them makes the file readable once
    assert gateway(tmp_path, "export", *times, "--file", str(target)).returncode == 0
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    # `| head` ends it without a complaint
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "gateway", "export", "--config", str(tmp_path / "gateway.toml"), *times]
    ended = subprocess.run(command, cwd=REPO, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert ended.returncode == 0 and "error" not in ended.stderr and "Exception" not in ended.stderr, ended.stderr
    usage = subprocess.run(command[:4] + ["--nothing"], cwd=REPO, capture_output=True, text=True, timeout=60)
    assert "next: citymote gateway export --help" in usage.stderr and "python" not in usage.stderr


@pytest.fixture
def no_files(tmp_path: Path) -> dict[str, Path]:
    """Whatever can have a name and is no file, but for folders: made here, and nowhere else is one tried."""
    (tmp_path / "file").write_text("mine")
    found = {kind: tmp_path / f"a {kind}" for kind in ("pipe", "socket", "link", "link to a pipe", "loop", "device")}
    os.mkfifo(found["pipe"])
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(found["socket"]))
    found["link"].symlink_to(tmp_path / "file")
    found["link to a pipe"].symlink_to(found["pipe"])
    found["loop"].symlink_to(found["loop"])
    try:
        os.mknod(found["device"], stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:  # who is not root makes no devices, and could not have put a file in the place of one
        del found["device"]
    return found


async def test_an_export_puts_no_file_in_the_place_of_what_is_none(tmp_path: Path, no_files: dict[str, Path]) -> None:
    (tmp_path / "gateway.toml").write_text(TOML.format("127.0.0.1", 1))
    (tmp_path / "nodes.toml").write_text("")
    SqliteEngine(tmp_path / "gateway.db").close()
    before = {kind: (os.lstat(path).st_mode, os.lstat(path).st_ino) for kind, path in no_files.items()}
    for kind, path in (*no_files.items(), ("folder", tmp_path)):
        done = gateway(tmp_path, "export", "--from", "1h", "--file", str(path), "--json")
        assert done.returncode == 2 and json.loads(done.stdout)["reason"] == "usage", (kind, done)
        assert f"--file {path} is a" in done.stderr and "next: " in done.stderr, done.stderr
    assert {kind: (os.lstat(path).st_mode, os.lstat(path).st_ino) for kind, path in no_files.items()} == before
    assert (tmp_path / "file").read_text() == "mine"
    assert not [f.name for f in tmp_path.iterdir() if f.name.startswith(".a ")], "nothing is left beside it"


async def test_an_export_replaces_nothing_that_the_gateway_lives_by(tmp_path: Path) -> None:
    rules = TOML.format("127.0.0.1", 1).replace("[gateway]\n", '[gateway]\nrules = "rules.toml"\n', 1)
    (tmp_path / "gateway.toml").write_text(rules)
    for name in ("nodes.toml", "rules.toml"):
        (tmp_path / name).write_text("")
    SqliteEngine(tmp_path / "gateway.db").close()
    os.link(tmp_path / "nodes.toml", tmp_path / "another name")  # a name of its own, which may go
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    names = [
        *sorted(before.keys() - {"another name"}),
        "gateway.db-wal",
        "gateway.db-shm",
        "gateway.db.floor",
        "gateway.db.lock",
    ]
    assert {"gateway.toml", "nodes.toml", "rules.toml", "gateway.db"} <= set(names)
    for name in names:
        done = gateway(tmp_path, "export", "--from", "1h", "--file", str(tmp_path / "x" / ".." / name), "--json")
        assert done.returncode == 2 and json.loads(done.stdout)["reason"] == "usage", (name, done)
        assert "is a file of this gateway" in done.stderr and "next: name a new file" in done.stderr, done.stderr
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before


def test_what_takes_a_files_name_while_it_is_written_is_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    with pytest.raises(ConfigError, match="is a pipe"), _sink(file) as f:
        f.write("data")
        os.mkfifo(file)
    assert stat.S_ISFIFO(os.lstat(file).st_mode) and [p.name for p in tmp_path.iterdir()] == ["out.json"]


def rows(done: Ran) -> list[dict[str, Any]]:
    return sorted(json.loads(done.stdout)["readings"], key=lambda r: r["id"])


def test_what_a_node_sent_is_exported_after_it_has_left_the_registry_as_its_last_entry_allows(
    tmp_path: Path, mosquitto: BrokerAddress, start: Callable[[BrokerAddress], Process], motes: dict[int, Mote]
) -> None:
    p = start(mosquitto)
    feed(p, motes)
    times = ("--from", str(NOW - 3 * 3600), "--to", str(NOW))
    before = gateway(tmp_path, "export", *times)
    every = [w for v in ("open", "restricted", "personal") for w in ("--visibility", v)]
    assert p.stop() == 0
    registry = tmp_path / "nodes.toml"
    entries = registry.read_text().split("[[node]]")[1:]
    registry.write_text("".join(f"[[node]]{entry}" for entry in entries[1:3]))  # of n-264 and n-265
    for _ in range(2):  # before the gateway has read the registry, and after
        done = gateway(tmp_path, "export", *times)
        assert rows(done) == rows(before)
        assert done.stderr == before.stderr, "those that were not open are counted as before"
        done = gateway(tmp_path, "export", *times, *every)
        assert {r["node"] for r in json.loads(done.stdout)["readings"]} == {"n-263", "n-264", "n-265", "n-266"}
        # of another time, nothing is left out
        assert gateway(tmp_path, "export", "--from", "2020-01-01", "--to", "2020-01-02").stderr == ""
        p = start(mosquitto)
        with sqlite3.connect(tmp_path / "gateway.db") as db:
            assert db.execute("SELECT count(*) FROM entries WHERE gone AND subject NOT LIKE '@%'").fetchone()[0] == 2
        db.close()
        assert p.stop() == 0
    with sqlite3.connect(tmp_path / "gateway.db") as db:
        db.execute(
            "DELETE FROM entries WHERE subject = '263'"
        )  # 100,000 have left since: nothing is known of its circle
    db.close()
    done = gateway(tmp_path, "export", *times)
    assert {r["node"] for r in json.loads(done.stdout)["readings"]} == {"n-265"}
    assert "not open: 2 nodes" in done.stderr
    done = gateway(tmp_path, "export", *times, *every)
    assert {r["node"] for r in json.loads(done.stdout)["readings"]} == {"263", "n-264", "n-265", "n-266"}

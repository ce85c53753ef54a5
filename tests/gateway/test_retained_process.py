"""What a broker retains, by the real gateway and a real mosquitto: after it forgot, remembers an older time or was exchanged, and after
nodes, areas, formats, filters and outputs have gone or come, its tree equals what a fresh gateway on a copy of the store publishes to
an empty broker.
"""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from gateway.outputs.owner import SLACK_S
from gateway.reload import SURE_S
from tests.gateway.conftest import Mosquitto
from tests.gateway.test_process_reload import reload
from tests.gateway.world import PATIENCE_S, REPO, Backend, Concentrator, Mote, Process, until

NOW = int(time.time())
ROWS = [[3, 5, 5, 231, 631, 121], [9, 9, 9, 231, 631, 120]]
EVERYTHING = ("native", "senml", "ngsi-ld", "homeassistant")
ALL = ("open", "restricted", "personal")


END = "\n# end\n"  # what is missing before it was taken out, and not cut off


class Scene:
    """A gateway with its files, and the nodes around it. write() before start() or reload()."""

    def __init__(self, folder: Path, broker: Mosquitto) -> None:
        self.folder, self.broker = folder, broker
        self.motes = {263: Mote(263), 264: Mote(264), 265: Mote(265)}
        self.names = {263: "air-1", 264: "meter-1", 265: "air-2"}
        self.profiles = {263: "air_quality", 264: "water_meter", 265: "air_quality"}
        self.visibility = dict.fromkeys(self.motes, "open")
        self.areas = dict.fromkeys(self.motes, "centre")
        self.outputs: dict[str, dict[str, object]] = {"city": {"formats": list(EVERYTHING), "visibility": list(ALL)}}
        self.rules, self.gateway = "", "gw-1"
        self.process: Process | None = None

    def write(self, folder: Path | None = None, broker: Mosquitto | None = None) -> Path:
        folder, broker = folder or self.folder, broker or self.broker
        (folder / "nodes.toml").write_text(
            "".join(
                f'[[node]]\nid = {n}\nname = "{name}"\nkey = "{self.motes[n].key.hex()}"\nprofile = "{self.profiles[n]}"\n'
                f'interval_s = 600\nvisibility = "{self.visibility[n]}"\nlat = 45.54\nlon = 13.73\narea = "{self.areas[n]}"\n'
                for n, name in self.names.items()
            )
            + END
        )
        (folder / "rules.toml").write_text(self.rules + END if self.rules else "")
        text = f'[gateway]\nid = "{self.gateway}"\n' + ('rules = "rules.toml"\n' if self.rules else "")
        text += '[link.lora]\nkind = "udp-forwarder"\nbind = "127.0.0.1:0"\n'
        for name, keys in self.outputs.items():
            told = {"broker": f"{broker.host}:{broker.port}", **keys}
            text += f'[output.{name}]\nkind = "mqtt"\n' + "".join(f"{k} = {json.dumps(v)}\n" for k, v in told.items())
        (folder / "gateway.toml").write_text(text + END)
        return folder / "gateway.toml"

    def start(self, accept: bool = True) -> Process:
        """Start the gateway. accept: what a test has taken out meanwhile was meant."""
        self.process = Process(self.write(), accept=accept)
        return self.process

    def reload(self) -> None:
        assert self.process is not None
        self.write()
        if "gone from it" in reload(self.process):  # what a test takes out is meant
            time.sleep(SURE_S)
            reload(self.process)

    def feed(self, *frames: bytes) -> None:
        assert self.process is not None
        c = Concentrator(self.process.port)
        for f in frames:
            c.push(f)
        c.pull()
        c.close()

    def live(self) -> None:
        """Every node says something of every kind; the air node's alarm is up."""
        m = self.motes
        self.feed(
            m[263].status({1: 5, 2: 1, 3: 1, 5: "0.1.0", 11: 371}, long=True), m[263].report(NOW - 120, ROWS), m[263].alarm(2, NOW, 6, 181, 150),
            m[264].status({1: 7, 3: 2}, long=True), m[264].report(NOW - 120, [[1234, 15]], schema=4), m[264].alarm(2, NOW, 14, 50, 10),
            m[265].report(NOW - 120, ROWS), m[265].alarm(2, NOW, 6, 181, 150), m[265].alarm(1, NOW + 1, 6, 90, 150),
        )  # fmt: skip

    def fresh(self, folder: Path, broker: Mosquitto) -> dict[str, bytes]:
        """Return what a gateway on a copy of the store publishes to an empty broker."""
        folder.mkdir()
        old = sqlite3.connect(self.folder / "gateway.db")
        new = sqlite3.connect(folder / "gateway.db")
        with new:
            old.backup(new)
        old.close()
        new.close()
        p = Process(self.write(folder, broker))
        try:
            return settled(broker)
        finally:
            p.stop()


def tree(broker: Mosquitto) -> dict[str, bytes]:
    """Return what is retained now, but for what the gateway says of itself."""
    b = Backend((broker.host, broker.port), "#")
    b.fence()
    b.close()
    return {t: p for t, p, retained in b.messages if retained and "/gw/" not in f"/{t}" and not t.startswith("gw/")}


QUIET_S = 0.7  # nothing has changed for so long: an output publishes what it has to without a pause


def settled(broker: Mosquitto) -> dict[str, bytes]:
    """Return the tree once it has stopped changing; of one that does not, what it is at the end of all patience."""
    b = Backend((broker.host, broker.port), "#")
    n, deadline = -1, time.monotonic() + PATIENCE_S
    since = time.monotonic()
    while time.monotonic() < deadline and time.monotonic() - since < QUIET_S:
        now = sum(1 for t, _, _ in tuple(b.messages) if not t.startswith("gw/") and "/gw/" not in f"/{t}")
        if now != n or not now:
            n, since = now, time.monotonic()
        time.sleep(0.05)
    b.close()
    return tree(broker)


def caught_up(s: Scene, seconds: float = PATIENCE_S) -> None:
    """Wait until the mark of each of its outputs says that registry and configuration are in force at the broker, and all events."""

    def note(key: str) -> bytes:
        row = db.execute("SELECT body FROM notes WHERE key = ?", (key,)).fetchone()
        return b"0" if row is None else row[0]

    with closing(sqlite3.connect(s.folder / "gateway.db")) as db:
        generation = int(note("current:generation"))
        (newest,) = db.execute("SELECT ifnull(max(seq), 0) FROM current").fetchone()
        life = bytes(note("current:store")).decode()
    roots = {
        name: "" if (root := str(keys.get("root", "city"))) == "city" else f"{root}/v1/"
        for name, keys in s.outputs.items()
    }
    seen = Backend((s.broker.host, s.broker.port), f"+/v1/gw/{s.gateway}/mark/+")

    def done() -> bool:
        for name, root in roots.items():
            marks = [json.loads(p) for p in seen.on(f"{root}gw/{s.gateway}/mark/{name}") if b'"turn"' in p]
            if (
                not marks
                or marks[-1]["store"] != life
                or marks[-1]["generation"] < generation
                or marks[-1]["seq"] < newest
            ):
                return False
        return True

    try:
        seen.wait(done, seconds, f"marks of {sorted(roots)} at {generation}, {newest}")
    finally:
        seen.close()


def difference(got: Mapping[str, bytes], want: Mapping[str, bytes]) -> dict[str, object]:
    """Return what is missing, wrong and left over."""
    return {
        "missing": sorted(want.keys() - got.keys()),
        "left_over": sorted(got.keys() - want.keys()),
        "wrong": {t: (got[t], want[t]) for t in sorted(got.keys() & want.keys()) if got[t] != want[t]},
    }


NOTHING = {"missing": [], "left_over": [], "wrong": {}}


@pytest.fixture
def scene(tmp_path: Path, broker: Mosquitto) -> Iterator[Scene]:
    (tmp_path / "gw").mkdir()
    found = Scene(tmp_path / "gw", broker)
    yield found
    if found.process is not None:
        found.process.kill()


@pytest.fixture
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """Another mosquitto, with nothing in it."""
    m = Mosquitto(tmp_path_factory.mktemp("empty"))
    m.start()
    yield m
    m.stop()


def same(scene: Scene, tmp_path: Path, empty: Mosquitto, least: int = 20) -> dict[str, bytes]:
    """The broker's tree is the fresh one's, topic by topic; return it."""
    want = scene.fresh(tmp_path / "fresh", empty)
    assert len(want) >= least, sorted(want)
    until(lambda: difference(tree(scene.broker), want) == NOTHING)
    assert difference(tree(scene.broker), want) == NOTHING
    return want


def test_a_broker_that_lost_its_memory_is_told_everything_again(scene: Scene, tmp_path: Path, empty: Mosquitto) -> None:
    scene.start()
    scene.live()
    before = settled(scene.broker)
    scene.broker.stop()
    forget(scene.broker)
    scene.broker.start()
    now = same(scene, tmp_path, empty)
    assert now == before and "node/air-1/alert/pm10-above" in now and "node/air-2/alert/pm10-above" not in now


def test_a_broker_with_an_older_memory_is_put_right_though_an_alarm_rose_and_another_ended_since(
    scene: Scene, tmp_path: Path, empty: Mosquitto
) -> None:
    scene.start()
    scene.live()
    settled(scene.broker)
    scene.broker.stop()  # it saves
    database = tmp_path / "old.db"
    shutil.copy(scene.broker.folder / "mosquitto.db", database)
    scene.broker.start()
    scene.feed(scene.motes[263].alarm(1, NOW + 5, 6, 90, 150), scene.motes[265].alarm(2, NOW + 5, 6, 190, 150),
               scene.motes[263].report(NOW, [[50, 60, 70, 231, 631, 121]]))  # fmt: skip
    settled(scene.broker)
    scene.broker.stop()
    shutil.copy(database, scene.broker.folder / "mosquitto.db")
    scene.broker.start()
    now = same(scene, tmp_path, empty)
    assert "node/air-1/alert/pm10-above" not in now and "node/air-2/alert/pm10-above" in now
    assert json.loads(now["node/air-1/q/pm10"])["v"] == 70


def test_a_broker_that_was_exchanged_while_the_gateway_was_stopped_is_told_everything(
    scene: Scene, tmp_path: Path, empty: Mosquitto
) -> None:
    p = scene.start()
    scene.live()
    before = settled(scene.broker)
    assert p.stop() == 0
    scene.broker.stop()
    forget(scene.broker)
    scene.broker.start()
    scene.start()
    assert same(scene, tmp_path, empty) == before


def test_nothing_is_said_again_to_a_broker_that_remembers_everything(scene: Scene) -> None:
    p = scene.start()
    scene.live()
    settled(scene.broker)
    assert p.stop() == 0
    late = Backend((scene.broker.host, scene.broker.port), "city/v1/node/#")
    p = scene.start()
    time.sleep(1.5)
    assert [t for t, _, retained in late.messages if not retained] == []
    assert not [line for line in p.lines() if line["event"] == "output_resynced"]


@pytest.mark.parametrize("running", [True, False])
def test_nodes_that_are_renamed_removed_or_personal_now_leave_nothing_behind(
    scene: Scene, tmp_path: Path, empty: Mosquitto, running: bool
) -> None:
    scene.outputs["city"]["visibility"] = ["open", "restricted"]
    p = scene.start()
    scene.live()
    settled(scene.broker)
    seen = Backend((scene.broker.host, scene.broker.port), "city/v1/node/+/event")
    scene.names[263] = "air-one"
    scene.visibility[264] = "personal"
    del scene.names[265]
    scene.feed(scene.motes[265].alarm(2, NOW + 5, 6, 190, 150))
    if running:
        scene.reload()
    else:
        assert p.stop() == 0
        scene.start()
    now = same(scene, tmp_path, empty, 10)
    assert {t.split("/")[1] for t in now if t.startswith("node/")} == {"air-one"}
    assert now["node/air-one/state"] == b"online" and "node/air-one/alert/pm10-above" in now
    over = [json.loads(p) | {"node": t.split("/")[1]} for t, p, _ in seen.messages if b"alarm_cleared" in p]
    assert {(e["node"], e["quantity"], e["unit"]) for e in over} == {
        ("air-1", "pm10", "ug/m3"),
        ("air-2", "pm10", "ug/m3"),
    }


@pytest.mark.parametrize("running", [True, False])
def test_a_name_that_another_node_has_now_keeps_what_that_one_says(
    scene: Scene, tmp_path: Path, empty: Mosquitto, running: bool
) -> None:
    p = scene.start()
    scene.live()
    settled(scene.broker)
    scene.names[263], scene.names[265] = scene.names[265], scene.names[263]  # two were mounted the wrong way round
    scene.motes[266], scene.names[266] = Mote(266), scene.names.pop(264)  # and one was replaced
    scene.profiles[266], scene.visibility[266], scene.areas[266] = "water_meter", "open", "centre"
    if running:
        scene.reload()
    else:
        assert p.stop() == 0
        scene.start()
    now = same(scene, tmp_path, empty, 15)
    assert "node/air-2/alert/pm10-above" in now and "node/air-1/alert/pm10-above" not in now
    assert now.keys() >= {"node/meter-1/meta", "node/air-1/q/pm10", "node/air-2/q/pm10", "ngsi-ld/Device/air-1"}
    assert "node/meter-1/q/water_volume" not in now


@pytest.mark.parametrize("running", [True, False])
def test_a_node_that_returns_raises_its_alarm_anew(
    scene: Scene, tmp_path: Path, empty: Mosquitto, running: bool
) -> None:
    p = scene.start()
    scene.live()
    settled(scene.broker)
    name = scene.names.pop(263)
    if running:
        scene.reload()
    else:
        assert p.stop() == 0
        p = scene.start()
    assert until(lambda: not any(t.startswith("node/air-1/") for t in tree(scene.broker)))
    scene.names[263] = name
    if running:
        scene.reload()
    else:
        assert p.stop() == 0
        scene.start()
    settled(scene.broker)
    seen = Backend((scene.broker.host, scene.broker.port), "city/v1/node/air-1/event")
    scene.feed(scene.motes[263].alarm(2, NOW + 9, 6, 191, 150))
    seen.wait(lambda: seen.on("node/air-1/event"))
    assert [json.loads(p)["event"] for p in seen.on("node/air-1/event")] == ["alarm_raised"]
    assert "node/air-1/alert/pm10-above" in same(scene, tmp_path, empty)


def test_what_a_lost_log_held_is_not_left_at_a_broker_whose_mark_is_older(
    scene: Scene, tmp_path: Path, empty: Mosquitto
) -> None:
    scene.start()
    scene.live()
    settled(scene.broker)
    caught_up(scene)
    db = sqlite3.connect(scene.folder / "gateway.db")
    assert db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[0] == 0
    db.close()
    scene.feed(scene.motes[265].alarm(2, NOW + 5, 4, 190, 150))
    assert until(lambda: "node/air-2/alert/pm1-above" in tree(scene.broker))
    scene.process.kill()  # type: ignore[union-attr]
    for end in ("-wal", "-shm"):
        (scene.folder / f"gateway.db{end}").unlink()
    scene.start()
    assert "node/air-2/alert/pm1-above" not in same(scene, tmp_path, empty)


@pytest.mark.parametrize(
    ("change", "gone", "come"),
    [
        ({"formats": ["native", "senml"]}, ("ngsi-ld/Device/air-1", "homeassistant/device/air-1/config"), ()),
        ({"quantities": ["pm10"]}, ("node/air-1/q/pm25", "node/meter-1/q/water_volume"), ()),
        ({"visibility": ["open"]}, ("node/air-1/q/uptime", "node/meter-1/q/water_volume"), ()),
        ({"profiles": ["water_meter"]}, ("node/air-1/state", "node/air-1/alert/pm10-above"), ()),
        ({"root": "town"}, ("node/air-1/state",), ("town/v1/node/air-1/state",)),
        ({"discovery": "ha"}, ("homeassistant/device/air-1/config",), ("ha/device/air-1/config",)),
    ],
)
@pytest.mark.parametrize("running", [True, False])
def test_what_an_output_may_say_no_more_is_emptied_and_what_it_may_say_now_is_published(
    scene: Scene, tmp_path: Path, empty: Mosquitto, change: dict[str, object], gone: tuple[str, ...], come: tuple[str, ...], running: bool
) -> None:  # fmt: skip
    p = scene.start()
    scene.live()
    before = settled(scene.broker)
    assert set(gone) <= before.keys()
    scene.outputs["city"] |= change
    if running:
        scene.reload()
    else:
        assert p.stop() == 0
        scene.start()
    now = same(scene, tmp_path, empty, 3)
    assert not set(gone) & now.keys() and set(come) <= now.keys()
    late = Backend((scene.broker.host, scene.broker.port), "city/v1/gw/#")
    late.fence()
    assert bool(late.messages) == ("root" not in change)


def test_a_format_that_is_added_is_published_at_once(scene: Scene, tmp_path: Path, empty: Mosquitto) -> None:
    scene.outputs["city"]["formats"] = ["native"]
    scene.start()
    scene.live()
    settled(scene.broker)
    scene.outputs["city"]["formats"] = list(EVERYTHING)
    scene.reload()
    now = same(scene, tmp_path, empty)
    assert {"homeassistant/device/air-1/config", "ngsi-ld/Device/air-1", "ngsi-ld/Alert/air-1:pm10-above"} <= now.keys()


def test_an_output_that_is_taken_out_leaves_an_empty_broker_and_returns_whole(
    scene: Scene, tmp_path: Path, empty: Mosquitto
) -> None:
    scene.outputs["other"] = {"broker": f"{empty.host}:{empty.port}", "formats": ["native"]}
    scene.start()
    scene.live()
    assert len(settled(empty)) > 10
    other = scene.outputs.pop("other")
    scene.reload()
    everything = Backend((empty.host, empty.port), "#")
    assert until(lambda: tree(empty) == {})
    everything.close()
    late = Backend((empty.host, empty.port), "#")
    late.fence()
    assert late.messages == [], "what the gateway said of itself has gone too"
    scene.outputs["other"] = other
    scene.reload()
    assert until(lambda: "node/air-1/alert/pm10-above" in tree(empty))


def test_two_outputs_on_one_broker_do_not_empty_each_others_topics(
    scene: Scene, tmp_path: Path, empty: Mosquitto
) -> None:
    scene.outputs = {
        "city": {"formats": ["native"]},
        "open": {"formats": ["native", "homeassistant"], "visibility": ["open"]},
    }
    scene.start()
    scene.live()
    before = settled(scene.broker)
    assert "node/air-1/q/uptime" in before and "homeassistant/device/air-1/config" in before
    del scene.outputs["open"]
    scene.reload()
    now = same(scene, tmp_path, empty)
    assert "node/air-1/q/pm10" in now and "homeassistant/device/air-1/config" not in now


def test_an_output_taken_out_while_its_broker_is_away_is_named_in_health(scene: Scene, empty: Mosquitto) -> None:
    scene.outputs["other"] = {"broker": f"{empty.host}:{empty.port}", "formats": ["native"]}
    p = scene.start()
    scene.live()
    settled(empty)
    empty.stop()
    del scene.outputs["other"]
    assert p.stop() == 0
    scene.start()
    seen = Backend((scene.broker.host, scene.broker.port), "city/v1/gw/gw-1/health")
    seen.wait(lambda: any(b"output_left" in p for p in seen.on("gw/gw-1/health")), 30)
    (problem,) = [x for x in json.loads(seen.on("gw/gw-1/health")[-1])["problems"] if x["code"] == "output_left"]
    assert "other" in problem["text"] and "--forget" in problem["next"]
    assert republish(scene, "--output", "city", "--forget")[0] == 2, "one that is configured is not forgotten"
    assert republish(scene, "--output", "other", "--forget")[0] == 0
    n = len(seen.on("gw/gw-1/health"))
    seen.wait(lambda: any(b"output_left" not in p for p in seen.on("gw/gw-1/health")[n:]), 60)


def test_what_an_output_left_at_its_former_address_can_be_forgotten_under_its_own_name(
    scene: Scene, tmp_path: Path, empty: Mosquitto
) -> None:
    scene.outputs["other"] = {"broker": f"{empty.host}:{empty.port}", "formats": ["native"], "root": "second"}
    p = scene.start()
    scene.live()
    until(lambda: "second/v1/node/air-1/q/pm10" in tree(empty))
    empty.stop()
    del scene.outputs["other"]["broker"]
    assert p.stop() == 0
    scene.start()
    seen = Backend((scene.broker.host, scene.broker.port), "city/v1/gw/gw-1/health")
    seen.wait(lambda: any(b"output_left" in p for p in seen.on("gw/gw-1/health")), 30)
    (problem,) = [x for x in json.loads(seen.on("gw/gw-1/health")[-1])["problems"] if x["code"] == "output_left"]
    assert f"127.0.0.1:{empty.port}" in problem["text"]
    assert republish(scene, "--output", f"other@127.0.0.1:{scene.broker.port}", "--forget")[0] == 2, "where it is now"
    code, told = republish(scene, "--output", "other", "--forget")
    assert (code, told["text"]) == (0, f"forgotten: what was published by other@127.0.0.1:{empty.port}")
    n = len(seen.on("gw/gw-1/health"))
    seen.wait(lambda: any(b"output_left" not in p for p in seen.on("gw/gw-1/health")[n:]), 60)
    assert republish(scene, "--output", "other", "--forget")[0] == 2, "what it publishes now is not forgotten"
    seen.close()
    assert "second/v1/node/air-1/q/pm10" in tree(scene.broker)


def test_a_user_who_may_not_read_the_mark_publishes_everything_and_health_says_what_to_add(
    scene: Scene, tmp_path: Path, empty: Mosquitto
) -> None:
    p = scene.start()
    scene.live()
    before = settled(scene.broker)
    assert p.stop() == 0
    scene.broker.stop()
    acl = scene.broker.folder / "acl"
    acl.write_text("topic readwrite fence/#\ntopic write city/#\ntopic write homeassistant/#\ntopic read city/v1/node/#\ntopic read city/v1/ngsi-ld/#\n"
                   "topic read homeassistant/#\ntopic read city/v1/gw/gw-1/health\n")  # fmt: skip
    config = scene.broker.folder / "mosquitto.conf"
    config.write_text(config.read_text() + f"acl_file {acl}\n")
    forget(scene.broker)
    scene.broker.start()
    scene.start()
    seen = Backend((scene.broker.host, scene.broker.port), "city/v1/gw/gw-1/health")
    seen.wait(lambda: any(b"mark_unread" in p for p in seen.on("gw/gw-1/health")), 30)
    (problem,) = [x for x in json.loads(seen.on("gw/gw-1/health")[-1])["problems"] if x["code"] == "mark_unread"]
    assert (
        "topic readwrite" in problem["next"]
        and "city/v1/gw/gw-1/#" in problem["next"]
        and "city/v1/node/#" in problem["next"]
    )
    assert settled(scene.broker) == before


def test_a_restored_backup_does_not_leave_what_came_after_it(scene: Scene, tmp_path: Path, empty: Mosquitto) -> None:
    p = scene.start()
    scene.live()
    settled(scene.broker)
    assert p.stop() == 0
    copy = tmp_path / "copy.db"
    shutil.copy(scene.folder / "gateway.db", copy)
    scene.start()
    scene.feed(scene.motes[265].alarm(2, NOW + 5, 4, 190, 150))
    assert "node/air-2/alert/pm1-above" in settled(scene.broker)
    scene.process.kill()  # type: ignore[union-attr]
    for end in ("", "-wal", "-shm"):
        (scene.folder / f"gateway.db{end}").unlink(missing_ok=True)
    shutil.copy(copy, scene.folder / "gateway.db")
    scene.start()
    same(scene, tmp_path, empty)


def forget(broker: Mosquitto) -> None:
    """Delete what a stopped broker has saved."""
    (broker.folder / "mosquitto.db").unlink(missing_ok=True)


def republish(scene: Scene, *more: str) -> tuple[int, dict[str, object]]:
    argv = [
        sys.executable,
        "-m",
        "gateway",
        "republish",
        "--config",
        str(scene.folder / "gateway.toml"),
        "--json",
        *more,
    ]
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, timeout=60)
    return done.returncode, json.loads(done.stdout)


def test_what_somebody_else_took_from_the_broker_comes_back_by_republish(
    scene: Scene, tmp_path: Path, empty: Mosquitto
) -> None:
    p = scene.start()
    scene.live()
    before = settled(scene.broker)
    wipe(scene.broker, before)
    assert tree(scene.broker) == {}
    code, told = republish(scene, "--output", "city", "--node", "air-1")
    assert code == 0 and told["done"]
    assert {t.split("/")[1] for t in tree(scene.broker) if t.startswith("node/")} == {"air-1"}
    assert republish(scene, "--output", "city")[1]["done"] and tree(scene.broker) == before
    wipe(scene.broker, before)
    assert p.stop() == 0
    code, told = republish(scene, "--output", "city")
    assert code == 0 and not told["running"]
    scene.start()
    assert same(scene, tmp_path, empty) == before
    assert (
        republish(scene, "--output", "nowhere")[0] == 2 and republish(scene, "--output", "city", "--node", "x")[0] == 2
    )


def wipe(broker: Mosquitto, topics: Mapping[str, bytes]) -> None:
    """Somebody empties topics behind the gateway's back."""
    b = Backend((broker.host, broker.port), "nothing")
    for t in topics:
        full = t if t.startswith("homeassistant/") else f"city/v1/{t}"
        b._client.publish(full, b"", 1, True).wait_for_publish(PATIENCE_S)
    b.close()


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("comes", [False, True])
def test_an_area_belongs_to_an_output_of_some_profiles_for_as_long_as_it_has_members_of_them(
    scene: Scene, tmp_path: Path, empty: Mosquitto, running: bool, comes: bool
) -> None:
    scene.rules = '[area.yard]\nkind = "lot"\nnodes = ["bay-*"]\ncapacity = 2\nvisibility = "open"\n'
    scene.motes[266], scene.names[266] = Mote(266), "bay-1"
    scene.profiles[266], scene.visibility[266], scene.areas[266] = "parking", "open", "centre" if comes else "yard"
    scene.areas[264] = "yard"  # so that its middle stays where it is
    lots: dict[str, object] = {"root": "lots", "profiles": ["parking"], "formats": ["native"]}
    scene.outputs["lots"] = lots
    p = scene.start()
    scene.live()
    scene.feed(scene.motes[266].report(NOW - 60, [[1]], schema=12, interval=0, long=True))
    before = settled(scene.broker)
    assert "area/yard/lot" in before and ("lots/v1/area/yard/lot" in before) != comes
    scene.areas[266] = "yard" if comes else "centre"
    if running:
        scene.reload()
    else:
        assert p.stop() == 0
        scene.start()
    assert ("lots/v1/area/yard/lot" in same(scene, tmp_path, empty)) == comes


def older_memory(scene: Scene, tmp_path: Path) -> Path:
    """Return a copy of what the broker knows now; it is stopped for it."""
    scene.broker.stop()  # it saves
    shutil.copy(scene.broker.folder / "mosquitto.db", tmp_path / "older.db")
    scene.broker.start()
    return tmp_path / "older.db"


@pytest.mark.parametrize("back", ["wider", "narrower", "elsewhere", "out"])
def test_an_output_that_was_taken_out_meets_a_broker_that_remembers_it_from_before(
    scene: Scene, tmp_path: Path, empty: Mosquitto, back: str
) -> None:
    """What it published then, under which shape, counts when it comes back; and when it does not, too."""
    lone: dict[str, object] = {"quantities": ["pm10"]} if back == "wider" else {}
    portal: dict[str, object] = {"root": "portal", "formats": ["native"]}
    scene.outputs["portal"] = portal | lone
    scene.start()
    scene.live()
    settled(scene.broker)
    assert until(lambda: marks(scene.broker).get("portal", -1) > 0)
    older = older_memory(scene, tmp_path)
    settled(scene.broker)
    del scene.outputs["portal"]
    scene.reload()
    assert until(lambda: not any(t.startswith("portal/") for t in tree(scene.broker)))
    if back != "out":
        scene.outputs["portal"] = portal
    if back == "narrower":
        scene.outputs["portal"] = portal | {"quantities": ["pm10"]}
    if back == "elsewhere":
        scene.outputs["portal"] = portal | {"root": "door"}
    scene.broker.stop()
    shutil.copy(older, scene.broker.folder / "mosquitto.db")
    scene.reload()
    scene.broker.start()
    now = same(scene, tmp_path, empty)
    assert ("portal/v1/node/air-1/q/pm25" in now) == (back == "wider")
    assert ("door/v1/node/air-1/q/pm25" in now) == (back == "elsewhere")


def marks(broker: Mosquitto) -> dict[str, int]:
    """Return the generations of the marks that the broker has, by output."""
    b = Backend((broker.host, broker.port), "+/v1/gw/+/mark/+")
    b.fence()
    b.close()
    return {t.rpartition("/")[2]: int(json.loads(p)["generation"]) for t, p, retained in b.messages if retained}


NARROW = '[rule.hot]\nquantity = "{}"\nabove = 5\nclear = 1\nprofile = "air_quality"\nvisibility = "{}"\n'


@pytest.mark.parametrize("how", ["away", "older", "quantity"])
def test_an_alert_whose_rule_is_for_others_now_is_emptied_where_it_stands_though_it_is_up(
    scene: Scene, tmp_path: Path, empty: Mosquitto, how: str
) -> None:
    scene.rules = NARROW.format("temperature", "open")
    portal: dict[str, object] = {"root": "portal", "formats": ["native", "ngsi-ld"], "visibility": ["open"]}
    scene.outputs["portal"] = portal | ({"quantities": ["temperature"]} if how == "quantity" else {})
    scene.start()
    scene.live()
    assert until(lambda: "portal/v1/node/air-1/alert/hot" in tree(scene.broker))
    settled(scene.broker)
    caught_up(scene)
    scene.broker.stop()
    shutil.copy(scene.broker.folder / "mosquitto.db", tmp_path / "older.db")
    if how == "older":
        scene.broker.start()
        settled(scene.broker)
    scene.rules = NARROW.format(*(("pm10", "open") if how == "quantity" else ("temperature", "restricted")))
    scene.reload()
    if how == "quantity":
        scene.feed(scene.motes[263].report(NOW - 10, [[9, 9, 9, 231, 631, 121]]))
    time.sleep(3)  # the rules are looked through
    if how == "older":
        scene.broker.stop()
        shutil.copy(tmp_path / "older.db", scene.broker.folder / "mosquitto.db")
    scene.broker.start()
    now = same(scene, tmp_path, empty)
    assert "node/air-1/alert/hot" in now and "portal/v1/node/air-1/alert/hot" not in now


def test_an_output_that_comes_late_after_a_restore_leaves_what_others_at_the_broker_publish(
    scene: Scene, tmp_path: Path, empty: Mosquitto
) -> None:
    passwords = scene.broker.folder / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "late", "right"], check=True)
    passwords.chmod(0o644)
    scene.broker.stop()
    config = scene.broker.folder / "mosquitto.conf"
    config.write_text(f"{config.read_text()}\npassword_file {passwords}\n")
    scene.broker.start()
    word = scene.folder / "word"
    word.write_text("right")
    word.chmod(0o600)
    scene.outputs = {
        "all": {"formats": ["native", "homeassistant", "ngsi-ld"], "visibility": list(ALL)},
        "late": {"formats": ["native"], "visibility": list(ALL), "username": "late", "password_file": "word"},
    }
    p = scene.start()
    scene.live()
    settled(scene.broker)
    caught_up(scene)
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(scene.folder / "gateway.db")) as db, closing(sqlite3.connect(copy)) as to:
        db.backup(to)
    scene.feed(scene.motes[263].report(NOW, ROWS))
    settled(scene.broker)
    caught_up(scene)
    assert p.stop() == 0
    for end in ("", "-wal", "-shm"):
        (scene.folder / f"gateway.db{end}").unlink(missing_ok=True)
    shutil.copy(copy, scene.folder / "gateway.db")
    word.write_text("wrong")
    p = scene.start()
    settled(scene.broker)
    word.write_text("right")
    scene.reload()
    assert until(lambda: any(line["event"] == "swept" for line in p.lines() if line.get("subjects")))
    assert until(lambda: sum(line["event"] == "swept" for line in p.lines()) == 2)
    now = settled(scene.broker)
    assert now.keys() >= {"ngsi-ld/Device/air-1", "homeassistant/device/air-1/config", "ngsi-ld/Alert/air-1:pm10-above"}


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1"])
def test_a_filter_that_is_narrowed_spares_an_output_at_the_same_broker_by_whatever_address(
    scene: Scene, tmp_path: Path, empty: Mosquitto, address: str
) -> None:
    scene.outputs["portal"] = {"broker": f"{address}:{scene.broker.port}", "visibility": list(ALL)}
    scene.start()
    scene.live()
    before = settled(scene.broker)
    scene.outputs["portal"]["visibility"] = ["open"]
    scene.outputs["portal"]["quantities"] = ["pm10"]
    scene.reload()
    time.sleep(4)
    assert settled(scene.broker).keys() == before.keys()


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1"])
def test_an_output_that_is_taken_out_leaves_another_roots_discovery_and_nothing_of_its_own_content(
    scene: Scene, address: str
) -> None:
    scene.outputs["city"]["visibility"] = ["open"]
    lots: dict[str, object] = {
        "formats": ["native", "homeassistant"],
        "visibility": list(ALL),
        "broker": f"{address}:{scene.broker.port}",
    }
    scene.start()
    scene.live()
    before = settled(scene.broker)
    scene.outputs["lots"] = lots | {"root": "lots"}
    scene.outputs["same"] = lots
    scene.reload()
    settled(scene.broker)
    assert (
        b"water_volume" in tree(scene.broker)["node/meter-1/meta"] or b"rssi" in tree(scene.broker)["node/air-1/meta"]
    )
    del scene.outputs["lots"], scene.outputs["same"]
    scene.reload()
    until(lambda: difference(tree(scene.broker), before) == NOTHING)
    assert difference(tree(scene.broker), before) == NOTHING


def test_who_has_a_name_by_now_has_its_topics_once_the_one_that_was_withheld_has_left(
    scene: Scene, tmp_path: Path, empty: Mosquitto
) -> None:
    """A start with fewer nodes leaves the missing ones as they were, beside the new board that has the name of one."""
    p = scene.start()
    scene.live()
    settled(scene.broker)
    assert p.stop() == 0
    scene.motes[200], scene.names = Mote(200), {200: "air-2"}
    scene.profiles[200], scene.visibility[200], scene.areas[200] = "air_quality", "open", "centre"
    p = scene.start(accept=False)
    assert any(line["event"] == "registry_shrunk" for line in p.lines())
    m = scene.motes[200]
    scene.feed(
        m.status({1: 5, 2: 1, 3: 1, 5: "0.1.0", 11: 371}, long=True), m.report(NOW - 30, [[50, 60, 70, 231, 631, 121]])
    )
    settled(scene.broker)
    scene.broker.stop()
    forget(scene.broker)  # all is published again, of the one that is missing, too
    scene.broker.start()
    assert until(lambda: "node/air-1/alert/pm10-above" in tree(scene.broker))
    settled(scene.broker)
    scene.reload()
    now = same(scene, tmp_path, empty, 10)
    assert json.loads(now["node/air-2/q/pm10"])["v"] == 70 and not any("air-1" in t for t in now)


@pytest.mark.parametrize("how", ["one reload", "two reloads", "killed between", "while stopped"])
def test_a_node_renamed_as_a_rule_leaves_it_has_no_alarm_of_that_rule_under_its_new_name(
    scene: Scene, tmp_path: Path, empty: Mosquitto, how: str
) -> None:
    """What is up is published under the new name before the rules are looked through, and ends under the old one."""
    scene.rules = NARROW.format("temperature", "open")
    p = scene.start()
    scene.live()
    assert until(lambda: "node/air-2/alert/hot" in tree(scene.broker))
    settled(scene.broker)
    caught_up(scene)
    if how == "while stopped":
        p.kill()
    scene.rules = NARROW.format("pm10", "open").replace("above = 5", "above = 50")
    if how == "two reloads":
        scene.reload()
    scene.names[264], scene.names[265] = scene.names[265], scene.names[264]
    if how == "killed between":
        scene.write()
        p.process.send_signal(signal.SIGHUP)
        seen = Backend((scene.broker.host, scene.broker.port), "city/v1/node/meter-1/alert/hot")
        until(lambda: bool(seen.messages), 5)  # the rules may be looked through first
        seen.close()
        p.kill()
    if how in ("killed between", "while stopped"):
        scene.start()
    else:
        scene.reload()
    time.sleep(2)  # the rules are looked through
    now = same(scene, tmp_path, empty)
    assert not any("hot" in topic for topic in now)


def test_a_circle_that_is_narrowed_empties_no_alert_that_another_output_of_the_same_root_shows(scene: Scene) -> None:
    scene.rules = NARROW.format("temperature", "open")
    formats = ["native", "ngsi-ld"]
    scene.outputs = {
        "inner": {"formats": formats, "visibility": list(ALL)},
        "city": {"formats": formats, "visibility": ["open"]},
    }
    scene.start()
    scene.live()
    alerts = {f"node/{name}/alert/hot" for name in ("air-1", "air-2")}
    alerts |= {f"ngsi-ld/Alert/{name}:hot" for name in ("air-1", "air-2")}
    assert until(lambda: tree(scene.broker).keys() >= alerts)
    settled(scene.broker)
    seen = Backend((scene.broker.host, scene.broker.port), "city/v1/node/air-2/event")
    scene.rules = NARROW.format("temperature", "restricted")
    scene.reload()
    assert until(lambda: sum(b"alarm_cleared" in p for p in seen.on("node/air-2/event")) == 2)  # by both outputs
    seen.close()
    now = settled(scene.broker)
    assert now.keys() >= alerts and json.loads(now["node/air-2/alert/hot"])["visibility"] == "restricted"


def test_a_name_that_a_node_takes_over_which_has_reported_since_holds_nothing_of_the_one_that_has_left(
    scene: Scene, tmp_path: Path, empty: Mosquitto
) -> None:
    """What stands there of the one that has the name now is later than all that is known of the other, and is no other gateway's."""
    scene.start()
    scene.live()
    settled(scene.broker)
    time.sleep(SLACK_S + 0.5)
    scene.feed(scene.motes[264].report(int(time.time()) - 5, [[1250, 15]], schema=4))
    settled(scene.broker)
    del scene.names[265]  # of which no alarm ends now
    scene.names[264] = "air-2"
    scene.reload()
    now = same(scene, tmp_path, empty)
    assert "node/air-2/q/pm10" not in now and "node/air-2/q/water_volume" in now

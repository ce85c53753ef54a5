"""Two gateways at one broker and root: neither empties what the other publishes, and each empties what it has published itself."""

# ruff: noqa: F401, F811  fixtures of another file
from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from paho.mqtt import publish

from gateway.outputs.owner import SLACK_S
from tests.gateway.conftest import Mosquitto
from tests.gateway.test_process_reload import reload
from tests.gateway.test_retained_process import (
    EVERYTHING,
    NOW,
    ROWS,
    Scene,
    caught_up,
    empty,
    forget,
    older_memory,
    republish,
    scene,
    settled,
    tree,
)  # fmt: skip
from tests.gateway.world import PATIENCE_S, Backend, Mote, until

YARD = '[area.yard]\nkind = "lot"\nnodes = ["bay-*"]\ncapacity = 2\nvisibility = "open"\n'


@pytest.fixture
def other(tmp_path: Path, broker: Mosquitto) -> Iterator[Scene]:
    """Another gateway at the same broker and root; the node that moves there has a key of its own there."""
    (tmp_path / "other").mkdir()
    found = Scene(tmp_path / "other", broker)
    found.gateway = "gw-2"
    found.motes = {265: Mote(265)}
    found.names = {265: "air-2"}
    yield found
    if found.process is not None:
        found.process.kill()
    if (watch := getattr(found, "watch", None)) is not None:
        watch.close()


def speak(s: Scene, number: int) -> None:
    m = s.motes[number]
    s.feed(
        m.status({1: 5, 2: 1, 3: 1, 5: "0.1.0", 11: 371}, long=True), m.report(int(time.time()) - 30, ROWS),
        m.alarm(2, int(time.time()), 6, 181, 150),
    )  # fmt: skip


def of(broker: Mosquitto, name: str) -> dict[str, bytes]:
    return {t: p for t, p in settled(broker).items() if name in t}


def comes(s: Scene, number: int, name: str) -> dict[str, bytes]:
    """The other gateway has the node; return what it retains of it."""
    if s.process is None:
        s.start()
    speak(s, number)
    assert until(lambda: f"node/{name}/alert/pm10-above" in tree(s.broker))
    watched(s)
    return of(s.broker, name)


def watched(s: Scene) -> None:
    """From now on stays() knows what is emptied."""
    s.watch = Backend((s.broker.host, s.broker.port), "#")  # type: ignore[attr-defined]


def goes(s: Scene, number: int, name: str) -> None:
    del s.names[number]
    s.reload()
    assert until(lambda: not any(name in t for t in tree(s.broker))), tree(s.broker).keys()


def stays(s: Scene, other: Scene, name: str, want: dict[str, bytes]) -> None:
    """All of a name is there once a gateway has done what it has to do, and was never emptied since the other came."""
    caught_up(s)
    assert {t for t in tree(s.broker) if name in t} == want.keys()
    assert [t for t, payload, _ in other.watch.messages if not payload and t in want] == []  # type: ignore[attr-defined]


def replaced(scene: Scene) -> None:
    scene.outputs = {"main": scene.outputs["city"]}
    scene.reload()


def moved(scene: Scene) -> None:
    scene.outputs["city"]["broker"] = f"localhost:{scene.broker.port}"
    scene.reload()


def rooted(scene: Scene) -> None:
    scene.outputs["main"]["root"] = "town"
    scene.reload()


def narrowed(scene: Scene) -> None:
    scene.outputs["city"]["formats"] = ["native"]
    scene.outputs["city"]["quantities"] = ["pm1"]
    scene.reload()


def forgotten(scene: Scene) -> None:
    scene.broker.stop()
    forget(scene.broker)
    scene.broker.start()


def asked(scene: Scene) -> None:
    assert republish(scene, "--output", "city")[1]["done"]


def restarted(scene: Scene) -> None:
    assert scene.process is not None and scene.process.stop() == 0
    (scene.folder / "gateway.db").unlink()
    scene.start()


def test_a_node_that_lives_in_another_gateway_by_now_keeps_its_topics_whatever_is_done_to_the_former_one(
    scene: Scene, other: Scene
) -> None:
    scene.start()
    scene.live()
    settled(scene.broker)
    goes(scene, 265, "air-2")
    want = comes(other, 265, "air-2")
    assert want.keys() >= {"node/air-2/q/pm10", "ngsi-ld/Device/air-2", "homeassistant/device/air-2/config"}
    for how in (asked, narrowed, moved, replaced, rooted, restarted):
        how(scene)
        stays(scene, other, "air-2", want)


def test_a_broker_that_forgot_has_the_node_from_the_gateway_where_it_lives(scene: Scene, other: Scene) -> None:
    p = scene.start()
    scene.live()
    settled(scene.broker)
    goes(scene, 265, "air-2")
    want = comes(other, 265, "air-2")
    for _ in range(2):
        forgotten(scene)
        assert until(lambda: want.keys() <= tree(scene.broker).keys())
        stays(scene, other, "air-2", want)
    assert p.stop() == 0, "and the one that had it, when it starts again"
    scene.start()
    stays(scene, other, "air-2", want)


def test_a_node_that_was_added_to_the_other_before_it_was_removed_here_keeps_its_topics(
    scene: Scene, other: Scene
) -> None:
    scene.start()
    scene.live()
    settled(scene.broker)
    other.motes[265].counter = 10_000  # type: ignore[attr-defined]
    want = comes(other, 265, "air-2")
    del scene.names[265]
    scene.reload()
    stays(scene, other, "air-2", {t: p for t, p in want.items() if b"gw-1" not in p})


def test_a_name_that_another_gateway_gives_to_a_node_of_its_own_is_that_ones(scene: Scene, other: Scene) -> None:
    scene.start()
    scene.live()
    settled(scene.broker)
    scene.names[263] = "air-9"
    scene.reload()
    assert until(lambda: not any("air-1" in t for t in tree(scene.broker)))
    other.motes, other.names = {301: Mote(301)}, {301: "air-1"}
    other.profiles, other.visibility, other.areas = {301: "air_quality"}, {301: "open"}, {301: "harbour"}
    want = comes(other, 301, "air-1")
    asked(scene)
    replaced(scene)
    stays(scene, other, "air-1", want)
    assert "node/air-9/alert/pm10-above" in tree(scene.broker)


def bays(s: Scene, number: int) -> None:
    s.rules = YARD
    s.motes[number], s.names[number] = Mote(number), f"bay-{number}"
    s.profiles[number], s.visibility[number], s.areas[number] = "parking", "open", "yard"


def set_back(s: Scene, copy: Path) -> None:
    """Stop the gateway and put a copy of its store back."""
    assert s.process is not None and s.process.stop() == 0
    for end in ("", "-wal", "-shm"):
        (s.folder / f"gateway.db{end}").unlink(missing_ok=True)
    shutil.copy(copy, s.folder / "gateway.db")


def copied(s: Scene, to: Path) -> Path:
    with closing(sqlite3.connect(s.folder / "gateway.db")) as db, closing(sqlite3.connect(to)) as copy:
        db.backup(copy)
    return to


def test_an_area_that_both_gateways_have_is_whose_word_stands_there(scene: Scene, other: Scene, tmp_path: Path) -> None:
    bays(scene, 266)
    bays(other, 267)
    scene.start()
    scene.live()
    settled(scene.broker)
    copy = copied(scene, tmp_path / "copy.db")
    scene.feed(scene.motes[266].report(NOW - 60, [[1]], schema=12, interval=0, long=True))
    assert until(lambda: "area/yard/lot" in tree(scene.broker))
    other.start()
    other.feed(other.motes[267].report(NOW - 30, [[1]], schema=12, interval=0, long=True))
    assert until(lambda: tree(scene.broker).get("area/yard/lot", b"").endswith(b'"gw":"gw-2"}'))
    watched(other)
    want = {t: p for t, p in settled(scene.broker).items() if "yard" in t}
    assert want.keys() == {"area/yard/lot", "ngsi-ld/OnStreetParking/yard"}
    set_back(scene, copy)
    scene.start()
    assert scene.process is not None
    assert until(lambda: any(line["event"] == "swept" for line in scene.process.lines()))  # type: ignore[union-attr]
    stays(scene, other, "yard", want)
    scene.rules = "# none\n"
    scene.reload()  # it is asked for twice: no rule of theirs is left
    assert until(lambda: any(line["event"] == "reloaded" for line in scene.process.lines()))  # type: ignore[union-attr]
    stays(scene, other, "yard", want)


def unnamed(payload: bytes) -> bytes:
    """Return a payload as a gateway of the version before published it: with no gateway in it, but in discovery."""
    if not payload.startswith(b"{"):
        return payload
    body = json.loads(payload)
    body.pop("gw", None)
    body.pop("dataProvider", None)
    return json.dumps(body).encode()


def put(broker: Mosquitto, topics: dict[str, bytes]) -> None:
    b = Backend((broker.host, broker.port), "nothing")
    for t, payload in topics.items():
        full = t if t.startswith("homeassistant/") else f"city/v1/{t}"
        b._client.publish(full, payload, 1, True).wait_for_publish(PATIENCE_S)
    b.close()


@pytest.mark.parametrize("formats", [["native"], ["ngsi-ld"], ["native", "homeassistant"]])
def test_what_a_gateway_of_the_version_before_publishes_is_its_own_by_its_time(
    scene: Scene, other: Scene, formats: list[str]
) -> None:
    other.outputs["city"]["formats"] = formats
    scene.start()
    scene.live()
    settled(scene.broker)
    goes(scene, 265, "air-2")
    time.sleep(SLACK_S + 0.2)  # what comes now is later than all that this gateway knows
    want = comes(other, 265, "air-2") if "native" in formats else {}
    if not want:
        other.start()
        speak(other, 265)
        assert until(lambda: "ngsi-ld/AirQualityObserved/air-2" in tree(scene.broker))
        watched(other)
        want = of(scene.broker, "air-2")
    assert other.process is not None and other.process.stop() == 0
    put(scene.broker, {t: unnamed(p) for t, p in want.items()})
    asked(scene)
    stays(scene, other, "air-2", want)


@pytest.mark.parametrize("how", ["removed", "renamed", "output"])
def test_what_this_gateway_published_before_it_put_its_name_to_it_is_emptied(scene: Scene, how: str) -> None:
    p = scene.start()
    scene.live()
    before = settled(scene.broker)
    caught_up(scene)
    assert p.stop() == 0
    put(scene.broker, {t: unnamed(p) for t, p in before.items()})
    if how == "renamed":
        scene.names[265] = "air-3"
    else:
        del scene.names[265]
    if how == "output":
        scene.outputs = {"main": scene.outputs["city"]}
    scene.start()
    assert until(lambda: not any("air-2" in t for t in tree(scene.broker))), sorted(tree(scene.broker))
    assert "node/air-1/alert/pm10-above" in tree(scene.broker)


def test_a_node_that_comes_back_from_the_other_gateway_is_whole_and_leaves_nothing_of_it(
    scene: Scene, other: Scene
) -> None:
    scene.start()
    scene.live()
    settled(scene.broker)
    goes(scene, 265, "air-2")
    comes(other, 265, "air-2")
    goes_to = other.names.pop(265)
    other.names[300] = "spare"
    other.motes[300], other.profiles[300], other.visibility[300], other.areas[300] = (
        Mote(300),
        "air_quality",
        "open",
        "x",
    )
    other.reload()
    assert until(lambda: not any("air-2" in t for t in tree(scene.broker))), "the other empties what it published"
    scene.names[265] = goes_to
    scene.reload()
    speak(scene, 265)
    assert until(lambda: "node/air-2/q/pm10" in tree(scene.broker))
    goes(scene, 265, "air-2")


def test_what_a_gateway_of_the_version_before_empties_of_ours_is_published_again(scene: Scene) -> None:
    """It does not look whose it is by now; that the presence is gone shows it."""
    scene.start()
    scene.live()
    before = settled(scene.broker)
    time.sleep(2)
    put(scene.broker, {t: b"" for t in before if "air-2" in t})
    assert until(lambda: tree(scene.broker).keys() == before.keys())


def test_where_it_cannot_be_read_whose_it_is_nothing_is_emptied_until_it_can(scene: Scene, other: Scene) -> None:
    scene.start()
    scene.live()
    settled(scene.broker)
    goes(scene, 265, "air-2")
    want = comes(other, 265, "air-2")
    scene.broker.stop()
    acl, config = scene.broker.folder / "acl", scene.broker.folder / "mosquitto.conf"
    text = "topic readwrite fence/#\ntopic write city/v1/node/#\ntopic write homeassistant/device/#\ntopic write city/v1/ngsi-ld/#\ntopic readwrite city/v1/gw/#\n"
    passwords = scene.broker.folder / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "all", "right"], check=True)
    passwords.chmod(0o644)
    acl.write_text(f"{text}user all\ntopic readwrite #\n")
    before = config.read_text()
    config.write_text(f"{before}\nacl_file {acl}\npassword_file {passwords}\n")
    scene.broker.start()
    seen = Backend((scene.broker.host, scene.broker.port), "city/v1/gw/gw-1/health")
    del scene.names[263]
    scene.reload()
    seen.wait(lambda: any(b"retained_unread" in p for p in seen.on("gw/gw-1/health")), 40)
    (problem,) = [x for x in json.loads(seen.on("gw/gw-1/health")[-1])["problems"] if x["code"] == "retained_unread"]
    assert "topic readwrite" in problem["next"] and "city" in problem["text"]
    scene.broker.stop()
    config.write_text(before)
    scene.broker.start()
    assert until(lambda: not any("air-1" in t for t in tree(scene.broker))), "spared, and emptied once it can be read"
    stays(scene, other, "air-2", want)
    seen.wait(lambda: b"retained_unread" not in seen.on("gw/gw-1/health")[-1], 60)


def test_a_restored_gateway_leaves_nothing_of_a_name_that_came_after_the_copy_and_spares_the_other(
    scene: Scene,
    other: Scene,
    tmp_path: Path,
) -> None:
    bays(scene, 266)
    scene.names.pop(265)
    scene.start()
    scene.live()
    settled(scene.broker)
    copy = copied(scene, tmp_path / "copy.db")
    names, rules = dict(scene.names), scene.rules
    scene.motes[270], scene.names[270] = Mote(270), "late-1"
    scene.profiles[270], scene.visibility[270], scene.areas[270] = "air_quality", "open", "centre"
    scene.rules += '[area.late]\nkind = "lot"\nnodes = ["bay-*"]\ncapacity = 2\nvisibility = "open"\n'
    scene.reload()
    speak(scene, 270)
    scene.feed(scene.motes[266].report(NOW - 60, [[1]], schema=12, interval=0, long=True))
    assert until(lambda: "node/late-1/alert/pm10-above" in tree(scene.broker))
    assert until(lambda: "area/late/lot" in tree(scene.broker))
    want = comes(other, 265, "air-2")
    caught_up(scene)
    # somebody's topics below names that are none of ours and longer than a filter may be stop nothing
    for name in ("n" * 65_515, "x" * 33):
        topic = f"city/v1/node/{name}/meta"
        publish.single(topic, b'{"gw":"gw-1"}', 1, True, scene.broker.address.host, scene.broker.address.port)
    set_back(scene, copy)
    scene.names, scene.rules = names, rules
    scene.start()
    assert until(lambda: not any("late" in t for t in tree(scene.broker))), [
        t for t in tree(scene.broker) if "late" in t
    ]
    assert "node/air-1/alert/pm10-above" in tree(scene.broker)
    stays(scene, other, "air-2", want)

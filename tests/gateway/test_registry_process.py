"""A registry that is not what it was at the last start: short of most nodes, with other keys, with a number that means another device."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.conftest import Mosquitto
from tests.gateway.test_process_reload import reload
from tests.gateway.test_retained_process import NOW, Scene, settled, tree
from tests.gateway.world import Backend, Concentrator, Mote, Process, until


@pytest.fixture
def scene(tmp_path: Path, broker: Mosquitto) -> Iterator[Scene]:
    folder = tmp_path / "gateway"
    folder.mkdir()
    made = Scene(folder, broker)
    yield made
    if made.process is not None:
        made.process.stop()


def problems(scene: Scene) -> dict[str, str]:
    """Return what health names, by code."""
    b = Backend((scene.broker.host, scene.broker.port), "city/v1/gw/gw-1/health")
    b.wait(lambda: b.on("gw/gw-1/health"))
    time.sleep(0.5)
    b.close()
    return {p["code"]: p["text"] for p in json.loads(b.on("gw/gw-1/health")[-1])["problems"]}


def without_nodes(scene: Scene) -> str:
    """Stop the gateway, empty nodes.toml, start again; return what was in it."""
    assert scene.process is not None and scene.process.stop() == 0
    file = scene.write()
    text = (scene.folder / "nodes.toml").read_text()
    (scene.folder / "nodes.toml").write_text("")
    scene.process = Process(file)
    return text


def test_a_start_without_most_nodes_keeps_their_trees_and_alarms_until_the_file_is_back(scene: Scene) -> None:
    scene.start()
    scene.live()
    before = settled(scene.broker)
    assert any("/alert/" in t for t in before)
    text = without_nodes(scene)
    until(lambda: "registry_shrunk" in problems(scene))
    assert "air-1" in problems(scene)["registry_shrunk"]
    assert settled(scene.broker).keys() == before.keys()
    (scene.folder / "nodes.toml").write_text(text)
    assert scene.process is not None
    reload(scene.process)
    until(lambda: "registry_shrunk" not in problems(scene))
    assert settled(scene.broker).keys() == before.keys(), "alarms too"


def test_a_reload_of_the_short_file_confirms_that_the_nodes_are_to_go(scene: Scene) -> None:
    scene.start()
    scene.live()
    settled(scene.broker)
    without_nodes(scene)
    until(lambda: "registry_shrunk" in problems(scene))
    assert scene.process is not None
    reload(scene.process)
    until(lambda: not [t for t in tree(scene.broker) if "/node/" in f"/{t}"])
    assert "registry_shrunk" not in problems(scene)


def test_a_new_key_under_a_used_epoch_is_refused_by_a_reload_and_unanswered_after_a_start(scene: Scene) -> None:
    p = scene.start()
    scene.live()
    old = scene.motes[265]
    scene.motes[265] = new = Mote(265)
    scene.reload()
    said = problems(scene)["reload_refused"]
    assert "another key" in said and "air-2" in said
    scene.feed(old.report(NOW, [[7, 8, 77, 231, 631, 121]]))
    assert values(scene, "air-2") == 77, "the key before is in force"
    assert p.stop() == 0
    p = scene.start()
    until(lambda: "key_changed" in problems(scene))
    c = Concentrator(p.port)
    for i in range(3):
        c.push(new.report(NOW + i, [[7, 8, 99, 231, 631, 121]], long=True))
    assert c.pull() == [], "acknowledged, the node would delete them"
    c.close()
    until(lambda: [x for x in p.lines() if x["event"] == "uplink_refused" and x["reason"] == "key_changed"])
    new.epoch = 1
    file = scene.write()
    text = (scene.folder / "nodes.toml").read_text()
    key = new.key.hex()
    (scene.folder / "nodes.toml").write_text(text.replace(f'key = "{key}"', f'key = "{key}"\nepoch = 1'))
    assert file.exists()
    reload(p)
    assert "key_changed" not in problems(scene)
    new.counter = 0
    scene.feed(new.report(NOW + 5, [[7, 8, 55, 231, 631, 121]], long=True))
    assert values(scene, "air-2") == 55


def values(scene: Scene, name: str) -> float:
    """Return a node's newest PM10."""
    time.sleep(0.5)
    return json.loads(settled(scene.broker)[f"node/{name}/q/pm10"])["v"]

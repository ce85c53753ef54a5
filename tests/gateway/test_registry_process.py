"""A registry that is not what it was at the last start: short of most nodes, with other keys, with a number that means another device."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.conftest import Mosquitto
from tests.gateway.test_process_reload import reload
from tests.gateway.test_retained_process import Scene, settled, tree
from tests.gateway.world import Backend, Process, until


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

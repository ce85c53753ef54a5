"""A registry that is not what it was at the last start: short of most nodes, with other keys, with a number that means another device."""

from __future__ import annotations

import json
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
    b.fence()
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
    assert until(lambda: "registry_shrunk" in problems(scene))
    assert "air-1" in problems(scene)["registry_shrunk"]
    assert settled(scene.broker).keys() == before.keys()
    (scene.folder / "nodes.toml").write_text(text)
    assert scene.process is not None
    reload(scene.process)
    assert until(lambda: "registry_shrunk" not in problems(scene))
    assert settled(scene.broker).keys() == before.keys(), "alarms too"


def test_a_reload_of_the_short_file_confirms_that_the_nodes_are_to_go(scene: Scene) -> None:
    scene.start()
    scene.live()
    settled(scene.broker)
    without_nodes(scene)
    assert until(lambda: "registry_shrunk" in problems(scene))
    assert scene.process is not None
    reload(scene.process)
    assert until(lambda: not [t for t in tree(scene.broker) if "/node/" in f"/{t}"])
    assert until(lambda: "registry_shrunk" not in problems(scene))


def lacking(scene: Scene, what: str) -> None:
    """Write the files without a part of them."""
    file = scene.write()
    text = file.read_text()
    if what == "rules":
        (scene.folder / "rules.toml").write_text("")
    elif what == "line":
        file.write_text(text.replace('rules = "rules.toml"\n', ""))
    elif what == "output":
        file.write_text(text[: text.index("[output.portal]")])
    elif what == "filter":
        file.write_text(text.replace('quantities = ["pm10"]\n', ""))


@pytest.mark.parametrize("what", ["rules", "line", "output", "filter"])
def test_a_start_that_lacks_rules_outputs_or_a_filter_takes_nothing_away_until_it_is_asked_for(
    scene: Scene, what: str
) -> None:
    """One of each: what a big city is asked for, a small one is, too."""
    scene.rules = '[rule.hot]\nquantity = "temperature"\nabove = 20\nclear = 10\nreference = "r"\n'
    scene.outputs["portal"] = {"root": "portal", "formats": ["native"], "quantities": ["pm10"]}
    scene.start()
    scene.live()

    def shown() -> set[str]:
        return {t for t in tree(scene.broker) if "/node/" in f"/{t}"}

    assert until(
        lambda: any("alert/hot" in t for t in shown()) and any(t.startswith("portal/") and "pm10" in t for t in shown())
    )
    settled(scene.broker)
    before = shown()
    assert scene.process is not None and scene.process.stop() == 0
    lacking(scene, what)
    scene.process = Process(scene.folder / "gateway.toml")
    assert until(lambda: "registry_shrunk" in problems(scene))
    scene.feed(scene.motes[263].report(NOW + 60, [[7, 8, 99, 231, 631, 121]]))
    settled(scene.broker)
    assert shown() == before
    reload(scene.process)
    assert until(lambda: "registry_shrunk" not in problems(scene))
    if what == "filter":
        assert until(lambda: any(t.startswith("portal/") and "temperature" in t for t in shown()))
    else:
        assert until(lambda: shown() < before)


def test_a_lower_epoch_than_one_before_is_refused_by_a_reload(scene: Scene) -> None:
    scene.motes[265] = Mote(265, epoch=4)
    write = scene.write

    def with_epoch() -> Path:
        file, mote = write(), scene.motes[265]
        key = f'key = "{mote.key.hex()}"'
        text = (scene.folder / "nodes.toml").read_text()
        (scene.folder / "nodes.toml").write_text(text.replace(key, f"{key}\nepoch = {mote.epoch}"))
        return file

    scene.write = with_epoch  # type: ignore[method-assign]
    scene.start()
    scene.live()
    assert until(lambda: values(scene, "air-2") is not None)
    old, scene.motes[265] = scene.motes[265], Mote(265, epoch=2)
    scene.reload()
    assert until(lambda: "reload_refused" in problems(scene))
    said = problems(scene)["reload_refused"]
    assert "lower epoch" in said and "air-2 (epoch 2)" in said
    scene.motes[265] = old
    scene.reload()
    assert until(lambda: "reload_refused" not in problems(scene))


def test_a_new_key_under_a_used_epoch_is_refused_by_a_reload_and_unanswered_after_a_start(scene: Scene) -> None:
    p = scene.start()
    scene.live()
    old = scene.motes[265]
    scene.motes[265] = new = Mote(265)
    scene.reload()
    assert until(lambda: "reload_refused" in problems(scene))
    said = problems(scene)["reload_refused"]
    assert "another key" in said and "air-2" in said
    scene.feed(old.report(NOW, [[7, 8, 77, 231, 631, 121]]))
    assert until(lambda: values(scene, "air-2") == 77), "the key before is in force"
    assert p.stop() == 0
    p = scene.start()
    assert until(lambda: "key_changed" in problems(scene))
    c = Concentrator(p.port)
    for i in range(3):
        c.push(new.report(NOW + i, [[7, 8, 99, 231, 631, 121]], long=True))
    assert c.pull() == [], "acknowledged, the node would delete them"
    c.close()
    assert until(lambda: any(x["event"] == "uplink_refused" and x["reason"] == "key_changed" for x in p.lines()))
    new.epoch = 1
    file = scene.write()
    text = (scene.folder / "nodes.toml").read_text()
    key = new.key.hex()
    (scene.folder / "nodes.toml").write_text(text.replace(f'key = "{key}"', f'key = "{key}"\nepoch = 1'))
    assert file.exists()
    reload(p)
    assert until(lambda: "key_changed" not in problems(scene))
    new.counter = 0
    scene.feed(new.report(NOW + 5, [[7, 8, 55, 231, 631, 121]], long=True))
    assert until(lambda: values(scene, "air-2") == 55)


def values(scene: Scene, name: str) -> float | None:
    """Return a node's newest PM10, None while nothing was published."""
    said = tree(scene.broker).get(f"node/{name}/q/pm10")
    return None if said is None else json.loads(said)["v"]


def water_meter(scene: Scene, epoch: int = 1) -> Mote:
    """Give number 265 to another device."""
    scene.motes[265] = meter = Mote(265, epoch=epoch)
    scene.names[265], scene.profiles[265] = "meter-9", "water_meter"
    return meter


def write_epochs(scene: Scene) -> None:
    """Let Scene write each node's epoch, too."""
    write = scene.write

    def more(*args: object) -> Path:
        file = write(*args)  # type: ignore[arg-type]
        nodes = scene.folder / "nodes.toml"
        text = nodes.read_text()
        for m in scene.motes.values():
            text = text.replace(f'"{m.key.hex()}"\n', f'"{m.key.hex()}"\nepoch = {m.epoch}\n')
        nodes.write_text(text)
        return file

    scene.write = more  # type: ignore[method-assign]


@pytest.mark.parametrize("way", ["reload, gone between", "reload, at once", "start"])
def test_a_number_that_another_device_gets_shows_nothing_of_the_one_before(scene: Scene, way: str) -> None:
    write_epochs(scene)
    p = scene.start()
    scene.live()
    assert "node/air-2/q/pm10" in settled(scene.broker)
    if way == "reload, gone between":
        del scene.names[265]
        scene.reload()
        settled(scene.broker)
    elif way == "start":
        assert p.stop() == 0
    meter = water_meter(scene)
    if way == "start":
        scene.start()
    else:
        scene.reload()
    found = settled(scene.broker)
    left = [t for t in found if "air-2" in t or "meter-9" in t and ("pm" in t or "/alert/" in t)]
    assert left == []
    assert json.loads(found["node/meter-9/meta"])["quantities"] == {}
    scene.feed(meter.report(NOW - 30, [[1234, 15]], schema=4, long=True))
    found = settled(scene.broker)
    assert json.loads(found["node/meter-9/meta"])["quantities"].keys() == {"water_volume", "water_flow"}
    assert not [t for t in found if "meter-9/q/pm" in t]


def test_a_board_that_was_exchanged_keeps_what_its_node_has_published(scene: Scene) -> None:
    write_epochs(scene)
    scene.start()
    scene.live()
    before = settled(scene.broker)
    scene.motes[265] = Mote(265, epoch=1)
    scene.reload()
    assert settled(scene.broker).keys() == before.keys()

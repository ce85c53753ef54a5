# ruff: noqa: ASYNC240 - small files, and no one else in the loop
"""What was published since a backup under another root, or by an output that was added, is named by the restore, and emptied as it says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.config import Broker as At
from gateway.config import MqttOutputConfig
from gateway.outputs.mqtt import place_of
from gateway.store.behind import behind
from gateway.store.sqlite import SqliteEngine
from tests.gateway.conftest import Mosquitto
from tests.gateway.test_retained_process import Scene, empty, scene, settled  # noqa: F401  fixtures
from tests.gateway.test_strays import everything
from tests.gateway.world import until
from tools.cli import cli


def verb(*args: object) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["gateway", *map(str, args), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize("what", ["root", "output"])
def test_what_was_published_since_a_backup_is_named_by_the_restore_and_emptied_as_it_says(
    scene: Scene,  # noqa: F811
    empty: Mosquitto,  # noqa: F811
    tmp_path: Path,
    what: str,
) -> None:
    p = scene.start()
    scene.live()
    settled(scene.broker)
    archive = tmp_path / "all.tar"
    verb("backup", archive, "--all", "--config", scene.folder / "gateway.toml")
    before = {name: dict(o) for name, o in scene.outputs.items()}
    if what == "root":
        at, topic = scene.broker, "other/v1/node/air-1/q/pm10"
        scene.outputs["city"]["root"] = "other"
    else:
        at, topic = empty, "node/air-1/q/pm10"
        scene.outputs["extra"] = {"broker": f"{empty.host}:{empty.port}", "formats": ["native"]}
    since = {name: dict(o) for name, o in scene.outputs.items()}
    scene.reload()
    assert until(lambda: topic in everything(at))
    settled(at)
    assert p.stop() == 0
    told = verb("restore", archive)
    output, root = ("city", "other") if what == "root" else ("extra", "city")
    assert [(x["output"], x["address"], x["root"]) for x in told["left"]] == [(output, f"{at.host}:{at.port}", root)]
    scene.outputs = before
    scene.start()
    settled(scene.broker)
    assert topic in everything(at), "the restored gateway does not know of it"
    for outputs in (since, before):  # what the verb says is to be done
        scene.outputs = {name: dict(o) for name, o in outputs.items()}
        scene.reload()
        settled(at) if outputs is since else None

    def left() -> list[str]:
        there = everything(at)
        return [t for t in there if t.startswith("other/")] if what == "root" else list(there)

    assert until(lambda: not left(), 30), left()


def place(name: str, host: str, root: str, discovery: str = "") -> Any:
    formats = ("native", "homeassistant") if discovery else ("native",)
    return place_of(MqttOutputConfig(name, At(host, 1), root=root, discovery=discovery, formats=formats))


async def test_of_a_store_that_gives_way_is_named_what_the_other_has_never_known(tmp_path: Path) -> None:
    stores = tmp_path / "a.db", tmp_path / "b.db"
    first, second = place("city", "here", "r"), place("city", "here", "s")
    engine = SqliteEngine(stores[0])
    await engine.ledger.keep_places({p.key: p for p in (first,)})
    await engine.ledger.keep_places({p.key: p for p in (second,)})
    engine.close()
    shutil.copy(stores[0], stores[1])
    assert behind(*stores) == []
    newer = place("city", "here", "r"), place("portal", "there", "r", "ha")
    engine = SqliteEngine(stores[0])
    await engine.ledger.keep_places({p.key: p for p in newer})
    engine.close()
    portal = {"output": "portal", "address": "there:1", "root": "r", "discovery": "ha"}
    assert behind(*stores) == [portal], "a root that the backup knows as a former one is emptied by the gateway"
    assert behind(stores[1], stores[0]) == []
    stores[0].write_bytes(b"no store" * 999)
    assert behind(*stores) is None
    assert {f.name for f in tmp_path.iterdir() if f.name.startswith("b.")} <= {"b.db", "b.db.lock", "b.db.floor"}

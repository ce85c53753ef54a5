"""Brokers whose memories were exchanged (volume, name, cable): what one output published stands at another's broker, and is emptied there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gateway.config import Broker as At
from gateway.config import MqttOutputConfig
from gateway.core.shape import Shape
from gateway.mqtt_session import MqttError
from gateway.outputs.mark import Mark
from gateway.outputs.message import json
from gateway.outputs.mqtt import place_of
from gateway.outputs.reading import Reader
from gateway.outputs.retained import Tree
from gateway.outputs.strays import TRIES, Strays
from gateway.store.memory import MemoryEngine
from tests.gateway.conftest import Mosquitto
from tests.gateway.test_leaving import own
from tests.gateway.test_owner import Broker, reader
from tests.gateway.test_retained_process import Scene, empty, scene, settled, tree  # noqa: F401  fixtures
from tests.gateway.world import until

CITY = place_of(MqttOutputConfig("city", At("here", 1), root="r"))
PORTAL = place_of(MqttOutputConfig("portal", At("there", 1), root="r"))
MARK = "r/v1/gw/gw-1/mark/portal"


def test_what_an_output_published_is_emptied_at_the_broker_that_is_anothers_now(
    scene: Scene,  # noqa: F811
    tmp_path: Path,
    empty: Mosquitto,  # noqa: F811
) -> None:
    scene.outputs["portal"] = {
        "broker": f"{empty.host}:{empty.port}",
        "formats": ["native"],
        "visibility": ["open"],
        "quantities": ["pm10"],
    }
    scene.start()
    scene.live()
    settled(scene.broker)
    portal = settled(empty)
    assert "node/air-1/q/uptime" in tree(scene.broker) and "node/air-1/q/uptime" not in portal
    assert until(lambda: "gw/gw-1/mark/city" in own(scene.broker) and "gw/gw-1/mark/portal" in own(empty))
    scene.broker.stop()
    empty.stop()
    memories = [b.folder / "mosquitto.db" for b in (scene.broker, empty)]
    shutil.move(memories[0], tmp_path / "city.db")
    shutil.move(memories[1], memories[0])
    shutil.move(tmp_path / "city.db", memories[1])
    empty.start()
    scene.broker.start()
    assert until(lambda: tree(empty) == portal)
    assert until(lambda: "node/air-1/q/uptime" in tree(scene.broker))
    assert until(lambda: "gw/gw-1/mark/city" not in own(empty) and "gw/gw-1/mark/portal" not in own(scene.broker))
    assert own(empty)["gw/gw-1/state"] == own(scene.broker)["gw/gw-1/state"] == b"online"


def test_an_output_at_the_same_broker_by_another_address_is_no_stray_and_nothing_is_said_again(
    scene: Scene,  # noqa: F811
) -> None:
    scene.outputs = {
        "city": {"formats": ["native"]},
        "portal": {"formats": ["ngsi-ld"], "broker": f"localhost:{scene.broker.port}"},
    }
    p = scene.start()
    scene.live()
    before = settled(scene.broker)
    marks = {"gw/gw-1/mark/city", "gw/gw-1/mark/portal"}
    assert until(lambda: own(scene.broker).keys() >= marks)
    assert p.stop() == 0
    p = scene.start()
    assert until(lambda: sum(line["event"] == "output_strays" for line in p.lines()) == 2)
    assert settled(scene.broker) == before and own(scene.broker).keys() >= marks
    assert not [line for line in p.lines() if line["event"] == "output_resynced" and line["since"] == -1]


async def strays_of(mark: bytes, deaf: str = "") -> tuple[MemoryEngine, Strays, Broker]:
    engine = MemoryEngine(["city", "portal"])
    await engine.ledger.keep_places({p.key: p for p in (CITY, PORTAL)})
    await engine.ledger.keep_turn(PORTAL.key, 3)
    mark = mark.replace(b"LIFE", engine.ledger.life.encode())
    shape = CITY.now or Shape("r", (), "", ())
    return engine, Strays("city", CITY.address, Tree(shape, "gw-1", {}), engine.ledger), Broker({MARK: mark}, deaf=deaf)


@pytest.mark.parametrize(("mark", "ours"), [
    (json(Mark("LIFE", 1, 1, 3)), True),
    (json(Mark("another", 1, 1, 3)), False),
    (json(Mark("LIFE", 1, 1, 4)), False),
    (b"{}", False),
])  # fmt: skip
async def test_a_mark_is_a_strays_where_this_store_made_it(mark: bytes, ours: bool) -> None:
    _, strays, b = await strays_of(mark)
    assert await strays.look(reader(b)) == ({"portal"} if ours else set())
    assert not [t for t, _, retain in b.sent if retain]


async def test_who_is_at_this_address_is_no_stray_and_an_only_output_reads_nothing() -> None:
    engine, strays, b = await strays_of(json(Mark("LIFE", 1, 1, 3)))
    beside = place_of(MqttOutputConfig("portal", At("here", 1), root="r"))
    await engine.ledger.keep_places({p.key: p for p in (CITY, beside)})
    assert await strays.look(reader(b)) == set() and not b.sent


async def test_a_broker_that_ends_the_connection_where_marks_are_read_is_asked_no_more() -> None:
    _, strays, b = await strays_of(json(Mark("LIFE", 1, 1, 3)))
    b.closed.set_result("gone")
    ended = 0
    for _ in range(TRIES + 2):
        try:
            assert await strays.look(Reader(b, "r/v1/gw/gw-1/mark/city", "gw-1")) == set()  # type: ignore[arg-type]
        except MqttError:
            ended += 1
    assert ended == TRIES

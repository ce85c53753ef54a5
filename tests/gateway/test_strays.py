"""Brokers whose memories were exchanged (volume, name, cable): what one output published stands at another's broker, and is emptied there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gateway.config import Broker as At
from gateway.config import MqttOutputConfig
from gateway.core.shape import Shape
from gateway.mqtt_session import MqttError
from gateway.outputs.mark import Mark, mark_topic
from gateway.outputs.message import json
from gateway.outputs.mqtt import place_of
from gateway.outputs.neighbours import Neighbours
from gateway.outputs.reading import Reader
from gateway.outputs.retained import Tree
from gateway.outputs.strays import TRIES, Strays
from gateway.store.ledger import Place
from gateway.store.memory import MemoryEngine
from tests.gateway.conftest import Mosquitto
from tests.gateway.test_leaving import own
from tests.gateway.test_owner import Broker, reader
from tests.gateway.test_retained_process import Scene, empty, scene, settled, tree  # noqa: F401  fixtures
from tests.gateway.world import Backend, until

CITY = place_of(MqttOutputConfig("city", At("here", 1), root="r"))
PORTAL = place_of(MqttOutputConfig("portal", At("there", 1), root="r"))
OTHER = place_of(MqttOutputConfig("portal", At("there", 1), root="other"))
MARK = "r/v1/gw/gw-1/mark/portal"


def everything(broker: Mosquitto) -> dict[str, bytes]:
    """Return what is retained now."""
    b = Backend((broker.host, broker.port), "#")
    b.fence()
    b.close()
    return {t: p for t, p, retained in b.messages if retained}


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


@pytest.mark.parametrize("when", ["while it works", "under a root that was left since"])
def test_what_an_output_published_under_another_root_is_emptied_at_the_broker_that_is_anothers_now(
    scene: Scene,  # noqa: F811
    tmp_path: Path,
    empty: Mosquitto,  # noqa: F811
    when: str,
) -> None:
    """Household data at a broker of open data."""
    scene.visibility[264] = "personal"
    scene.outputs["city"] = {"formats": ["native"], "root": "inner", "visibility": ["open", "restricted", "personal"]}
    scene.outputs["portal"] = {"broker": f"{empty.host}:{empty.port}", "formats": ["native"], "root": "pub"}
    scene.outputs["portal"]["visibility"] = ["open"]
    p = scene.start()
    scene.live()
    there = [everything(scene.broker), everything(empty)]
    assert until(lambda: "inner/v1/gw/gw-1/mark/city" in everything(scene.broker))
    assert until(lambda: "pub/v1/gw/gw-1/mark/portal" in everything(empty))
    assert until(lambda: "inner/v1/node/meter-1/q/water_volume" in everything(scene.broker))
    for b in (scene.broker, empty):
        b.stop()
    if "left" in when:
        scene.outputs["city"]["root"] = "outer"
        scene.reload()
        assert p.stop() == 0
    memories = [b.folder / "mosquitto.db" for b in (scene.broker, empty)]
    shutil.move(memories[0], tmp_path / "city.db")
    shutil.move(memories[1], memories[0])
    shutil.move(tmp_path / "city.db", memories[1])
    for b in (scene.broker, empty):
        b.start()
    if "left" in when:
        scene.start()
    assert until(lambda: "pub/v1/node/air-1/q/pm10" in everything(empty))
    assert until(lambda: not [t for t in everything(empty) if not t.startswith("pub/")], 30), everything(empty).keys()
    assert until(lambda: not [t for t in everything(scene.broker) if t.startswith("pub/")], 30)
    assert everything(empty).keys() >= {t for t in there[1] if "/node/" in t}


@pytest.mark.parametrize("when", ["while it is stopped", "after a memory of before was put back"])
def test_what_an_output_published_under_a_former_id_is_emptied_at_the_broker_that_is_anothers_now(
    scene: Scene,  # noqa: F811
    tmp_path: Path,
    empty: Mosquitto,  # noqa: F811
    when: str,
) -> None:
    scene.visibility[264] = "personal"
    scene.outputs["city"]["formats"] = ["native", "ngsi-ld"]
    scene.outputs["portal"] = {
        "broker": f"{empty.host}:{empty.port}",
        "formats": ["native"],
        "visibility": ["open"],
    }
    p = scene.start()
    scene.live()
    settled(scene.broker)
    portal = settled(empty)
    assert "node/meter-1/alert/water_volume-above" in tree(scene.broker) and portal
    assert not [t for t in portal if "meter-1" in t]
    assert until(lambda: "gw/gw-1/mark/city" in own(scene.broker) and "gw/gw-1/mark/portal" in own(empty))
    scene.broker.stop()  # it saves, and tells that the gateway is offline
    shutil.copy(scene.broker.folder / "mosquitto.db", tmp_path / "city.db")
    scene.broker.start()
    assert until(lambda: own(scene.broker)["gw/gw-1/state"] == b"online")
    assert p.stop() == 0
    scene.gateway = "gw-9"

    def exchange() -> None:
        empty.stop()
        shutil.copy(tmp_path / "city.db", empty.folder / "mosquitto.db")
        empty.start()

    if "stopped" in when:
        exchange()
    scene.start()
    if "stopped" not in when:
        assert until(
            lambda: own(empty).keys() >= {"gw/gw-9/mark/portal"} and not [t for t in own(empty) if "gw-1" in t]
        )
        exchange()

    def clean() -> bool:
        there = tree(empty)
        return there.keys() == portal.keys() and not [t for t, p in there.items() if b"gw-1" in p]

    assert until(clean, 30), tree(empty).keys() ^ portal.keys()
    assert until(lambda: not [t for t in own(empty) if "gw-1" in t or t.endswith("/city")]), own(empty).keys()
    assert own(empty)["gw/gw-9/state"] == b"online" and until(lambda: "gw/gw-9/mark/portal" in own(empty))


@pytest.mark.parametrize("root", ["city", "pub"])
def test_an_output_at_the_same_broker_by_another_address_is_no_stray_and_nothing_is_said_again(
    scene: Scene,  # noqa: F811
    root: str,
) -> None:
    scene.outputs = {
        "city": {"formats": ["native"]},
        "portal": {"formats": ["ngsi-ld"], "broker": f"localhost:{scene.broker.port}", "root": root},
    }
    p = scene.start()
    scene.live()
    before = settled(scene.broker)
    marks = {"gw/gw-1/mark/city", f"{root}/v1/gw/gw-1/mark/portal".removeprefix("city/v1/")}
    assert until(lambda: everything(scene.broker).keys() >= marks)
    assert p.stop() == 0
    p = scene.start()
    assert until(lambda: sum(line["event"] == "output_strays" for line in p.lines()) == 2)
    assert settled(scene.broker) == before and everything(scene.broker).keys() >= marks
    assert not [line for line in p.lines() if line["event"] == "output_resynced" and line["since"] == -1]


FORMER = "r/v1/gw/gw-0/mark/portal"


@pytest.mark.parametrize(("former", "mark", "ours"), [
    ({"gw-0"}, json(Mark("LIFE", 1, 1, 3)), True),
    (set(), json(Mark("LIFE", 1, 1, 3)), False),
    ({"gw-0"}, json(Mark("another", 1, 1, 3)), False),
    ({"gw-0"}, json(Mark("LIFE", 1, 1, 4)), False),
])  # fmt: skip
async def test_a_mark_below_a_former_id_is_a_strays_where_that_id_is_ours(
    former: set[str], mark: bytes, ours: bool
) -> None:
    engine, strays, b = await strays_of(b"{}")
    b.retained[FORMER] = mark.replace(b"LIFE", engine.ledger.life.encode())
    assert await strays.look(reader(b), former) == ({"portal"} if ours else set())


class Said:
    """An output of this gateway at another address, as `neighbours.py` sees it."""

    def __init__(self, place: Place, hears: bool | None = None) -> None:
        assert place.now is not None
        self.place, self.address, self.tree = place.key, place.address, Tree(place.now, "gw-1", {})
        self.mark_topic, self.hears = mark_topic(self.tree, place.output), hears
        self.asked = 0

    def has_heard(self, nonce: str) -> bool:
        return False

    def again(self) -> None:
        self.asked += 1


@pytest.mark.parametrize("how", ["ours", "of one taken out here", "of one that has published here"])
async def test_who_publishes_below_a_root_that_was_left_is_spared_until_it_is_known_to_be_elsewhere(how: str) -> None:
    """Whose topics are emptied may be any shape's that stands here, not only the newest of ours."""
    engine = MemoryEngine(["city", "portal"])

    def place(name: str, host: str, root: str) -> Place:
        return place_of(MqttOutputConfig(name, At(host, 1), root=root))

    mine, gone, other = place("city", "here", "x"), place("old", "here", "r"), place("portal", "there", "r")
    before = [place("city", "here", "r" if how == "ours" else "x"), place("portal", "there", "r")]
    await engine.ledger.keep_places({p.key: p for p in [*before, *([gone] if "out" in how else [])]})
    if "published" in how:
        other = place("portal", "there", "y")
    await engine.ledger.keep_places({p.key: p for p in (mine, other)})
    me, it = Said(mine), Said(other)
    neighbours = Neighbours(me, engine.ledger)
    neighbours.others = lambda: [me, it]
    if "published" in how:
        neighbours.strays = {"portal"}
    turn = neighbours.turn(-1, -1, engine.ledger.generation)
    assert [o.place for o in neighbours.strangers()] == [other.key] and neighbours.trees() == [it.tree]
    assert not neighbours.is_known and not neighbours.gone() and not turn.strays
    it.hears = True
    b = Broker({})
    assert await neighbours.ask(b) == (True, True)  # type: ignore[arg-type]
    assert neighbours.strangers() == [] and neighbours.gone() == ({"portal"} if "published" in how else set())


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


@pytest.mark.parametrize("root", ["now", "left since"])
@pytest.mark.parametrize(("deaf", "found"), [("", {"portal"}), ("other/", set[str]())])
async def test_a_mark_below_another_root_is_a_strays_where_our_user_may_publish_there(
    root: str, deaf: str, found: set[str]
) -> None:
    """Where it may not, a probe would not reach that output if it is at this broker by another address."""
    engine, strays, b = await strays_of(b"{}", deaf)
    await engine.ledger.keep_places({p.key: p for p in (CITY, OTHER)})
    if root != "now":
        await engine.ledger.keep_places({p.key: p for p in (CITY, PORTAL)})
    await engine.ledger.keep_turn(OTHER.key, 3)
    mark = "other/v1/gw/gw-1/mark/portal"
    b.retained[mark] = json(Mark(engine.ledger.life, 1, 1, 3))
    b.hears = frozenset({mark})
    assert await strays.look(reader(b)) == found and strays.marks("portal") == ({mark} if found else set())


async def test_a_broker_that_ends_the_connection_below_another_root_is_asked_below_ours_all_the_same() -> None:
    engine, strays, b = await strays_of(json(Mark("LIFE", 1, 1, 3)))
    await engine.ledger.keep_places({p.key: p for p in (CITY, OTHER)})
    strays._tries[False] = TRIES
    assert await strays.look(reader(b)) == {"portal"}
    assert not any(t.startswith("other/") for t, _, _ in b.sent)


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

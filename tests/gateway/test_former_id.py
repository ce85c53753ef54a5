"""A gateway that is given another id leaves nothing under the one that it had; a copy of its store under another id takes nothing from it."""

# ruff: noqa: F401, F811  fixtures of another file
from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import cast

import msgspec
import pytest

from gateway.config import Broker, MqttOutputConfig
from gateway.core.shape import Shape
from gateway.outputs.former import Former
from gateway.outputs.mqtt import place_of
from gateway.outputs.reading import Read, Reader
from gateway.outputs.retained import Tree
from gateway.store.ledger import IDS, Ids
from gateway.store.memory import MemoryEngine
from tests.gateway.conftest import Mosquitto
from tests.gateway.test_retained_process import NOW, ROWS, Scene, difference, scene, settled, tree
from tests.gateway.test_two_gateways import put
from tests.gateway.world import Backend, until


def everything(broker: Mosquitto, filter: str = "#") -> dict[str, bytes]:
    """Return all that is retained, by whole topic."""
    b = Backend((broker.host, broker.port), filter)
    n = -1
    while n != len(b.messages):
        n = len(b.messages)
        time.sleep(0.15)
    b.close()
    return {t: p for t, p, retained in b.messages if retained and p}


def marked(s: Scene, gateway: str = "gw-1") -> None:
    """Wait until the mark has caught up with the store."""
    with closing(sqlite3.connect(s.folder / "gateway.db")) as db:
        (newest,) = db.execute("SELECT max(seq) FROM current").fetchone()

    def done() -> bool:
        found = everything(s.broker, f"+/v1/gw/{gateway}/mark/+")
        return bool(found) and all(json.loads(p)["seq"] >= newest for p in found.values())

    assert until(done, 20)


@pytest.mark.parametrize("how", ["in order", "killed", "with its root, a name and an output"])
def test_a_changed_id_leaves_nothing_of_the_former_one_and_publishes_everything_as_the_new_one(
    scene: Scene, how: str
) -> None:
    if "output" in how:
        scene.outputs["second"] = {"formats": ["native"], "root": "town"}
    p = scene.start()
    scene.live()
    marked(scene)
    before = everything(scene.broker)
    assert {"gw/gw-1/state", "gw/gw-1/info", "gw/gw-1/mark/city"} <= before.keys()
    assert any(b"gw-1" in x for t, x in before.items() if t.startswith("node/"))
    assert p.stop() == 0 if how != "killed" else p.kill() is None
    if "output" in how:
        scene.outputs = {"main": scene.outputs["city"] | {"root": "city2"}}
        scene.names[265] = "air-3"
    scene.gateway = "gw-9"
    scene.start()
    seen = everything(scene.broker)
    assert until(lambda: not [t for t, p in everything(scene.broker).items() if "gw-1" in t or b"gw-1" in p], 25), [
        t for t, p in everything(scene.broker).items() if "gw-1" in t or b"gw-1" in p
    ]
    marked(scene, "gw-9")
    now = everything(scene.broker)
    if "output" not in how:
        assert now.keys() == {t.replace("gw-1", "gw-9") for t in before}
        assert len(seen) > 20
    else:
        assert not [t for t in now if "air-2" in t or t.startswith(("node/", "town/"))]
        assert "city2/v1/node/air-3/state" in now
    assert scene.process is not None and scene.process.stop() == 0
    scene.gateway = "gw-1"
    scene.start()
    assert until(lambda: not [t for t, p in everything(scene.broker).items() if "gw-9" in t or b"gw-9" in p], 25), (
        "back"
    )


def test_a_copy_of_the_store_under_another_id_takes_nothing_from_the_original_that_lives(
    scene: Scene, tmp_path: Path
) -> None:
    scene.start()
    scene.live()
    marked(scene)
    before = everything(scene.broker)
    (tmp_path / "copy").mkdir()
    copy = Scene(tmp_path / "copy", scene.broker)
    copy.gateway = "gw-2"
    copy.names = {263: "air-1", 264: "meter-9"}  # one was renamed there, and one is not in its registry
    with (
        closing(sqlite3.connect(scene.folder / "gateway.db")) as db,
        closing(sqlite3.connect(copy.folder / "gateway.db")) as to,
    ):
        db.backup(to)
    watch = Backend((scene.broker.host, scene.broker.port), "#")
    p = copy.start()
    try:
        marked(copy, "gw-2")
        now = everything(scene.broker)
        assert "node/meter-9/meta" in now, sorted(now)
        assert [t for t, payload, _ in watch.messages if not payload and "/probe/" not in t] == []
        assert before.keys() <= everything(scene.broker).keys()
        (told,) = [x for t, x in everything(scene.broker).items() if t == "gw/gw-1/state"]
        assert told == b"online"
    finally:
        p.stop()
        watch.close()
    copy.start()
    try:
        marked(copy, "gw-2")
        assert before.keys() <= everything(scene.broker).keys(), "nor at its next start"
    finally:
        copy.process.kill()  # type: ignore[union-attr]


def test_an_id_that_another_gateway_has_by_now_is_that_ones(scene: Scene) -> None:
    p = scene.start()
    scene.live()
    marked(scene)
    assert p.stop() == 0
    theirs = {
        "gw/gw-1/state": b"offline",
        "gw/gw-1/mark/city": json.dumps({"store": "another", "seq": 1, "generation": 1, "turn": 1}).encode(),
    }
    put(scene.broker, theirs)
    scene.gateway = "gw-9"
    scene.start()
    marked(scene, "gw-9")
    now = everything(scene.broker)
    assert {t: now.get(t) for t in theirs} == theirs and "gw/gw-1/info" in now


async def test_the_ledger_knows_the_ids_that_it_had_and_where_they_were_found_to_be_its_own() -> None:
    ledger = MemoryEngine([]).ledger
    for i in range(20):
        await ledger.keep_id(f"gw-{i}")
    assert list(ledger.former()) == [f"gw-{i}" for i in range(3, 19)]
    await ledger.keep_former("gw-18", "city@here:1883")
    await ledger.keep_former("gw-none", "city@here:1883")
    assert ledger.former()["gw-18"] == ("city@here:1883",) and "gw-none" not in ledger.former()
    await ledger.keep_id("gw-18")
    assert "gw-18" not in ledger.former() and list(ledger.former())[-1] == "gw-19"
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(Ids()), type=Ids) == Ids() and IDS


class Reads:
    """Reads what stands below gw/gw-old/ at a broker, by leaf."""

    def __init__(self, found: dict[str, bytes], deaf: bool = False) -> None:
        self.found, self.deaf = found, deaf

    @asynccontextmanager
    async def reading(self, _filters: object, parts: dict[str, str]) -> AsyncIterator[Read]:
        (part,) = parts
        yield Read({part + leaf: p for leaf, p in self.found.items()}, deaf={part} if self.deaf else set())


def mark(store: str = "", turn: int = 3) -> bytes:
    return json.dumps({"store": store, "seq": 5, "generation": 1, "turn": turn}).encode()


@pytest.mark.parametrize(("found", "known", "ours"), [
    ({"state": b"offline", "mark/city": mark()}, False, True),
    ({"mark/city": mark(turn=2)}, False, True),
    ({"state": b"online", "mark/city": mark()}, False, False),
    ({"state": b"online"}, True, False),
    ({"state": b"offline", "mark/city": mark(turn=4)}, False, False),
    ({"state": b"offline", "mark/city": mark("another")}, True, False),
    ({"mark/city": mark(), "mark/second": mark("another")}, False, False),
    ({"mark/city": b"{}"}, True, False),
    ({"mark/unknown": mark()}, False, False),
    ({"state": b"offline"}, False, False),
    ({"state": b"offline"}, True, True),
    ({}, True, True),
    ({}, False, False),
])  # fmt: skip
async def test_an_id_is_ours_where_it_is_not_online_and_every_mark_is_one_that_this_store_made(
    found: dict[str, bytes], known: bool, ours: bool
) -> None:
    ledger = MemoryEngine(["city"]).ledger
    place = place_of(MqttOutputConfig("city", Broker("here", 1)))
    await ledger.keep_places({place.key: place})
    await ledger.keep_turn(place.key, 3)
    await ledger.keep_id("gw-old")
    await ledger.keep_id("gw-new")
    if known:
        await ledger.keep_former("gw-old", place.key)
    found = {leaf: p.replace(b'"store": ""', f'"store": "{ledger.life}"'.encode()) for leaf, p in found.items()}
    former = Former(place.key, Tree(place.now or Shape(), "gw-new", {}), ledger)
    assert await former.look(cast(Reader, Reads(found))) == ours
    assert former.ids == ({"gw-old"} if ours else set()) and former.waits == (found.get("state") == b"online")
    sent = list[str]()

    async def settled() -> None: ...

    async def stored(job: Awaitable[int]) -> bool:
        await job
        return True

    await former.empty(lambda m: sent.append(m.topic.removeprefix("city/v1/gw/gw-old/")), settled, stored)
    assert sorted(sent) == (sorted(found) if ours else []) and (not sent or sent[-1].startswith("mark/") or known)
    assert ledger.former()["gw-old"] == ((place.key,) if known or ours else ())


async def test_an_id_that_cannot_be_read_is_left_and_named() -> None:
    ledger = MemoryEngine(["city"]).ledger
    place = place_of(MqttOutputConfig("city", Broker("here", 1)))
    await ledger.keep_places({place.key: place})
    await ledger.keep_id("gw-old")
    await ledger.keep_id("gw-new")
    former = Former(place.key, Tree(place.now or Shape(), "gw-new", {}), ledger)
    assert not await former.look(cast(Reader, Reads({}, deaf=True)))
    assert former.unread is not None and "topic readwrite city/v1/gw/gw-old/#" in former.unread[1]

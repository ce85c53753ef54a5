"""A gateway that is given another id leaves nothing under the one that it had; a copy of its store under another id takes nothing from it."""

# ruff: noqa: F401, F811  fixtures of another file
from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import cast

import msgspec
import pytest

from gateway.config import Broker as At
from gateway.config import MqttOutputConfig
from gateway.core.shape import Shape
from gateway.mqtt_session import MqttError, MqttSession
from gateway.outputs import reading
from gateway.outputs.former import Former
from gateway.outputs.mqtt import place_of
from gateway.outputs.reading import Reader
from gateway.outputs.retained import Tree
from gateway.store.ledger import IDS, Ids
from gateway.store.memory import MemoryEngine
from tests.gateway.conftest import Mosquitto
from tests.gateway.test_owner import Broker
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


OLD = "city/v1/gw/gw-old/"


def at_broker(found: dict[str, bytes], deaf: bool = False) -> tuple[Broker, Reader]:
    """Return a broker with what stands below gw/gw-old/, by leaf, and what reads it."""
    b = Broker({OLD + leaf: p for leaf, p in found.items()}, deaf=OLD if deaf else "")
    return b, Reader(cast(MqttSession, b), "r/v1/gw/gw-1/mark/city", "gw-1")


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
    former, life = await former_of(known)
    found = {leaf: p.replace(b'"store": ""', f'"store": "{life}"'.encode()) for leaf, p in found.items()}
    b, reader = at_broker(found)
    assert await former.look(reader) == ours and former.waits == (found.get("state") == b"online")
    async with former.watching(reader):
        assert former.ids == ({"gw-old"} if ours else set())
    sent = await emptied(former, b, reader)
    assert sorted(sent) == (sorted(found) if ours else []) and (not sent or sent[-1].startswith("mark/") or known)
    assert not {f for f in b.filters if "old" in f}


HERE = place_of(MqttOutputConfig("city", At("here", 1)))


async def former_of(known: bool, clock: Callable[[], float] = time.monotonic) -> tuple[Former, str]:
    """Return what knows that gw-new was gw-old before, and the store's name. known: it was found to be ours here."""
    ledger = MemoryEngine(["city"]).ledger
    await ledger.keep_places({HERE.key: HERE})
    await ledger.keep_turn(HERE.key, 3)
    await ledger.keep_id("gw-old")
    await ledger.keep_id("gw-new")
    if known:
        await ledger.keep_former("gw-old", HERE.key)
    return Former(HERE.key, Tree(HERE.now or Shape(), "gw-new", {}), ledger, clock), ledger.life


async def emptied(former: Former, b: Broker, reader: Reader) -> list[str]:
    """Have emptied what is ours; return the leaves."""

    async def settled() -> None:
        while b.owes or b.waiting:  # acknowledgements, and what others publish meanwhile
            await asyncio.sleep(0.001)

    async def stored(job: Awaitable[int]) -> bool:
        await job
        return True

    before = len(b.sent)
    await former.empty(reader, lambda m: cast(None, b.publish(m.topic, m.payload, 1, m.retain)), settled, stored)
    return [t.removeprefix(OLD) for t, _, retain in b.sent[before:] if retain]


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("how", ["deaf", "refused", "mute", "crowded"])
async def test_an_id_that_cannot_be_read_is_not_ours_and_named(
    known: bool, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "ECHO_S", 0.05)
    former, life = await former_of(known)
    b, reader = at_broker({"mark/city": mark(life)}, deaf=how == "deaf")
    if how == "crowded":
        b.retained |= {f"{OLD}{i:06}": b"{}" for i in range(3000)}
    b.mute, b.refuse = how == "mute", OLD if how == "refused" else ""
    assert not await former.look(reader) and former.waits
    async with former.watching(reader):
        assert not former.ids
    assert await emptied(former, b, reader) == []
    assert former.unread is not None and (how == "mute" or OLD in former.unread[1])


async def test_an_id_that_cannot_be_read_any_more_is_not_ours_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "ECHO_S", 0.05)
    former, life = await former_of(True)
    b, reader = at_broker({"mark/city": mark(life)})
    assert await former.look(reader)
    b.mute = True
    assert not await former.look(reader) and await emptied(former, b, reader) == []
    b.mute = False
    assert await former.look(reader) and await emptied(former, b, reader) == ["mark/city"]


@pytest.mark.parametrize("when", ["before it is read again", "while it is emptied", "while something is judged"])
@pytest.mark.parametrize("how", ["online", "mark"])
async def test_an_id_that_another_gateway_takes_meanwhile_is_that_ones_from_then_on(when: str, how: str) -> None:
    former, life = await former_of(True)
    b, reader = at_broker({"state": b"offline", "info": b"{}", "mark/city": mark(life)})
    assert await former.look(reader)

    def come() -> None:
        topic, payload = ("state", b"online") if how == "online" else ("mark/main", mark("another"))
        b.publish(OLD + topic, payload, 1, True)

    if when == "while something is judged":
        async with former.watching(reader):
            assert former.ids == {"gw-old"}
            come()
            while b.waiting:
                await asyncio.sleep(0.001)
            assert not former.ids
    elif when == "while it is emptied":
        b.before_puback = lambda topic: (
            come() if topic == f"{OLD}info" and f"{OLD}mark/main" not in b.retained else None
        )
        assert await emptied(former, b, reader) == ["info", "state", "state" if how == "online" else "mark/main"]
        assert f"{OLD}mark/city" in b.retained
        return
    else:
        come()
    before = dict(b.retained)
    assert await emptied(former, b, reader) == [] and b.retained == before


async def test_a_broker_that_ends_the_connection_while_an_id_is_read_is_named_and_tried_again_each_hour() -> None:
    now = [0.0]
    former, life = await former_of(True, lambda: now[0])

    async def ends() -> bool:
        b, reader = at_broker({"mark/city": mark(life)})
        b.closed.set_result("gone")
        former.begin()
        try:
            await former.look(reader)
        except MqttError:
            return True
        return False

    assert [await ends() for _ in range(6)] == [True, True, True, False, False, False]
    assert former.unread is not None and "3 connections" in former.unread[0] and OLD in former.unread[1]
    now[0] += 3600
    assert [await ends() for _ in range(3)] == [True, False, False] and former.unread is not None
    now[0] += 3600
    assert await former.look(at_broker({"mark/city": mark(life)})[1]) and former.unread is None

"""What outputs that were taken out leave at their brokers: a broker that lost power remembers it afterwards, and a gateway that was stopped
meanwhile empties it at its start, or says why it cannot.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Broker as At
from gateway.config import MqttOutputConfig
from gateway.core.value import replace
from gateway.metrics import Metrics
from gateway.mqtt_session import MqttError
from gateway.outputs import vacate
from gateway.outputs.leaving import Leaving
from gateway.outputs.mark import Mark
from gateway.outputs.message import json as encoded
from gateway.store.memory import MemoryEngine
from tests.gateway.conftest import Mosquitto
from tests.gateway.test_owner import Broker
from tests.gateway.test_retained_process import Scene, empty, republish, scene, settled, tree  # noqa: F401  fixtures
from tests.gateway.test_vacate import CONFIG, KEY, claims, left
from tests.gateway.world import Backend, until

MARK = "city/v1/gw/gw-1/mark/city"


def own(broker: Mosquitto) -> dict[str, bytes]:
    """Return what the gateway retains of itself."""
    b = Backend((broker.host, broker.port), "city/v1/gw/#")
    b.fence()
    b.close()
    return {t: p for t, p, retained in b.messages if retained}


def problems(s: Scene) -> list[dict[str, str]]:
    """Return the problems of that kind that health names now."""
    b = Backend((s.broker.host, s.broker.port), "city/v1/gw/gw-1/health")
    b.fence()
    b.close()
    found = [p for p in b.on("gw/gw-1/health") if p]
    return [x for x in json.loads(found[-1])["problems"] if x["code"] == "output_left"] if found else []


def test_a_start_finds_a_broker_that_remembers_an_output_which_was_taken_out_and_emptied(
    scene: Scene,  # noqa: F811
    tmp_path: Path,
    empty: Mosquitto,  # noqa: F811
) -> None:
    scene.outputs["other"] = {"broker": f"{empty.host}:{empty.port}", "formats": ["native"]}
    p = scene.start()
    scene.live()
    assert len(settled(empty)) > 10 and own(empty)["gw/gw-1/state"] == b"online"
    assert until(lambda: "gw/gw-1/mark/other" in own(empty))
    empty.stop()  # it saves
    shutil.copy(empty.folder / "mosquitto.db", tmp_path / "older.db")
    empty.start()
    settled(empty)
    del scene.outputs["other"]
    scene.reload()
    assert until(lambda: tree(empty) == {} and own(empty) == {})
    assert until(lambda: any(line["event"] == "output_vacated" for line in p.lines())), "the store knows it, too"
    assert p.stop() == 0
    empty.stop()
    shutil.copy(tmp_path / "older.db", empty.folder / "mosquitto.db")
    empty.start()
    assert len(tree(empty)) > 10
    p = scene.start()
    assert until(lambda: tree(empty) == {} and own(empty) == {})
    assert until(lambda: any(line["event"] == "output_remembered" for line in p.lines()))


def test_an_output_that_is_taken_out_while_the_gateway_is_stopped_is_emptied_at_its_start(
    scene: Scene,  # noqa: F811
    empty: Mosquitto,  # noqa: F811
) -> None:
    scene.outputs["other"] = {"broker": f"{empty.host}:{empty.port}", "formats": ["native"]}
    p = scene.start()
    scene.live()
    assert len(settled(empty)) > 10
    assert p.stop() == 0
    del scene.outputs["other"]
    scene.start()
    assert until(lambda: tree(empty) == {} and own(empty) == {})
    assert problems(scene) == []


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes faster."""
    monkeypatch.setattr(vacate, "AFTER_S", 0.2)
    monkeypatch.setattr(vacate, "LOOK_RETRY_S", (0.05, 0.1))
    monkeypatch.setattr(vacate, "RETRY_S", 0.05)


async def leave(b: Broker, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vacate, "MqttSession", lambda *_: b)
    await vacate.leave(CONFIG, KEY, "gw-1", engine, Metrics(), dict, tuple, lambda _: None)


def mark_by(engine: MemoryEngine, turn: int = 3, store: str | None = None) -> bytes:
    return encoded(Mark(engine.ledger.life if store is None else store, 1, 1, turn))


def test_the_look_comes_later_than_a_broker_saves() -> None:
    assert vacate.AFTER_S > 1800, "mosquitto's autosave_interval"


@pytest.mark.usefixtures("soon")
async def test_a_broker_that_remembers_an_older_time_behind_the_emptying_is_emptied_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = await left()
    older = claims("gw-1") | {MARK: mark_by(engine), "city/v1/gw/gw-1/state": b"online"}
    b, vacated = Broker(older), list[dict[str, bytes]]()
    once = vacate._once

    async def powerless(*a: Any) -> int:
        n = await once(*a)
        vacated.append(dict(b.retained))
        if len(vacated) == 1:
            b.retained = dict(older)
        return n

    monkeypatch.setattr(vacate, "_once", powerless)
    await leave(b, engine, monkeypatch)
    place = engine.ledger.places()[KEY][1]
    assert vacated == [{}, {}] and b.retained == {} and place.empty and place.sure


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("how", ["as it was left", "another store's", "a copy's"])
async def test_a_look_publishes_nothing_but_probes_where_nothing_of_ours_came_back(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await left()
    await engine.ledger.left(KEY)
    theirs = {MARK: mark_by(engine, 4) if how == "a copy's" else mark_by(engine, store="another")}
    there = {} if how == "as it was left" else claims("gw-1") | theirs
    b = Broker(there)
    await leave(b, engine, monkeypatch)
    assert b.retained == there and not [t for t, _, retain in b.sent if retain] and len(b.sent) < 10
    assert engine.ledger.places()[KEY][1].sure


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("ours", [True, False])
async def test_a_broker_that_remembers_a_time_of_a_former_id_is_emptied_where_that_id_is_ours(
    ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await left("gw-old")
    await engine.ledger.left(KEY)
    own = "city/v1/gw/gw-old/"
    older = claims("gw-old") | {
        f"{own}mark/city": mark_by(engine, store=None if ours else "another"),
        f"{own}state": b"offline",
    }
    b = Broker(older)
    await leave(b, engine, monkeypatch)
    assert b.retained == ({} if ours else older) and engine.ledger.places()[KEY][1].sure


@pytest.mark.usefixtures("soon")
async def test_a_broker_that_lost_its_power_in_the_middle_of_the_emptying_shows_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = await left()
    b, middle = Broker(claims("gw-1") | {MARK: mark_by(engine)}), dict[str, bytes]()

    def emptied(topic: str) -> None:
        if topic == f"{next(iter(claims('gw-1')))}" and not middle:
            middle.update(b.retained)

    b.before_puback = emptied
    monkeypatch.setattr(vacate, "MqttSession", lambda *_: b)
    await vacate._once(CONFIG, KEY, "gw-1", engine, Metrics(), {}, tuple)
    assert b.retained == {} and 1 < len(middle) < 5
    assert json.loads(middle[MARK])["generation"] == -1, "who comes back publishes everything"
    b.retained = middle
    await leave(b, engine, monkeypatch)
    assert b.retained == {}


@pytest.mark.usefixtures("soon")
async def test_a_login_of_another_that_may_not_publish_there_is_no_emptied_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = await left()
    b = Broker(claims("gw-1") | {MARK: mark_by(engine)})
    before, publish = dict(b.retained), b.publish

    def dropped(topic: str, payload: bytes, qos: int = 0, retain: bool = False, first: bool = False) -> int | None:
        mid = publish(topic, payload, qos, retain)
        b.retained = dict(before)  # mosquitto acknowledges what its ACL denies
        return mid

    monkeypatch.setattr(b, "publish", dropped)
    monkeypatch.setattr(vacate, "MqttSession", lambda *_: b)
    with pytest.raises(MqttError, match="may not publish"):
        await vacate._once(CONFIG, KEY, "gw-1", engine, Metrics(), {}, tuple, borrowed=True)
    assert not engine.ledger.places()[KEY][1].empty


@pytest.mark.parametrize("bare", [True, False, None])
async def test_a_broker_whose_login_has_gone_from_the_file_is_named_with_what_to_do(
    bare: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = list[tuple[At, bool]]()

    async def leaves(config: MqttOutputConfig, *a: Any) -> None:
        tried.append((config.broker, a[-1]))

    monkeypatch.setattr("gateway.outputs.leaving.leave", leaves)
    engine = await left()
    place = engine.ledger.places()[KEY][1]
    await engine.ledger.keep_places({KEY: replace(place, now=place.past[-1][1], bare=bare)})
    await engine.ledger.keep_places({})
    leaving = Leaving("gw-1", engine, Metrics(), tuple)
    leaving.follow([], [], {})
    found = list(leaving.problems())
    await asyncio.gather(*leaving._tasks.values())
    if bare:
        assert tried == [(At("here", 1), False)] and not found
        return
    (problem,) = found
    assert (
        not tried and "login" in problem.text and "put the output back" in problem.next and "away" not in problem.text
    )
    leaving.follow([], [], {}, [At("here", 2, "b"), At("here", 1, "a")])
    await asyncio.gather(*leaving._tasks.values())
    assert tried == [(At("here", 1, "a"), True)], "a link's, to the same broker"


async def test_a_start_looks_at_few_brokers_and_no_more_where_that_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = list[str]()

    async def leaves(config: MqttOutputConfig, *_: Any) -> None:
        tried.append(config.name)

    monkeypatch.setattr("gateway.outputs.leaving.leave", leaves)
    engine = await left()
    place = replace(engine.ledger.places()[KEY][1], bare=True)
    for n in range(20):
        one = replace(place, output=f"o-{n}", now=place.past[-1][1])
        await engine.ledger.keep_places({one.key: one})
        await engine.ledger.keep_places({})
        await engine.ledger.left(one.key)
    await engine.ledger.looked(f"o-19@{place.address}")
    leaving = Leaving("gw-1", engine, Metrics(), tuple)
    leaving.follow([], [], {})
    await asyncio.gather(*leaving._tasks.values())
    assert tried == [*(f"o-{n}" for n in range(18, 2, -1)), "city"], "the newest, and whoever was not emptied"

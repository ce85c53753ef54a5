"""Commands through the pipeline: what leaves, when, and what does not when the disk, the duty cycle or the process fails."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from motewire.codes import DOWN_COMMAND, DOWN_CONFIG, DOWN_EXPIRY, DOWN_NEXT, DOWN_TIME

from gateway.core.authorise import Policy, Role
from gateway.core.commands import Desk
from gateway.core.model import Node, Reception
from gateway.core.value import replace
from gateway.pipeline import Pipeline
from gateway.store.audit import entries
from gateway.store.engine import StoreError
from gateway.store.sqlite import SqliteEngine
from tests.gateway.desk_bench import iso
from tests.gateway.test_pipeline import ROWS, Clock, World
from tests.gateway.world import T0, Mote

POLICY = Policy({"ana": (Role("all", ("*", "valve")),)})


@dataclass
class Orders(World):
    """A pipeline with a desk. wifi: the node is on the MQTT link."""

    wifi: bool = False
    asked: list[str] = field(default_factory=list)

    def start(self) -> Pipeline:
        self.desk = Desk(self.nodes, POLICY)
        self.pipeline = Pipeline(
            self.nodes, self.engine, self.clock, self.metrics, lambda: None, self.rejects.append, desk=self.desk
        )
        self.pipeline.attach(self, 0.0)  # type: ignore[arg-type]
        return self.pipeline

    def rx(self, data: bytes, receiver: str = "aa", rssi: int = -80, sf: int = 7, **changes: Any) -> Reception:
        if self.wifi:
            return Reception(data, self.clock.time, "lora", "broker")
        return super().rx(data, receiver, rssi, sf, **changes)

    async def ask(self, name: str, *args: Any, expires: float = 600, id: str = "", **more: Any) -> str:
        body = {
            "id": id or f"r{len(self.asked)}",
            "name": name,
            "requester": "ana",
            "args": list(args),
            "expires": iso(self.clock.time + expires),
            **more,
        }
        self.asked.append(name)
        judged = self.pipeline.ask("ana", "n-263", json.dumps(body).encode())
        await self.pipeline.settle()
        return judged

    async def hello(self, sf: int = 7, **status: Any) -> dict[int, Any]:
        """Take a status frame and return what the answer to it says, {} when there is none."""
        before = len(self.sent)
        self.clock.time += 1
        await self.take(self.mote.status({1: 5, **{int(k[1:]): v for k, v in status.items()}}), sf=sf)
        return self.mote.open(self.sent[-1][1]) if len(self.sent) > before else {}

    def states(self) -> list[str]:
        return [e.event.command["state"] for e in self.engine.fetch(0, 10_000) if e.event.command]


@pytest.fixture
async def world() -> Orders:
    return Orders()


async def test_a_command_leaves_with_the_answer_to_the_next_uplink_that_is_answered(world: Orders) -> None:
    assert await world.ask("identify", 30) == "accepted" and world.sent == []
    await world.take(world.mote.report(T0, ROWS))
    assert world.sent == [], "the node does not listen after this one"
    down = await world.hello()
    assert down[DOWN_COMMAND] == [T0, "identify", 30] and down[DOWN_EXPIRY] == T0 + 600
    assert down[DOWN_NEXT] == 3 and down[DOWN_TIME] == T0 + 2
    assert DOWN_COMMAND not in await world.hello(), "it may be executing"
    assert DOWN_COMMAND not in await world.hello(_20=[T0, 2])
    assert world.states() == ["accepted", "queued", "sent", "done"]
    assert world.metrics.totals["commands_sent"] == 1


async def test_a_node_on_wifi_is_told_at_once_and_again_until_it_answers() -> None:
    world = Orders(wifi=True)
    await world.ask("identify", expires=3000)
    assert world.sent == [], "never heard: nobody knows how to reach it"
    assert (await world.hello())[DOWN_COMMAND] == [T0, "identify"]
    assert await world.hello(_20=[T0, 2]) and world.states()[-1] == "done"
    await world.ask("reboot", expires=3000)
    assert len(world.sent) == 3
    down = world.mote.open(world.sent[-1][1])
    assert down[DOWN_COMMAND][1] == "reboot" and DOWN_NEXT not in down and down[DOWN_TIME] == world.clock.time
    for _ in range(100):
        world.clock.time += 1
        world.pipeline.tick()
        await world.pipeline.settle()
    assert len(world.sent) == 5, "20 s and 40 s later"
    assert len({f for _, f in world.sent}) == 5, "each under a counter of its own"
    await world.hello(_20=[world.mote.open(world.sent[-1][1])[DOWN_COMMAND][0], 1])
    for _ in range(10):
        world.clock.time += 30
        world.pipeline.tick()
        await world.pipeline.settle()
    assert len(world.sent) == 6


async def test_pieces_to_a_node_on_wifi_follow_each_other() -> None:
    world = Orders(wifi=True)
    await world.hello()
    world.sent.clear()
    await world.ask("config", args={"sensors": {"x": {"y" * 1900: 1}}})
    for _ in range(6):
        world.pipeline.tick()
        await world.pipeline.settle()
    pieces = [world.mote.open(f)[DOWN_CONFIG][17] for _, f in world.sent]
    assert [(i, n) for _, i, n, _ in pieces] == [(0, 3), (1, 3), (2, 3)]
    assert json.loads(b"".join(p[3] for p in pieces))["sensors"]["x"] == {"y" * 1900: 1}
    await world.hello(_15=1)
    assert world.states()[-1] == "sent", "said in passing"
    await world.take(world.mote.status({15: 1}))
    assert world.states()[-1] == "done"


async def test_nothing_leaves_that_was_not_committed(world: Orders) -> None:
    world.engine.failing = True
    await world.ask("reboot", id="a")
    assert world.states() == [] and world.desk.open == 0, "not accepted: nobody was told so"
    world.engine.failing = False
    await asyncio.sleep(0.01)
    await world.ask("reboot", id="a")
    assert world.states() == ["accepted", "queued"]
    world.engine.failing = True
    assert await world.hello() == {} and world.states() == ["accepted", "queued"]
    world.engine.failing = False
    await asyncio.sleep(0.01)
    assert (await world.hello())[DOWN_COMMAND] == [T0, "reboot"]
    command = world.desk.get("ana", "a")
    assert command is not None and command.sends == 1


async def test_a_failed_commit_sends_nothing_over_wifi_either() -> None:
    world = Orders(wifi=True)
    await world.hello()
    await world.ask("reboot")
    sent = len(world.sent)
    world.clock.time += 60
    commit, world.engine.failing = world.engine.commit, True
    world.pipeline.tick()
    await world.pipeline.settle()
    assert len(world.sent) == sent and commit is not None
    world.engine.failing = False
    await asyncio.sleep(0.01)
    world.pipeline.tick()
    await world.pipeline.settle()
    assert len(world.sent) == sent + 1
    counters = [f[3:7] for _, f in world.sent]
    assert len(set(counters)) == len(counters)


async def test_a_command_without_room_in_the_duty_cycle_waits_and_the_ack_goes_first(world: Orders) -> None:
    await world.ask("reboot", expires=86_000)
    rx = world.rx(b"", sf=7)
    assert rx.radio is not None and world.pipeline.downlinks.may_send(rx, rx.radio, 1)
    ledger = world.pipeline.downlinks.ledgers["aa"]
    ledger.book(868_100_000, T0 * 1_000_000, 36_000_000 * 8 // 10)
    assert DOWN_COMMAND not in await world.hello() and len(world.sent) == 1
    assert world.metrics.totals["commands_held"] == 1 and world.metrics.refused["duty_cycle"] == 0
    await world.ask("valve", "close", reason="leak")
    assert (await world.hello())[DOWN_COMMAND][1] == "valve", "what cannot wait may use the rest"
    world.clock.time += 3700
    assert (await world.hello())[DOWN_COMMAND][1] == "reboot"
    command = world.desk.get("ana", "r0")
    assert command is not None and command.sends == 1


@pytest.mark.parametrize(("counter", "keys"), [(100, {DOWN_NEXT, 8}), (70_000, {DOWN_TIME})])
async def test_the_smallest_frame_takes_a_command_and_no_ack_that_is_untrue(
    world: Orders, counter: int, keys: set[int]
) -> None:
    world.mote.counter = counter
    for _ in range(3):  # every other frame is missing: the ack is at its longest
        world.mote.counter += 2
        await world.take(world.mote.report(T0, ROWS, long=True), sf=12)
    await world.ask("valve", "exercise", reason="exercise")
    world.mote.counter += 1
    down = await world.hello(sf=12)
    assert len(world.sent[-1][1]) <= 51 and down[DOWN_COMMAND][1:] == ["valve", "exercise"]
    assert down.keys() == {DOWN_COMMAND, DOWN_EXPIRY} | keys
    if DOWN_NEXT in keys:
        ack = world.mote.acked(world.sent[-1][1])
        assert [c for c in range(counter, counter + 20) if ack.covers(c)] == [world.mote.counter]
    assert DOWN_COMMAND not in await world.hello(sf=12)


async def test_a_repeat_of_an_old_frame_carries_commands_too_and_one_below_the_floor_does_not(world: Orders) -> None:
    data = world.mote.status({1: 5})
    await world.take(data)
    await world.ask("reboot")
    world.clock.time += 30
    await world.take(data)
    assert world.mote.open(world.sent[-1][1])[DOWN_COMMAND] == [T0, "reboot"] and world.states()[-1] == "sent"
    await world.take(world.mote.report(T0, ROWS, counter=60_000, long=True))
    await world.ask("selftest")
    world.clock.time += 30
    before = len(world.sent)
    await world.take(world.mote.report(T0, ROWS, counter=7, long=True))
    assert len(world.sent) == before + 1 and DOWN_COMMAND not in world.mote.open(world.sent[-1][1])


async def test_a_node_that_reports_less_often_than_the_registry_says_is_not_offline(world: Orders) -> None:
    await world.hello()
    await world.ask("interval", args={"report_s": 7200}, expires=3000)
    assert DOWN_CONFIG in await world.hello()
    await world.take(world.mote.status({15: 1}))
    assert world.states()[-1] == "done"
    for pipeline in (world.pipeline, world.start()):
        world.clock.time += 3000
        pipeline.check_presence()
        await pipeline.settle()
    assert not [e for e in world.engine.fetch(0, 1000) if e.event.online is False]
    world.clock.time += 3 * 7200
    world.pipeline.check_presence()
    await world.pipeline.settle()
    assert world.engine.fetch(0, 1000)[-1].event.online is False


@pytest.mark.parametrize("when", ["accepted", "sent", "taken"])
async def test_a_gateway_that_dies_loses_no_command_and_executes_none_twice(tmp_path: Path, when: str) -> None:
    """The process is gone without a word; what its successor knows is what was committed."""
    mote = Mote(263)

    def life() -> Orders:
        world = Orders()
        world.mote = mote
        world.nodes = {263: Node(263, "n-263", mote.key, interval_s=600)}
        world.engine = SqliteEngine(tmp_path / "g.db", ["city"])  # type: ignore[assignment]
        world.start()
        return world

    world = life()
    await world.ask("identify", 7, id="once", expires=3000)
    number = T0
    if when != "accepted":
        assert (await world.hello())[DOWN_COMMAND] == [number, "identify", 7]
    if when == "taken":
        await world.hello(_20=[number, 1])
    clock = world.clock.time
    world.engine.close()
    world = life()
    world.clock.time = clock + 1
    assert world.desk.open == 1
    down = await world.hello()
    assert (DOWN_COMMAND in down) == (when == "accepted")
    world.clock.time += 60
    down = await world.hello()
    assert (DOWN_COMMAND in down) == (when != "taken"), "unanswered: the same number again, which the node knows"
    if down.get(DOWN_COMMAND):
        assert down[DOWN_COMMAND][0] == number
    await world.hello(_20=[number, 2])
    assert await world.ask("identify", 7, id="once", expires=3000) == "again"
    world.clock.time += 600
    assert DOWN_COMMAND not in await world.hello()
    world.engine.close()
    states = [e.state for e in entries(tmp_path / "g.db", "n-263")]
    assert states[:2] == ["accepted", "queued"] and states.count("done") == 2, states
    assert [e.requester for e in entries(tmp_path / "g.db")] == ["ana"] * len(states)


async def test_the_audit_log_cannot_be_rewritten(tmp_path: Path) -> None:
    world = Orders(engine=SqliteEngine(tmp_path / "g.db"))  # type: ignore[arg-type]
    world.clock.time = 4_000_000_000.0  # the host's clock is what protects a row, whatever the gateway's said
    await world.ask("reboot")
    world.engine.close()
    db = sqlite3.connect(tmp_path / "g.db")
    for statement in ("UPDATE audit SET requester = 'nobody'", "DELETE FROM audit", "REPLACE INTO audit (seq, t, node, requester, id, name, state, detail, body) VALUES (1, 0, '', '', '', '', '', '', '')"):  # fmt: skip
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            db.execute("PRAGMA recursive_triggers = 1")
            db.execute(statement)
        db.rollback()
    db.close()
    assert [e.state for e in entries(tmp_path / "g.db")] == ["accepted", "queued"]
    assert list(entries(tmp_path / "g.db", "other")) == [] and list(entries(tmp_path / "g.db", since=5e9)) == []
    with pytest.raises(StoreError, match="does not exist"):
        list(entries(tmp_path / "none.db"))


class Kept(Clock):
    """A clock that a time service keeps, or that nothing keeps."""

    is_kept = False
    is_set = False


@pytest.mark.parametrize("wrong_s", [-2 * 86_400, 100 * 86_400], ids=["behind", "ahead"])
async def test_orders_know_the_time_that_most_nodes_go_by(wrong_s: int) -> None:
    world = Orders(clock=Kept())
    for number in (264, 265):
        world.nodes[number] = Node(number, f"n-{number}", Mote(number).key, interval_s=600)
    world.start()
    true = T0 + 10 * 86_400
    time, world.clock.time = world.desk.time, true + float(wrong_s)
    assert time.at_nodes(world.clock.time) == world.clock.time, "no one doubts it yet"
    for number in (263, 264, 265):
        mote = world.mote if number == 263 else Mote(number)
        world.nodes[number] = replace(world.nodes[number], key=mote.key)
        await world.take(mote.report(true - 60, ROWS, long=True))
    at_nodes = time.at_nodes(world.clock.time)
    assert at_nodes is not None and abs(at_nodes - true) < 600
    assert time.passed(world.clock.time) <= max(world.clock.time, at_nodes)
    assert (time.passed(world.clock.time) < true + 600) or wrong_s < 0


@pytest.mark.parametrize("kept", [False, True])
async def test_what_has_passed_is_said_by_a_time_service_or_by_the_store(tmp_path: Path, kept: bool) -> None:
    """A clock that nothing keeps is caught up with slowly: no node was heard that could agree with it."""
    now, mono = [float(T0)], [0.0]
    engine = SqliteEngine(tmp_path / "g.db", ["city"], clock=lambda: now[0], monotonic=lambda: mono[0])
    clock = Kept()
    clock.is_kept = kept  # type: ignore[misc]
    world = Orders(engine=engine, clock=clock)  # type: ignore[arg-type]
    passed = world.desk.time.passed
    assert passed(now[0]) == T0
    for step in (31 * 86_400, 0):
        now[0], mono[0] = T0 + 5.0 + step, 5.0
        assert passed(now[0]) == (now[0] if kept else T0 + 5)
    engine.close()

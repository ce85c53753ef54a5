"""What the rim does for the store: alarms alone on a full disk, and frames read again once somebody can."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from motewire.codes import STATUS_SCHEMA

from gateway.core.model import Node
from gateway.core.value import replace
from gateway.pipeline import Pipeline
from gateway.store.sqlite import SqliteEngine
from tests.gateway.conftest import BrokerAddress, Mosquitto
from tests.gateway.test_pipeline import Tally, World
from tests.gateway.world import T0, Backend, Concentrator, Mote, Process, frame_of, toml_of, until

ROWS = [[3, 5, 5, 231, 631, 121]]
OWN = (6, 1)  # a column set nobody has registered


async def test_on_a_full_disk_only_alarms_are_taken_and_answered() -> None:
    world = World()
    world.engine.full = True
    bulk = world.mote.report(T0, ROWS)
    await world.take(bulk)
    await world.take(world.mote.status({1: 5}))
    assert world.ids() == [] and world.sent == [] and world.metrics.refused["disk_full"] == 2
    assert len(world.engine.quarantined) == 0
    await world.take(world.mote.alarm(2, T0, 6, 181, 150))
    assert world.ids() == ["263:0:3"] and len(world.sent) == 1
    ack = world.mote.acked(world.sent[0][1])
    assert ack.covers(3) and not ack.covers(1) and not ack.covers(2), "the node keeps what was not taken"
    world.engine.full = False
    world.clock.time += 2
    await world.take(bulk)
    assert world.ids() == ["263:0:3", "263:0:1"]


async def test_nobody_is_declared_offline_because_the_disk_was_full() -> None:
    world = World(followers=(Tally(),))
    await world.take(world.mote.status({1: 5}))
    world.engine.full = True
    world.clock.time += 5000
    world.pipeline.check_presence()
    world.pipeline.tick()
    world.engine.full = False
    world.pipeline.check_presence()
    await world.pipeline.settle()
    assert world.ids() == ["263:0:1"] and world.engine.note("tally:noon") is None
    world.pipeline.tick()
    world.clock.time += 601
    world.pipeline.check_presence()
    await world.pipeline.settle()
    assert world.ids()[1].startswith("263:0:offline:") and world.engine.note("tally:noon") == b"1", (
        "what is due stays due"
    )


def own_report(mote: Mote, t: int, value: int) -> bytes:
    """A report of a column set of the node's own."""
    from motewire import EPOCH_2000, frame
    from motewire.batch import Batch

    batch = Batch(OWN, 200, 60, 240)
    batch.append(t - EPOCH_2000, [value, 200], 3)
    buf = bytearray(300)
    return mote.seal(frame.REPORT, bytes(buf[: batch.encode(buf, 0, 250)]))


async def test_frames_nobody_could_read_become_events_once_when_the_schema_is_announced() -> None:
    tally = Tally()
    world = World(followers=(tally,))
    unread = [own_report(world.mote, T0 - 600 * (70 - i), i) for i in range(70)]  # more than one transaction holds
    for data in unread:
        await world.take(data)
    assert world.metrics.refused["unknown_schema"] == 70
    assert [e.event.kind for e in world.engine.fetch(0, 999) if "tally" not in e.event.id] == ["opaque"] * 70
    heard = world.engine.load(263)
    assert heard is not None
    for _ in range(3):  # announced again and again
        await world.take(world.mote.status({1: 5, STATUS_SCHEMA: {200: list(OWN)}}))
    events = [e.event for e in world.engine.fetch(0, 999)]
    late = [e for e in events if e.kind == "report" and "tally" not in e.id]
    assert [e.id for e in late] == [f"263:0:{c}" for c in range(1, 71)] and world.metrics.totals["reread"] == 70
    assert [e.columns[0].values for e in late[:3]] == [(0,), (1,), (2,)]
    assert late[0].online is None and late[0].received == T0 and late[-1].latest, "late, but newer than nothing"
    state = world.engine.load(263)
    assert state is not None and state.replay.next == 74 and state.down > heard.down
    assert tally.counts["tally:263"] == 70 + 3 + 70
    assert not world.engine.unread()


async def test_late_values_do_not_replace_newer_ones() -> None:
    world = World()
    old = own_report(world.mote, T0 - 6000, 7)
    await world.take(old)
    await world.take(world.mote.report(T0 - 60, [[3, 5, 9, 231, 631, 121]]))  # a known schema with the same quantity
    await world.take(world.mote.status({STATUS_SCHEMA: {200: list(OWN)}}))
    (late,) = [e.event for e in world.engine.fetch(0, 99) if e.event.id == "263:0:1" and e.event.kind == "report"]
    known = {late.columns[c].key for c, _ in late.latest}
    newest = world.engine.load(263)
    assert newest is not None and newest.latest["temperature"] == T0 - 60 and "temperature" not in known


async def test_a_newer_gateway_reads_at_its_start_what_it_now_knows(tmp_path: Path) -> None:
    world = World(engine=SqliteEngine(tmp_path / "g.db", ["city"]))  # type: ignore[arg-type]
    await world.take(own_report(world.mote, T0 - 600, 7))
    await world.take(own_report(world.mote, T0, 8))
    state = world.engine.load(263)
    assert state is not None
    # what an update of the gateway does: its registry has the schema now; here through the node's state
    from gateway.store.engine import Write

    await world.engine.commit([Write(263, replace(state, schemas={200: OWN}))])
    world.pipeline = world.start()
    world.pipeline.reread()
    await world.pipeline.settle()
    world.pipeline.reread()
    await world.pipeline.settle()
    assert [(e.event.kind, e.event.id) for e in world.engine.fetch(0, 99)] == [
        ("opaque", "263:0:1"), ("opaque", "263:0:2"), ("report", "263:0:1"), ("report", "263:0:2"),
    ]  # fmt: skip
    world.engine.close()


async def test_a_frame_of_another_key_or_node_stays_as_it_is() -> None:
    world = World()
    await world.take(own_report(world.mote, T0, 7))
    state = world.engine.load(263)
    assert state is not None
    world.nodes[263] = Node(263, "n-263", bytes(16), epoch=1, interval_s=600)
    world.pipeline = world.start()
    world.pipeline.reread()
    world.nodes.clear()
    world.pipeline.reread()
    await world.pipeline.settle()
    assert len(world.ids()) == 1 and len(world.engine.unread()) == 1


async def test_a_reread_that_could_not_be_committed_is_done_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.commit.RESUME_S", 0.01)
    monkeypatch.setattr("gateway.reread.RETRY_S", 0.01)
    world = World()
    await world.take(own_report(world.mote, T0, 7))
    state = world.engine.load(263)
    assert state is not None
    world.engine._states[263] = replace(state, schemas={200: OWN})
    world.pipeline = Pipeline(
        world.nodes, world.engine, world.clock, world.metrics, lambda: None, world.rejects.append, ()
    )
    world.engine.failing = True
    world.pipeline.reread()
    await asyncio.sleep(0.05)
    assert len(world.ids()) == 1
    world.engine.failing = False
    await world.pipeline.settle()
    assert world.ids() == ["263:0:1", "263:0:1"] and not world.engine.unread()


# the real process on a small disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with 12 MB of room, full when a file says so."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], capture_output=True).returncode:  # fmt: skip
        pytest.skip("needs the right to mount a tmpfs (root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_the_gateway_on_a_full_disk_takes_alarms_says_so_and_goes_on_by_itself(
    tmp_path: Path, small_disk: Path, broker: Mosquitto, mosquitto: BrokerAddress
) -> None:
    m = Mote(263)
    config = toml_of(tmp_path, mosquitto, [m], gateway=f'store = "{small_disk}/gateway.db"\n[store]\nreserve_mb = 4')
    backend, p = Backend(mosquitto), Process(config)
    try:
        c = Concentrator(p.port)
        now = int(time.time())
        waiting: dict[int, bytes] = {}

        def send(data: bytes) -> bool:
            """Push a frame; True when it is acknowledged now."""
            c.push(data, freq=869.525)
            return any(m.acked(frame_of(d)).covers(m.counter) for d in c.pull())

        assert send(m.status({1: 1}))
        filler = small_disk / "filler"
        fd = os.open(filler, os.O_WRONLY | os.O_CREAT)
        with pytest.raises(OSError):
            while os.write(fd, bytes(4096)):
                pass
        os.close(fd)
        refused = 0
        for i in range(400):
            data = m.report(now - 30_000 + i * 60, ROWS * 40)
            waiting[m.counter] = data
            c.push(data)
            c.pull()
            if any(line["event"] == "disk_full" for line in p.lines()):
                refused += 1
                if refused > 3:
                    break
        assert refused, "the disk was never full"
        assert not (small_disk / "gateway.db.reserve").exists()
        for i in range(20):
            assert send(m.alarm(2, now + i, 6, 181 + i, 150)), "alarms go on, in the room that was kept for them"
        assert not send(m.report(now, ROWS))
        backend.wait(lambda: any(b"disk_full" in b for b in backend.on("gw/gw-1/event")))
        backend.wait(lambda: b"182" in b"".join(backend.on("node/n-263/alert/pm10-above")))
        filler.unlink()
        backend.wait(lambda: any(b"disk_has_room" in b for b in backend.on("gw/gw-1/event")))
        assert until(lambda: send(m.status({1: 9})))
        told = [p.told]
        p._notify.settimeout(0.05)
        try:
            while True:
                told.append(p._notify.recv(4096))
        except TimeoutError:
            pass
        assert any(b"STATUS=" in t and b"the disk is full" in t for t in told), told
        assert p.stop(signal.SIGTERM) == 0
    finally:
        p.kill()
        shutil.rmtree(small_disk, ignore_errors=True)


async def test_a_frame_read_under_a_wrong_announcement_is_read_again_under_the_right_one() -> None:
    world = World()
    late = own_report(world.mote, T0 - 60, 7)  # of the columns that are announced at last
    await world.take(world.mote.status({STATUS_SCHEMA: {200: [5]}}))
    await world.take(late)
    assert world.metrics.refused["unknown_schema"] == 1 and "malformed" not in world.metrics.refused
    await world.take(world.mote.status({STATUS_SCHEMA: {200: list(OWN)}}))
    await world.pipeline.settle()
    (event,) = [e.event for e in world.engine.fetch(0, 99) if e.event.kind == "report"]
    assert event.id == "263:0:1" and [c.values for c in event.columns] == [(7,), (20.0,)]
    assert not world.engine.unread()

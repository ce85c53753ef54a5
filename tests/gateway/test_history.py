"""What is given out of the store later than it was told: nothing goes to a circle that it was narrowed from in between."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from motewire.frame import REPORT

from gateway.config import Filter
from gateway.core.model import Alarm, Area, Circle, Column, Event, Node, NodeState
from gateway.core.replay import Replay
from gateway.core.shape import Entry
from gateway.core.value import replace
from gateway.outputs.filter import Sieve
from gateway.outputs.message import iso
from gateway.outputs.records import records
from gateway.store.engine import RawFrame, Write
from gateway.store.history import History
from gateway.store.ledger import PAST
from gateway.store.sqlite import SqliteEngine

T0 = 1_767_222_000.0
OPEN = Node(7, "air-1", b"", visibility="open")
PERSONAL = replace(OPEN, visibility="personal")
LOT = {"yard": Entry("yard", "lot", "open")}
HIDDEN_LOT = {"yard": Entry("yard", "lot", "personal")}
PUBLIC = Filter(visibility=frozenset({"open"}))


def said(name: str = "air-1") -> list[Event]:
    """Everything of a node that can be given out again, told while it was open; and of an area."""
    clear = Alarm(
        "cleared",
        "cleared",
        "warning",
        "temperature",
        "Cel",
        None,
        None,
        int(T0),
        int(T0),
        ("hot",),
        circle=Circle("other"),
    )
    column = Column("temperature", "Cel", (20.0,))
    return [
        Event("report", "7:0:1", 7, name, "open", T0, 600, 1, times=(int(T0),), columns=(column,)),
        Event("alarm", "7:0:2", 7, name, "open", T0 + 1, 600, 2, alarm=clear),
        Event("area", "7:0:3:city:yard", 0, "yard", "open", T0 + 2, 3600, area=Area("yard", "lot", int(T0), {"free": 1})),
    ]  # fmt: skip


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[SqliteEngine]:
    made = SqliteEngine(tmp_path / "g.db", ["city"])
    await made.ledger.keep_registry({7: OPEN}, LOT, T0)
    await made.commit([Write(7, None, e) for e in said()])
    yield made
    made.close()


def given_out(folder: Path, nodes: dict[int, Node]) -> list[str]:
    with History(folder / "g.db", nodes) as history:
        return [e.id for e in history.spooled(0, 2 * T0) if Sieve(PUBLIC).narrow(e, nodes) is not None]


async def test_what_a_node_said_is_given_out_after_it_has_gone_as_far_as_it_was_shown_to_the_end(
    engine: SqliteEngine, tmp_path: Path
) -> None:
    every = [e.id for e in said()]
    assert given_out(tmp_path, {7: OPEN}) == every
    await engine.ledger.keep_registry({}, {}, T0 + 10)
    assert given_out(tmp_path, {}) == every, "it was open to the end"


async def test_what_became_personal_before_it_left_is_not_given_out_again(engine: SqliteEngine, tmp_path: Path) -> None:
    await engine.ledger.keep_registry({7: PERSONAL}, HIDDEN_LOT, T0 + 10)
    assert given_out(tmp_path, {7: PERSONAL}) == ["7:0:2"], "the clear ends what was seen, and holds no value"
    assert given_out(tmp_path, {}) == [], "taken out of the file, and the gateway has not read it yet"
    await engine.ledger.keep_registry({}, {}, T0 + 20)
    assert given_out(tmp_path, {}) == []


async def test_a_number_that_is_another_node_by_now_opens_nothing_of_the_one_before(
    engine: SqliteEngine, tmp_path: Path
) -> None:
    other = Node(7, "tree-1", b"", visibility="open")
    await engine.ledger.keep_registry({7: PERSONAL}, HIDDEN_LOT, T0 + 10)
    await engine.ledger.keep_registry({7: other}, LOT, T0 + 20)
    assert given_out(tmp_path, {7: other}) == ["7:0:3:city:yard"], "the area is open again"
    await engine.commit([Write(7, None, replace(said("tree-1")[0], id="7:1:1", epoch=1))])
    assert given_out(tmp_path, {7: other}) == ["7:0:3:city:yard", "7:1:1"]
    await engine.ledger.keep_registry({7: OPEN}, {}, T0 + 30)
    assert set(given_out(tmp_path, {7: OPEN})) == {*(e.id for e in said()), "7:1:1"}, "opened again, under its name"


# rows and the device that sent them


def taken(epoch: int, counter: int, value: float, name: str, visibility: str) -> Write:
    """A report as the intake commits it: frame, rows and event."""
    t = T0 + 600 * counter
    column = Column("temperature", "Cel", (value,))
    e = Event(
        "report",
        f"7:{epoch}:{counter}",
        7,
        name,
        visibility,
        t,
        600,
        counter,
        epoch,
        times=(int(t),),
        columns=(column,),
    )
    raw = RawFrame(7, epoch, counter, REPORT, b"\0" * 20, t, "lora", "aa", -80, 5.0)
    state = NodeState(epoch, Replay(counter + 1, counter + 1), heard=t).proven(epoch, bytes([epoch]) * 16)
    return Write(7, state, e, raw)


def looked_back(folder: Path, nodes: dict[int, Node]) -> list[tuple[str, str, str, float]]:
    """(id, name, circle, receipt) of every report that the rows give, of every device."""
    with History(folder / "g.db", nodes) as history:
        by_device = [e for owner, _ in history.owners(7) for e in history.reports_of(7, 0, int(2 * T0), owner)]
        by_time = list(history.reports(0, 2 * T0))
    assert sorted(e.id for e in by_device) == sorted(e.id for e in by_time)
    assert {e.id: (e.name, e.visibility) for e in by_device} == {e.id: (e.name, e.visibility) for e in by_time}
    return [(e.id, e.name, e.visibility, e.received) for e in by_device]


HOME = Node(7, "n-home", b"\0" * 16, visibility="personal")
SQUARE = Node(7, "n-square", b"\1" * 16, epoch=1, visibility="open")


@pytest.fixture
async def household(tmp_path: Path) -> AsyncIterator[SqliteEngine]:
    made = SqliteEngine(tmp_path / "g.db", ["city"])
    await made.ledger.keep_registry({7: HOME}, {}, T0)
    await made.commit([taken(0, 1, 21.0, "n-home", "personal")])
    yield made
    made.close()


async def test_rows_are_given_out_when_their_frame_is_kept_no_more(household: SqliteEngine, tmp_path: Path) -> None:
    assert looked_back(tmp_path, {7: HOME}) == [("7:0:1", "n-home", "personal", T0 + 600)]
    with sqlite3.connect(tmp_path / "g.db") as db:
        db.execute("DELETE FROM frames")
    db.close()
    with History(tmp_path / "g.db", {7: HOME}) as history:
        assert list(history.reports(0, 2 * T0)) == [] and history.frameless == 0, "the spool tells it yet"
        (event,) = history.reports_of(7, int(T0), int(2 * T0))
        assert history.frameless == 1 and event.link == "" and event.rssi is None
        (row,) = records(event, {7: HOME})
        assert row["received"] is None and row["value"] == 21.0 and row["t"] == iso(T0 + 600)
        assert list(history.reports(0, T0)) == [], "the row's own time counts"
        with sqlite3.connect(tmp_path / "g.db") as db:
            db.execute("DELETE FROM spool")
        db.close()
        assert [e.id for e in history.reports(0, 2 * T0)] == ["7:0:1"]
    assert looked_back(tmp_path, {7: HOME}) == [("7:0:1", "n-home", "personal", 0.0)]


async def test_rows_of_a_number_stay_with_the_device_that_sent_them(household: SqliteEngine, tmp_path: Path) -> None:
    await household.ledger.keep_registry({7: SQUARE}, {}, T0 + 1000)
    await household.commit([taken(1, 1, -1.0, "n-square", "open")])
    both = [("7:1:1", "n-square", "open", T0 + 600), ("7:0:1", "n-home", "personal", T0 + 600)]
    assert looked_back(tmp_path, {7: SQUARE}) == both
    third = replace(SQUARE, name="n-pump", key=b"\2" * 16, epoch=2, visibility="restricted")
    await household.ledger.keep_registry({7: third}, {}, T0 + 2000)
    await household.commit([taken(2, 1, 5.0, "n-pump", "restricted")])
    assert set(looked_back(tmp_path, {7: third})) == {("7:2:1", "n-pump", "restricted", T0 + 600), *both}


async def test_a_device_that_gets_its_number_back_gets_nothing_of_the_one_between(
    household: SqliteEngine, tmp_path: Path
) -> None:
    await household.ledger.keep_registry({7: SQUARE}, {}, T0 + 1000)
    state = household.load(7)
    assert state is not None
    w = taken(1, 1, -1.0, "n-square", "open")
    await household.commit([replace(w, state=replace(state, epoch=1, heard=T0).proven(1, SQUARE.key))])
    await household.ledger.keep_registry({7: HOME}, {}, T0 + 2000)
    found = {(ident, name) for ident, name, _, _ in looked_back(tmp_path, {7: HOME})}
    assert found == {("7:0:1", "n-home"), ("7:1:1", "n-square")}


async def test_what_was_taken_while_a_node_was_personal_stays_so_when_it_is_open(
    household: SqliteEngine, tmp_path: Path
) -> None:
    opened = replace(HOME, visibility="open")
    await household.ledger.keep_registry({7: opened}, {}, T0 + 1000)
    await household.commit([taken(0, 2, 22.0, "n-home", "open")])
    assert looked_back(tmp_path, {7: opened}) == [
        ("7:0:1", "n-home", "personal", T0 + 600),
        ("7:0:2", "n-home", "open", T0 + 1200),
    ]
    board = replace(opened, key=b"\3" * 16, epoch=3)  # exchanged: the same node
    await household.ledger.keep_registry({7: board}, {}, T0 + 2000)
    assert [name for _, name, _, _ in looked_back(tmp_path, {7: board})] == ["n-home", "n-home"]


async def test_of_more_devices_than_are_remembered_the_oldest_are_shown_to_no_one_else(
    household: SqliteEngine, tmp_path: Path
) -> None:
    for i in range(1, PAST + 3):
        node = Node(7, f"n-{i}", bytes([i]) * 16, epoch=i, visibility="open")
        await household.ledger.keep_registry({7: node}, {}, T0 + 1000 * i)
        await household.commit([taken(i, 1, float(i), node.name, "open")])
    found = {ident: (name, circle) for ident, name, circle, _ in looked_back(tmp_path, {7: node})}
    assert found["7:0:1"] == ("7", "personal"), "whose they were is not known any more"
    assert found[f"7:{PAST + 2}:1"] == (f"n-{PAST + 2}", "open") and found[f"7:{PAST}:1"] == (f"n-{PAST}", "open")

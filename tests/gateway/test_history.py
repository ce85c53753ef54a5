"""What is given out of the store later than it was told: nothing goes to a circle that it was narrowed from in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.config import Filter
from gateway.core.model import Alarm, Area, Circle, Column, Event, Node
from gateway.core.shape import Entry
from gateway.core.value import replace
from gateway.outputs.filter import Sieve
from gateway.store.engine import Write
from gateway.store.history import History
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

"""Facts: whatever order events come in, what is rendered from the facts is what the newest events have said, byte for byte."""

from __future__ import annotations

import json
import random
import re
import shutil
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import Broker, MqttOutputConfig
from gateway.config.filter import Filter
from gateway.core.current import MAX_ENDED, NOTHING, Current, fold, subject_of
from gateway.core.decide import metadata
from gateway.core.model import OPEN, Alarm, AlarmState, Area, Circle, Event, Node, NodeState
from gateway.core.shape import Entry
from gateway.core.value import replace
from gateway.outputs import FORMATS, RETAINED, WHOLE
from gateway.outputs.filter import Sieve
from gateway.outputs.message import Known
from gateway.outputs.retained import Tree, shape_of
from gateway.schemas import EVENT_ID
from gateway.store.engine import StoreError, Write
from gateway.store.ledger import FILLED
from gateway.store.memory import MemoryEngine
from gateway.store.schema import MIGRATIONS
from gateway.store.sqlite import SqliteEngine
from tests.gateway.told import district, events
from tests.gateway.world import T0
from tests.wire.test_registry import aggregate, balance, lot

NODES = district()
TOLD = {n.name: list(events(n)) for n in NODES.values()}
EVERYTHING = [e for told in TOLD.values() for e in told]
FILTERS = [
    Filter(),
    Filter(frozenset(("open",))),
    Filter(frozenset(("open", "restricted", "personal"))),
    Filter(frozenset(("open", "restricted", "personal")), quantities=frozenset(("pm10", "rssi", "uptime"))),
    Filter(frozenset(("open", "restricted")), profiles=frozenset(("noise", "air_quality"))),
    Filter(frozenset(("open", "restricted")), areas=frozenset(("centre",))),
]


LOT = Entry.area("lot", OPEN, "bays")


def config(f: Filter, **more: object) -> MqttOutputConfig:
    formats = ("native", "senml", "ngsi-ld", "homeassistant")
    return MqttOutputConfig("city", Broker("b", 1), filter=f, **{"formats": formats, **more})  # type: ignore[arg-type]


def shuffled(seed: int) -> list[Event]:
    """Any order, but for metadata among themselves: what a node has measured only grows."""
    order = random.Random(seed).sample(range(len(EVERYTHING)), len(EVERYTHING))
    places = [i for i, n in enumerate(order) if EVERYTHING[n].meta is not None]
    for i, n in zip(places, sorted(order[i] for i in places), strict=True):
        order[i] = n
    return [EVERYTHING[n] for n in order]


def facts(told: list[Event]) -> dict[str, Current]:
    found: dict[str, Current] = {}
    for seq, e in enumerate(told, 1):
        subject = subject_of(e)
        if subject is not None:
            found[subject] = fold(found.get(subject, NOTHING), e, seq)
    return found


@pytest.mark.parametrize("f", FILTERS)
@given(seed=st.integers(0, 1 << 32), upto=st.integers(1, len(EVERYTHING)))
@settings(max_examples=12, deadline=None)
def test_what_the_facts_say_is_what_the_newest_events_said(f: Filter, seed: int, upto: int) -> None:
    order = shuffled(seed)[:upto]
    sieve, known = Sieve(f), Known("gw-1", NODES, f)
    live: dict[str, bytes] = {}
    for e in order:
        seen = sieve.narrow(e, NODES)
        for form in ("native", "homeassistant") if seen is not None else ():
            live |= {m.topic: m.payload for m in FORMATS[form](seen, "city", known) if m.retain}
    tree = Tree(shape_of(config(f), "1"), "gw-1", NODES)
    rendered: dict[str, bytes] = {}
    for subject, c in facts(order).items():
        for m in tree.desired(subject, c, ("native", "homeassistant")).values():
            assert m.topic not in rendered, "one subject, one topic"
            rendered[m.topic] = m.payload
    assert rendered == {t: p for t, p in live.items() if p}


def test_the_metadata_below_a_new_name_never_say_the_old_one() -> None:
    """An output may look between the reload that renames a node and the event that says so, a moment later."""
    number, node = next((n, x) for n, x in NODES.items() if x.lat is not None)
    after = replace(node, name="renamed", profile="other", interval_s=node.interval_s + 1, area=("elsewhere",))
    c = facts(EVERYTHING)[str(number)]
    assert c.meta is not None
    tree = Tree(shape_of(config(FILTERS[2]), "1"), "gw-1", {**NODES, number: after})
    told = json.loads(tree.desired(str(number), c, ("native",))["city/v1/node/renamed/meta"].payload)
    state = NodeState(ids=(), firmware=c.meta.get("firmware"))
    wanted = metadata(after, state) | {"quantities": c.meta["quantities"], "gw": "gw-1"}
    assert told == wanted and told["name"] == "renamed" and told["area"] == ["elsewhere"]
    entities = tree.desired(str(number), c, ("homeassistant",))
    assert all(node.name.encode() not in m.payload for m in entities.values())


def test_areas_and_aggregates_are_rendered_as_they_were_told() -> None:
    known = Known("gw-1", NODES)
    first = next(iter(NODES))
    about = replace(aggregate(True), node=first, name=NODES[first].name)
    up = Alarm("raised", "above", "warning", "free", "1", 1, 2, T0, T0, ("full",), "law", {"en": "full"})
    alarm = Event("alarm", "x", 0, "centre", "open", T0 + 2.5, 600, alarm=up, area=Area("centre", "lot", T0, {}))
    told = [lot(), balance(True), about, alarm, balance(False), replace(about, aggregates=aggregate(False).aggregates)]
    live = {m.topic: m.payload for e in told for m in FORMATS["native"](e, "city", known) if m.retain}
    tree = Tree(shape_of(config(FILTERS[2]), "1"), "gw-1", NODES)
    assert {
        m.topic: m.payload for s, c in facts(told).items() for m in tree.desired(s, c, ("native",)).values()
    } == live
    assert {t.split("/")[-2] for t in live} == {"centre", "zone", "agg", "alert"}


@pytest.mark.parametrize("form", sorted(WHOLE))
def test_an_entity_holds_the_newest_valid_value_of_every_attribute(form: str) -> None:
    """A report of one quantity must not take the others from the entity, and a suspect one not its own."""
    node = next(n for n in NODES.values() if n.profile == "air_quality" and n.lat is not None)
    told = TOLD[node.name]
    known = Known("gw-1", NODES)
    before: dict[str, bytes] = {}
    c = NOTHING
    for e in told:
        c = fold(c, e)
        now = {
            m.topic: m.payload for m in RETAINED[form](c, node.name, "city", node, known) if "/Alert/" not in m.topic
        }
        assert before.keys() <= now.keys()
        before = now
    (entity,) = [p for t, p in before.items() if "AirQualityObserved" in t]
    for e in told:
        if e.kind == "report" and e.latest:
            for column, row in e.latest:
                key = e.columns[column].key
                assert key not in ("pm10", "no2") or key.encode() in entity or row in e.columns[column].suspect


@given(seed=st.integers(0, 1 << 32), upto=st.integers(1, len(EVERYTHING)))
@settings(max_examples=12, deadline=None)
def test_what_is_to_be_emptied_covers_all_that_was_published_under_an_entry(seed: int, upto: int) -> None:
    """Also when the node's circle has become narrower since, which its newest facts then say."""
    for f in FILTERS:
        tree = Tree(shape_of(config(f), "1"), "gw-1", NODES)
        for subject, c in facts(shuffled(seed)[:upto]).items():
            published = tree.desired(subject, c).keys()
            now = replace(c, visibility="personal", values={k: v._replace(circle=2) for k, v in c.values.items()})
            assert published <= tree.under(subject, now, Entry.of(NODES[int(subject)]))


def test_ends_are_remembered_and_bounded() -> None:
    c = NOTHING
    for n in range(3 * MAX_ENDED):
        for state in ("raised", "cleared"):
            a = Alarm(state, "above", "warning", f"q{n}", "1", 1, 1, T0 + n, T0, (f"q{n}-above",))  # type: ignore[arg-type]
            c = fold(c, Event("alarm", "x", 1, "n", OPEN, T0 + n, 600, alarm=a), n + 1)
    assert not c.alerts and len(c.ended) == MAX_ENDED and min(e.seq for e in c.ended.values()) == 2 * MAX_ENDED + 1


async def test_facts_survive_and_a_rolled_back_event_leaves_none(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "g.db")
    told = TOLD["air-quality-1"]
    await engine.commit([Write(e.node, None, e) for e in told])
    want = facts(told)
    subject = str(told[0].node)
    assert engine.ledger.current(subject) == (len(told), want[subject])
    engine.close()
    engine = SqliteEngine(tmp_path / "g.db")
    assert engine.ledger.current(subject) == (len(told), want[subject])

    def job(db: sqlite3.Connection) -> int:
        engine.ledger.folding.add(db, 99, told[0])
        raise RuntimeError("behind the fold")

    with pytest.raises(StoreError):
        await engine.ledger.put(job)
    assert engine.ledger.current(subject) == (len(told), want[subject])
    engine.close()


async def test_a_store_from_before_the_ledger_is_filled_from_what_it_holds(tmp_path: Path) -> None:
    """From events while they are there, from rows and node states behind them."""
    engine = SqliteEngine(tmp_path / "g.db")
    told = TOLD["air-quality-1"]
    node, subject = told[0].node, str(told[0].node)
    meta = next(e.meta for e in reversed(told) if e.meta is not None)
    t = max(t for e in told for t in e.times if t < T0 + 3600)
    state = NodeState(
        heard=T0 + 77.0, online=True, latest={"pm10": t}, meta=repr(sorted(meta.items())), firmware="0.1.0"
    )
    await engine.commit([Write(e.node, state, e) for e in told])
    engine.close()
    for spool, least in ((True, 10), (False, 1)):
        db = sqlite3.connect(tmp_path / "g.db")
        db.executescript(
            "DELETE FROM current; DELETE FROM entries;" + ("" if spool else "DELETE FROM spool; DELETE FROM alarms;")
        )
        db.execute("DELETE FROM notes WHERE key = ?", (FILLED,))
        db.commit()
        db.close()
        engine = SqliteEngine(tmp_path / "g.db")
        found = engine.ledger.current(subject)
        assert found is not None
        _, c = found
        assert len(c.values) >= least and c.values["pm10"].unit == "ug/m3" and dict(c.meta or {}) == dict(meta)
        if spool:
            assert c == replace(facts(told)[subject], ended=c.ended)
        engine.close()
    assert node and len(MIGRATIONS) >= 5


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
async def test_who_has_gone_is_known_with_the_name_it_had_and_its_alarms_end(tmp_path: Path, kind: str) -> None:
    engine = SqliteEngine(tmp_path / "g.db") if kind == "sqlite" else MemoryEngine()
    node = Node(7, "old", b"", profile="air_quality", interval_s=600, visibility="open", area=("a",))
    ledger = engine.ledger
    assert await ledger.keep_registry({7: node}, {"lot": LOT}, T0) == 0, "new, not changed"
    up = Alarm("raised", "above", "warning", "pm10", "ug/m3", 181, 150, T0, T0, ("pm10-above",))
    await engine.commit([Write(7, None, Event("alarm", "7:1", 7, "old", OPEN, T0 + 1.0, 600, alarm=up))])
    assert await ledger.keep_registry({7: node}, {"lot": LOT}, T0) == 0 and ledger.generation == 0
    assert await ledger.keep_registry({7: replace(node, name="new")}, {"lot": LOT}, T0 + 5) == 1
    over, again = [e.event for e in engine.fetch(1, 9)]
    assert (over.name, over.alarm.state, over.alarm.quantity, over.alarm.unit) == ("old", "cleared", "pm10", "ug/m3")  # type: ignore[union-attr]
    assert (again.name, again.alarm.state) == ("new", "raised")  # type: ignore[union-attr]
    assert all(e.express for e in engine.fetch(1, 9))
    assert await ledger.keep_registry({7: replace(node, name="new", interval_s=60)}, {}, T0 + 6) == 2
    assert len(engine.fetch(3, 9)) == 0, "an interval is nobody's alarm"
    assert await ledger.keep_registry({}, {}, T0 + 7) == 1
    (last,) = [e.event for e in engine.fetch(3, 9)]
    assert (
        last.alarm is not None and last.alarm.state == "cleared" and last.alarm.circle == Circle("air_quality", ("a",))
    )
    for f, sees in ((FILTERS[1], True), (FILTERS[4], True), (Filter(areas=frozenset(("b",))), False)):
        assert (Sieve(f).narrow(last, {}) is not None) == sees
    known = ledger.known("7")
    assert known is not None and known.now is None and {e.name for _, e in known.past} == {"old", "new"}
    assert (
        ledger.subjects("", 9, 1 << 60, 0) == ["7", "@lot"] and ledger.subjects("", 9, 1 << 60, ledger.generation) == []
    )
    engine.close()


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
async def test_a_node_that_has_gone_has_no_alarm_up_in_its_state_and_one_that_is_renamed_keeps_it(
    tmp_path: Path, kind: str
) -> None:
    engine = SqliteEngine(tmp_path / "g.db") if kind == "sqlite" else MemoryEngine()
    nodes = {n: Node(n, f"n-{n}", b"", profile="air_quality", interval_s=600, visibility="open") for n in (7, 8)}
    await engine.ledger.keep_registry(nodes, {}, T0)
    up = Alarm("raised", "above", "warning", "pm10", "ug/m3", 181, 150, T0, T0, ("pm10-above",))
    for n, node in nodes.items():
        state = NodeState(down=engine.floor + 3, alarms={"pm10-above": AlarmState(T0, T0, 1)}, marks={9: (T0, 1)})
        await engine.commit([Write(n, state, Event("alarm", f"{n}:1", n, node.name, OPEN, T0 + 1.0, 600, alarm=up))])
    before = engine.load(7)
    await engine.ledger.keep_registry({8: replace(nodes[8], name="other")}, {}, T0 + 5)
    gone, renamed = engine.load(7), engine.load(8)
    assert gone is not None and before is not None and gone == replace(before, alarms={}), "nothing else of it is lost"
    assert renamed is not None and set(renamed.alarms) == {"pm10-above"}, "as raised again under the new name"
    engine.close()


async def test_ids_of_alarms_that_end_with_an_entry_come_from_no_other_store_and_no_other_moment(
    tmp_path: Path,
) -> None:
    """A second gateway, a store that was lost, and a copy of the store that was put back have changes of the registry of the same number."""
    up = Alarm("raised", "above", "warning", "pm10", "ug/m3", 181, 150, T0, T0, ("pm10-above",))
    node = Node(7, "n-7", b"", profile="air_quality", interval_s=600, visibility="open")
    seen = list[str]()

    async def renamed(file: Path, now: float, new: bool = True) -> None:
        engine = SqliteEngine(file, ["city"])
        if new:
            await engine.ledger.keep_registry({7: node}, {}, T0)
            state = NodeState(down=engine.floor + 3, alarms={"pm10-above": AlarmState(T0, T0, 1)})
            await engine.commit([Write(7, state, Event("alarm", "7:1:1", 7, "n-7", OPEN, T0 + 1.0, 600, alarm=up))])
            shutil.copy(file, file.with_suffix(".before"))  # the log is beside it
            shutil.copy(f"{file}-wal", f"{file.with_suffix('.before')}-wal")
        await engine.ledger.keep_registry({7: replace(node, name="other")}, {}, now)
        for e in engine.fetch(0, 99):
            if e.event.alarm is not None and e.event.id != "7:1:1":
                seen.append(e.event.id)
                assert e.event.alarm.code == ("cleared" if e.event.alarm.state == "cleared" else "above"), (
                    "as of every clear"
                )
        engine.close()

    await renamed(tmp_path / "one.db", T0 + 5)
    await renamed(tmp_path / "two.db", T0 + 5)
    await renamed(tmp_path / "one.before", T0 + 6, new=False)
    assert len(seen) == 6 == len(set(seen)), seen
    assert all(re.search(EVENT_ID["pattern"], f"{i}:0") for i in seen)


async def test_an_area_that_has_left_is_nowhere_any_more_and_one_that_is_narrower_only_where_it_may_be() -> None:
    engine = MemoryEngine()
    ledger, subject = engine.ledger, "@centre"
    tree = Tree(shape_of(config(FILTERS[1]), "1"), "gw-1", NODES, ledger.entry)
    up = Alarm("raised", "above", "warning", "free", "1", 1, 2, T0, T0, ("full",), "law", {"en": "full"})
    alarm = Event("alarm", "x", 0, "centre", OPEN, T0 + 2.5, 600, alarm=up, area=Area("centre", "lot", T0, {}))
    told = replace(lot(), visibility=OPEN)
    c = facts([told, alarm])[subject]

    await ledger.keep_registry(NODES, {"centre": Entry.area("centre", OPEN, "bays")}, T0)
    before = tree.desired(subject, c).keys()
    assert {"city/v1/area/centre/lot", "city/v1/area/centre/alert/full"} <= before and tree.shows_area(subject, OPEN)

    await ledger.keep_registry(NODES, {"centre": Entry.area("centre", "restricted", "bays")}, T0)
    assert tree.desired(subject, c) == {} and not tree.shows_area(subject, OPEN)
    await ledger.keep_registry(NODES, {}, T0)
    assert tree.desired(subject, c) == {} and not tree.shows_area(subject, OPEN)
    everyone = Tree(shape_of(config(FILTERS[2]), "1"), "gw-1", NODES, ledger.entry)
    assert everyone.desired(subject, c) == {} and everyone.desired("@unheard", c) == {}

    for kind in ("group", "balance"):
        await ledger.keep_registry(NODES, {"centre": Entry.area("centre", OPEN, kind)}, T0)
        assert tree.desired(subject, c).keys() == {"city/v1/area/centre/alert/full"}, "it gathers something else now"
        assert tree.shows_area(subject, OPEN) and not tree.shows_area(subject, OPEN, "lot")
    await ledger.keep_registry(NODES, {}, T0)

    over = fold(c, replace(alarm, alarm=replace(up, state="cleared")), 9)
    known = ledger.known(subject)
    assert known is not None
    for now in (c, over):
        assert set().union(*(tree.under(subject, now, entry) for _, entry in known.past)) == before
    await ledger.keep_registry(NODES, {"centre": Entry.area("centre", OPEN, "bays")}, T0)
    assert tree.desired(subject, c).keys() == before, "it has come back"


def test_a_node_that_is_made_open_is_there_before_it_speaks_and_what_it_said_before_stays_the_households() -> None:
    f = FILTERS[1]
    at_home = Node(7, "n-7", b"", profile="air_quality", interval_s=600, visibility="personal")
    status = Event("status", "7:0:1", 7, "n-7", "personal", T0 + 1.0, 600, 1, online=True, status={"uptime": 5})
    raised = Alarm("raised", "above", "warning", "pm10", "ug/m3", 181, 150, T0, T0, ("pm10-above",))
    alarm = Event("alarm", "7:0:2", 7, "n-7", "personal", T0 + 2.0, 600, 2, online=True, alarm=raised)
    c = facts([status, alarm])["7"]
    assert Tree(shape_of(config(f), "1"), "gw-1", {7: at_home}).desired("7", c) == {}
    opened = {7: replace(at_home, visibility=OPEN)}
    assert Tree(shape_of(config(f), "1"), "gw-1", opened).desired("7", c).keys() == {"city/v1/node/n-7/state"}

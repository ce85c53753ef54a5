"""Clocks that are set: the gateway's, while it runs or between two starts, and a node's. What was sealed last is what is current.

Values, alarms of rules, bays, gates, hours and presence: nothing waits until a clock has passed its old time again.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from motewire import frame

from gateway.core.follow import Follow
from gateway.core.model import Node, NodeState
from gateway.core.report import FUTURE_S
from gateway.core.value import replace
from tests.gateway.test_areas import bays, lots
from tests.gateway.test_clock import DAY, ROWS, Town, clock_problems, told_time
from tests.gateway.test_clock import town as town  # the fixture
from tests.gateway.test_decide import NODE, mote, take
from tests.gateway.test_report import BITS
from tests.gateway.test_rules import HOT
from tests.gateway.town import NO_DEFAULTS, D, H
from tests.gateway.town import T0 as BEGIN
from tests.gateway.town import Town as City
from tests.gateway.world import T0, Mote

STEPS = [-H, -D, -3650 * D]
YEAR = 365 * D


@given(
    st.lists(
        st.tuples(st.integers(0, 900), st.integers(-100_000, 100_000), st.integers(-2, 2)), min_size=2, max_size=8
    ),
    st.randoms(),
)
def test_the_value_that_was_sealed_last_is_shown_whatever_clocks_were_set(
    turns: list[tuple[int, int, int]], order: Random
) -> None:
    """Between two frames time passes, the node's clock is set by seconds, the host's by days; the frames arrive in any order."""
    m, now, off, host, sent = mote(), T0, 0, 0, []
    for passed, step, days in turns:
        now, off, host = now + passed, off + step, host + days * D
        sent.append((m.counter + 1, m.report(now + off, ROWS[:1]), now + off))
    order.shuffle(sent)
    state, shown = NodeState(), 0
    for counter, data, t in sent:
        # the host's clock as it was set last, and no later than a node's row may be ahead of it
        d = take(state, data, max(now + host, t - FUTURE_S))
        assert d.event is not None
        state = d.state
        assert bool(d.event.latest) == (counter > shown)
        shown = max(shown, counter)


@pytest.mark.parametrize("back", [1, H, D, 59 * D])
def test_a_nodes_clock_that_falls_back_mutes_nothing(back: int) -> None:
    m = mote()
    state = take(NodeState(), m.report(T0, ROWS[:1]), T0 + 1).state
    for n in range(3):
        d = take(state, m.report(T0 - back + 60 * n, ROWS[:1]), T0 + 60 * n + 60)
        state = d.state
        assert d.event and len(d.event.latest) == 6 and state.latest["pm10"] == T0 - back + 60 * n


def test_a_key_change_begins_with_news_whatever_the_nodes_clock_says() -> None:
    state = take(NodeState(), mote(900).report(T0, ROWS[:1])).state
    after = replace(NODE, key=bytes(16), epoch=1)
    d = take(state, Mote(263, bytes(16), 1, 0).report(T0 - D, ROWS[:1]), node=after)
    assert d.event and len(d.event.latest) == 6


def test_the_state_of_an_older_gateway_goes_by_time_until_a_frame_shows_the_order() -> None:
    old = NodeState(latest={"pm10": T0}, online=True)
    m = mote()
    late = take(old, m.report(T0 - 60, ROWS[:1]))
    assert late.event and [late.event.columns[c].key for c, _ in late.event.latest] == ["pm1", "pm25", "temperature", "humidity", "pressure"]  # fmt: skip
    new = take(late.state, m.report(T0 + 60, ROWS[:1]))
    assert new.event and len(new.event.latest) == 6 and new.state.sealed["pm10"] == 2


# the gateway's clock


async def report(town: Town, m: Mote, t: float) -> bool:
    """Take a report whose last row is at t; True when its values are shown."""
    before = len(town.ids())
    await town.take(m.report(int(t) - 60, ROWS))
    event = [e.event for e in town.engine.fetch(0, 10_000)][before]
    assert event.kind == "report"
    return len(event.latest) == 6 and not any(c.suspect for c in event.columns)


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("step", STEPS)
async def test_a_host_clock_that_is_set_while_we_run_mutes_no_value(town: Town, step: int, nodes: int) -> None:
    """Back and forward again: nodes are right, and not given the time yet; then they are, and report by it."""
    clock = town.clock
    motes = [Mote(600 + i) for i in range(nodes)]
    town.nodes |= {m.id: Node(m.id, f"x-{m.id}", m.key, interval_s=600) for m in motes}
    clock.time += 400 * D  # type: ignore[attr-defined]
    town.pipeline = town.start()
    true = clock.time
    for m in motes:
        assert await report(town, m, true)
    for by in (step, 0):
        clock.time, true = true + by, true  # type: ignore[attr-defined]
        clock.now()
        for _ in range(3):
            clock.pass_s(600)  # type: ignore[attr-defined]
            true += 600
            for m in motes:
                assert await report(town, m, true), by
        if by:
            await town.take(motes[0].status({1: 5}, long=True))
            assert told_time(town, motes[0]), "a clock that was set is believed"
            for m in motes:  # now they go by it
                assert await report(town, m, clock.time)
            assert clock_problems(town) in ([], ["clock_unset"])


@pytest.mark.parametrize("step", STEPS)
async def test_a_host_clock_that_is_set_back_between_two_starts_mutes_no_value(town: Town, step: int) -> None:
    m = town.motes[0]
    town.clock.time += 400 * D  # type: ignore[attr-defined]
    town.pipeline = town.start()
    assert await report(town, m, town.clock.time)
    town.clock.time += step  # type: ignore[attr-defined]
    town.clock._before += step
    town.pipeline = town.start()
    assert await report(town, m, town.clock.time), "a node that was given this time"


@pytest.mark.parametrize("step", STEPS)
async def test_nobody_is_offline_sooner_or_later_for_a_clock_that_was_set_back(town: Town, step: int) -> None:
    town.clock.time += step  # type: ignore[attr-defined]
    assert await town.offline() == []
    town.clock.pass_s(1900)  # type: ignore[attr-defined]
    town.pipeline.check_presence()
    assert len(await town.offline()) == 100


async def test_a_machine_that_stood_still_for_months_mutes_nothing(town: Town) -> None:
    motes = town.motes[:3]
    for m in motes:
        assert await report(town, m, town.clock.time)
    town.clock.time += 100 * DAY  # type: ignore[attr-defined]
    town.clock.now()
    for m in motes:
        assert await report(town, m, town.clock.time)


WEEK = 7 * D
KEPT_S = 65536 - FUTURE_S
"""Up to here the low 16 bits tell the former time of now."""


async def stamped(town: Town, m: Mote, stamp: int, form: str) -> list[float]:
    """Take a report or an alarm with a stamp of its own; return its times."""
    before = len(town.ids())
    data = m.seal(frame.REPORT, b"\x85\x03" + cbor2.dumps(stamp) + bytes.fromhex("080350" + BITS))
    if form == "alarm":
        data = m.seal(frame.ALARM, cbor2.dumps([2, stamp, 5, 181, 150]))
    await town.take(data)
    (event,) = [e.event for e in town.engine.fetch(0, 10_000)][before:]
    assert event.kind in ("report", "alarm") and not any(c.suspect for c in event.columns)
    return [event.alarm.t] if event.alarm else list(event.times)


async def set_back(town: Town, by: int) -> float:
    """Most nodes go by the time before, which the clock no longer shows."""
    town.clock.time += 20 * YEAR  # type: ignore[attr-defined]
    town.pipeline = town.start()
    for m in town.motes[:5]:
        assert await report(town, m, town.clock.time)
    town.clock.time += by  # type: ignore[attr-defined]
    town.clock.now()
    return town.clock.time


@pytest.mark.parametrize("form", ["report", "alarm"])
@pytest.mark.parametrize("step", [-H, -WEEK, -10 * YEAR])
async def test_an_age_counts_from_receipt_whatever_time_other_nodes_go_by(town: Town, step: int, form: str) -> None:
    now = int(await set_back(town, step))
    assert (
        await stamped(town, town.motes[9], -1 - 180, form)
        == [now - 180, now - 120, now - 60][: 3 if form == "report" else 1]
    )


@pytest.mark.parametrize("form", ["report", "alarm"])
@pytest.mark.parametrize("former", [False, True])
@pytest.mark.parametrize("step", [-H, -8 * H, 600 - KEPT_S, -WEEK, -10 * YEAR])
async def test_a_short_stamp_means_the_former_time_where_its_bits_can_tell_it_and_never_the_future(
    town: Town, step: int, former: bool, form: str
) -> None:
    now = int(await set_back(town, step))
    t = now - 180 - (step if former else 0)
    (first, *_) = await stamped(town, town.motes[9], t & 0xFFFF, form)
    if not former or -step < KEPT_S:
        assert first == t
    else:
        assert first <= now + FUTURE_S


async def test_ages_of_nodes_count_from_the_true_time_while_the_clock_is_known_to_be_wrong(town: Town) -> None:
    true = town.clock.time + 2 * WEEK
    for m in town.motes[:5]:
        await report(town, m, true)
    assert clock_problems(town) == ["clock_behind"]
    (first, *_) = await stamped(town, town.motes[9], -1 - 180, "report")
    assert abs(first - (true - 180)) <= 60, "their newest rows were a minute old"
    (first, *_) = await stamped(town, town.motes[8], int(true - 180) & 0xFFFF, "report")
    assert first == int(true - 180)


# what follows


def hot(city: City, t: int, value: float) -> None:
    city.latest.clear()  # the decision goes by counters
    city.row("n-1", t, temperature=value)


@pytest.mark.parametrize("step", STEPS)
def test_a_rules_alarm_ends_by_the_first_values_after_the_clock_was_set_back(tmp_path: Path, step: int) -> None:
    city = City(tmp_path, HOT)
    hot(city, BEGIN, 40)
    hot(city, BEGIN + step, 20)
    hot(city, BEGIN + step + 600, 41)
    assert city.alarms() == [("raised", "hot"), ("cleared", "hot"), ("raised", "hot")]
    assert all(e.alarm.since <= e.alarm.t for e in city.events if e.alarm)


@pytest.mark.parametrize("step", STEPS)
def test_a_node_whose_clock_falls_back_ends_its_alarm_though_its_rows_are_old(tmp_path: Path, step: int) -> None:
    city = City(tmp_path, HOT)
    hot(city, BEGIN, 40)
    city.latest.clear()
    city.row("n-1", BEGIN + step, received=BEGIN + 700.0, temperature=20)
    assert city.alarms() == [("raised", "hot"), ("cleared", "hot")]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("running", [True, False])
def test_what_the_clock_does_is_done_after_it_was_set_back(tmp_path: Path, step: int, running: bool) -> None:
    """A silent node among others that are heard is declared offline after its patience by the clock as it is."""
    nodes = [Node(i, f"n-{i}", b"", profile="air_quality", interval_s=600) for i in (1, 2)]
    city = City(tmp_path, NO_DEFAULTS.replace("settle_s = 0", "settle_s = 900") + "[fault]\noffline = true\n", nodes)
    for now in range(BEGIN, BEGIN + 3 * H, 600):
        city.row("n-1", now, temperature=1)
        city.row("n-2", now, temperature=1)
        city.tick(now + 5)
    city.follow(city.event("n-1", BEGIN + 3 * H, "offline", online=False))
    if not running:
        city.restart()
    begin = BEGIN + 3 * H + step
    for now in range(begin, begin + 6 * H, 600):
        hot_two = city.row("n-2", now, temperature=1)
        assert hot_two == []
        city.until(now + 5, now + 590, 60)
    assert city.alarms() == [("raised", "offline")]


@pytest.mark.parametrize("step", STEPS)
def test_a_bay_is_counted_after_the_clock_was_set_back(tmp_path: Path, step: int) -> None:
    town = bays(tmp_path)
    town.row("bay-1", BEGIN, occupied=1)
    town.follow(town.event("bay-1", BEGIN + 60, "offline", online=False))
    assert lots(town, "market")[-1]["unknown"] == 5
    for n, value in enumerate((1, 0, 1)):
        town.latest.clear()
        town.row("bay-1", BEGIN + step + 60 * n, occupied=value)
        assert lots(town, "market")[-1]["occupied"] == value
        areas = [e.area for e in town.events if e.area is not None]
        assert areas[-1].t <= BEGIN + step + 60 * n + FUTURE_S, "nothing is stamped with the former time"
    town.follow(town.event("bay-1", BEGIN + step + 600, "offline", online=False))
    assert lots(town, "market")[-1]["unknown"] == 5


@pytest.mark.parametrize("step", STEPS)
def test_gates_count_after_the_clock_was_set_back(tmp_path: Path, step: int) -> None:
    gates = NO_DEFAULTS + '[area.p]\nkind = "gate-lot"\nentries = ["in:count"]\nexits = ["out:count"]\ncapacity = 50\n'
    town = City(tmp_path, gates, [Node(i, n, b"", interval_s=600) for i, n in enumerate(("in", "out"), 1)])
    for n in range(12):
        town.row("in", BEGIN + 600 * n, count=2)
        town.row("out", BEGIN + 600 * n, count=1)
    before = lots(town, "p")[-1]["occupied"]
    for n in range(12):
        town.latest.clear()
        town.row("in", BEGIN + 7200 + step + 600 * n, count=2)
        town.row("out", BEGIN + 7200 + step + 600 * n, count=1)
    assert lots(town, "p")[-1]["occupied"] == before + 12


@pytest.mark.parametrize("step", STEPS)
def test_hours_are_current_after_the_clock_was_set_back(tmp_path: Path, step: int) -> None:
    town, begin = City(tmp_path, NO_DEFAULTS + '[aggregates]\nmean = ["pm10"]\n'), BEGIN + 3650 * D
    for n in range(1, 30):
        town.row("n-1", begin + 600 * n, pm10=10)
    told = len(town.events)
    for n in range(1, 13):
        town.latest.clear()
        town.row("n-1", begin + 5 * H + step + 600 * n, pm10=20)
    hours = [a for e in town.events[told:] for a in e.aggregates if a.name == "hour"]
    assert hours and hours[-1].latest and hours[-1].end <= begin + 7 * H + step


def test_a_frame_that_is_read_long_after_its_receipt_says_nothing_of_the_clock(tmp_path: Path) -> None:
    town = City(tmp_path, NO_DEFAULTS + '[aggregates]\nmean = ["pm10"]\n')
    old = town.report("n-1", [BEGIN + 600], {"pm10": [1]})
    for n in range(2, 40):
        town.row("n-1", BEGIN + 600 * n, pm10=10)
    before = [a.end for e in town.events for a in e.aggregates if a.latest]
    town.follow(old)
    town.until(BEGIN + 40 * 600, BEGIN + 42 * 600)
    after = [a.end for e in town.events for a in e.aggregates if a.latest]
    assert after[: len(before)] == before and min(after[len(before) :], default=9e9) > max(before) - 1


OVERSTAY = NO_DEFAULTS.replace("settle_s = 0", "settle_s = 900") + (
    '[rule.overstay]\nquantity = "occupied"\nabove = 0.5\nclear = 0.5\nfor_s = 7200\nstays = true\n'
)


def stays(folder: Path, boot: int) -> City:
    """A bay that a car has entered at BEGIN + 1000; then the gateway was off, and starts with the clock at `boot`."""
    city = City(folder, OVERSTAY, [Node(1, "bay-1", b"", profile="parking", interval_s=600)])
    city.tick(BEGIN)
    city.row("bay-1", BEGIN + 1000, occupied=1)
    city.restart()
    city.until(boot, boot + 30, 5)
    return city


@pytest.mark.parametrize("since", [30, 890, 3600])
@pytest.mark.parametrize("left", [True, False])
def test_a_clock_that_is_set_hours_ahead_begins_settling_anew(tmp_path: Path, since: int, left: bool) -> None:
    """A box without a clock of its own: the car left while it was off, as the bay tells when it is heard again."""
    boot, true = BEGIN + 1100, BEGIN + 1100 + 4 * H
    city = stays(tmp_path, boot)
    city.until(boot + 30, boot + since, 10)
    assert city.alarms() == []
    city.city.stepped(true - boot - since)
    city.until(true, true + 890, 10)
    if left:
        city.row("bay-1", BEGIN + 1000 + H, received=true + 891.0, occupied=0)
    city.until(true + 890, true + 1800, 10)
    assert city.alarms() == ([] if left else [("raised", "overstay")]), "and then it is said"


@pytest.mark.parametrize("step", [3.0, 59.0])
def test_small_steps_neither_end_settling_nor_put_it_off_for_ever(tmp_path: Path, step: float) -> None:
    boot = BEGIN + 1000 + 3 * H
    city = stays(tmp_path, boot)
    now, passed = boot + 30.0, 30
    while passed < 890:
        assert city.alarms() == []
        now, passed = now + step + 10, passed + 10
        city.city.stepped(step)
        city.tick(now)
    city.until(now, now + 700, 5)
    assert city.alarms() == [("raised", "overstay")]


async def test_what_follows_hears_of_every_step_of_the_clock(town: Town) -> None:
    heard: list[float] = []

    class Listens:
        name = "listens"

        def load(self, notes: object) -> None: ...
        def stepped(self, seconds: float) -> None:
            heard.append(seconds)

        def tick(self, now: float) -> Follow:
            return Follow()

        def follow(self, node: Node, event: object) -> Follow:
            return Follow()

    town.pipeline.refollow((Listens(),))
    for step in (4 * H, -H):
        town.clock.time += step
        town.pipeline.tick()
    assert [round(s) for s in heard] == [4 * H, -H]


async def test_after_a_full_disk_nodes_have_their_interval_whatever_the_clock_is_set_to(town: Town) -> None:
    town.engine.full = True
    await town.offline()
    town.engine.full = False
    town.clock.time -= DAY
    town.clock.pass_s(700)  # type: ignore[attr-defined]
    assert await town.offline() == []
    town.clock.pass_s(1800)  # type: ignore[attr-defined]
    assert len(await town.offline()) == 100

"""What one node may bring, and what a full gateway still takes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway import intake
from gateway.core.forgery import MANY, WINDOW_S, Forgeries
from gateway.core.forgery import MAX_NODES as MAX_FORGED
from gateway.core.model import Column, Event, Node
from gateway.core.rate import ALARM_SHARE, DEBT, MAX_NODES, Rates, TagBudget, cost
from tests.gateway.test_pipeline import ROWS, World
from tests.gateway.world import T0, Mote


@given(
    st.lists(st.tuples(st.floats(-50, 50), st.integers(1, 3), st.sampled_from(["", "alarm", "repeat"])), max_size=400)
)
def test_a_node_gets_its_burst_and_its_rate_and_never_more_however_the_clock_runs(
    steps: list[tuple[float, int, str]],
) -> None:
    r, now, forward = Rates(10, 2.0), 0.0, 0.0
    took: dict[tuple[int, str], int] = {}
    for step, node, kind in steps:
        now += step
        forward += max(step, 0.0)
        took[node, kind] = took.get((node, kind), 0) + r.take(node, kind, now)
    assert all(n <= 10 + 2.0 * forward + 1e-6 for n in took.values())


@given(st.lists(st.tuples(st.floats(0, 50), st.integers(1, 200)), max_size=300), st.integers(1, 50))
def test_over_any_time_a_node_is_never_charged_more_than_it_earned_and_one_last_frame(
    steps: list[tuple[float, int]], burst: int
) -> None:
    r, now, took, last = Rates(burst, 2.0), 0.0, 0, 0
    for step, tokens in steps:
        now += step
        if r.take(1, "", now, tokens):
            took, last = took + min(tokens, DEBT), min(tokens, DEBT)
    assert took - last <= burst + 2.0 * now + 1e-6


@given(st.integers(1, 10_000), st.integers(10, 100))
def test_any_frame_gets_in_again_whatever_the_one_before_it_cost(tokens: int, burst: int) -> None:
    r = Rates(burst, 1.0)
    assert r.take(1, "", 0.0, tokens)
    r.charge(1, "", tokens, 0.0)
    assert r.may(1, "", max(burst, DEBT) + 1.0)


def test_alarms_get_a_share_of_their_own_and_count_for_the_rest_and_a_short_interval_earns_more() -> None:
    r = Rates(100, 1.0)
    assert sum(r.take(1, "alarm", 0.0) for _ in range(200)) == 100
    assert not r.may(1, "", 0.0) and not r.may(1, "alarm", 0.0) and r.may(1, "repeat", 0.0)
    assert not r.may(1, "alarm", 0.9 / ALARM_SHARE) and r.may(1, "alarm", 1.1 / ALARM_SHARE)
    for n in range(1, 1000):  # at the rate of alarms the rest drains all the same
        now = 500.0 + n / ALARM_SHARE
        r.take(1, "alarm", now)
        r.take(1, "", now, 3.0)
    assert r.may(1, "", now + DEBT)
    for second in range(1, 1000):  # one report a second, and its status now and then
        assert r.take(2, "", float(second), 2.0, interval_s=1.0)


def event(rows: int, columns: int, latest: int, occurrences: bool = False, **more: object) -> Event:
    cells = tuple(Column(f"q{c}", "1", (1,) * rows) for c in range(columns))
    return Event(
        "report", "1:0:1", 1, "n", "open", 0.0, 600, times=(0,) * rows, columns=cells, latest=((0, 0),) * latest,
        occurrences=occurrences, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_frame_costs_what_it_takes_to_decode_or_to_publish() -> None:
    assert cost(event(10, 6, 6)) == 1, "an honest report"
    assert cost(event(24, 6, 6)) == 3
    assert cost(event(1, 16, 16)) == 3 and cost(event(240, 16, 16)) == 61
    assert cost(event(240, 1, 1, True)) == 41
    assert (
        cost(event(0, 0, 0, status={"boots": 1})) == 1
        and cost(event(0, 0, 0, status=dict.fromkeys("abcdefghijk"))) == 2
    )
    one = Column("confidence", "%", (5,) * 240)
    sure = event(240, 1, 1, True)
    assert cost(Event(**{k: getattr(sure, k) for k in Event.__slots__} | {"columns": (*sure.columns, one)})) == 41


@given(st.lists(st.tuples(st.floats(-5, 5), st.booleans()), max_size=500))
def test_a_link_checks_a_bounded_number_of_tags_and_alarms_have_a_reserve(steps: list[tuple[float, bool]]) -> None:
    budget, now, forward, tried = TagBudget(20.0, 5.0), 0.0, 0.0, 0
    for step, alarm in steps:
        now += step
        forward += max(step, 0.0)
        if budget.may("lora", alarm, now):
            budget.in_vain("lora", alarm, now)
            tried += 1
    assert tried <= 25 * (1 + forward) + 1e-6
    fresh = TagBudget(20.0, 5.0)
    while fresh.may("lora", False, 0.0):
        fresh.in_vain("lora", False, 0.0)
    assert fresh.may("lora", True, 0.0) and fresh.may("wifi", False, 0.0)


def test_forgeries_are_counted_in_a_bounded_table_and_named_while_they_last() -> None:
    forgeries = Forgeries()
    for n in range(MAX_FORGED * 2):
        forgeries.failed(n, "lora", "aa", float(n))
    assert len(forgeries._all) == MAX_FORGED
    assert forgeries.up(600.0) == []
    for n in range(MANY):
        assert forgeries.up(1000.0 + n) == []
        forgeries.failed(7, "lora", "aa" if n else "bb", 1000.0 + n)
    (found,) = forgeries.up(1020.0)
    assert (found.node, found.link, found.receiver, found.count) == (7, "lora", "aa", MANY)
    forgeries.failed(7, "lora", "aa", 1000.0 + WINDOW_S)
    assert len(forgeries.up(1001.0 + WINDOW_S)) == 1, "the window before counts too"
    assert forgeries.up(1000.0 + 3 * WINDOW_S) == []


def test_memory_is_bounded_and_who_is_forgotten_is_the_one_silent_for_longest() -> None:
    r = Rates(1, 0.001)
    for n in range(MAX_NODES + 10):
        assert r.take(n, "", 0.0)
    assert len(r) == MAX_NODES
    assert not r.take(MAX_NODES, "", 1.0) and r.take(0, "", 1.0)


async def test_a_node_gone_wild_is_limited_and_neither_its_alarms_nor_anybody_else_notices() -> None:
    world = World()
    other = Mote(264)
    world.nodes[264] = Node(264, "n-264", other.key)
    world.pipeline.limit(50, 5)
    frames = [world.mote.report(T0 + n * 60, ROWS) for n in range(400)]
    for frame in frames:
        world.pipeline.deliver(world.rx(frame))
    world.pipeline.deliver(world.rx(world.mote.alarm(2, T0, 6, 181, 150)))
    world.pipeline.deliver(world.rx(other.report(T0, ROWS)))
    await world.pipeline.settle()
    assert world.metrics.refused == {"rate_limited": 350}
    assert {"263:0:401", "264:0:1"} <= set(world.ids()) and len(world.ids()) == 52
    for _ in range(71):  # the node keeps what was not acked, and all of it comes through; the alarm was charged too
        world.clock.time += 1
        taken = set(world.ids())
        for n, frame in enumerate(frames, 1):
            if f"263:0:{n}" not in taken:
                world.pipeline.deliver(world.rx(frame))
        await world.pipeline.settle()
    assert len(set(world.ids())) == 402


async def test_a_full_gateway_still_takes_alarms(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(intake, "MAX_PENDING", 5)
    monkeypatch.setattr(intake, "ALARM_RESERVE", 2)
    world = World()
    for n in range(8):
        world.pipeline.deliver(world.rx(world.mote.report(T0 + n * 60, ROWS)))
    for n in range(4):
        world.pipeline.deliver(world.rx(world.mote.alarm(2, T0 + n, 6, 181, 150)))
    await world.pipeline.settle()
    assert world.metrics.refused == {"overload": 5}
    assert len(world.ids()) == 7
    again = world.mote.report(T0 + 10_000, ROWS)
    await world.take(again)
    assert len(world.ids()) == 8


async def test_neither_forged_frames_nor_recorded_ones_spend_what_a_node_may_bring() -> None:
    world = World()
    world.pipeline.limit(10, 1)
    recorded = world.mote.report(T0, ROWS)
    await world.take(recorded)
    for n in range(100):
        await world.take(Mote(263).report(T0, ROWS, counter=50 + n))
        await world.take(recorded)
    assert world.metrics.refused == {"bad_tag": 100, "replayed": 100}
    for n in range(9):
        await world.take(world.mote.report(T0 + 60 + n * 60, ROWS))
    assert len(world.ids()) == 10, "all of its burst"

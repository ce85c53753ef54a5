"""What one node may bring, and what a full gateway still takes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway import intake
from gateway.core.model import Node
from gateway.core.rate import MAX_NODES, Rates
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
    for _ in range(70):  # the node keeps what was not acked, and all of it comes through
        world.clock.time += 1
        taken = set(world.ids())
        for n, frame in enumerate(frames, 1):
            if f"263:{n}" not in taken:
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
        if n < 20:  # who forges more than that meets the lockout
            await world.take(Mote(263).report(T0, ROWS, counter=50 + n))
        await world.take(recorded)
    assert world.metrics.refused["rate_limited"] > 0
    for n in range(9):
        await world.take(world.mote.report(T0 + 60 + n * 60, ROWS))
    assert len(world.ids()) == 10, "all of its burst"

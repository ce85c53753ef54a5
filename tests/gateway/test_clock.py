"""The host's clock is set while the gateway runs: nobody is declared offline, no ack is withheld, no airtime is forgotten."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.clock import STEP_S, HostClock
from gateway.core.airtime import HOUR_US, DutyLedger
from gateway.core.model import Node
from gateway.pipeline import Pipeline
from tests.gateway.test_pipeline import ROWS, World
from tests.gateway.world import T0, Mote

DAY = 86_400.0


class Set(HostClock):
    """A host clock whose two sides the test turns."""

    def __init__(self) -> None:
        self.time, self.up = float(T0), 5.0
        super().__init__(lambda: self.time, lambda: self.up)

    def pass_s(self, seconds: float) -> None:
        self.time += seconds
        self.up += seconds


class Town(World):
    """A hundred nodes, each heard within the last interval."""

    def __post_init__(self) -> None:
        self.clock = Set()  # type: ignore[assignment]
        self.motes = [Mote(300 + i) for i in range(100)]
        super().__post_init__()

    def start(self) -> Pipeline:
        self.nodes |= {m.id: Node(m.id, f"n-{m.id}", m.key, interval_s=600) for m in self.motes}
        return super().start()

    async def hear(self) -> None:
        for m in self.motes:
            self.pipeline.deliver(self.rx(m.status({1: 1})))
            self.clock.pass_s(1)  # type: ignore[attr-defined]
        await self.pipeline.settle()

    async def offline(self) -> list[str]:
        self.pipeline.check_presence()
        await self.pipeline.settle()
        return [e.event.name for e in self.engine.fetch(0, 10_000) if e.event.kind == "offline"]


@pytest.fixture
async def town() -> Town:
    town = Town()
    await town.hear()
    return town


def test_a_clock_that_runs_or_is_slewed_never_looks_set_and_one_that_is_set_always_does() -> None:
    c = Set()
    told: list[float] = []
    c.on_step = told.append
    for _ in range(10_000):
        c.pass_s(1.0)
        c.time += 0.0005  # what adjtime does at most
        c.now()
    assert told == [] and c.steps == 0
    for step in (DAY, -DAY, STEP_S, -STEP_S):
        c.time += step
        assert c.now() == c.time
        c.now()
    assert [round(s) for s in told] == [DAY, -DAY, STEP_S, -STEP_S]


@pytest.mark.parametrize("step", [DAY, 10 * 365 * DAY, -DAY, -3 * 365 * DAY])
async def test_after_a_step_nobody_is_offline_until_it_has_been_silent_for_three_intervals(
    town: Town, step: float
) -> None:
    town.clock.time += step
    assert await town.offline() == []
    assert town.metrics.totals["clock_steps"] == 1
    town.clock.pass_s(1700)  # type: ignore[attr-defined]
    assert await town.offline() == []
    town.pipeline.deliver(town.rx(town.motes[0].status({1: 2})))
    await town.pipeline.settle()
    town.clock.pass_s(200)  # type: ignore[attr-defined]
    silent = await town.offline()
    assert sorted(silent) == [f"n-{m.id}" for m in town.motes[1:]], "who was heard since is here, all others are not"
    town.clock.pass_s(1700)  # type: ignore[attr-defined]
    assert len(await town.offline()) == 100


async def test_a_resend_after_the_clock_went_back_is_answered_like_any_other(town: Town) -> None:
    frame = town.motes[0].status({1: 9})
    town.pipeline.deliver(town.rx(frame))
    await town.pipeline.settle()
    answers = len(town.sent)
    town.clock.time -= 20.0
    town.clock.pass_s(20.4)  # type: ignore[attr-defined]
    town.clock.now()
    town.pipeline.deliver(town.rx(frame))
    await town.pipeline.settle()
    assert len(town.sent) == answers + 1


async def test_a_node_locked_out_is_let_in_again_though_the_clock_went_back(town: Town) -> None:
    m = town.motes[0]
    for n in range(60):
        await town.take(Mote(m.id).status({1: n}))
    assert town.metrics.refused["locked_out"] > 0
    town.clock.time -= DAY
    town.clock.now()
    await town.take(m.status({1: 1}))
    assert town.ids()[-1] == f"{m.id}:0:{m.counter}"


def test_a_duty_cycle_hour_is_an_hour_whatever_the_clock_says() -> None:
    ledger = DutyLedger()
    now, airtime = 10 * HOUR_US, HOUR_US // 1000 * 10
    assert ledger.book(868_100_000, now, airtime) == 2
    for step in (-5 * HOUR_US, 3 * HOUR_US):
        ledger.shift(step)
        now += step
        assert ledger.book(868_100_000, now + 1000, 1) is None, "the sub-band is used up"
    assert ledger.book(868_100_000, now + HOUR_US + airtime, airtime) == 2


@pytest.mark.parametrize("step", [DAY, -DAY])
async def test_the_gateway_may_not_send_more_because_its_clock_was_set_and_may_again_after_an_hour(
    town: Town, step: float
) -> None:
    m = town.motes[0]
    for n in range(60):  # 1 % of an hour is 24 answers at SF12
        await town.take(m.status({1: n}), sf=12)
    sent, refused = len(town.sent), town.metrics.refused["duty_cycle"]
    assert refused > 10
    town.clock.time += step
    town.clock.now()
    await town.take(m.status({1: 1}), sf=12)
    assert (len(town.sent), town.metrics.refused["duty_cycle"]) == (sent, refused + 1)
    town.clock.pass_s(3610)  # type: ignore[attr-defined]
    await town.take(m.status({1: 1}), sf=12)
    assert len(town.sent) == sent + 1


async def test_state_that_was_heard_in_the_future_is_not_believed_after_a_restart(town: Town) -> None:
    """Power cut with a clock a year ahead; the box comes back with the right time."""
    town.clock.pass_s(365 * DAY)  # type: ignore[attr-defined]
    await town.hear()
    town.clock = Set()  # type: ignore[assignment]
    town.clock.pass_s(1000)  # type: ignore[attr-defined]
    town.pipeline = town.start()
    assert await town.offline() == []
    town.clock.pass_s(1900)  # type: ignore[attr-defined]
    assert len(await town.offline()) == 100
    await town.take(replace(town.motes[0]).report(T0, ROWS))
    assert town.engine.load(300).heard == town.clock.time  # type: ignore[union-attr]

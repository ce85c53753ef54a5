"""The host's clock is set while the gateway runs: nobody is declared offline, no ack is withheld, no airtime is forgotten."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from motewire import frame

from gateway.clock import SILENT_S, STEP_S, ForwarderClock, HostClock
from gateway.core.airtime import HOUR_US, DutyLedger
from gateway.core.model import Event, Node
from gateway.core.value import replace
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


async def test_a_repeat_is_answered_again_though_the_clock_was_set_back_within_its_pause(town: Town) -> None:
    m = town.motes[0]
    frame = m.status({1: 1})
    for _ in range(4):
        town.clock.time += 20
        await town.take(frame)
    answers = len(town.sent)
    town.clock.time -= DAY
    town.clock.now()
    await town.take(frame)
    assert len(town.sent) == answers + 1


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


# clock = "forwarder"

SECOND, MINUTE, YEAR = 1.0, 60.0, 365 * DAY


class Box:
    """A ForwarderClock whose machine the test turns, and what its steps were."""

    def __init__(self, wall: float = T0) -> None:
        self.wall, self.up = float(wall), 5.0
        self.kept = False
        self.clock = ForwarderClock(lambda: self.wall, lambda: self.up, lambda: self.kept)
        self.steps: list[int] = []
        self.clock.on_step = lambda s: self.steps.append(round(s))

    def pass_s(self, seconds: float) -> None:
        self.wall += seconds
        self.up += seconds

    def odd(self) -> list[str]:
        return [p.text.split()[1] for p in self.clock.problems() if p.code == "receiver_time"]

    def say(self, seconds: float, **ahead: float) -> None:
        """Let receivers say every 30 s what they think it is: so far ahead of T0 as it was at the start, and running."""
        for _ in range(max(1, round(seconds / 30))):
            self.pass_s(30)
            for receiver, offset in ahead.items():
                self.clock.heard(T0 + offset + self.up - 5.0, receiver)

    @property
    def ahead(self) -> float:
        """How far the clock is ahead of T0 as it was at the start, and running."""
        return self.clock.now() - T0 - (self.up - 5.0)


@pytest.mark.parametrize("wrong", [1024 * 7 * DAY, -11 * YEAR, 1000.0, -1000.0, 20 * YEAR])
def test_one_odd_receiver_of_three_moves_nothing_and_is_named(wrong: float) -> None:
    box = Box()
    for order in (("x", "a", "b"), ("a", "x", "b"), ("a", "b", "x")):
        for name in order:
            box.say(30, **{name: wrong if name == "x" else 0.0})
    assert abs(box.ahead) < 5 and box.steps == [] and box.odd() == ["x"]
    assert box.clock.received(T0 + wrong, "x") is None, "nor does it stamp frames"
    t = box.clock.now() + 0.5
    assert box.clock.received(t, "a") == t


@pytest.mark.parametrize("wrong", [1024 * 7 * DAY, 11 * YEAR])
def test_of_two_receivers_the_machine_believes_the_one_that_agrees_with_it(wrong: float) -> None:
    box = Box()
    box.say(MINUTE * 3, x=wrong)  # alone, and repeated: there was no other word
    assert abs(box.ahead - wrong) < 5
    box.say(30, x=wrong, a=0.0)
    assert abs(box.ahead) < 5 and box.odd() == ["x"]


def test_a_machine_that_was_never_set_believes_the_first_word_and_then_what_most_say() -> None:
    box = Box(wall=946_684_800)  # 2000
    box.say(30, a=0.0)
    assert abs(box.ahead) < 5 and box.clock.is_set
    box.say(30, a=0.0, x=9 * YEAR)
    assert abs(box.ahead) < 5, "one against one: the time in force stays"
    box.say(30, a=0.0, x=9 * YEAR, y=9 * YEAR)
    assert abs(box.ahead - 9 * YEAR) < 5 and box.odd() == ["a"]


@pytest.mark.parametrize("known", [1, 2])
@pytest.mark.parametrize("started", [0.0, 946_684_800.0, T0 - 1.0 - 7200.0])
def test_a_receiver_that_starts_without_the_time_is_never_followed_there(known: int, started: float) -> None:
    box = Box(wall=T0 + YEAR)
    names = "ab"[:known]
    box.say(10 * MINUTE, **dict.fromkeys(names, YEAR))
    box.say(30 * MINUTE, **dict.fromkeys(names, started - T0))
    assert abs(box.ahead - YEAR) < 5 and box.steps == [] and box.odd() == list(names)
    box.say(2 * MINUTE, **dict.fromkeys(names, YEAR))
    assert abs(box.ahead - YEAR) < 5 and box.odd() == []


def test_a_machine_and_a_receiver_that_both_start_without_the_time_wait_for_the_first_that_has_it() -> None:
    box = Box(wall=40.0)
    box.say(10 * MINUTE, a=100.0 - T0)
    assert not box.clock.is_set
    box.say(30, a=YEAR)
    assert abs(box.ahead - YEAR) < 5 and box.clock.is_set


@pytest.mark.parametrize("step", [-3 * DAY, -600.0])
def test_a_sole_receiver_is_not_followed_back_while_the_machine_confirms_the_time_in_force(step: float) -> None:
    box = Box(wall=T0 + YEAR)
    box.say(MINUTE, a=YEAR)
    box.say(10 * MINUTE, a=YEAR + step)
    assert abs(box.ahead - YEAR) < 5 and box.odd() == ["a"]
    box.wall += step  # and now it confirms the other one
    box.say(2 * MINUTE, a=YEAR + step)
    assert abs(box.ahead - YEAR - step) < 5 and box.steps == [round(step)]


@pytest.mark.parametrize("step", [-3 * DAY, 600.0, 1024 * 7 * DAY])
def test_a_sole_receiver_does_not_overrule_a_machine_whose_clock_a_time_service_keeps(step: float) -> None:
    box = Box(wall=T0 + YEAR)
    box.kept = True
    box.say(10 * MINUTE, a=YEAR + step)
    assert abs(box.ahead - YEAR) < 5 and box.steps == [] and box.odd() == ["a"]


@pytest.mark.parametrize("step", [3 * DAY, 600.0])
def test_a_sole_receiver_is_believed_once_it_has_repeated_a_step_for_a_minute(step: float) -> None:
    box = Box()
    box.say(MINUTE, a=0.0)
    box.say(30, a=step)
    assert abs(box.ahead) < 5, "said once"
    box.say(MINUTE, a=step)
    assert abs(box.ahead - step) < 5 and box.steps == [round(step)]


def test_a_step_that_most_receivers_take_is_believed_at_once_and_can_be_taken_back() -> None:
    box = Box()
    box.say(MINUTE, a=0.0, b=0.0, c=0.0)
    box.say(30, a=DAY, b=DAY, c=0.0)
    assert abs(box.ahead - DAY) < 5 and box.odd() == ["c"]
    box.say(30, a=0.0, b=DAY, c=0.0)
    assert abs(box.ahead) < 5 and box.steps == [round(DAY), round(-DAY)]


def test_a_receiver_that_says_another_time_each_time_is_never_believed() -> None:
    box = Box()
    for n in range(100):
        box.say(30, x=(n + 1) * 3600.0)
    assert abs(box.ahead) < 5


def test_what_receivers_said_long_ago_has_no_voice() -> None:
    box = Box()
    box.say(MINUTE, a=0.0, b=0.0, c=0.0)
    box.pass_s(SILENT_S + 1)
    box.say(MINUTE * 2, x=DAY)
    assert abs(box.ahead - DAY) < 5, "the others are gone"


@pytest.mark.parametrize("odd", ["x", "xy"])
@pytest.mark.parametrize("wrong", [DAY, -DAY, 9 * YEAR])
@pytest.mark.parametrize("wall", [T0 + YEAR, 946_684_800.0])
def test_who_was_odd_among_others_is_no_authority_because_they_are_silent(odd: str, wrong: float, wall: float) -> None:
    box = Box(wall=wall)
    good, bad = dict.fromkeys("abc", YEAR), dict.fromkeys(odd, YEAR + wrong)
    box.say(10 * MINUTE, **good)
    box.steps.clear()  # a machine that was not set takes the first word
    box.say(10 * MINUTE, **good, **bad)
    box.say(10 * 3600.0, **bad)
    assert abs(box.ahead - YEAR) < 5 and box.steps == [] and box.odd() == list(odd)
    assert box.clock.received(box.clock.now() + wrong, "x") is None
    box.say(30, a=YEAR, **bad)
    box.say(10 * 3600.0, **bad)
    assert abs(box.ahead - YEAR) < 5 and box.steps == [], (
        "one that was heard meanwhile still agrees with those that are silent"
    )


def test_a_sole_receiver_is_followed_in_the_end_with_a_word_in_health_and_left_when_the_others_are_back() -> None:
    box = Box(wall=946_684_800.0)
    box.say(10 * MINUTE, a=YEAR, b=YEAR, x=YEAR + DAY)
    box.steps.clear()
    box.say(SILENT_S - 10 * MINUTE, x=YEAR + DAY)
    assert abs(box.ahead - YEAR) < 5 and box.steps == []
    box.say(20 * MINUTE, x=YEAR + DAY)
    assert abs(box.ahead - YEAR - DAY) < 5 and box.steps == [round(DAY)]
    (problem,) = box.clock.problems()
    assert (
        problem.code == "receiver_time"
        and "receiver x alone" in problem.text
        and "a, b, silent for 24 h" in problem.text
    )
    box.say(30, a=YEAR, b=YEAR, x=YEAR + DAY)
    assert abs(box.ahead - YEAR) < 5 and box.odd() == ["x"] and len(list(box.clock.problems())) == 1


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", "x", "y", "abc", "xy", ""]), st.floats(1, 1000)), max_size=40),
       st.sampled_from([DAY, -DAY, 500.0, YEAR]))  # fmt: skip
def test_two_odd_ones_never_move_what_three_said_whoever_is_silent_for_a_while(
    said: list[tuple[str, float]], wrong: float
) -> None:
    box = Box()
    box.say(30, a=0.0, b=0.0, c=0.0)
    for names, pause in said:  # 40,000 s in all: less than SILENT_S
        box.pass_s(pause)
        for name in names:
            box.clock.heard(T0 + box.up - 5.0 + (wrong if name in "xy" else 0.0), name)
        assert abs(box.ahead) < 5 and box.steps == []


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 90), st.floats(-20, 20)), min_size=1, max_size=40),
       st.sampled_from([YEAR, -YEAR, 500.0, -500.0]))  # fmt: skip
def test_a_minority_never_moves_the_clock_whatever_the_order(
    said: list[tuple[str, float, float]], wrong: float
) -> None:
    """e and f are wrong, a to d jitter by seconds and are all heard again within five minutes."""
    box = Box()
    box.say(30, a=0.0, b=0.0, c=0.0, d=0.0)
    for receiver, pause, jitter in said:
        box.pass_s(pause)
        for honest in "abcd":
            box.clock.heard(T0 + box.up - 5.0 + (jitter if honest == receiver else 0.0), honest)
        if receiver in "ef":
            box.clock.heard(T0 + box.up - 5.0 + wrong, receiver)
        assert abs(box.ahead) <= 21


# a host whose clock is wrong


def frames(town: Town, n: int, t: float, **report: object) -> list[tuple[Mote, bytes]]:
    return [(m, m.report(int(t), ROWS, **report)) for m in town.motes[:n]]  # type: ignore[arg-type]


async def bring(town: Town, n: int, t: float) -> list[Event]:
    before = len(town.ids())
    for _, data in frames(town, n, t):
        await town.take(data)
    return [e.event for e in town.engine.fetch(0, 10_000)][before:]


def clock_problems(town: Town) -> list[str]:
    return [p.code for p in town.pipeline.clock_problems()]


def unset_host(town: Town, t: float) -> None:
    """Start again with a clock that no service keeps."""
    town.clock.time = t
    town.clock.steps = 0
    town.clock._before = town.clock.time - town.clock.up
    town.clock._synchronised = lambda: False
    town.pipeline = town.start()


def told_time(town: Town, m: Mote) -> bool:
    return 3 in m.open(town.sent[-1][1])


@pytest.mark.parametrize("behind", [3600.0, 330 * DAY, 25 * YEAR])
async def test_a_host_clock_that_is_behind_is_told_and_mutes_nothing(town: Town, behind: float) -> None:
    true = T0 + YEAR
    unset_host(town, true - behind)
    events = await bring(town, 6, true - 60)
    assert clock_problems(town) == ["clock_unset" if true - behind < T0 else "clock_behind"]
    assert all(c.suspect == () for e in events[2:] for c in e.columns) and all(e.latest for e in events[2:])
    m = town.motes[50]
    await town.take(m.status({1: 5}))
    assert not told_time(town, m), "nodes keep the time they have"


async def test_a_host_clock_that_is_years_ahead_mutes_nothing_and_is_told(town: Town) -> None:
    unset_host(town, T0 + 10 * YEAR)
    events = await bring(town, 6, T0 + YEAR)
    assert clock_problems(town) == ["clock_ahead"]
    assert all(c.suspect == () and e.latest for e in events[2:] for c in e.columns)


async def test_a_host_that_starts_before_what_its_store_holds_gives_no_node_that_time(town: Town) -> None:
    unset_host(town, T0 + 2 * DAY)
    await bring(town, 5, T0 + 2 * DAY)
    unset_host(town, T0 + DAY)
    assert clock_problems(town) == ["clock_unset"]
    m = town.motes[50]
    await town.take(m.status({1: 5}))
    assert not told_time(town, m)
    await bring(town, 1, T0 + DAY - 100)
    assert clock_problems(town) == [], "a node whose rows agree with the clock says that the store was wrong"


async def test_a_clock_that_a_service_keeps_or_that_was_set_is_given_to_nodes_that_are_ahead(town: Town) -> None:
    for set_clock in (
        lambda: setattr(town.clock, "_synchronised", lambda: True),
        lambda: setattr(town.clock, "steps", 1),
    ):
        unset_host(town, T0 + DAY)
        set_clock()
        events = await bring(town, 5, T0 + 40 * DAY)
        assert clock_problems(town)[0] in ("clock_behind", "clock_unset") and all(not e.latest for e in events)
        m = town.motes[50]
        await town.take(m.status({1: 5}))
        assert told_time(town, m)


async def test_two_nodes_with_wrong_clocks_among_others_say_nothing_of_the_gateways(town: Town) -> None:
    unset_host(town, T0 + YEAR)
    await bring(town, 5, T0 + YEAR - 60)
    for m in town.motes[5:7]:
        await town.take(m.report(int(T0 + 2 * YEAR), ROWS))
    assert clock_problems(town) == []
    for m in town.motes[10:14]:  # counted back from receipt: says nothing
        await town.take(m.seal(frame.REPORT, cbor2.dumps([[6], -61, 60, [5]])))
    assert len(town.pipeline._intake.witnesses._offsets) == 7

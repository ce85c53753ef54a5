"""Failed tags cost a bounded budget, and forged frames never silence a node for good."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.core.lockout import BURST, LONG_BURST, LONG_REFILL_S, REFILL_S, Lockout


class Flood(RuleBasedStateMachine):
    """Forgers against three node ids and room for two; the clock may jump. What is tried stays within the budgets."""

    def __init__(self) -> None:
        super().__init__()
        self.lockout = Lockout(max_nodes=2)
        self.now = self.elapsed = 0.0
        self.checks = {False: 0, True: 0}

    @rule(node=st.integers(1, 3), is_long=st.booleans(), n=st.integers(1, 100))
    def forge(self, node: int, is_long: bool, n: int) -> None:
        for _ in range(n):
            if self.lockout.may_try(node, is_long, self.now):
                self.checks[is_long] += 1
                self.lockout.failed(node, is_long, self.now)

    @rule(seconds=st.floats(0, 300))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.elapsed += seconds

    @rule(seconds=st.floats(0, 1e6))
    def set_back(self, seconds: float) -> None:
        self.now -= seconds

    @rule(node=st.integers(1, 3))
    def an_honest_frame_gets_in_when_it_is_repeated(self, node: int) -> None:
        for _ in range(2):
            if self.lockout.may_try(node, False, self.now):
                return
            self.wait(REFILL_S * 1.01)
        assert self.lockout.may_try(node, False, self.now)

    @invariant()
    def is_bounded(self) -> None:
        assert len(self.lockout) <= 3
        assert self.checks[False] <= 4 * (BURST + self.elapsed / REFILL_S + 1)
        assert self.checks[True] <= 4 * (LONG_BURST + self.elapsed / LONG_REFILL_S + 1)


TestFlood = Flood.TestCase
TestFlood.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@given(st.integers(0, 1 << 32), st.floats(0.5, 5), st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_node_that_repeats_gets_in_while_a_forger_sends_all_the_time(
    seed: int, forged_s: float, is_long: bool
) -> None:
    """Forged frames at up to five a second fill the channel; the node repeats within its back-off, at any moment of it."""
    rnd = random.Random(seed)
    lockout, now, tries = Lockout(), 0.0, 0
    honest = rnd.uniform(1, 600)
    for _ in range(2_000_000):
        now += rnd.expovariate(forged_s)
        if now >= honest:
            tries += 1
            if lockout.may_try(1, is_long, honest):
                return
            honest += rnd.uniform(15, 600)
        if lockout.may_try(1, is_long, now):
            lockout.failed(1, is_long, now)
    raise AssertionError(f"not in after {tries} tries")


def test_forged_short_frames_leave_the_budget_of_whole_counters_alone() -> None:
    lockout = Lockout()
    for _ in range(1000):
        if lockout.may_try(1, False, 0.0):
            lockout.failed(1, False, 0.0)
    assert not lockout.may_try(1, False, 0.0) and lockout.may_try(1, True, 0.0) and lockout.may_try(2, False, 0.0)
    assert lockout.may_try(1, False, REFILL_S)

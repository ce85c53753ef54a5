"""A node never executes a command twice or late, whatever is lost on the way and whenever the gateway dies."""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from motewire.codes import DOWN_COMMAND, DOWN_EXPIRY

from gateway.core.order_offers import REMEMBERED
from gateway.core.value import replace
from tests.gateway.desk_bench import NEWEST, NODES, POLICY, Bench


class Motes(RuleBasedStateMachine):
    """One gateway and a node that behaves as mote.commands does: remembers 8 ids, executes what it does not remember, answers each time.

    Downlinks and answers are lost at will; the gateway is killed before or after a commit; the clock jumps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.b = Bench(replace(POLICY, max_open=4))
        self.seen: deque[list[Any]] = deque(maxlen=REMEMBERED)
        self.executed: dict[int, int] = {}
        self.begun: dict[int, float] = {}
        self.expiry: dict[int, int] = {}
        self.answers: deque[list[Any]] = deque()
        self.asked = 0
        self.published: dict[int, list[str]] = {}

    @initialize()
    def begin(self) -> None:
        self.b.desk.configure(NODES, self.b.desk.policy)

    @rule(name=st.sampled_from(["read_now", "reboot", "identify", "emergency"]), expires=st.integers(1, 3000))
    def ask(self, name: str, expires: int) -> None:
        self.asked += 1
        self.b.ask("operator", "aq-01", name, id=f"p{self.asked}", expires=expires)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        n = data.draw(st.integers(1, self.asked))
        known = self.b.desk.get("operator", f"p{n}")
        before = self.b.desk.open
        if known is not None:
            judged = self.b.ask("operator", "aq-01", known.name, id=f"p{n}")
            assert judged in ("again", "flood") and self.b.desk.open == before

    @rule(committed=st.booleans(), arrives=st.booleans(), expiring=st.booleans())
    def uplink(self, committed: bool, arrives: bool, expiring: bool) -> None:
        offer = self.b.desk.offer(NODES[263], 200, self.b.now, NEWEST)
        if offer is None:
            return
        if not committed:  # the process dies, or the disk is full: nothing may leave
            self.b.restart()
            return
        self.b.commit(offer.follow)
        if not arrives:
            return
        number, name = offer.items[DOWN_COMMAND][:2]
        self.expiry[number] = offer.items[DOWN_EXPIRY]
        known = next((e for e in self.seen if e[0] == number), None)
        if known is None:
            known = [number, 2]
            if self.b.now > offer.items[DOWN_EXPIRY]:
                known[1] = 4
            else:
                self.executed[number] = self.executed.get(number, 0) + 1
                self.begun[number] = self.b.now
                if name != "reboot":
                    self.answers.append([number, 1])
            self.seen.append(known)
        self.answers.append(list(known))

    @precondition(lambda self: self.answers)
    @rule(lost=st.booleans(), newest=st.booleans())
    def answer(self, lost: bool, newest: bool) -> None:
        word = self.answers.pop() if newest else self.answers.popleft()
        if not lost:
            self.b.hear(command=word)

    @rule()
    def kill(self) -> None:
        self.b.restart()

    @rule(seconds=st.sampled_from([0, 1, 19, 21, 300, 5000, 90_000]))
    def time(self, seconds: int) -> None:
        self.b.tick(seconds)

    @invariant()
    def nothing_is_executed_twice_or_late(self) -> None:
        assert all(n == 1 for n in self.executed.values()), self.executed
        assert all(at <= self.expiry[n] for n, at in self.begun.items())

    @invariant()
    def steps_go_forward_and_an_end_is_corrected_by_the_node_only(self) -> None:
        order = {"accepted": 0, "queued": 1, "sent": 2}
        for e in self.b.events:
            c = e.command
            if c and "number" in c and not c.get("again"):
                self.published.setdefault(c["number"], []).append(c["state"])
        self.b.events.clear()
        for states in self.published.values():
            ranks = [order.get(s, 3) for s in states]
            assert ranks == sorted(ranks) and ranks.count(3) <= 2, states

    def teardown(self) -> None:
        """Everything ends: two days later nothing is open, and no number was given twice."""
        self.b.tick(0)
        self.b.tick(3 * 86_400)
        assert self.b.desk.open == 0
        self.steps_go_forward_and_an_end_is_corrected_by_the_node_only()


TestMotes = Motes.TestCase
TestMotes.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)

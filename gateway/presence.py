"""Which nodes are there: declares those offline that have been silent for too long, at a cost of what there is to do."""

from __future__ import annotations

import heapq

import structlog

from gateway.clock import Clock
from gateway.commit import Commits
from gateway.core.decide import goes_offline, offline_at
from gateway.core.model import Decision, NodeState
from gateway.core.value import replace
from gateway.derivation import Derivation
from gateway.states import States
from gateway.store.engine import Engine, Write

log = structlog.get_logger(__name__)


class Presence:
    """watch() every node that is heard, check() about twice a second."""

    def __init__(self, states: States, engine: Engine, derivation: Derivation, commits: Commits, clock: Clock) -> None:
        self._states, self._engine, self._derivation, self._commits = states, engine, derivation, commits
        self._clock = clock
        self._began = clock.now()
        self._presumed = 0.0  # nobody counts as silent for longer than since here: the clock was set
        self._deadlines: list[tuple[float, int]] = []
        self._watched: dict[int, float] = {}  # its one deadline that counts; others in the heap are of before
        self._quiet_until = float("-inf")  # no node is declared offline before this; of Clock.elapsed
        known = engine.online()
        self.newest = max((heard for _, heard in known), default=0.0)  # reception that the store knew at the start
        # silence that no one could have heard: the gateway was not there, or the clock is another
        self._away = max(0.0, self._began - self.newest)
        for number, heard in known:
            self._expect(number, heard)

    def watch(self, number: int, state: NodeState) -> None:
        """Expect more of a node that is online; one that is watched already keeps its place."""
        if state.online and number not in self._watched:
            self._expect(number, state.heard)

    def changed(self, number: int, state: NodeState) -> None:
        """Expect a node anew whose registry entry has come, come back or changed: it may have fallen silent while no one waited for it."""
        if (
            state.online
            and number in self._states.nodes
            and self._offline_at(number, state.heard) != self._watched.get(number)
        ):
            self._expect(number, state.heard)

    def _expect(self, number: int, heard: float) -> None:
        if number in self._states.nodes:
            self._watched[number] = deadline = self._offline_at(number, heard)
            heapq.heappush(self._deadlines, (deadline, number))

    def _offline_at(self, number: int, heard: float) -> float:
        """When a silent node counts as offline; a clock that was set makes nobody silent. Heard in what is now the future means that it
        was before the clock was set, so that says nothing."""
        now = self._clock.now()
        if heard <= self.newest:
            heard += self._away
        heard = heard if heard <= now else min(self._began, now)
        return offline_at(self._states.known(number), max(heard, self._presumed))

    def stepped(self) -> None:
        """The host's clock was set: heard in what is now the future, or long ago by the new clock, both mean just now."""
        self._presumed = self._began = self._clock.now()
        self._away = 0.0
        watched, self._watched, self._deadlines = self._watched, {}, []
        for number in watched:
            if number in self._states.nodes:
                self._watched[number] = deadline = self._offline_at(number, 0.0)
                self._deadlines.append((deadline, number))
        heapq.heapify(self._deadlines)

    def check(self, limit: int = 1000) -> None:
        """Declare nodes offline whose time is up; costs only as much as there is to do."""
        now = self._clock.now()
        nodes = self._states.nodes
        if self._engine.full:  # nodes are not heard: let each have its turn when they are again
            self._quiet_until = self._clock.elapsed() + max((n.interval_s for n in nodes.values()), default=0)
        if self._clock.elapsed() < self._quiet_until:
            return
        writes: list[Write] = []
        while self._deadlines and self._deadlines[0][0] <= now and len(writes) < limit:
            deadline, number = heapq.heappop(self._deadlines)
            if self._watched.get(number) != deadline:
                continue
            del self._watched[number]
            if number not in nodes:
                continue  # it has left the registry
            state = self._states.state(number)
            if not state.online or self._states.busy(number):
                self.watch(number, replace(state, heard=max(state.heard, now)))
                continue
            if self._offline_at(number, state.heard) > now:
                self.watch(number, state)
                continue
            decision = goes_offline(self._states.known(number), state, now)
            self._states.keep(number, decision.state)
            writes.append(self._silent(number, decision))
            log.info("node_offline", node=nodes[number].name)
        if writes:
            self._commits.commit(writes, [])

    def _silent(self, number: int, decision: Decision) -> Write:
        assert decision.event is not None
        follow = self._derivation.derive(self._states.nodes[number], decision.event)
        return Write(number, decision.state, decision.event, None, follow.events, follow.notes)

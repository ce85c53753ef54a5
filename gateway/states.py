"""What the running gateway knows of its nodes: their registry entries as configured now, and the newest decided state of each.

A decided state may be ahead of the disk. It stays in memory until its commit is done, however many other nodes are heard meanwhile;
after a failed commit only what is on disk counts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from gateway.core.model import Described, Node, NodeState
from gateway.store.engine import Engine

MAX_STATES = 4096
LOOKS = 8


class States:
    """`nodes` is the registry by number, replaced as a whole by a reload. configured: applies what commands have changed of an entry."""

    def __init__(
        self, nodes: Mapping[int, Node], engine: Engine, configured: Callable[[Node], Node] = lambda node: node
    ) -> None:
        self.nodes = nodes
        self._engine, self._configured = engine, configured
        self._states: OrderedDict[int, NodeState] = OrderedDict()
        self._held: dict[int, int] = {}  # node -> decisions that are not committed yet

    def node(self, number: int) -> Node | None:
        """Return a node of the registry as it is configured now, None for a stranger."""
        node = self.nodes.get(number)
        return node if node is None else self._configured(node)

    def known(self, number: int) -> Node:
        """Return a node that is in the registry, as it is configured now."""
        return self._configured(self.nodes[number])

    def state(self, number: int) -> NodeState:
        """Return the newest decided state of a node; no downlink counter of it is below the store's floor."""
        state = self._states.get(number)
        if state is None:
            return self._engine.load(number) or self._engine.fresh()
        floor = self._engine.floor
        return state if state.down >= floor else replace(state, down=floor)

    def described(self, numbers: Sequence[int]) -> dict[int, Described]:
        """Return what the metadata of nodes rest on as decided last, by number; nodes that were never heard or introduced are left out."""
        found = self._engine.described([n for n in numbers if n not in self._states])
        return found | {n: state for n in numbers if (state := self._states.get(n)) is not None}

    def keep(self, number: int, state: NodeState) -> None:
        """Remember a decided state; beyond MAX_STATES those whose newest state is on disk are dropped."""
        self._states[number] = state
        self._states.move_to_end(number)
        # those that are held were decided last and stand at the end: a few looks find one that is not, or there is none to be had
        if len(self._states) > MAX_STATES:
            for old in list(islice(self._states, LOOKS)):
                if old not in self._held and len(self._states) > MAX_STATES:
                    del self._states[old]

    def drop(self, number: int) -> None:
        """Read a node's state from disk when it is asked for again."""
        self._states.pop(number, None)

    def hold(self, number: int) -> None:
        """A decision of this node is on its way to the disk."""
        self._held[number] = self._held.get(number, 0) + 1

    def release(self, number: int) -> None:
        """It is there, or has failed."""
        self._held[number] -= 1
        if not self._held[number]:
            del self._held[number]

    def busy(self, number: int) -> bool:
        """True while a decision of this node is not committed yet."""
        return number in self._held

    def forget(self) -> None:
        """A commit failed: only what is on disk counts."""
        self._states.clear()

"""What the running gateway knows of its nodes: their registry entries as configured now, and the newest decided state of each.

A decided state may be ahead of the disk. It stays in memory until its commit is done, however many other nodes are heard meanwhile;
after a failed commit only what is on disk counts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

from gateway.core.model import Node, NodeState
from gateway.store.engine import Engine

MAX_STATES = 4096


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
        """Return the newest decided state of a node."""
        state = self._states.get(number)
        if state is None:
            state = self._engine.load(number) or self._engine.fresh()
        return state

    def keep(self, number: int, state: NodeState) -> None:
        """Remember a decided state; beyond MAX_STATES one whose newest state is on disk is dropped."""
        self._states[number] = state
        self._states.move_to_end(number)
        if len(self._states) > MAX_STATES:
            for old in self._states:
                if old not in self._held:
                    del self._states[old]
                    break

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

"""What the running gateway knows of its nodes: their registry entries as configured now, and the newest decided state of each.

A decided state may be ahead of the disk. It stays in memory until its commit is done, however many other nodes are heard meanwhile;
after a failed commit only what is on disk counts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from gateway.core.model import Described, Node, NodeState
from gateway.core.value import replace
from gateway.health import Problem
from gateway.store.engine import Engine

NAMED = 3  # nodes with a changed key, or without room, that health names
FULL_S = 86_400.0  # for so long behind a refusal health names a node without room
MAX_STATES = 4096
LOOKS = 8


class ChangedKey(NamedTuple):
    """A node that the registry gives another key under `epoch`, which a former one has used, or goes back to `epoch` from a higher one (lower).
    free: the lowest epoch for a new key."""

    name: str
    epoch: int
    free: int
    lower: bool = False


def changed_keys(nodes: Sequence[Node], known: Mapping[int, Described]) -> list[ChangedKey]:
    """Return those of the nodes whose keys are not those that have proven themselves. known: by number, what is stored of them."""
    found: list[ChangedKey] = []
    for node in nodes:
        state = known.get(node.id)
        if state is None:
            continue
        changed = node.key_changed(state.keys)  # of most nodes the epochs agree, and a start asks for all
        epoch = node.too_low(state.epoch, state.keys) if changed is None and node.epoch != state.epoch else changed
        if epoch is not None:
            found.append(ChangedKey(node.name, epoch, max((state.epoch, *state.keys)) + 1, changed is None))
    return found


def tell(changed: Collection[ChangedKey]) -> tuple[str, str]:
    """Say which nodes have a changed key, and what to do next."""
    first = next(iter(changed))
    what = []
    for lower, text in (
        (False, "another key than before under the same epoch"),
        (True, "a lower epoch than one before"),
    ):
        of = [f"{c.name} (epoch {c.epoch})" for c in changed if c.lower == lower]
        if of:
            more = f" and {len(of) - NAMED} more" if len(of) > NAMED else ""
            what.append(f"{text}: {', '.join(of[:NAMED])}{more}")
    return (
        "; ".join(what),
        f"each key needs an epoch of its own, above all before it: give {first.name} epoch = {first.free}, in the registry and in the node; "
        f"or put its former key{' and epoch' if first.lower else ''} back",
    )


class States:
    """`nodes` is the registry by number, replaced as a whole by a reload. configured: applies what commands have changed of an entry."""

    def __init__(
        self, nodes: Mapping[int, Node], engine: Engine, configured: Callable[[Node], Node] = lambda node: node
    ) -> None:
        self.nodes = nodes
        self._engine, self._configured = engine, configured
        self._states: OrderedDict[int, NodeState] = OrderedDict()
        self._changed_keys: dict[int, ChangedKey] = {}
        self._full: dict[int, float] = {}  # when what a node sent was refused last, since its places are taken
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

    def compare(self, nodes: Sequence[Node], known: Mapping[int, Described]) -> None:
        """Remember which of these nodes have a key that is refused. known: as described() returns it."""
        for node in nodes:
            self._changed_keys.pop(node.id, None)
            for changed in changed_keys([node], known):
                self._changed_keys[node.id] = changed

    def full(self, number: int, now: float) -> None:
        """What a node sent was refused, since its places are taken by what it sent before."""
        self._full[number] = now

    def problems(self, now: float) -> Iterator[Problem]:
        """Name the nodes whose frames are refused since their key is not the one that was used under its epoch, and those whose places
        are taken."""
        full = [
            self.nodes[number].name for number, at in self._full.items() if number in self.nodes and at > now - FULL_S
        ]
        if full:
            names = ", ".join(sorted(full)[:NAMED]) + (f" and {len(full) - NAMED} more" if len(full) > NAMED else "")
            yield Problem(
                "node_full",
                f"more quantities or alarms than are kept of one node (64 of each): {names}; their newer ones are not taken",
                "look at what the node sends: a board that is not yours any more gets its key replaced (docs/operator/stolen.md), "
                "and the new key begins with nothing; quantities that are not sent for 30 days make room",
            )
        changed = [c for number, c in self._changed_keys.items() if number in self.nodes]
        if changed:
            text, hint = tell(changed)
            yield Problem("key_changed", f"{text}; their frames are refused, and kept by the nodes", hint)

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
        self._full.pop(number, None)

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

"""Which outputs of this gateway publish at an output's broker, or may: what is theirs is spared, and who was taken out is emptied.

Those of the same address are there. Of another address that shares topics it is asked (`siblings.py`); until that is known it is spared.
It shares topics where it publishes on any that are to be emptied: under a former root or prefix of this output as well as under that of now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Protocol

from gateway.core.shape import Shape
from gateway.mqtt_session import MqttSession
from gateway.outputs.retained import Tree
from gateway.outputs.siblings import Sibling, ask, shares
from gateway.outputs.turn import Turn
from gateway.store.ledger import Ledger


class Output(Sibling, Protocol):
    """What is known of an output."""

    @property
    def place(self) -> str: ...

    @property
    def address(self) -> str: ...

    @property
    def tree(self) -> Tree: ...

    def again(self) -> None: ...


class Neighbours:
    """Of one output. others: all outputs, this one among them."""

    def __init__(self, mine: Output, ledger: Ledger) -> None:
        self._mine, self._ledger = mine, ledger
        self._strays: Set[str] = frozenset()
        self._shapes: Set[Shape] = frozenset((mine.tree.shape,))  # whose topics stand here, or may
        self.others: Callable[[], Sequence[Output]] = tuple
        self._here: dict[
            str, bool
        ] = {}  # outputs under another address: whether they are at this broker, where that is known

    def begin(self) -> None:
        """A new connection may be to another broker."""
        self._here.clear()
        self.strays = frozenset()

    @property
    def strays(self) -> Set[str]:
        """Names of outputs that are not at this address and whose marks stand at this broker."""
        return self._strays

    @strays.setter
    def strays(self, names: Set[str]) -> None:
        self._strays = names
        self._look_up()

    def _look_up(self) -> None:
        """Look up under which shapes topics stand here that this output publishes or is to empty."""
        mine, found = self._mine, {self._mine.tree.shape}
        for key, (_, place) in self._ledger.places().items():
            here = place.address == mine.address
            if key == mine.place or here and place.now is None or not here and place.output in self._strays:
                found |= {shape for _, shape in place.past}
                if place.now is not None and not here:
                    found.add(place.now)
        self._shapes = found

    def turn(self, seq: int, generation: int, as_of: int) -> Turn:
        """Return a turn with former shapes of this output behind a generation, shapes of others at this broker, and who was taken out there."""
        self._look_up()
        turn, mine, gone = Turn(seq, generation, as_of), self._mine, self.gone()
        for key, (_, place) in self._ledger.places().items():
            if key == mine.place:
                turn.former += [self._as(shape) for g, shape in place.past if g > generation]
            elif place.address != mine.address:
                if place.output in gone:
                    shapes = [shape for _, shape in place.past] + ([place.now] if place.now is not None else [])
                    turn.strays.setdefault(place.output, []).extend(map(self._as, shapes))
            elif place.now is not None:
                turn.others.append(self._as(place.now))
            else:
                shapes = [self._as(shape) for g, shape in place.past if g > generation or not place.empty]
                if shapes:
                    turn.left[key] = shapes
        return turn

    def follow(self, turn: Turn, as_of: int) -> None:
        """An output that has come while a pass is under way is not emptied any further, and what it publishes is its own."""
        if turn.as_of != as_of:
            now = self.turn(turn.seq, turn.generation, as_of)
            turn.others, turn.as_of = now.others, now.as_of
            turn.left = {key: shapes for key, shapes in turn.left.items() if key in now.left}
            turn.strays = {output: shapes for output, shapes in turn.strays.items() if output in now.strays}

    def strangers(self) -> list[Output]:
        """Return the outputs that may share topics with this one, if their broker is this one under another address."""
        mine = self._mine
        return [
            o
            for o in self.others()
            if o.place != mine.place and o.address != mine.address and self._shares(o) and self._here.get(o.place, True)
        ]

    def here(self) -> list[Output]:
        """Return the outputs that share topics with this one, and are known to be at its broker."""
        mine = self._mine
        return [
            o
            for o in self.others()
            if o.place != mine.place
            and (o.address == mine.address or self._here.get(o.place, False))
            and self._shares(o)
        ]

    def _shares(self, o: Output) -> bool:
        return any(shares(shape, o.tree.shape) for shape in self._shapes)

    def trees(self) -> list[Tree]:
        """Return what those may publish."""
        return [o.tree for o in self.strangers()]

    async def ask(self, session: MqttSession) -> tuple[bool, bool]:
        """Ask those that are not known yet; return whether one has turned out to be elsewhere, and whether all are known by now."""
        here, away = await ask(session, [o for o in self.strangers() if o.place not in self._here and o.hears])
        self._here |= {o.place: True for o in here} | {o.place: False for o in away}
        self.strays = self.strays - {_name(o) for o in here}  # its mark is where it ought to be
        return bool(away), self.is_known

    @property
    def is_known(self) -> bool:
        """True when it is known of all whether they are at this broker."""
        return all(o.place in self._here for o in self.strangers())

    def gone(self) -> set[str]:
        """Return who has published at this broker and is not there: neither at this address nor, as far as is known, at another of it."""
        return set(self.strays) - {_name(o) for o in self.strangers()}

    def _as(self, shape: Shape) -> Tree:
        tree = self._mine.tree
        return Tree(shape, tree.gateway, tree.nodes, tree.entry)


def _name(o: Output) -> str:
    return o.place.rpartition("@")[0]

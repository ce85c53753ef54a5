"""What is derived from decisions (rules, aggregates, commands): runs the followers and keeps their notes together."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.core.commands import Desk
from gateway.core.follow import Follow, Follower
from gateway.core.model import Event, Node
from gateway.metrics import Metrics
from gateway.notebook import Notebook
from gateway.store.engine import Engine


class Derivation:
    """`notebook` holds the notes that are decided and not committed yet; the desk of commands, when there is one, follows last."""

    def __init__(self, engine: Engine, metrics: Metrics, followers: Sequence[Follower], desk: Desk | None) -> None:
        self._metrics, self._desk = metrics, desk
        self.notebook = Notebook(engine)
        self.followers: Sequence[Follower] = ()
        self._set(followers)
        self.reload()

    def _set(self, followers: Sequence[Follower]) -> None:
        self.followers = followers if self._desk is None else (*followers, self._desk)

    def derive(self, node: Node, event: Event) -> Follow:
        """Return what follows from an event that is about to be committed."""
        return self._noted([f.follow(node, event) for f in self.followers])

    def tick(self, now: float) -> Follow:
        """Return what is due at Unix time `now`."""
        return self._noted([f.tick(now) for f in self.followers])

    def stepped(self, seconds: float) -> None:
        """The clock was set."""
        for f in self.followers:
            f.stepped(seconds)

    def _noted(self, follows: Sequence[Follow]) -> Follow:
        whole = joined(follows)
        self.notebook.add(whole.notes)
        self._metrics.refused.update(whole.refused)
        return whole

    def reload(self) -> None:
        """Continue from what is committed: at the start, and after a commit that failed."""
        self.notebook.forget()
        for f in self.followers:
            f.load(self.notebook.of(f.name))

    def use(self, followers: Sequence[Follower]) -> None:
        """Replace the followers; each continues from the notes under its name, those on their way to the disk among them."""
        self._set(followers)
        for f in followers:
            f.load(self.notebook.of(f.name))


def joined(follows: Sequence[Follow]) -> Follow:
    """Return several results as one, in their order."""
    if len(follows) == 1:
        return follows[0]
    notes: dict[str, bytes | None] = {}
    refused: dict[str, int] = {}
    for f in follows:
        notes.update(f.notes)
        for reason, n in f.refused.items():
            refused[reason] = refused.get(reason, 0) + n
    return Follow(tuple(e for f in follows for e in f.events), notes, refused)

"""What an event leaves retained that speaks of a node under a name which it has no more.

An alarm ends under the name that it was raised under (core/raised.py), and what was decided before a reload may be committed behind it. By
then the pass behind the reload may have published what was true before under the name of now. So such an event has all of the node published
under that name, as it is now, and what it ended is emptied there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.core.current import Current
from gateway.outputs.message import Message
from gateway.outputs.retained import Tree


def anew(tree: Tree, subject: str, c: Current, seq: int, others: Iterable[Tree]) -> list[Message]:
    """Return a node's retained messages, and empty ones where an alarm or aggregate stood that has ended with event `seq` or since.

    others: trees of this gateway's other outputs at the broker, whose topics are left to them.
    """
    desired = tree.desired(subject, c)
    over = [Message(t, b"", retain=True) for t in sorted(tree.over(subject, c, seq - 1) - desired.keys())]
    return [*desired.values(), *spared(over, subject, c, others)]


def spared(retained: Sequence[Message], subject: str, c: Current, others: Iterable[Tree]) -> list[Message]:
    """Return retained messages of a subject but for those that would empty what another output publishes at the broker."""
    if all(m.payload for m in retained):
        return [*retained]
    theirs = {topic for tree in others for topic in tree.desired(subject, c)}
    return [m for m in retained if m.payload or m.topic not in theirs]

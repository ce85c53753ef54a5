"""Which nodes are being forged: failed tags counted per (node, link), bounded, for people to look at. Nothing is
refused because of it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

WINDOW_S = 300.0
MANY = 20  # within a window: a node with a wrong key in the registry sends fewer
MAX_NODES = 256


@dataclass(slots=True)
class Forged:
    """Failed tags under a node's name on one link, through `receiver` last; count: in this window, before: in the one
    before."""

    node: int
    link: str
    receiver: str
    since: float
    last: float
    count: int = 0
    before: int = 0


class Forgeries:
    """At most MAX_NODES (node, link) pairs; beyond, the one that failed longest ago is forgotten. Times: seconds of any
    clock."""

    def __init__(self) -> None:
        self._all: OrderedDict[tuple[int, str], Forged] = OrderedDict()

    def failed(self, node: int, link: str, receiver: str, now: float) -> None:
        """A frame under this node's id had a tag that does not fit."""
        key = node, link
        f = self._all.get(key)
        if f is None:
            f = self._all[key] = Forged(node, link, receiver, now, now)
            if len(self._all) > MAX_NODES:
                self._all.popitem(last=False)
        self._all.move_to_end(key)
        if not 0 <= now - f.since < WINDOW_S:
            f.before = f.count if 0 <= now - f.last < WINDOW_S else 0
            f.count, f.since = 0, now
        f.count += 1
        f.last, f.receiver = now, receiver

    def up(self, now: float) -> list[Forged]:
        """Return what is being forged now, most first."""
        found = [f for f in self._all.values() if abs(now - f.last) < WINDOW_S and max(f.count, f.before) >= MANY]
        return sorted(found, key=lambda f: -max(f.count, f.before))

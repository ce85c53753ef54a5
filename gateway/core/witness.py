"""What nodes' frames say of the gateway's own clock. A node seals absolute times; when those of several nodes, and of most, cannot be
true by the gateway's clock, then it is the gateway's clock that is wrong.
"""

from __future__ import annotations

from collections import OrderedDict
from statistics import median
from typing import Literal

from gateway.core.report import FUTURE_S, PAST_S

BUILT = 1767225600
"""2026-01-01: no gateway of this protocol ran earlier (store/schema.py begins its downlink counters there)."""

MAX_NODES = 256  # heard last
SEVERAL = 2
SPREAD_S = 86_400  # how far nodes that agree with each other may lie apart: they report at different intervals
SET_BACK_S = 3600
FRESH_S = 7200  # a row no older than this is none of a backlog

Doubt = Literal["", "unset", "behind", "ahead"]


class Witnesses:
    """Newest absolute row time less receive time, of the nodes heard last.

    former: the clock was set while most nodes agreed with it, and they go by the time before.
    floor: Unix time that the gateway knows to have passed (the newest reception it remembers). Only a hint: it was written by a clock
    that may have been wrong itself, so a node whose rows agree with the clock overrules it.
    """

    def __init__(self, floor: float = 0.0) -> None:
        self.floor = floor
        self.forget()

    def forget(self) -> None:
        """Nothing was heard yet."""
        self._offsets: OrderedDict[int, float] = OrderedDict()
        self._ahead = self._old = self._agree = 0
        self.former = False

    def stepped(self, seconds: float) -> None:
        """The clock was set by so much, while nodes went by the time before: as long as most of them do, theirs is the former time.

        Set back, each of them lies ahead by as much as it was set. Set forward may also mean that the machine stood still, and nodes did not:
        what was said of the clock counts no more then.
        """
        offsets = self._offsets
        former = self.former or 2 * self._agree > len(offsets)
        self.forget()
        self.former = former
        if seconds < 0:
            for node, offset_s in offsets.items():
                self.hear(node, offset_s - seconds)
            self.former = former

    def hear(self, node: int, offset_s: float) -> None:
        """Enter what an authentic frame of a node says: its newest absolute row time less the receive time."""
        before = self._offsets.pop(node, None)
        if before is None and len(self._offsets) >= MAX_NODES:
            _, before = self._offsets.popitem(last=False)
        if before is not None:
            self._count(before, -1)
        self._offsets[node] = offset_s
        self._count(offset_s, 1)
        if self.former and 2 * self._agree > len(self._offsets):
            self.former = False

    def _count(self, offset_s: float, by: int) -> None:
        if offset_s > FUTURE_S:
            self._ahead += by
        elif offset_s < -PAST_S:
            self._old += by
        elif offset_s > -FRESH_S:
            self._agree += by

    def doubt(self, now: float) -> Doubt:
        """Return what is wrong with a clock that says `now`: never set, behind or ahead; "" for nothing that anyone has noticed."""
        if now < BUILT:
            return "unset"
        if self._most(self._ahead, SEVERAL):
            return "behind"
        if self._most(self._old, SEVERAL):
            return "ahead"
        return "unset" if now < self.floor - SET_BACK_S and not self._agree else ""

    def shift_s(self, now: float) -> float:
        """Return by how many seconds the true time lies ahead of `now`, as far as nodes say so; 0 while most agree with the clock."""
        several = 1 if now < BUILT or self.former else SEVERAL  # such a clock is wrong for sure: one node knows better
        if not self._most(self._ahead, several) and not self._most(self._old, several):
            return 0.0
        middle = median(self._offsets.values())
        return max(o for o in self._offsets.values() if abs(o - middle) <= SPREAD_S)

    def _most(self, n: int, several: int) -> bool:
        return n >= several and 2 * n > len(self._offsets)

"""How many failed tags a node id may cost: a budget per node, so that forged frames buy bounded work and never silence a node.

A frame whose tag fails costs one token of its class; an authentic one costs nothing. Frames with the whole counter (C bit) have a bucket
of their own: who forges the common kind cannot keep out the frames with which a node finds its way back. An empty bucket fills at a
steady rate, and one frame is tried for each token, so that a node that repeats its frames gets in even while both are being emptied.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

BURST, REFILL_S = 32.0, 2.0
LONG_BURST, LONG_REFILL_S = 8.0, 4.0
MAX_NODES = 4096
_OTHERS = -1


@dataclass(slots=True)
class _Bucket:
    tokens: float
    since: float


class Lockout:
    """Token buckets of failed tags; at most `max_nodes` nodes have their own, further ones share one until another is full again.

    Times are Unix seconds; a clock that is set back costs no token and stops no refill.
    """

    def __init__(self, max_nodes: int = MAX_NODES) -> None:
        self._max_nodes = max_nodes
        self._buckets: OrderedDict[int, tuple[_Bucket, _Bucket]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def may_try(self, node: int, is_long: bool, now: float) -> bool:
        """True when the tag of a frame of this node may be checked."""
        pair = self._buckets.get(node)
        if pair is None:
            if len(self._buckets) < self._max_nodes or self._forget_full(now):
                return True
            pair = self._buckets.get(_OTHERS)
        return pair is None or _level(pair[is_long], is_long, now) >= 1.0

    def failed(self, node: int, is_long: bool, now: float) -> None:
        """A tag that was tried did not fit."""
        if node not in self._buckets and len(self._buckets) >= self._max_nodes and not self._forget_full(now):
            node = _OTHERS
        pair = self._buckets.get(node)
        if pair is None:
            pair = self._buckets[node] = (_Bucket(BURST, now), _Bucket(LONG_BURST, now))
        bucket = pair[is_long]
        bucket.tokens = max(_level(bucket, is_long, now) - 1.0, 0.0)
        self._buckets.move_to_end(node)

    def _forget_full(self, now: float) -> bool:
        """Drop the entry that failed longest ago if it says nothing any more."""
        for node, pair in self._buckets.items():
            if node == _OTHERS:
                continue
            if _level(pair[0], False, now) >= BURST and _level(pair[1], True, now) >= LONG_BURST:
                del self._buckets[node]
                return True
            return False
        return False


def _level(bucket: _Bucket, is_long: bool, now: float) -> float:
    """Refill a bucket and return its tokens."""
    most, each_s = (LONG_BURST, LONG_REFILL_S) if is_long else (BURST, REFILL_S)
    bucket.tokens = min(most, bucket.tokens + max(now - bucket.since, 0.0) / each_s)
    bucket.since = now
    return bucket.tokens

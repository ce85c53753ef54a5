"""How much one node may bring: token buckets per node, alarms and repeats apart, so that a node gone wild costs bounded work and nobody else's time.

What is refused here is not acked, so the node keeps it and sends it again: nothing is lost, and a long backlog drains at the steady rate.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MAX_NODES = 65_536


@dataclass(slots=True)
class _Bucket:
    tokens: float
    since: float


class Rates:
    """burst frames at once and per_s after that, for each (node, kind of frame). Times are seconds of any clock; one that is set back
    stops no refill. Beyond MAX_NODES the bucket untouched for longest is forgotten, which is in the node's favour."""

    def __init__(self, burst: int, per_s: float) -> None:
        self.burst, self.per_s = burst, per_s
        self._buckets: OrderedDict[tuple[int, str], _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, node: int, kind: str, now: float) -> bool:
        """Take one token; False when the node has none left."""
        bucket = self._buckets.get((node, kind))
        if bucket is None:
            bucket = self._buckets[node, kind] = _Bucket(float(self.burst), now)
            if len(self._buckets) > MAX_NODES:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end((node, kind))
            bucket.tokens = min(self.burst, bucket.tokens + max(now - bucket.since, 0.0) * self.per_s)
            bucket.since = now
        if bucket.tokens < 1.0:
            return False
        bucket.tokens -= 1.0
        return True

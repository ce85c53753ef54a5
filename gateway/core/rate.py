"""How much one node, and one link, may cost: token buckets per node by what a frame causes, and failed tags per link.

A token is what an honest report makes: up to CELLS cells and up to VALUES values published. A frame is taken while its
node has a token, and charged what it really caused, which may leave the node in debt: so every lawful frame gets in,
and none is free. What is refused is not acked, so the node keeps it and sends it again: a long backlog drains at the
steady rate.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from gateway.core.model import Event

MAX_NODES = 65_536
CELLS, VALUES, DERIVED = (
    64,
    6,
    3,
)  # of a frame, of its values that become messages, of events derived from it: what a token pays for
ALARM_SHARE = 0.25  # of the rate; alarms have a bucket of their own, and are charged to the node's other frames too
OPAQUE = 10  # what cannot be read is kept and perhaps read later, and then it causes what it would have now
DEBT = 128  # a node's debt is never deeper than a burst or this, which is twice what the most expensive frame costs
SHORT_S = 4.0  # a node whose entry says a short interval gets SHORT_S / interval_s tokens a second at least
TAGS_PER_S, ALARM_TAGS_PER_S = 15_000, 5_000  # failed tags of a link; the second ones are for alarms alone


def cost(event: Event) -> int:
    """Return how many tokens an event is charged: what it takes to decode and store, or what it makes outputs
    publish."""
    if event.kind == "opaque":
        return OPAQUE
    values = len(event.latest)
    if event.occurrences:
        values += sum(v is not None for c in event.columns if c.key != "confidence" for v in c.values)
    if event.status is not None:
        values += len(event.status) + 1
    return max(1 + len(event.times) * len(event.columns) // CELLS, -(-values // VALUES))


@dataclass(slots=True)
class _Bucket:
    tokens: float
    since: float


class Rates:
    """burst tokens at once and per_s after that, for each (node, kind of frame): "" for news, "alarm", "repeat" for
    what anyone may have recorded. Times are seconds of a clock that is never set. Beyond
    MAX_NODES the bucket untouched for longest is forgotten, which is in the node's favour."""

    def __init__(self, burst: int, per_s: float) -> None:
        self.burst, self.per_s = burst, per_s
        self._buckets: OrderedDict[tuple[int, str], _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def may(self, node: int, kind: str, now: float, interval_s: float = 3600.0) -> bool:
        """True while the node has a token left for a frame of this kind."""
        return self._bucket(node, kind, now, interval_s).tokens >= 1.0

    def charge(self, node: int, kind: str, tokens: float, now: float, interval_s: float = 3600.0) -> None:
        """Take tokens for what a frame caused, into debt if need be."""
        kinds = ("alarm", "") if kind == "alarm" else (kind,)
        for k in kinds:
            bucket = self._bucket(node, k, now, interval_s)
            bucket.tokens = max(bucket.tokens - tokens, -float(max(self.burst, DEBT)))

    def take(self, node: int, kind: str, now: float, tokens: float = 1.0, interval_s: float = 3600.0) -> bool:
        """Charge a frame if the node has a token for it; False, and nothing charged, when it has none."""
        if not self.may(node, kind, now, interval_s):
            return False
        self.charge(node, kind, tokens, now, interval_s)
        return True

    def _bucket(self, node: int, kind: str, now: float, interval_s: float) -> _Bucket:
        share = ALARM_SHARE if kind == "alarm" else 1.0
        burst, per_s = float(self.burst), max(self.per_s, SHORT_S / max(interval_s, 1.0)) * share
        bucket = self._buckets.get((node, kind))
        if bucket is None:
            bucket = self._buckets[node, kind] = _Bucket(burst, now)
            if len(self._buckets) > MAX_NODES:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end((node, kind))
            bucket.tokens = min(burst, bucket.tokens + max(now - bucket.since, 0.0) * per_s)
            bucket.since = now
        return bucket


class TagBudget:
    """How many tags a second may be checked in vain on each link: bounds the work of a flood and is nothing that a node
    has.

    Charged are those that do not fit and those of repeats that are not answered. Alarms draw on tokens of their own
    first, so that a flood of other frames never keeps one out.
    """

    def __init__(self, per_s: float = TAGS_PER_S, alarms_per_s: float = ALARM_TAGS_PER_S) -> None:
        self._per_s = {False: per_s, True: alarms_per_s}
        self._buckets: dict[tuple[str, bool], _Bucket] = {}

    def may(self, link: str, alarm: bool, now: float) -> bool:
        """True when the tag of one more frame of this link may be checked."""
        return self._tokens(link, False, now) >= 1.0 or alarm and self._tokens(link, True, now) >= 1.0

    def in_vain(self, link: str, alarm: bool, now: float) -> None:
        """A tag was checked for nothing."""
        own = alarm and self._tokens(link, True, now) >= 1.0
        self._tokens(link, own, now)
        self._buckets[link, own].tokens -= 1.0

    def _tokens(self, link: str, alarm: bool, now: float) -> float:
        most = self._per_s[alarm]
        bucket = self._buckets.setdefault((link, alarm), _Bucket(most, now))
        bucket.tokens = min(most, bucket.tokens + max(now - bucket.since, 0.0) * most)
        bucket.since = now
        return bucket.tokens

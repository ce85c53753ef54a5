"""How a node was heard when it last sent something new, and how often its repeats are answered.

A repeat is authentic, and anyone who recorded it can send it: on any bearer, at any rate, for years. So it does not
show how the node listens, and it is answered at pauses that double, as those of a node without its ack do, until there
is news. Repeats that are heard as the news was have pauses of their own: who floods from elsewhere does not use up
those of the node.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.core.model import Reception

FIRST_S, LONGEST_S = (
    15.0,
    900.0,
)  # mote.uplink waits half of 30, 60, 120 s at least before its next repeats, half of 1800 s in the end
NEAR_DB = 12  # a node that stays where it is fades so much
MAX_NODES = 65_536
MAX_OLD = 4096


@dataclass(frozen=True, slots=True)
class Bearer:
    """How the newest frame of a node came. sf: 0 where there is no radio. receivers: (name, dBm) of all copies, ()
    without a radio."""

    link: str
    sf: int
    receivers: tuple[tuple[str, int | None], ...]

    def carries(self, rx: Reception) -> bool:
        """True when an answer to rx goes the way that the node was heard by last."""
        if rx.link != self.link or (rx.radio is None) != (not self.sf):
            return False
        return rx.radio is None or any(name == rx.receiver for name, _ in self.receivers)

    def resembles(self, rx: Reception) -> bool:
        """True when rx was heard as the node was: there, at its spreading factor, about as strongly."""
        if not self.carries(rx):
            return False
        if rx.radio is None:
            return True
        before = dict(self.receivers)[rx.receiver]
        near = before is None or rx.rssi is None or abs(rx.rssi - before) <= NEAR_DB
        return near and rx.radio.sf == self.sf


class Repeats:
    """Bearers by node, pauses by (node, heard as its news was or not), and the newest counters from below the replay
    floor.

    Bounded: beyond MAX_NODES what is oldest is forgotten, which lets one more repeat be answered.
    """

    def __init__(self) -> None:
        self._bearers: OrderedDict[int, Bearer] = OrderedDict()
        self._answered: OrderedDict[tuple[int, bool], tuple[float, float]] = (
            OrderedDict()
        )  # when, and the pause after it
        self._old: OrderedDict[tuple[int, int, int], None] = OrderedDict()

    def news(self, node: int, rx: Reception, receivers: Mapping[str, int | None]) -> None:
        """A node sent what is newer than all before, heard best as rx: this is how it listens, and its pauses begin
        anew."""
        radio = rx.radio
        self._bearers[node] = Bearer(rx.link, radio.sf, tuple(receivers.items())) if radio else Bearer(rx.link, 0, ())
        self._bearers.move_to_end(node)
        if len(self._bearers) > MAX_NODES:
            self._bearers.popitem(last=False)
        self._answered.pop((node, True), None)
        self._answered.pop((node, False), None)

    def bearer(self, node: int) -> Bearer | None:
        """Return how a node was heard last with something new, None when it was not since the start."""
        return self._bearers.get(node)

    def may_answer(self, node: int, rx: Reception, now: float) -> bool:
        """True when a repeat is to be answered now; the next pause begins then. A clock that was set back ends a
        pause."""
        bearer = self._bearers.get(node)
        key = node, bearer is not None and bearer.resembles(rx)
        at, pause = self._answered.get(key, (0.0, 0.0))
        if at <= now < at + pause:
            return False
        self._answered[key] = now, min(max(2 * pause, FIRST_S), LONGEST_S)
        self._answered.move_to_end(key)
        if len(self._answered) > MAX_NODES:
            self._answered.popitem(last=False)
        return True

    def old(self, node: int, epoch: int, counter: int) -> bool:
        """True for a counter from below the floor that was committed lately."""
        return (node, epoch, counter) in self._old

    def kept_old(self, node: int, epoch: int, counter: int) -> None:
        """Such a counter is on disk."""
        self._old[node, epoch, counter] = None
        self._old.move_to_end((node, epoch, counter))
        if len(self._old) > MAX_OLD:
            self._old.popitem(last=False)

"""Copies of one transmission heard by several receivers, and what is a repeat instead.

A copy is the same bytes through another receiver within COPY_S, or the same datagram again (same receiver, same concentrator
time). The same bytes later are a resend of the node, which deserves its ack again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from gateway.core.model import Reception

COPY_S = 1.0
MAX_RECENT = 1024

T = TypeVar("T")


@dataclass(slots=True)
class Heard(Generic[T]):
    """A transmission and its copies. `work` is whatever the caller does with the first one."""

    first: Reception
    best: Reception
    work: T
    copies: int = 1
    receivers: dict[str, int | None] = field(default_factory=dict)

    def add(self, rx: Reception) -> None:
        """Enter a copy; the strongest stays the best, the receiver's name decides a tie so that order does not."""
        self.copies += 1
        self.receivers[rx.receiver] = rx.radio.tmst if rx.radio else None
        if strength(rx) > strength(self.best):
            self.best = rx


def strength(rx: Reception) -> tuple[float, float, str]:
    """Return the sort key of receptions: RSSI, then SNR, then the receiver's name."""
    return (
        rx.rssi if rx.rssi is not None else float("-inf"),
        rx.snr if rx.snr is not None else float("-inf"),
        rx.receiver,
    )


class Recent(Generic[T]):
    """The last MAX_RECENT radio transmissions by their bytes; bounded whatever is thrown at it."""

    def __init__(self, limit: int = MAX_RECENT) -> None:
        self._limit = limit
        self._heard: OrderedDict[bytes, Heard[T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._heard)

    def copy_of(self, rx: Reception) -> Heard[T] | None:
        """Return the transmission that rx is one more copy of (and enter it there), or None when it is a new one."""
        heard = self._heard.get(rx.data)
        if heard is None or rx.radio is None or abs(rx.received - heard.first.received) > COPY_S:
            return None
        if rx.receiver in heard.receivers:
            return heard if heard.receivers[rx.receiver] == rx.radio.tmst else None
        heard.add(rx)
        return heard

    def enter(self, rx: Reception, work: T) -> Heard[T]:
        """Remember a new transmission."""
        heard = Heard(rx, rx, work, 1, {rx.receiver: rx.radio.tmst if rx.radio else None})
        if rx.radio is not None:
            self._heard[rx.data] = heard
            self._heard.move_to_end(rx.data)
            if len(self._heard) > self._limit:
                self._heard.popitem(last=False)
        return heard

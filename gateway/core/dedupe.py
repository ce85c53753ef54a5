"""Copies of one transmission heard by several receivers, or on several channels of one, and what is a repeat instead.

A copy is the same bytes through another receiver within COPY_S, or from the same receiver within COPY_US of its
concentrator's counter: a strong frame is heard on neighbouring channels and spreading factors too, and a datagram may
come twice. The same bytes later are a transmission of their own: a resend of the node, or a recording.

COPY_S is counted from when each came to us, by our own monotonic clock: what receivers write on frames may differ by
minutes, and one behind a mobile uplink is seconds late (helium/router#670). A node whose ack is missing has listened
for 1 s and then waits 7 s at least (mote.uplink: half of 15 s) before it sends the same frame again: half of these 8 s
are left to the late one, half to the lateness of the first. A resend that is due sooner (an ack named the frame as
missing: the gateway did not have it then) is at worst counted as a copy of the first, and comes again after the pause.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from gateway.core.model import Reception

COPY_S = 4.0
COPY_US = (
    8_000  # less than the shortest frame is on air (SF7, 500 kHz: 9 ms), so two transmissions are never this close
)
RSSI_DBM = (-200, 0)  # what a receiver can have heard; anything else is a claim that decides nothing
SNR_DB = (-60, 60)
MAX_RECENT = 1024

T = TypeVar("T")


@dataclass(slots=True)
class Heard(Generic[T]):
    """A transmission and its copies. `work` is whatever the caller needs of the first one: keep it small, it stays for
    MAX_RECENT transmissions. at: when the first came, monotonic seconds. receivers: how the first copy of each was
    heard, concentrator us and dBm."""

    at: float
    first: Reception
    best: Reception
    work: T
    copies: int = 1
    receivers: dict[str, tuple[int, int | None]] = field(default_factory=dict)

    def add(self, rx: Reception) -> None:
        """Enter a copy; the strongest stays the best and gives frequency and time of the answer, whatever came
        first."""
        self.copies += 1
        if strength(rx) > strength(self.best):
            self.best = rx
        if rx.radio is not None:
            self.receivers.setdefault(rx.receiver, (rx.radio.tmst, rx.rssi))


def strength(rx: Reception) -> tuple[bool, float, float, str]:
    """Return the sort key of receptions: RSSI, then SNR, then the receiver's name; a value no receiver can measure
    loses to all others."""
    rssi, snr = rx.rssi, rx.snr
    believed = (rssi is None or RSSI_DBM[0] <= rssi <= RSSI_DBM[1]) and (snr is None or SNR_DB[0] <= snr <= SNR_DB[1])
    return (
        believed,
        rssi if believed and rssi is not None else float("-inf"),
        snr if believed and snr is not None else float("-inf"),
        rx.receiver,
    )


def apart_us(a: int, b: int) -> int:
    """Return how far two concentrator times of 32 bits are apart, also across the wrap (every 71.6 minutes)."""
    ahead = (a - b) & 0xFFFFFFFF
    return min(ahead, 0x100000000 - ahead)


class Recent(Generic[T]):
    """The last MAX_RECENT radio transmissions by their bytes; bounded whatever is thrown at it."""

    def __init__(self, limit: int = MAX_RECENT) -> None:
        self._limit = limit
        self._heard: OrderedDict[bytes, Heard[T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._heard)

    def copy_of(self, rx: Reception, now: float) -> Heard[T] | None:
        """Return the transmission that rx, which came `now` (monotonic seconds), is one more copy of (and enter it
        there), or None when it is a new one."""
        heard = self._heard.get(rx.data)
        if heard is None or rx.radio is None or abs(now - heard.at) > COPY_S:
            return None
        known = heard.receivers.get(rx.receiver)
        if known is not None and apart_us(rx.radio.tmst, known[0]) > COPY_US:
            return None
        heard.add(rx)
        return heard

    def enter(self, rx: Reception, work: T, now: float) -> Heard[T]:
        """Remember a new transmission that came `now`."""
        heard = Heard(now, rx, rx, work)
        if rx.radio is not None:
            heard.receivers[rx.receiver] = rx.radio.tmst, rx.rssi
            self._heard[rx.data] = heard
            self._heard.move_to_end(rx.data)
            if len(self._heard) > self._limit:
                self._heard.popitem(last=False)
        return heard

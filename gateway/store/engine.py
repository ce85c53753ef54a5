"""The seam between the service and whatever keeps its data: five methods round the pure core."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.core.model import Event, NodeState


class StoreError(Exception):
    """The store cannot be opened or a commit failed; `hint` says what to do."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class RawFrame:
    """A frame as it came, kept beside what was made of it. reason: why it could not be read, "" when it could."""

    node: int
    epoch: int
    counter: int
    kind: int
    data: bytes
    received: float
    link: str
    receiver: str
    rssi: int | None
    snr: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Write:
    """All that one decision changes; committed whole or not at all.

    more: events that follow from `event` (rules, aggregates), spooled behind it. notes: named states of whoever made them
    (a key starts with its owner's name and a colon), None removes one. A decision that concerns no node has state None.
    When `raw` is known already nothing of this is written.
    """

    node: int
    state: NodeState | None
    event: Event | None = None
    raw: RawFrame | None = None
    more: tuple[Event, ...] = ()
    notes: Mapping[str, bytes | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """One spooled event and its place in the order of commits."""

    seq: int
    event: Event


class Engine(Protocol):
    """commit, quarantine and ack return futures that resolve when the change is durable, or raise StoreError.

    After a failed commit every later one fails too until resume(): they were decided on a state that does not exist.
    """

    def fetch(self, after: int, limit: int) -> list[Entry]:
        """Return spooled events behind sequence number `after`, in order, at most `limit`."""
        ...

    def load(self, node: int) -> NodeState | None:
        """Return the committed state of a node, None when it was never heard."""
        ...

    def note(self, key: str) -> bytes | None:
        """Return a committed note, None when there is none."""
        ...

    def notes(self, prefix: str) -> dict[str, bytes]:
        """Return the committed notes whose keys start with `prefix`."""
        ...

    def commit(self, writes: Sequence[Write]) -> asyncio.Future[int]:
        """Make decisions durable in one transaction; the result is the newest sequence number.

        A raw frame whose (node, epoch, counter) is known already adds no event and no rows: exactly once.
        """
        ...

    def quarantine(self, data: bytes, reason: str, received: float) -> asyncio.Future[int]:
        """Keep a frame that cannot be attributed, for later; the oldest make room."""
        ...

    def ack(self, output: str, seq: int) -> asyncio.Future[int]:
        """Move an output's cursor: everything up to `seq` has been taken by its destination."""
        ...

    def resume(self) -> asyncio.Future[int]:
        """Take commits again after a failure."""
        ...

    def cursor(self, output: str) -> int:
        """Return an output's committed cursor, 0 for a new one."""
        ...

    def newest(self) -> int:
        """Return the sequence number of the newest committed event."""
        ...

    def online(self) -> list[tuple[int, NodeState]]:
        """Return the nodes last known as online, with their states (start-up only: O(nodes))."""
        ...

    def airtime(self, since_us: int) -> list[tuple[str, int, int, int]]:
        """Return booked transmissions (transmitter, sub-band, start us, airtime us) after since_us, oldest first."""
        ...

    def book(self, transmitter: str, band: int, start_us: int, airtime_us: int) -> asyncio.Future[int]:
        """Remember a transmission of ours, for the duty cycle after a restart."""
        ...

    def purge(self, spool_before: float) -> asyncio.Future[int]:
        """Drop spool entries that every output has taken and that were received before Unix time spool_before."""
        ...

    def close(self) -> None:
        """Finish what is queued and let go."""
        ...

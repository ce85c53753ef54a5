"""The seam between the service and whatever keeps its data."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from gateway.core.model import Described, Event, NodeState

if TYPE_CHECKING:
    from gateway.store.ledger import Ledger

STORE = "store"
"""The kind of events that tell what happened to the store itself: `status` holds the reason (one of REASONS) and what was lost; `name` is
the gateway's."""
REASONS = (
    "size_limit", "store_damaged", "unreadable", "disk_full", "disk_has_room", "store_gone", "wal_missing", "wal_damaged", "floor_missing",
    "store_stray_file",
)  # fmt: skip


NO_NOTES: Mapping[str, bytes | None] = {}


class StoreError(Exception):
    """The store cannot be opened or a commit failed; `hint` says what to do."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


class Unstorable(Exception):
    """A write that no store takes: what of it (state, event, row, frame, note, audit) and why. at: its index in what was to be committed."""

    def __init__(self, what: str, why: str, at: int = 0) -> None:
        super().__init__(f"{what}: {why}")
        self.what, self.at = what, at


class RawFrame(msgspec.Struct, frozen=True):
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


class Write(msgspec.Struct, frozen=True):
    """All that one decision changes; committed whole or not at all.

    more: events that follow from `event` (rules, aggregates), spooled behind it. notes: named states of whoever made them
    (a key starts with its owner's name and a colon), None removes one. A decision that concerns no node has state None.
    When `raw` is known already nothing of this but the state is written. again: `raw` is a frame that was kept unread and can be read
    now; its event counts once.
    """

    node: int
    state: NodeState | None
    event: Event | None = None
    raw: RawFrame | None = None
    more: tuple[Event, ...] = ()
    notes: Mapping[str, bytes | None] = msgspec.field(default_factory=dict)
    again: bool = False


def is_express(event: Event) -> bool:
    """True for what goes out before any backlog: alarms, and what the store has to say of itself."""
    return event.alarm is not None or event.kind == STORE


class Entry(msgspec.Struct, frozen=True):
    """One spooled event and its place in the order of commits. express: it is in the lane of alarms, too."""

    seq: int
    event: Event
    express: bool = False


class Engine(Protocol):
    """commit, quarantine and ack return futures that resolve when the change is durable, or raise StoreError.

    After a failed commit every later one fails too until resume(): they were decided on a state that does not exist.
    """

    @property
    def full(self) -> bool:
        """True while the disk has no room but for alarms: nothing else is to be committed."""
        ...

    @property
    def ledger(self) -> Ledger:
        """Return what is current of every subject, kept with the events it follows from."""
        ...

    @property
    def newest_express(self) -> int:
        """Return a number that no committed event of the express lane is above."""
        ...

    def fetch(self, after: int, limit: int) -> list[Entry]:
        """Return spooled events behind sequence number `after`, in order, at most `limit`; those of the express lane too."""
        ...

    def fetch_express(self, after: int, limit: int) -> list[Entry]:
        """Return the events of the express lane behind `after`, in order, at most `limit`."""
        ...

    def fresh(self) -> NodeState:
        """Return the state of a node that was never heard by this store: its downlink counter is above any that another one used."""
        ...

    def unread(
        self, after: tuple[int, int, int] = (0, 0, 0), limit: int = 64, node: int | None = None
    ) -> list[RawFrame]:
        """Return frames kept because of an unknown schema, behind (node, epoch, counter), in that order; of one node if named."""
        ...

    def load(self, node: int) -> NodeState | None:
        """Return the committed state of a node, None when it was never heard."""
        ...

    def described(self, nodes: Sequence[int]) -> dict[int, Described]:
        """Return what the metadata of nodes were made from, by number, of those that were ever heard or introduced; at most some
        thousand nodes in one call."""
        ...

    def check(self, state: NodeState) -> None:
        """Raise Unstorable for a state that could not be stored, or not be read again."""
        ...

    def note(self, key: str) -> bytes | None:
        """Return a committed note, None when there is none."""
        ...

    def notes(self, prefix: str) -> dict[str, bytes]:
        """Return the committed notes whose keys start with `prefix`."""
        ...

    def commit(self, writes: Sequence[Write]) -> asyncio.Future[int]:
        """Make decisions durable in one transaction; the result is the newest sequence number.

        A raw frame whose (node, epoch, counter) is known already adds no event and no rows: exactly once. Raises Unstorable for the first
        write that cannot be stored; nothing of any of them is queued then. Only the database itself can fail the future.
        """
        ...

    @property
    def floor(self) -> int:
        """Return what the downlink counters of every node begin above; it may rise while the gateway works."""
        ...

    def quarantine(self, data: bytes, reason: str, received: float) -> asyncio.Future[int]:
        """Keep a frame that cannot be attributed, for later; the oldest of the same reason make room."""
        ...

    def ack(
        self, output: str, seq: int, express: int | None = None, notes: Mapping[str, bytes | None] = NO_NOTES
    ) -> asyncio.Future[int]:
        """Move an output's cursors: everything up to `seq` has been taken by its destination, and of the express lane everything up to
        `express` (None: the output has no such lane, it takes everything in order). notes: as in Write, in the same commit."""
        ...

    def resume(self) -> asyncio.Future[int]:
        """Take commits again after a failure."""
        ...

    def cursor(self, output: str) -> int:
        """Return an output's committed cursor, 0 for a new one."""
        ...

    def express_cursor(self, output: str) -> int:
        """Return an output's committed cursor in the express lane, 0 for a new one."""
        ...

    def newest(self) -> int:
        """Return the sequence number of the newest committed event."""
        ...

    def online(self) -> list[tuple[int, float]]:
        """Return the nodes last known as online, and when each was heard, Unix s (start-up only: O(nodes))."""
        ...

    def believed(self) -> float:
        """Return a Unix time that has passed whatever the host's clock shows for a while (trust.py); it never steps."""
        ...

    def airtime(self, since_us: int) -> list[tuple[str, int, int, int]]:
        """Return booked transmissions (transmitter, sub-band, start us, airtime us) after since_us, oldest first."""
        ...

    def book(self, transmitter: str, band: int, start_us: int, airtime_us: int) -> asyncio.Future[int]:
        """Remember a transmission of ours, for the duty cycle after a restart."""
        ...

    def purge(self, now: float) -> asyncio.Future[int]:
        """Do one bounded step of retention at Unix time `now`. The result is 1 while the pass is not over, then 0."""
        ...

    def tell(self, reason: str, told: Mapping[str, Any] | None = None) -> asyncio.Future[int]:
        """Spool an event of kind "store", also while `full`."""
        ...

    def make_room(self) -> asyncio.Future[int]:
        """While `full`: look whether there is room again. The result is 1 when everything may be committed."""
        ...

    def wipe(self) -> None:
        """A secret that was committed is overwritten, and that is committed too: see to it soon that it is in no file any more."""
        ...

    def close(self) -> None:
        """Finish what is queued and let go."""
        ...

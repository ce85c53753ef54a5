"""The values that flow through the core. All are frozen; times are Unix seconds, `received` with a fraction."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, Protocol

import msgspec

from gateway.core.replay import Replay
from gateway.core.value import replace

OPEN = "open"
RESTRICTED = "restricted"
PERSONAL = "personal"
MAX_KEYS = 8  # epochs of a node whose keys are remembered


@lru_cache(maxsize=4096)
def fingerprint(key: bytes) -> bytes:
    """Return 8 bytes by which a key is known again, and from which it cannot be found."""
    return hashlib.sha256(key + b"citymote").digest()[:8]


@dataclass(frozen=True, slots=True)
class Node:
    """A provisioned node as the registry knows it. `key` is the 16-byte AES key and never part of a repr.

    next_key, next_epoch: what it is to change to; both or neither. area: names of the areas it belongs to (district, lot, shaft).
    """

    id: int
    name: str
    key: bytes = field(repr=False)
    epoch: int = 0
    profile: str = "unknown"
    interval_s: int = 3600
    lat: float | None = None
    lon: float | None = None
    visibility: str = RESTRICTED
    next_key: bytes | None = field(default=None, repr=False)
    next_epoch: int | None = None
    area: tuple[str, ...] = ()

    @property
    def secrets(self) -> tuple[bytes, int, bytes | None, int | None]:
        """Its keys and their epochs."""
        return self.key, self.epoch, self.next_key, self.next_epoch

    def next(self) -> Node | None:
        """Return this node under the key it is to change to, None when it is to keep the one it has."""
        if self.next_key is None or self.next_epoch is None:
            return None
        return replace(self, key=self.next_key, epoch=self.next_epoch, next_key=None, next_epoch=None)

    def key_changed(self, proven: Mapping[int, bytes]) -> int | None:
        """Return the epoch for which the registry has another key than the one that has proven itself under it; None when there is none.

        proven: fingerprints by epoch. Counters belong to an epoch: those of the key before would be taken for those of this one.
        """
        keys = [(self.epoch, self.key)]
        if self.next_key is not None and self.next_epoch is not None:
            keys.append((self.next_epoch, self.next_key))
        for epoch, key in keys:
            if epoch in proven and proven[epoch] != fingerprint(key):
                return epoch
        return None

    def too_low(self, in_force: int, proven: Mapping[int, bytes]) -> int | None:
        """Return the epoch that the registry goes back to from a higher one, None when it does not.

        in_force: the epoch of its state; proven: as of key_changed. Of lower epochs less is known (MAX_KEYS, counters, frames that were
        dropped), so what was taken under one could come again, or what is new be taken for it.
        """
        epoch = self.under(in_force).epoch
        return epoch if epoch != in_force and epoch < max((in_force, *proven)) else None

    def under(self, epoch: int) -> Node:
        """Return this node with the key that the committed `epoch` of its state has proven."""
        after = self.next()
        return after if after is not None and after.epoch == epoch else self


class Radio(msgspec.Struct, frozen=True):
    """How a LoRa frame was heard: what a downlink into its receive window must copy. tmst: concentrator us, 32 bits."""

    freq_hz: int
    sf: int
    bw_hz: int
    codr: str
    tmst: int


class Reception(msgspec.Struct, frozen=True):
    """One copy of a frame as one receiver delivered it. rssi dBm, snr dB, None where the bearer has none.

    shift_s: by how much the time that most nodes go by lies ahead of `received`, where it is another (core/witness.py). former: the
    clock was set since, and theirs is the time before; else the gateway's clock is known to be wrong, and theirs is the true time.
    """

    data: bytes
    received: float
    link: str
    receiver: str
    rssi: int | None = None
    snr: float | None = None
    radio: Radio | None = None
    shift_s: float = 0.0
    former: bool = False


class AlarmState(msgspec.Struct, frozen=True):
    """A rule that is up: since when, and the (time, counter) of the newest message that said so; counter 0: of a former key."""

    since: int
    t: int
    counter: int


class NodeState(msgspec.Struct, frozen=True):
    """Everything the gateway remembers of a node between frames; committed with every decision.

    down: last downlink counter given out. latest: row time of the newest value per quantity, never later than its receipt. sealed: counter of
    the frame that brought it, so that late data never replace newer retained values, whatever clocks did; 0: of a former key. marks: (time, counter) of the newest message per quantity id that cleared its alarms.
    schemas: announced by the node. said, announced: counter of the newest frame that told a status key (motewire.codes), a schema.
    keys: fingerprint of the key that has proven itself under an epoch, of the MAX_KEYS highest epochs; empty in states of older gateways.
    former: epochs of `keys` that devices had which the number was of before, and this one has not.
    Counters are those of `epoch`. status: when the node last told how it is; rhythm: see core/rhythm.py.
    """

    epoch: int = 0
    replay: Replay = msgspec.field(default_factory=Replay)
    down: int = 0
    heard: float = 0.0
    online: bool = False
    latest: Mapping[str, float] = msgspec.field(default_factory=dict)
    alarms: Mapping[str, AlarmState] = msgspec.field(default_factory=dict)
    marks: Mapping[int, tuple[int, int]] = msgspec.field(default_factory=dict)
    schemas: Mapping[int, tuple[int, ...]] = msgspec.field(default_factory=dict)
    ids: tuple[int, ...] = ()
    boots: int | None = None
    firmware: str | None = None
    meta: str = ""
    said: Mapping[int, int] = msgspec.field(default_factory=dict)
    announced: Mapping[int, int] = msgspec.field(default_factory=dict)
    status: float = 0.0
    rhythm: tuple[int, int] = (0, 0)
    keys: Mapping[int, bytes] = msgspec.field(default_factory=dict)
    sealed: Mapping[str, int] = msgspec.field(default_factory=dict)
    former: tuple[int, ...] = ()

    def is_of(self, node: Node) -> bool:
        """True when this state may be of the device that has the keys of `node`. Without fingerprints its epoch is asked."""
        if not self.keys:
            return self.epoch in (node.epoch, node.next_epoch)
        known = [self.keys[epoch] for epoch in self.keys if epoch not in self.former]
        return fingerprint(node.key) in known or node.next_key is not None and fingerprint(node.next_key) in known

    def is_replaced(self, node: Node) -> bool:
        """True when the registry gives the node a key that this state is not of, nor was to change to: it is another board's."""
        return self.heard > 0 and self.epoch not in (node.epoch, node.next_epoch)

    def bare(self) -> NodeState:
        """Return the state of a device that takes over a number: counters and keys that were used stay, nothing that was measured does."""
        return NodeState(self.epoch, self.replay, self.down, keys=self.keys, former=tuple(self.keys))

    def proven(self, epoch: int, key: bytes) -> NodeState:
        """Return this state with the knowledge that frames have proven `key` under `epoch`."""
        if epoch in self.keys and epoch not in self.former:
            return self
        keys = {**self.keys, epoch: fingerprint(key)}
        former = tuple(e for e in self.former if e != epoch)
        return replace(self, keys={e: keys[e] for e in sorted(keys)[-MAX_KEYS:]}, former=former)


class Described(Protocol):
    """What of a node's state its metadata rest on. A whole NodeState is one."""

    @property
    def epoch(self) -> int: ...
    @property
    def ids(self) -> tuple[int, ...]: ...
    @property
    def firmware(self) -> str | None: ...
    @property
    def rhythm(self) -> tuple[int, int]: ...
    @property
    def keys(self) -> Mapping[int, bytes]: ...
    @property
    def meta(self) -> str:
        """The metadata that were published last, "" when none were."""
        ...


class Column(msgspec.Struct, frozen=True):
    """All values of one quantity in a report. `suspect` lists the rows outside the valid range or with an impossible time."""

    key: str
    unit: str
    values: tuple[int | float | None, ...]
    suspect: tuple[int, ...] = ()


class Circle(msgspec.Struct, frozen=True):
    """Which filters an alarm was judged by when it was raised, beside its event's visibility: the node's profile and its areas."""

    profile: str
    areas: tuple[str, ...] = ()


class Alarm(msgspec.Struct, frozen=True):
    """One alarm message. `state` is raised, updated, cleared, event or late (older than what is known; history only).

    t: never more than FUTURE_S after receipt. suspect: the value lies outside its quantity's range, or the node's time could not be true.
    Of the gateway's own rules: reference names the protocol or law behind the limit, text says it to people per language. circle: of a
    clear, in which circle it was raised; then that decides who sees it, whatever the registry says by now.
    """

    state: Literal["raised", "updated", "cleared", "event", "late"]
    code: str
    severity: str
    quantity: str
    unit: str
    value: int | float | None
    limit: int | float | None
    t: int
    since: int
    rules: tuple[str, ...] = ()
    reference: str = ""
    text: Mapping[str, str] | None = None
    suspect: bool = False
    circle: Circle | None = None


class AggregateValue(msgspec.Struct, frozen=True):
    """One quantity of an aggregate. value None: less than the asked share was captured. capture: percent, 0 to 100."""

    quantity: str
    unit: str
    value: int | float | None
    capture: float


class Aggregate(msgspec.Struct, frozen=True):
    """What a closed period was, start < t <= end (Unix seconds). A later revision of the same period replaces it.

    latest: no newer period of this name was told before. detail: what is not a quantity (classes, flags, counts).
    over: the configuration no longer makes this name for the node: none is current. values say which quantities it was of.
    """

    name: str
    start: int
    end: int
    revision: int
    latest: bool
    values: tuple[AggregateValue, ...]
    detail: Mapping[str, Any] = msgspec.field(default_factory=dict)
    over: bool = False


class Area(msgspec.Struct, frozen=True):
    """What is known of an area (a car park, a shaft): `name` is what, `body` says it; latest as in Aggregate."""

    area: str
    name: str
    t: int
    body: Mapping[str, Any]
    latest: bool = True


def frame_id(node: int, epoch: int, counter: int) -> str:
    """Return the id of what a frame brought, "<node>:<epoch>:<counter>": counters begin again under a new key, this does not repeat."""
    return f"{node}:{epoch}:{counter}"


class Event(msgspec.Struct, frozen=True):
    """What one decision tells the outputs: the entry of the spool. `id` is frame_id(...), the same at every repeat; what follows from a
    frame appends to it; what the gateway declares by itself (offline, meta) has a word and a time in place of the counter.

    kind: report, alarm, status, offline, meta, command, opaque (authentic, but kept raw), and what followed
    from those: aggregate, area. An alarm of an area has `area` beside it and no node (0). latest: (column, row) pairs that are newer
    than anything published before. occurrences: rows are events, each is told singly. online: presence if it changed.
    meta: the node's metadata if they changed. status: named values of a status frame. command: a step of a command (core/commands.py);
    the store enters it in the audit log. stale: names in `status` that a frame of a higher counter has told before: history, of which
    `current_status` is free; whoever shows or judges how a node is now looks at that. health_s: every how many seconds it says so.
    """

    kind: str
    id: str
    node: int
    name: str
    visibility: str
    received: float
    interval_s: int
    counter: int = 0
    epoch: int = 0
    link: str = ""
    receiver: str = ""
    copies: int = 1
    rssi: int | None = None
    snr: float | None = None
    times: tuple[int, ...] = ()
    columns: tuple[Column, ...] = ()
    latest: tuple[tuple[int, int], ...] = ()
    occurrences: bool = False
    alarm: Alarm | None = None
    status: Mapping[str, Any] | None = None
    rebooted: bool = False
    online: bool | None = None
    meta: Mapping[str, Any] | None = None
    aggregates: tuple[Aggregate, ...] = ()
    area: Area | None = None
    command: Mapping[str, Any] | None = None
    stale: tuple[str, ...] = ()
    health_s: int = 21_600

    @property
    def current_status(self) -> Mapping[str, Any]:
        """What a status frame says of how the node is now: empty when all of it is older than what was told before."""
        status = self.status or {}
        return {key: value for key, value in status.items() if key not in self.stale} if self.stale else status


class Refusal(msgspec.Struct, frozen=True):
    """Why a frame, or its content, was not taken. `reason` is the metric label; `keep` asks for the raw frame to be kept; full: the
    node's places are taken by what it sent before."""

    reason: str
    node: int | None = None
    detail: str = ""
    keep: bool = False
    full: bool = False


class Answer(msgspec.Struct, frozen=True):
    """A downlink that may be sent once the decision is committed: its counter, the ack map (and which schemas to announce) and whether to tell the time.

    rekey: the next key is due to be offered with it.
    """

    counter: int
    ack: Mapping[int, int | bytes | tuple[int, ...]]
    with_time: bool
    rekey: bool = False


class Decision(msgspec.Struct, frozen=True):
    """What one frame changes. event None and refusal set: refused. Both set: authentic, committed raw, told as opaque.

    offset_s: newest absolute row time less receive time, None where the frame has none.
    """

    state: NodeState
    counter: int = 0
    event: Event | None = None
    refusal: Refusal | None = None
    answer: Answer | None = None
    offset_s: float | None = None

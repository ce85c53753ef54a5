"""From a decision to what the database is given, made before the decision joins a group: what cannot be stored is one frame's fault.

Everything is encoded and bounded here, in the caller: integers of 64 bits, finite times, text that UTF-8 knows, and bodies that can be
read again. After that only the database itself can fail a commit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gateway.core.model import Event, NodeState
from gateway.store.audit import Step, step_of
from gateway.store.engine import RawFrame, Unstorable, Write, is_express
from gateway.store.schema import LAST

INT_MAX = (1 << 63) - 1

_encode = msgspec.msgpack.Encoder().encode
_event = msgspec.msgpack.Decoder(Event).decode
_state = msgspec.msgpack.Decoder(NodeState).decode
_FAULTS = (msgspec.MsgspecError, OverflowError, TypeError, ValueError, RecursionError)


class Entered(msgspec.Struct, frozen=True):
    """An event for the spool. step: its row of the audit log."""

    received: float
    body: bytes
    express: bool
    event: Event
    step: Step | None = None


class Prepared(msgspec.Struct, frozen=True):
    """A Write as the tables take it; see there. down: the downlink counter that is given out with it, 0 for none."""

    node: int
    state: bytes | None
    online: bool
    down: int
    too_old: bool
    raw: RawFrame | None
    event: Entered | None
    rows: tuple[tuple[Any, ...], ...]
    more: tuple[Entered, ...]
    notes: Mapping[str, bytes | None]
    again: bool


def prepare(w: Write) -> Prepared:
    """Return what is to be written. Raises Unstorable."""
    bound("write", (w.node,))
    state, s, r = None, w.state, w.raw
    if s is not None:
        state = encode_state(s)
    if r is not None:
        if None in (r.node, r.epoch, r.counter, r.kind, r.received, r.link, r.receiver, r.reason, r.data):
            raise Unstorable("frame", "a part of it is missing")
        bound(
            "frame",
            (r.node, r.epoch, r.counter, r.kind, r.received, r.link, r.receiver, r.rssi, r.snr, r.reason, r.data),
        )
    event = None if w.event is None else enter(w.event)
    rows = () if w.event is None or not w.event.times else tuple(_rows(w.event))
    for key, note in w.notes.items():
        bound("note", (key, note))
    return Prepared(
        w.node, state, s is not None and s.online, 0 if s is None else s.down,
        s is not None and r is not None and s.replay.too_old(r.counter),
        r, event, rows, tuple(enter(e) for e in w.more), w.notes, w.again,
    )  # fmt: skip


def encode_state(state: NodeState) -> bytes:
    """Return the stored form of a node's state, which is known to be readable. Raises Unstorable."""
    try:
        body = _encode(state)
        _state(body)
    except _FAULTS as e:
        raise Unstorable("state", f"{type(e).__name__}: {e}") from e
    if not 0 <= state.down <= LAST:
        raise Unstorable("state", "the downlink counters of this key are used up")
    return body


def enter(event: Event) -> Entered:
    """Return an event as the spool takes it. Raises Unstorable.

    Reports are read from bits into numbers, and are not read again here; what comes from maps of a node's or a person's own making is.
    """
    bound("event", (event.received, event.name))
    try:
        body = _encode(event)
        if not event.times:
            _event(body)
        step = None if event.command is None else step_of(event)
    except _FAULTS as e:
        raise Unstorable("event", f"{type(e).__name__}: {e}") from e
    if step is not None:
        bound(
            "audit",
            (step.t, step.node, step.requester, step.id, step.number, step.name, step.state, step.detail, step.body),
        )
    return Entered(event.received, body, is_express(event), event, step)


def bound(what: str, values: Iterable[Any]) -> None:
    """Raise Unstorable unless SQLite takes these values as they are."""
    for v in values:
        if isinstance(v, int):
            if not -INT_MAX <= v <= INT_MAX:
                raise Unstorable(what, "an integer of more than 64 bits")
        elif isinstance(v, float):
            if not math.isfinite(v):
                raise Unstorable(what, "a number that is not finite")
        elif isinstance(v, str):
            try:
                v.encode()
            except UnicodeEncodeError:
                raise Unstorable(what, "text that is no Unicode") from None
        elif v is not None and not isinstance(v, bytes):
            raise Unstorable(what, f"a {type(v).__name__}")


def _rows(event: Event) -> Iterable[tuple[Any, ...]]:
    columns = event.columns
    for i, t in enumerate(event.times):
        values = {c.key: c.values[i] for c in columns if c.values[i] is not None}
        suspect = ",".join(c.key for c in columns if i in c.suspect)
        try:
            text = msgspec.json.encode(values).decode()
        except _FAULTS as e:
            raise Unstorable("row", f"{type(e).__name__}: {e}") from e
        if not isinstance(t, int) or abs(t) > INT_MAX:
            raise Unstorable("row", "a time that is no integer of 64 bits")
        yield event.node, event.epoch, event.counter, i, t, text, suspect or None

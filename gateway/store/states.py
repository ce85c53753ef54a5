"""A node's state as it is stored; and what to make of one that cannot be read: all of it that can, and replay protection in any case."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any, get_type_hints

import msgspec

from gateway.core.model import Node, NodeState
from gateway.core.replay import Replay
from gateway.core.value import replace

_hints = get_type_hints(NodeState)
_names = NodeState.__struct_fields__

decode = msgspec.msgpack.Decoder(NodeState).decode
encode = msgspec.msgpack.Encoder().encode


class Description(msgspec.Struct, frozen=True):
    """What of a stored state a node's metadata rest on (core.model.Described): a start reads no more of 25,000 states."""

    ids: tuple[int, ...] = ()
    firmware: str | None = None
    rhythm: tuple[int, int] = (0, 0)
    meta: str = ""
    keys: Mapping[int, bytes] = {}
    epoch: int = 0


class Heard(msgspec.Struct, frozen=True):
    """When a stored state was heard last, Unix s."""

    heard: float = 0.0


describe = msgspec.msgpack.Decoder(Description).decode
hear = msgspec.msgpack.Decoder(Heard).decode


def salvage(body: bytes) -> tuple[NodeState, tuple[str, ...]]:
    """Return what can be read of a stored state, and the names of the members that are lost and have their first value again."""
    try:
        found: Any = msgspec.msgpack.decode(body)
    except msgspec.MsgspecError:
        found = None
    if not isinstance(found, dict):
        return NodeState(), _names
    kept: dict[str, Any] = {}
    lost: list[str] = []
    for name in _names:
        if name not in found:
            continue
        try:
            kept[name] = msgspec.convert(found[name], _hints[name], strict=True, str_keys=False)
        except msgspec.MsgspecError:
            lost.append(name)
    return NodeState(**kept), tuple(lost)


def replay_of(db: sqlite3.Connection, node: int, epoch: int | None) -> tuple[int, Replay] | None:
    """Return (epoch, replay state) as the stored frames prove it, of the newest epoch unless one is named; None when there are none.

    Nothing below the newest counter counts as news of its own then: what is older is looked up among the frames, one by one.
    """
    which, key = ("", (node,)) if epoch is None else (" AND epoch = ?", (node, epoch))
    found = [
        *db.execute(f"SELECT epoch, max(counter) + 1 FROM frames WHERE node = ?{which} GROUP BY epoch", key),
        *db.execute(f"SELECT epoch, below FROM forgotten WHERE node = ?{which}", key),
    ]
    if not found:
        return None
    newest, next_ = max(found)
    return newest, Replay(next_, next_)


def _kept(db: sqlite3.Connection, node: int) -> NodeState | None:
    """The state of a node, None when there is none or it cannot be read: whoever loads it says so."""
    row = db.execute("SELECT state FROM nodes WHERE node = ?", (node,)).fetchone()
    try:
        return None if row is None else decode(row[0])
    except msgspec.MsgspecError:
        return None


def calm(db: sqlite3.Connection, node: int) -> None:
    """Let no alarm of a node be up any more. A state that cannot be read stays as it is."""
    state = _kept(db, node)
    if state is not None and state.alarms:
        db.execute("UPDATE nodes SET state = ? WHERE node = ?", (encode(replace(state, alarms={})), node))


def bare(db: sqlite3.Connection, node: Node) -> bool:
    """Leave nothing but counters and keys of a state that is of another device than this node; return whether it was."""
    state = _kept(db, node.id)
    if state is None or state.is_of(node) or not state.heard:
        return False
    db.execute("UPDATE nodes SET state = ?, online = 0 WHERE node = ?", (encode(state.bare()), node.id))
    return True


def exchanged(db: sqlite3.Connection, node: Node) -> bool:
    """Let no alarm be up any more in a state whose key the registry has replaced; return whether it has."""
    state = _kept(db, node.id)
    if state is None or not state.is_replaced(node):
        return False
    calm(db, node.id)
    return True


def taken(db: sqlite3.Connection, node: int) -> dict[int, int]:
    """Return up to below which counter of each epoch rows of a node are stored."""
    found: dict[int, int] = {}
    epoch = -1
    while True:  # by the index
        (epoch,) = db.execute("SELECT min(epoch) FROM rows WHERE node = ? AND epoch > ?", (node, epoch)).fetchone()
        if epoch is None:
            return found
        (last,) = db.execute("SELECT max(counter) FROM rows WHERE node = ? AND epoch = ?", (node, epoch)).fetchone()
        found[epoch] = last + 1

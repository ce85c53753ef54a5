"""Fills the ledger of a store from before there was one: from the events it still holds, then from node states and rows.

One transaction, so a cut leaves nothing half done and the next start does it again. It is also done after a salvage that lost facts.
"""

from __future__ import annotations

import ast
import sqlite3
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog

from gateway.core.current import MAX_VALUES, VALID_INTERVALS, Current, Device, Reading, Up, Value
from gateway.core.model import RESTRICTED, Alarm, Event, NodeState
from gateway.core.registry import VISIBILITIES
from gateway.core.value import replace
from gateway.store.ledger import FILLED, Folding

CHUNK = 1000

log = structlog.get_logger(__name__)
_event = msgspec.msgpack.Decoder(Event).decode
_state = msgspec.msgpack.Decoder(NodeState).decode


def fill(db: sqlite3.Connection) -> None:
    """Fill the ledger unless that was done. Raises sqlite3.Error."""
    if db.execute("SELECT 1 FROM notes WHERE key = ?", (FILLED,)).fetchone() is not None:
        return
    began, events, rotten = time.monotonic(), 0, 0
    db.execute("BEGIN IMMEDIATE")
    try:
        folding = Folding()
        every = "SELECT seq, body FROM alarms UNION ALL SELECT seq, body FROM spool ORDER BY seq"
        for seq, body in db.execute(every):
            try:
                folding.add(db, seq, _event(body))
            except msgspec.MsgspecError:
                rotten += 1
            events += 1
            if events % CHUNK == 0:
                folding.flush(db)
        (newest,) = db.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'spool'").fetchone()
        nodes = 0
        for node, body in db.execute("SELECT node, state FROM nodes ORDER BY node"):
            try:
                state = _state(body)
            except msgspec.MsgspecError:
                rotten += 1
                continue
            subject = str(node)
            folding.put(db, newest, subject, _completed(db, node, state, folding.of(db, subject)[2]))
            nodes += 1
            if nodes % CHUNK == 0:
                folding.flush(db)
        folding.flush(db)
        db.execute("INSERT OR REPLACE INTO notes VALUES (?, '1')", (FILLED,))
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    if events or nodes:
        log.info(
            "ledger_filled", events=events, nodes=nodes, unreadable=rotten, seconds=round(time.monotonic() - began, 1)
        )


def _completed(db: sqlite3.Connection, node: int, state: NodeState, c: Current) -> Current:
    """Return facts with what the node's state and rows know beside them."""
    meta = c.meta if c.meta is not None else _meta(state.meta)
    visibility = str((meta or {}).get("visibility", RESTRICTED))
    circle = VISIBILITIES.index(visibility) if visibility in VISIBILITIES else VISIBILITIES.index(RESTRICTED)
    changes: dict[str, Any] = {"meta": meta, "visibility": VISIBILITIES[circle]}
    if c.online is None and state.heard:
        changes["online"] = state.online
    if c.device is None and state.heard:
        changes["device"] = Device(state.heard, state.online, state.heard, state.heard, None, state.firmware)
    values, interval = dict(c.values), int((meta or {}).get("interval", 0))
    units = (meta or {}).get("quantities", {})
    for key, t in state.latest.items():
        known = values.get(key)
        if (known is None or known.t < t) and len(values) < MAX_VALUES:
            found = _row(db, node, key, t)
            if found is not None:
                value, suspect, received = found
                valid = Reading(value, int(t), interval) if not suspect else known.valid if known is not None else None
                values[key] = Value(
                    value, units.get(key, ""), int(t), suspect, received, VALID_INTERVALS * interval, circle, valid
                )
    changes["values"] = values
    alerts = dict(c.alerts)
    for rule, up in state.alarms.items():
        if rule not in alerts:
            quantity, _, code = rule.rpartition("-")
            told = Alarm("raised", code, "fault" if code == "fault" else "warning", quantity, units.get(quantity, ""), None, None,
                         up.t, up.since, (rule,))  # fmt: skip
            alerts[rule] = Up(told, float(up.t), circle)
    changes["alerts"] = alerts
    return replace(c, **changes)


def _meta(text: str) -> Mapping[str, Any] | None:
    """Read what NodeState.meta remembers of what was published: the repr of sorted items."""
    try:
        found = dict(ast.literal_eval(text)) if text else None
    except (ValueError, SyntaxError, TypeError):
        return None
    return (
        found
        if found is not None and {"name", "profile", "interval", "visibility", "quantities"} <= found.keys()
        else None
    )


def _row(db: sqlite3.Connection, node: int, key: str, t: float) -> tuple[float, bool, float] | None:
    found = db.execute(
        "SELECT r.vals, r.suspect, f.received FROM rows r LEFT JOIN frames f"
        " ON f.node = r.node AND f.epoch = r.epoch AND f.counter = r.counter"
        " WHERE r.node = ? AND r.t = ? ORDER BY r.epoch DESC, r.counter DESC",
        (node, int(t)),
    )
    for vals, suspect, received in found:
        value = msgspec.json.decode(vals).get(key)
        if value is not None:
            return value, key in (suspect or "").split(","), float(t) if received is None else received
    return None

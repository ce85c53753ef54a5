"""What a store that gives way to a backup has published, and the backup does not know: nothing empties that by itself."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import msgspec

from gateway.core.shape import Shape
from gateway.store.engine import StoreError
from gateway.store.glance import looked_into
from gateway.store.ledger import Place, read_place

DISCOVERY = "homeassistant"


def behind(former: Path, now: Path) -> list[dict[str, Any]] | None:
    """Return outputs that `former` publishes and `now` has never known so: {"output", "address", "root", "discovery"}, the last "" where it
    has none. None where a store cannot be read, as one that is damaged. Neither file is changed.
    """
    try:
        before, after = _places(former), _places(now)
    except (StoreError, sqlite3.Error, msgspec.MsgspecError):
        return None
    found = list[dict[str, Any]]()
    for key, place in sorted(before.items()):
        other = after.get(key)
        known = (
            set() if other is None else {_where(s) for s in (other.now, *(s for _, s in other.past)) if s is not None}
        )
        if place.now is not None and _where(place.now) not in known:
            root, discovery = _where(place.now)
            found.append({"output": place.output, "address": place.address, "root": root, "discovery": discovery})
    return found


def _places(store: Path) -> dict[str, Place]:
    index = store.with_name(f"{store.name}-shm")
    there = index.exists()
    try:
        with looked_into(store) as db:
            rows = [] if db is None else db.execute("SELECT place, body FROM places").fetchall()
    finally:
        if not there:  # a reader of a store with a log makes it
            index.unlink(missing_ok=True)
    return {key: read_place(body) for key, body in rows}


def _where(shape: Shape) -> tuple[str, str]:
    return shape.root, shape.discovery if DISCOVERY in shape.formats else ""

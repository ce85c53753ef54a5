"""What a store knows of its nodes, read beside whoever works with it and without a change to any file of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import msgspec

from gateway.config.rights import denied
from gateway.core.model import Node
from gateway.core.registry import VISIBILITIES
from gateway.core.shape import Entry
from gateway.store import ledger, states
from gateway.store.engine import StoreError


def described(store: Path) -> Mapping[int, states.Description]:
    """Return what nodes' metadata and keys rest on, by number; a state that cannot be read is left out. Raises StoreError.

    A store that is not there, or holds nothing yet, knows of none.
    """
    found: dict[int, states.Description] = {}
    with looked_into(store) as db:
        for node, body in db.execute("SELECT node, state FROM nodes") if db is not None else ():
            try:
                found[node] = states.describe(body)
            except msgspec.MsgspecError:
                continue  # whoever works with the store reads what is left of it, and logs that
    return found


def departed(store: Path, nodes: Mapping[int, Node]) -> dict[int, Node]:
    """Return the nodes that have readings in the store and are not among `nodes`, without keys, under the last entry that is known of each.

    One of which no entry is known any more has its number for a name, and the narrowest circle. Raises StoreError.
    """
    found: dict[int, Node] = {}
    with looked_into(store) as db:
        number = -1
        while db is not None:  # by the index: DISTINCT would read all rows
            (number,) = db.execute("SELECT min(node) FROM rows WHERE node > ?", (number,)).fetchone()
            if number is None:
                break
            if number not in nodes:
                row = db.execute("SELECT body FROM entries WHERE subject = ?", (str(number),)).fetchone()
                last = None if row is None else ledger.last_entry(row[0])
                found[number] = (last or Entry(str(number), "unknown", VISIBILITIES[-1])).node(number)
    return found


@contextmanager
def looked_into(store: Path) -> Iterator[sqlite3.Connection | None]:
    """Give a connection that only reads, None for a store that is not there or holds nothing yet."""
    try:
        there = store.exists()
    except OSError as e:  # a folder on the way may not be entered
        raise StoreError(f"store {store}: {e.strerror}", denied(store)) from e
    if not there:
        yield None
        return
    # without a log file no one has it open: then not even the files of a reader are made, which would be another user's
    how = "mode=ro" if store.with_name(f"{store.name}-wal").exists() else "immutable=1"
    try:
        db = sqlite3.connect(f"file:{quote(str(store))}?{how}", uri=True, isolation_level=None)
        try:
            yield db if db.execute("PRAGMA user_version").fetchone()[0] else None
        finally:
            db.close()
    except sqlite3.Error as e:
        raise StoreError(f"store {store}: {e}", denied(store, "citymote gateway check --store says more")) from e

"""What a store knows of its nodes, read beside whoever works with it and without a change to any file of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import msgspec

from gateway.store import states
from gateway.store.engine import StoreError


def described(store: Path) -> Mapping[int, states.Description]:
    """Return what nodes' metadata and keys rest on, by number; a state that cannot be read is left out. Raises StoreError.

    A store that is not there, or holds nothing yet, knows of none.
    """
    if not store.exists():
        return {}
    # without a log file no one has it open: then not even the files of a reader are made, which would be another user's
    how = "mode=ro" if store.with_name(f"{store.name}-wal").exists() else "immutable=1"
    found: dict[int, states.Description] = {}
    try:
        db = sqlite3.connect(f"file:{quote(str(store))}?{how}", uri=True, isolation_level=None)
        try:
            if not db.execute("PRAGMA user_version").fetchone()[0]:
                return {}
            for node, body in db.execute("SELECT node, state FROM nodes"):
                try:
                    found[node] = states.describe(body)
                except msgspec.MsgspecError:
                    continue  # whoever works with the store reads what is left of it, and logs that
        finally:
            db.close()
    except sqlite3.Error as e:
        raise StoreError(f"store {store}: {e}", "citymote gateway check --store says more") from e
    return found

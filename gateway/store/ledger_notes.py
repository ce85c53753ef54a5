"""Single values that the ledger keeps among the notes of a store, and what each of them is.

The store's name and the number of its newest change of registry or outputs, the ids that this gateway had, how often an output has connected,
what a broker has refused to retain, and what is in force of the configuration.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Mapping

import msgspec

from gateway.core.value import replace

FORMER = 16  # ids that this gateway had
CONFIGURED = "current:configured"
IDS, REFUSED = "current:ids", "current:refused:"
LIFE, GENERATION, FILLED, TURN = "current:store", "current:generation", "current:filled", "current:turn:"

_encode = msgspec.msgpack.Encoder().encode


class Ids(msgspec.Struct, frozen=True):
    """The id that this gateway publishes under, and those it had, newest last, each with the places where what names it was found to be ours."""

    now: str = ""
    former: Mapping[str, tuple[str, ...]] = {}


def note(db: sqlite3.Connection, key: str) -> bytes | None:
    """Return one of them."""
    row = db.execute("SELECT body FROM notes WHERE key = ?", (key,)).fetchone()
    return None if row is None else row[0]


def keep(db: sqlite3.Connection, key: str, body: bytes) -> None:
    """Put one of them in the place of what it was."""
    db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (key, body))


def begin(db: sqlite3.Connection) -> None:
    """Give a store its name if it has none yet."""
    if note(db, LIFE) is None:
        born(db)


def born(db: sqlite3.Connection) -> None:
    """Give a store a name of its own: it is new, restored from a backup, or salvaged."""
    keep(db, LIFE, secrets.token_hex(8).encode())


def life(db: sqlite3.Connection) -> str:
    """Return the name of a store, "" before begin()."""
    return (note(db, LIFE) or b"").decode()


def generation(db: sqlite3.Connection) -> int:
    """Return the number of the newest change of registry or outputs."""
    return int(note(db, GENERATION) or 0)


def keep_generation(db: sqlite3.Connection, generation: int) -> None:
    """The registry or the outputs have changed."""
    keep(db, GENERATION, str(generation).encode())


def turn(db: sqlite3.Connection, place: str) -> int:
    """Return how often an output has connected."""
    return int(note(db, f"{TURN}{place}") or 0)


def keep_turn(db: sqlite3.Connection, place: str, turn: int) -> None:
    """An output has connected once more."""
    keep(db, f"{TURN}{place}", str(turn).encode())


def ids(db: sqlite3.Connection) -> Ids:
    """Return the ids of this gateway; none where they cannot be read."""
    body = note(db, IDS)
    try:
        return Ids() if body is None else msgspec.msgpack.decode(body, type=Ids)
    except msgspec.MsgspecError:
        return Ids()


def keep_id(db: sqlite3.Connection, gateway: str) -> None:
    """Note the id that this gateway publishes under from now on."""
    before = ids(db)
    if before.now == gateway:
        return
    former = {old: places for old, places in before.former.items() if old not in (gateway, before.now)}
    if before.now:
        former[before.now] = ()
    keep(db, IDS, _encode(Ids(gateway, dict(list(former.items())[-FORMER:]))))


def keep_former(db: sqlite3.Connection, old: str, place: str) -> None:
    """What names a former id at a place was found to be ours."""
    before = ids(db)
    places = before.former.get(old)
    if places is not None and place not in places:
        keep(db, IDS, _encode(replace(before, former={**before.former, old: (*places, place)})))


def read_refused(body: bytes | None) -> dict[str, list[str]]:
    """Return what keep_refused() was given; what cannot be read stands for all: everything is published again."""
    try:
        return {} if body is None else msgspec.msgpack.decode(body, type=dict[str, list[str]])
    except msgspec.MsgspecError:
        return {"": []}


def refused(db: sqlite3.Connection, place: str) -> dict[str, list[str]]:
    """Return the retained topics that a broker has refused, by subject; "" stands for more than are known."""
    return read_refused(note(db, f"{REFUSED}{place}"))


def keep_refused(db: sqlite3.Connection, place: str, topics: Mapping[str, list[str]]) -> None:
    """Note which retained topics a broker has refused."""
    if topics:
        keep(db, f"{REFUSED}{place}", _encode(topics))
    else:
        db.execute("DELETE FROM notes WHERE key = ?", (f"{REFUSED}{place}",))

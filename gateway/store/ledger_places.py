"""Outputs at brokers as the ledger keeps them: the shape of each with what it was, and who was taken out until nothing of it is left there."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

import msgspec

from gateway.core.shape import Shape
from gateway.core.value import replace
from gateway.store import ledger_notes

PAST = 16  # former shapes of an output
EMPTY = 64  # outputs at brokers that were taken out and emptied, and are remembered all the same


class Place(msgspec.Struct, frozen=True):
    """An output at a broker: its shape now (None: taken out) and what it was, each with the generation that ended it.

    empty: it was taken out, and nothing of it is at the broker; but a broker may come back that remembers more. sure: it was found so long
    afterwards that the broker has saved it. since: shapes that ended before this generation are not known any more, so what a broker remembers
    from before it cannot be judged. bare: its address alone is enough to connect, without a login or certificates; None: not known.
    """

    output: str
    address: str
    now: Shape | None
    past: tuple[tuple[int, Shape], ...] = ()
    empty: bool = False
    since: int = 0
    sure: bool = False
    bare: bool | None = None

    @property
    def key(self) -> str:
        """The name of the row: another broker under the same output name is another place."""
        return f"{self.output}@{self.address}"

    def then(self, generation: int, now: Shape | None) -> Place:
        """Return the place with another shape from this generation on."""
        past = self.past if self.now is None else (*self.past, (generation, self.now))
        since = max((g for g, _ in past[:-PAST]), default=self.since)
        return replace(self, now=now, past=past[-PAST:], empty=False, since=since, sure=False)


_encode = msgspec.msgpack.Encoder().encode
read_place = msgspec.msgpack.Decoder(Place).decode


def place_key(output: str, host: str, port: int) -> str:
    """Return Place.key of an output."""
    return f"{output}@{host}:{port}"


def read_places(db: sqlite3.Connection) -> dict[str, tuple[int, Place]]:
    """Return every output at every broker that was ever published to, with its generation."""
    found = db.execute("SELECT place, generation, body FROM places").fetchall()
    return {key: (generation, read_place(body)) for key, generation, body in found}


def keep_places(db: sqlite3.Connection, wanted: Mapping[str, Place]) -> int:
    """Compare the outputs with those known so far; return how many have changed. One that has gone keeps its place."""
    generation, n, stored = ledger_notes.generation(db) + 1, 0, read_places(db)
    for key, place in wanted.items():
        stored_at, before = stored.get(key, (0, None))
        if before is None:
            _put(db, key, generation, replace(place, since=generation))
        elif before.now != place.now:
            _put(db, key, generation, replace(before.then(generation, place.now), bare=place.bare))
        else:
            if before.bare != place.bare:
                _put(db, key, stored_at, replace(before, bare=place.bare))
            continue
        n += 1
    for key, (_, before) in stored.items():
        if key not in wanted and before.now is not None:
            _put(db, key, generation, before.then(generation, None))
            n += 1
    if n:
        ledger_notes.keep_generation(db, generation)
        gone = [key for key, (_, place) in stored.items() if place.empty and key not in wanted]
        db.executemany("DELETE FROM places WHERE place = ?", [(key,) for key in gone[:-EMPTY]])
    return n


def left(db: sqlite3.Connection, key: str) -> None:
    """Nothing of an output that was taken out is at its broker any more."""
    for generation, place in _taken_out(db, key):
        _put(db, key, generation, replace(place, empty=True))
        ledger_notes.keep_refused(db, key, {})


def looked(db: sqlite3.Connection, key: str, again: bool) -> None:
    """An output that was emptied at its broker was looked at there long afterwards, and stays so; again: it was there again."""
    for generation, place in _taken_out(db, key):
        if place.empty:
            _put(db, key, generation, replace(place, empty=not again, sure=not again))


def _put(db: sqlite3.Connection, key: str, generation: int, place: Place) -> None:
    db.execute(
        "INSERT INTO places VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET generation = excluded.generation, body = excluded.body",
        (key, generation, _encode(place)),
    )


def _taken_out(db: sqlite3.Connection, key: str) -> list[tuple[int, Place]]:
    """Return the row of an output if it was taken out, with its generation."""
    found = db.execute("SELECT generation, body FROM places WHERE place = ?", (key,)).fetchall()
    return [(generation, place) for generation, body in found if (place := read_place(body)).now is None]

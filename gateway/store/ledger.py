"""The ledger of what is current, in the tables of the store: facts per subject, registry entries and outputs' shapes with what they were.

A change of the registry or of an output gets a generation; what held before it stays known, so that a broker that remembers an older time can
be put right. All reads are by the key. This is what others work with: the records and jobs behind it are in ledger_*.py, one idea each.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.core.current import Current
from gateway.core.model import Node
from gateway.core.shape import Entry
from gateway.store import ledger_notes, ledger_places
from gateway.store.ledger_entries import PAST, Known, Was, last_circle, last_entry, read_known
from gateway.store.ledger_facts import Folding, read_facts
from gateway.store.ledger_notes import CONFIGURED, FILLED, IDS, REFUSED, Ids, begin, born, read_refused
from gateway.store.ledger_places import Place, place_key, read_place
from gateway.store.ledger_registry import EndAlarms, Registering, Spool, TakeOver, entries_of


@dataclass
class Ledger:
    """The readers' side, and the jobs of the writer. put: how a job reaches the writer; spool, calm, bare, exchanged: see Registering.

    life: a random name of this store; a restored or salvaged one has another.
    """

    reader: sqlite3.Connection
    put: Callable[[Callable[[sqlite3.Connection], int]], Any]
    spool: Spool
    calm: EndAlarms
    bare: TakeOver
    exchanged: TakeOver
    folding: Folding = field(default_factory=Folding)

    def __post_init__(self) -> None:
        self.life = ledger_notes.life(self.reader)
        self._registering = Registering(self.folding, self.spool, self.calm, self.bare, self.exchanged)

    @property
    def generation(self) -> int:
        """Number of the newest change of registry or outputs that is on the disk."""
        return ledger_notes.generation(self.reader)

    # reading

    def current(self, subject: str) -> tuple[int, Current] | None:
        """Return the number of the event that changed a subject last, and its facts; None when nothing is known."""
        row = self.reader.execute("SELECT seq, body FROM current WHERE subject = ?", (subject,)).fetchone()
        return None if row is None else (row[0], read_facts(subject, row[1]))

    def subjects(self, after: str, limit: int, seq: int, generation: int) -> list[str]:
        """Return subjects behind `after` whose facts changed behind event `seq`, or whose entry behind `generation`; -1: all."""
        found = self.reader.execute(
            "SELECT subject FROM current WHERE subject > ? AND seq > ?"
            " UNION SELECT subject FROM entries WHERE subject > ? AND generation > ? ORDER BY 1 LIMIT ?",
            (after, seq, after, generation, limit),
        )
        return [s for (s,) in found]

    def alarmed(self, after: str, limit: int, seq: int) -> list[str]:
        """Return subjects behind `after` whose alarms changed behind event `seq`."""
        found = self.reader.execute(
            "SELECT subject FROM current WHERE subject > ? AND alarmed > ? ORDER BY 1 LIMIT ?",
            (after, max(seq, 0), limit),
        )
        return [s for (s,) in found]

    def known(self, subject: str) -> Known | None:
        """Return what the registry says and said of a subject."""
        row = self.reader.execute("SELECT body FROM entries WHERE subject = ?", (subject,)).fetchone()
        return None if row is None else read_known(row[0])

    def entry(self, subject: str) -> Entry | None:
        """Return what the registry says of a subject now; None once it has left."""
        known = self.known(subject)
        return None if known is None else known.now

    def registry(self) -> dict[int, Entry]:
        """Return the entries of all nodes that are in the registry as far as the store knows, by number."""
        found = self.reader.execute("SELECT subject, body FROM entries WHERE NOT gone AND subject NOT LIKE '@%'")
        known = ((int(subject), read_known(body).now) for subject, body in found)
        return {number: entry for number, entry in known if entry is not None}

    def areas(self) -> dict[str, Entry]:
        """Return the entries of all areas that rules.toml has as far as the store knows, by name."""
        found = self.reader.execute("SELECT subject, body FROM entries WHERE NOT gone AND subject LIKE '@%'")
        known = ((subject[1:], read_known(body).now) for subject, body in found)
        return {name: entry for name, entry in known if entry is not None}

    def places(self) -> dict[str, tuple[int, Place]]:
        """Return every output at every broker that was ever published to, with its generation."""
        return ledger_places.read_places(self.reader)

    def configured(self) -> bytes | None:
        """Return what keep_configured() was given last."""
        return ledger_notes.note(self.reader, CONFIGURED)

    def turn(self, place: str) -> int:
        """Return how often an output has connected."""
        return ledger_notes.turn(self.reader, place)

    def former(self) -> Mapping[str, tuple[str, ...]]:
        """Return the ids that this gateway had, with the places where what names them is known to be ours."""
        return ledger_notes.ids(self.reader).former

    def refused(self, place: str) -> dict[str, list[str]]:
        """Return the retained topics that a broker has refused, by subject; "" stands for more than are known."""
        return ledger_notes.refused(self.reader, place)

    def requests(self, output: str) -> list[tuple[int, str]]:
        """Return what was asked for: (id, subject or "" for all) of an output."""
        return self.reader.execute(
            "SELECT id, subject FROM requests WHERE output = ? ORDER BY id", (output,)
        ).fetchall()

    # writing

    def keep_registry(self, nodes: Mapping[int, Node], areas: Mapping[str, Entry], now: float) -> Any:
        """Compare the registry with the one known so far; the future's result is how many entries changed.

        Alarms of nodes that have gone, or are another name's or circle's business now, are told to be over, as they were raised.
        """
        wanted = entries_of(nodes, areas)  # as they are now: the writer comes to it later
        return self.put(lambda db: self._registering.compare(db, wanted, nodes, now))

    def keep_places(self, wanted: Mapping[str, Place]) -> Any:
        """Compare the outputs with those known so far; an output that has gone keeps its place until left() says that it is empty."""
        return self.put(lambda db: ledger_places.keep_places(db, wanted))

    def left(self, key: str) -> Any:
        """Nothing of an output that was taken out is at its broker any more."""
        return self._put(lambda db: ledger_places.left(db, key))

    def looked(self, key: str, again: bool = False) -> Any:
        """An output that was emptied at its broker was looked at there long afterwards, and stays so; again: it was there again."""
        return self._put(lambda db: ledger_places.looked(db, key, again))

    def keep_configured(self, body: bytes) -> Any:
        """Note what is in force of the configuration (gateway/asked.py), for the next start to be held against."""
        return self._put(lambda db: ledger_notes.keep(db, CONFIGURED, body))

    def keep_turn(self, place: str, turn: int) -> Any:
        """An output has connected once more."""
        return self._put(lambda db: ledger_notes.keep_turn(db, place, turn))

    def keep_id(self, gateway: str) -> Any:
        """Note the id that this gateway publishes under from now on."""
        return self._put(lambda db: ledger_notes.keep_id(db, gateway))

    def keep_former(self, old: str, place: str) -> Any:
        """What names a former id at a place was found to be ours."""
        return self._put(lambda db: ledger_notes.keep_former(db, old, place))

    def keep_refused(self, place: str, topics: Mapping[str, list[str]]) -> Any:
        """Note which retained topics a broker has refused."""
        return self._put(lambda db: ledger_notes.keep_refused(db, place, topics))

    def granted(self, request: int) -> Any:
        """A request was fulfilled."""
        return self._put(
            lambda db: db.execute(
                "DELETE FROM requests WHERE id <= ? AND output = (SELECT output FROM requests WHERE id = ?)",
                (request, request),
            )
        )

    def _put(self, job: Callable[[sqlite3.Connection], object]) -> Any:
        """Have a job done whose result says nothing."""

        def done(db: sqlite3.Connection) -> int:
            job(db)
            return 0

        return self.put(done)


__all__ = [
    "FILLED",
    "IDS",
    "PAST",
    "REFUSED",
    "Folding",
    "Ids",
    "Known",
    "Ledger",
    "Place",
    "Was",
    "begin",
    "born",
    "last_circle",
    "last_entry",
    "place_key",
    "read_known",
    "read_place",
    "read_refused",
]

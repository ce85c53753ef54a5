"""Compares the registry with the one that the store knows: what changed gets a generation, and what held before it stays known.

A number may be another device's now, a board may have been exchanged, and a node may be shown to more than before: then alarms end, facts are
left, and whose rows were stored until now is noted, in the transaction of the change.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from gateway.core.current import Current
from gateway.core.model import Circle, Event, Node
from gateway.core.registry import VISIBILITIES, strictest
from gateway.core.shape import Entry
from gateway.core.value import replace
from gateway.store import ledger_notes, states
from gateway.store.ledger_entries import PAST, Known, read_known
from gateway.store.ledger_facts import Folding

GONE = 100_000  # subjects that have left the registry and whose topics are still known; the oldest are forgotten first

Spool = Callable[[sqlite3.Connection, Event], int]
EndAlarms = Callable[[sqlite3.Connection, int], None]
TakeOver = Callable[[sqlite3.Connection, Node], bool]
"""Leaves of a stored state what another device, or another board, may have; returns whether it is one."""

_encode = msgspec.msgpack.Encoder().encode


def entries_of(nodes: Mapping[int, Node], areas: Mapping[str, Entry]) -> dict[str, Entry]:
    """Return the entries of a registry by subject."""
    return {str(n): Entry.of(node) for n, node in nodes.items()} | {f"@{name}": e for name, e in areas.items()}


@dataclass(frozen=True)
class Registering:
    """The writer's side. spool: how it adds an event; calm: how no alarm of a node is up any more in its state; bare: how nothing but
    counters and keys is left of another device's; exchanged: how no alarm is up any more of a board whose key the registry has replaced.
    """

    folding: Folding
    spool: Spool
    calm: EndAlarms
    bare: TakeOver
    exchanged: TakeOver

    def compare(
        self, db: sqlite3.Connection, wanted: Mapping[str, Entry], nodes: Mapping[int, Node], now: float
    ) -> int:
        """Note what differs from `wanted`, and end alarms; return how many entries that concerns."""
        generation = ledger_notes.generation(db) + 1
        stored = {s: read_known(body) for s, body in db.execute("SELECT subject, body FROM entries")}
        changed = _changed(stored, wanted, generation)
        for (subject,) in db.execute("SELECT subject FROM current").fetchall():
            if subject not in wanted and subject not in stored:  # of a store from before there was a ledger
                entry = _entry_of(subject, self.folding.of(db, subject)[2])
                changed[subject] = generation, Known(None, () if entry is None else ((generation, entry),))
        real = {s: k for s, (g, k) in changed.items() if g}
        for subject, known in real.items():
            changed[subject] = generation, self._follow(db, subject, stored.get(subject), known, nodes, now, generation)
        db.executemany(
            "INSERT INTO entries VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " generation = excluded.generation, gone = excluded.gone, body = excluded.body",
            [(s, g, k.now is None, _encode(k)) for s, (g, k) in changed.items()],
        )
        self.folding.flush(db)
        n = len(real)
        for (subject,) in db.execute("SELECT subject FROM current WHERE up").fetchall():
            if subject not in real and subject in wanted and self._is_exchanged(db, subject, nodes):
                self._end_alarms(db, subject, Known(wanted[subject]), now, generation, ends=True, again=False)
                n += 1
        self._bound(db)
        if real:
            ledger_notes.keep_generation(db, generation)
        self.folding.flush(db)
        return n

    def _follow(
        self,
        db: sqlite3.Connection,
        subject: str,
        before: Known | None,
        known: Known,
        nodes: Mapping[int, Node],
        now: float,
        generation: int,
    ) -> Known:
        """Let state, alarms and facts of a subject follow its change; return what is known of it, with whose its stored rows are."""
        other, was = self._is_other(db, subject, nodes, before), known.was
        if (
            before is not None
            and known.now is not None
            and not subject.startswith("@")
            and (other or before.shows_less(known.now))
        ):
            was = before.until(states.taken(db, int(subject)), other).was
        board = self._is_exchanged(db, subject, nodes)
        self._end_alarms(db, subject, known, now, generation, ends=board, again=not other and not board)
        if other:
            seq, _, c = self.folding.of(db, subject)
            self.folding.put(db, seq, subject, c.taken_over())
        return replace(known, was=was)

    def _end_alarms(
        self, db: sqlite3.Connection, subject: str, known: Known, now: float, generation: int, ends: bool, again: bool
    ) -> None:
        """A node's own alarms end under the entry that they were raised under, and rise again under the one that holds now.

        ends: also where the entry is the same, since who raised them cannot clear them any more.
        """
        if subject.startswith("@") or not known.past and not ends:
            return
        number, c = int(subject), self.folding.of(db, subject)[2]
        # generations of another store, and of one of which an older copy was put back, are the same numbers
        change = f"{ledger_notes.life(db)}-{generation}-{int(now)}"
        if known.now is None:  # one that returns raises its alarms anew
            self.calm(db, number)
        former = known.past[-1][1] if known.past else known.now
        assert former is not None
        if known.now is not None and known.now.shown_as() == former.shown_as() and not ends:
            return
        for rule, up in c.alerts.items():
            a = up.alarm
            if rule != f"{a.quantity}-{a.code}":  # the rule's own business
                continue
            ident = f"{number}:entry-{change}:{rule}"
            over = replace(
                a,
                state="cleared",
                code="cleared",
                t=max(a.t, int(now)),
                rules=(rule,),
                circle=Circle(former.profile, former.areas),
            )
            visibility = strictest(former.visibility, VISIBILITIES[up.circle])
            self.spool(db, Event("alarm", ident, number, former.name, visibility, now, former.interval_s, alarm=over))  # fmt: skip
            if known.now is not None and again:
                risen = replace(a, state="raised", rules=(rule,))
                # what it says was measured while it was shown to no more than these
                seen = strictest(known.now.visibility, VISIBILITIES[up.circle])
                self.spool(db, Event("alarm", f"{ident}:again", number, known.now.name, seen, now,
                                     known.now.interval_s, alarm=risen))  # fmt: skip

    def _is_other(self, db: sqlite3.Connection, subject: str, nodes: Mapping[int, Node], before: Known | None) -> bool:
        """A number that comes back, or gets another name, with a key that it never had is another device: its state was left bare."""
        node = None if subject.startswith("@") else nodes.get(int(subject))
        if node is None or before is None or before.now is not None and before.now.name == node.name:
            return False  # the same name with another key is a board that was exchanged
        return self.bare(db, node)

    def _is_exchanged(self, db: sqlite3.Connection, subject: str, nodes: Mapping[int, Node]) -> bool:
        """A board whose key was replaced does not say any more what is over."""
        node = None if subject.startswith("@") else nodes.get(int(subject))
        return node is not None and self.exchanged(db, node)

    def _bound(self, db: sqlite3.Connection) -> None:
        """Forget those that left first, where there are more than GONE."""
        (gone,) = db.execute("SELECT count(*) FROM entries WHERE gone").fetchone()
        if gone <= GONE:
            return
        old = db.execute(
            "SELECT subject FROM entries WHERE gone ORDER BY generation LIMIT ?", (gone - GONE,)
        ).fetchall()
        db.executemany("DELETE FROM entries WHERE subject = ?", old)
        db.executemany("DELETE FROM current WHERE subject = ?", old)
        for (subject,) in old:
            self.folding.drop(subject)


def _changed(stored: Mapping[str, Known], wanted: Mapping[str, Entry], generation: int) -> dict[str, tuple[int, Known]]:
    """Return what is known of subjects whose entries differ, each with the generation that they have changed in; 0 of those that are new."""
    changed: dict[str, tuple[int, Known]] = {}
    for subject, entry in wanted.items():
        before = stored.get(subject)
        if before is None:
            changed[subject] = 0, Known(entry)
        elif before.now != entry:
            past = before.past if before.now is None else (*before.past, (generation, before.now))
            changed[subject] = generation, replace(before, now=entry, past=past[-PAST:])
    for subject, before in stored.items():
        if subject not in wanted and before.now is not None:
            past = (*before.past, (generation, before.now))[-PAST:]
            changed[subject] = generation, replace(before, now=None, past=past)
    return changed


def _entry_of(subject: str, c: Current) -> Entry | None:
    """Return the entry that facts were published under, as far as the metadata say."""
    if subject.startswith("@"):
        return Entry(subject[1:])
    if c.meta is None:
        return None
    m = c.meta
    lon, lat = m.get("location", {}).get("coordinates", (None, None))
    return Entry(m["name"], m["profile"], m["visibility"], tuple(m.get("area", ())), lat, lon, m["interval"])

"""The ledger of what is current, in the tables of the store: facts per subject, registry entries and outputs' shapes with what they were.

Facts are folded by the writer in the transaction of the event that changes them. A change of the registry or of an output gets a
generation; what held before it stays known, so that a broker that remembers an older time can be put right. All reads are by the key.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from gateway.core.current import NOTHING, Current, fold, subject_of
from gateway.core.model import PERSONAL, Circle, Event, Node
from gateway.core.registry import VISIBILITIES, strictest
from gateway.core.shape import Entry, Shape
from gateway.core.value import replace
from gateway.store import states

CACHE = 2048  # subjects whose facts the writer keeps decoded
PAST = 16  # former entries of a subject, former shapes of an output
EMPTY = 64  # outputs at brokers that were taken out and emptied, and are remembered all the same
FORMER = 16  # ids that this gateway had
GONE = 100_000  # subjects that have left the registry and whose topics are still known; the oldest are forgotten first
CONFIGURED = "current:configured"
IDS, REFUSED = "current:ids", "current:refused:"
LIFE, GENERATION, FILLED, TURN = "current:store", "current:generation", "current:filled", "current:turn:"

log = structlog.get_logger(__name__)

Spool = Callable[[sqlite3.Connection, Event], int]
EndAlarms = Callable[[sqlite3.Connection, int], None]
TakeOver = Callable[[sqlite3.Connection, Node], bool]
"""Leaves nothing but counters and keys of a stored state that is another device's; returns whether it was."""


class Was(msgspec.Struct, frozen=True):
    """Whose rows of a number are: those of an epoch with a counter lower than `below` says were taken while `entry` held, or before.

    other: what came behind is another device; else the same one, shown to more than before.
    """

    below: Mapping[int, int]
    entry: Entry
    other: bool

    def has(self, epoch: int, counter: int) -> bool:
        """True for rows of a frame that was taken by then."""
        return counter < self.below.get(epoch, 0)


NOT_KNOWN = Entry("", "unknown", PERSONAL)


class Known(msgspec.Struct, frozen=True):
    """A subject in the registry: its entry now (None: it has left) and what it was, each with the generation that ended it.

    was: of a node, under which entries its stored rows were taken, as far as those say who may see them; oldest first.
    """

    now: Entry | None
    past: tuple[tuple[int, Entry], ...] = ()
    was: tuple[Was, ...] = ()

    def until(self, below: Mapping[int, int], other: bool) -> Known:
        """Return what is known once the rows that are stored, those of counters lower than `below`, are not to be shown as those to come."""
        last = self.now or (self.past[-1][1] if self.past else None)
        if not below or last is None:
            return self
        was = (*self.was, Was(below, last, other))
        if len(was) > PAST:  # the two oldest become one
            a, b, *rest = was
            entry = (
                NOT_KNOWN if a.other else replace(b.entry, visibility=strictest(a.entry.visibility, b.entry.visibility))
            )
            was = (replace(b, entry=entry), *rest)
        return replace(self, was=was)

    def owner(self, epoch: int, counter: int) -> tuple[int | None, str]:
        """Return of which former device rows are, as index of `was`, None for the present one; and the narrowest circle of when they
        were taken, "" where only the entry of now says it."""
        first = next((i for i, was in enumerate(self.was) if was.has(epoch, counter)), None)
        if first is None:
            return None, ""
        owner = next((i for i in range(first, len(self.was)) if self.was[i].other), None)
        return owner, self.was[first].entry.visibility

    def shows_less(self, entry: Entry) -> bool:
        """True when fewer may see what there was until now than by `entry`."""
        last = self.now or (self.past[-1][1] if self.past else None)
        return last is not None and strictest(last.visibility, entry.visibility) != entry.visibility

    def last(self, name: str) -> Entry | None:
        """Return the newest entry under a name, None when there was none: a number may be another device's by now."""
        entries = (*(entry for _, entry in self.past), *(() if self.now is None else (self.now,)))
        return next((entry for entry in reversed(entries) if entry.name == name), None)


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


class Ids(msgspec.Struct, frozen=True):
    """The id that this gateway publishes under, and those it had, newest last, each with the places where what names it was found to be ours."""

    now: str = ""
    former: Mapping[str, tuple[str, ...]] = {}


def last_circle(e: Event, nodes: Mapping[int, Node], known: Callable[[str], Known | None]) -> str:
    """Return the circle of whom an event is about, as it was last under that name; "" where the registry says it, or nothing is known.

    known: what the ledger knows of a subject. Of areas, and of nodes that have left or have another name, only the ledger knows the end.
    """
    node = nodes.get(e.node)
    if e.area is None and node is not None and node.name == e.name:
        return ""
    found = known(str(e.node) if e.area is None else f"@{e.area.area}")
    entry = None if found is None else found.last(e.name if e.area is None else e.area.area)
    return "" if entry is None else entry.visibility


_encode = msgspec.msgpack.Encoder().encode
_current = msgspec.msgpack.Decoder(Current).decode
read_known = msgspec.msgpack.Decoder(Known).decode
read_place = msgspec.msgpack.Decoder(Place).decode


def place_key(output: str, host: str, port: int) -> str:
    """Return Place.key of an output."""
    return f"{output}@{host}:{port}"


def read_refused(body: bytes | None) -> dict[str, list[str]]:
    """Return what keep_refused() was given; what cannot be read stands for all: everything is published again."""
    try:
        return {} if body is None else msgspec.msgpack.decode(body, type=dict[str, list[str]])
    except msgspec.MsgspecError:
        return {"": []}


def last_entry(body: bytes) -> Entry | None:
    """Return the entry that a subject has, or had last, of a row of `entries`; None when it has none that is known, or cannot be read."""
    try:
        known = read_known(body)
    except msgspec.MsgspecError:
        return None
    return known.now or (known.past[-1][1] if known.past else None)


class Folding:
    """The writer's side: add() every event in order, flush() before COMMIT, forget() after ROLLBACK."""

    def __init__(self) -> None:
        self._cache: OrderedDict[str, tuple[int, int, Current]] = OrderedDict()
        self._dirty: dict[str, None] = {}

    def add(self, db: sqlite3.Connection, seq: int, event: Event) -> None:
        """Fold one event into the facts of its subject."""
        subject = subject_of(event)
        if subject is None:
            return
        _, alarmed, before = self.of(db, subject)
        after = fold(before, event, seq)
        if after is not before:
            if after.alerts is not before.alerts:
                alarmed = seq
            self._cache[subject] = seq, alarmed, after
            self._dirty[subject] = None

    def put(self, db: sqlite3.Connection, seq: int, subject: str, after: Current) -> None:
        """Replace the facts of a subject, as of event `seq`."""
        _, alarmed, before = self.of(db, subject)
        self._cache[subject] = seq, seq if after.alerts != before.alerts else alarmed, after
        self._dirty[subject] = None

    def of(self, db: sqlite3.Connection, subject: str) -> tuple[int, int, Current]:
        """Return (number of the newest event, of the newest alarm, facts) of a subject."""
        found = self._cache.get(subject)
        if found is None:
            row = db.execute("SELECT seq, alarmed, body FROM current WHERE subject = ?", (subject,)).fetchone()
            found = (0, 0, NOTHING) if row is None else (row[0], row[1], _read(subject, row[2]))
            self._cache[subject] = found
            if len(self._cache) > CACHE and not self._dirty:
                self._trim()
        else:
            self._cache.move_to_end(subject)
        return found

    def flush(self, db: sqlite3.Connection) -> None:
        """Write what has changed."""
        if self._dirty:
            rows = (
                (s, seq, alarmed, bool(c.alerts), _encode(c))
                for s in self._dirty
                for seq, alarmed, c in [self._cache[s]]
            )
            db.executemany(
                "INSERT INTO current VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " seq = excluded.seq, alarmed = excluded.alarmed, up = excluded.up, body = excluded.body",
                rows,
            )
            self._dirty.clear()
        self._trim()

    def _trim(self) -> None:
        while len(self._cache) > CACHE:
            self._cache.popitem(last=False)

    def forget(self) -> None:
        """What was folded did not reach the disk."""
        self._cache.clear()
        self._dirty.clear()

    def drop(self, subject: str) -> None:
        """A subject's row was deleted."""
        self._cache.pop(subject, None)
        self._dirty.pop(subject, None)


def _read(subject: str, body: bytes) -> Current:
    try:
        return _current(body)
    except msgspec.MsgspecError as e:  # it is made anew by the events to come
        log.error("facts_unreadable", subject=subject, error=str(e), next="citymote gateway check --store")
        return NOTHING


@dataclass
class Ledger:
    """The readers' side, and the jobs of the writer. put: how a job reaches the writer; spool: how it adds an event; calm: how no alarm
    of a node is up any more in its state; bare: how nothing but counters and keys is left of another device's; exchanged: how no alarm is
    up any more of a board whose key the registry has replaced.

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
        self.life = (self._note(LIFE) or b"").decode()

    @property
    def generation(self) -> int:
        """Number of the newest change of registry or outputs that is on the disk."""
        return int(self._note(GENERATION) or 0)

    def _note(self, key: str) -> bytes | None:
        row = self.reader.execute("SELECT body FROM notes WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    # reading

    def current(self, subject: str) -> tuple[int, Current] | None:
        """Return the number of the event that changed a subject last, and its facts; None when nothing is known."""
        row = self.reader.execute("SELECT seq, body FROM current WHERE subject = ?", (subject,)).fetchone()
        return None if row is None else (row[0], _read(subject, row[1]))

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

    def configured(self) -> bytes | None:
        """Return what keep_configured() was given last."""
        return self._note(CONFIGURED)

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

    def places(self) -> dict[str, tuple[int, Place]]:
        """Return every output at every broker that was ever published to, with its generation."""
        found = self.reader.execute("SELECT place, generation, body FROM places").fetchall()
        return {key: (generation, read_place(body)) for key, generation, body in found}

    def turn(self, place: str) -> int:
        """Return how often an output has connected."""
        return int(self._note(f"{TURN}{place}") or 0)

    def former(self) -> Mapping[str, tuple[str, ...]]:
        """Return the ids that this gateway had, with the places where what names them is known to be ours."""
        return _ids(self._note(IDS)).former

    def refused(self, place: str) -> dict[str, list[str]]:
        """Return the retained topics that a broker has refused, by subject; "" stands for more than are known."""
        return read_refused(self._note(f"{REFUSED}{place}"))

    def requests(self, output: str) -> list[tuple[int, str]]:
        """Return what was asked for: (id, subject or "" for all) of an output."""
        return self.reader.execute(
            "SELECT id, subject FROM requests WHERE output = ? ORDER BY id", (output,)
        ).fetchall()

    # writing

    def granted(self, request: int) -> Any:
        """A request was fulfilled."""

        def job(db: sqlite3.Connection) -> int:
            db.execute(
                "DELETE FROM requests WHERE id <= ? AND output = (SELECT output FROM requests WHERE id = ?)",
                (request, request),
            )
            return 0

        return self.put(job)

    def keep_registry(self, nodes: Mapping[int, Node], areas: Mapping[str, Entry], now: float) -> Any:
        """Compare the registry with the one known so far; the future's result is how many entries changed.

        Alarms of nodes that have gone, or are another name's or circle's business now, are told to be over, as they were raised.
        """
        wanted = {str(n): Entry.of(node) for n, node in nodes.items()}
        wanted |= {f"@{name}": entry for name, entry in areas.items()}

        def job(db: sqlite3.Connection) -> int:
            generation = self._next(db)
            told: dict[str, Known] = {
                s: read_known(body) for s, body in db.execute("SELECT subject, body FROM entries")
            }
            changed: dict[str, tuple[int, Known]] = {}
            for subject, entry in wanted.items():
                before = told.get(subject)
                if before is None:
                    changed[subject] = 0, Known(entry)
                elif before.now != entry:
                    past = before.past if before.now is None else (*before.past, (generation, before.now))
                    changed[subject] = generation, replace(before, now=entry, past=past[-PAST:])
            for subject, before in told.items():
                if subject not in wanted and before.now is not None:
                    past = (*before.past, (generation, before.now))[-PAST:]
                    changed[subject] = generation, replace(before, now=None, past=past)
            for (subject,) in db.execute("SELECT subject FROM current").fetchall():
                if subject not in wanted and subject not in told:  # of a store from before there was a ledger
                    entry = _entry_of(subject, self.folding.of(db, subject)[2])
                    changed[subject] = generation, Known(None, () if entry is None else ((generation, entry),))
            real = {s: k for s, (g, k) in changed.items() if g}
            for subject, known in real.items():
                before = told.get(subject)
                other = self._is_other(db, subject, nodes, before)
                if (
                    before is not None
                    and known.now is not None
                    and not subject.startswith("@")
                    and (other or before.shows_less(known.now))
                ):
                    was = before.until(states.taken(db, int(subject)), other).was
                    changed[subject] = generation, replace(known, was=was)
                board = self._is_exchanged(db, subject, nodes)
                self._end_alarms(db, subject, known, now, generation, ends=board, again=not other and not board)
                if other:
                    seq, _, c = self.folding.of(db, subject)
                    self.folding.put(db, seq, subject, c.taken_over())
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
                _keep_generation(db, generation)
            self.folding.flush(db)
            return n

        return self.put(job)

    def keep_places(self, wanted: Mapping[str, Place]) -> Any:
        """Compare the outputs with those known so far; an output that has gone keeps its place until left() says that it is empty."""

        def job(db: sqlite3.Connection) -> int:
            generation, n = self._next(db), 0
            rows = db.execute("SELECT place, generation, body FROM places").fetchall()
            told, told_at = {key: read_place(body) for key, _, body in rows}, {key: g for key, g, _ in rows}
            for key, place in wanted.items():
                before = told.get(key)
                if before is None:
                    _put_place(db, key, generation, replace(place, since=generation))
                elif before.now != place.now:
                    _put_place(db, key, generation, replace(before.then(generation, place.now), bare=place.bare))
                else:
                    if before.bare != place.bare:
                        _put_place(db, key, told_at[key], replace(before, bare=place.bare))
                    continue
                n += 1
            for key, before in told.items():
                if key not in wanted and before.now is not None:
                    _put_place(db, key, generation, before.then(generation, None))
                    n += 1
            if n:
                _keep_generation(db, generation)
                gone = [key for key, place in told.items() if place.empty and key not in wanted]
                db.executemany("DELETE FROM places WHERE place = ?", [(key,) for key in gone[:-EMPTY]])
            return n

        return self.put(job)

    def keep_configured(self, body: bytes) -> Any:
        """Note what is in force of the configuration (gateway/asked.py), for the next start to be held against."""

        def job(db: sqlite3.Connection) -> int:
            db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (CONFIGURED, body))
            return 0

        return self.put(job)

    def keep_turn(self, place: str, turn: int) -> Any:
        """An output has connected once more."""

        def job(db: sqlite3.Connection) -> int:
            db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (f"{TURN}{place}", str(turn).encode()))
            return 0

        return self.put(job)

    def keep_id(self, gateway: str) -> Any:
        """Note the id that this gateway publishes under from now on."""

        def change(ids: Ids) -> Ids:
            if ids.now == gateway:
                return ids
            former = {old: places for old, places in ids.former.items() if old not in (gateway, ids.now)}
            if ids.now:
                former[ids.now] = ()
            return Ids(gateway, dict(list(former.items())[-FORMER:]))

        return self._keep_ids(change)

    def keep_former(self, old: str, place: str) -> Any:
        """What names a former id at a place was found to be ours."""

        def change(ids: Ids) -> Ids:
            places = ids.former.get(old)
            if places is None or place in places:
                return ids
            return replace(ids, former={**ids.former, old: (*places, place)})

        return self._keep_ids(change)

    def _keep_ids(self, change: Callable[[Ids], Ids]) -> Any:
        def job(db: sqlite3.Connection) -> int:
            row = db.execute("SELECT body FROM notes WHERE key = ?", (IDS,)).fetchone()
            before = _ids(None if row is None else row[0])
            after = change(before)
            if after != before:
                db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (IDS, _encode(after)))
            return 0

        return self.put(job)

    def keep_refused(self, place: str, topics: Mapping[str, list[str]]) -> Any:
        """Note which retained topics a broker has refused."""

        def job(db: sqlite3.Connection) -> int:
            if topics:
                db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (f"{REFUSED}{place}", _encode(topics)))
            else:
                db.execute("DELETE FROM notes WHERE key = ?", (f"{REFUSED}{place}",))
            return 0

        return self.put(job)

    def left(self, key: str) -> Any:
        """Nothing of an output that was taken out is at its broker any more."""

        def job(db: sqlite3.Connection) -> int:
            for generation, place in _taken_out(db, key):
                _put_place(db, key, generation, replace(place, empty=True))
                db.execute("DELETE FROM notes WHERE key = ?", (f"{REFUSED}{key}",))
            return 0

        return self.put(job)

    def looked(self, key: str, again: bool = False) -> Any:
        """An output that was emptied at its broker was looked at there long afterwards, and stays so; again: it was there again."""

        def job(db: sqlite3.Connection) -> int:
            for generation, place in _taken_out(db, key):
                if place.empty:
                    _put_place(db, key, generation, replace(place, empty=not again, sure=not again))
            return 0

        return self.put(job)

    def _next(self, db: sqlite3.Connection) -> int:
        row = db.execute("SELECT body FROM notes WHERE key = ?", (GENERATION,)).fetchone()
        return int(row[0]) + 1 if row is not None else 1

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
        (life,) = db.execute("SELECT body FROM notes WHERE key = ?", (LIFE,)).fetchone()
        change = f"{life.decode()}-{generation}-{int(now)}"
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


def _ids(body: bytes | None) -> Ids:
    try:
        return Ids() if body is None else msgspec.msgpack.decode(body, type=Ids)
    except msgspec.MsgspecError:
        return Ids()


def _keep_generation(db: sqlite3.Connection, generation: int) -> None:
    db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (GENERATION, str(generation).encode()))


def _put_place(db: sqlite3.Connection, key: str, generation: int, place: Place) -> None:
    db.execute(
        "INSERT INTO places VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET generation = excluded.generation, body = excluded.body",
        (key, generation, _encode(place)),
    )


def _taken_out(db: sqlite3.Connection, key: str) -> list[tuple[int, Place]]:
    """Return the row of an output if it was taken out, with its generation."""
    found = db.execute("SELECT generation, body FROM places WHERE place = ?", (key,)).fetchall()
    return [(generation, place) for generation, body in found if (place := read_place(body)).now is None]


def _entry_of(subject: str, c: Current) -> Entry | None:
    """Return the entry that facts were published under, as far as the metadata say."""
    if subject.startswith("@"):
        return Entry(subject[1:])
    if c.meta is None:
        return None
    m = c.meta
    lon, lat = m.get("location", {}).get("coordinates", (None, None))
    return Entry(m["name"], m["profile"], m["visibility"], tuple(m.get("area", ())), lat, lon, m["interval"])


def begin(db: sqlite3.Connection) -> None:
    """Give a store its name if it has none yet."""
    if db.execute("SELECT 1 FROM notes WHERE key = ?", (LIFE,)).fetchone() is None:
        born(db)


def born(db: sqlite3.Connection) -> None:
    """Give a store a name of its own: it is new, restored from a backup, or salvaged."""
    db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (LIFE, secrets.token_hex(8).encode()))

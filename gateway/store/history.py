"""What the store holds, by time: for replay, export and whoever looks back. Read only, and safe beside a running gateway (WAL): in short transactions.

A number may have been another device's: rows are given under the name and the place of the one that sent them, and in no wider circle than
when they were taken (ledger.Known.was). Rows outlive the frames that brought them; when and how those came is not known then.

Spooled events come back as they were, but in no wider circle than their node or area was shown to last. What the spool has let go of comes back from the frames and rows: reports with the same id and
the same values; alarms from a table of their own; single occurrences are in the spool alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import msgspec
from motewire.frame import REPORT
from motewire.quantities import ID, KEY, QUANTITIES

from gateway.config.rights import denied
from gateway.core.model import Column, Event, Node, frame_id
from gateway.core.normalise import quantity_of
from gateway.core.registry import strictest
from gateway.core.value import replace
from gateway.store.engine import StoreError
from gateway.store.ledger import Known, Was, last_circle, read_known

AT_ONCE = 200
"""Events of one read transaction: the store's log cannot be used again from its beginning while one lasts, and would grow."""

_UNITS = {str(q[KEY]): quantity_of(int(q[ID])).unit for q in QUANTITIES}


class History:
    """A store opened for reading. nodes: the registry, and of those that have left the entries they had (glance.departed). Raises StoreError."""

    def __init__(self, path: Path, nodes: Mapping[int, Node]) -> None:
        self._nodes = nodes
        self._decode = msgspec.msgpack.Decoder(Event).decode
        self._registered: dict[int, Known | None] = {}
        self.frameless = 0  # rows that were given without the frame that brought them
        if not path.is_file():
            raise StoreError(f"store {path} does not exist", "check gateway.store; a gateway that never ran has none")
        try:
            self._db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None)
            self._db.execute("PRAGMA busy_timeout=10000")
            self._db.execute("SELECT (SELECT count(*) FROM alarms), (SELECT count(*) FROM entries)").fetchone()
        except sqlite3.Error as e:
            raise StoreError(
                f"store {path}: {e}", denied(path, "run this as the gateway's own user, on the gateway's machine")
            ) from e

    def __enter__(self) -> History:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def spooled(self, since: float, until: float) -> Iterator[Event]:
        """Yield the spooled events that were received in since <= t < until, in order of their commits."""
        after = 0
        while found := self._db.execute(
            "SELECT seq, body FROM (SELECT seq, received, body FROM spool WHERE seq > ? UNION ALL SELECT seq, received, body FROM alarms WHERE seq > ?)"
            " WHERE received >= ? AND received < ? ORDER BY seq LIMIT ?",
            (after, after, since, until, AT_ONCE),
        ).fetchall():
            after = found[-1][0]
            for _, body in found:
                yield self._narrowed(self._decode(body))

    def _narrowed(self, e: Event) -> Event:
        """Return an event in its own circle or the last one of whom it is about, whichever is narrower."""
        circle = last_circle(e, self._nodes, self._known)
        return replace(e, visibility=strictest(e.visibility, circle)) if circle else e

    def _known(self, subject: str) -> Known | None:
        row = self._db.execute("SELECT body FROM entries WHERE subject = ?", (subject,)).fetchone()
        return None if row is None else read_known(row[0])

    def spool_begins(self) -> float:
        """Return when the oldest spooled event was received, infinity when there is none."""
        (t,) = self._db.execute("SELECT min(received) FROM spool").fetchone()
        return float("inf") if t is None else t

    def reports(self, since: float, until: float) -> Iterator[Event]:
        """Yield the reports received in since <= t < until of nodes that are in the registry, in order of receipt.

        Those without a frame, whose receipt is not known, come first; of them the times of their rows count.
        """
        # what was found is put aside, out of the store, so that no read transaction lasts as long as whoever reads
        self._db.execute("DROP TABLE IF EXISTS temp.found")
        self._db.execute("CREATE TEMP TABLE found (node, epoch, counter)")
        self._db.execute("CREATE INDEX temp.found_key ON found (node, epoch, counter)")
        for number in self._nodes:
            self._db.execute(
                "INSERT INTO temp.found SELECT r.node, r.epoch, r.counter FROM rows AS r LEFT JOIN frames AS f"
                " ON f.node = r.node AND f.epoch = r.epoch AND f.counter = r.counter"
                " WHERE r.node = ? AND r.t >= ? AND r.t < ? AND f.data IS NULL GROUP BY r.epoch, r.counter ORDER BY min(r.t)",
                (number, since, until),
            )
        if self._db.execute("SELECT 1 FROM temp.found LIMIT 1").fetchone() is not None:
            self._leave_spooled()
        self._db.execute(
            "INSERT INTO temp.found SELECT node, epoch, counter FROM frames"
            " WHERE received >= ? AND received < ? AND kind = ? AND reason = '' ORDER BY received",
            (since, until, REPORT),
        )
        after = 0
        while keys := self._db.execute(
            "SELECT rowid, node, epoch, counter FROM temp.found WHERE rowid > ? ORDER BY rowid LIMIT ?",
            (after, AT_ONCE),
        ).fetchall():
            after = keys[-1][0]
            for _, node, epoch, counter in keys:
                event = self.report(node, epoch, counter)
                if event is not None:
                    yield event

    def _leave_spooled(self) -> None:
        """Take out what was found without a frame and is in the spool: where frames are kept for less time than that, it is reported there."""
        for event in self.spooled(0.0, float("inf")):
            if event.kind == "report":
                self._db.execute(
                    "DELETE FROM temp.found WHERE node = ? AND epoch = ? AND counter = ?",
                    (event.node, event.epoch, event.counter),
                )

    def numbers(self) -> list[int]:
        """Return the numbers whose devices owners() knows."""
        return list(self._nodes)

    def owners(self, number: int) -> list[tuple[int | None, Node]]:
        """Return the devices that a number has been of, each with the entry it had last: the present one (None), and former ones."""
        found: list[tuple[int | None, Node]] = [(None, self._nodes[number])] if number in self._nodes else []
        known = self._registry(number)
        return found + [(i, _former(number, was)) for i, was in enumerate(known.was if known else ()) if was.other]

    def _registry(self, number: int) -> Known | None:
        if number not in self._registered:
            self._registered[number] = self._known(str(number))
        return self._registered[number]

    def reports_of(self, node: int, since: int, until: int, owner: int | None = None) -> Iterator[Event]:
        """Yield the reports of one of a number's devices (owners()) that have a row with since <= t < until, by their first such row;
        whole, with all their rows."""
        known = self._registry(node)
        found = self._db.execute(
            "SELECT epoch, counter, min(t) AS first FROM rows WHERE node = ? AND t >= ? AND t < ? GROUP BY epoch, counter ORDER BY first",
            (node, since, until),
        ).fetchall()
        for epoch, counter, _ in found:
            if (None if known is None else known.owner(epoch, counter)[0]) != owner:
                continue
            event = self.report(node, epoch, counter)
            if event is not None:
                yield event

    def report(self, number: int, epoch: int, counter: int) -> Event | None:
        """Return a stored report; None when it has no rows or its device is not known. What was newest then is not known.

        received 0.0: nor is when it came, since its frame is kept no more.
        """
        known = self._registry(number)
        owner, circle = (None, "") if known is None else known.owner(epoch, counter)
        node = self._nodes.get(number) if known is None or owner is None else _former(number, known.was[owner])
        key = (number, epoch, counter)
        rows = self._db.execute(
            "SELECT t, vals, suspect FROM rows WHERE node = ? AND epoch = ? AND counter = ? ORDER BY row", key
        ).fetchall()
        frame = self._db.execute(
            "SELECT received, link, receiver, rssi, snr FROM frames WHERE node = ? AND epoch = ? AND counter = ?", key
        ).fetchone()
        if node is None or not rows:
            return None
        if frame is None:
            self.frameless += len(rows)
        received, link, receiver, rssi, snr = frame or (0.0, "", "", None, None)
        visibility = strictest(node.visibility, circle) if circle else node.visibility
        return Event(
            "report", frame_id(number, epoch, counter), number, node.name, visibility, received, node.interval_s, counter, epoch, link, receiver,
            1, rssi, snr, tuple(t for t, _, _ in rows), _columns(rows),
        )  # fmt: skip


def _former(number: int, was: Was) -> Node:
    node = was.entry.node(number)
    return node if node.name else replace(node, name=str(number))


def _columns(rows: list[tuple[int, str, str | None]]) -> tuple[Column, ...]:
    values = [msgspec.json.decode(vals) for _, vals, _ in rows]
    suspects = [set((suspect or "").split(",")) for _, _, suspect in rows]
    keys = dict.fromkeys(key for row in values for key in row)
    return tuple(
        Column(
            key, _UNITS.get(key.partition("-")[0], ""), tuple(row.get(key) for row in values),
            tuple(i for i, suspect in enumerate(suspects) if key in suspect),
        )
        for key in keys
    )  # fmt: skip

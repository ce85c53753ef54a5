"""The engine without a disk, for tests and trials: same contract, nothing survives the process."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.config.store import StoreConfig
from gateway.core.model import OPEN, Described, Event, Node, NodeState
from gateway.core.value import replace
from gateway.store.engine import NO_NOTES, STORE, Entry, RawFrame, StoreError, Unstorable, Write, is_express
from gateway.store.ledger import Ledger, begin
from gateway.store.prepare import encode_state, prepare
from gateway.store.schema import migrate
from gateway.store.sqlite import QUARANTINE_MAX, UNREAD


class MemoryEngine:
    """`failing` makes every commit fail, as a full disk would; `full` is the engine's word for no room but for alarms."""

    def __init__(self, outputs: Iterable[str] = (), keep: StoreConfig | None = None) -> None:
        self.failing = False
        self.full = False
        self._keep = keep or StoreConfig()
        self.waiting = 0
        self.transactions = 0
        self.frames: dict[tuple[int, int, int], RawFrame] = {}
        self.quarantined: deque[tuple[str, bytes]] = deque(maxlen=QUARANTINE_MAX)
        self.spool: list[Entry] = []
        self._purged = 0
        self._outputs = tuple(outputs)
        self._states: dict[int, NodeState] = {}
        self._cursors: dict[str, int] = {}
        self._express: dict[str, int] = {}
        self._airtime: list[tuple[str, int, int, int]] = []
        self._notes: dict[str, bytes] = {}
        self._poisoned = False
        self.wiped = 0  # how often it was asked to
        self._db = sqlite3.connect(":memory:", isolation_level=None)
        migrate(self._db, Path(":memory:"), 0.0)
        begin(self._db)
        self.ledger = Ledger(
            self._db, self._job, lambda _db, event: self._spool(event), self._calm, self._bare, self._exchanged
        )

    def _calm(self, _db: sqlite3.Connection, node: int) -> None:
        if node in self._states:
            self._states[node] = replace(self._states[node], alarms={})

    def _bare(self, _db: sqlite3.Connection, node: Node) -> bool:
        state = self._states.get(node.id)
        if state is None or state.is_of(node) or not state.heard:
            return False
        self._states[node.id] = state.bare()
        return True

    def _exchanged(self, db: sqlite3.Connection, node: Node) -> bool:
        state = self._states.get(node.id)
        if state is None or not state.is_replaced(node):
            return False
        self._calm(db, node.id)
        return True

    def _job(self, job: Callable[[sqlite3.Connection], int]) -> asyncio.Future[int]:
        found = job(self._db)
        self.ledger.folding.flush(self._db)
        return _future(found)

    def _spool(self, event: Event) -> int:
        seq = self.newest() + 1
        self.spool.append(Entry(seq, event, is_express(event)))
        self.ledger.folding.add(self._db, seq, event)
        return seq

    @property
    def newest_express(self) -> int:
        return max((e.seq for e in self.spool if e.express), default=0)

    def fetch(self, after: int, limit: int) -> list[Entry]:
        start = max(after - self._purged, 0)
        return self.spool[start : start + limit]

    def fetch_express(self, after: int, limit: int) -> list[Entry]:
        return [e for e in self.spool[max(after - self._purged, 0) :] if e.express][:limit]

    def fresh(self) -> NodeState:
        return NodeState()

    def unread(
        self, after: tuple[int, int, int] = (0, 0, 0), limit: int = 64, node: int | None = None
    ) -> list[RawFrame]:
        found = sorted(k for k, f in self.frames.items() if k > after and f.reason == UNREAD and node in (None, f.node))
        return [self.frames[k] for k in found[:limit]]

    def load(self, node: int) -> NodeState | None:
        return self._states.get(node)

    def described(self, nodes: Sequence[int]) -> dict[int, Described]:
        return {node: state for node in nodes if (state := self.load(node)) is not None}

    def note(self, key: str) -> bytes | None:
        return self._notes.get(key)

    def notes(self, prefix: str) -> dict[str, bytes]:
        return {key: body for key, body in self._notes.items() if key.startswith(prefix)}

    floor = 0

    def check(self, state: NodeState) -> None:
        encode_state(state)

    def commit(self, writes: Sequence[Write]) -> asyncio.Future[int]:
        for at, w in enumerate(writes):
            try:
                prepare(w)
            except Unstorable as e:
                e.at = at
                raise
        if self.failing or self._poisoned:
            self._poisoned = True
            return _future(StoreError("commit failed: told to fail"))
        for w in writes:
            if w.state is not None:
                self._states[w.node] = w.state
            if w.raw is not None:
                key = (w.raw.node, w.raw.epoch, w.raw.counter)
                known = self.frames.get(key)
                if known is not None if not w.again else known is None or not known.reason:
                    continue
                self.frames[key] = replace(w.raw, reason="") if w.again else w.raw
            for event in (*(() if w.event is None else (w.event,)), *w.more):
                self._spool(event)
            self._keep_notes(w.notes)
        self.ledger.folding.flush(self._db)
        self.transactions += 1
        return _future(self.newest())

    def _keep_notes(self, notes: Mapping[str, bytes | None]) -> None:
        for key, note in notes.items():
            if note is None:
                self._notes.pop(key, None)
            else:
                self._notes[key] = note

    def quarantine(self, data: bytes, reason: str, received: float) -> asyncio.Future[int]:
        self.quarantined.append((reason, data))
        return _future(0)

    def ack(
        self, output: str, seq: int, express: int | None = None, notes: Mapping[str, bytes | None] = NO_NOTES
    ) -> asyncio.Future[int]:
        self._keep_notes(notes)
        self._cursors[output] = max(self._cursors.get(output, 0), seq)
        self._express[output] = max(self._express.get(output, 0), seq if express is None else express)
        return _future(seq)

    def resume(self) -> asyncio.Future[int]:
        self._poisoned = False
        return _future(0)

    def cursor(self, output: str) -> int:
        return self._cursors.get(output, 0)

    def express_cursor(self, output: str) -> int:
        return self._express.get(output, 0)

    def newest(self) -> int:
        return self._purged + len(self.spool)

    def online(self) -> list[tuple[int, float]]:
        return [(node, state.heard) for node, state in self._states.items() if state.online]

    def believed(self) -> float:
        """Any time: a store that begins with the process knows none to hold a clock against."""
        return math.inf

    def airtime(self, since_us: int) -> list[tuple[str, int, int, int]]:
        return [row for row in self._airtime if row[2] > since_us]

    def book(self, transmitter: str, band: int, start_us: int, airtime_us: int) -> asyncio.Future[int]:
        self._airtime.append((transmitter, band, start_us, airtime_us))
        return _future(0)

    def purge(self, now: float) -> asyncio.Future[int]:
        before, n = now - self._keep.spool_hours * 3600, 0
        for e in self.spool:
            taken = all(
                self.cursor(o) >= e.seq and (not e.express or self.express_cursor(o) >= e.seq) for o in self._outputs
            )
            if not taken or e.event.received >= before:
                break
            n += 1
        del self.spool[:n]
        self._purged += n
        return _future(0)

    def tell(self, reason: str, told: Mapping[str, Any] | None = None) -> asyncio.Future[int]:
        event = Event(STORE, f"store:{reason}", 0, "gw-1", OPEN, 0.0, 0, status={"reason": reason, **(told or {})})
        self.spool.append(Entry(self.newest() + 1, event, True))
        return _future(self.newest())

    def make_room(self) -> asyncio.Future[int]:
        self.full = self.failing
        return _future(int(not self.full))

    def wipe(self) -> None:
        self.wiped += 1

    def close(self) -> None:
        return None


def _future(result: int | StoreError) -> asyncio.Future[int]:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    if isinstance(result, StoreError):
        future.set_exception(result)
        future.exception()
    else:
        future.set_result(result)
    return future

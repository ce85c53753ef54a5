"""The engine without a disk, for tests and trials: same contract, nothing survives the process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence

from gateway.core.model import NodeState
from gateway.store.engine import Entry, RawFrame, StoreError, Write
from gateway.store.sqlite import QUARANTINE_MAX


class MemoryEngine:
    """`failing` makes every commit fail, as a full disk would."""

    def __init__(self, outputs: Iterable[str] = ()) -> None:
        self.failing = False
        self.waiting = 0
        self.transactions = 0
        self.frames: dict[tuple[int, int, int], RawFrame] = {}
        self.quarantined: deque[tuple[str, bytes]] = deque(maxlen=QUARANTINE_MAX)
        self.spool: list[Entry] = []
        self._purged = 0
        self._outputs = tuple(outputs)
        self._states: dict[int, NodeState] = {}
        self._cursors: dict[str, int] = {}
        self._airtime: list[tuple[str, int, int, int]] = []
        self._notes: dict[str, bytes] = {}
        self._poisoned = False

    def fetch(self, after: int, limit: int) -> list[Entry]:
        start = max(after - self._purged, 0)
        return self.spool[start : start + limit]

    def load(self, node: int) -> NodeState | None:
        return self._states.get(node)

    def note(self, key: str) -> bytes | None:
        return self._notes.get(key)

    def notes(self, prefix: str) -> dict[str, bytes]:
        return {key: body for key, body in self._notes.items() if key.startswith(prefix)}

    def commit(self, writes: Sequence[Write]) -> asyncio.Future[int]:
        if self.failing or self._poisoned:
            self._poisoned = True
            return _future(StoreError("commit failed: told to fail"))
        for w in writes:
            if w.state is not None:
                self._states[w.node] = w.state
            if w.raw is not None:
                key = (w.raw.node, w.raw.epoch, w.raw.counter)
                if key in self.frames:
                    continue
                self.frames[key] = w.raw
            for event in (*(() if w.event is None else (w.event,)), *w.more):
                self.spool.append(Entry(self.newest() + 1, event))
            for key, note in w.notes.items():
                if note is None:
                    self._notes.pop(key, None)
                else:
                    self._notes[key] = note
        self.transactions += 1
        return _future(self.newest())

    def quarantine(self, data: bytes, reason: str, received: float) -> asyncio.Future[int]:
        self.quarantined.append((reason, data))
        return _future(0)

    def ack(self, output: str, seq: int) -> asyncio.Future[int]:
        self._cursors[output] = max(self._cursors.get(output, 0), seq)
        return _future(seq)

    def resume(self) -> asyncio.Future[int]:
        self._poisoned = False
        return _future(0)

    def cursor(self, output: str) -> int:
        return self._cursors.get(output, 0)

    def newest(self) -> int:
        return self._purged + len(self.spool)

    def online(self) -> list[tuple[int, NodeState]]:
        return [(node, state) for node, state in self._states.items() if state.online]

    def airtime(self, since_us: int) -> list[tuple[str, int, int, int]]:
        return [row for row in self._airtime if row[2] > since_us]

    def book(self, transmitter: str, band: int, start_us: int, airtime_us: int) -> asyncio.Future[int]:
        self._airtime.append((transmitter, band, start_us, airtime_us))
        return _future(0)

    def purge(self, spool_before: float) -> asyncio.Future[int]:
        taken = min((self.cursor(name) for name in self._outputs), default=0)
        n = 0
        while n < len(self.spool) and self.spool[n].seq <= taken and self.spool[n].event.received < spool_before:
            n += 1
        del self.spool[:n]
        self._purged += n
        return _future(n)

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

"""Frames that were kept because no one could read them are read again when that may have changed."""

from __future__ import annotations

import asyncio

import structlog

from gateway import crypto
from gateway.commit import Commits
from gateway.core.decide import reread
from gateway.core.model import Reception, Refusal
from gateway.core.receive import parse
from gateway.derivation import Derivation
from gateway.metrics import Metrics
from gateway.states import States
from gateway.store.engine import Engine, RawFrame, StoreError, Write

AT_ONCE = 64  # frames in one transaction
RETRY_S = 1.0

log = structlog.get_logger(__name__)


class Reread:
    """want() a node's frames, or all; the work is done by one task, beside the frames that come in."""

    def __init__(
        self, states: States, engine: Engine, derivation: Derivation, commits: Commits, metrics: Metrics
    ) -> None:
        self._states, self._engine, self._derivation, self._commits = states, engine, derivation, commits
        self._metrics = metrics
        self._wanted: list[int | None] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The task at work, done or not, until it was seen as done by settled()."""
        return self._task

    def settled(self) -> None:
        """Whoever waited for the task has seen its end."""
        self._task = None

    def want(self, number: int | None = None) -> None:
        """Read again: a node's frames, when it announces what it sends; all (None), at the start."""
        if number not in self._wanted:
            self._wanted.append(number)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="reread")

    async def _run(self) -> None:
        while self._wanted:
            number, after = self._wanted[0], (0, 0, 0)
            try:
                while frames := self._engine.unread(after, AT_ONCE, number):
                    writes = [w for raw in frames if (w := self._read(raw)) is not None]
                    if writes:
                        await self._commits.commit(writes, [])
                        self._metrics.totals["reread"] += len(writes)
                        log.info("frames_reread", frames=len(writes), nodes=len({w.node for w in writes}))
                    after = (frames[-1].node, frames[-1].epoch, frames[-1].counter)
            except StoreError:
                await asyncio.sleep(RETRY_S)  # not committed: they are still unread, and tried again
            else:
                self._wanted.pop(0)

    def _read(self, raw: RawFrame) -> Write | None:
        node, header = self._states.nodes.get(raw.node), parse(raw.data)
        if node is None or isinstance(header, Refusal):
            return None
        rx = Reception(raw.data, raw.received, raw.link, raw.receiver, raw.rssi, raw.snr)
        state = self._states.state(node.id)
        decision = reread(node, state, header, rx, raw.epoch, raw.counter, crypto.opener)
        if decision is None or decision.event is None:
            return None
        self._states.keep(node.id, decision.state)
        follow = self._derivation.derive(node, decision.event)
        return Write(node.id, decision.state, decision.event, raw, follow.events, follow.notes, again=True)

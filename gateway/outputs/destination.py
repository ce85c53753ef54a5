"""What every output is: a cursor of its own, a filter, and a loop that delivers, fails, waits and goes on.

A new kind of sink is one file: a class with open(), take() and shut(). Destinations never wait for each other.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import structlog

from gateway.backoff import Backoff
from gateway.config import OutputConfig
from gateway.core.model import Event, Node
from gateway.health import Problem
from gateway.metrics import Metrics
from gateway.outputs.filter import Sieve
from gateway.outputs.message import Known
from gateway.outputs.track import Track
from gateway.store.engine import Engine, Entry
from gateway.store.ledger import last_circle

BATCH = 64

log = structlog.get_logger(__name__)


class Destination(ABC):
    """Runs until cancelled. `info` gives the payload of gw info. wake() after every commit; drain() before the end.

    FAULTS: what open() and take() raise when the other side is away; anything else is a bug, ends run(), and is supervised.
    OPEN_IS_ENOUGH: False where only an answer to what was handed over shows that the other side is there; take() then calls answered().
    """

    FAULTS: tuple[type[Exception], ...] = (OSError,)
    OPEN_IS_ENOUGH = True
    EXPRESS = False
    """True for a kind of sink that tells alarms before any backlog: take_express() gets them, and take() leaves them alone."""

    def __init__(
        self,
        config: OutputConfig,
        gateway: str,
        engine: Engine,
        metrics: Metrics,
        info: Callable[[], dict[str, Any]],
        nodes: Mapping[int, Node],
    ) -> None:
        self.name, self.connected, self.batch = config.name, False, BATCH
        self.known = Known(gateway, nodes, config.filter)
        self._gateway, self._engine, self._metrics, self._info = gateway, engine, metrics, info
        self._sieve = Sieve(config.filter)
        self._track = Track(config.name, engine, self.EXPRESS)
        self._ending = False
        self.untried = not self.OPEN_IS_ENOUGH
        """True while nothing is known of the other side, since nothing was handed over to it yet."""
        self.backoff = Backoff()
        self.away: tuple[str, str] | None = None
        """Why it is away, and what to do next; None while it is there or was not tried yet."""

    # what a kind of sink is made of

    @abstractmethod
    async def open(self) -> None:
        """Reach the destination. Raises one of FAULTS."""

    @abstractmethod
    async def take(self, entries: Sequence[Entry]) -> None:
        """Hand events over, in order: track.begin for each, and track.finish when it is taken. Raises one of FAULTS."""

    async def take_express(self, entries: Sequence[Entry]) -> None:
        """Hand events of the express lane over: begin and finish are track.lane's."""
        raise NotImplementedError

    async def shut(self) -> None:
        """Let go of what open() took; called whatever happened."""
        return None

    def answered(self) -> None:
        """The other side has answered: it is there."""
        if not self.connected:
            log.info("output_connected", output=self.name, behind=self._engine.newest() - self._track.cursor)
        self.connected, self.untried, self.away = True, False, None

    def problems(self) -> Iterable[Problem]:
        """Say what is wrong beside being away or stalled."""
        return ()

    def explained(self) -> bool:
        """The destination has failed: True when it is known why, and no other client has our name."""
        return False

    async def serve(self) -> None:
        """Deliver until the destination fails, which raises one of FAULTS."""
        await self.deliver()

    def advice(self, error: Exception) -> str:
        """What the operator is to do next about an error of FAULTS."""
        return getattr(error, "hint", "") or "data are kept in the store; start the broker or correct the output"

    def reject(self, body: dict[str, Any]) -> None:
        """Tell why a frame was refused, where the destination has a place for that."""
        return None

    def tell(self, leaf: str, body: dict[str, Any]) -> None:
        """Publish what this gateway says of itself (gw/<gw>/<leaf>, retained), where the destination has a place for that."""
        return None

    def greet(self) -> None:
        """Publish that this gateway is there, where the destination has a place for that: another output has left it."""
        return None

    async def retire(self) -> None:
        """Make the cursor durable; after run() was cancelled, before another takes this one's name."""
        await self._track.persist()

    async def farewell(self, state: bool = True) -> None:
        """Say good-bye; nothing is delivered behind it. state: False where another output publishes the gateway's state there."""
        self._ending = True

    # what all have in common

    @property
    def cursor(self) -> int:
        """Newest event that the destination has taken, and all before it."""
        return self._track.cursor

    def wake(self) -> None:
        """Tell that the spool has grown."""
        self._track.news.set()

    def reload(self, nodes: Mapping[int, Node]) -> None:
        """Go on with another registry."""
        self.known = self.known.with_nodes(nodes)

    async def drain(self) -> None:
        """Wait until everything committed so far has been taken, and the cursor is durable. The caller bounds the time."""
        await self._track.drained()

    async def run(self) -> None:
        """Connect, deliver, reconnect with back-off and jitter. Never raises for a destination's sake."""
        while True:
            opened, wait = False, 0.0
            try:
                await self.open()
                opened = True
                self._track.restart()
                if self.OPEN_IS_ENOUGH:
                    self.answered()
                self.backoff.connected()
                before = self._track.cursor
                try:
                    await self.serve()
                finally:  # a destination that took something, or stood for a while, is not the one we were backing off from
                    self.backoff.lost(worked=self._track.cursor > before, explained=self.explained())
            except self.FAULTS as e:
                if self._ending:
                    return
                if not opened:
                    self.backoff.failed()
                self.untried = False
                self._metrics.totals["output_connects_failed"] += 1
                wait = self.backoff.pause()
                self.away = str(e) or type(e).__name__, self.advice(e)
                log.warning(
                    "output_unreachable",
                    output=self.name,
                    error=self.away[0],
                    retry_s=round(wait, 1),
                    next=self.away[1],
                )
            finally:
                self.connected = False
                await self.shut()
            await asyncio.sleep(wait)

    async def deliver(self) -> None:
        """Hand the spool over from the cursor on, as fast as it is taken, for ever."""
        track = self._track
        lane = track.lane
        while True:
            track.news.clear()
            if lane is not None and lane.waits:
                if lane.room <= 0:  # no bulk before the last alarm
                    await (track.news.wait() if track.is_durable else track.persist())
                    continue
                alarms = self._engine.fetch_express(lane.sent, min(lane.room, self.batch))
                if alarms:
                    await self.take_express(alarms)
                    continue
            room = track.room
            entries = self._engine.fetch(track.sent, min(room, self.batch)) if room > 0 else []
            if entries:
                await self.take(entries)
            elif room > 0 and track.passes_gap():
                continue
            elif room > 0 or track.is_durable:
                await track.news.wait()
            else:
                await track.persist()

    def narrow(self, event: Event) -> Event | None:
        """Return what this destination may see of an event; of whom is no more, as narrow as it was last."""
        nodes = self.known.nodes
        return self._sieve.narrow(event, nodes, last_circle(event, nodes, self._engine.ledger.known))

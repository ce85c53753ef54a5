"""An MQTT destination: takes events from the spool in order, keeps a bounded window in flight, moves its cursor on PUBACK.

At least once: what was sent but not acknowledged is sent again after a reconnect or a restart, at most SPAN events. Among those
only the newest retained payload of each topic is repeated, so that an old value never replaces a newer one, not even briefly.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import structlog

from gateway.config import MqttOutputConfig
from gateway.core.model import Event
from gateway.metrics import Metrics
from gateway.mqtt_session import MqttError, MqttSession
from gateway.outputs import FORMATS
from gateway.outputs.message import Message, json
from gateway.store.engine import Engine, StoreError

SPAN = 256  # events that may be sent ahead of the durable cursor
PERSIST_S = 0.2
INFO_S = 60.0
BACKOFF_S = (0.5, 30.0)
CLOSE_S = 5.0
REJECTS_PER_S = 20

log = structlog.get_logger(__name__)


class MqttOutput:
    """Runs until cancelled. `info` gives the payload of gw info. wake() after every commit; drain() before the end."""

    def __init__(
        self,
        config: MqttOutputConfig,
        gateway: str,
        engine: Engine,
        metrics: Metrics,
        info: Callable[[], dict[str, Any]],
    ) -> None:
        self._config, self._gateway, self._engine, self._metrics, self._info = config, gateway, engine, metrics, info
        self.name = config.name
        self._formats = [FORMATS[name] for name in config.formats]
        self._session: MqttSession | None = None
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._cursor = self._durable = engine.cursor(config.name)
        self._sent = self._cursor  # newest event handed to the session
        # newest event that may have been sent before this process started
        self._highest = min(self._cursor + SPAN, engine.newest())
        self._flight: dict[int, int] = {}  # message id -> event
        self._open: deque[list[int]] = deque()  # [event, messages outstanding], oldest first
        self._counts: dict[int, list[int]] = {}
        self._persist_timer: asyncio.TimerHandle | None = None
        self._ending = False
        self._rejects = 0
        self._rejects_since = 0.0

    @property
    def connected(self) -> bool:
        """True while the broker answers."""
        return self._session is not None

    @property
    def cursor(self) -> int:
        """Newest event that the destination has taken, and all before it."""
        return self._cursor

    def wake(self) -> None:
        """Tell that the spool has grown."""
        self._wake.set()

    def reject(self, body: dict[str, Any]) -> None:
        """Publish why a frame was refused: QoS 0, and at most REJECTS_PER_S, since a flood must not become ours."""
        session = self._session
        if session is None:
            return
        now = asyncio.get_running_loop().time()
        if now - self._rejects_since >= 1.0:
            self._rejects, self._rejects_since = 0, now
        self._rejects += 1
        if self._rejects <= REJECTS_PER_S:
            session.publish(self._gw("reject"), json(body))

    async def run(self) -> None:
        """Connect, deliver, reconnect with back-off and jitter. Never raises for a broker's sake."""
        wait = BACKOFF_S[0]
        while True:
            will = (self._gw("state"), b"offline")
            session = MqttSession(self._config.broker, f"citymote-{self._gateway}-out-{self.name}", will)
            session.on_puback = self._acked
            try:
                await session.connect()
                wait = BACKOFF_S[0]
                log.info("output_connected", output=self.name, behind=self._engine.newest() - self._cursor)
                self._restart()
                self._session = session
                session.publish(self._gw("state"), b"online", 1, True)
                self._publish_info()
                await self._serve(session)
            except MqttError as e:
                if self._ending:
                    return
                self._metrics.totals["output_connects_failed"] += 1
                log.warning(
                    "output_unreachable", output=self.name, error=str(e), retry_s=round(wait, 1),
                    next="data are kept in the store; start the broker or correct the output's broker",
                )  # fmt: skip
            finally:
                self._session = None
                await session.disconnect()
            await asyncio.sleep(wait * random.uniform(0.75, 1.25))
            wait = min(wait * 2, BACKOFF_S[1])

    async def drain(self) -> None:
        """Wait until everything committed so far has been taken, and the cursor is durable. The caller bounds the time."""
        target = self._engine.newest()
        while self._cursor < target:
            self._room.clear()
            await self._room.wait()
        await self._persist_now()

    async def farewell(self) -> None:
        """Publish the closing counters and `offline`, wait for the broker to have them, and disconnect."""
        self._ending = True
        session = self._session
        if session is None:
            return
        self._publish_info()
        last = session.publish(self._gw("state"), b"offline", 1, True)
        if last is not None:
            gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            session.on_puback = lambda mid: gone.set_result(None) if mid == last and not gone.done() else None
            await asyncio.wait((gone, session.closed), timeout=CLOSE_S, return_when=asyncio.FIRST_COMPLETED)
        await session.disconnect()

    async def _serve(self, session: MqttSession) -> None:
        """Deliver until the connection ends, which raises MqttError."""
        tasks = (
            asyncio.create_task(self._deliver(session), name=f"deliver-{self.name}"),
            asyncio.create_task(self._tell_info(), name=f"info-{self.name}"),
        )
        try:
            await asyncio.wait((session.closed, *tasks), return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and (error := task.exception()) is not None:
                    raise error
            raise MqttError(f"{self._config.broker.host}:{self._config.broker.port}: {session.closed.result()}")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _restart(self) -> None:
        """Forget the flight of the former connection: what was not acknowledged is sent again from the cursor."""
        self._highest = max(self._highest, self._sent)
        self._sent = self._cursor
        self._flight.clear()
        self._open.clear()
        self._counts.clear()

    async def _deliver(self, session: MqttSession) -> None:
        while True:
            self._wake.clear()
            limit = SPAN - (self._sent - self._durable)
            batch = self._engine.fetch(self._sent, min(limit, 64)) if limit > 0 else []
            if not batch:
                if limit > 0 or self._cursor == self._durable:
                    await self._wake.wait()
                else:
                    await self._persist_now()
                continue
            newest: dict[str, float] = {}
            repeated = self._sent < self._highest
            if repeated:  # look over all that may have been sent before, not only this batch
                newest = self._newest_of(self._engine.fetch(self._sent, SPAN))
            for entry in batch:
                messages = self._messages(entry.event)
                if repeated:
                    messages = [m for m in messages if m.newest is None or m.newest >= newest.get(m.topic, m.newest)]
                await self._send(session, entry.seq, messages)

    def _newest_of(self, entries: Iterable[Any]) -> dict[str, float]:
        newest: dict[str, float] = {}
        for entry in entries:
            for m in self._messages(entry.event):
                if m.newest is not None and m.newest > newest.get(m.topic, float("-inf")):
                    newest[m.topic] = m.newest
        return newest

    def _messages(self, event: Event) -> list[Message]:
        if event.visibility not in self._config.visibility:
            return []
        return [m for form in self._formats for m in form(event, self._config.root)]

    async def _send(self, session: MqttSession, seq: int, messages: list[Message]) -> None:
        count = [seq, len(messages) + 1]  # one more, so that it cannot be finished before all are out
        self._open.append(count)
        self._counts[seq] = count
        for m in messages:
            while len(self._flight) >= self._config.window:
                self._room.clear()
                await self._room.wait()
            mid = session.publish(m.topic, m.payload, m.qos, m.retain)
            if mid is None:
                raise MqttError("connection lost")
            self._metrics.totals["messages"] += 1
            if m.qos:
                self._flight[mid] = seq
            else:
                count[1] -= 1
        self._sent = seq
        self._finish(count)
        if len(self._open) % 16 == 0:
            await asyncio.sleep(0)  # a long backlog must not keep the links waiting

    def _acked(self, mid: int) -> None:
        seq = self._flight.pop(mid, None)
        if seq is not None:
            self._finish(self._counts[seq])

    def _finish(self, count: list[int]) -> None:
        count[1] -= 1
        while self._open and not self._open[0][1]:
            self._cursor = self._open.popleft()[0]
            del self._counts[self._cursor]
            self._wake.set()
        self._room.set()
        if self._cursor > self._durable and self._persist_timer is None:
            self._persist_timer = asyncio.get_running_loop().call_later(PERSIST_S, self._persist)

    def _persist(self) -> asyncio.Future[int]:
        self._persist_timer = None
        seq = self._cursor

        def kept(future: asyncio.Future[int]) -> None:
            if not future.cancelled() and future.exception() is None:
                self._durable = max(self._durable, seq)
                self._wake.set()

        future = self._engine.ack(self.name, seq)
        future.add_done_callback(kept)
        return future

    async def _persist_now(self) -> None:
        if self._persist_timer is not None:
            self._persist_timer.cancel()
            self._persist_timer = None
        if self._cursor > self._durable:
            try:
                await self._persist()
            except StoreError as e:
                log.error("cursor_not_kept", output=self.name, error=str(e))
                await asyncio.sleep(1.0)

    async def _tell_info(self) -> None:
        while True:
            await asyncio.sleep(INFO_S)
            self._publish_info()

    def _publish_info(self) -> None:
        if self._session is not None:
            body = {**self._info(), "formats": list(self._config.formats)}
            self._session.publish(self._gw("info"), json(body), 1, True)

    def _gw(self, leaf: str) -> str:
        return f"{self._config.root}/v1/gw/{self._gateway}/{leaf}"

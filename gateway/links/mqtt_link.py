"""WiFi nodes through a broker: the same frames as message bodies, QoS 0. The gateway's own ack is what a node waits for."""

from __future__ import annotations

import asyncio
import random
import re

import structlog

from gateway.clock import Clock
from gateway.config import MqttLinkConfig
from gateway.core.model import Reception
from gateway.links.link import Deliver
from gateway.metrics import Metrics
from gateway.mqtt_session import MqttError, MqttSession

MAX_BODY = 1024
BACKOFF_S = (0.5, 30.0)
READY_S = 5.0
_ID = re.compile(r"[0-9a-f]{8}")

log = structlog.get_logger(__name__)


class MqttLink:
    """Keeps one connection, reconnects with back-off; a broker that is away is logged and does no other harm."""

    def __init__(self, config: MqttLinkConfig, gateway: str, deliver: Deliver, clock: Clock, metrics: Metrics) -> None:
        self.name = config.name
        self._config, self._gateway, self._deliver, self._clock, self._metrics = (
            config,
            gateway,
            deliver,
            clock,
            metrics,
        )
        self._session: MqttSession | None = None
        self._task: asyncio.Task[None] | None = None
        self._first = asyncio.Event()
        self._taking = False
        self._up = f"{config.root}/v1/up/"
        self._down = f"{config.root}/v1/down/"

    @property
    def connected(self) -> bool:
        """True while the broker answers."""
        return self._session is not None

    async def start(self) -> str:
        """Begin to connect; give the first attempt READY_S, so that READY means subscribed when the broker is there."""
        self._taking = True
        self._task = asyncio.create_task(self._run(), name=f"link-{self.name}")
        try:
            async with asyncio.timeout(READY_S):
                await self._first.wait()
        except TimeoutError:
            pass  # _run has logged why, or will
        b = self._config.broker
        return f"{b.host}:{b.port}/{self._up}+"

    async def stop(self) -> None:
        self._taking = False

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def send(self, to: Reception, node: int, frame: bytes) -> bool:
        session = self._session
        if session is None:
            self._metrics.refused["no_downlink_path"] += 1
            return False
        session.publish(f"{self._down}{node:08x}", frame)
        return True

    async def _run(self) -> None:
        wait = BACKOFF_S[0]
        while True:
            session = MqttSession(self._config.broker, f"citymote-{self._gateway}-link-{self.name}")
            session.on_message = self._arrived
            try:
                await session.connect()
                await session.subscribe(self._up + "+", 0)
                self._session = session
                wait = BACKOFF_S[0]
                log.info("link_connected", link=self.name)
                self._first.set()
                reason = await asyncio.shield(session.closed)
                log.warning("link_lost", link=self.name, error=reason)
            except MqttError as e:
                self._metrics.totals["link_connects_failed"] += 1
                log.warning(
                    "link_unreachable", link=self.name, error=str(e), retry_s=round(wait, 1),
                    next="nodes keep their frames; start the broker or correct the link's broker",
                )  # fmt: skip
                self._first.set()
            finally:
                self._session = None
                await session.disconnect()
            await asyncio.sleep(wait * random.uniform(0.75, 1.25))
            wait = min(wait * 2, BACKOFF_S[1])

    def _arrived(self, topic: str, payload: bytes) -> None:
        if not self._taking:
            return
        if len(payload) > MAX_BODY:
            self._metrics.refused["too_long"] += 1
            return
        # the topic's id is a routing label only; the sealed header says who sends, and the answer goes to that node
        if not _ID.fullmatch(topic.removeprefix(self._up)):
            self._metrics.refused["bad_topic"] += 1
            return
        self._deliver(Reception(payload, self._clock.now(), self.name, self._config.broker.host))

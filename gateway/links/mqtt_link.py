"""WiFi nodes through a broker: the same frames as message bodies, QoS 0. The gateway's own ack is what a node waits for."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Any

import structlog

from gateway.backoff import Backoff
from gateway.clock import Clock
from gateway.config import MqttLinkConfig
from gateway.core.model import Reception
from gateway.links.link import Deliver, Reject, unheard
from gateway.logs import Seldom
from gateway.metrics import Metrics
from gateway.mqtt_session import MqttError, MqttSession
from gateway.supervise import Kept, Watch, caught

MAX_BODY = 1024
READY_S = 5.0
_ID = re.compile(r"[0-9a-f]{8}")

log = structlog.get_logger(__name__)


class MqttLink:
    """Keeps one connection, reconnects with back-off; a broker that is away is logged and does no other harm."""

    def __init__(
        self,
        config: MqttLinkConfig,
        gateway: str,
        deliver: Deliver,
        clock: Clock,
        metrics: Metrics,
        watch: Watch | None = None,
        rejected: Reject = unheard,
    ) -> None:
        """rejected: gets the public description of what is refused here, before any frame is known."""
        self.name = config.name
        self._config, self._gateway, self._deliver, self._clock, self._metrics = (
            config,
            gateway,
            deliver,
            clock,
            metrics,
        )
        self._watch, self._rejected = Watch(metrics) if watch is None else watch, rejected
        self.backoff = Backoff()
        self._session: MqttSession | None = None
        self._kept: Kept | None = None
        self._first = asyncio.Event()
        self._taking = False
        self._lines = Seldom()
        self._up = f"{config.root}/v1/up/"
        self._down = f"{config.root}/v1/down/"

    @property
    def client_id(self) -> str:
        """What the broker knows us by."""
        return f"citymote-{self._gateway}-link-{self.name}"

    @property
    def connected(self) -> bool:
        """True while the broker answers."""
        return self._session is not None

    async def start(self) -> str:
        """Begin to connect; give the first attempt READY_S, so that READY means subscribed when the broker is there."""
        self._taking = True
        self._kept = self._watch.keep(f"link {self.name}", self._run)
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
        if self._kept is not None:
            await self._kept.stop()

    def send(self, to: Reception, node: int, frame: bytes) -> bool:
        session = self._session
        if session is None:
            self._metrics.refused["no_downlink_path"] += 1
            return False
        session.publish(f"{self._down}{node:08x}", frame)
        return True

    async def _run(self) -> None:
        caught_here = partial(caught, self._metrics, f"link {self.name}")
        while True:
            wait = 0.0
            session = MqttSession(self._config.broker, self.client_id, caught=caught_here)
            session.on_message = self._arrived
            session.on_too_long = lambda: self._metrics.refused.update(("too_long",))
            try:
                await session.connect()
                await session.subscribe(self._up + "+", 0)
                self._session = session
                self.backoff.connected()
                log.info("link_connected", link=self.name)
                self._first.set()
                reason = await asyncio.shield(session.closed)
                self.backoff.lost()
                wait = self.backoff.pause()
                log.warning("link_lost", link=self.name, error=reason)
            except MqttError as e:
                self.backoff.failed()
                wait = self.backoff.pause()
                self._metrics.totals["link_connects_failed"] += 1
                log.warning(
                    "link_unreachable", link=self.name, error=str(e), retry_s=round(wait, 1),
                    next=e.hint or "nodes keep their frames; start the broker or correct the link's broker",
                )  # fmt: skip
                self._first.set()
            finally:
                self._session = None
                await session.disconnect()
            await asyncio.sleep(wait)

    def _arrived(self, topic: str, payload: bytes) -> None:
        if not self._taking:
            return
        if len(payload) > MAX_BODY:
            self._refuse("too_long", topic, f"{len(payload)} bytes; a frame has {MAX_BODY} at most")
            return
        # the topic's id is a routing label only; the sealed header says who sends, and the answer goes to that node
        label = topic.removeprefix(self._up)
        if not _ID.fullmatch(label):
            self._refuse("bad_topic", topic, f"publish on {self._up}<node's id, 8 lower-case hex digits>")
            return
        self._deliver(Reception(payload, self._clock.now(), self.name, self._config.broker.host))

    def _refuse(self, reason: str, topic: str, detail: str) -> None:
        """Count it, say it on gw/<gw>/reject, and leave one line in the log for each topic and kind."""
        self._metrics.refused[reason] += 1
        shown = topic[:100]
        left = self._lines.due(reason, shown)
        if left is not None:
            more: dict[str, Any] = {"left_out": left} if left else {}
            log.info("message_refused", reason=reason, link=self.name, topic=shown, next=detail, **more)
        self._rejected({"reason": reason, "link": self.name, "detail": f"{shown}: {detail}"})

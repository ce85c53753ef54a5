"""The way in for commands: requests from a broker to the pipeline, and what becomes of them to who asked. (The outputs tell it, too, on the
node's ack topic, durably and to whom their filters let see the node.)

<root>/v1/cmd/<requester>/<node>: the broker's ACL must let each user write below its own name only (README.md).
<root>/v1/node/<node>/cmd: only with `console`, for a broker that nobody but one user can reach.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from gateway.asked_elsewhere import Elsewhere
from gateway.backoff import Backoff
from gateway.config import Broker
from gateway.config.table import NAME
from gateway.core.authorise import GATEWAY
from gateway.core.model import Event
from gateway.logs import Seldom
from gateway.metrics import Metrics
from gateway.mqtt_session import MqttError, MqttSession
from gateway.outputs.native import ack_body
from gateway.supervise import caught

Ask = Callable[[str, str, bytes], object]
"""(requester, node, body): hands a request to the service."""

log = structlog.get_logger(__name__)


class CommandRim:
    """Keeps one subscription, reconnects with back-off. A broker that is away means no commands, and does no other harm.

    A request that is published while we are away is gone, like any message of a clean session: who gets no "accepted" asks again with the
    same id. A retained request is refused: it would come back at every connection.
    """

    def __init__(
        self,
        broker: Broker,
        root: str,
        gateway: str,
        console: str | None,
        ask: Ask,
        metrics: Metrics,
        ours: Callable[[str], bool],
    ) -> None:
        """ours: True for the name of a node in our registry."""
        self._broker, self._root, self._gateway, self._console, self._ours = broker, root, gateway, console, ours
        self._ask, self._metrics = ask, metrics
        self.connected = asyncio.Event()
        self.backoff = Backoff()
        self._lines = Seldom()
        self._session: MqttSession | None = None
        self._elsewhere: Elsewhere | None = None
        self._looks: set[asyncio.Task[None]] = set()

    @property
    def client_id(self) -> str:
        """What the broker knows us by."""
        return f"citymote-{self._gateway}-commands"

    async def up(self, seconds: float) -> None:
        """Wait until requests can come in, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self.connected.wait()
        except TimeoutError:
            pass  # run() has logged why, or will

    def answer(self, event: Event) -> None:
        """Tell who asked of a committed step, on a topic of its own: also of nodes whose data an output may not see. Once; who missed it
        asks again with the same id."""
        requester = (event.command or {}).get("requester", GATEWAY)
        if self._session is not None and requester != GATEWAY and NAME.fullmatch(requester):
            topic = f"{self._root}/v1/cmd/{requester}/{event.name}/ack"
            if self._elsewhere is not None:
                self._elsewhere.answering(topic, str((event.command or {}).get("id", "")))
            self._session.publish(topic, ack_body(event), 1)

    async def run(self) -> None:
        """Serve until cancelled."""
        caught_here = partial(caught, self._metrics, "commands")
        while True:
            wait = 0.0
            session = MqttSession(self._broker, self.client_id, caught=caught_here)
            session.on_message = self._arrived
            session.on_too_long = lambda: self._metrics.refused.update(("command_malformed",))
            session.on_retained = self._retained
            try:
                await session.connect()
                self._elsewhere = Elsewhere(session, self._root, self._gateway)
                await self._elsewhere.begin()
                await session.subscribe(f"{self._root}/v1/cmd/+/+", 1)
                await session.subscribe(f"{self._root}/v1/node/+/cmd", 1)
                self._session = session
                self.connected.set()
                self.backoff.connected()
                log.info("commands_connected")
                reason = await asyncio.shield(session.closed)
                self.backoff.lost()
                wait = self.backoff.pause()
                log.warning("commands_lost", error=reason)
            except MqttError as e:
                self.backoff.failed()
                wait = self.backoff.pause()
                self._metrics.totals["command_connects_failed"] += 1
                log.warning("commands_unreachable", error=str(e), retry_s=round(wait, 1),
                            next=e.hint or "nothing can be ordered until the broker answers; start it or correct the output's broker")  # fmt: skip
            finally:
                self._session = self._elsewhere = None
                self.connected.clear()
                for look in self._looks:  # who asked gets no answer, as of any request while we are away
                    look.cancel()
                await session.disconnect()
            await asyncio.sleep(wait)

    def _retained(self, topic: str, payload: bytes) -> None:
        if self._elsewhere is not None and self._elsewhere.heard(topic, payload):
            return
        self._metrics.refused["command_retained"] += 1
        log.warning(
            "command_retained", topic=topic, next="publish requests without the retain flag, and remove this one"
        )

    def _arrived(self, topic: str, payload: bytes) -> None:
        if self._elsewhere is not None and self._elsewhere.heard(topic, payload):
            return
        levels = topic.removeprefix(f"{self._root}/v1/").split("/")
        if len(levels) != 3:
            self._bad_topic(topic)
            return
        if levels[0] == "cmd":
            requester, node = levels[1], levels[2]
        elif self._console is not None:
            requester, node = self._console, levels[1]
        else:
            self._metrics.refused["command_unauthenticated"] += 1
            log.warning("command_unauthenticated", topic=topic, next=f"publish on {self._root}/v1/cmd/<user>/{levels[1]}, or set commands.console")  # fmt: skip
            return
        if not NAME.fullmatch(requester) or not NAME.fullmatch(node):
            self._bad_topic(topic)
            return
        if self._ours(node) or self._elsewhere is None:
            self._ask(requester, node, payload)
            return
        look = asyncio.create_task(self._look(self._elsewhere, requester, node, payload))
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)

    async def _look(self, elsewhere: Elsewhere, requester: str, node: str, payload: bytes) -> None:
        """Ask for a node that is not ours, which is refused, unless another gateway has it."""
        if await elsewhere.answered(requester, node, payload):
            self._metrics.totals["commands_elsewhere"] += 1
        else:
            self._ask(requester, node, payload)

    def _bad_topic(self, topic: str) -> None:
        self._metrics.refused["command_bad_topic"] += 1
        left = self._lines.due("command_bad_topic", topic[:100])
        if left is not None:
            log.warning("command_bad_topic", topic=topic[:100], left_out=left, next=f"publish on {self._root}/v1/cmd/<user>/<node>, names of a-z 0-9 _ -")  # fmt: skip

"""Sees to it that the presence of our nodes at a broker is what this gateway says: a bystander cannot overrule it.

A node's key lives in one gateway. A second one with the same registry, broker and root publishes what it believes of nodes that it does not
hear. So node/+/state is read back: what differs from the ledger, and is not a publication of ours on its way, is published again; rarely
enough that two gateways do not fight, and shown in health, since one of them has to lose the node.

Where the topic was emptied, all of the node is published again: a gateway that had the node before, and does not look whose it is by now,
empties all that it knows of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import structlog

from gateway.core.model import Node
from gateway.health import Problem
from gateway.metrics import Metrics
from gateway.mqtt_session import MqttSession, NotSubscribed
from gateway.outputs.message import Message
from gateway.outputs.resync import Resync

LEAF = "/state"
LOOK_S = 1.0
GRACE_S = 5.0  # for our own publications to come back
AT_ONCE = 50  # nodes looked at without a pause
HEARD_S = (
    60.0,
    3600.0,
)  # between two corrections of a node that we hear: doubled while it is overruled again and again
SILENT_S = (600.0, 21_600.0)  # of one that we do not: whoever else says it is there may be right
TOLD_S = 3600.0  # so long health shows it
NAMED = 3  # nodes that health names

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Said:
    """What stands at the broker on a node's topic. differs: since when it is known not to be what we say."""

    payload: bytes
    differs: float | None = None


@dataclass(slots=True)
class _Contest:
    """A node that another gateway speaks for. at: of the last correction, or of when it was found; wait: until the next may follow."""

    at: float
    wait: float


class Contested:
    """One per output. heard() takes what stands on node/+/state; run() while connected."""

    def __init__(
        self,
        output: str,
        root: str,
        nodes: Mapping[int, Node],
        resync: Resync,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._output, self._resync, self._metrics, self._clock = output, resync, metrics, clock
        self._prefix = f"{root}/v1/node/"
        self._numbers: Mapping[str, int] = {}
        self._said: dict[int, _Said] = {}
        self._contests: dict[int, _Contest] = {}
        self.use(nodes)

    def use(self, nodes: Mapping[int, Node]) -> None:
        """Follow another registry."""
        self._nodes, self._numbers = nodes, {n.name: n.id for n in nodes.values()}

    def begin(self) -> None:
        """A new connection: what stands at the broker will be heard anew."""
        self._said.clear()

    def heard(self, topic: str, payload: bytes) -> bool:
        """Take a message; False when it is no node's state. It is only noted, one a node; look() judges it."""
        if not topic.startswith(self._prefix) or not topic.endswith(LEAF):
            return False
        number = self._numbers.get(topic[len(self._prefix) : -len(LEAF)])
        if number is not None:
            said = self._said.get(number)
            if said is None:
                self._said[number] = _Said(payload)
            else:
                said.payload = payload
        return True

    async def run(self, session: MqttSession) -> None:
        """Listen once the broker's memory is true, and look at what was heard, until cancelled. Raises MqttError."""
        await self._resync.done.wait()
        topic = f"{self._prefix}+{LEAF}"
        try:
            await session.subscribe(topic, 0)
        except NotSubscribed as e:
            log.warning("output_deaf", output=self._output, topic=topic, error=str(e), next=e.hint)
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Judge what stands at the broker, and correct what has differed for GRACE_S and is due. Raises MqttError."""
        judged = 0
        for number in list(self._said):
            said, contest, now = self._said.get(number), self._contests.get(number), self._clock()
            if said is None or contest is not None and now - contest.at < contest.wait:
                continue
            if self._overruled(number, said, now):
                await self._correct(number)
            judged += 1
            if judged % AT_ONCE == 0:
                await asyncio.sleep(0)

    def _overruled(self, number: int, said: _Said, now: float) -> bool:
        """True when a correction is due."""
        ours = self._ours(number)
        if ours is None or ours.payload == said.payload:
            del self._said[number]
            return False
        if not self._resync.is_said(str(number)):  # a backlog: what we have published is behind what we know
            said.differs = None
            return False
        said.differs = now if said.differs is None else said.differs
        if now - said.differs < GRACE_S:
            return False
        least, most = HEARD_S if ours.payload == b"online" else SILENT_S
        contest = self._contests.get(number)
        if contest is None:
            log.warning(
                "presence_contested", output=self._output, node=number, said=said.payload[:16].decode(errors="replace"),
                next="another gateway publishes this node's presence: take the node out of its nodes.toml (docs/operator/keys.md)",
            )  # fmt: skip
            self._contests[number] = _Contest(now, least)
            return ours.payload == b"online"  # one that we do not hear may be heard elsewhere: first only said
        quiet = now - contest.at > 4 * contest.wait
        contest.at, contest.wait = now, max(least, min(contest.wait * (1 if quiet else 2), most))
        return True

    def _ours(self, number: int) -> Message | None:
        node = self._nodes.get(number)
        return None if node is None else self._resync.presence(str(number), f"{self._prefix}{node.name}{LEAF}")

    async def _correct(self, number: int) -> None:
        await self._resync.room()
        ours = self._ours(number)  # as it is by now
        said = self._said.pop(number, None)
        if ours is not None:
            self._metrics.totals["presence_contested"] += 1
            self._resync.publish(ours, str(number))
            if said is not None and not said.payload:
                self._resync.republish(str(number))

    def problems(self) -> Iterator[Problem]:
        """Name the nodes that another gateway speaks for."""
        now = self._clock()
        for number in [n for n, c in self._contests.items() if now - c.at > max(TOLD_S, 4 * c.wait)]:
            if number not in self._said:
                del self._contests[number]
        names = [node.name for n in self._contests if (node := self._nodes.get(n)) is not None]
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            yield Problem(
                "shared_node",
                f"output {self._output}: another gateway publishes the presence of {', '.join(names[:NAMED])}{more}",
                "a node's key lives in ONE gateway: take the node out of the other's nodes.toml (docs/operator/keys.md)",
            )

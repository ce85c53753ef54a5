"""Commands at the rim: requests in, orders into answers and to nodes that listen all the time, steps out once they are
committed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import structlog
from motewire.frame import MAX_FRAME, max_frame

from gateway.clock import Clock
from gateway.commit import Commits
from gateway.core import downlink
from gateway.core.authorise import Policy
from gateway.core.command import Offer
from gateway.core.commands import Desk
from gateway.core.follow import Follow
from gateway.core.model import Event, Node, NodeState, Reception
from gateway.core.order_time import OrderTime
from gateway.core.value import replace
from gateway.downlinks import Downlinks
from gateway.metrics import Metrics
from gateway.states import States
from gateway.store.engine import Write

log = structlog.get_logger(__name__)


class OrderDesk:
    """Round the pure Desk; without one (no [commands] in the configuration) nothing is ever ordered."""

    def __init__(self, desk: Desk | None, states: States, commits: Commits, clock: Clock, metrics: Metrics) -> None:
        self._desk, self._states, self._commits, self._clock, self._metrics = desk, states, commits, clock, metrics
        self.time = OrderTime() if desk is None else desk.time  # its functions are set by the pipeline
        self.downlinks: Downlinks  # set by the pipeline: each needs the other
        self.wipe: Callable[[], None] = lambda: None  # called when a secret is overwritten on disk
        self.answered: Callable[[Event], None] = lambda _event: None  # gets every committed step of a command
        self._listening: dict[int, Reception] = {}  # nodes that are always there (WiFi), and how they were heard last

    def heard(self, number: int, rx: Reception) -> None:
        """Learn how a node listens from how its news was heard, and from nothing else (a repeat proves a recording):
        over WiFi always, over LoRa after an uplink."""
        if rx.radio is None:
            self._listening[number] = rx
        else:
            self._listening.pop(number, None)

    def for_answer(self, node: Node, state: NodeState, rx: Reception, repeat: bool) -> Offer | None:
        """Return the order that may leave with the answer to an uplink, if one is due. repeat: of an uplink that is no
        news."""
        if self._desk is None:
            return None
        limit = MAX_FRAME if rx.radio is None else max_frame(rx.radio.sf)
        return self._offer(self._desk, node, state, limit, rx.received, repeat)

    def _offer(
        self, desk: Desk, node: Node, state: NodeState, limit: int, now: float, repeat: bool = False
    ) -> Offer | None:
        room = limit - downlink.overhead(node.under(state.epoch))
        return desk.offer(node, room, now, (state.epoch, state.replay.next - 1), repeat)

    def ask(self, requester: str, node: str, body: bytes) -> str:
        """Take a request of someone the broker vouches for; it is answered on the node's ack topic once it is
        committed.

        Returns how it was judged (gateway.core.commands.Desk.request), which is counted.
        """
        assert self._desk is not None
        follow, judged = self._desk.request(requester, node, body, self._clock.now(), self.downlinks.knows_time())
        if judged in ("accepted", "again"):
            self._metrics.totals[f"commands_{judged}"] += 1
        else:
            self._metrics.refused[f"command_{judged}"] += 1
        log.info("command_asked", requester=requester, node=node, judged=judged)
        self.commit(follow, self.push)
        return judged

    def commit(self, follow: Follow, then: Callable[[], None] | None = None) -> None:
        """Commit what follows from no frame; `then` is called once it is on disk."""
        if follow.events or follow.notes:
            self._commits.commit([Write(0, None, None, None, follow.events, follow.notes)], [], then)

    def push(self) -> None:
        """Send what is due to the nodes that listen all the time; counted as sent, and committed, before it leaves."""
        if self._desk is None:
            return
        now = self._clock.now()
        for number in self._desk.waiting():
            rx, node = self._listening.get(number), self._states.node(number)
            if rx is None or node is None or self._states.busy(number):
                continue
            state = self._states.state(number)
            offer = self._offer(self._desk, node, state, MAX_FRAME, now)
            if offer is None:
                continue
            state = replace(state, down=state.down + 1)
            self._states.keep(number, state)
            write = Write(number, state, None, None, offer.follow.events, offer.follow.notes)
            then = partial(self.downlinks.push, node.under(state.epoch), state.down, rx, offer)
            self._commits.commit([write], [], then)

    def unsent(self, offer: Offer, why: str) -> None:
        """An order stayed here after all."""
        assert self._desk is not None
        self._metrics.totals["commands_held"] += 1
        self.commit(self._desk.unsent(offer.key, why, offer.repeat))

    def tick(self) -> None:
        """Push what is due, and count what is open."""
        if self._desk is not None:
            self.push()
            self._metrics.gauges["commands_open"] = self._desk.open

    def committed(self, writes: list[Write]) -> None:
        """Publish the steps of commands that are on disk now."""
        if self._desk is not None:
            if self._desk.redacted and (over := self._desk.redacted.intersection(k for w in writes for k in w.notes)):
                self._desk.redacted.difference_update(over)
                self.wipe()
            for event in (e for w in writes for e in w.more if e.command is not None):
                self.answered(event)

    def configure(self, policy: Policy, nodes: Mapping[int, Node]) -> None:
        """Use another policy. Whether there are commands at all is decided at the start."""
        if self._desk is not None:
            self._desk.configure(nodes, policy)

"""From a reception to a decision: the steps of a frame in order, in `Intake.decide`; nothing is stored or answered here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from motewire.frame import ALARM

from gateway import crypto
from gateway.core.decide import decide
from gateway.core.dedupe import Recent
from gateway.core.follow import Follow
from gateway.core.lockout import Lockout
from gateway.core.model import Decision, Node, Reception, Refusal
from gateway.core.rate import Rates
from gateway.core.receive import Header, parse
from gateway.derivation import Derivation, joined
from gateway.metrics import Metrics
from gateway.order_desk import OrderDesk
from gateway.states import States
from gateway.store.engine import Engine
from gateway.work import Work

MAX_PENDING = 20_000
ALARM_RESERVE = 1_000  # places beyond MAX_PENDING that only alarms may take

log = structlog.get_logger(__name__)


class Intake:
    """deliver() takes what links bring and hands decided frames to `put`; refusals are counted and described to `rejected`."""

    def __init__(
        self,
        states: States,
        engine: Engine,
        metrics: Metrics,
        rates: Rates,
        derivation: Derivation,
        desk: OrderDesk,
        put: Callable[[Work, str], None],
        rejected: Callable[[dict[str, Any]], None],
    ) -> None:
        self._states, self._engine, self._metrics, self.rates = states, engine, metrics, rates
        self._derivation, self._desk = derivation, desk
        self._put, self._rejected = put, rejected
        self._loop = asyncio.get_running_loop()
        self.pending = 0  # decisions that are not committed and answered yet
        self._recent: Recent[Work | None] = Recent()
        self._lockout = Lockout()

    def deliver(self, rx: Reception) -> asyncio.Future[None] | None:
        """Take one reception; the future resolves when it is committed and answered. None: refused, or long done."""
        heard = self._recent.copy_of(rx)
        if heard is not None:
            self._metrics.totals["copies"] += 1
            return heard.work.done if heard.work is not None else None
        self._metrics.frames[rx.link] += 1
        if self.pending >= MAX_PENDING + ALARM_RESERVE:
            self._refuse(rx, Refusal("overload"))
            return None
        work = self.decide(rx)
        if isinstance(work, Refusal):
            self._refuse(rx, work)
            if work.reason not in ("overload", "rate_limited"):  # these are to be tried again when they come again
                self._recent.enter(rx, None)
            return None
        work.heard = self._recent.enter(rx, work)
        self.pending += 1
        self._states.hold(work.node.id)
        self._put(work, rx.link)
        return work.done

    def decide(self, rx: Reception) -> Work | Refusal:
        """Parse, find, admit, (authenticate, replay, decode, normalise: core/decide.py), charge, derive: one frame, one decision."""
        header = parse(rx.data)
        if isinstance(header, Refusal):
            return header
        node = self._find(header)
        if isinstance(node, Refusal):
            return node
        refusal = self._admit(node, header, rx)
        if refusal is not None:
            return refusal
        decision = decide(node, self._states.state(node.id), header, rx, crypto.opener)
        refusal = self._charge(node, header, decision, rx)
        if refusal is not None:
            return refusal
        if decision.refusal is not None:
            self._refuse(rx, decision.refusal, kept=decision.event is not None)
        self._states.keep(node.id, decision.state)
        return self._derive(node, header, decision, rx)

    def _find(self, header: Header) -> Node | Refusal:
        node = self._states.node(header.node)
        return Refusal("unknown_node", header.node) if node is None else node

    def _admit(self, node: Node, header: Header, rx: Reception) -> Refusal | None:
        """Say why a frame may not be looked at now: room is kept for alarms."""
        alarm = header.kind == ALARM
        if self._engine.full and not alarm:
            return Refusal("disk_full", node.id)  # not answered: the node keeps it
        if self.pending >= MAX_PENDING and not alarm:
            return Refusal("overload", node.id)
        if not self._lockout.may_try(node.id, header.is_long, rx.received):
            return Refusal("locked_out", node.id)
        return None

    def _charge(self, node: Node, header: Header, decision: Decision, rx: Reception) -> Refusal | None:
        """Charge the node for a frame that proved to be its own; the reason why it is refused, if it is.

        Charged once it is authentic, so that a forged frame spends nothing; repeats, which anyone can record and send, apart.
        """
        if decision.refusal is not None:
            if decision.refusal.reason == "bad_tag":
                self._lockout.failed(node.id, header.is_long, rx.received)
            if decision.event is None and decision.answer is None:
                return decision.refusal
        kind = "repeat" if decision.event is None else "alarm" if header.kind == ALARM else ""
        return None if self.rates.take(node.id, kind, rx.received) else Refusal("rate_limited", node.id)

    def _derive(self, node: Node, header: Header, decision: Decision, rx: Reception) -> Work:
        """Add what follows: rules, aggregates, and an order for the answer.

        What is older than the replay state may be a repeat, which only the store can tell: nothing is derived from it.
        """
        follow, offer = Follow(), None
        if not decision.state.replay.too_old(decision.counter):
            if decision.event is not None:
                follow = self._derivation.derive(node, decision.event)
            self._desk.heard(node, rx)
            if decision.answer is not None:
                offer = self._desk.for_answer(node, decision.state, rx)
                if offer is not None:
                    follow = joined([follow, offer.follow])
        return Work(node, header, decision, self._loop.create_future(), None, follow.events, follow.notes, offer)

    def _refuse(self, rx: Reception, refusal: Refusal, kept: bool = False) -> None:
        self._metrics.refused[refusal.reason] += 1
        node = self._states.nodes.get(refusal.node) if refusal.node is not None else None
        log.info(
            "uplink_refused", reason=refusal.reason, node=refusal.node, link=rx.link, detail=refusal.detail or None
        )
        body: dict[str, Any] = {"reason": refusal.reason, "link": rx.link}
        if node is not None:
            body["node"] = node.name
        elif refusal.node is not None:
            body["node_id"] = refusal.node
        self._rejected(body)
        if refusal.keep and not kept and not self._engine.full:
            self._engine.quarantine(rx.data, refusal.reason, rx.received)

    def forget(self) -> None:
        """A commit failed: what was decided may come again, and then it is no copy."""
        self._recent = Recent()

    def stepped(self) -> None:
        """The host's clock was set: what is counted from receive times starts anew."""
        self._recent, self._lockout = Recent(), Lockout()

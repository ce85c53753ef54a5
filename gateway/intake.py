"""From a reception to a decision: the steps of a frame in order, in `Intake.decide`; nothing is stored or answered
here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import structlog
from motewire.frame import ALARM

from gateway import crypto
from gateway.clock import Clock
from gateway.core.decide import authenticate, decode, normalise, replay, unstorable
from gateway.core.dedupe import Recent
from gateway.core.follow import Follow
from gateway.core.forgery import WINDOW_S, Forgeries
from gateway.core.messages import StatusMessage
from gateway.core.model import Decision, Node, NodeState, Reception, Refusal
from gateway.core.rate import DERIVED, Rates, TagBudget, cost
from gateway.core.receive import Header, parse
from gateway.core.repeats import Repeats
from gateway.core.value import replace
from gateway.core.witness import Witnesses
from gateway.derivation import Derivation, joined
from gateway.health import Problem
from gateway.metrics import Metrics
from gateway.order_desk import OrderDesk
from gateway.states import States
from gateway.store.engine import Engine, Unstorable
from gateway.work import Work

MAX_PENDING = 20_000
ALARM_RESERVE = 1_000  # places beyond MAX_PENDING that only alarms may take
PROBLEMS = 3  # forged nodes that health names

# Refused for what else was going on, not for what it is: judged again when it comes again, also through another receiver.
AGAIN = frozenset(("overload", "disk_full", "rate_limited", "link_flooded", "replayed"))

log = structlog.get_logger(__name__)


class Intake:
    """deliver() takes what links bring and hands decided frames to `put`; refusals are counted and described to
    `rejected`."""

    def __init__(
        self,
        states: States,
        engine: Engine,
        clock: Clock,
        metrics: Metrics,
        rates: Rates,
        derivation: Derivation,
        desk: OrderDesk,
        put: Callable[[Work, str], None],
        rejected: Callable[[dict[str, Any]], None],
    ) -> None:
        self._states, self._engine, self._clock, self._metrics, self.rates = states, engine, clock, metrics, rates
        self._derivation, self._desk = derivation, desk
        self._put, self._rejected = put, rejected
        self.witnesses = Witnesses()
        self.shift_s: Callable[[float], float] = self.witnesses.shift_s
        self._loop = asyncio.get_running_loop()
        self.pending = 0  # decisions that are not committed and answered yet
        self._recent: Recent[asyncio.Future[None] | None] = Recent()
        self._tags = TagBudget()
        self._forgeries = Forgeries()
        self._repeats = Repeats()

    def deliver(self, rx: Reception) -> asyncio.Future[None] | None:
        """Take one reception; the future resolves when it is committed and answered. None: refused, or long done."""
        came = self._clock.elapsed()
        heard = self._recent.copy_of(rx, came)
        if heard is not None:
            self._metrics.totals["copies"] += 1
            return heard.work
        self._metrics.frames[rx.link] += 1
        if self.pending >= MAX_PENDING + ALARM_RESERVE:
            self._refuse(rx, Refusal("overload"))
            return None
        work = self.decide(rx)
        if isinstance(work, Refusal):
            self._refuse(rx, work)
            if work.reason not in AGAIN:
                self._recent.enter(rx, None, came)
            return None
        work.heard = self._recent.enter(rx, work.done, came)
        self.pending += 1
        self._states.hold(work.node.id)
        self._put(work, rx.link)
        return work.done

    def decide(self, rx: Reception) -> Work | Refusal:
        """One frame, one decision: parse, find, authenticate, replay, decode, normalise, derive; admitted before its tag is
        looked at, and charged once it is known to be the node's own."""
        header = parse(rx.data)
        if isinstance(header, Refusal):
            return header
        node = self._find(header)
        if isinstance(node, Refusal):
            return node
        refusal = self._admit(node, header, rx)
        if refusal is not None:
            return refusal
        shift_s = self.shift_s(rx.received)
        if shift_s:  # most nodes go by another time: judge by what they say
            rx = replace(rx, shift_s=shift_s, former=self.witnesses.former)
        before = self._states.state(node.id)
        proven = authenticate(node, before, header, rx, crypto.opener)
        if isinstance(proven, Refusal):
            return self._forged(node, header, rx, proven)
        placed = replay(proven)
        content = decode(placed)
        decision = self._storable(before, normalise(placed, content))
        if decision.offset_s is not None:
            self.witnesses.hear(node.id, decision.offset_s)
        kind = self._kind(header, decision)
        refusal = self._charge(node, header, decision, kind, rx)
        if refusal is not None:
            return refusal
        if isinstance(content, StatusMessage) and content.implausible and decision.event is not None:
            self._metrics.refused["status_implausible"] += len(content.implausible)
            log.warning("status_implausible", node=node.name, values=content.implausible,
                        next="no node can mean these; they are left out: look at its firmware")  # fmt: skip
        self._keep(node, decision, rx)
        return self._derive(node, header, decision, kind, rx)

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
        # a node in debt is not decoded any more; only its own frames put it there, so no one else can
        if not self.rates.may(node.id, "alarm" if alarm else "", self._clock.elapsed(), node.interval_s):
            return Refusal("rate_limited", node.id)
        if not self._tags.may(rx.link, alarm, self._clock.elapsed()):
            return Refusal("link_flooded", node.id)
        return None

    def _kind(self, header: Header, decision: Decision) -> str:
        """Return what a frame counts as: repeats, and what may be one (older than the replay state), can be sent by
        anyone."""
        if decision.event is None or decision.state.replay.too_old(decision.counter):
            return "repeat"
        return "alarm" if header.kind == ALARM else ""

    def _storable(self, before: NodeState, decision: Decision) -> Decision:
        """Look before anything is built on it whether the decided state can be stored: what cannot is one frame's fault."""
        if decision.event is None:
            return decision
        try:
            self._engine.check(decision.state)
        except Unstorable as e:
            return unstorable(before, decision, str(e))
        return decision

    def _forged(self, node: Node, header: Header, rx: Reception, refusal: Refusal) -> Refusal:
        """Count a frame that is not the node's own."""
        if refusal.reason == "bad_tag":
            now = self._clock.elapsed()
            self._tags.in_vain(rx.link, header.kind == ALARM, now)
            self._forgeries.failed(node.id, rx.link, rx.receiver, now)
            self._metrics.forged(node.name)
        return refusal

    def _keep(self, node: Node, decision: Decision, rx: Reception) -> None:
        """Go on from the decided state; an authentic frame that could not be read is counted, and committed all the same."""
        if decision.refusal is not None:
            self._refuse(rx, decision.refusal, kept=decision.event is not None)
            if decision.refusal.full:
                self._states.full(node.id, self._clock.now())
        self._states.keep(node.id, decision.state)

    def _charge(self, node: Node, header: Header, decision: Decision, kind: str, rx: Reception) -> Refusal | None:
        """Charge the node for a frame that proved to be its own; the reason why it is refused, if it is.

        Charged once it is authentic, so that a forged frame spends nothing; repeats, which anyone can record and send,
        apart.
        """
        event, now = decision.event, self._clock.now()
        if event is None or kind == "repeat" and self._repeats.old(node.id, event.epoch, event.counter):
            # without an answer there is nothing to store: its downlink counter is not used up
            if self._repeats.may_answer(node.id, rx, now):
                return None
            self._tags.in_vain(rx.link, header.kind == ALARM, self._clock.elapsed())
            return Refusal("replayed", node.id)
        took = self.rates.take(node.id, kind, self._clock.elapsed(), cost(event), node.interval_s)
        return None if took else Refusal("rate_limited", node.id)

    def _derive(self, node: Node, header: Header, decision: Decision, kind: str, rx: Reception) -> Work:
        """Add what follows: rules, aggregates, and an order for the answer.

        What is older than the replay state may be a repeat, which only the store can tell: nothing is derived from it.
        """
        follow, offer, replay = Follow(), None, decision.state.replay
        newest = decision.event is not None and decision.counter + 1 == replay.next
        if not replay.too_old(decision.counter):
            if decision.event is not None:
                follow = self._derivation.derive(node, decision.event)
                derived = len(follow.events)
                self.rates.charge(node.id, kind, -(-derived // DERIVED), self._clock.elapsed(), node.interval_s)
            # what is no news may be sent by anyone: it carries an order only on the way that the node's news came
            bearer = self._repeats.bearer(node.id)
            if decision.answer is not None and (newest or bearer is not None and bearer.carries(rx)):
                offer = self._desk.for_answer(node, decision.state, rx, decision.event is None)
                if offer is not None:
                    follow = joined([follow, offer.follow])
        done = self._loop.create_future()
        return Work(node, header, decision, done, None, follow.events, follow.notes, offer, kind, newest)

    def committed(self, work: Work) -> None:
        """A frame that is no repeat is on disk: how its node was heard, by all receivers, is how it listens."""
        event, heard = work.decision.event, work.heard
        if event is None or heard is None:
            return
        if work.newest:
            self._repeats.news(work.node.id, heard.best, {name: rssi for name, (_, rssi) in heard.receivers.items()})
            self._desk.heard(work.node.id, heard.best)
        elif work.kind == "repeat":
            self._repeats.kept_old(work.node.id, event.epoch, event.counter)

    def problems(self) -> Iterator[Problem]:
        """Return under whose names frames are forged, most first."""
        for f in self._forgeries.up(self._clock.elapsed())[:PROBLEMS]:
            node = self._states.nodes.get(f.node)
            yield Problem(
                "forgery",
                f"{max(f.count, f.before)} frames within {WINDOW_S:.0f} s under the name of {node.name if node else f.node} "
                f"did not fit its key: link {f.link}, receiver {f.receiver}",
                "compare its key in nodes.toml with the node's; if it is right someone forges frames, and none was taken",
            )

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

    def stepped(self, seconds: float) -> None:
        """The host's clock was set: what is counted from receive times starts anew."""
        self.witnesses.stepped(seconds)

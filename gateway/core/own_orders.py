"""What the gateway orders in its own name: valves closed at a leak where that is enabled, and fail-safe positions. Pure.

Only on a word that is current: neither suspect nor older than LEAK_NEWS_S. A clear withdraws what the node has not taken. A leak that is
believed while no one knows the time waits until it is known. All of this by the time that nodes go by (order_time.py): an expiry by a host's
clock that is behind would have passed when the node gets it.
"""

from __future__ import annotations

from typing import Any

from gateway.core import orders
from gateway.core.authorise import GATEWAY, LONGEST_S, Refused, Request
from gateway.core.model import Alarm, Event, Node
from gateway.core.order_book import Draft, OrderBook
from gateway.core.order_events import event_about
from gateway.core.order_time import OrderTime
from gateway.core.redact import redact
from gateway.core.standing import LEAK_ID
from gateway.core.value import replace

LEAK_S = 6 * 3600  # expiry of an automatic closing
LEAK_NEWS_S = 3 * 3600  # a leak measured longer ago may be over: its clear may still wait in the node's outbox
UNDONE = ("refused", "failed", "expired")  # an automatic closing that ended so is ordered again while the leak is up
LEAK_RULE = "water_volume-above"  # what a water meter raises when no hour of the day went without flow


def _is_current_leak(alarm: Alarm, now: float) -> bool:
    """True for a word that a leak is up which can be believed: not only the first, which may have come before the meter had the time."""
    up = alarm.state in ("raised", "updated") and LEAK_RULE in alarm.rules
    return up and not alarm.suspect and alarm.t > now - LEAK_NEWS_S


class OwnOrders:
    """The gateway's own orders in a book."""

    def __init__(self, orders: OrderBook, time: OrderTime) -> None:
        self._orders, self._time = orders, time
        self.forget()

    def forget(self) -> None:
        """Forget what is in no note."""
        self._leaks: dict[int, Event] = {}  # leaks that were believed while no one knew the time
        self._unplaced: dict[int, str] = {}  # node -> the order that was refused last: published once

    def follow(self, draft: Draft, node: Node, event: Event) -> None:
        """Take an event of a node: close on a leak; send a fail-safe position that the node has not confirmed."""
        valve, now = self._orders.policy.valve(node), event.received
        at_nodes = self._time.at_nodes(now)
        if event.alarm is not None and LEAK_RULE in event.alarm.rules:
            self._leak(draft, node, event, event.alarm, at_nodes)
        if valve is None or at_nodes is None:
            return
        want = valve.fail_safe
        if want is None or self._orders.book(node.id).fail_safe == want:
            return
        if not any(c.requester == GATEWAY and c.configures for c in self._orders.of(node.id)):
            day = int(at_nodes) // 86_400  # a refusal is asked about again tomorrow
            self._order(draft, node, f"fail_safe:{node.id}:{node.epoch}:{want}:{day}", "config", {"valve": {"fail_safe": want}}, "", at_nodes, LONGEST_S, now)  # fmt: skip

    def tick(self, draft: Draft, now: float) -> None:
        """Close at the leaks that waited for the time to be known."""
        at_nodes = self._time.at_nodes(now) if self._leaks else None
        if at_nodes is not None:
            for number, event in self._leaks.items():
                node = self._orders.nodes.get(number)
                valve = None if node is None else self._orders.policy.valve(node)
                if node is not None and valve is not None and valve.auto_close:
                    self._close(draft, node, event, at_nodes, now)
            self._leaks.clear()

    def _leak(self, draft: Draft, node: Node, event: Event, alarm: Alarm, at_nodes: float | None) -> None:
        """Close once for a leak that is up; again when the node did not do it, and not when someone has ordered otherwise since."""
        now, book, valve = event.received, self._orders.book(node.id), self._orders.policy.valve(node)
        if alarm.state == "cleared":
            self._withdraw(draft, node.id, now)
            self._leaks.pop(node.id, None)
        if alarm.state in ("raised", "cleared") and book.leak:
            book = replace(book, leak="")
            self._orders.enter(draft, node.id, book)
        if valve is None or not valve.auto_close or not _is_current_leak(alarm, now if at_nodes is None else at_nodes):
            return
        before = self._orders.get(GATEWAY, book.leak)
        if book.leak and (before is None or before.state not in UNDONE):
            return
        if at_nodes is None:  # an expiry by this clock may have passed already
            self._leaks[node.id] = event
        else:
            self._close(draft, node, event, at_nodes, now)

    def _close(self, draft: Draft, node: Node, event: Event, at_nodes: float, now: float) -> None:
        ident = f"{LEAK_ID}{event.id}"
        self._order(draft, node, ident, orders.VALVE, ["close"], "leak", at_nodes, LEAK_S, now)
        if self._orders.get(GATEWAY, ident) is not None:
            self._orders.enter(draft, node.id, replace(self._orders.book(node.id), leak=ident))

    def _withdraw(self, draft: Draft, node: int, now: float) -> None:
        """End the automatic closings that the node has not taken: the leak is over. One that was sent may still be answered."""
        for c in self._orders.of(node):
            if c.requester == GATEWAY and c.id.startswith(LEAK_ID) and not c.taken:
                why = f"the leak is over; sent {c.sends} times"
                self._orders.step(draft, c, now, state="withdrawn", detail=why)

    def _order(
        self,
        draft: Draft,
        node: Node,
        ident: str,
        name: str,
        args: Any,
        reason: str,
        at_nodes: float,
        lasts: float,
        now: float,
    ) -> None:
        """Order something in the gateway's own name; what has no room is published as refused, once."""
        if self._orders.get(GATEWAY, ident) is not None or node.id not in self._orders.nodes:
            return
        request = Request(ident, name, GATEWAY, args, None, reason)
        try:
            self._orders.accept(draft, node.id, request, GATEWAY, at_nodes + lasts, lasts, now)
        except Refused as e:
            if self._unplaced.get(node.id) == ident:
                return
            self._unplaced[node.id] = ident
            published = {"state": "refused", "error": e.reason, "detail": str(e), "requester": GATEWAY, "id": ident, "name": name, "args": redact(args, name), "reason": reason}  # fmt: skip
            draft.events.append(event_about(self._orders.nodes, node.id, node.name, now, f"{GATEWAY}:{ident}", published))  # fmt: skip

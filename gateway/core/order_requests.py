"""Requests for orders: judged, accepted, answered again, refused, cancelled; and how many anyone may make. Pure.

Every answer is an event, but for a request too many. A refusal holds no secret of what was asked, and its arguments only when they are short.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gateway.core.authorise import CANCEL, Refused, Request, authorise, parse
from gateway.core.command import Command
from gateway.core.follow import Follow
from gateway.core.model import Node
from gateway.core.order_book import Draft, OrderBook
from gateway.core.order_events import as_published, event_about, event_of
from gateway.core.redact import redact, scrub, secrets
from gateway.core.witness import BUILT

NO_TIME = "the gateway does not know the time; try again when its clock is set"
BURST, PER_S, STRANGERS_PER_S = 50, 2.0, 0.1  # requests of one requester, of all that are none
MAX_PUBLISHED = 1024  # bytes of a refused request whose arguments are repeated in the answer and kept in the audit log


class Requests:
    """Requests for the orders of a book. caught: gets exceptions of ours, which a request met."""

    def __init__(self, orders: OrderBook, caught: Callable[[BaseException], None]) -> None:
        self._orders, self._caught = orders, caught
        self._answers = 0  # that belong to no number: each needs an id of its own
        self._buckets: dict[str, tuple[float, float]] = {}

    def judge(self, requester: str, name: str, body: bytes, now: float, knows_time: bool) -> tuple[Follow, str]:
        """Judge a request for the node `name`; return what follows and how it was judged (Desk.request)."""
        if not self._may_ask(requester, now):
            return Follow(), "flood"
        draft, request, number = Draft(), None, self._orders.number(name)
        try:
            if requester not in self._orders.policy.requesters:
                with suppress(Refused):  # the log names what was asked for, and the answer which request it is
                    request = parse(body)
                raise Refused("unauthorised", f"{requester} has no role here")
            request = parse(body)
            if request.requester != requester:
                raise Refused("wrong_requester", f"the topic says {requester}")
            if request.name == CANCEL:
                return self._cancel(draft, request, requester, name, now)
            if not number:
                raise Refused("unknown_node", f"no node {name} here")
            known = self._orders.get(requester, request.id)
            if known is not None:
                return self._again(draft, known, request, number, now)
            expires = self._expiry(request, requester, self._orders.nodes[number], now, knows_time and now >= BUILT)
            self._orders.accept(draft, number, request, requester, expires, expires - now, now)
        except Refused as e:
            return self._refused(e, request, requester, number, name, now, len(body) <= MAX_PUBLISHED), e.reason
        except Exception as e:  # of ours: this request's fault alone
            self._orders.undo(draft)
            self._caught(e)
            unforeseen = Refused("malformed", f"this gateway cannot handle it ({type(e).__name__})")
            return self._refused(unforeseen, None, requester, number, name, now, False), unforeseen.reason
        return draft.follow(), "accepted"

    def _expiry(self, request: Request, requester: str, node: Node, now: float, knows_time: bool) -> float:
        """Return the expiry of a request that is allowed. Raises Refused; no_time for one that only the time of day could judge."""
        try:
            expires = authorise(self._orders.policy, request, requester, node, now)
        except Refused as e:
            if knows_time or e.reason not in ("expired", "expires_too_far"):
                raise
            raise Refused("no_time", NO_TIME) from e
        if not knows_time and (request.expires is None or now < BUILT):
            raise Refused("no_time", NO_TIME)
        return expires

    def _cancel(self, draft: Draft, request: Request, requester: str, name: str, now: float) -> tuple[Follow, str]:
        """Take back an order of the requester's own that the node has not taken; asked again, it is answered again."""
        ident = str(request.args[0]) if isinstance(request.args, list) and len(request.args) == 1 else ""
        c = self._orders.get(requester, ident)
        if not ident:
            raise Refused("bad_arguments", "one argument: the id of the order")
        if c is None or c.node != self._orders.number(name) and c.target != name:
            raise Refused("unknown_id", f"{requester} has no order {ident} for {name}")
        if c.open and not c.taken:
            why = f"cancelled by {requester}; sent {c.sends} times"
            c = self._orders.step(draft, c, now, state="withdrawn", detail=why)
        if c.state != "withdrawn":
            raise Refused("too_late", "the node has taken it" if c.open else f"it has ended: {c.state}")
        published = {"id": request.id, "requester": requester, "name": CANCEL, "args": [ident], "reason": request.reason,
                     "state": "done", "detail": c.detail}  # fmt: skip
        what = self._new_id(requester, now)
        draft.events.append(event_about(self._orders.nodes, c.node, name, now, what, published, c.visibility))
        return draft.follow(), "accepted"

    def _refused(
        self, e: Refused, request: Request | None, requester: str, number: int, name: str, now: float, whole: bool
    ) -> Follow:
        """Publish a refusal; the arguments only when they are short (`whole`), and never their secrets."""
        published: dict[str, Any] = {"state": "refused", "error": e.reason, "detail": str(e), "requester": requester}
        if request is not None:
            published |= {"id": request.id, "name": request.name[:64], "reason": request.reason}
            published["detail"] = scrub(str(e), secrets(request.args, request.name))
            if whole:
                published["args"] = redact(request.args, request.name)
        what = self._new_id(requester, now)
        return Follow((event_about(self._orders.nodes, number, name, now, what, published),))

    def _again(self, draft: Draft, c: Command, request: Request, number: int, now: float) -> tuple[Follow, str]:
        """Publish the state of an order whose id is known; nothing is executed."""
        asked, kept = request.args, c.args
        if (
            not c.open
        ):  # of what has ended no secret is kept; it may have been taken out by the rules of an older gateway
            asked, kept = redact(asked, request.name), redact(kept, c.name)
        if (c.node, c.name, kept) != (number, request.name, asked):
            raise Refused("id_conflict", f"{request.id} is the id of another command")
        published = {**as_published(c), "again": True}
        what = f"{c.number}:again:{int(now * 1000)}"
        draft.events.append(event_of(self._orders.nodes, c, now, what, published))
        return draft.follow(), "again"

    def _new_id(self, requester: str, now: float) -> str:
        self._answers += 1
        return f"{requester}:{int(now * 1000)}:{self._answers}"

    def _may_ask(self, requester: str, now: float) -> bool:
        """Take a token of the requester's; all that are not known share one bucket."""
        who = requester if requester in self._orders.policy.requesters else ""
        tokens, at = self._buckets.get(who, (float(BURST), now))
        tokens = min(BURST, tokens + max(now - at, 0.0) * (PER_S if who else STRANGERS_PER_S))
        self._buckets[who] = (tokens - 1 if tokens >= 1 else tokens, now)
        return tokens >= 1

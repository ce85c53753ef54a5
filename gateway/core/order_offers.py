"""Which order goes into a downlink to a node now, and when it is sent again. Pure.

A node executes a number once and remembers the last 8 (mote.commands), so a number is sent again only while fewer others followed it. Not
to be sent twice: what a node has taken, refused or finished.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from motewire import codes

from gateway.core import orders
from gateway.core.command import Book, Command, Key, Offer
from gateway.core.follow import Follow
from gateway.core.model import Node
from gateway.core.order_book import MOST, Draft, OrderBook
from gateway.core.order_time import OrderTime
from gateway.core.places import is_urgent
from gateway.core.settings import share
from gateway.core.value import replace

REMEMBERED = 8  # commands whose ids a node remembers


class Offers:
    """Offers of the orders of a book. caught: gets exceptions of ours."""

    def __init__(self, orders: OrderBook, time: OrderTime, caught: Callable[[BaseException], None]) -> None:
        self._orders, self._time, self._caught = orders, time, caught

    def offer(self, node: Node, room: int, now: float, newest: tuple[int, int], repeat: bool) -> Offer | None:
        """Return what goes into a downlink now, counted as sent (Desk.offer). Never raises: the uplink is answered whatever waits."""
        try:
            return self._offer(node, room, now, newest, repeat)
        except Exception as e:  # of ours
            self._caught(e)
            return None

    def unsent(self, key: Key, why: str, repeat: bool) -> Follow:
        """Take a send back that could not leave (duty cycle, no path)."""
        c, draft = self._orders.command(key), Draft()
        if c is not None and c.open and c.sends:
            back: dict[str, Any] = {"spare": max(c.spare - 1, 0), "spared": 0.0} if repeat else {"sent": 0.0}
            self._orders.note(draft, replace(c, sends=c.sends - 1, detail=f"held: {why}", **back))
        return draft.follow()

    def _offer(self, node: Node, room: int, now: float, newest: tuple[int, int], repeat: bool) -> Offer | None:
        mine = self._orders.of(node.id)
        if not mine:
            return None
        book, at_nodes = self._orders.book(node.id), self._time.at_nodes(now)
        for c in sorted(mine, key=lambda c: (-orders.priority(c.name), c.number)):
            if (
                not c.ready(now, repeat, at_nodes)
                or not _in_turn(c, mine, book)
                or not self._orders.may_be_sent(c, node)
            ):
                continue
            try:
                parts = orders.parts(c.name, c.args, c.number, c.room or room)
                if (
                    c.configures and c.sends and parts and max(map(orders.size, parts)) > room
                ):  # was begun with longer frames: cut anew
                    c = replace(c, room=0, sends=0, spare=0)
                    parts = orders.parts(c.name, c.args, c.number, room)
                if not parts:
                    continue
                items = dict(parts[c.rounds % len(parts)])
                if codes.DOWN_COMMAND in items:
                    items[codes.DOWN_EXPIRY] = min(int(c.expires), MOST)
                if orders.size(items) > room:
                    continue
            except orders.BadArguments as e:
                self._orders.end_later(c, "failed", f"it cannot be sent: {e}")
                continue
            return self._sent(node, c, book, items, len(parts), room, now, newest, repeat, _forgotten(mine, book))
        return None

    def _sent(
        self, node: Node, c: Command, book: Book, items: dict[int, Any], pieces: int, room: int, now: float, newest: tuple[int, int],
        repeat: bool, forgotten: list[Command],
    ) -> Offer:  # fmt: skip
        draft = Draft()
        changes: dict[str, Any] = {"sends": c.sends + 1, "pieces": pieces, "room": c.room or room}
        changes |= {"spare": c.spare + 1, "spared": now} if repeat else {"sent": now}
        if not c.sends:
            changes |= {"mark": newest, "version": book.reported}
        if not c.order and not c.configures:
            for o in forgotten:  # only what cannot wait is sent then
                why = f"sent {o.sends} times, no answer; {c.name} could not wait for it"
                self._orders.step(draft, o, now, state="failed", detail=why)
            book = replace(book, order=book.order + 1)
            self._orders.enter(draft, node.id, book)
            changes["order"] = book.order
        if repeat and c.state == "sent" or c.rounds % pieces:  # published once per round
            self._orders.note(draft, replace(c, **changes))
        else:
            self._orders.step(draft, c, now, state="sent", **changes)
        return Offer((node.id, c.number), items, orders.priority(c.name), draft.follow(), repeat)


def _in_turn(c: Command, mine: list[Command], book: Book) -> bool:
    """True when sending c now cannot make the node execute something twice, or confuse two configurations."""
    if c.configures:  # an answer names no command: one at a time, and of two that set the same the older first
        others = [o for o in mine if o.configures and o is not c]
        return all(not o.sends and (o.number > c.number or not share(o, c)) for o in others)
    if any(o.number < c.number and not o.taken and share(o, c) for o in mine):
        return False  # an exercise, behind the position that was ordered before it
    if c.order:  # those that followed it are counted below, before they are sent
        return True
    return is_urgent(c.name) or not _forgotten(mine, book)


def _forgotten(mine: list[Command], book: Book) -> list[Command]:
    """Return what the node would not remember behind one more order, so that it could not be sent again."""
    unanswered = [o for o in mine if o.order and not o.taken]
    return [o for o in unanswered if book.order - o.order >= REMEMBERED - 1]

"""Whether an order that waits is still to be sent: the device it was given for is there, and who gave it may still give it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.core import orders
from gateway.core.authorise import GATEWAY, Policy
from gateway.core.command import Book, Command
from gateway.core.model import Node, fingerprint
from gateway.core.value import replace

LEAK_ID = "leak:"  # begins the ids of automatic closings
REPLACED = "the node was replaced"


def prints(node: Node) -> tuple[bytes, ...]:
    """Return the fingerprints of a node's keys, by which a device is known again."""
    return tuple(fingerprint(key) for key in (node.key, node.next_key) if key is not None)


def is_replaced(c: Command, node: Node) -> bool:
    """True when the number is another device's now: other keys, and another name.

    A new key under the same name is a board that was exchanged (store/ledger_registry.py has it so, too): what was ordered for the place stands. An order
    of a gateway that wrote neither down stands.
    """
    return bool(c.keys) and c.target != node.name and set(c.keys).isdisjoint(prints(node))


def book_of(book: Book, node: Node) -> Book:
    """Return what is known of the board that a node is now: of another one only the numbers that were given."""
    now = prints(node)
    if book.keys == now:
        return book
    if book.keys and set(book.keys).isdisjoint(now):
        return Book(last=book.last, order=book.order, keys=now)
    return replace(book, keys=now)


def why_not(c: Command, node: Node, policy: Policy) -> str:
    """Return why an open order must not be sent (again) to the node that has its number now, "" when it may."""
    if is_replaced(c, node):
        return REPLACED
    if c.taken:
        return ""  # the node works on it
    if c.requester == GATEWAY:
        return _own(c, node, policy)
    roles = [r for r in policy.requesters.get(c.requester, ()) if r.allows(c.name, node)]
    if not roles:
        return f"{c.requester} may no longer send {c.name} to {node.name}"
    if c.name == orders.VALVE and c.reason == "arrears" and not any(r.arrears for r in roles):
        return f"{c.requester} may no longer move a valve for arrears"
    return ""


def _own(c: Command, node: Node, policy: Policy) -> str:
    valve = policy.valve(node)
    if c.id.startswith(LEAK_ID):
        return "" if valve is not None and valve.auto_close else f"{node.name} is no longer closed at a leak"
    args: Any = c.args
    wanted = args.get("valve") if isinstance(args, Mapping) else None
    if isinstance(wanted, Mapping) and (valve is None or valve.fail_safe != wanted.get("fail_safe")):
        return f"the fail-safe position of {node.name} is another now"
    return ""

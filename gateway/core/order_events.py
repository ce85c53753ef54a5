"""Events of orders: what is published of one, for whom, and under which id. Pure.

Arguments may hold secrets (a WiFi password): they are published without them (core/redact.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.core.command import Command
from gateway.core.model import PERSONAL, Event, Node
from gateway.core.redact import redact
from gateway.core.registry import strictest

NAME = "commands"  # of the follower: begins the keys of its notes, and is part of every event id


def as_published(c: Command) -> dict[str, Any]:
    """Return what is published of an order."""
    return {"number": c.number, "id": c.id, "requester": c.requester, "name": c.name, "args": redact(c.args, c.name), "reason": c.reason,
            "state": c.state, "detail": c.detail, "sends": c.sends, "expires": c.expires}  # fmt: skip


def event_of(nodes: Mapping[int, Node], c: Command, now: float, what: str, published: Mapping[str, Any]) -> Event:
    """Return the event of an order: on the topic that was asked, to no one who might not have seen its node then."""
    return event_about(nodes, c.node, c.target, now, what, published, c.visibility)


def event_about(
    nodes: Mapping[int, Node], number: int, name: str, now: float, what: str, command: Mapping[str, Any], circle: str = ""
) -> Event:  # fmt: skip
    """Return an event about an order for a node. what: ends its id, unique of this node.

    name, circle: as the node was when it was asked; "": as it is. Of one that is not known a household's circle is taken.
    """
    node = nodes.get(number)
    epoch, now_name, visibility, interval = (node.epoch, node.name, node.visibility, node.interval_s) if node else (0, f"node-{number}", circle or PERSONAL, 1)  # fmt: skip
    visibility = strictest(visibility, circle or visibility)
    return Event("command", f"{number}:{epoch}:{NAME}:{what}", number, name or now_name, visibility, now, interval, command=command)  # fmt: skip

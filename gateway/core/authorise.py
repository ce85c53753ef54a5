"""Who may have what done: requests as they come in, roles, and the policy for valves. Deny is the default.

MQTT tells a subscriber nothing about who published. The broker's ACL lets a user write below <root>/v1/cmd/<user>/ only, so the topic names
the requester; the request must name the same one, and what that requester may do is decided here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from gateway.core import orders
from gateway.core.model import Node

GATEWAY = "gateway"  # requester of what the gateway orders itself
CANCEL = "cancel"  # name of a request that takes an order of the same requester back; no node gets it
BY_NAME_ONLY = (orders.VALVE, "factory_reset")  # "*" does not grant these
VALVE_REASONS = ("leak", "burst", "flood", "freeze", "tamper", "emergency", "maintenance", "customer", "restore", "exercise", "arrears")  # fmt: skip
DAY_S = 86_400
LONGEST_S = 7 * DAY_S
MAX_BODY = 4096
MAX_REASON = 120
MAX_DEPTH, MAX_ITEMS = 8, 64  # of arguments: levels, and values in all
INT64 = 1 << 63  # what notes, events and every backend can hold
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


class Refused(Exception):
    """A request that is not executed. `reason` is the metric label; the text tells the requester what to do."""

    def __init__(self, reason: str, text: str = "") -> None:
        super().__init__(text or reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Role:
    """What its holders may do: names of commands, profiles, nodes and areas as shell patterns. longest_s: how far ahead an expiry may lie.

    arrears: may close a valve for arrears.
    """

    name: str
    commands: tuple[str, ...]
    profiles: tuple[str, ...] = ("*",)
    nodes: tuple[str, ...] = ("*",)
    longest_s: int = LONGEST_S
    arrears: bool = False
    areas: tuple[str, ...] = ("*",)

    def allows(self, command: str, node: Node) -> bool:
        """True when this role may send the command to the node."""
        named = command in self.commands or command not in BY_NAME_ONLY and _any(command, self.commands)
        here = self.areas == ("*",) or any(_any(area, self.areas) for area in node.area)
        return named and here and _any(node.profile, self.profiles) and _any(node.name, self.nodes)


@dataclass(frozen=True, slots=True)
class Valve:
    """Policy of the meters whose names fit `nodes` (shell pattern). auto_close: close when a leak is raised. fail_safe: the position the
    node's valve goes to by itself, sent to it as configuration; None leaves it as it is."""

    nodes: str
    auto_close: bool = False
    fail_safe: str | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """Requesters and their roles; valves, the first that fits a meter counts. max_open: commands of one node, max_queue: of all, not ended; each of
    those that cannot wait, and again of all others."""

    requesters: Mapping[str, tuple[Role, ...]] = field(default_factory=dict)
    valves: tuple[Valve, ...] = ()
    max_open: int = 4
    max_queue: int = 1000

    def valve(self, node: Node) -> Valve | None:
        """Return the valve policy of a meter."""
        return next((v for v in self.valves if fnmatchcase(node.name, v.nodes)), None)


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request's body. expires: RFC 3339."""

    id: str
    name: str
    requester: str
    args: list[Any] | dict[str, Any] = []
    expires: str | None = None
    reason: str = ""


_decode = msgspec.json.Decoder(Request).decode


def parse(body: bytes) -> Request:
    """Read a request. Raises Refused (malformed)."""
    if len(body) > MAX_BODY:
        raise Refused("malformed", f"more than {MAX_BODY} bytes")
    try:
        request = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise Refused("malformed", str(e)[:120]) from e
    if not _ID.fullmatch(request.id):
        raise Refused("malformed", "id: 1 to 64 of A-Z a-z 0-9 _ . : -")
    try:
        _bounded(request.args, 1)
    except RecursionError:  # the parser's own bound is another
        raise Refused("malformed", f"args: more than {MAX_DEPTH} levels") from None
    if len(request.reason) > MAX_REASON or not request.reason.isprintable():
        raise Refused("malformed", f"reason: at most {MAX_REASON} characters of text")
    return request


def _bounded(value: Any, level: int) -> int:
    """Return how many values there are. Raises Refused (malformed) for what no note, event or backend could hold."""
    if level > MAX_DEPTH:
        raise Refused("malformed", f"args: more than {MAX_DEPTH} levels")
    if isinstance(value, (list, dict)):
        found = 0
        for item in value.values() if isinstance(value, dict) else value:
            found += _bounded(item, level + 1)
            if found > MAX_ITEMS:
                raise Refused("malformed", f"args: more than {MAX_ITEMS} values")
        return max(found, 1)
    if isinstance(value, int) and not -INT64 <= value < INT64:
        raise Refused("malformed", "args: a whole number of more than 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise Refused("malformed", "args: a number that is none")
    return 1


def expiry(request: Request, node: Node, now: float, longest: float = LONGEST_S) -> float:
    """Return Unix time after which a command must not begin. Raises Refused.

    When none is given: a day for configuration, else three report intervals, at least 10 min; never more than `longest` seconds ahead.
    """
    if request.expires is None:
        usual = DAY_S if request.name in orders.CONFIG else max(600, 3 * node.interval_s)
        return now + min(usual, longest, LONGEST_S)
    try:
        t = datetime.fromisoformat(request.expires)
    except ValueError:
        raise Refused("malformed", 'expires: write RFC 3339, for example "2026-01-01T12:00:00Z"') from None
    if t.tzinfo is None:
        raise Refused("malformed", "expires needs a time zone (write ...Z)")
    try:
        at = t.astimezone(UTC).timestamp()
    except OverflowError:  # the year 1 east of Greenwich, 9999 west of it
        raise Refused("malformed", "expires: a time that no calendar has") from None
    if at <= now:
        raise Refused("expired", f"expired at {request.expires}")
    return at


def authorise(policy: Policy, request: Request, requester: str, node: Node, now: float) -> float:
    """Return the expiry of a request that may be executed. `requester`: whom the broker vouches for. Raises Refused."""
    roles = policy.requesters.get(requester, ())
    allowing = [r for r in roles if r.allows(request.name, node)]
    if not allowing:
        raise Refused("unauthorised", f"{requester} may not send {request.name} to {node.name}")
    try:
        orders.check(request.name, request.args)
    except orders.BadArguments as e:
        raise Refused("bad_arguments", str(e)) from e
    longest = max(r.longest_s for r in allowing)
    if request.name == orders.VALVE:
        longest = min(longest, DAY_S)
        _valve(request, allowing, requester)
    at = expiry(request, node, now, longest)
    if at > now + longest:
        raise Refused("expires_too_far", f"at most {longest} s ahead")
    return at


def _valve(request: Request, roles: list[Role], requester: str) -> None:
    """The valve policy: a reason of the list and an expiry always; for arrears a role that says so, and closing only."""
    if request.expires is None:
        raise Refused("valve_policy", "a valve command needs an expiry")
    if request.reason not in VALVE_REASONS:
        raise Refused("valve_policy", "a valve command needs a reason: " + ", ".join(VALVE_REASONS))
    if request.reason == "arrears" and (list(request.args) != ["close"] or not any(r.arrears for r in roles)):
        raise Refused("valve_policy", f"{requester} may not move a valve for arrears")


def _any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, p) for p in patterns)

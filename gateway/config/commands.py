"""[commands]: who may have what done, through which output's broker, and the policy for valves. Without it nothing is executed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.config.outputs import MqttOutputConfig, OutputConfig
from gateway.config.table import NAME, Table
from gateway.core.authorise import GATEWAY, LONGEST_S, Policy, Role, Valve

POSITIONS = ("open", "closed", "stay")
_PATTERN = re.compile(r"[a-z0-9_*?\[\]!-]{1,64}")


@dataclass(frozen=True, slots=True)
class CommandsConfig:
    """output: requests come in through its broker and below its root. console: whom requests on node/<node>/cmd, a topic of nobody's,
    count as; None refuses them."""

    output: str
    policy: Policy = field(default_factory=Policy)
    console: str | None = None


def commands(t: Table, outputs: Iterable[OutputConfig]) -> CommandsConfig:
    """Read [commands] and its tables role, requester and valve. Raises ConfigError."""
    t.only(("output", "console", "max_open", "max_queue", "role", "requester", "valve"))
    known = tuple(o.name for o in outputs if isinstance(o, MqttOutputConfig))
    if not known:
        raise t.error(None, "needs a broker, but no output is one", 'add [output.city] with kind = "mqtt"')
    name = t.choice("output", known, known[0] if len(known) == 1 else ...)
    roles = {role: _role(role, r) for role, r in t.tables("role").items()}
    requesters = {}
    for who, r in t.tables("requester").items():
        if not NAME.fullmatch(who) or who == GATEWAY:
            raise r.error(
                None,
                "is no name for a requester",
                f'use 1 to 32 of a-z 0-9 _ -, not "{GATEWAY}": it is the user name at the broker',
            )
        r.only(("roles",))
        if not roles:
            raise r.error(
                "roles", "names a role, but there is none", 'add [commands.role.operator] with commands = ["read_now"]'
            )
        requesters[who] = tuple(roles[role] for role in r.choices("roles", tuple(roles), ()))
    if not requesters:
        raise t.error(
            None,
            "lets nobody ask",
            'add [commands.requester.NAME] with roles = ["..."], NAME is the user name at the broker',
        )
    console = t.get("console", str, None, '"a-requester"')
    if console is not None and console not in requesters:
        raise t.error("console", f"is {console!r}, which is no requester", "choose from " + ", ".join(requesters))
    valves = tuple(_valve(pattern, v) for pattern, v in t.tables("valve").items())
    policy = Policy(requesters, valves, t.number("max_open", 4, 1, 4), t.number("max_queue", 1000, 1, 100_000))
    return CommandsConfig(name, policy, console)


def _role(name: str, t: Table) -> Role:
    t.only(("commands", "profiles", "nodes", "areas", "longest_s", "arrears"))
    return Role(
        name,
        _patterns(t, "commands", None),
        _patterns(t, "profiles", ["*"]),
        _patterns(t, "nodes", ["*"]),
        t.number("longest_s", LONGEST_S, 60, LONGEST_S),
        t.get("arrears", bool, False, "true or false"),
        _patterns(t, "areas", ["*"]),
    )


def _patterns(t: Table, key: str, default: list[str] | None) -> tuple[str, ...]:
    what = (
        'a list like ["read_now", "interval"]' if key == "commands" else 'a list of names or patterns like ["water-*"]'
    )
    found = t.get(key, list, ... if default is None else default, what)
    for p in found:
        if not isinstance(p, str) or not _PATTERN.fullmatch(p):
            raise t.error(key, f"holds {p!r}", f"write {what}")
    if not found:
        raise t.error(key, "is empty", f"write {what}")
    return tuple(found)


def _valve(pattern: str, t: Table) -> Valve:
    t.only(("auto_close", "fail_safe"))
    if not _PATTERN.fullmatch(pattern):
        raise t.error(None, "is no name or pattern of meters", 'write [commands.valve."water-*"]')
    fail_safe = t.choice("fail_safe", POSITIONS) if "fail_safe" in t.data else None
    return Valve(pattern, t.get("auto_close", bool, False, "true or false"), fail_safe)

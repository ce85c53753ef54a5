"""What an order sets on a node (a valve, safe mode, a key of its configuration), so that a newer order takes the place of an older one.

An order that nothing newer may follow in silence (identify, read_now, a reboot) sets nothing; neither does one of a profile's own, of which
nothing is known here: a profile's command that sets something is entered in SETTINGS.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.core import orders
from gateway.core.command import Command

SETTINGS = (orders.VALVE, "safe_mode", "emergency")  # commands that leave the node as their arguments say
EXERCISE = ["exercise"]  # of a valve: moves it, and leaves it where it was
_ALARMS = "alarms"  # the key of a configuration that holds every limit


def touched(name: str, args: Any) -> frozenset[str]:
    """Return the names of what an order moves or sets; empty for what is done once and over."""
    if name == "limit":
        return frozenset(f"{_ALARMS} {args.get('q')} {side}" for side in ("above", "below") if side in args)
    if isinstance(args, Mapping):
        return frozenset(map(str, args)) if name in orders.CONFIG else frozenset()
    return frozenset((name,)) if name in SETTINGS else frozenset()


def share(a: Command, b: Command) -> bool:
    """True when two orders touch the same thing."""
    one, other = touched(a.name, a.args), touched(b.name, b.args)
    return not one.isdisjoint(other) or _all_limits(one, other) or _all_limits(other, one)


def _all_limits(one: frozenset[str], other: frozenset[str]) -> bool:
    return _ALARMS in one and any(what.startswith(f"{_ALARMS} ") for what in other)


def outdated(mine: Iterable[Command], name: str, args: Any) -> list[Command]:
    """Return those of a node's open orders whose place a new one takes: all that they would set, it sets otherwise.

    Not what the node has taken: the new one waits its turn there. Not a configuration that was sent, since the answer to one names none: the
    new one follows it (order_offers.py), so that the newest is still what counts in the end.
    """
    new = frozenset[str]() if name == orders.VALVE and list(args) == EXERCISE else touched(name, args)
    return [
        c
        for c in mine
        if not c.taken
        and not (c.configures and c.sends)
        and (old := touched(c.name, c.args))
        and all(what in new or what.startswith(f"{_ALARMS} ") and _ALARMS in new for what in old)
    ]

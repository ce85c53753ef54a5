"""What a command becomes on the wire: its arguments checked, its downlink keys, and a configuration in pieces where that is needed.

Three names are ours and travel as configuration (downlink key 4): `interval` {sample_s, row_s, report_s}, `limit` {q, above or below, ...} in
the published unit, `config` {any key of the node's configuration}. Every other name is a command of the node (key 5); a name that is not
known here is left to the node, so that a profile adds a command without a change of the gateway.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from motewire import codes
from motewire.config import KEYS, MUST, foreign, misspelt, unfit, wrong
from motewire.downlink import put_downlink
from motewire.errors import WireError
from motewire.quantities import ID, KEY, QUANTITIES
from motewire.shapes import MAX_ARGUMENTS, MAX_PIECES, is_alarm, is_command

from gateway.core.normalise import INSTANCE, quantity_of

CONFIG = ("interval", "limit", "config")
VALVE = "valve"
VALVE_POSITIONS = ("open", "close", "exercise")
MAX_CONFIG = 2048  # bytes of JSON a node takes in pieces (mote.pieces)
# (a frame takes at least so many bytes, of which a piece is so many)
_PIECES = ((900, 820), (190, 150), (85, 50), (0, 14))
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_RATES = ("sample_s", "row_s", "report_s")
_NUMBERS = {name: number for number, name in enumerate(codes.CONFIG_NAMES) if name}
_QUANTITIES = {str(row[KEY]): int(row[ID]) for row in QUANTITIES}
_WEEK_S = 604_800

Arguments = Sequence[Any] | Mapping[str, Any]


class BadArguments(Exception):
    """Arguments that no node could act on; the text says which and what is wanted."""


def _one(low: int, high: int) -> Callable[[Sequence[Any]], None]:
    def check(args: Sequence[Any]) -> None:
        if len(args) > 1 or args and not (type(args[0]) is int and low <= args[0] <= high):
            raise BadArguments(f"at most one argument, a whole number {low}..{high}")

    return check


def _none(args: Sequence[Any]) -> None:
    if args:
        raise BadArguments("takes no arguments")


def _valve(args: Sequence[Any]) -> None:
    if len(args) != 1 or args[0] not in VALVE_POSITIONS:
        raise BadArguments("one argument: " + ", ".join(VALVE_POSITIONS))


_CHECKS: Mapping[str, Callable[[Sequence[Any]], None]] = {
    "reboot": _none,
    "factory_reset": _none,
    "read_now": _none,
    "selftest": _none,
    "safe_mode": _one(0, 1),
    "identify": _one(1, 3600),
    "emergency": _one(0, _WEEK_S),
    VALVE: _valve,
}
_PRIORITY = {VALVE: 2, "emergency": 2, "interval": 0, "limit": 0, "config": 0}


def priority(name: str) -> int:
    """Return 2 for what cannot wait (it may use the whole duty cycle), 0 for configuration, 1 for the rest."""
    return _PRIORITY.get(name, 1)


def check(name: str, args: Arguments) -> None:
    """Raise BadArguments for a name or arguments that cannot be sent to any node."""
    if not _NAME.fullmatch(name):
        raise BadArguments("name: 1 to 32 of a-z 0-9 _, beginning with a letter")
    if name in CONFIG:
        if not isinstance(args, Mapping) or not args:
            raise BadArguments(f'{name} takes an object, for example {{"report_s": 3600}}')
        configuration(name, args)
        return
    if isinstance(args, Mapping):
        raise BadArguments(f"{name} takes a list of arguments")
    if len(args) > MAX_ARGUMENTS:
        raise BadArguments(f"at most {MAX_ARGUMENTS} arguments")
    if not is_command([0, name, *args]) or not all(type(a) is not int or -(1 << 31) <= a < 1 << 31 for a in args):
        raise BadArguments("an argument is a whole number of 32 bits, true, false, null or text")
    _CHECKS.get(name, lambda _args: None)(args)


def configuration(name: str, args: Mapping[str, Any]) -> dict[int, Any] | bytes:
    """Return what a configuration command sends: {number: value} of downlink key 4, or the JSON that goes in pieces. Raises BadArguments."""
    if name == "limit":
        return {codes.CONFIG_ALARM: _limit(args)}
    if name == "interval":
        for key in args:
            if key not in _RATES:
                raise BadArguments(f"{key} is none of " + ", ".join(_RATES))
    for key, value in args.items():  # null: the node's default
        why = wrong(key, value) if value is not None or KEYS.get(key, (None,))[-1] is MUST else ""
        if why:
            raise BadArguments(why)
    given = {key: value for key, value in args.items() if value is not None}
    why = misspelt(args.get("sensors") or {}) or foreign(args) or unfit(given)
    if why:
        raise BadArguments(why)
    if all(key in _NUMBERS and type(value) is int for key, value in args.items()):
        return {_NUMBERS[key]: int(value) for key, value in args.items()}
    if name == "interval":
        raise BadArguments("intervals are whole seconds")
    for key in ("node", "version", "refused", "key", "epoch"):
        if key in args:
            raise BadArguments(f"{key} is part of a node's identity and not changed from afar")
    text = json.dumps(args, separators=(",", ":"), ensure_ascii=True).encode()
    if len(text) > MAX_CONFIG:
        raise BadArguments(f"{len(text)} bytes of configuration, a node takes {MAX_CONFIG}: send it in parts")
    return text


def _limit(args: Mapping[str, Any]) -> list[Any]:
    """Return the wire rule of {q, above or below: limit or null, clear, hold, step, update_s, boost}: raw values, null where the node decides."""
    for key in args:
        if key not in ("q", "above", "below", "clear", "hold", "step", "update_s", "boost"):
            raise BadArguments(f"{key} is none of q, above, below, clear, hold, step, update_s, boost")
    key, dash, nth = str(args.get("q")).partition("-")
    if key not in _QUANTITIES or dash and not (nth.isdigit() and 0 < int(nth) < 256):
        raise BadArguments(f"q: {str(args.get('q'))[:40]!r} is no quantity")
    if ("above" in args) == ("below" in args):
        raise BadArguments("give above or below, one of them")
    number = _QUANTITIES[key] + INSTANCE * (int(nth) if dash else 0)
    q = quantity_of(number)
    way = "above" if "above" in args else "below"
    rule: list[Any] = [number, codes.ALARM_ABOVE if way == "above" else codes.ALARM_BELOW]

    def raw(name: str, offset: int) -> int | None:
        value = args.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
            raise BadArguments(f"{name} is {value!r}, not a number in {q.unit or 'raw units'}")
        return round(value / (q.factor or 1) * q.divisor) - offset

    limit = raw(way, q.offset)
    if limit is not None:
        more = [raw("clear", q.offset), args.get("hold"), raw("step", 0), args.get("update_s"), args.get("boost")]
        if more[-1] is None:
            more.pop()  # boost is a bool or absent
            while more and more[-1] is None:
                more.pop()
        rule += [limit, *more]
    elif len(args) > 2:
        raise BadArguments("a rule without a limit is removed: give q and above or below alone")
    if not is_alarm(rule):
        raise BadArguments(
            "hold and update_s are whole numbers, boost is true or false, limits are within the wire's range"
        )
    return rule


def parts(name: str, args: Arguments, number: int, room: int) -> list[dict[int, Any]]:
    """Return the downlink items of a command in as many frames as it takes; `room`: payload bytes of a frame. [] when it cannot be done.

    The cut depends on the room, and the transaction's number on the cut, so that a node never gets two cuts under one number.
    """
    if name not in CONFIG:
        return [{codes.DOWN_COMMAND: [number, name, *args]}]
    assert isinstance(args, Mapping)
    made = configuration(name, args)
    if not isinstance(made, bytes):
        return [{codes.DOWN_CONFIG: made}]
    cut = next(i for i, (least, _) in enumerate(_PIECES) if room >= least)
    size = _PIECES[cut][1]
    count = -(-len(made) // size)
    if count > MAX_PIECES:
        return []
    transaction = (number << 2 | cut) & 0xFFFF
    pieces = (made[i * size : (i + 1) * size] for i in range(count))
    return [{codes.DOWN_CONFIG: {codes.CONFIG_PIECE: [transaction, i, count, p]}} for i, p in enumerate(pieces)]


def size(items: Mapping[int, Any]) -> int:
    """Return the payload bytes of downlink items. Raises BadArguments when they have no shape for the wire."""
    try:
        return put_downlink(bytearray(1200), 0, sorted(items.items()))
    except (WireError, IndexError) as e:
        raise BadArguments("does not fit a frame") from e

"""What an alarm message does to the rules that are up: raise, update, clear, or nothing because it is old news."""

from __future__ import annotations

from dataclasses import replace

from motewire import codes

from gateway.core.messages import AlarmMessage
from gateway.core.model import Alarm, AlarmState, NodeState
from gateway.core.normalise import quantity_of

CODES = {
    codes.ALARM_CLEARED: "cleared",
    codes.ALARM_ABOVE: "above",
    codes.ALARM_BELOW: "below",
    codes.ALARM_FAULT: "fault",
    codes.ALARM_EVENT: "event",
}
_UP = ("above", "below", "fault")


def apply(state: NodeState, message: AlarmMessage, counter: int) -> tuple[NodeState, Alarm]:
    """Return the state after an alarm message and what to tell. Messages may come in any order; the newest (t, counter) wins.

    A clear names no rule, so it ends every rule of its quantity; when none is known to be up it ends all three by name, which
    is harmless and heals a retained alert of a former life.
    """
    q = quantity_of(message.quantity)
    code = CODES.get(message.code, "event")
    value = None if message.value is None else q.physical(message.value)
    limit = None if message.limit is None else q.physical(message.limit)
    mark = (message.t, counter)
    rule = f"{q.key}-{code}"

    def told(what: str, since: int, rules: tuple[str, ...]) -> Alarm:
        severity = "fault" if code == "fault" else "warning"
        return Alarm(what, code, severity, q.key, q.unit, value, limit, message.t, since, rules)  # type: ignore[arg-type]

    if code == "event":
        return state, told("event", message.t, ())
    if mark <= state.marks.get(message.quantity, (-1, 0)):
        return state, told("late", message.t, ())
    marks = {**state.marks, message.quantity: mark}
    if code == "cleared":
        names = [f"{q.key}-{up}" for up in _UP]
        up = tuple(name for name in names if name in state.alarms)
        since = min((state.alarms[name].since for name in up), default=message.t)
        alarms = {name: a for name, a in state.alarms.items() if name not in up}
        return replace(state, marks=marks, alarms=alarms), told("cleared", since, up or tuple(names))
    known = state.alarms.get(rule)
    since = known.since if known else message.t
    alarms = {**state.alarms, rule: AlarmState(since, message.t, counter)}
    return replace(state, marks=marks, alarms=alarms), told("updated" if known else "raised", since, (rule,))

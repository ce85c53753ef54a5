"""What an alarm message does to the rules that are up: raise, update, clear, or nothing because it is old news.

The order is that of the counters, which a node takes when it seals: it holds in whatever order messages arrive, and whatever the node's
clock did meanwhile. Times are told, not compared.
"""

from __future__ import annotations

from motewire import codes

from gateway.core.messages import AlarmMessage
from gateway.core.model import Alarm, AlarmState, NodeState
from gateway.core.normalise import quantity_of
from gateway.core.refusals import Full
from gateway.core.report import believable
from gateway.core.value import replace

CODES = {
    codes.ALARM_CLEARED: "cleared",
    codes.ALARM_ABOVE: "above",
    codes.ALARM_BELOW: "below",
    codes.ALARM_FAULT: "fault",
    codes.ALARM_EVENT: "event",
}
MAX_RULES = 64  # of a node that may be up, and quantities whose alarms were cleared
_UP = ("above", "below", "fault")


def apply(
    state: NodeState, message: AlarmMessage, counter: int, received: float, interval_s: int
) -> tuple[NodeState, Alarm]:
    """Return the state after an alarm message and what to tell. A message older than what is known of its rule is `late`.

    A clear names no rule, so it ends every rule of its quantity that was raised before it; when none is known to be up it ends those
    by name, which is harmless and heals a retained alert of a former life. A stamp ahead of receipt counts as receipt.
    Raises Full for rules beyond MAX_RULES; of the clears the oldest are forgotten.
    """
    q = quantity_of(message.quantity)
    code = CODES.get(message.code, "event")
    value = None if message.value is None else q.physical(message.value)
    limit = None if message.limit is None else q.physical(message.limit)
    times = believable(received, interval_s)
    t = message.t if message.t < times.stop else int(received)
    suspect = message.t not in times or message.value is not None and not q.is_valid(message.value)
    suspect = suspect or bool(message.ext) and message.ext.get(codes.EXT_TIME) == codes.TIME_ESTIMATED
    rule = f"{q.key}-{code}"

    def told(what: str, since: int, rules: tuple[str, ...]) -> Alarm:
        severity = "fault" if code == "fault" else "warning"
        return Alarm(what, code, severity, q.key, q.unit, value, limit, t, since, rules, suspect=suspect)  # type: ignore[arg-type]

    if code == "event":
        return state, told("event", t, ())
    if counter < state.marks.get(message.quantity, (0, 0))[1]:
        return state, told("late", t, ())
    if code == "cleared":
        names = tuple(f"{q.key}-{up}" for up in _UP)
        known = {name: state.alarms[name] for name in names if name in state.alarms}
        over = tuple(name for name, a in known.items() if a.counter < counter)
        since = min((known[name].since for name in over), default=t)
        # what was raised again since is up since then, as far as is known
        later = {name: replace(a, since=a.t) for name, a in known.items() if name not in over and a.since <= t}
        alarms = {name: a for name, a in {**state.alarms, **later}.items() if name not in over}
        marks = {**state.marks, message.quantity: (t, counter)}
        if len(marks) > MAX_RULES:
            del marks[min(marks, key=lambda q: marks[q][1])]
        gone = over if known else names
        return replace(state, marks=marks, alarms=alarms), told("cleared" if gone else "late", since, gone)
    before = state.alarms.get(rule)
    if before is not None and counter < before.counter:
        earlier = replace(before, since=min(before.since, t))
        return replace(state, alarms={**state.alarms, rule: earlier}), told("late", t, ())
    since = before.since if before else t
    alarms = {**state.alarms, rule: AlarmState(since, t, counter)}
    if len(alarms) > MAX_RULES:
        raise Full(f"more than {MAX_RULES} alarms of one node")
    return replace(state, alarms=alarms), told("updated" if before else "raised", since, (rule,))

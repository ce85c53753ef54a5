"""The stage that tells faults as data: offline, stuck, stale, broken sensors, weak batteries. It knows about backlog.

offline: presence says a node is silent. That is an alarm only when the link it was heard on has carried others since for the node's
whole patience; while the link, the broker or the gateway itself was away nobody can be silent, and afterwards everybody gets
time to come back. Where nobody else can be heard, at most FEW nodes are told silent all the same, an hour later.
stale: rows come, but a quantity that used to be there is missing in the newest n; or only status frames come though no frame waits
in the node's outbox. Rows that are old when they arrive (a backlog) are no sign of anything.
stuck: the same value in n fresh rows in a row where physics wants change.

own: up: {alarm: since}. off: [silent since, 1 if told]. k: link heard on. q: {quantity: [value, rows unchanged, rows missing]}. r: newest fresh row. b: the
battery's daily minima [[day, V], ...].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.core.city import State, Turn
from gateway.core.model import Alarm, Event
from gateway.core.normalise import quantity_of
from gateway.core.report import FUTURE_S, is_int
from gateway.core.rules import battery
from gateway.core.rules.texts import text_of

PATIENCE_INTERVALS, PATIENCE_LEAST_S = 3, 300
RECHECK_S = 60.0
FEW, ALONE_S = 5, 3600.0


@dataclass(frozen=True)
class FaultPlan:
    """What counts as a fault. stuck: quantity -> rows without change. stuck_except: quantity -> values that may stay (0 for rain).

    stale_rows: rows without a quantity that was there. stale_intervals: how long only status frames may come. battery: profile -> limits.
    """

    offline: bool = True
    stuck: Mapping[str, int] = field(default_factory=dict)
    stuck_except: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    stale_rows: int = 12
    stale_intervals: int = 6
    battery: battery.BatteryPlan | None = None
    fresh_intervals: int = 3
    reference: str = ""


class Faults:
    """A Stage of City."""

    name = "faults"

    def __init__(self, plan: FaultPlan) -> None:
        self._plan = plan
        # link -> (speaks since, spoke last, shortest interval of its nodes); a gap begins a new life
        self._spoke: dict[str, tuple[float, float, int]] = {}
        self._waiting: set[str] = set()

    def replan(self, turn: Turn, own: State) -> None:
        return None  # makes no aggregates

    def end(self, turn: Turn, own: State) -> None:
        return None  # all is in `own`

    def forget(self) -> None:
        return None  # when links spoke is true whether a commit failed or not

    def follow(self, turn: Turn, event: Event, own: State) -> None:
        if event.kind in ("aggregate", "area", "meta"):
            return
        if event.kind == "offline":
            if self._plan.offline and "off" not in own:
                own["off"] = [event.received, 0]
                turn.changed = True
            return
        self._heard(event)
        self._waiting.discard(turn.subject.key)
        if own.get("k") != event.link and event.link:
            own["k"] = event.link
            turn.changed = True
        if "off" in own:
            self._back(turn, event, own)
        if event.kind == "report":
            self._report(turn, event, own)
        elif event.kind == "status":
            self._status(turn, event, own)

    # presence

    def _heard(self, event: Event) -> None:
        now = event.received
        since, last, interval = self._spoke.get(event.link, (now, now, event.interval_s))
        if now - last > _gap_s(interval) or last - now > _gap_s(interval):  # or the clock was set back
            since, last = now, now
        self._spoke[event.link] = (since, max(last, now), min(interval, event.interval_s))

    def _back(self, turn: Turn, event: Event, own: State) -> None:
        since, told = own.pop("off")
        turn.changed = True
        if told:
            self._alarm(turn, "offline", "presence", "cleared", int(event.received), int(since), None, "s")

    def patience_s(self, turn: Turn) -> float:
        """How long a link must have carried others before a node's silence is the node's."""
        return max(PATIENCE_INTERVALS * turn.subject.interval_s, PATIENCE_LEAST_S)

    def due(self, turn: Turn, own: State) -> float | None:
        off = own.get("off")
        return None if off is None or off[1] else turn.now + RECHECK_S

    def tick(self, turn: Turn, own: State) -> None:
        off = own.get("off")
        if off is None or off[1]:
            return
        if off[0] > turn.now:  # the clock was set back
            off[0] = turn.now
            turn.changed = True
        link, patience = own.get("k", ""), self.patience_s(turn)
        alive = False
        for name, (since, last, interval) in self._spoke.items():
            # the link has carried somebody's frames for all that time without a gap, and still does
            if (not link or name == link) and last <= turn.now + FUTURE_S:
                alive |= last > off[0] and last - since >= patience and turn.now - last <= _gap_s(interval)
        self._waiting.add(turn.subject.key)
        if alive or len(self._waiting) <= FEW and turn.now - off[0] >= patience + ALONE_S:
            self._waiting.discard(turn.subject.key)
            off[1] = 1
            turn.changed = True
            silent = round(turn.now - off[0] + patience)
            self._alarm(turn, "offline", "presence", "raised", int(turn.now), int(off[0]), silent, "s", patience)

    # readings

    def _report(self, turn: Turn, event: Event, own: State) -> None:
        if event.occurrences or not event.latest:
            return
        fresh = event.received - max(self._plan.fresh_intervals * turn.subject.interval_s, 900)
        newest = max(event.times)
        if newest < fresh:
            return  # filling in: says nothing about now
        own["r"] = newest
        self._set(turn, own, "stale-report", "stale", "report", False, newest)
        n = len(event.times)
        kept: dict[str, list[float | int | None]] = own.setdefault("q", {})
        for c, column in enumerate(event.columns):
            wanted = self._plan.stuck.get(column.key)
            values = column.values
            known = kept.get(column.key)
            present = None
            for v in reversed(values):
                if v is not None:
                    present = v
                    break
            if present is None:
                if known is not None:
                    before = known[2] or 0
                    known[2] = min(before + n, self._plan.stale_rows)
                    turn.changed = turn.changed or known[2] != before
                    if known[2] >= self._plan.stale_rows:
                        self._set(turn, own, f"stale-{column.key}", "stale", column.key, True, newest)
                continue
            if known is None:
                known = kept[column.key] = [None, 0, 0]
                turn.changed = True
            elif known[2]:
                known[2] = 0
                turn.changed = True
                self._set(turn, own, f"stale-{column.key}", "stale", column.key, False, newest)
            if wanted is not None and c < 16:
                self._stuck(turn, own, known, column.key, values, wanted, newest, column.unit)
            elif column.key == "battery_voltage" and self._plan.battery is not None:
                self._battery(turn, own, float(present), newest)

    def _stuck(
        self, turn: Turn, own: State, known: list[float | int | None], key: str, values: tuple[float | None, ...],
        wanted: int, newest: int, unit: str,
    ) -> None:  # fmt: skip
        held, same = known[0], known[1] or 0
        before = same
        for v in values:
            if v is None:
                continue
            if v == held:
                same += 1
            else:
                held, same = v, 1
        known[0], known[1] = held, min(same, wanted)
        turn.changed = turn.changed or known[1] != before
        stuck = same >= wanted and held not in self._plan.stuck_except.get(key, ())
        self._set(turn, own, f"stuck-{key}", "stuck", key, stuck, newest, held, unit, wanted)

    def _status(self, turn: Turn, event: Event, own: State) -> None:
        status = event.current_status
        if not status:
            return  # how the node was, not how it is
        t = int(event.received)
        faults = status.get("sensor_faults")
        if isinstance(faults, (list, tuple)):
            broken = {quantity_of(q).key for q in faults if is_int(q) and 0 < q < 65536}
            up = {name.removeprefix("sensor-") for name in own.get("up", ()) if name.startswith("sensor-")}
            for key in sorted(broken | up):
                self._set(turn, own, f"sensor-{key}", "sensor", key, key in broken, t)
        newest, silence = own.get("r"), self._plan.stale_intervals * turn.subject.interval_s
        if newest is not None and newest > t + FUTURE_S:  # the clock was set back
            newest = own["r"] = t
            turn.changed = True
        if newest is not None and t - newest > silence and not event.stale and not status.get("outbox_depth"):
            self._set(turn, own, "stale-report", "stale", "report", True, t, t - newest, "s", silence)
        volt = status.get("battery_voltage")
        if is_int(volt) and self._plan.battery is not None:
            self._battery(turn, own, volt / 100, t)

    def _battery(self, turn: Turn, own: State, volt: float, t: int) -> None:
        plan = self._plan.battery
        assert plan is not None
        limits = plan.of(turn.subject.profile)
        if limits is None or volt <= 0:
            return
        days = own.setdefault("b", [])
        if battery.note(days, t, volt, turn.now):
            turn.changed = True
        low = battery.is_low(limits, volt, "battery-low" in own.get("up", ()))
        self._set(turn, own, "battery-low", "battery", "battery_voltage", low, t, volt, "V", limits.low)
        left = battery.days_left(limits, days)
        soon = left is not None and left <= limits.warn_days * (1.2 if "battery-forecast" in own.get("up", ()) else 1)
        self._set(
            turn, own, "battery-forecast", "forecast", "lifetime", soon and not low, t,
            None if left is None else round(left), "d", limits.warn_days,
        )  # fmt: skip

    # another configuration

    def review(self, turn: Turn, own: State) -> None:
        """End what the plan no longer looks for, so that nothing would ever end it; the rest follows the subject's name and circle."""
        limits = self._plan.battery.of(turn.subject.profile) if self._plan.battery is not None else None
        for rule in list(own.get("up", ())):
            kind, _, key = rule.partition("-")
            if kind == "stuck" and key not in self._plan.stuck or kind == "battery" and limits is None:
                t = int(turn.now)
                self._set(turn, own, rule, kind, "battery_voltage" if kind == "battery" else key, False, t)
            elif rule in turn.up:
                turn.move(rule, turn.subject.visibility)
        if "offline" in turn.up:
            turn.move("offline", turn.subject.visibility)

    def leave(self, turn: Turn, own: State) -> None:
        self._waiting.discard(turn.subject.key)
        for key in ("up", "off"):
            own.pop(key, None)
        turn.changed = True

    # telling

    def _set(
        self, turn: Turn, own: State, rule: str, code: str, quantity: str, is_up: bool, t: int,
        value: float | None = None, unit: str = "", limit: float | None = None,
    ) -> None:  # fmt: skip
        up = own.get("up")
        known = up is not None and rule in up
        if known == is_up:
            return
        turn.changed = True
        if up is None:
            up = own["up"] = {}
        since = up.pop(rule) if known else t
        if is_up:
            up[rule] = t
        self._alarm(turn, rule, quantity, "raised" if is_up else "cleared", t, since, value, unit, limit, code)

    def _alarm(
        self, turn: Turn, rule: str, quantity: str, what: str, t: int, since: int, value: float | None, unit: str,
        limit: float | None = None, code: str = "",
    ) -> None:  # fmt: skip
        code = code or rule
        severity = "preventive" if code == "forecast" else "fault"
        text = text_of("cleared" if what == "cleared" else code, quantity, value, limit, unit)
        alarm = Alarm(
            what, "cleared" if what == "cleared" else code, severity, quantity, unit, value, limit, t, since, (),  # type: ignore[arg-type]
            self._plan.reference, text,
        )  # fmt: skip
        turn.alarm(rule, alarm)


def _gap_s(interval: int) -> float:
    """How long a link with nodes of that interval may be quiet and still be there."""
    return max(2 * interval, PATIENCE_LEAST_S)

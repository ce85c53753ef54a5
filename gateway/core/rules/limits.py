"""The stage that holds rows and aggregates against the rules. own: {rule: track} of those that are not idle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.core.aggregates.calendar import LONGEST
from gateway.core.city import State, Subject, Turn
from gateway.core.model import Alarm, Event
from gateway.core.normalise import quantity_of
from gateway.core.raised import Raised
from gateway.core.registry import strictest
from gateway.core.report import FUTURE_S
from gateway.core.rules.machine import UP, Told, Track, about, by_clock, end, steps, waits_until
from gateway.core.rules.rule import Rule
from gateway.core.rules.texts import text_of

LONGEST_S = LONGEST * 3600
FRESH_INTERVALS, FRESH_LEAST_S = 3, 900
SCHEDULE_S = 900  # how often an alarm of a rule with a schedule is held against the clock


class Limits:
    """A Stage of City."""

    name = "rules"

    def __init__(self, rules: Sequence[Rule], units: Mapping[str, str]) -> None:
        self._rules = rules
        self._units = units
        self._of: dict[str, tuple[Subject, dict[str, list[Rule]], dict[str, Rule]]] = {}
        self._shared: dict[tuple[str, ...], tuple[dict[str, list[Rule]], dict[str, Rule]]] = {}

    def replan(self, turn: Turn, own: State) -> None:
        return None  # makes no aggregates

    def end(self, turn: Turn, own: State) -> None:
        return None  # all is in `own`

    def forget(self) -> None:
        return None

    def _for(self, s: Subject) -> tuple[dict[str, list[Rule]], dict[str, Rule]]:
        """Return the subject's rules by what they look at, and by name; shared among subjects with the same rules."""
        known = self._of.get(s.key)
        if known is not None and known[0] is s:
            return known[1], known[2]
        mine = [r for r in self._rules if r.select.fits(s)]
        key = tuple(r.name for r in mine)
        shared = self._shared.get(key)
        if shared is None:
            by: dict[str, list[Rule]] = {}
            for r in mine:
                by.setdefault(f"{r.aggregate}/{r.quantity}", []).append(r)
            shared = self._shared[key] = (by, {r.name: r for r in mine})
        self._of[s.key] = (s, *shared)
        return shared

    def follow(self, turn: Turn, event: Event, own: State) -> None:
        if event.kind == "report":
            self._rows(turn, event, own)
        elif event.kind == "aggregate":
            self._aggregates(turn, event, own)
        elif event.kind == "area":
            self._area(turn, event, own)

    def _rows(self, turn: Turn, event: Event, own: State) -> None:
        by, _ = self._for(turn.subject)
        if not by:
            return
        order: list[int] | None = None
        for c, newest in event.latest:  # a column without a newer value is late altogether: it changes nothing
            column = event.columns[c]
            rules = by.get(f"/{column.key}")
            if rules is None:
                continue
            if order is None:
                order = sorted(range(len(event.times)), key=event.times.__getitem__)
            values, suspect = column.values, column.suspect
            rows = [(event.times[i], v) for i in order if (v := values[i]) is not None and i not in suspect]
            for rule in rules:
                if rule.name not in own and rule.direction != "rise" and not any(rule.beyond(v) for _, v in rows):
                    continue
                stale = event.received - self._fresh_s(turn, rule)
                self._take(turn, rule, own, rows, event.times[newest], stale, column.unit)

    def _aggregates(self, turn: Turn, event: Event, own: State) -> None:
        by, _ = self._for(turn.subject)
        for a in event.aggregates if by else ():
            if not a.latest:
                continue
            for value in a.values:
                rules = by.get(f"{a.name}/{value.quantity}")
                if rules is not None and value.value is not None:
                    for rule in rules:
                        stale = event.received - self._fresh_s(turn, rule) - (a.end - a.start)
                        self._take(turn, rule, own, [(a.end, value.value)], a.end, stale, value.unit, a.start + 1)

    def _area(self, turn: Turn, event: Event, own: State) -> None:
        by, _ = self._for(turn.subject)
        area = event.area
        if not by or area is None or not area.latest:
            return
        for key, value in area.body.items():
            rules = by.get(f"{area.name}/{key}")
            if rules is not None and isinstance(value, (int, float)):
                for rule in rules:
                    stale = event.received - self._fresh_s(turn, rule)
                    self._take(turn, rule, own, [(area.t, value)], area.t, stale, str(area.body.get("unit", "1")))

    def _fresh_s(self, turn: Turn, rule: Rule) -> float:
        return rule.fresh_s or max(FRESH_INTERVALS * turn.subject.interval_s, FRESH_LEAST_S)

    def _take(
        self,
        turn: Turn,
        rule: Rule,
        own: State,
        rows: Sequence[tuple[int, float]],
        newest: int,
        stale: float,
        unit: str,
        since: int | None = None,
    ) -> None:
        """Hold values against a rule. newest: time of the one that is current now: marks behind it are of a clock that was set back.
        since: when the period began that they say something of."""
        before = own.get(rule.name)
        track = Track.of(before)
        if track.t > newest:
            track.back_to(min(t for t, _ in rows) - 1 if rows else newest)
        for told in steps(rule, track, rows, stale):
            self._tell(turn, rule, told, unit, since)
        after = track.kept()
        if after != before:
            turn.changed = True
            if after is None:
                own.pop(rule.name, None)
            else:
                own[rule.name] = after

    def _tell(self, turn: Turn, rule: Rule, told: Told, unit: str, since: int | None = None) -> None:
        cleared = told.what == "cleared"
        if rule.direction == "rise":
            unit = f"{unit}/min"
        value = round(told.value, 2)
        text = text_of(
            "cleared" if cleared else rule.direction, rule.quantity, value, rule.limit,
            unit.removesuffix("/min"), rule.indicative and not cleared, None if cleared else rule.text,
        )  # fmt: skip
        alarm = Alarm(
            told.what, "cleared" if cleared else rule.direction, rule.severity, rule.quantity, unit, value, rule.limit,  # type: ignore[arg-type]
            told.t, told.since, (), rule.reference, text,
        )  # fmt: skip
        visibility = _seen(rule, turn.subject)
        turn.alarm(rule.name, alarm, visibility if since is None else turn.seen(visibility, since))

    # another configuration

    def review(self, turn: Turn, own: State) -> None:
        """End what is of rules that are gone, no longer about this subject, or about something else under their old name."""
        _, mine = self._for(turn.subject)
        for name in list(own):
            rule, track = mine.get(name), Track.of(own[name])
            if rule is not None and track.about in ("", about(rule)):
                if name in turn.up:
                    # what an aggregate says began before its end, from when the alarm counts
                    since = Raised(*turn.up[name]).since - (LONGEST_S if rule.aggregate else 0)
                    turn.move(name, turn.seen(_seen(rule, turn.subject), since))
                continue
            del own[name]
            turn.changed = True
            if name in turn.up:
                turn.drop(name)
            elif (
                track.phase == UP and track.told is not None
            ):  # raised before alarms were remembered: its name is all that is known
                now = int(turn.now)
                turn.alarm(name, Alarm("cleared", "cleared", "warning", name, "", None, None, now, track.since))

    def leave(self, turn: Turn, own: State) -> None:
        own.clear()
        turn.changed = True

    # the clock

    def due(self, turn: Turn, own: State) -> float | None:
        if not own:
            return None
        _, mine = self._for(turn.subject)
        found: list[float] = []
        for name, kept in own.items():
            rule = mine.get(name)
            if rule is None:  # taken out: review() ends it
                continue
            track = Track.of(kept)
            due = waits_until(rule, track)
            if due is not None:
                found.append(due)
            if track.phase == UP and not rule.schedule.always:
                found.append(turn.now + SCHEDULE_S)
        return min(found, default=None)

    def tick(self, turn: Turn, own: State) -> None:
        _, mine = self._for(turn.subject)
        now = int(turn.now)
        for name in list(own):
            rule, track = mine.get(name), Track.of(own[name])
            if rule is None:
                continue
            if track.since > now + FUTURE_S:  # the clock was set back
                track.back_to(now)
            applies = rule.schedule.always or rule.schedule.applies(turn.now)
            told = by_clock(rule, track, now) if applies else []
            if not applies and track.phase:
                told = end(track, now, track.told or 0)
            for t in told:
                self._tell(turn, rule, t, self._units.get(rule.quantity, "1"))
            after = track.kept()
            if after != own[name]:
                turn.changed = True
                if after is None:
                    del own[name]
                else:
                    own[name] = after


def _seen(rule: Rule, s: Subject) -> str:
    """Who may see a rule's alarms about a subject."""
    return s.visibility if rule.visibility is None else strictest(rule.visibility, s.visibility)


def units() -> dict[str, str]:
    """Return the published unit of every quantity."""
    from motewire.quantities import ID, KEY, QUANTITIES

    return {str(row[KEY]): quantity_of(int(row[ID])).unit for row in QUANTITIES}

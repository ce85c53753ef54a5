"""The stage that aggregates a node's rows: open hours in the node's state, closed ones in a note per day, periods told as they end.

An hour closes when a row at or after its end has come, or `grace_s` after its end when nothing comes. A row for a closed hour reopens
it; when no more came for `grace_s` it closes again, and every period it belongs to that is over is told again under a higher revision.
Rows more than keep_days behind their receipt or the node's newest are counted and left out, as is what is received while the host's clock
is not set; rows ahead of their receipt open no hour. So the cost of a frame is bounded whatever its stamps are.

own: z: periods that end up to this hour are told. l: newest hour with data. t: newest row. s: seconds per row. d: days noted.
o: {hour: [received, revision, {quantity: cell}]}, the open hours. f: those of them that were closed and whose register ends lower since.
p: {aggregate: end of the newest told}. b: p as it was before the clock
was set back. c: [epoch, counter] of the frame that was sealed last.
day note: h: {hour: [revision, {quantity: cell}]}. r: {aggregate: {end: revision}} from the second revision on.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from gateway.core.aggregates import cells as c
from gateway.core.aggregates.calendar import LONGEST
from gateway.core.aggregates.cells import HOUR, Cell
from gateway.core.aggregates.periods import Plan, doubted, found, told_of
from gateway.core.city import State, Turn
from gateway.core.model import Aggregate, AggregateValue, Event
from gateway.core.registry import strictest, visibility_of

MAX_OPEN = 48
DAY = 24
CLOCK_SET = 1_735_689_600  # 2025-01-01: a host whose clock says less has not set it
FUTURE_S = 300  # how far a node's clock may be ahead of ours
CROSSING_S = 5  # receivers' times of frames that cross


class Hours:
    """A Stage of City."""

    name = "agg"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def forget(self) -> None:
        return None

    def review(self, turn: Turn, own: State) -> None:
        return (
            None  # hours of a quantity that is aggregated in another way by now are left out where they are looked at
        )

    def leave(self, turn: Turn, own: State) -> None:
        return None  # a node may come back, and its hours were what they were

    def end(self, turn: Turn, own: State) -> None:
        for day in own.get("d", ()):
            turn.keep(self._key(turn, day), None)

    def replan(self, turn: Turn, own: State) -> None:
        """Say of what is made no more that it is over: no newer period will ever replace the newest that was published."""
        if not own or not own["p"]:
            return
        here = {q for _, _, cells in own["o"].values() for q in cells}
        for day in sorted(own["d"])[-2:]:
            here |= {q for _, cells in self._day(turn, day)["h"].values() for q in cells}
        over = [name for name in own["p"] if not self._plan.makes(name, here)]
        if not over:
            return
        ends = {name: own["p"].pop(name) * HOUR for name in over}
        turn.changed = True
        made = [
            Aggregate(
                name, end, end, 0, True, tuple(AggregateValue(q, "", None, 0.0) for q in told_of(name, here)), over=True
            )
            for name, end in ends.items()
        ]
        turn.tell("aggregate", "agg-over", _seen(turn.subject.visibility, made), aggregates=tuple(made))

    def follow(self, turn: Turn, event: Event, own: State) -> None:
        if event.kind != "report" or event.occurrences or not event.times:
            return
        kinds = self._plan.kinds
        columns = [col for col in event.columns if col.key in kinds]
        if not columns:
            return
        step = _step(event, own, turn.subject.interval_s)
        newest = self._add(turn, event, columns, step, own)
        if newest is None:
            return
        turn.changed = True
        whole = newest // HOUR
        if whole > own.get("z", 0) or len(own["o"]) > MAX_OPEN:
            late = sorted(own["o"])[: max(len(own["o"]) - MAX_OPEN, 0)]
            self._close(turn, own, max(whole, own.get("z", 0)), late)

    def due(self, turn: Turn, own: State) -> float | None:
        if not own:
            return None
        z, grace = own["z"], self._plan.grace_s
        reopened = [entry[0] + grace for h, entry in own["o"].items() if h < z]
        if own["l"] + LONGEST > z:  # a period with data ends within these hours
            reopened.append((z + 1) * HOUR + self._quiet(turn))
        return min(reopened, default=None)

    def _quiet(self, turn: Turn) -> float:
        """How long after the end of an hour its last rows may come."""
        return turn.subject.interval_s + self._plan.grace_s

    def tick(self, turn: Turn, own: State) -> None:
        if not own:
            return
        z = own["z"]
        quiet = [h for h, entry in own["o"].items() if h < z and entry[0] + self._plan.grace_s <= turn.now]
        reached = min(int((turn.now - self._quiet(turn)) // HOUR), own["l"] + LONGEST)
        if quiet or reached > z:
            turn.changed = True
            self._close(turn, own, max(reached, z), quiet)

    # rows in

    def _add(self, turn: Turn, event: Event, columns: list[Any], step: int, own: State) -> int | None:
        """Add an event's rows; return the newest time of a usable one."""
        times, kinds = event.times, self._plan.kinds
        newest, future = None, int(event.received) + FUTURE_S
        order = [event.epoch, event.counter]
        if order > own.get(
            "c", [-1, 0]
        ):  # what was sealed before says nothing of the clock: its receipt may be of long ago
            if event.received >= CLOCK_SET:
                self._heal(own, c.hour_of(future + CROSSING_S))
            if own:
                own["c"] = order
        reach = DAY * self._plan.keep_days
        oldest = max(c.hour_of(int(event.received)), own["l"] if own else 0) - reach
        if event.received < CLOCK_SET:
            oldest = c.hour_of(future) + 1
        late = 0
        for hour, rows in _by_hour(times).items():
            if hour < oldest:
                late += len(rows)
                continue
            if (hour + 1) * HOUR > future:
                rows = [i for i in rows if times[i] <= future]
                if not rows:
                    continue
            cells: dict[str, Cell] | None = None
            for column in columns:
                use = rows
                values = column.values
                if column.suspect or None in values:
                    use = [i for i in rows if values[i] is not None and i not in column.suspect]
                    if not use:
                        continue
                if cells is None:
                    cells = self._open(turn, own, hour, event.received)
                kind = kinds[column.key][0]
                cell = cells.setdefault(column.key, [])
                if cell and not c.fits(cell, kind):
                    cell.clear()
                if c.add(cell, kind, [values[i] for i in use], [times[i] for i in use], step) and hour < own["z"]:
                    own["f"] = sorted({*own.get("f", ()), hour})
                last = times[use[-1]] if use is rows or len(use) == 1 else max(times[i] for i in use)
                if newest is None or last > newest:
                    newest = last
        if late:
            turn.refuse("late_for_aggregates", late)
        if newest is not None:
            own["t"] = max(own.get("t", 0), newest)
        return newest

    def _heal(self, own: State, last: int) -> None:
        """Take back marks of a time that has not come yet, since the host's clock was set back: they would make all that comes until then too late.

        Or is the clock behind now? Nothing is forgotten for it: open hours stay, and what may have been published gets a higher revision (b).
        """
        if not own or own["l"] <= last:
            return
        own["l"] = max((h for h in own["o"] if h <= last), default=last)
        own["z"] = min(own["z"], last - 1)
        own["t"] = min(own.get("t", 0), last * HOUR)
        own["b"] = {name: max(end, own.get("b", {}).get(name, 0)) for name, end in own["p"].items()}
        own["p"] = {name: end for name, end in own["p"].items() if end <= last + 1}

    def _open(self, turn: Turn, own: State, hour: int, received: float) -> dict[str, Cell]:
        if not own:
            own.update(z=hour, l=hour, o={}, d=[], p={})
        entry = own["o"].get(hour)
        if entry is None:
            noted = self._day(turn, hour // DAY)["h"].get(hour) if hour // DAY in own["d"] else None
            entry = own["o"][hour] = [received, *(noted or (0, {}))]
        entry[0] = received
        own["l"] = max(own["l"], hour)
        return entry[2]

    # periods out

    def _close(self, turn: Turn, own: State, reached: int, again: list[int]) -> None:
        """Close the hours before `reached` for the first time, and those of `again` once more; tell what is over by then."""
        before = own["z"]
        first = [h for h in own["o"] if before <= h < reached]
        days: dict[int, dict[str, Any]] = {}
        touched = set()
        for h in (*first, *again):
            _, revision, cells = own["o"].pop(h)
            self._of(turn, days, own, h)["h"][h] = [revision + 1, cells]
            touched.add(h)
            touched |= self._unsure(turn, days, own, h, cells)
        if left := [h for h in own.pop("f", ()) if h in own["o"]]:
            own["f"] = left
        own["z"] = reached
        # a period ends at most LONGEST after an hour with data: those closed before now end theirs by before + LONGEST
        ends = {e for h in touched for e in range(h + 1, min(h + LONGEST, reached) + 1)}
        ends |= set(range(before + 1, min(reached, own["l"] + LONGEST, before + LONGEST) + 1))
        told = self._told(turn, own, days, sorted(ends), touched, before)
        for day, note in days.items():
            if note.pop("new", None):
                turn.keep(self._key(turn, day), note)
        self._expire(turn, own)
        for circle in dict.fromkeys(circle for circle, _ in told):
            part = [a for its, a in told if its == circle]
            turn.tell("aggregate", "agg", _seen(circle, part), aggregates=tuple(part))

    def _unsure(self, turn: Turn, days: dict[int, Any], own: State, h: int, cells: Mapping[str, Cell]) -> set[int]:
        """Hours whose use of a register hangs on hour h: the next, the one behind it where the register is lower there than h's last reading, or
        where a late row made that lower (f), and the one before when its end was not read on the second."""
        kinds = self._plan.kinds
        registers = [q for q in cells if q in kinds and kinds[q][0] == c.REGISTER]
        if not registers:
            return set()
        after = self._look(turn, days, own, h + 1)
        found = {h + 1} if h + 1 < own["z"] and after else set()
        fell = h in own.get("f", ()) or any(q in after and after[q][-1] < cells[q][-1] for q in registers)
        if fell and h + 2 < own["z"]:
            found |= {h + 2} if self._look(turn, days, own, h + 2) else set()
        noted = self._look(turn, days, own, h - 1)
        if any(q in noted and noted[q][-2] != h * HOUR for q in registers):
            found.add(h - 1)
        return found

    def _told(
        self, turn: Turn, own: State, days: dict[int, Any], ends: list[int], touched: set[int], before: int
    ) -> list[tuple[str, Aggregate]]:
        """Return what is published of the periods that end at these hours, each with the narrowest circle that the node had since it began."""

        def cells(h: int) -> Mapping[str, Cell]:
            return self._look(turn, days, own, h)

        out: list[tuple[str, Aggregate]] = []
        most = self._plan.most_of(turn.subject.name)
        for end in ends:
            for period in self._plan.calendar.ending_at(end):
                needs = self._plan.needs(period)
                circle = turn.seen(turn.subject.visibility, needs * HOUR + 1)
                if end <= before and not any(needs <= h < end for h in touched):
                    continue
                if period.name == "hour" and end > before:
                    self._count_broken(turn, period.first, cells, most)
                for f in found(self._plan, period, cells, most):
                    revision = 1
                    if end <= max(before, own.get("b", {}).get(f.name, 0)):
                        known = self._of(turn, days, own, end - 1)["r"].setdefault(f.name, {})
                        revision = known[end] = known.get(end, 1) + 1
                    latest = end >= own["p"].get(f.name, 0)
                    if latest:
                        own["p"][f.name] = end
                    a = Aggregate(f.name, period.first * HOUR, end * HOUR, revision, latest, tuple(f.values), f.detail)
                    out.append((circle, a))
        return out

    def _count_broken(self, turn: Turn, hour: int, cells: Any, most: float) -> None:
        for q in cells(hour):
            if self._plan.kinds[q][0] == c.REGISTER and (reason := doubted(hour, q, cells, most)):
                turn.refuse(reason, 1)

    # day notes

    def _key(self, turn: Turn, day: int) -> str:
        return f"city:{turn.subject.key}:{day}"

    def _day(self, turn: Turn, day: int) -> dict[str, Any]:
        return turn.look(self._key(turn, day)) or {"h": {}, "r": {}}

    def _of(self, turn: Turn, days: dict[int, Any], own: State, hour: int) -> dict[str, Any]:
        """Return the day of an hour to be changed."""
        day = hour // DAY
        if day not in days:
            days[day] = self._day(turn, day)
        if day not in own["d"]:
            own["d"].append(day)
        days[day]["new"] = True
        return days[day]

    def _look(self, turn: Turn, days: dict[int, Any], own: State, hour: int) -> Mapping[str, Cell]:
        day = hour // DAY
        if day not in days:
            if day not in own["d"]:
                return {}
            days[day] = self._day(turn, day)
        entry = days[day]["h"].get(hour)
        known = {} if entry is None else entry[1]
        kinds = self._plan.kinds
        return {q: cell for q, cell in known.items() if q in kinds and c.fits(cell, kinds[q][0])}

    def _expire(self, turn: Turn, own: State) -> None:
        oldest = own["l"] // DAY - self._plan.keep_days - 2
        for day in [d for d in own["d"] if d < oldest]:
            own["d"].remove(day)
            turn.keep(self._key(turn, day), None)


def _seen(node: str, told: list[Aggregate]) -> str:
    """The narrowest circle of the node and of every quantity that is told: what a household used stays personal."""
    return strictest(node, *{visibility_of(v.quantity) for a in told for v in a.values})


def _step(event: Event, own: State, interval_s: int) -> int:
    """How many seconds a row stands for: the usual step of its report, of a single row the time since the row before.

    What is no grid may have gaps: there a row stands for an interval at most.
    """
    first, last, n = event.times[0], event.times[-1], len(event.times)
    if n > 1:
        step = event.times[1] - first
        if step <= 0 or last - first != step * (n - 1):
            steps = sorted(b - a for a, b in pairwise(sorted(event.times)) if b > a) or [interval_s]
            step = min(steps[(len(steps) - 1) // 2], interval_s)
        elif n == 2:
            step = min(step, interval_s)
    elif own and 0 < first - own.get("t", 0) <= interval_s:
        step = first - own["t"]
    else:
        step = own.get("s", interval_s) if own else interval_s
    step = min(step, HOUR)
    if own:
        own["s"] = step
    return step


def _by_hour(times: tuple[int, ...]) -> dict[int, list[int]]:
    """Return the row numbers of each hour."""
    first, last = (times[0] - 1) // HOUR, (times[-1] - 1) // HOUR
    if first == last and (len(times) < 3 or min(times) >= times[0] and max(times) <= times[-1]):
        return {first: list(range(len(times)))}
    found: dict[int, list[int]] = {}
    for i, t in enumerate(times):
        found.setdefault((t - 1) // HOUR, []).append(i)
    return found

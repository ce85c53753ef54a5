"""Car parks counted at their gates. Gates report on their own, so the order between their frames is chance; what counts is row time.

The count is a sum, which needs no order, and it is kept as it is; what is published lies within 0..capacity. That the sum is impossible is
drift only when it is certain: every gate has reported past that time, and no order of the cars within overlapping rows makes it possible.
A row of a gate's time that was counted is not counted again. A late row takes back the drift that it explains.
At `reset_hour` the sum becomes reset_to; the difference is drift, and rows from before that come later only change how much it was.

note "<area>/count": n: cars, from all rows that are settled. w: [[t, begin, in, out]] of rows that are not. g: {node: [newest row, interval, runs, row length, last step]}.
s: settled up to. t: newest row. f: begin of the first. z: newest reset, y: the one before. drift. c: [[t, amount]] of the newest corrections. b: body published last.
o: {node: [epoch, counter] of the frame that was sealed last}.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from datetime import timedelta
from itertools import accumulate, pairwise
from typing import Any

from gateway.core.aggregates.areas import AreaSpec, key_of, tell
from gateway.core.aggregates.calendar import Calendar
from gateway.core.aggregates.cells import HOUR, cover
from gateway.core.city import Turn
from gateway.core.model import Event

PATIENCE_INTERVALS, PATIENCE_LEAST_S = 3, 900  # how far behind the others a gate may be before nobody waits for it
MOST_WAITING = 512  # rows; a gate that is heard with older ones is not waited for
MOST_RUNS = 128  # of a gate's counted time; beyond that the oldest are forgotten: better a car twice than cars lost
KEEP_S = 2 * 86_400  # rows further behind the newest are not counted: nothing says any more whether they were
CORRECTIONS = 8
FUTURE_S = 300
CROSSING_S = 5

Row = list[int]  # t, begin, in, out


class Counters:
    """A Collector of City."""

    def __init__(self, specs: Sequence[AreaSpec], calendar: Calendar) -> None:
        self._calendar = calendar
        self._of: dict[str, list[AreaSpec]] = {}
        for spec in specs:
            for node in gates_of(spec):
                self._of.setdefault(node, []).append(spec)

    def forget(self) -> None:
        return None

    def review(self, turn: Turn) -> None:
        """Nothing: what passed a gate has passed it, and the next row is counted by the configuration as it is then."""

    def follow(self, turn: Turn, event: Event) -> None:
        if event.kind != "report":
            return
        name = turn.subject.name
        for spec in self._of.get(name, ()):
            state: dict[str, Any] = turn.look(key_of(spec, "count")) or {}
            if not state:
                state = {"n": spec.reset_to, "t": 0, "z": 0, "drift": 0}
            # the clock was set back: what is marked would last until that time
            if state["t"] > event.received + FUTURE_S + CROSSING_S and _is_last(state, name, event):
                cars = state["n"] + sum(r[2] - r[3] for r in state.get("w", ()))
                state = {"n": cars, "drift": state["drift"], "t": 0, "z": 0, "o": state.get("o", {})}
            for key, empty in (("w", []), ("g", {}), ("c", [])):
                state.setdefault(key, empty)
            gate = state["g"].setdefault(name, [0, turn.subject.interval_s, [], 1, 0])
            gate[1] = turn.subject.interval_s
            if _is_last(state, name, event):
                state["o"] = {**state.get("o", {}), name: [event.epoch, event.counter]}
            rows = _passages(spec, name, event, gate)
            if not rows:
                continue
            state.setdefault("f", min(rows[0][1], state["t"] or rows[0][1]))
            late = 0
            for row in rows:
                late += not self._take(spec, state, gate, row)
            if late:
                turn.refuse("late_for_aggregates", late)
            gate[0] = max(gate[0], rows[-1][0])
            _settle(spec, state)
            body = _body(spec, state)
            if body != state.get("b"):
                state["b"] = body
                tell(turn, spec, "lot", state["t"], body)
            turn.keep(key_of(spec, "count"), state)

    def _take(self, spec: AreaSpec, state: dict[str, Any], gate: list[Any], row: Row) -> bool:
        """Add a row; False when it is too old to know whether it was counted."""
        t, begin, came, went = row
        if t < state["t"] - KEEP_S:
            return False
        if not cover(gate[2], t - gate[3], t):
            return True  # these seconds of this gate are counted already
        del gate[2][: -2 * MOST_RUNS]
        if t > state["z"]:
            self._reset(spec, state, t)
        if t <= state["z"]:
            if t > state.get("y", 0):  # the reset found a sum without this row
                state["drift"] -= came - went
            return True
        state["t"] = max(state["t"], t)
        if not came and not went:
            return True
        if t <= state.get("s", 0):
            _late(state, begin, came - went)
        else:
            state["w"].append(row)
        return True

    def _reset(self, spec: AreaSpec, state: dict[str, Any], t: int) -> None:
        """Set the count if a quiet hour lies between the newest reset and this row."""
        if spec.reset_hour is None:
            return
        local = self._calendar.local(t).replace(minute=0, second=0, microsecond=0, tzinfo=None)
        quiet = self._calendar.hour(local.replace(hour=spec.reset_hour)) * HOUR
        if quiet >= t:
            quiet = self._calendar.hour(local.replace(hour=spec.reset_hour) - timedelta(days=1)) * HOUR
        if state["z"] >= quiet:
            return
        if state["t"]:
            before = [r for r in state["w"] if r[0] <= quiet]
            state["w"] = [r for r in state["w"] if r[0] > quiet]
            state["drift"] += spec.reset_to - state["n"] - sum(r[2] - r[3] for r in before)
            state["n"] = spec.reset_to
        state["y"], state["z"], state["s"], state["c"] = state["z"], quiet, max(state.get("s", 0), quiet), []


def _is_last(state: dict[str, Any], name: str, event: Event) -> bool:
    """True when no frame of the gate that was sealed later was counted: an older one's receipt may be of long ago."""
    return [event.epoch, event.counter] > state.get("o", {}).get(name, [-1, 0])


def gates_of(spec: AreaSpec) -> tuple[str, ...]:
    """Return the names of the nodes at a car park's gates, each once."""
    return tuple(dict.fromkeys(node for node, _ in (*spec.entries, *spec.exits)))


def _passages(spec: AreaSpec, node: str, event: Event, gate: list[Any]) -> list[Row]:
    """Return the rows of an event that say what passed, quiet ones among them, in order of time; cars of one time in one row."""
    found: dict[int, list[int]] = {}
    future = int(event.received) + FUTURE_S
    for column in event.columns:
        passage = (node, column.key)
        way = 0 if passage in spec.entries else 1 if passage in spec.exits else None
        if way is None:
            continue
        for i, v in enumerate(column.values):
            if v is not None and v >= 0 and i not in column.suspect and event.times[i] <= future:
                found.setdefault(event.times[i], [0, 0])[way] += int(v)
    times = sorted(found)
    if event.occurrences:
        gate[3] = 1
        return [[t, t - 1, *found[t]] for t in times]
    longest = _length(times, gate)
    rows: list[Row] = []
    for i, t in enumerate(times):
        before = times[i - 1] if i else gate[0]
        rows.append([t, max(before, t - longest) if before < t else t - longest, *found[t]])
    return rows


def _length(times: Sequence[int], gate: list[Any]) -> int:
    """Return how long a row is at most, and note in gate[3] how long it is for certain: a second until two rows say so."""
    interval = gate[1]
    if len(times) > 1:
        gate[3] = min(*(b - a for a, b in pairwise(times)), interval)
        return gate[3]
    since = times[0] - gate[0] if times else 0
    if not 0 < since <= interval:
        return interval
    if since == gate[4]:  # twice the same: a grid, and no frame that was missing in between
        gate[3] = since
    gate[4] = since
    return since


def _late(state: dict[str, Any], begin: int, change: int) -> None:
    """Add a row from before what is settled; what was corrected since because it was missing, is no drift."""
    for correction in state["c"]:
        if correction[0] > begin and change * correction[1] > 0:
            back = min(abs(change), abs(correction[1])) * (1 if change > 0 else -1)
            correction[1] -= back
            change -= back
            state["drift"] -= back
    state["c"] = [x for x in state["c"] if x[1]]
    state["n"] += change


def _horizon(spec: AreaSpec, state: dict[str, Any]) -> int:
    """Return up to when every gate has reported; one that is far behind the others is not waited for."""
    newest, least = state["t"], None
    default = max((g[1] for g in state["g"].values()), default=0)
    first = state["f"]  # a gate that was never heard may have something to say of what was first
    for node in gates_of(spec):
        t, interval = state["g"].get(node, (first, default))[:2]
        if newest - t <= max(PATIENCE_INTERVALS * interval, PATIENCE_LEAST_S):
            least = t if least is None else min(least, t)
    waiting = state["w"]
    if len(waiting) > MOST_WAITING:
        least = max(least or 0, sorted(r[0] for r in waiting)[-MOST_WAITING])
    return newest if least is None else least


def _settle(spec: AreaSpec, state: dict[str, Any]) -> None:
    """Take the rows up to the horizon into the count, and correct it where no order of the cars makes it possible."""
    until = max(_horizon(spec, state), state.get("s", 0))
    rows = sorted(state["w"])
    begins, ends = sorted(r[1] for r in rows), [r[0] for r in rows]
    by_begin = sorted(rows, key=lambda r: r[1])
    came_ended, went_ended = _sums(r[2] for r in rows), _sums(r[3] for r in rows)
    came_begun, went_begun = _sums(r[2] for r in by_begin), _sums(r[3] for r in by_begin)
    for t in dict.fromkeys((*(e for e in ends if e <= until), until)):
        ended, begun = bisect_right(ends, t), bisect_left(begins, t)
        most = state["n"] + came_begun[begun] - went_ended[ended]
        least = state["n"] + came_ended[ended] - went_begun[begun]
        amount = -most if most < 0 else spec.capacity - least if least > spec.capacity else 0
        if amount:
            state["n"] += amount
            state["drift"] += amount
            _correct(state["c"], t, amount)
    state["n"] += sum(r[2] - r[3] for r in rows if r[0] <= until)
    state["w"] = [r for r in rows if r[0] > until]
    state["s"] = until


def _correct(corrections: list[list[int]], t: int, amount: int) -> None:
    """Note a correction, of one time in one entry; the oldest two become one when there are too many."""
    if corrections and corrections[-1][0] == t:
        corrections[-1][1] += amount
    else:
        corrections.append([t, amount])
    if len(corrections) > CORRECTIONS:
        corrections[1][1] += corrections.pop(0)[1]


def _sums(values: Iterable[int]) -> list[int]:
    return list(accumulate(values, initial=0))


def _body(spec: AreaSpec, state: dict[str, Any]) -> dict[str, Any]:
    cars = state["n"] + sum(r[2] - r[3] for r in state["w"])
    occupied = min(max(cars, 0), spec.capacity)
    return {
        "capacity": spec.capacity, "occupied": occupied, "free": spec.capacity - occupied, "unknown": 0, "drift": state["drift"],
    }  # fmt: skip

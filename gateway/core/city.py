"""The follower that does it all: aggregates, faults, rules and areas, one after the other, on one state per node.

A state is one note ("city:<subject>", msgpack), written when it changed and read when it is needed; at most CACHE of them are held in
memory, so that 25,000 nodes cost no more than their deadlines. A subject is a node ("<number>") or an area ("@<name>").
After a start, and after the clock was set by STEP_S or more, nothing is concluded from the clock for `settle_s`: what waited elsewhere while the gateway was away comes first.

An alarm that is up is noted with the circle it was raised in (core/raised.py), whichever stage raised it. After a start or a reload every
subject is reviewed once, REVIEWS a tick: alarms of rules, areas and nodes that the configuration no longer has are cleared under the
name and circle they were raised in, alarms of a subject whose name or circle is another one are cleared there and raised here. The note
"city:known" lists the subjects of the last configuration, so that one that was taken out while the gateway was down is noticed too.

A state belongs to a device: name and keys are noted with it ("who"), and under another name with a key that it never had the number is
another device's, of which nothing is known; so store/ledger_registry.py tells them apart. A node that is shown to more than before keeps what was measured until
then in the circle of then.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from gateway.core.follow import Follow
from gateway.core.model import PERSONAL, Alarm, Area, Event, Node, fingerprint
from gateway.core.raised import Raised, clearing, raising
from gateway.core.registry import VISIBILITIES, strictest
from gateway.core.value import replace

CACHE = 1024
CHECKS = 200  # subjects looked at in one tick: bounds how long a tick takes
REVIEWS = 200  # subjects compared with the configuration in one tick
UP = "up"  # key of the alarms that are up in a subject's state
WHO = "who"  # key of whose state it is: [name ("" once it has left), fingerprints of its keys, circle, [[until, narrower circle], ...]]
MAX_KNOWN = 8  # keys and narrower circles of a device that are remembered
SPREAD_S = 600.0  # after a start every subject is looked at once, over this time
STEP_S = 60.0  # the clock was set: presences and stays by the other time are worth nothing

State = dict[str, Any]
encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(strict=False).decode


@dataclass(frozen=True, slots=True)
class Subject:
    """What a rule can be about: a node, or an area (node None). areas: those that a node belongs to."""

    key: str
    name: str
    profile: str
    visibility: str
    interval_s: int
    areas: frozenset[str] = frozenset()
    node: Node | None = None


class Turn:
    """One event or one look at the clock: what it makes, and access to the notes. `changed` asks for the state to be kept.

    up: the subject's alarms that are up, rule -> core.raised.Raised as a list. origin: begins the ids of what the clock makes.
    before: [until (Unix s), index of a circle] of when the subject was shown to fewer than now.
    """

    __slots__ = ("before", "subject", "now", "cause", "changed", "events", "notes", "refused", "up", "origin", "_read")

    def __init__(
        self, subject: Subject, now: float, cause: Event | None, read: Mapping[str, bytes], origin: str = ""
    ) -> None:
        self.subject, self.now, self.cause, self._read = subject, now, cause, read
        self.origin = origin or subject.key
        self.up: dict[str, list[Any]] = {}
        self.before: list[list[int]] = []
        self.changed = False
        self.events: list[Event] = []
        self.notes: dict[str, bytes | None] = {}
        self.refused: dict[str, int] = {}

    def look(self, key: str) -> Any:
        """Return a note's content, None when there is none."""
        body = self.notes[key] if key in self.notes else self._read.get(key)
        return None if body is None else decode(body)

    def keep(self, key: str, content: Any) -> None:
        """Note a content, None to remove it."""
        self.notes[key] = None if content is None else encode(content)

    def seen(self, visibility: str, since: int) -> str:
        """Return the circle of what was measured since then: no wider than that of the subject was meanwhile."""
        return strictest(visibility, *(VISIBILITIES[circle] for until, circle in self.before if since <= until))

    def refuse(self, reason: str, n: int) -> None:
        """Count rows that nothing can follow from."""
        self.refused[reason] = self.refused.get(reason, 0) + n

    def tell(self, kind: str, what: str, visibility: str | None = None, name: str | None = None, **fields: Any) -> None:
        """Add an event: "<node>:<epoch>:<counter>:city:<what>" when a frame caused it, "<subject>:<what>:<unix>" when the clock did.

        name: who it is about, when that is no longer the subject's own name. What an area's rules make has `what` begin with the area, because
        one frame may move several areas.
        """
        s, cause = self.subject, self.cause
        is_area = s.key.startswith("@")
        number = 0 if is_area else int(s.key)
        seen, called = visibility or s.visibility, name or s.name
        if is_area:
            what = f"{s.name}:{what}"
            fields.setdefault("area", Area(called, "", int(self.now), {}))
        ident = f"{cause.id}:city:{what}" if cause is not None else f"{self.origin}:{what}:{int(self.now)}"
        if any(e.id == ident for e in self.events):
            ident += f":{len(self.events)}"
        if cause is None:
            self.events.append(Event(kind, ident, number, called, seen, self.now, s.interval_s, **fields))
            return
        self.events.append(
            Event(kind, ident, number, called, seen, cause.received, s.interval_s, cause.counter, cause.epoch,
                  cause.link, cause.receiver, **fields)
        )  # fmt: skip

    def alarm(self, rule: str, alarm: Alarm, visibility: str | None = None) -> None:
        """Add an alarm of a rule, and remember what is up and for whom. A clear goes where its raise went, whatever is true by now."""
        alarm = replace(alarm, rules=(rule,))
        if alarm.state != "cleared":
            if self.before:
                visibility = self.seen(visibility or self.subject.visibility, alarm.since)
                if rule in self.up:
                    visibility = strictest(visibility, Raised(*self.up[rule]).visibility)
            self.up[rule] = Raised.of(self.subject, visibility or self.subject.visibility, alarm).kept()
            self.changed = True
            self.tell("alarm", rule, visibility, alarm=alarm)
            return
        kept = self.up.pop(rule, None)
        if kept is None:  # raised before alarms were remembered
            self.tell("alarm", rule, visibility, alarm=alarm)
            return
        self.changed = True
        raised = Raised(*kept)
        self.tell("alarm", rule, raised.visibility, raised.name, alarm=clearing(raised, alarm))

    def drop(self, rule: str) -> None:
        """Clear an alarm that nothing can end any more, because what raised it is gone."""
        raised = Raised(*self.up[rule])
        self.alarm(rule, Alarm("cleared", "cleared", raised.severity, raised.quantity, raised.unit, None, None,
                               max(int(self.now), raised.t), raised.since))  # fmt: skip

    def move(self, rule: str, visibility: str) -> None:
        """Clear an alarm where it was raised and raise it in the subject's present circle, if that is another one."""
        raised = Raised(*self.up[rule])
        visibility = self.seen(visibility, raised.since)
        if raised.is_in(self.subject, visibility):
            return
        self.drop(rule)
        self.alarm(rule, raising(raised, max(int(self.now), raised.t)), visibility)


class Stage(Protocol):
    """One kind of consequence. `own` is its part of the subject's state: change it and set turn.changed. Pure but for its own memory."""

    name: str

    def follow(self, turn: Turn, event: Event, own: State) -> None:
        """Take an event of the subject: a node's own, or what an earlier stage has made of it."""
        ...

    def due(self, turn: Turn, own: State) -> float | None:
        """Return when to look at the subject again if nothing happens, None for never."""
        ...

    def tick(self, turn: Turn, own: State) -> None:
        """Do what is due for the subject at turn.now."""
        ...

    def review(self, turn: Turn, own: State) -> None:
        """The configuration may be another one than when `own` was noted: drop or move each alarm of this stage in turn.up."""
        ...

    def leave(self, turn: Turn, own: State) -> None:
        """The subject has left the configuration and its alarms are cleared: forget what they hang on."""
        ...

    def end(self, turn: Turn, own: State) -> None:
        """The number is another device's from now on and the alarms of the one before are cleared: remove the notes beside `own`."""
        ...

    def replan(self, turn: Turn, own: State) -> None:
        """What is made is another than before (City.plan): say what is over."""
        ...

    def forget(self) -> None:
        """A commit failed, or a start: what is in memory beside `own` counts no more."""
        ...


class Collector(Protocol):
    """Gathers what happens at nodes into areas: state of its own in notes, returns area events to be told."""

    def follow(self, turn: Turn, event: Event) -> None: ...

    def review(self, turn: Turn) -> None:
        """The configuration may be another one than when the notes of an area, turn.subject, were made: tell what is true by this one."""
        ...

    def forget(self) -> None: ...


@dataclass
class City:
    """A Follower. nodes: number -> node; areas: their subjects by name. settle_s: see the module.

    whole: False while the configuration may lack some of what it had: what is up stays, whatever the configuration says of it.
    plan: what is aggregated; when it is another than the one noted ("city:plan"), every subject is held against it once.
    """

    nodes: Mapping[int, Node]
    stages: Sequence[Stage]
    collectors: Sequence[Collector] = ()
    areas: Mapping[str, Subject] = field(default_factory=dict)
    belongs: Mapping[str, frozenset[str]] = field(default_factory=dict)
    settle_s: float = 900.0
    name: str = "city"
    whole: bool = True
    plan: str = ""

    def __post_init__(self) -> None:
        self._notes: Mapping[str, bytes] = {}
        self._subjects: dict[str, Subject] = {}
        self._states: OrderedDict[str, State] = OrderedDict()
        self._mine: dict[str, Subject] = {}  # subjects whose state is known to be theirs
        self._when: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._from: float | None = None
        self._anew = False
        self._now = float("-inf")  # of the last tick
        self._to_review: deque[str] | None = None  # None: not begun
        self._gone: set[str] = set()
        self._replans = False
        self._reviewed: set[str] = set()  # with alarms up, and as the configuration wants them

    def load(self, notes: Mapping[str, bytes]) -> None:
        self._notes = notes
        self._states.clear()
        self._mine.clear()
        self._to_review = None
        self._reviewed.clear()
        for part in (*self.stages, *self.collectors):
            part.forget()

    def follow(self, node: Node, event: Event) -> Follow:
        turn = Turn(self._subject_of(node), event.received, event, self._notes)
        self._begin(turn.notes)  # whatever is raised, its subject is listed
        self._take(turn, event)
        return self._end(turn)

    def stepped(self, seconds: float) -> None:
        """The clock was set: it ends no settling, and one that was set by more than rows may be off begins it anew, since what came
        before under the other time is not all there is (a box without a clock starts hours behind)."""
        if abs(seconds) >= STEP_S:
            self._anew = True
        elif self._from is not None and seconds > 0:
            self._from += seconds

    def tick(self, now: float) -> Follow:
        if self._from is None:
            self._start(now)
        assert self._from is not None
        if now < self._now:  # the clock was set back: nothing is due later than it was
            self._earlier(self._now - now)
        if self._anew:
            self._anew, self._from = False, now + self.settle_s
        self._now = now
        notes: dict[str, bytes | None] = {}
        events: list[Event] = []
        refused: dict[str, int] = {}
        self._reviews(now, notes, events)
        if now < self._from:
            return Follow(tuple(events), notes)
        looked = 0
        while self._heap and self._heap[0][0] <= now and looked < CHECKS:
            due, key = heapq.heappop(self._heap)
            if self._when.get(key) != due:
                continue
            looked += 1
            del self._when[key]
            subject = self._subject(key)
            if subject is None:
                continue
            view = _Over(notes, self._notes)
            turn = Turn(subject, now, None, view)
            state = self._state(turn)
            self._review(turn, state)
            for stage in self.stages:
                stage.tick(turn, state.setdefault(stage.name, {}))
            self._spread(turn, list(turn.events), state)
            self._keep(turn, state)
            self._again(turn, state)
            told = self._end(turn)
            notes.update(told.notes)
            events += told.events
            refused.update(told.refused)
        return Follow(tuple(events), notes, refused)

    # inside

    def _start(self, now: float) -> None:
        self._from = now + self.settle_s
        keys = [*map(str, self.nodes), *(a.key for a in self.areas.values())]
        for i, key in enumerate(keys):
            self._schedule(key, self._from + SPREAD_S * i / len(keys))

    def _earlier(self, seconds: float) -> None:
        assert self._from is not None
        self._from -= seconds
        self._when = {key: due - seconds for key, due in self._when.items()}
        self._heap = [(due, key) for key, due in self._when.items()]
        heapq.heapify(self._heap)

    def _begin(self, notes: dict[str, bytes | None]) -> deque[str]:
        """Return the subjects that are to be reviewed; the first time after a load, find them."""
        if self._to_review is None:
            known = self._known()
            here = {*map(str, self.nodes), *(a.key for a in self.areas.values())}
            self._gone = known - here
            self._to_review = deque((*sorted(self._gone), *sorted(here)))
            noted = self._notes.get(f"{self.name}:plan") if known or self.plan else None
            self._replans = ("" if noted is None else decode(noted)) != self.plan
            if known != here:
                # those that have gone stay listed until their alarms are cleared
                self._list(known | here, notes)
        return self._to_review if self.whole else deque()

    def _reviews(self, now: float, notes: dict[str, bytes | None], events: list[Event]) -> None:
        """Compare some subjects with the configuration, those that have left it among them."""
        to_review = self._begin(notes)
        for _ in range(min(REVIEWS, len(to_review))):
            key = to_review.popleft()
            state = self._states.get(key)
            if state is None:
                body = notes.get(f"{self.name}:{key}") or self._notes.get(f"{self.name}:{key}")
                state = decode(body) if body is not None else {}
            if state:
                subject = self._subject(key) or self._former(key, state)
                turn = Turn(subject, now, None, _Over(notes, self._notes))
                state = self._state(turn)
                if key in self._gone:
                    self._leave(turn, state)
                    if turn.subject.node is None and state.get(WHO, [""])[0]:
                        state[WHO][0], turn.changed = "", True
                else:
                    self._review(turn, state)
                    self._replan(turn, state)
                self._keep(turn, state)
                self._again(turn, state)
                notes.update(turn.notes)
                events += turn.events
            if key.startswith("@") and key not in self._gone:
                self._gather(key, now, notes, events)
            if self._gone and not to_review:  # all of them are reviewed
                self._list({*map(str, self.nodes), *(a.key for a in self.areas.values())}, notes)
            if self._replans and not to_review:
                notes[f"{self.name}:plan"] = encode(self.plan)
                self._replans = False

    def _replan(self, turn: Turn, state: State) -> None:
        if self._replans:
            for stage in self.stages:
                if stage.name in state:
                    stage.replan(turn, state[stage.name])

    def _former(self, key: str, state: State) -> Subject:
        return _gone(key, state)

    def _gather(self, key: str, now: float, notes: dict[str, bytes | None], events: list[Event]) -> None:
        """Let the collectors compare an area with the configuration: who has left it is counted no more."""
        turn = Turn(self.areas[key[1:]], now, None, _Over(notes, self._notes))
        for collector in self.collectors:
            collector.review(turn)
        for told in list(turn.events):
            self._at_area(turn, told)
        notes.update(turn.notes)
        events += turn.events

    def _known(self) -> set[str]:
        body = self._notes.get(f"{self.name}:known")
        return set(decode(body)) if body is not None else set()

    def _list(self, keys: set[str], notes: dict[str, bytes | None]) -> None:
        notes[f"{self.name}:known"] = encode(sorted(keys))

    def _review(self, turn: Turn, state: State) -> None:
        """Hold a subject's alarms against the configuration, once per configuration."""
        if not self.whole or turn.subject.key in self._reviewed:
            return
        if turn.up or state.get("rules"):
            self._reviewed.add(turn.subject.key)
            for stage in self.stages:
                stage.review(turn, state.setdefault(stage.name, {}))

    def _leave(self, turn: Turn, state: State) -> None:
        """The subject is in the configuration no more: its alarms end; what its hours were stays, for it may come back."""
        for rule in list(turn.up):
            turn.drop(rule)
        for stage in self.stages:
            stage.leave(turn, state.setdefault(stage.name, {}))

    def _take(self, turn: Turn, event: Event) -> None:
        state = self._state(turn)
        self._review(turn, state)
        said = len(turn.events)
        for stage in self.stages:
            own = state.get(stage.name)
            if own is None:
                own = state[stage.name] = {}
            stage.follow(turn, event, own)
        self._spread(turn, turn.events[said:], state, event)
        self._keep(turn, state)
        self._again(turn, state)

    def _spread(self, turn: Turn, made: list[Event], state: State, event: Event | None = None) -> None:
        """Let every stage see the aggregates just made, and the collectors all that happened at a node."""
        for new in made:
            if new.kind == "aggregate":
                for stage in self.stages:
                    stage.follow(turn, new, state.setdefault(stage.name, {}))
        if turn.subject.node is None or not self.belongs.get(turn.subject.name):
            return
        for happened in (*(() if event is None else (event,)), *made):
            for collector in self.collectors:
                said = len(turn.events)
                collector.follow(turn, happened)
                for told in turn.events[said:]:
                    self._at_area(turn, told)

    def _at_area(self, turn: Turn, told: Event) -> None:
        """An area's rules look at what was gathered about it."""
        assert told.area is not None
        subject = self.areas[told.area.area]
        inner = Turn(subject, turn.now, turn.cause, _Over(turn.notes, self._notes), turn.origin)
        self._take(inner, told)
        turn.events += inner.events
        turn.notes.update(inner.notes)

    def _end(self, turn: Turn) -> Follow:
        return Follow(tuple(turn.events), turn.notes, turn.refused)

    def _subject_of(self, node: Node) -> Subject:
        subject = self._subjects.get(str(node.id))
        if subject is None or subject.node is not node:
            subject = Subject(
                str(node.id), node.name, node.profile, node.visibility, node.interval_s,
                self.belongs.get(node.name, frozenset()) | frozenset(node.area), node,
            )  # fmt: skip
            self._subjects[subject.key] = subject
        return subject

    def _subject(self, key: str) -> Subject | None:
        if key.startswith("@"):
            return self.areas.get(key[1:])
        node = self.nodes.get(int(key))
        return None if node is None else self._subject_of(node)

    def _state(self, turn: Turn) -> State:
        key = turn.subject.key
        state = self._states.get(key)
        if state is None:
            state = turn.look(f"{self.name}:{key}") or {}
            self._states[key] = state
            if len(self._states) > CACHE:
                self._states.popitem(last=False)
        else:
            self._states.move_to_end(key)
        turn.up = state.setdefault(UP, {})
        if turn.subject.node is not None:
            if self._mine.get(key) is not turn.subject:
                self._whose(turn, state, turn.subject.node)
                self._mine[key] = turn.subject
            turn.before = state[WHO][3]
        return state

    def _whose(self, turn: Turn, state: State, node: Node) -> None:
        """Look whether a state is of the device that has the number now, and who may see what was measured before."""
        keys = [fingerprint(key) for key in (node.key, node.next_key) if key is not None]
        circle = VISIBILITIES.index(node.visibility)
        who = state.get(WHO)
        if who is not None and who[0] != node.name and not set(keys) & set(who[1]):
            for rule in list(turn.up):
                turn.drop(rule)
            for stage in self.stages:
                stage.end(turn, state.get(stage.name) or {})
            state.clear()
            turn.up = state.setdefault(UP, {})
            turn.changed, who = True, None
        if who is None:
            state[WHO] = [node.name, keys, circle, []]
            return
        known, before = [key for key in who[1] if key not in keys], who[3]
        if circle < who[2]:
            newest = (state.get("agg") or {}).get("t", 0)  # of a node whose clock is ahead
            before = [*before, [max(int(turn.now), newest), who[2]]]
            if len(before) > MAX_KNOWN:  # the two oldest become one
                a, b, *rest = before
                before = [[b[0], max(a[1], b[1])], *rest]
        now = [node.name, [*known, *keys][-MAX_KNOWN:], circle, before]
        if now != who:
            state[WHO], turn.changed = now, True

    def _keep(self, turn: Turn, state: State) -> None:
        if turn.changed:
            kept = {name: own for name, own in state.items() if own}
            turn.keep(f"{self.name}:{turn.subject.key}", None if kept.keys() <= {WHO} else kept)

    def _again(self, turn: Turn, state: State) -> None:
        for stage in self.stages:
            due = stage.due(turn, state.get(stage.name) or {})
            if due is not None:
                self._schedule(turn.subject.key, due)

    def _schedule(self, key: str, due: float) -> None:
        if self._from is not None:
            due = max(due, self._from)
        if due < self._when.get(key, float("inf")):
            self._when[key] = due
            heapq.heappush(self._heap, (due, key))


def _gone(key: str, state: State) -> Subject:
    """Return a subject that is in the configuration no more, as far as its alarms say what it was."""
    kept = next(iter((state.get(UP) or {}).values()), None)
    name, profile, visibility = (kept[0], kept[1], kept[3]) if kept is not None else (key, "", PERSONAL)
    return Subject(key, name, profile, visibility, 0)


class _Over(Mapping[str, bytes]):
    """Notes made in this turn over those of before."""

    def __init__(self, over: Mapping[str, bytes | None], under: Mapping[str, bytes]) -> None:
        self._over, self._under = over, under

    def __getitem__(self, key: str) -> bytes:
        body = self._over[key] if key in self._over else self._under.get(key)
        if body is None:
            raise KeyError(key)
        return body

    def __iter__(self) -> Any:
        return iter({**dict.fromkeys(self._under), **self._over})

    def __len__(self) -> int:
        return len({**dict.fromkeys(self._under), **self._over})

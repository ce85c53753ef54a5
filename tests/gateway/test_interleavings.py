"""Whatever way a node's frames take, what is current in the end is what it would be had they come in order."""

from __future__ import annotations

from typing import Any

import cbor2
from hypothesis import given, settings
from hypothesis import strategies as st
from motewire import frame

from gateway.core.model import NodeState
from gateway.core.value import replace
from tests.gateway.test_decide import KEY, NODE, take
from tests.gateway.world import T0, Mote

NOW = T0 + 100_000
QUANTITIES = (5, 6)
TIMES = st.integers(T0, NOW) | st.sampled_from(
    [NOW + 301, NOW + 10**7, T0 - 10**8]
)  # any clock a node may have had meanwhile
ALARMS = st.tuples(st.just(frame.ALARM), st.sampled_from([1, 2, 3, 4, 5]), TIMES, st.sampled_from(QUANTITIES))
STATUSES = st.tuples(
    st.just(frame.STATUS),
    st.fixed_dictionaries(
        {},
        optional={
            1: st.integers(0, 99), 3: st.integers(0, 9), 5: st.sampled_from(["0.1", "0.2"]), 11: st.just([6]), 12: st.integers(300, 400),
            4: st.dictionaries(st.sampled_from([200, 201]), st.sampled_from([[1], [6, 1]]), min_size=1),
        },
    ),
)  # fmt: skip
REPORTS = st.tuples(st.just(frame.REPORT), TIMES, st.sampled_from([[5], [6], [5, 6]]))
FRAMES = st.lists(ALARMS | STATUSES | REPORTS, min_size=2, max_size=9)


def sealed(m: Mote, kind: int, *content: Any) -> bytes:
    if kind == frame.ALARM:
        code, t, quantity = content
        return m.seal(kind, cbor2.dumps([code, t, quantity, 7]))
    if kind == frame.STATUS:
        return m.seal(kind, cbor2.dumps(content[0], canonical=True))
    t, ids = content
    return m.seal(kind, cbor2.dumps([ids, t, 60, [1] * len(ids)]))


def current(state: NodeState) -> Any:
    """What an operator is shown: alarms that are up, newest values, what the node said of itself."""
    return (
        {rule: (a.t, a.counter) for rule, a in state.alarms.items()}, state.latest, state.boots, state.firmware, state.schemas, state.said,
        {q: counter for q, (_, counter) in state.marks.items()}, sorted(state.ids), state.online,
    )  # fmt: skip


def after(frames: list[bytes]) -> tuple[NodeState, dict[str, Any]]:
    state, values = NodeState(), {}
    for data in frames:
        d = take(state, data, NOW)
        state = d.state
        assert d.event is not None
        values.update(d.event.current_status)
    return state, values


@settings(max_examples=300, deadline=None)
@given(FRAMES, st.data())
def test_any_interleaving_ends_in_the_same_current_state(contents: list[tuple[Any, ...]], data: st.DataObject) -> None:
    m = Mote(263, KEY)
    frames = [sealed(m, *content) for content in contents]
    shuffled = data.draw(st.permutations(frames))
    repeated = data.draw(st.lists(st.sampled_from(frames), max_size=4))
    wanted, shown = after(frames)
    found, seen = after(list(shuffled))
    assert current(found) == current(wanted) and seen == shown
    for again in repeated:  # what comes twice changes nothing
        found = take(found, again, NOW).state
    assert current(found) == current(wanted)


@settings(max_examples=100, deadline=None)
@given(FRAMES, FRAMES, st.data())
def test_under_a_new_key_the_order_begins_anew(
    old: list[tuple[Any, ...]], new: list[tuple[Any, ...]], data: st.DataObject
) -> None:
    m, other = Mote(263, KEY), Mote(263, bytes(16), 1)
    state, _ = after([sealed(m, *content) for content in old])
    node = replace(NODE, key=bytes(16), epoch=1)
    frames = [sealed(other, *content) for content in new]
    ends = []
    for order in (frames, data.draw(st.permutations(frames))):
        s = state
        for item in order:
            s = take(s, item, NOW, node).state
        ends.append(current(s))
    assert ends[0] == ends[1]

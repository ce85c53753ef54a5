"""decide(): what gets in, what does not, and what is told (G3)."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from motewire import frame
from motewire.codes import STATUS_SCHEMA
from motewire.messages import Ack

from gateway.core.decide import decide, goes_offline, introduce, offline_at
from gateway.core.model import Decision, Node, NodeState, Radio, Reception, Refusal
from gateway.core.normalise import GAS_UG_M3_PER_PPB, columns_of
from gateway.core.receive import Header, parse
from gateway.core.replay import WINDOW, Replay
from gateway.core.report import Report
from gateway.core.value import replace
from gateway.crypto import opener
from tests.gateway.world import T0, Mote, report

ROWS = [[3, 5, 5, 231, 631, 121], [9, 9, 9, 231, 631, 120]]
KEY = bytes(range(16))
NODE = Node(263, "aq-01", KEY, interval_s=600)
RADIO = Radio(868_100_000, 7, 125_000, "4/5", 1)


def mote(counter: int = 0, **changes: object) -> Mote:
    return replace(Mote(263, KEY, 0, counter), **changes)  # type: ignore[arg-type]


def take(state: NodeState, data: bytes, received: float = T0 + 100, node: Node = NODE, wifi: bool = False) -> Decision:
    header = parse(data)
    assert isinstance(header, Header), header
    rx = Reception(data, received, "lora", "aa", -80, 7.0, None if wifi else RADIO)
    return decide(node, state, header, rx, opener)


def plain(m: Mote, t: int, ids: list[int], value: int = 1) -> bytes:
    """One row of an explicit list of quantities."""
    return m.seal(frame.REPORT, cbor2.dumps([ids, t, 60, [value] * len(ids)]))


def reason(d: Decision) -> str | None:
    return d.refusal.reason if d.refusal else None


def test_the_golden_frame_is_opened_with_the_counter_it_was_sealed_with() -> None:
    golden = bytes.fromhex("40010723452907ab6bd5df50c0820fc59a3c88bfb6ac0a08ca4eba9cdeebffeeb84e488632")
    d = take(NodeState(replay=Replay(next=0x12345, floor=0x12000)), golden, T0 + 200)
    assert d.event is not None and d.counter == 0x12345 and d.event.id == "263:0:74565"
    assert d.event.times == (T0, T0 + 60, T0 + 120) and d.event.columns[0].values == (3, 9, 3)
    assert [c.key for c in d.event.columns] == ["pm1", "pm25", "pm10", "temperature", "humidity", "pressure"]
    assert d.event.columns[5].values == (1012.1, 1012.0, 1012.0)


def test_a_report_is_told_once_and_its_repeat_is_answered_again() -> None:
    data = mote().report(T0, ROWS)
    first = take(NodeState(), data)
    assert first.event and first.event.kind == "report" and first.event.latest == tuple((c, 1) for c in range(6))
    again = take(first.state, data)
    assert again.event is None and reason(again) == "replayed"
    assert again.answer and again.answer.ack == {1: 2} and again.state.down == first.state.down + 1
    assert again.state.replay == first.state.replay


def test_who_is_answered_on_lora_and_on_wifi() -> None:
    m, state, answered = mote(), NodeState(), []
    for _ in range(8):
        d = take(state, m.report(T0, ROWS))
        state = d.state
        answered.append(d.answer is not None)
    assert answered == [False, False, False, True] * 2
    assert take(state, m.report(T0, ROWS), wifi=True).answer
    assert take(state, m.report(T0, ROWS, counter=30)).answer, "out of order"
    assert take(state, m.alarm(2, T0, 6, 181, 150)).answer
    status = take(state, m.status({1: 5}))
    assert status.answer and status.answer.with_time


def test_the_first_frames_after_a_boot_learn_the_time() -> None:
    d = take(NodeState(), mote(3).report(T0, ROWS, long=True))
    assert d.answer and d.answer.with_time


def test_another_key_another_node_another_epoch_and_a_changed_bit_are_refused() -> None:
    good = mote().report(T0, ROWS)
    assert reason(take(NodeState(), mote(key=bytes(16)).report(T0, ROWS))) == "bad_tag"
    assert reason(take(NodeState(), good, node=replace(NODE, id=264))) == "bad_tag"
    assert reason(take(NodeState(), good, node=replace(NODE, epoch=1))) == "wrong_epoch"
    assert reason(take(NodeState(), good, node=replace(NODE, epoch=4))) == "bad_tag"
    down = bytes((good[0] | 0x30,)) + good[1:]
    assert parse(down) == Refusal("wrong_direction", 263)


@given(st.data())
def test_no_bit_may_be_changed(data: st.DataObject) -> None:
    good = bytearray(mote().report(T0, ROWS))
    bit = data.draw(st.integers(0, 8 * len(good) - 1))
    good[bit >> 3] ^= 1 << (bit & 7)
    header = parse(bytes(good))
    if isinstance(header, Refusal) or header.node != 263:
        return
    assert take(NodeState(), bytes(good)).event is None


@given(st.binary(max_size=1200))
def test_any_bytes_are_refused_or_unknown(data: bytes) -> None:
    header = parse(data)
    if isinstance(header, Refusal):
        assert header.reason in ("too_short", "too_long", "bad_version", "garbage", "wrong_direction")
        assert header.keep == (header.reason == "bad_version")
    else:
        assert (
            decide(replace(NODE, id=header.node), NodeState(), header, Reception(data, T0, "l", "r"), opener).event
            is None
        )


@given(st.binary(min_size=16, max_size=16).filter(lambda key: key != KEY), st.integers(1, 60), st.booleans())
def test_another_key_under_a_used_epoch_is_refused_unanswered_and_one_under_a_higher_epoch_is_taken(
    key: bytes, counter: int, long: bool
) -> None:
    state = NodeState()
    m = mote()
    for _ in range(60):
        state = take(state, m.report(T0, ROWS)).state
    new = Mote(263, key, 0)
    d = take(state, new.report(T0, ROWS, counter=counter, long=long), node=replace(NODE, key=key))
    assert reason(d) == "key_changed" and d.answer is None and d.event is None and d.state == state
    risen = replace(NODE, key=key, epoch=1)
    d = take(state, replace(new, epoch=1).report(T0, ROWS, counter=counter, long=long), node=risen)
    assert d.event is not None and d.state.keys.keys() == {0, 1}
    back = take(d.state, new.report(T0, ROWS, counter=counter, long=long), node=replace(NODE, key=key))
    assert reason(back) == "key_changed", "an epoch that was left is used, too"


@given(st.integers(0, 7), st.integers(0, 7), st.integers(0, 7))
def test_an_epoch_below_one_that_was_left_is_refused_and_one_in_force_or_above_all_is_taken(
    first: int, second: int, third: int
) -> None:
    keys = [bytes([n]) * 16 for n in range(8)]
    first, second = sorted((first, second))
    state = NodeState()
    for epoch in (first, second):
        registered = replace(NODE, key=keys[epoch], epoch=epoch)
        state = take(state, Mote(263, keys[epoch], epoch).report(T0, ROWS, long=True), node=registered).state
    d = take(state, Mote(263, keys[third], third).report(T0, ROWS, counter=9, long=True),
             node=replace(NODE, key=keys[third], epoch=third))  # fmt: skip
    if third < second:
        assert reason(d) == "key_changed" and d.answer is None and d.event is None and d.state == state
    else:
        assert d.event is not None and d.state.epoch == third
    # one that a gateway of before has let in goes on
    lowered = replace(state, epoch=first)
    d = take(lowered, Mote(263, keys[first], first).report(T0, ROWS, counter=9, long=True),
             node=replace(NODE, key=keys[first], epoch=first))  # fmt: skip
    assert d.event is not None


def test_a_state_of_an_older_gateway_learns_its_key_from_the_first_authentic_frame() -> None:
    state = NodeState(replay=Replay(50))
    assert reason(take(state, Mote(263).report(T0, ROWS, counter=50))) == "bad_tag"
    d = take(state, mote().report(T0, ROWS, counter=50))
    assert d.state.keys.keys() == {0} and KEY not in d.state.keys.values() and len(d.state.keys[0]) == 8


def test_a_frame_from_below_the_floor_is_history_that_is_answered_and_changes_nothing_else() -> None:
    state = NodeState(replay=Replay(100_000, 100_000 - WINDOW), down=7, heard=T0 - 9.0).proven(0, KEY)
    counter = 100_000 - WINDOW - 1
    for data in (
        mote().report(T0, ROWS, counter=counter, long=True),
        mote().alarm(2, T0, 6, 181, 150, counter=counter, long=True),
        mote().status({1: 5, 3: 99}, counter=counter, long=True),
    ):
        d = take(state, data)
        assert reason(d) is None and d.event and d.event.counter == counter and d.event.latest == ()
        assert d.state == replace(state, down=8)
        assert d.answer and d.answer.counter == 8
        ack = Ack(dict(d.answer.ack))
        assert [c for c in range(counter - 100, 100_100) if ack.covers(c)] == [counter]
    assert take(state, mote().alarm(2, T0, 6, 181, 150, counter=counter, long=True)).event.alarm.state == "late"  # type: ignore[union-attr]


def test_a_backlog_behind_an_alarm_of_the_third_day_gets_in() -> None:
    m = mote(70_000)
    state = take(NodeState(replay=Replay(70_000, 60_000)), m.alarm(2, T0, 6, 181, 150, counter=70_900)).state
    for counter in range(70_001, 70_900):
        d = take(state, m.report(T0, ROWS, counter=counter))
        assert d.event is not None, reason(d)
        state = d.state
    assert state.replay.missing == ((70_000, 70_001),)


def test_a_new_epoch_starts_new_counters() -> None:
    state = NodeState(epoch=0, replay=Replay(500, 1), down=77)
    d = take(state, mote(epoch=1).report(T0, ROWS), node=replace(NODE, epoch=1))
    assert d.event and d.state.epoch == 1 and d.state.replay.next == 2


@pytest.mark.parametrize(
    ("payload", "why"), [(b"\x80", "malformed"), (bytes.fromhex("8518c81a6955b90008014100"), "unknown_schema")]
)
def test_an_authentic_frame_nobody_can_read_is_kept_and_takes_its_counter(payload: bytes, why: str) -> None:
    d = take(NodeState(), mote().seal(0, payload))
    assert reason(d) == why and d.refusal and d.refusal.keep
    assert d.event and d.event.kind == "opaque" and d.state.replay.next == 2


def test_late_rows_are_told_but_not_as_the_newest() -> None:
    m = mote()
    overtaken = m.report(T0 - 3600, ROWS)
    state = take(NodeState(), m.report(T0, ROWS)).state
    late = take(state, overtaken)
    assert late.event and late.event.latest == () and len(late.event.times) == 2
    mixed = take(late.state, m.report(T0 + 60, [[1, None, 1, 1, 1, 1], [2, None, 2, 2, 2, 2]]))
    assert mixed.event and mixed.event.latest == tuple((c, 1) for c in (0, 2, 3, 4, 5))


def test_values_out_of_range_and_times_in_the_future_are_suspect() -> None:
    d = take(NodeState(), mote().report(T0, [[3, 2000, 5, 900, 631, 121]]))
    assert d.event and [c.suspect for c in d.event.columns] == [(), (0,), (), (0,), (), ()]
    ahead = take(NodeState(), mote().report(T0 + 1000, ROWS), received=T0)
    assert ahead.event and all(c.suspect == (0, 1) for c in ahead.event.columns) and ahead.event.latest == ()


def test_rows_whose_time_the_node_estimated_are_suspect_and_still_delivered() -> None:
    m = mote()
    item = cbor2.loads(report(T0, ROWS))
    d = take(NodeState(), m.seal(0, cbor2.dumps([*item, {1: 1}])))
    assert d.event and all(c.suspect == (0, 1) for c in d.event.columns) and len(d.event.times) == 2
    other = take(NodeState(), mote().seal(0, cbor2.dumps([*item, {1: 0, 9: "x"}])))
    assert other.event and all(c.suspect == () for c in other.event.columns)


def test_gases_are_published_in_micrograms_at_293_kelvin() -> None:
    d = take(NodeState(), mote().report(T0, [[1, 2, 3, 20, 40, 231, 631, 121]], schema=8))
    assert d.event and d.event.columns[3].values == (38.26,) and d.event.columns[3].unit == "ug/m3"
    assert d.event.columns[4].values == (79.84,)
    litres = (
        8.314462618 * 293 / 101.3
    )  # of a mole, by the gas law; molar masses as IUPAC's standard atomic weights have them
    for key, grams in (("no2", 14.0067 + 2 * 15.9994), ("o3", 3 * 15.9994)):
        assert GAS_UG_M3_PER_PPB[key] == round(grams / litres, 4)


TOGGLES = next(
    v for v in json.loads((Path(__file__).parents[1] / "vectors" / "wire.json").read_text())["reports"] if "states" in v
)


def test_a_toggle_is_the_state_after_its_first_row_flipped_by_every_row() -> None:
    """WIRE.md section 5, and its golden vector."""
    m = mote()
    d = take(NodeState(), m.seal(0, bytes.fromhex(TOGGLES["hex"])), received=946_684_800 + TOGGLES["times"][-1] + 60)
    assert d.event and d.event.columns[0].key == "toggle"
    assert list(d.event.columns[0].values) == TOGGLES["states"] == [1, 0, 1] and d.event.columns[0].suspect == ()
    assert d.event.latest == ((0, 2),)


@pytest.mark.parametrize(
    ("cells", "states", "suspect"),
    [
        ([0], (0,), ()),
        ([1], (1,), ()),
        ([0, 0], (0, 1), ()),
        ([1, None, 1], (1, None, 1), ()),  # a missing cell flips, too
        ([None, 1, 1], (None, 0, 1), ()),
        ([1, 0, 1, 0], (1, 1, 1, 1), (1, 3)),  # states instead of flips: delivered, and marked
    ],
)
def test_a_column_that_is_no_toggle_is_marked(
    cells: list[int | None], states: tuple[int | None, ...], suspect: tuple[int, ...]
) -> None:
    report = Report((21,), tuple(T0 + 60 * i for i in range(len(cells))), (tuple(cells),), True)
    (column,) = columns_of(report, range(T0, T0 + 86_400))
    assert column.values == states and column.suspect == suspect
    (other,) = columns_of(replace(report, ids=(256 + 21,)), range(T0, T0 + 86_400))
    assert other.key == "toggle-1" and other.values == states


def test_alarms_rise_are_updated_and_clear_whatever_order_they_come_in() -> None:
    m = mote()
    up = take(NodeState(), m.alarm(2, T0, 6, 181, 150))
    assert up.event and up.event.alarm and up.event.alarm.state == "raised" and up.event.alarm.rules == ("pm10-above",)
    more = take(up.state, m.alarm(2, T0 + 60, 6, 200, 150))
    assert more.event and more.event.alarm and (more.event.alarm.state, more.event.alarm.since) == ("updated", T0)
    overtaken = m.alarm(2, T0 + 90, 6, 190, 150)
    end = take(more.state, m.alarm(1, T0 + 120, 6, 140, 150))
    assert (
        end.event
        and end.event.alarm
        and end.event.alarm.state == "cleared"
        and end.event.alarm.rules == ("pm10-above",)
    )
    assert end.state.alarms == {}
    late = take(end.state, overtaken)
    assert late.event and late.event.alarm and late.event.alarm.state == "late" and late.event.alarm.rules == ()
    assert late.state.alarms == {}


def test_metadata_follow_what_a_node_turns_out_to_measure() -> None:
    d = introduce(NODE, NodeState(), T0)
    assert d and d.event and d.event.meta and d.event.meta["quantities"] == {}
    assert introduce(NODE, d.state, T0) is None
    told = take(d.state, mote().report(T0, ROWS)).event
    assert told and told.meta and told.meta["quantities"]["pm10"] == "ug/m3"


def test_presence_turns_once() -> None:
    m = mote()
    d = take(NodeState(), m.report(T0, ROWS))
    assert d.event and d.event.online is True
    assert offline_at(NODE, d.state.heard) == T0 + 100 + 1800
    gone = goes_offline(NODE, d.state, T0 + 1901)
    assert gone.event and gone.event.online is False and not gone.state.online
    back = take(gone.state, m.report(T0, ROWS))
    assert back.event and back.event.online is True


NEXT_KEY = bytes(range(100, 116))
CHANGING = replace(NODE, next_key=NEXT_KEY, next_epoch=1)


def test_both_keys_are_the_nodes_until_the_new_one_is_proven_then_only_that() -> None:
    old, new = mote(), mote(key=NEXT_KEY, epoch=1)
    d = take(NodeState(), old.report(T0, ROWS), node=CHANGING)
    assert d.event and d.event.epoch == 0 and d.state.epoch == 0
    forged = take(d.state, mote(key=bytes(16), epoch=1).report(T0, ROWS), node=CHANGING)
    assert reason(forged) == "bad_tag" and forged.state == d.state
    d = take(d.state, old.report(T0 + 60, ROWS), node=CHANGING)
    assert d.event and d.event.id == "263:0:2"
    known = d.state.latest
    d = take(d.state, new.status({1: 5}, long=True), node=CHANGING)
    assert d.event and d.event.epoch == 1 and d.state.epoch == 1 and d.state.replay.next == 2 and d.state.down == 1
    assert d.state.latest == known and d.answer and not d.answer.rekey
    proven = d.state
    for registry in (CHANGING, replace(NODE, key=NEXT_KEY, epoch=1)):  # nodes.toml may go on saying so
        assert reason(take(proven, old.report(T0 + 120, ROWS), node=registry)) == "wrong_epoch"
        assert take(proven, new.report(T0 + 120, ROWS, counter=2), node=registry).state.epoch == 1


def test_the_next_key_is_offered_with_status_answers_and_every_eighth_downlink_only() -> None:
    m, state, offered = mote(), NodeState(), []
    for _ in range(32):
        d = take(state, m.report(T0, ROWS), node=CHANGING, wifi=True)
        state = d.state
        offered.append(d.answer is not None and d.answer.rekey)
    assert offered == ([False] * 7 + [True]) * 4
    d = take(state, m.status({1: 5}), node=CHANGING)
    assert d.answer and d.answer.rekey
    d = take(state, m.status({1: 5}), node=NODE)
    assert d.answer and not d.answer.rekey


def test_an_id_is_never_used_twice_also_when_a_new_key_begins_its_counters_again() -> None:
    after = replace(NODE, key=bytes(16), epoch=1)
    first = take(NodeState(), mote().report(T0, ROWS))
    second = take(first.state, Mote(263, bytes(16), 1, 0).report(T0 + 600, ROWS), node=after)
    assert first.event and second.event and first.counter == second.counter == 1
    assert (first.event.id, second.event.id) == ("263:0:1", "263:1:1")
    silent = goes_offline(after, second.state, T0 + 9000.0).event
    introduced = introduce(replace(after, name="renamed"), second.state, T0 + 9000.0)
    assert silent and silent.id == f"263:1:offline:{T0 + 9000}"
    assert introduced and introduced.event and introduced.event.id == f"263:1:meta:{T0 + 9000}"


def told(state: NodeState, *messages: bytes, received: float = T0 + 100) -> tuple[NodeState, list[str]]:
    """Take alarm messages one after the other; return the state and what was told of each."""
    found = []
    for data in messages:
        d = take(state, data, received)
        assert d.event and d.event.alarm
        state = d.state
        found.append(d.event.alarm.state)
    return state, found


YEAR_2036 = 2082758400
ABOVE, CLEARED, FAULT = 2, 1, 4


@pytest.mark.parametrize("ahead", [301, 3600, 300 * 86_400, YEAR_2036 - T0, (1 << 32) - 101 - T0])
def test_an_alarm_stamped_in_the_future_silences_nothing_that_comes_after_it(ahead: int) -> None:
    m, now = mote(), T0 + 100
    first = take(NodeState(), m.alarm(ABOVE, T0 + ahead + 100, 6, 181, 150), now)
    assert first.event and first.event.alarm and first.event.alarm.state == "raised"
    assert first.event.alarm.t == first.event.alarm.since == now and first.event.alarm.suspect, (
        "it counts as received now"
    )
    state, found = told(first.state, m.alarm(CLEARED, now, 6, 100, 150), m.alarm(ABOVE, now + 60, 6, 190, 150))
    assert found == ["cleared", "raised"] and state.alarms["pm10-above"].since == now + 60


def test_a_clear_by_a_clock_that_was_set_back_meanwhile_ends_the_alarm() -> None:
    """Both times are believable when they arrive: the counter alone says which came first."""
    m = mote()
    state, found = told(NodeState(), m.alarm(ABOVE, T0 + 3600, 6, 181, 150), received=T0 + 7200)
    state, more = told(state, m.alarm(CLEARED, T0 + 60, 6, 100, 150), received=T0 + 7200)
    assert found + more == ["raised", "cleared"] and state.alarms == {}
    state, found = told(state, m.alarm(ABOVE, T0 + 30, 6, 181, 150), received=T0 + 7200)
    assert found == ["raised"], "set back once more"


def test_a_mark_in_the_future_of_an_older_store_holds_nothing_back() -> None:
    old = NodeState(replay=Replay(6), marks={6: (YEAR_2036, 5)}, latest={"pm10": YEAR_2036}, online=True)
    m = mote(5)
    state, found = told(old, m.alarm(ABOVE, T0, 6, 181, 150), m.alarm(CLEARED, T0 + 5, 6, 100, 150))
    assert found == ["raised", "cleared"] and state.marks[6] == (T0 + 5, 7)
    d = take(state, plain(m, T0 + 40, [6]))
    assert d.event and d.event.latest == ((0, 0),) and d.state.latest["pm10"] == T0 + 40


def test_an_alarm_of_one_rule_is_not_held_back_by_news_of_another() -> None:
    m = mote()
    above, fault = m.alarm(ABOVE, T0, 6, 181, 150), m.alarm(FAULT, T0 + 60, 6, None)
    state, found = told(NodeState(), fault, above)
    assert found == ["raised", "raised"] and set(state.alarms) == {"pm10-above", "pm10-fault"}


def test_a_clear_that_was_overtaken_ends_what_was_raised_before_it_and_nothing_since() -> None:
    m = mote()
    above, clear, fault = m.alarm(ABOVE, T0, 6, 181), m.alarm(CLEARED, T0 + 9, 6, 3), m.alarm(FAULT, T0 + 60, 6, None)
    state, found = told(NodeState(), above, fault, clear)
    assert found == ["raised", "raised", "cleared"] and set(state.alarms) == {"pm10-fault"}
    state, found = told(NodeState(), fault, clear, above)
    assert found == ["raised", "late", "late"] and set(state.alarms) == {"pm10-fault"}, "nothing was known of it"


@pytest.mark.parametrize(
    "after", [replace(NODE, next_key=bytes(16), next_epoch=1), replace(NODE, key=bytes(16), epoch=1)]
)
def test_alarms_of_a_former_key_are_ended_under_the_new_one(after: Node) -> None:
    """Of the key that a node was given, and of a board in its place."""
    m = mote(900)
    state = take(NodeState(replay=Replay(900)), m.alarm(ABOVE, T0, 6, 181, 150)).state
    d = take(state, Mote(263, bytes(16), 1, 0).alarm(CLEARED, T0 + 9, 6, 100), node=after)
    assert d.event and d.event.alarm and d.event.alarm.state == "cleared" and d.state.alarms == {}


@pytest.mark.parametrize(("raw", "quantity", "suspect"), [(32767, 1, True), (-32768, 1, True), (215, 1, False), (None, 6, False), (32767, 99, False)])  # fmt: skip
def test_an_alarm_passes_the_same_range_check_as_a_report(raw: int | None, quantity: int, suspect: bool) -> None:
    d = take(NodeState(), mote().alarm(ABOVE, T0, quantity, raw, 300))
    assert d.event and d.event.alarm and d.event.alarm.state == "raised" and d.event.alarm.suspect is suspect


@pytest.mark.parametrize("t", [65536, 946_688_400, T0 - 3 * 365 * 86_400, T0 - 61 * 86_400])
def test_rows_older_than_an_outbox_can_hold_are_suspect_and_no_newest_value(t: int) -> None:
    d = take(NodeState(), mote().report(t, ROWS))
    assert d.event and all(c.suspect == (0, 1) for c in d.event.columns) and d.event.latest == ()
    assert d.state.latest == {}
    alarm = take(NodeState(), mote().alarm(ABOVE, t, 6, 181, 150)).event
    assert alarm and alarm.alarm and alarm.alarm.suspect and alarm.alarm.t == t


def test_the_backlog_of_a_slow_node_is_older_and_believed() -> None:
    slow = replace(NODE, interval_s=86_400)
    d = take(NodeState(), mote().report(T0 - 200 * 86_400, ROWS), node=slow)
    assert d.event and all(c.suspect == () for c in d.event.columns) and len(d.event.latest) == 6


@pytest.mark.parametrize(("row", "received"), [(160, 160), (380, 386)])
def test_a_row_a_little_ahead_of_receipt_does_not_hold_back_those_behind_it(row: int, received: int) -> None:
    m = mote()
    ahead = take(NodeState(), m.report(T0 + 390, ROWS[:1]), T0 + 100)
    assert ahead.event and len(ahead.event.latest) == 6, "within FUTURE_S it is believed"
    after = take(ahead.state, m.report(T0 + row, ROWS[:1]), T0 + received)
    assert after.event and len(after.event.latest) == 6


@given(st.lists(st.integers(-400, 300), min_size=2, max_size=6, unique=True), st.randoms())
def test_of_rows_around_receipt_the_newest_stays_in_whatever_order_they_come(offsets: list[int], order: Random) -> None:
    m = mote()
    frames = [(m.report(T0 + at, ROWS[:1]), T0 + at) for at in sorted(offsets)]
    order.shuffle(frames)
    state, shown = NodeState(), -1
    for data, t in frames:
        d = take(state, data, T0)
        assert d.event is not None
        state = d.state
        if d.event.latest:
            assert t > shown, "a newer one is shown already"
            shown = t
    assert shown == T0 + max(offsets)


def test_a_clock_that_was_a_little_ahead_and_is_right_now_mutes_nothing_and_older_frames_stay_older() -> None:
    m = mote()
    overtaken, ahead = m.report(T0 + 270, ROWS[:1]), m.report(T0 + 290, ROWS[:1])
    state = take(NodeState(), ahead, T0).state
    right = m.report(T0 + 30, ROWS[:1])
    d = take(state, right, T0 + 31)
    assert d.event and len(d.event.latest) == 6, "sealed later, and later than the receipt of the other"
    for before in (state, d.state):
        late = take(before, overtaken, T0 + 32)
        assert late.event and late.event.latest == (), "sealed earlier than what is shown"


def test_a_newest_value_of_a_clock_that_was_wrong_gives_way_at_once() -> None:
    wrong = take(NodeState(), mote().report(T0 + 10_000_000, ROWS[:1]), T0 + 10_000_000)
    right = take(wrong.state, mote(1).report(T0, ROWS[:1]), T0 + 100)
    assert right.event and len(right.event.latest) == 6 and right.state.latest["pm10"] == T0


BOOTS, UPTIME, FIRMWARE, SENSOR_FAULTS, BATTERY = 3, 1, 5, 11, 12


def test_a_status_frame_that_was_overtaken_is_history() -> None:
    m = mote()
    old = m.status({UPTIME: 5, BOOTS: 1, FIRMWARE: "0.1", BATTERY: 360})
    new = m.status({UPTIME: 9, BOOTS: 2, FIRMWARE: "0.2", BATTERY: 300})
    first = take(NodeState(), new)
    late = take(first.state, old)
    assert late.event and late.event.kind == "status" and late.event.current_status == {} and not late.event.rebooted
    assert set(late.event.stale) == {"uptime", "boots", "firmware", "battery_voltage"} and late.event.meta is None
    assert (late.state.boots, late.state.firmware) == (2, "0.2")


def test_what_only_the_overtaken_status_frame_said_is_news() -> None:
    """A node says some keys at its start only: the frame with them may be the one that was lost."""
    m = mote()
    hello, later = m.status({UPTIME: 5, BOOTS: 2, FIRMWARE: "0.2"}), m.status({UPTIME: 600, BATTERY: 300})
    first = take(NodeState(boots=1, firmware="0.1"), later)
    late = take(first.state, hello)
    assert (
        late.event and late.event.current_status == {"boots": 2, "firmware": "0.2"} and late.event.stale == ("uptime",)
    )
    assert late.event.rebooted and late.event.meta and late.event.meta["firmware"] == "0.2"


def test_schemas_are_those_that_were_announced_last_whatever_came_first() -> None:
    m = mote()
    old, new = m.status({4: {200: [1, 2], 201: [5]}}), m.status({4: {200: [6]}})
    late = take(take(NodeState(), new).state, old)
    assert late.state.schemas == {200: (6,), 201: (5,)}


@pytest.mark.parametrize("odd", [True, False, None, "1", b"1", [1], {1: 1}, -(1 << 63)])
def test_a_status_value_of_an_odd_type_is_shown_and_not_taken_over(odd: object) -> None:
    d = take(NodeState(boots=7), mote().seal(frame.STATUS, cbor2.dumps({BOOTS: odd, FIRMWARE: odd})))
    assert d.event and d.event.kind == "status"
    assert d.state.boots == 7


def test_a_node_leaves_behind_no_more_than_sixty_four_quantities() -> None:
    m, state = mote(), NodeState()
    seen = []
    for first in range(1, 1601, 16):
        d = take(state, plain(m, T0, list(range(first, first + 16))))
        state = d.state
        seen.append(reason(d))
        assert len(state.ids) <= 64 and len(state.latest) <= 64
    assert seen == [None] * 4 + ["malformed"] * 96
    known = take(state, plain(m, T0 + 60, list(range(1, 17))))
    assert reason(known) is None and known.event and len(known.event.latest) == 16, "what is known goes on"
    for quantity in range(1, 200):
        state = take(state, m.alarm(ABOVE, T0, quantity, 5)).state
        state = take(state, m.alarm(CLEARED, T0, 1000 + quantity, 5)).state
    assert len(state.alarms) == len(state.marks) == 64


def test_an_answer_to_a_report_of_an_unknown_schema_asks_for_it() -> None:
    m = mote(3)
    data = m.seal(frame.REPORT, cbor2.dumps([201, T0, 60, [1, 2]]), counter=4)
    d = take(NodeState(replay=Replay(4)), data)
    assert reason(d) == "unknown_schema" and d.answer and d.answer.ack[7] == (201,)
    from gateway.core.downlink import payload, with_order

    assert Ack(cbor2.loads(payload(d.answer.ack))).next == 5
    assert cbor2.loads(payload(d.answer.ack))[7] == [201]
    assert cbor2.loads(with_order(90, 4, d.answer.ack, T0, {5: [1, "selftest"]}) or b"")[7] == [201]
    known = take(d.state, m.status({4: {201: [1, 5]}}, counter=5))
    assert known.answer and 7 not in known.answer.ack


def test_a_replaced_board_begins_with_the_places_that_a_thief_has_filled() -> None:
    m, state = mote(), NodeState()
    for first in range(60_001, 60_065, 16):
        state = take(state, plain(m, T0, list(range(first, first + 16)))).state
    for quantity in range(61_000, 61_064):
        state = take(state, m.alarm(ABOVE, T0, quantity, 5)).state
    for number in range(200, 208):
        state = take(state, m.status({STATUS_SCHEMA: {number: [1]}})).state
    assert len(state.ids) == len(state.alarms) == 64 and len(state.schemas) == 8
    refused = take(state, m.report(T0, ROWS)).refusal
    assert refused and refused.full and refused.reason == "malformed"
    refused = take(state, m.alarm(ABOVE, T0, 6, 181, 150)).refusal
    assert refused and refused.full
    after = replace(NODE, key=bytes(16), epoch=1)
    new = Mote(263, bytes(16), 1, 0)
    d = take(state, new.report(T0 + 60, ROWS), node=after)
    assert d.refusal is None and d.event and len(d.event.latest) == 6 and len(d.state.ids) == 6
    d = take(d.state, new.alarm(ABOVE, T0 + 60, 6, 181, 150), node=after)
    assert d.event and d.event.alarm and d.event.alarm.state == "raised" and len(d.state.alarms) == 1
    d = take(d.state, new.status({STATUS_SCHEMA: {210: [1]}}), node=after)
    assert d.state.schemas == {210: (1,)} and d.state.keys.keys() == {0, 1}, "its former key stays known"


def test_a_quantity_that_is_heard_no_more_makes_room() -> None:
    m, state = mote(), NodeState()
    for first in range(1, 65, 16):
        state = take(state, plain(m, T0, list(range(first, first + 16)))).state
    late = T0 + 29 * 86_400
    state = take(state, plain(m, late, list(range(1, 17))), received=late + 1.0).state
    full = take(state, plain(m, late, [90]), received=late + 1.0)
    assert full.refusal and full.refusal.full and full.state.ids == state.ids
    later = T0 + 31 * 86_400
    d = take(full.state, plain(m, later, [90]), received=later + 1.0)
    assert d.refusal is None and d.state.ids == (*range(1, 17), 90) and len(d.state.latest) == len(d.state.sealed) == 17


def test_of_cleared_quantities_the_oldest_are_forgotten_and_every_clear_is_told() -> None:
    m, state = mote(), NodeState()
    for quantity in range(1, 200):
        d = take(state, m.alarm(CLEARED, T0, quantity, 5))
        assert d.event and d.event.alarm and d.event.alarm.state == "cleared"
        state = d.state
    assert set(state.marks) == set(range(136, 200))

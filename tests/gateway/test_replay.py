"""Replay state against a set, acks against a node that believes them, and which counter 16 bits mean."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from motewire.messages import Ack

from gateway.core.replay import BITMAP_BYTES, MAX_RUNS, WINDOW, Replay, candidates


class ReplayModel(RuleBasedStateMachine):
    """The obvious model: the set of all counters seen, and nothing below the floor."""

    def __init__(self) -> None:
        super().__init__()
        self.real = Replay()
        self.seen: set[int] = set()

    def take(self, counter: int) -> None:
        fresh = counter not in self.seen and counter >= self.real.floor
        after = self.real.accept(counter)
        assert (after is not None) == fresh == (self.real.lacks(counter) and not self.real.too_old(counter))
        if after is not None:
            self.real = after
            self.seen.add(counter)

    @rule(step=st.integers(0, 40))
    def ahead(self, step: int) -> None:
        self.take(self.real.next + step)

    @rule(step=st.integers(0, 3 * WINDOW))
    def jump(self, step: int) -> None:
        self.take(self.real.next + step)

    @rule(back=st.integers(1, 100))
    def behind(self, back: int) -> None:
        if self.real.next > back:
            self.take(self.real.next - back)

    @rule(n=st.integers(1, 700))
    def every_other(self, n: int) -> None:
        for _ in range(n):
            self.take(self.real.next + 1)

    @precondition(lambda self: self.real.missing)
    @rule(data=st.data())
    def close_a_gap(self, data: st.DataObject) -> None:
        start, stop = data.draw(st.sampled_from(self.real.missing))
        self.take(data.draw(st.integers(start, stop - 1)))

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def again(self, data: st.DataObject) -> None:
        self.take(data.draw(st.sampled_from(sorted(self.seen)[-50:])))

    @invariant()
    def is_sound(self) -> None:
        r = self.real
        assert len(r.missing) <= MAX_RUNS and r.floor >= r.next - WINDOW
        last = r.floor
        for start, stop in r.missing:
            assert last <= start < stop < r.next
            last = stop + 1  # runs never touch: what lies between was seen
        lacking = {c for start, stop in r.missing for c in range(start, stop)}
        assert lacking == set(range(r.floor, r.next)) - self.seen

    @invariant()
    def acks_tell_the_truth(self) -> None:
        r = self.real
        probes = [r.next - 1, r.floor, *(c for run in r.missing[-3:] for c in (run[0] - 1, run[0], run[1] - 1, run[1]))]
        for answering in [None, *probes]:
            ack = Ack(dict(r.ack(answering)))
            assert len(r.ack(answering).get(2, b"")) <= BITMAP_BYTES  # type: ignore[arg-type]
            for c in {*probes, *range(max(ack.next - 70, 1), ack.next + 2), ack.since - 1, ack.since}:
                assert c < 1 or c in self.seen or not ack.covers(c)
            if answering is not None and answering in self.seen and answering >= r.floor:
                assert ack.covers(answering), (answering, r, ack)


TestReplay = ReplayModel.TestCase
TestReplay.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=150))
def test_a_node_that_believes_the_acks_drops_exactly_what_is_committed(arrivals: list[int]) -> None:
    replay, seen = Replay(), set()
    outbox = set(range(1, 301))
    for counter in arrivals:
        replay = replay.accept(counter) or replay
        seen.add(counter)
        ack = Ack(dict(replay.ack(counter)))
        outbox = {c for c in outbox if not ack.covers(c)}
        assert not outbox & {counter}
        assert set(range(1, 301)) - outbox <= seen


def test_an_ack_with_nothing_missing_is_one_number() -> None:
    replay = Replay()
    for c in range(1, 200):
        replay = replay.accept(c) or replay
    assert replay.ack() == {1: 200}


def test_gaps_within_64_are_flagged_and_older_ones_end_the_range() -> None:
    replay = Replay(next=1000, missing=((500, 530), (990, 992)))
    ack = Ack(dict(replay.ack()))
    assert [c for c in range(930, 1000) if not ack.covers(c)] == [990, 991]
    assert ack.covers(530) and not ack.covers(499) and ack.since == 530
    older = Ack(dict(replay.ack(400)))
    assert older.covers(400) and older.covers(499) and not older.covers(500)


def test_a_long_gap_close_by_costs_no_bitmap_of_ones() -> None:
    ack = Replay(next=1000, missing=((100, 990),)).ack()
    assert ack == {1: 1000, 2: bytes((0x00, 0x3F)), 8: 984}


@given(st.integers(1, 1 << 20), st.data())
def test_the_right_counter_is_among_two_candidates(next_: int, data: st.DataObject) -> None:
    replay = Replay(next_, max(1, next_ - WINDOW))
    true = data.draw(st.integers(max(replay.floor, next_ - 65536 + 64), next_ + 65000 - 64))
    found = candidates(replay, true & 0xFFFF, False)
    assert true in found and len(found) <= 2 and all(c > 0 for c in found)


def test_a_missing_older_counter_is_tried_first() -> None:
    replay = Replay(70_000, 70_000 - WINDOW, ((60_000, 60_010),))
    assert candidates(replay, 60_005 & 0xFFFF, False) == (60_005, 60_005 + 65536)
    assert candidates(replay, 60_020 & 0xFFFF, False) == (60_020 + 65536, 60_020)
    assert candidates(replay, 123_456, True) == (123_456,)
    assert candidates(replay, 0, True) == ()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_a_node_does_its_frames_are_opened_or_the_next_whole_counter_finds_it(data: st.DataObject) -> None:
    """Resets that leave counters unused, stretches that nobody heard, wraps of 16 bits, a backlog behind an alarm.

    Frames of fewer than 65536 - 64 counters on are opened at once; beyond that every frame with C set is, and those after it.
    """
    start = data.draw(st.sampled_from([1, 65_400, 131_000, 1 << 24]) | st.integers(1, 1 << 29))
    replay = Replay().accept(start) or Replay()
    counter = start

    def arrives(c: int, is_long: bool) -> bool:
        nonlocal replay
        found = candidates(replay, c if is_long else c & 0xFFFF, is_long)
        assert len(found) <= 2
        if c not in found:
            return False
        replay = replay.accept(c) or replay
        return True

    for _ in range(data.draw(st.integers(1, 12))):
        act = data.draw(st.sampled_from(["next", "reset", "unheard", "far", "backlog"]))
        if act == "next":
            counter += 1
            assert arrives(counter, False)
        elif act == "reset":
            counter += data.draw(st.integers(1, 128))
            assert all(arrives(counter + i, i < 3) for i in range(5))
            counter += 4
        elif act == "unheard":
            counter += data.draw(st.integers(1, 65_000))
            assert arrives(counter, False)
        elif act == "far":
            counter += data.draw(st.integers(1, 1 << 24))
            heard = [arrives(counter + i, (counter + i) % 64 == 0) for i in range(130)]
            assert all(heard[-counter % 64 :]), "from the next whole counter on"
            counter += 129
        else:
            first, n = counter + 1, data.draw(st.integers(1, WINDOW - 1))
            counter += n
            assert arrives(counter, False), "the alarm"
            for c in data.draw(st.lists(st.integers(first, counter - 1), max_size=20, unique=True)) if n > 1 else []:
                assert replay.lacks(c) and arrives(c, False)

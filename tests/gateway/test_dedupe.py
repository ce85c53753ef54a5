"""Copies and repeats: by bytes, receiver and milliseconds, in whatever order they come."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from motewire.frame import HEADER_MAX, TAG

from gateway.core.airtime import time_on_air_us
from gateway.core.dedupe import COPY_S, COPY_US, MAX_RECENT, Recent, apart_us, strength
from gateway.core.model import Radio, Reception
from gateway.core.value import replace

RX = Reception(b"frame", 1000.0, "lora", "aa", -80, 5.0, Radio(868_100_000, 7, 125_000, "4/5", 0))


def copy_of(recent: Recent[int], copy: Reception) -> object:
    """What it is a copy of, when it comes as it was received: by a receiver whose clock and uplink are ours."""
    return recent.copy_of(copy, copy.received)


def rx(receiver: str = "aa", tmst: int = 0, rssi: int | None = -80, snr: float | None = 5.0, at: float = 1000.0, freq: int = 868_100_000) -> Reception:  # fmt: skip
    return Reception(b"frame", at, "lora", receiver, rssi, snr, Radio(freq, 7, 125_000, "4/5", tmst & 0xFFFFFFFF))


@given(st.integers(0, 0xFFFFFFFF), st.integers(-(1 << 31), (1 << 31)))
def test_the_distance_of_two_times_does_not_depend_on_the_wrap(a: int, d: int) -> None:
    assert apart_us(a, a + d & 0xFFFFFFFF) == apart_us(a + d & 0xFFFFFFFF, a) == abs(d)


def test_two_transmissions_are_never_as_close_as_two_copies() -> None:
    shortest = min(time_on_air_us(n, 7, 500_000) for n in range(5 + TAG, HEADER_MAX + TAG))
    assert shortest > COPY_US


@given(st.integers(0, 0xFFFFFFFF), st.integers(-20_000, 20_000))
def test_one_receivers_same_bytes_are_a_copy_within_milliseconds_and_a_repeat_beyond(base: int, gap: int) -> None:
    recent: Recent[int] = Recent()
    recent.enter(rx(tmst=base), 1, 1000.0)
    copy = copy_of(recent, rx(tmst=base + gap, freq=868_300_000))
    assert (copy is not None) == (abs(gap) <= COPY_US)


@pytest.mark.parametrize("gap", [COPY_US + 1, 60_000, 999_000])
def test_a_second_transmission_through_the_same_receiver_within_a_second_is_no_copy(gap: int) -> None:
    recent: Recent[int] = Recent()
    recent.enter(rx(tmst=5), 1, 1000.0)
    assert copy_of(recent, rx("bb", tmst=77)) is not None
    assert copy_of(recent, rx(tmst=5 + gap, at=1000 + gap / 1e6)) is None
    assert copy_of(recent, rx("bb", tmst=77 + gap, at=1000 + gap / 1e6)) is None, "nor through another"
    assert copy_of(recent, rx("cc", at=1000.0 + COPY_S + 0.01)) is None
    assert copy_of(recent, rx(tmst=5, at=1000.0 + 4295)) is None, "the counter of the concentrator came round"


@given(
    st.lists(
        st.tuples(st.sampled_from("abcde"), st.integers(0, 3000), st.one_of(st.none(), st.integers(-130, 120)), st.integers(-20, 12)),
        min_size=1, max_size=8, unique_by=lambda c: (c[0], c[1]),
    )
)  # fmt: skip
def test_the_best_copy_is_the_same_whatever_order_they_come_in(copies: list[tuple[str, int, int | None, int]]) -> None:
    heard = [rx(r, t, rssi, float(snr)) for r, t, rssi, snr in copies]
    best = max(heard, key=strength)
    for order in itertools.islice(itertools.permutations(heard), 24):
        recent: Recent[int] = Recent()
        entry = recent.enter(order[0], 1, 1000.0)
        assert all(copy_of(recent, c) is entry for c in order[1:])
        assert strength(entry.best) == strength(best) and entry.copies == len(heard)
    believed = [c for c in heard if c.rssi is None or c.rssi <= 0]
    assert not believed or best in believed


@pytest.mark.parametrize("snr", [1e9, -1e9, 61.0])
def test_an_impossible_snr_wins_nothing_either(snr: float) -> None:
    assert strength(rx(snr=snr, rssi=-1)) < strength(rx(rssi=None, snr=None))


def test_without_a_radio_nothing_is_a_copy_and_memory_is_bounded() -> None:
    recent: Recent[int] = Recent()
    wifi = replace(RX, radio=None)
    recent.enter(wifi, 1, 1000.0)
    assert copy_of(recent, wifi) is None
    for n in range(MAX_RECENT + 50):
        recent.enter(replace(RX, data=b"%d" % n), n, 1000.0)
    assert len(recent) == MAX_RECENT and copy_of(recent, replace(RX, data=b"0")) is None

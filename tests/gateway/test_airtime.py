"""Time on air against published values, and the sliding hour."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.airtime import HOUR_US, SUB_BANDS, DutyLedger, sub_band_of, time_on_air_us

# Semtech calculator values (AN1200.13) for BW 125 kHz, CR 4/5, preamble 8, explicit header, CRC
PUBLISHED = [
    (10, 7, 41_216), (51, 7, 102_656), (222, 7, 348_416), (10, 8, 72_192), (115, 9, 615_424), (51, 10, 616_448),
    (51, 11, 1_314_816), (10, 12, 991_232), (51, 12, 2_465_792), (64, 12, 2_793_472), (14, 7, 46_336), (25, 11, 823_296),
]  # fmt: skip


@pytest.mark.parametrize(("size", "sf", "us"), PUBLISHED)
def test_time_on_air_is_what_semtech_publishes(size: int, sf: int, us: int) -> None:
    assert time_on_air_us(size, sf) == us


def test_forbidden_slices_belong_to_no_sub_band() -> None:
    assert sub_band_of(868_100_000) == 2 and sub_band_of(868_500_000) == 2 and sub_band_of(869_525_000) == 4
    assert sub_band_of(868_650_000) is None and sub_band_of(869_300_000) is None and sub_band_of(868_600_000) is None


@given(st.lists(st.tuples(st.integers(0, 400_000_000), st.integers(1_000, 3_000_000)), max_size=200))
def test_no_hour_ever_holds_more_than_the_limit(wishes: list[tuple[int, int]]) -> None:
    ledger, now, sent = DutyLedger(), 0, []
    for gap, airtime in wishes:
        now += gap
        if ledger.book(868_100_000, now, airtime) is not None:
            sent.append((now, airtime))
            now += airtime
    for start, airtime in sent:
        end = start + airtime
        within = sum(min(s + a, end) - max(s, end - HOUR_US) for s, a in sent if s + a > end - HOUR_US and s < end)
        assert within <= HOUR_US // 1000 * SUB_BANDS[2][2]


def test_what_was_sent_before_a_restart_still_counts() -> None:
    limit = HOUR_US // 100
    ledger = DutyLedger([(2, 0, limit - 1000)])
    assert ledger.book(868_300_000, 1_000_000, 2000) is None
    assert ledger.book(867_100_000, 1_000_000, 2000) == 1, "another sub-band is another budget"
    assert ledger.book(868_300_000, HOUR_US + limit, 2000) == 2


@given(
    st.lists(
        st.tuples(st.integers(0, 30_000_000), st.integers(1_000, 3_000_000), st.sampled_from([0.2, 0.9, 1.0])),
        max_size=200,
    )
)
def test_a_share_is_never_exceeded_by_those_who_have_it(wishes: list[tuple[int, int, float]]) -> None:
    ledger, now = DutyLedger(), 0
    limit = HOUR_US // 1000 * SUB_BANDS[2][2]
    for gap, airtime, share in wishes:
        now += gap
        used = ledger.used_us(2, now)
        room = ledger.room(868_100_000, now, airtime, share)
        assert (room is not None) == (used + airtime <= limit * share)
        assert ledger.used_us(2, now) == used, "asking books nothing"
        assert ledger.book(868_100_000, now, airtime, share) == room


def test_exactly_the_limit_may_be_used_and_not_a_microsecond_more() -> None:
    limit = HOUR_US // 1000 * SUB_BANDS[2][2]
    for share in (1.0, 0.5):
        ledger = DutyLedger()
        assert ledger.book(868_100_000, 0, int(limit * share) + 1, share) is None
        assert ledger.book(868_100_000, 0, int(limit * share), share) == 2
        assert ledger.book(868_100_000, 0, 1, share) is None

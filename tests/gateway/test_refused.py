"""What a broker may do to an output by what it retains, refuses and shares: it costs the one message, and never the output."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.outputs.resync import Mark, mark_of

GOOD = {"store": "a", "seq": 1, "generation": 2, "turn": 3}


@pytest.mark.parametrize("field", ["seq", "generation", "turn"])
@given(number=st.integers(-(1 << 70), 1 << 70) | st.sampled_from([-(10**30), 10**400, -1, 0, 1 << 63, (1 << 63) - 1]))
def test_a_mark_holds_only_what_fits_the_store(field: str, number: int) -> None:
    found = mark_of(
        msgspec.json.encode({**GOOD, field: 0}).replace(
            b'"%s":0' % field.encode(), b'"%s":%d' % (field.encode(), number)
        )
    )
    assert found == (Mark(**{**GOOD, field: number}) if -1 <= number < 1 << 63 else None)


@pytest.mark.parametrize("payload", [
    b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"[" * 100_000, b"\xff", b'{"store":"\xff","seq":1,"generation":1,"turn":1}', b"",
    b'{"store":"a","seq":1e400,"generation":1,"turn":1}', b'{"store":"a","seq":true,"generation":1,"turn":1}',
])  # fmt: skip
def test_what_is_no_mark_counts_as_none(payload: bytes) -> None:
    assert mark_of(payload) is None


@given(st.binary())
def test_nothing_that_a_broker_retains_raises(payload: bytes) -> None:
    mark_of(payload)

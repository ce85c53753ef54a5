"""The strict CBOR subset against cbor2: what we write, it reads; what it would not write, we refuse."""

from contextlib import suppress

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from motewire import EPOCH_2000, cbor
from motewire.errors import Malformed, TooLong, Truncated, WireError
from motewire.messages import Ack, put_alarm

scalars = st.one_of(
    st.integers(-(2**32), 2**32 - 1), st.booleans(), st.none(), st.binary(max_size=40), st.text(max_size=20)
)
values = st.recursive(
    scalars,
    lambda x: st.one_of(st.lists(x, max_size=5), st.dictionaries(st.integers(0, 300), x, max_size=5)),
    max_leaves=12,
)


def depth(v: object) -> int:
    if isinstance(v, list):
        return 1 + max(map(depth, v), default=0)
    if isinstance(v, dict):
        return 1 + max(map(depth, v.values()), default=0)
    return 0


@given(values.filter(lambda v: depth(v) <= 6))
def test_what_we_write_is_canonical_and_reads_back(value: object) -> None:
    buf = bytearray(4000)
    end = cbor.put_any(buf, 0, value)
    assert buf[:end] == cbor2.dumps(value, canonical=True)
    assert cbor.read(buf, 0, end) == value


@given(st.binary(max_size=64))
def test_any_bytes_give_a_value_or_a_wire_error(data: bytes) -> None:
    with suppress(WireError):
        value = cbor.read(data, 0, len(data))
        assert cbor2.loads(data) == value


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("1800", Malformed),  # 0 in two bytes
        ("190017", Malformed),
        ("1a0000ffff", Malformed),
        ("1b00000000ffffffff", Malformed),
        ("5f4101ff", Malformed),  # indefinite length
        ("9fff", Malformed),
        ("c100", Malformed),  # tag
        ("f93c00", Malformed),  # float
        ("f7", Malformed),  # undefined
        ("f818", Malformed),
        ("a201010102", Malformed),  # repeated key
        ("0000", Malformed),  # left over
        ("61ff", Malformed),  # not UTF-8
        ("62c080", Malformed),  # overlong
        ("63eda080", Malformed),  # surrogate
        ("64f4908080", Malformed),  # past U+10FFFF
        ("62e282", Malformed),  # cut short
        ("43aabb", Truncated),
        ("8201", Truncated),
        ("", Truncated),
        ("9a00010000", TooLong),
        ("8181818181818101", TooLong),
    ],
)
def test_what_is_not_of_the_subset_is_refused_by_name(data: str, error: type[WireError]) -> None:
    raw = bytes.fromhex(data)
    with pytest.raises(error):
        cbor.read(raw, 0, len(raw))


@given(st.integers(0, 2**31 - 1))
def test_time_is_written_as_unix_seconds(t2000: int) -> None:
    buf = bytearray(5)
    assert cbor.put_time(buf, 0, t2000) == 5
    assert cbor2.loads(bytes(buf)) == t2000 + EPOCH_2000


def test_an_alarm_without_value_or_limit() -> None:
    buf = bytearray(30)
    end = put_alarm(buf, 0, 4, 820540800, 6, None)
    assert cbor2.loads(bytes(buf[:end])) == [4, 1767225600, 6, None]


@given(st.integers(1, 500), st.binary(max_size=8), st.integers(0, 500))
def test_an_ack_covers_all_below_next_but_what_is_missing_or_before_since(n: int, missing: bytes, since: int) -> None:
    ack = Ack({1: n, 2: missing, 8: since})
    bits = "".join(f"{b:08b}" for b in missing)
    for c in range(0, n + 3):
        back = n - 1 - c
        flagged = 0 <= back < len(bits) and bits[back] == "1"
        assert ack.covers(c) == (since <= c < n and not flagged)
        assert ack.is_missing(c) == (since <= c < n and flagged)


@pytest.mark.parametrize("payload", [{1: "x"}, {1: -1}, {1: 5, 2: 7}, {1: 5, 8: -2}])
def test_an_ack_of_wrong_types_is_malformed(payload: dict[int, object]) -> None:
    with pytest.raises(Malformed):
        Ack(payload)

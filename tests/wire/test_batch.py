"""What a node encodes, the gateway's independent reader (cbor2 and its own bit reader) decodes to the same rows."""

from itertools import pairwise

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from motewire import EPOCH_2000
from motewire.batch import MAX_VALUE, Batch
from motewire.errors import Full, Malformed, TooLong
from motewire.interval import SECONDS

from gateway.core.report import decode

T0 = 820540800
STEPS = st.one_of(st.just(60), st.integers(-200, 5000))
CELLS = st.one_of(st.none(), st.integers(-MAX_VALUE, MAX_VALUE), st.integers(-40, 1200))


@st.composite
def batches(draw: st.DrawFn) -> tuple[Batch, list[int], list[list[int | None]]]:
    """A filled Batch, its Unix times, and its rows."""
    width = draw(st.integers(1, 16))
    interval = draw(st.sampled_from([0, 1, 7, 25, 60, 300, 3600]))
    rows = draw(st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=30))
    schema = draw(st.sampled_from([None] if width != 6 else [None, 3]))
    ids = (4, 5, 6, 1, 2, 3) if schema == 3 else tuple(range(30, 30 + width))
    batch = Batch(ids, schema, interval, 30)
    t, times = T0, []
    for i, row in enumerate(rows):
        step = draw(st.just(interval) if interval and draw(st.booleans()) else STEPS)
        t += (max(step, 0) if not interval else step) if i else 0
        batch.append(t, [v or 0 for v in row], sum(1 << c for c, v in enumerate(row) if v is not None))
        times.append(t + EPOCH_2000)
    return batch, times, rows


@given(batches(), st.booleans())
def test_the_gateway_reads_what_the_node_wrote(
    case: tuple[Batch, list[int], list[list[int | None]]], packed: bool
) -> None:
    batch, times, rows = case
    buf = bytearray(8000)
    end = (batch.encode if packed else batch.encode_plain)(buf, 7, 7900)
    report = decode(bytes(buf[7:end]), times[-1] + 5, {})
    assert report.ids == batch.ids
    assert list(report.times) == times
    assert [list(r) for r in zip(*report.columns, strict=True)] == rows
    assert buf[7:end] == cbor2.dumps(cbor2.loads(bytes(buf[7:end])), canonical=True)


@given(batches())
def test_a_plain_report_is_what_cbor2_writes_for_its_meaning(
    case: tuple[Batch, list[int], list[list[int | None]]],
) -> None:
    """The plain form written a second time, from WIRE.md section 2 and with cbor2."""
    batch, times, rows = case
    interval = batch.interval_s
    grid = interval and all(b - a == interval for a, b in pairwise(times))
    code = SECONDS.index(interval) if interval in SECONDS else interval if interval >= 24 else 0
    columns: list[object] = []
    for cells in zip(*rows, strict=True):
        column: list[int | None] = []
        last = 0
        for v in cells:
            column.append(None if v is None else v - last)
            last = last if v is None else v
        columns.append(column if len(rows) > 1 else column[0])
    if grid and code or len(rows) == 1:
        stamp: object = times[0]
    else:
        stamp, code = [times[0], *(b - a for a, b in pairwise(times))], 0
    schema = list(batch.ids) if batch.schema is None else batch.schema
    buf = bytearray(8000)
    assert buf[: batch.encode_plain(buf, 0, 7900)] == cbor2.dumps([schema, stamp, code, columns])


@given(batches(), st.integers(0, 200))
def test_a_batch_never_writes_past_its_limit(case: tuple[Batch, list[int], list[list[int | None]]], limit: int) -> None:
    """Three bytes behind the limit are the string head's room; everything further stays as it was."""
    batch, _, _ = case
    buf = bytearray(b"\xa5" * 8000)
    try:
        end = batch.encode(buf, 0, limit)
    except Full:
        pass
    else:
        assert end <= limit
    assert set(buf[limit + 3 :]) == {0xA5}


@given(batches())
def test_a_popped_row_leaves_no_trace(case: tuple[Batch, list[int], list[list[int | None]]]) -> None:
    batch, _, rows = case
    before, after = bytearray(8000), bytearray(8000)
    end = batch.encode(before, 0, 7900)
    if len(rows) == batch.rows_max:
        return
    batch.append(T0 + 10**6, [1] * len(batch.ids), 1)
    batch.pop()
    assert batch.encode(after, 0, 7900) == end and after == before


def test_an_irregular_short_interval_needs_no_table_entry() -> None:
    batch = Batch((4,), None, 7, 4)
    for i in range(4):
        batch.append(T0 + 7 * i, [i], 1)
    buf = bytearray(100)
    item = cbor2.loads(bytes(buf[: batch.encode(buf, 0, 90)]))
    assert item[2] == -8


def test_bad_batches_and_rows_are_refused() -> None:
    with pytest.raises(TooLong):
        Batch((), 3, 60, 10)
    with pytest.raises(TooLong):
        Batch((1,), 3, 60, 241)
    batch = Batch((1,), None, 0, 1)
    with pytest.raises(Malformed):
        batch.encode(bytearray(100), 0, 90)
    with pytest.raises(Malformed):
        batch.append(T0, [MAX_VALUE + 1], 1)
    batch.append(T0, [1], 1)
    with pytest.raises(Full):
        batch.append(T0, [1], 1)
    two = Batch((1,), None, 0, 2)
    two.append(T0, [1], 1)
    with pytest.raises(Malformed):
        two.append(T0 - 1, [1], 1)

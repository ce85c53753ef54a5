"""The decoder: golden vectors, an independent encoder, and all bytes in the world."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from motewire import EPOCH_2000
from motewire.batch import Batch
from motewire.messages import read as motewire_read

from gateway.core import cbor
from gateway.core.messages import decode_alarm, decode_status
from gateway.core.refusals import Malformed, Unreadable
from gateway.core.report import decode, resolve_stamp
from tests.gateway.world import T0, report

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "wire.json").read_text())
BITS = "463a4d28b169458b0838102977899040"


@pytest.mark.parametrize("vector", VECTORS["reports"], ids=lambda v: v["name"])
def test_golden_reports_decode_to_what_they_mean(vector: dict[str, Any]) -> None:
    announced = {number: tuple(ids) for number, ids in vector.get("announced", [])}
    found = decode(bytes.fromhex(vector["hex"]), vector.get("received", T0), announced)
    assert found.ids == tuple(vector["ids"])
    assert found.times == tuple(t + EPOCH_2000 for t in vector["times"])
    assert [list(row) for row in zip(*found.columns, strict=True)] == vector["rows"]
    assert found.events == (vector["interval_s"] == 0)


def test_the_worked_example_reads_the_same_with_a_16_bit_stamp() -> None:
    found = decode(bytes.fromhex("850319b9000803" + "50" + BITS), T0 + 200, {})
    assert found.times == (T0, T0 + 60, T0 + 120)
    assert found == decode(bytes.fromhex("85031a6955b9000803" + "50" + BITS), T0, {})


def test_the_golden_alarm_decodes() -> None:
    a = decode_alarm(bytes.fromhex("85021a6955b9000518b51896"), T0)
    assert (a.code, a.t, a.quantity, a.value, a.limit) == (2, T0, 5, 181, 150)


@pytest.mark.parametrize("ahead", [-300, -1, 0, 1, 60000, 65000])
def test_a_16_bit_stamp_means_the_newest_time_up_to_five_minutes_ahead(ahead: int) -> None:
    t = T0 + 12345
    assert resolve_stamp(t & 0xFFFF, t + ahead) == t


def test_a_negative_stamp_is_an_age() -> None:
    assert resolve_stamp(-1, T0) == T0
    assert resolve_stamp(-61, T0) == T0 - 60


cells = st.none() | st.integers(-(1 << 27), 1 << 27) | st.integers(-200, 200)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Batch, list[int], list[list[int | None]]]:
    ids = tuple(draw(st.lists(st.integers(1, 2000), min_size=1, max_size=16, unique=True)))
    interval = draw(st.sampled_from([0, 0, 1, 60, 300, 25, 3, 86400]))
    rows = draw(st.lists(st.lists(cells, min_size=len(ids), max_size=len(ids)), min_size=1, max_size=40))
    batch = Batch(ids, None, interval, 240)
    t = draw(st.integers(500_000_000, 1_000_000_000))
    times = []
    for row in rows:
        present = sum(1 << c for c, v in enumerate(row) if v is not None)
        batch.append(t, [v or 0 for v in row], present)
        times.append(t + EPOCH_2000)
        jitter = draw(st.sampled_from([0, 0, 0, 1, -1, 40]))
        t += max(interval + jitter, 0)
    return batch, times, rows


@given(batches(), st.booleans())
def test_every_batch_the_node_can_write_is_read_back(
    made: tuple[Batch, list[int], list[list[int | None]]], plain: bool
) -> None:
    batch, times, rows = made
    buf = bytearray(12000)
    payload = bytes(buf[: (batch.encode_plain if plain else batch.encode)(buf, 0, 11900)])
    found = decode(payload, T0, {})
    assert found.ids == batch.ids
    assert list(found.times) == times
    assert [list(row) for row in zip(*found.columns, strict=True)] == rows


@given(st.binary(max_size=300))
def test_any_bytes_give_a_value_or_a_typed_refusal(data: bytes) -> None:
    for read in (lambda: decode(data, T0, {}), lambda: decode_alarm(data, T0), lambda: decode_status(data)):
        try:
            read()
        except Unreadable as e:
            assert e.reason in ("malformed", "unknown_schema")


@given(st.data())
def test_a_damaged_report_never_raises_anything_else(data: st.DataObject) -> None:
    payload = bytearray(report(T0, [[3, 5, None, 231, 631, 121], [9, 9, 9, 231, None, 120], [3, 5, 5, 230, 631, 120]]))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = decode(bytes(payload[: data.draw(st.integers(0, len(payload)))]), T0, {})
    except Unreadable:
        return
    assert 1 <= len(found.times) <= 240 and all(len(c) == len(found.times) for c in found.columns)


@given(st.binary(max_size=80))
def test_the_gateways_reader_takes_exactly_what_the_nodes_reader_takes(data: bytes) -> None:
    from motewire.errors import WireError

    try:
        expected: Any = motewire_read(data, 0, len(data))
    except (WireError, ValueError):
        expected = WireError
    try:
        found: Any = cbor.load(data)
    except Malformed:
        found = WireError
    assert found == expected


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 32), (1 << 32) - 1) | st.binary(max_size=30) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.integers(0, 1 << 20), inner, max_size=5),
    max_leaves=12,
)


@given(values)
def test_what_a_strict_encoder_writes_is_read(value: Any) -> None:
    try:
        assert cbor.load(cbor2.dumps(value, canonical=True)) == value
    except Malformed as e:
        assert "deep" in str(e)


BAD = {
    "trailing byte": "85031a6955b9000803" + "50" + BITS + "00",
    "left-over bits": "85031a6955b9000803" + "51" + BITS + "00",
    "padding not zero": "85031a6955b9000803" + "50" + BITS[:-1] + "1",
    "bits exhausted": "85031a6955b9000803" + "4f" + BITS[:-2],
    "no rows": "85031a6955b9000800" + "50" + BITS,
    "too many rows": "85031a6955b9000818f1" + "50" + BITS,
    "EG prefix too long": "85011a6955b9000801" + "48" + "00" * 8,
    "longer head than needed": "85031b000000006955b9000803" + "50" + BITS,
    "indefinite length": "9f031a6955b9000803" + "50" + BITS + "ff",
    "float stamp": "8503fb41da5570000000000803" + "50" + BITS,
    "tagged stamp": "8503c11a6955b9000803" + "50" + BITS,
    "boolean rows": "85031a6955b90008f5" + "50" + BITS,
    "columns of different length": "84021a6955b90008858201018201018201018201018101",
    "too few columns": "84031a6955b900088503050518e7190277",
    "list of one row": "84011a6955b9000883810181018101",
    "rows without a grid": "84011a6955b9000083820101820101820101",
    "ext is no map": "85011a6955b90008014600000000000001",
    "no quantities": "85801a6955b90008014100",
    "quantity twice": "858204041a6955b90008014100",
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_reports_are_refused(name: str) -> None:
    with pytest.raises(Malformed):
        decode(bytes.fromhex(BAD[name]), T0, {})


def test_an_unknown_schema_is_told_apart_and_an_announced_one_is_read() -> None:
    payload = bytes.fromhex("8518c81a6955b90008014b")[:-1] + cbor2.dumps(b"\x43")
    with pytest.raises(Unreadable, match="schema 200") as e:
        decode(payload, T0, {})
    assert e.value.reason == "unknown_schema"
    batch = Batch((1,), 200, 60, 10)
    batch.append(T0 - EPOCH_2000, [215], 1)
    buf = bytearray(64)
    found = decode(bytes(buf[: batch.encode(buf, 0, 60)]), T0, {200: (1,)})
    assert (found.ids, found.columns) == ((1,), ((215,),))


def test_ext_and_unknown_status_keys_are_kept() -> None:
    payload = bytes((0x86,)) + bytes.fromhex("031a6955b9000803" + "50" + BITS) + cbor2.dumps({9: b"x"})
    assert decode(payload, T0, {}).ext == {9: b"x"}
    s = decode_status(cbor2.dumps({1: 5, 4: {200: [1, 2]}, 99: b"\x01"}))
    assert s.values == {"uptime": 5, "s99": "01"} and s.schemas == {200: (1, 2)}


CONTENT = st.recursive(
    st.none() | st.booleans() | st.text() | st.binary(max_size=9)
    | st.sampled_from([s * (1 << n) + d for n in (31, 32, 53, 63, 64, 70) for s in (1, -1) for d in (-1, 0, 1)]) | st.integers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=4), max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.integers(0, 40), CONTENT, max_size=6))
def test_whatever_a_status_says_can_be_stored_and_published(content: dict[int, object]) -> None:
    """A payload that only one of our libraries could hold would stop everyone else's frames with it."""
    try:
        status = decode_status(cbor2.dumps(content))
    except Malformed:
        return
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(status.values)) == msgspec.to_builtins(status.values)
    assert json.loads(msgspec.json.encode(status.values)) == msgspec.to_builtins(status.values)


@pytest.mark.parametrize("n", [1 << 63, (1 << 64) - 1, -(1 << 63) - 1, -(1 << 64)])
@pytest.mark.parametrize(
    "at", [lambda n: {3: n}, lambda n: {99: [{"a": n}]}, lambda n: {n: 1} if n > 0 else {3: {n: 1}}]
)
def test_an_integer_of_more_than_64_bits_is_malformed_wherever_it_stands(n: int, at: Callable[[int], object]) -> None:
    with pytest.raises(Malformed):
        decode_status(cbor2.dumps(at(n)))


def test_the_widest_integers_are_read() -> None:
    told = decode_status(cbor2.dumps({3: (1 << 63) - 1, 98: (1 << 63) - 1, 99: -(1 << 63)}))
    assert told.values == {"s98": (1 << 63) - 1, "s99": -(1 << 63)} and told.implausible == ("boots",)


@pytest.mark.parametrize("payload", [b"\x81" * 900, b"\xa1\x05" * 400, b"\x9a\xff\xff\xff\xff", b"\x99\x01\x01" + b"\x00" * 257, b"\xa1\x05\x63\xed\xa0\x80"])  # fmt: skip
def test_depth_items_and_broken_text_are_malformed(payload: bytes) -> None:
    with pytest.raises(Malformed):
        decode_status(payload)


def test_ages_and_low_bits_are_no_word_on_what_time_it_is() -> None:
    def absolute(stamp: object, interval: int = 60) -> bool:
        cells: list[object] = [5] if not isinstance(stamp, list) else [[5, 1]]
        return decode(cbor2.dumps([[6], stamp, interval, cells]), T0, {}).absolute

    assert absolute(T0) and absolute([T0, 30], 0)
    assert not absolute(-5) and not absolute(T0 & 0xFFFF) and not absolute([-60, 30], 0)

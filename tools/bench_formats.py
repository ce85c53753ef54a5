"""The payload formats that `citymote bench wire` compares, each in its most compact lawful spelling.

A format is a function (series, batch) -> bytes. Node identity is left to what carries the payload wherever the format allows it
(topic, frame header), so no rival pays for a name that ours does not; SenML must name its records and does, as shortly as possible.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import cbor2
from motewire import EPOCH_2000
from motewire.batch import MAX_ROWS, Batch

from tools.bench_series import Column, Row, Series

Rows = tuple[Row, ...]
SCHEMA = 3  # a one-byte schema number: every format but JSON and SenML is given a column list out of band
ENVELOPE = 13  # header with 2-byte node and counter, 8-byte tag

_ROOM = 48000  # 240 rows of 16 columns at 66 bits a value, and then some
_buf = bytearray(_ROOM + 16)


def json_rows(s: Series, b: Rows) -> bytes:
    """One object per row, no white space; a missing value is left out."""
    rows = []
    for t, values in b:
        row: dict[str, Any] = {"t": t}
        row.update((c.name, c.number(v)) for c, v in zip(s.columns, values, strict=True) if v is not None)
        rows.append(row)
    return json.dumps(rows, separators=(",", ":")).encode()


def _senml(s: Series, b: Rows) -> list[tuple[dict[str, Any], Column, int]]:
    """RFC 8428 records column by column: base name and unit once per column, base time once, later times relative."""
    records: list[tuple[dict[str, Any], Column, int]] = []
    for i, c in enumerate(s.columns):
        first = True
        for t, values in b:
            v = values[i]
            if v is None:
                continue
            record: dict[str, Any] = {}
            if first:
                record["bn"] = f"n17:{c.name}"
                if c.unit:
                    record["bu"] = c.unit
                if not records:
                    record["bt"] = b[0][0]
                first = False
            if t != b[0][0]:
                record["t"] = t - b[0][0]
            record["v"] = c.number(v)
            records.append((record, c, v))
    return records


def senml_json(s: Series, b: Rows) -> bytes:
    """SenML in JSON, one pack a batch."""
    return json.dumps([r for r, _, _ in _senml(s, b)], separators=(",", ":")).encode()


_LABELS = {"bn": -2, "bt": -3, "bu": -4, "v": 2, "t": 6}


def _exact(c: Column, raw: int) -> bytes:
    """The shortest CBOR number that becomes the identical double: integer, half, single, decimal fraction (tag 4), double."""
    value = c.number(raw)
    if isinstance(value, int):
        return cbor2.dumps(value)
    if value == int(value):
        found = [cbor2.dumps(int(value))]
    else:
        found = [b"\xfb" + struct.pack(">d", value)]
    mantissa, exponent = raw + c.offset, c.exponent
    while mantissa % 10 == 0 and mantissa:
        mantissa, exponent = mantissa // 10, exponent + 1
    found.append(b"\xc4\x82" + cbor2.dumps(exponent) + cbor2.dumps(mantissa))
    found += [p for p, back in _floats(value) if back == value]
    return min(found, key=len)


def _rounded(c: Column, raw: int) -> bytes:
    """The shortest CBOR number within a quarter of a step: one step can still be told from the next, the double is another one."""
    value = c.number(raw)
    if isinstance(value, int):
        return cbor2.dumps(value)
    found = [p for p, back in _floats(value) if abs(back - value) <= 10.0**c.exponent / 4]
    return found[0] if found else b"\xfb" + struct.pack(">d", value)


def _floats(value: float) -> list[tuple[bytes, float]]:
    """Half and single precision spellings of a value that they can hold, and what they say."""
    out = []
    for head, code in ((b"\xf9", ">e"), (b"\xfa", ">f")):
        try:
            packed = struct.pack(code, value)
        except OverflowError:
            continue
        out.append((head + packed, struct.unpack(code, packed)[0]))
    return out


def _senml_cbor(s: Series, b: Rows, number: Callable[[Column, int], bytes]) -> bytes:
    records = _senml(s, b)
    out = bytearray(cbor2.dumps([None] * len(records))[: -len(records) or None])
    for record, c, raw in records:
        out.append(0xA0 | len(record))
        for label, value in record.items():
            out += cbor2.dumps(_LABELS[label])
            out += number(c, raw) if label == "v" else cbor2.dumps(value)
    return bytes(out)


def senml_cbor(s: Series, b: Rows) -> bytes:
    """SenML in CBOR, as lossless as every other format here: RFC 8428 section 6 wants a number that converts to the identical
    double as the JSON number; the shortest such spelling is taken, decimal fractions included."""
    return _senml_cbor(s, b, _exact)


def senml_cbor_rounded(s: Series, b: Rows) -> bytes:
    """SenML in CBOR with numbers rounded to half or single precision wherever a quarter of a step allows: shorter, not lossless."""
    return _senml_cbor(s, b, _rounded)


def cayenne(s: Series, b: Rows) -> bytes:
    """Cayenne LPP: channel, type, value. A batch of more than one row carries its Unix time (type 133) with each row.

    Types: temperature 103, humidity 104 (half percents: coarser than ours, to its favour), barometer 115, percentage 120;
    others by their range: digital 0 (0..255), analog 2 (0.01, +-327.67), 101 (0..65535), else generic 100 (4 bytes).
    """
    out = bytearray()
    for t, values in b:
        if len(b) > 1:
            out += b"\x00\x85" + struct.pack(">I", t)
        for i, (c, v) in enumerate(zip(s.columns, values, strict=True)):
            if v is not None:
                out += bytes((i + 1,)) + _lpp(c, v + c.offset)
    return bytes(out)


def _lpp(c: Column, value: int) -> bytes:
    for quantity, head, low, high, code, step in _LPP:
        if c.quantity == quantity and low <= c.low and c.high <= high:
            return head + struct.pack(code, value // step)
    if c.exponent == 0 and c.low >= 0 and c.high <= 255:
        return b"\x00" + struct.pack(">B", value)
    if c.exponent == 0 and c.low >= 0 and c.high <= 65535:
        return b"\x65" + struct.pack(">H", value)
    if -2 <= c.exponent <= 0:
        step = 10 ** (2 + c.exponent)
        if max(-c.low, c.high) * step <= 32767:
            return b"\x02" + struct.pack(">h", value * step)
    return b"\x64" + struct.pack(">I", value & 0xFFFFFFFF)


# quantity, type byte, range it can hold in our steps, layout, our steps per step of the type
_LPP = (
    ("temperature", b"\x67", -32768, 32767, ">h", 1),
    ("humidity", b"\x68", 0, 1279, ">B", 5),
    ("pressure", b"\x73", 0, 65535, ">H", 1),
    ("fill_level", b"\x78", 0, 255, ">B", 1),
)


def varint(v: int) -> bytes:
    """A base-128 varint of v >= 0."""
    out = bytearray()
    while v > 127:
        out.append(v & 127 | 128)
        v >>= 7
    out.append(v)
    return bytes(out)


def _zigzag(v: int) -> int:
    return v << 1 if v >= 0 else (-v << 1) - 1


def _field(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def protobuf_rows(s: Series, b: Rows) -> bytes:
    """`Batch {fixed32 t0 = 1; uint32 dt = 2; repeated Row row = 3}`, `Row {sint32 c1 = 1; ..; int64 since = n + 1}`.

    Scaled integers with the registry's offset, as ours; `since` (seconds after t0) only in irregular batches.
    """
    return _protobuf(s, b, [True] * len(s.columns))


def protobuf_unsigned(s: Series, b: Rows) -> bytes:
    """As `protobuf_rows`, with uint32 for each column that is never negative in the whole series: what hindsight would choose."""
    return _protobuf(s, b, [c.low < c.offset for c in s.columns])


def _protobuf(s: Series, b: Rows, signed: list[bool]) -> bytes:
    regular, t0 = s.regular(b), b[0][0]
    out = bytearray(_field(1, 5) + struct.pack("<I", t0))
    if regular and len(b) > 1:
        out += _field(2, 0) + varint(s.interval_s)
    for t, values in b:
        row = bytearray()
        if not regular and t != t0:
            row += _field(len(s.columns) + 1, 0) + varint(t - t0 & (1 << 64) - 1)
        for i, v in enumerate(values):
            if v is not None:
                row += _field(i + 1, 0) + varint(_zigzag(v) if signed[i] else v)
        out += _field(3, 2) + varint(len(row)) + row
    return bytes(out)


def cbor_maps(s: Series, b: Rows) -> bytes:
    """A CBOR array of one map per row: key 0 the Unix time, keys 1.. the scaled integers; each row stands alone."""
    return cbor2.dumps([{0: t, **{i + 1: v for i, v in enumerate(values) if v is not None}} for t, values in b])


def _batch(s: Series, b: Rows) -> Batch:
    batch = Batch(tuple(range(1, len(s.columns) + 1)), SCHEMA, s.interval_s, min(len(b), MAX_ROWS))
    for t, values in b:
        present = sum(1 << i for i, v in enumerate(values) if v is not None)
        batch.append(t - EPOCH_2000, [v or 0 for v in values], present)
    return batch


def plain(s: Series, b: Rows) -> bytes:
    """motewire's plain columns, absolute stamp: the very encoder of the node."""
    return bytes(_buf[: _batch(s, b).encode_plain(_buf, 0, _ROOM)])


def packed(s: Series, b: Rows) -> bytes:
    """motewire's packed columns, absolute stamp: the very encoder of the node."""
    return bytes(_buf[: _batch(s, b).encode(_buf, 0, _ROOM)])


Format = Callable[[Series, Rows], bytes]
FORMATS: dict[str, Format] = {
    "json": json_rows,
    "senml_json": senml_json,
    "senml_cbor": senml_cbor,
    "senml_cbor_rounded": senml_cbor_rounded,
    "cayenne_lpp": cayenne,
    "protobuf": protobuf_rows,
    "protobuf_unsigned": protobuf_unsigned,
    "cbor_maps": cbor_maps,
    "plain": plain,
    "packed": packed,
}

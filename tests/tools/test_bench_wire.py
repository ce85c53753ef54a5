"""`citymote bench wire`: its counts against independent decoders and hand-made bytes, its refusals, and the promise of the wire."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.report import decode
from tools.bench_formats import FORMATS, varint
from tools.bench_series import CsvError, Series, parse, shipped
from tools.bench_wire import _fill, bytes_per_row, entropy_floor, lora, report

CITYMOTE = str(Path(sys.executable).with_name("citymote"))
T0 = 1767225600

WORLD = "t,pm10,temp\n" + "".join(f"{T0 + 60 * i},{5 + i % 3},{20 + i % 7 / 10:.1f}\n" for i in range(48))


def citymote(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CITYMOTE, "bench", "wire", *arguments], capture_output=True, text=True, timeout=120)


def series_of(text: str, **scales: int) -> Series:
    return parse("x.csv", text, scales, None)


def test_packed_keeps_its_promise_on_the_shipped_series() -> None:
    done = citymote("--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["geometric_mean"]["packed_vs_protobuf"] <= 0.26
    assert found["geometric_mean"]["packed_vs_senml_cbor"] <= 0.13
    assert len(found["series"]) == 4
    for s in found["series"]:
        assert set(s["batches"]) == {"1", "6", "12", "24", "48"} and set(s["lora"]) == {f"SF{n}" for n in range(7, 13)}
        assert s["batches"]["24"]["packed"] > s["entropy_floor"] > 0


@pytest.mark.parametrize("name", [s.name for s in shipped()])
def test_what_is_counted_is_what_the_gateway_reads(name: str) -> None:
    """Packed and plain bytes of every batch decode, by the gateway's own reader, to the rows of the CSV."""
    series = next(s for s in shipped() if s.name == name)
    ids = tuple(range(1, len(series.columns) + 1))
    for batch in list(series.batches(12))[:60]:
        for form in ("packed", "plain"):
            payload = FORMATS[form](series, batch)
            # the schema number is only a byte here: read it as an announced one of the right width
            read = decode(b"%c\x18\x64%b" % (payload[0], payload[2:]), T0, {100: ids})
            assert list(zip(read.times, zip(*read.columns, strict=True), strict=True)) == list(batch)


def test_formats_say_what_the_csv_says() -> None:
    s = series_of("t,temp,n\n1767225600,21.5,7\n1767225660,,300\n1767225720,-0.3,0\n")
    (batch,) = s.batches(3)
    assert json.loads(FORMATS["json"](s, batch)) == [
        {"t": T0, "temp": 21.5, "n": 7},
        {"t": T0 + 60, "n": 300},
        {"t": T0 + 120, "temp": -0.3, "n": 0},
    ]
    pack = json.loads(FORMATS["senml_json"](s, batch))
    names = {"bn": -2, "bt": -3, "bu": -4, "v": 2, "t": 6}
    cbor = cbor2.loads(FORMATS["senml_cbor"](s, batch))
    assert [{label: float(r[names[label]]) if label == "v" else r[names[label]] for label in p}
            for p, r in zip(pack, cbor, strict=True)] == pack  # fmt: skip
    rounded = cbor2.loads(FORMATS["senml_cbor_rounded"](s, batch))
    assert rounded[1][2] == pytest.approx(-0.3, abs=0.025)
    assert cbor2.loads(FORMATS["cbor_maps"](s, batch)) == [
        {0: T0, 1: 215, 2: 7},
        {0: T0 + 60, 2: 300},
        {0: T0 + 120, 1: -3, 2: 0},
    ]
    assert FORMATS["cayenne_lpp"](s, batch).hex() == (
        "0085" + "6955b900" + "0167" + "00d7" + "0265" + "0007"
        + "0085" + "6955b93c" + "0265" + "012c"
        + "0085" + "6955b978" + "0167" + "fffd" + "0265" + "0000"
    )  # fmt: skip


def test_protobuf_is_what_a_protobuf_parser_reads() -> None:
    s = series_of(WORLD)
    (batch, _) = s.batches(24)
    fields = list(protobuf_fields(FORMATS["protobuf"](s, batch)))
    assert fields[0] == (1, T0) and fields[1] == (2, 60)
    rows = [[unzigzag(v) for _, v in protobuf_fields(row)] for number, row in fields[2:] if number == 3]
    assert rows == [list(values) for _, values in batch]


def protobuf_fields(data: bytes) -> list[tuple[int, Any]]:
    """A reader of the protobuf wire format, apart from the writer under test."""
    out, at = [], 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = number()
        match tag & 7:
            case 0:
                out.append((tag >> 3, number()))
            case 5:
                out.append((tag >> 3, int.from_bytes(data[at : at + 4], "little")))
                at += 4
            case 2:
                size = number()
                out.append((tag >> 3, data[at : at + size]))
                at += size
            case other:
                raise AssertionError(other)
    return out


def unzigzag(u: int) -> int:
    return u >> 1 if not u & 1 else -(u >> 1) - 1


@given(st.integers(0, 2**40))
def test_a_varint_is_as_long_as_its_bits_need(v: int) -> None:
    assert len(varint(v)) == max(1, -(-v.bit_length() // 7))


def test_scales_are_found_from_the_data_or_given() -> None:
    text = "t,a,b,c\n1767225600,1.50,7,1e3\n1767225660,-0.25,8.0,0\n"
    assert [c.exponent for c in series_of(text).columns] == [-2, 0, 0]
    given = series_of(text, a=-1, c=2)
    assert [c.exponent for c in given.columns] == [-1, 0, 2]
    assert given.parts[0][0][1] == (15, 7, 10)


def test_awkward_series_are_taken_and_what_was_done_is_said() -> None:
    back = series_of("t,a\n100.4,1\n160.2,NA\n130,-3\n")
    assert back.parts[0][0][0] >= 946684800 and len(back.notes) == 3, back.notes
    big = series_of("t,a\n1767225600,123456789012.5\n1767225700,1\n")
    assert big.columns[0].exponent > 0 and "rounded" in big.notes[0]
    empty = series_of("t,a,b\n2026-01-01T00:00:00Z,,1\n2026-01-01T01:00:00+01:00,,2\n")
    assert empty.parts[0][0] == (T0, (None, 1)) and empty.parts[0][1][0] == T0
    for s in (back, big, empty):
        found = report([s])
        assert found["series"][0]["batches"]["1"]["rows"] == s.rows


@given(
    st.lists(
        st.tuples(
            st.integers(0, 10**6),
            st.none() | st.decimals(-(10**6), 10**6, places=2),
            st.none() | st.integers(-(2**27), 2**27),
        ),
        min_size=1,
        max_size=30,
    ),
    st.permutations(["temp", "humidity", "pres", "fill_level", "pm25", "x"]),
)
def test_any_numbers_can_be_judged(rows: list[tuple[int, Any, int | None]], names: list[str]) -> None:
    lines = [f"{T0 + t},{'' if a is None else a},{'' if b is None else b}" for t, a, b in rows]
    s = series_of(f"t,{names[0]},{names[1]}\n" + "\n".join(lines) + "\n")
    found = bytes_per_row(s, len(rows))
    assert found is not None and found["packed"] > 0 and entropy_floor(s) >= 0
    batch = next(iter(s.batches(len(rows))))
    for form in ("packed", "plain"):
        payload = FORMATS[form](s, batch)
        read = decode(b"%c\x18\x64%b" % (payload[0], payload[2:]), T0, {100: (1, 2)})
        assert list(zip(read.times, zip(*read.columns, strict=True), strict=True)) == list(batch)


def wild(columns: int, calm_rows: int, wild_rows: int) -> Series:
    """Rows of zeros, then rows whose every column jumps over the whole range."""
    lines = [f"{T0 + 60 * i}," + ",".join(["0"] * columns) for i in range(calm_rows)]
    for i in range(calm_rows, calm_rows + wild_rows):
        lines.append(f"{T0 + 60 * i}," + ",".join([str((-1) ** i * 2**27)] * columns))
    return series_of("t," + ",".join(f"c{i}" for i in range(columns)) + "\n" + "\n".join(lines) + "\n")


def test_the_widest_payload_there_is_can_be_counted() -> None:
    s = wild(16, 120, 120)
    (batch,) = s.batches(240)
    assert all(len(encode(s, batch)) > 3000 for encode in FORMATS.values())


def test_frames_after_a_change_of_weather_are_as_full_as_they_get() -> None:
    """The search for the longest batch that fits must come down from 240 calm rows to one wild one, and never overfill."""
    s = wild(4, 480, 20)
    runs = [list(part) for part in s.parts]
    for name in ("packed", "protobuf", "cayenne_lpp"):
        frames, at = _fill(s, name, runs, 209), 0
        for count, size in frames:
            assert size == len(FORMATS[name](s, tuple(runs[0][at : at + count]))) <= 209
            if count < 240 and at + count < len(runs[0]):
                assert len(FORMATS[name](s, tuple(runs[0][at : at + count + 1]))) > 209
            at += count
        # 30 B a row of LPP (time 6, columns 6 each); 10 B a row of protobuf behind 7 B
        assert frames[0][0] == {"packed": 240, "protobuf": 20, "cayenne_lpp": 6}[name]


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("", 1, "1", "empty"),
        ("time,a\n1,2\n", 1, "1", "'time'"),
        ("t\n1\n", 1, "2", "no column"),
        ("t,a,a\n1,2,3\n", 1, "a", "two columns"),
        ("t,a,\n1,2,3\n", 1, "3", "without a name"),
        ("t,a\n", 1, "", "no rows"),
        ("t,a\n1,2\n2,x\n", 3, "a", "'x' is no number"),
        ("t,a\n1,2\n2,inf\n", 3, "a", "no number"),
        ("t,a\nsoon,2\n", 2, "t", "'soon' is no time"),
        ("t,a\n1767225600000,2\n", 2, "t", "2106"),
        ("t,a,b\n1,2\n", 2, "b", "2 cells"),
        ("t," + ",".join(f"c{i}" for i in range(17)) + "\n", 1, "c16", "at most 16"),
    ],
)
def test_a_bad_csv_is_named_with_line_and_column(text: str, line: int, column: str, words: str) -> None:
    with pytest.raises(CsvError, match=words) as e:
        series_of(text)
    assert (e.value.line, e.value.column) == (line, column) and "x.csv" in str(e.value) and e.value.hint


def test_a_scale_that_cannot_hold_the_values_is_refused() -> None:
    with pytest.raises(CsvError, match=r"line 3, column a: 900000 at scale 10\^-3 is beyond 2\^27"):
        series_of("t,a\n1,5\n2,900000\n", a=-3)


def test_refusals_reach_the_shell(tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("t,a\n1,2\n3,x\n")
    done = citymote(bad, "--json")
    refusal = json.loads(done.stdout)
    assert done.returncode == 1 and refusal["error"] == "bad_csv" and refusal["ok"] is False
    assert str(bad) in refusal["text"] and "line 3" in refusal["text"] and "column a" in refusal["text"]
    assert citymote(tmp_path / "none.csv").returncode == 1
    assert citymote(bad, "--scale", "a").returncode == 2
    good = tmp_path / "good.csv"
    good.write_text(WORLD)
    done = citymote(good, "--scale", "nope=1")
    assert done.returncode == 1 and "nope" in done.stderr and "pm10, temp" in done.stderr
    done = citymote(good)
    assert done.returncode == 0 and "good.csv" in done.stdout and "SF12" in done.stdout


def test_the_entropy_floor_is_the_entropy_of_the_deltas() -> None:
    """Deltas 1, 1, 1, -3 over and over: 0.811 bits each."""
    values = [i % 4 for i in range(4001)]
    s = series_of("t,a\n" + "".join(f"{T0 + 60 * i},{v}\n" for i, v in enumerate(values)))
    assert entropy_floor(s) * 8 == pytest.approx(-(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75)), rel=1e-3)


def test_lora_rows_follow_from_frame_limit_and_time_on_air() -> None:
    """One 4-byte-a-row format by hand: LPP of one u16 column needs 10 B a row, so 3 rows in the 38 B that SF12 leaves."""
    s = series_of("t,n\n" + "".join(f"{T0 + 60 * i},{300 + i}\n" for i in range(31)))
    sf12 = lora(s)["SF12"]
    assert sf12["frame_limit"] == 51 and sf12["rows_per_frame"]["cayenne_lpp"] == 3
    # 43 B at SF12: 2301.952 ms by the SX1276 formula (53 payload symbols)
    symbols = 8 + math.ceil((8 * 43 - 48 + 44) / 40) * 5
    seconds = (12.25 + symbols) * 4096 / 125000
    assert sf12["rows_per_hour"]["cayenne_lpp"] == pytest.approx(3 * 36 / seconds, abs=0.06)


def test_times_are_read_as_utc() -> None:
    assert datetime.fromtimestamp(T0, UTC).isoformat() == "2026-01-01T00:00:00+00:00"
    assert series_of("t,a\n2026-01-01T00:00:00,1\n").parts[0][0][0] == T0

"""`citymote bench wire`: bytes per row of each format on any series, and what they mean for LoRa at 1 % duty cycle."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from motewire.batch import MAX_ROWS
from motewire.frame import max_frame
from rich.console import Console
from rich.table import Table

from gateway.core.airtime import time_on_air_us
from tools.bench_formats import ENVELOPE, FORMATS
from tools.bench_series import CsvError, Row, Series, read, shipped
from tools.report import FAILED, USAGE, document, fail

BATCH_ROWS = (1, 6, 12, 24, 48)
COMPARED_AT = 24
SPREADING_FACTORS = range(7, 13)
DUTY_US = 36_000_000  # 1 % of an hour
LORA_ROWS = 2000  # rows of a node that are cut into LoRa frames: more do not change the mean


def measure(series: Series) -> dict[str, Any]:
    """Everything about one series; sizes in bytes, rates in rows."""
    return {
        "series": series.name,
        "rows": series.rows,
        "nodes": len(series.parts),
        "interval_s": series.interval_s,
        "columns": [{"name": c.name, "exponent": c.exponent, "offset": c.offset} for c in series.columns],
        "notes": list(series.notes),
        "entropy_floor": round(entropy_floor(series), 2),
        "batches": {str(n): bytes_per_row(series, n) for n in BATCH_ROWS},
        "lora": lora(series),
    }


def bytes_per_row(series: Series, size: int) -> dict[str, Any] | None:
    """Payload bytes per row over all full batches of `size` rows, and packed with the frame's 13 bytes; None without a full batch."""
    totals, batches = dict.fromkeys(FORMATS, 0), 0
    for batch in series.batches(size):
        batches += 1
        for name, encode in FORMATS.items():
            totals[name] += len(encode(series, batch))
    if not batches:
        return None
    rows = batches * size
    out: dict[str, Any] = {name: round(total / rows, 3) for name, total in totals.items()}
    return {"rows": rows, **out, "packed_secured": round((totals["packed"] + ENVELOPE * batches) / rows, 3)}


def entropy_floor(series: Series) -> float:
    """Order-0 entropy in bytes per row: of each column's deltas, of its gaps, and of the time steps when they are irregular.

    What a coder that knows the whole series' delta histogram beforehand, and costs nothing itself, would need.
    """
    bits = 0.0
    steps = [b[0] - a[0] for part in series.parts for a, b in zip(part, part[1:], strict=False)]
    rows = series.rows
    bits += _entropy(steps)
    for i in range(len(series.columns)):
        deltas: list[int] = []
        gaps: list[bool] = []
        for part in series.parts:
            values = [values[i] for _, values in part]
            gaps += [v is None for v in values]
            present = [v for v in values if v is not None]
            deltas += [b - a for a, b in zip(present, present[1:], strict=False)]
        bits += _entropy(deltas) + _entropy(gaps)
    return abs(bits) / rows / 8  # a constant's -0.0 is 0


def _entropy(symbols: Sequence[object]) -> float:
    """Bits that all the symbols together need under their own histogram."""
    total = len(symbols)
    return -sum(n * math.log2(n / total) for n in Counter(symbols).values())


def lora(series: Series) -> dict[str, Any]:
    """For SF7..SF12: frame limit, and for each format rows per frame and rows per hour at 1 %, every frame as full as it gets.

    All formats travel in the same 13-byte envelope. 0 where not even one row fits.
    """
    runs = [list(part[:LORA_ROWS]) for part in series.parts]
    filled = {
        limit: {name: _fill(series, name, runs, limit - ENVELOPE) for name in FORMATS}
        for limit in sorted({max_frame(sf) for sf in SPREADING_FACTORS})
    }
    out: dict[str, Any] = {}
    for sf in SPREADING_FACTORS:
        limit = max_frame(sf)
        entry: dict[str, Any] = {"frame_limit": limit, "rows_per_frame": {}, "rows_per_hour": {}}
        for name, frames in filled[limit].items():
            sent = sum(count for count, _ in frames)
            air = sum(time_on_air_us(size + ENVELOPE, sf) for _, size in frames)
            entry["rows_per_frame"][name] = round(sent / len(frames), 2) if frames else 0
            entry["rows_per_hour"][name] = round(sent * DUTY_US / air, 1) if frames else 0
        out[f"SF{sf}"] = entry
    return out


def _fill(series: Series, name: str, runs: Iterable[list[Row]], room: int) -> list[tuple[int, int]]:
    """Cut runs of rows into payloads of at most `room` bytes; return (rows, bytes) of each full one (the last of a run is left out).

    A format grows with its rows (packed almost always), so the longest batch is sought from the size of the one before, by doubling
    steps and then by halves.
    """
    encode = FORMATS[name]
    frames: list[tuple[int, int]] = []
    for run in runs:
        at, guess = 0, 1
        while at < len(run):
            most = min(MAX_ROWS, len(run) - at)
            sizes: dict[int, int] = {}

            def fits(count: int, at: int = at, run: list[Row] = run, sizes: dict[int, int] = sizes) -> bool:
                sizes[count] = len(encode(series, tuple(run[at : at + count])))
                return sizes[count] <= room

            fit, over, step = 0, most + 1, 1
            probe = min(guess, most)
            while over - fit > 1:
                if fits(probe):
                    fit, probe = probe, probe + step
                else:
                    over, probe = probe, probe - step
                step *= 2
                if not fit < probe < over:
                    probe, step = (fit + over) // 2, over
            if not fit:
                at += 1  # a row too long for any frame
                continue
            if fit < most or fit == MAX_ROWS or not frames:
                frames.append((fit, sizes[fit]))
            at += fit
            guess = fit
    return frames


def compare(measured: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Geometric means over the series of packed / rival at batches of 24, payload only; empty when no series has 24 rows."""
    found = [m["batches"][str(COMPARED_AT)] for m in measured]
    found = [f for f in found if f is not None]
    out: dict[str, float] = {}
    for name in FORMATS:
        if name != "packed" and found:
            mean = math.exp(sum(math.log(f["packed"] / f[name]) for f in found) / len(found))
            out[f"packed_vs_{name}"] = round(mean, 4)
    return out


def report(series: Sequence[Series]) -> dict[str, Any]:
    """The one JSON document."""
    measured = [measure(s) for s in series]
    return {
        "ok": True,
        "unit": "bytes per row, payload only; packed_secured with the 13 bytes of header and tag",
        "compared_at_rows": COMPARED_AT,
        "geometric_mean": compare(measured),
        "series": measured,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """The same for people."""
    names = ["entropy_floor", "packed", "packed_secured", *[n for n in reversed(FORMATS) if n != "packed"]]
    for m in result["series"]:
        kind = f"every {m['interval_s']} s" if m["interval_s"] else "events"
        columns = ", ".join(f"{c['name']} (10^{c['exponent']})" for c in m["columns"])
        title = f"{m['series']}: {m['rows']} rows, {kind}; {columns}"
        table = Table(title=title, title_justify="left")
        table.add_column("batch", justify="right")
        for name in names:
            table.add_column(name.replace("_", " "), justify="right")
        for size, row in m["batches"].items():
            if row is not None:
                cells = [m["entropy_floor"] if n == "entropy_floor" else row[n] for n in names]
                table.add_row(size, *(f"{c:.2f}" for c in cells))
        console.print(table)
        for note in m["notes"]:
            console.print(f"  note: {note}", highlight=False)
        table = Table(title="LoRa, 13-byte envelope: rows per frame / rows per hour at 1 %", title_justify="left")
        table.add_column("")
        table.add_column("limit", justify="right")
        for name in names[1:]:
            if name != "packed_secured":
                table.add_column(name.replace("_", " "), justify="right")
        for sf, e in m["lora"].items():
            cells = (f"{e['rows_per_frame'][n]:g} / {e['rows_per_hour'][n]:.0f}" for n in names[1:] if n in FORMATS)
            table.add_row(sf, f"{e['frame_limit']} B", *cells)
        console.print(table)
    for key, value in result["geometric_mean"].items():
        console.print(f"geometric mean at {result['compared_at_rows']} rows, {key.replace('_', ' ')}: {value}")


def _scales(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    out: dict[str, int] = {}
    for value in values:
        column, sign, exponent = value.rpartition("=")
        try:
            out[column] = int(exponent)
        except ValueError:
            sign = ""
        if not sign or not column or not -9 <= out[column] <= 9:
            raise click.BadParameter(f"{value!r} is not COLUMN=EXPONENT with an exponent of -9..9, such as temp=-1")
    return out


@click.command("wire")
@click.argument("files", nargs=-1, metavar="[CSV ...]", type=click.Path(path_type=Path))
@click.option(
    "--scale", "scales", multiple=True, callback=_scales, metavar="COL=EXP", help="Resolution of a column: 10^EXP."
)
@click.option("--by", metavar="COL", help="Column that tells the nodes of a file apart (not sent).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(files: tuple[Path, ...], scales: dict[str, int], by: str | None, as_json: bool) -> None:
    """Bytes per row of each format on each CSV (header: t, then one column per quantity), or on the shipped series.

    Scales that are not given are found: the fewest decimals that say every value. Empty cells are missing values.
    """
    if not files and (scales or by):
        fail("usage", "--scale and --by need CSV files", hint="name the files", as_json=as_json, code=USAGE)
    try:
        series = [_read(f, scales, by, alone=len(files) == 1) for f in files] if files else shipped()
    except CsvError as e:
        fail("bad_csv", str(e), hint=e.hint, as_json=as_json, code=FAILED)
    result = report(series)
    if as_json:
        document(result)
    else:
        show(result, Console(width=None if Console().is_terminal else 200))


def _read(path: Path, scales: dict[str, int], by: str | None, *, alone: bool) -> Series:
    """With several files, a --scale need only fit those that have the column."""
    if alone:
        return read(path, scales, by)
    try:
        with path.open(encoding="utf-8-sig") as f:
            header = f.readline().strip().split(",")
    except (OSError, UnicodeDecodeError):
        header = list(scales)  # read() says what is wrong
    return read(path, {c: e for c, e in scales.items() if c in header}, by if by in header else None)

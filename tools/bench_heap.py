"""`citymote bench heap`: G6 in bytes: what the whole application of each profile holds on a VM with an ESP32's object sizes."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from host_sim.boards import WAYS
from host_sim.compile import CompileError
from host_sim.romfs import ImageError
from host_sim.vm32.heap import CASES, HeapError, Measured, least
from host_sim.vm32.held import HELD
from host_sim.vm32.run import No32BitVm
from tools.report import FAILED, USAGE, document, fail, split_hint

HINT = "install Node.js >= 18 with npm, then run make bench"


@click.command("heap")
@click.option(
    "--driver",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    envvar="CITYMOTE_LORA_DRIVER",
    help="Folder with micropython-lib's lora/ (also: $CITYMOTE_LORA_DRIVER): its share is measured. Without: what it was when it was.",
)
@click.option("--way", type=click.Choice([*WAYS, "both"]), default="both", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(driver: Path | None, way: str, as_json: bool) -> None:
    """Bytes of heap that each profile's application and radio driver hold on the 32-bit VM: built, and after hours without a gateway, collected.
    Where that is more than its ceiling, two more layouts are tried: which garbage a word points at by chance is another in each.

    mpy: files on the file system, whose bytecode is loaded; romfs: an image that runs in place.
    """
    found: list[Measured] = []
    status = Console(stderr=True)
    try:
        with status.status("the 32-bit VM starts") as spinner:
            for each in WAYS if way == "both" else (way,):
                for profile, link in CASES:
                    spinner.update(f"{profile} on {link} from {each}")
                    found.append(least(profile, link, each, HELD[profile, link, each], driver=driver))
    except No32BitVm as e:
        fail("no_32_bit_vm", str(e), hint=HINT, as_json=as_json, code=FAILED)
    except ImageError as e:
        text, hint = split_hint(str(e))
        fail("image", text, hint=hint, as_json=as_json, code=USAGE)
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
        document(
            {
                "ok": True,
                "unit": "bytes, gc.mem_alloc() after a collection on the 32-bit VM less what the stand-ins hold, with the radio driver's share; of at most three layouts the least",
                "rows": [m.document() for m in found],
            }
        )
        return
    console = Console(width=None if Console().is_terminal else 120, highlight=False)
    table = Table(title="heap held on the 32-bit VM, bytes, with the radio driver", title_justify="left")
    for name in ("profile", "link", "way"):
        table.add_column(name)
    for name in ("built", "after hours", "held then", "of it the driver", "rows", "frames"):
        table.add_column(name, justify="right")
    for m in found:
        last = m.held[-1]
        numbers = (m.held[0].bytes, last.hours, last.bytes, m.driver, last.rows, last.frames)
        table.add_row(m.profile, m.link, m.way, *(f"{n:,}" for n in numbers))
    console.print(table)

"""`citymote boards check`: does a profile fit a board."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from host_sim import fits
from host_sim.boards import BoardError
from tools.report import DONE, FAILED, USAGE, document, fail


@click.group("boards")
def command() -> None:
    """Boards as data (boards/*.toml)."""


@command.command("check")
@click.argument("board")
@click.option(
    "--profile", required=True, help="What the node measures: air_quality, noise, water_meter, parking, bin_fill."
)
@click.option("--link", type=click.Choice(fits.LINKS), help="Without: LoRa when the board has a radio.")
@click.option("--image", help="The MicroPython image on it, when it is not the board's own: ESP32_GENERIC_S3.")
@click.option("--tls", is_flag=True, help="The connection to the broker over WiFi is encrypted.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def check(board: str, profile: str, link: str | None, image: str | None, tls: bool, as_json: bool) -> None:
    """Say whether a profile fits BOARD: its chips on the board's buses, pins that the chip has and the image leaves, its heap in what
    the board leaves. Exit code 1: it does not.

    The heap is what `citymote bench heap` measured on the 32-bit VM, with the radio driver; nothing was tried on a board.

    Example: citymote boards check esp32_generic --profile noise --link wifi
    """
    try:
        verdict = fits.check(board, profile, link=link, tls=tls, image=image)
    except BoardError as e:
        fail("board", str(e), hint="citymote boards check --help", as_json=as_json, code=USAGE)
    if as_json:
        document(_document(verdict))
    else:
        _print(verdict)
    raise SystemExit(DONE if verdict.ok else FAILED)


def _document(v: fits.Verdict) -> dict[str, Any]:
    return {
        "ok": v.ok,
        "board": v.board,
        "profile": v.profile,
        "link": v.link,
        "tls": v.tls,
        "refusals": list(v.refusals),
        "ways": [{"way": f.way, "held": f.held, "need": f.need, "left": f.left, "fits": f.fits} for f in v.ways],
        "advice": list(v.advice),
    }


def _print(v: fits.Verdict) -> None:
    console = Console(width=None if Console().is_terminal else 120, highlight=False)
    table = Table(title=f"{v.profile} on {v.board}, {'WiFi with TLS' if v.tls else v.link}", title_justify="left")
    for name in ("way", "held", "with room for garbage", "the board leaves", ""):
        table.add_column(name, justify="left" if name in ("way", "") else "right")
    for f in v.ways:
        table.add_row(f.way, f"{f.held:,}", f"{f.need:,}", f"{f.left:,}", "fits" if f.fits else "does not fit")
    console.print(table)
    for text in v.refusals:
        console.print(f"refused: {text}", soft_wrap=True, markup=False)
    for text in v.advice:
        console.print(f"next: {text}", soft_wrap=True, markup=False)

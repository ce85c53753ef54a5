"""`citymote image`: the firmware as a ROMFS image, with its SHA-256 and the manifest of the slot that takes it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from gateway.target import another, taken_by
from host_sim import boards, romfs
from host_sim import compile as mpy
from tools.report import FAILED, USAGE, document, fail, split_hint


@click.command("image")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The image; FILE.sha256 and FILE.json go beside it. Without: citymote-VERSION.romfs here.",
)
@click.option(
    "--driver",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    envvar="CITYMOTE_LORA_DRIVER",
    help="Folder with micropython-lib's lora/, which goes into the image (also: $CITYMOTE_LORA_DRIVER). Without: the board needs it elsewhere.",
)
@click.option("--board", default="esp32_generic", show_default=True, help="Whose radio chip the driver is taken for.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(out: Path | None, driver: Path | None, board: str, as_json: bool) -> None:
    """Compile the firmware and pack it for a slot of the partition `romfs`. The same sources give the same bytes.

    Example: citymote image --driver ~/lora --board lilygo_t3s3 --out node.romfs
    """
    for file in (*_beside(out), out) if out is not None else ():
        what = taken_by(file)
        if what is not None:
            text = f"{file} is {what}, in whose place no file is put"
            fail("not_written", text, hint=f"--out: {another(file, what)}", as_json=as_json, code=USAGE)
    try:
        made = build(driver, board)
    except (romfs.ImageError, boards.BoardError, mpy.CompileError) as e:
        text, hint = split_hint(str(e))
        hint = hint or "make lint names the file"
        fail("image", text, hint=hint, as_json=as_json, code=FAILED if isinstance(e, mpy.CompileError) else USAGE)
    path = out or Path(f"citymote-{made.version}.romfs")
    try:
        _write(path, made)
    except OSError as e:
        fail(
            "not_written",
            f"{e.filename}: {e.strerror}",
            hint="name another file with --out",
            as_json=as_json,
            code=FAILED,
        )
    room = 100 * len(made.data) / romfs.HALF
    if as_json:
        document(facts(path, made))
    else:
        print(
            f"{path}: version {made.version}, {made.files} files, {len(made.data)} bytes, {room:.0f} % of a slot of "
            f"{romfs.HALF}, SHA-256 {made.sha256}"
        )


def build(driver: Path | None, board: str) -> romfs.Image:
    """The image of the firmware, with the radio driver of `board` when a folder of it is given. ImageError, CompileError."""
    more: dict[str, bytes] = {}
    if driver is not None:
        radio = boards.load(board).get("radio")
        if radio is None:
            raise romfs.ImageError(f"board {board} has no radio; next: leave --driver out")
        more = romfs.driver_files(driver, radio["chip"])
    return romfs.image(mpy.compiled(mpy.firmware_root()), more)


def facts(path: Path, made: romfs.Image) -> dict[str, Any]:
    return {
        "ok": True,
        "file": str(path),
        "version": made.version,
        "files": made.files,
        "bytes": len(made.data),
        "slot_bytes": romfs.HALF,
        "sha256": made.sha256,
    }


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + ".json"), path.with_name(path.name + ".sha256")


def _write(path: Path, made: romfs.Image) -> None:
    """Each file in one step; the image last, so that it never lies there without its hash."""
    manifest, checksum = _beside(path)
    for file, data in (
        (manifest, made.manifest().encode() + b"\n"),
        (checksum, f"{made.sha256}  {path.name}\n".encode()),
        (path, made.data),
    ):
        new = file.with_name(f".{file.name}.new")
        new.write_bytes(data)
        os.replace(new, file)

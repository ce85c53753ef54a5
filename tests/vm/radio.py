"""Which tests run over the radio of a board, and over what: the stand-in of micropython-lib's `lora`, and the driver itself on a model of its chip (CPython side)."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from host_sim import boards, romfs

VARIABLE = "CITYMOTE_LORA_DRIVER"
BOARD = "esp32_generic"
FILES = ("test_engine_link.py", "test_standins_lora.py")  # of mpy/


def hw() -> dict[str, object]:
    """The board's radio as part of a hardware description."""
    return {"radio": boards.wiring(BOARD)["radio"]}


def missing() -> str | None:
    """Why the driver is not there, or None."""
    return None if os.environ.get(VARIABLE) else f"no driver: {VARIABLE} names no folder with micropython-lib's lora/"


@cache
def driver() -> Path:
    """Folder with the driver compiled. ImageError: the folder that was named does not hold it."""
    return romfs.driver_folder(Path(os.environ[VARIABLE]), boards.wiring(BOARD)["radio"]["chip"])

"""The gateway whose clock is set, also back: `python -m host_sim.set_gateway run --config FILE`.

In lockstep the gateway's time is the newest that a receiver has said, and never falls; a box in a cupboard is set by whoever sets it. Here a receiver's word
that is further off than two receivers are apart sets the clock, in either direction, and the gateway learns of it as from its host's clock.
"""

from __future__ import annotations

import importlib
import runpy
from typing import Any

APART_S = 5.0  # between the words of two receivers about one frame
SILENT_S = 330.0  # between two of one: they speak every 300 s

CLOCK = "gateway.clock"  # by its name: no part of the simulator is built on the gateway's modules


def heard(clock: Any, unix: float, receiver: str = "") -> None:
    """What LockstepClock.heard() does, and a step."""
    newest = clock._newest
    if newest is not None and -APART_S <= unix - newest <= 0:
        return
    clock._newest = unix
    if newest is not None and not 0 < unix - newest <= SILENT_S:
        clock.on_step(unix - newest)


if __name__ == "__main__":
    importlib.import_module(CLOCK).LockstepClock.heard = heard
    runpy.run_module("gateway", run_name="__main__", alter_sys=True)

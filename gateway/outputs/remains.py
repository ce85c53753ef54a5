"""What is left of a growing day file that someone has removed, cut or replaced: how many rows of which event, and which.

Rows are counted by event number, four bytes an event, so that a day of a large city fits in memory; which rows they are is read again
for the few events of which some are left and some are not.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.outputs.day import lines


class Remains:
    """Of events above `after` and up to `upto`; both are event numbers of the spool. Raises OSError. rows: of events up to `upto`, all of them."""

    def __init__(self, journal: Path, after: int, upto: int) -> None:
        self._journal, self._after = journal, after
        self._counts = array("I", bytes(array("I").itemsize * max(upto - after, 0)))
        self.rows = 0
        for seq, _ in lines(journal):
            if 0 <= seq <= upto:
                self.rows += 1
            if after < seq <= upto:
                self._counts[seq - after - 1] += 1

    def of(self, seq: int) -> int:
        """Return how many rows of an event are there."""
        return self._counts[seq - self._after - 1]

    def keys(self, seqs: set[int]) -> set[str]:
        """Return what the rows of some events are known by. Raises OSError."""
        return {key(row) for seq, row in lines(self._journal) if seq in seqs}


def key(row: Mapping[str, Any]) -> str:
    """What a row is known by: its id, and its time, since ids of older gateways lack the epoch and repeat under a new key."""
    return f"{row['id']} {row['t']}"

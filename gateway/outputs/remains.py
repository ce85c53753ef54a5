"""What is left of a growing day file that someone has removed, cut or replaced: how many rows of which event, and which.

Rows are counted by event number, four bytes an event, so that a day of a large city fits in memory; which rows they are is read again
for the few events of which some are left and some are not. A store that was restored or lost gives numbers again that stand in the file
already, for other events: rows of another store are known by what they are, whatever their number.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.outputs.day import lines


class Remains:
    """Of events above `after` and up to `upto`; both are event numbers of the spool. Raises OSError.

    ours: the tags of lines that this store has numbered. rows: of its events up to `upto`, all of them, and those of other stores. others: how
    many the latter are. theirs: what they are known by.
    """

    def __init__(self, journal: Path, after: int, upto: int, ours: frozenset[str]) -> None:
        self._journal, self._after, self._ours = journal, after, ours
        self._counts = array("I", bytes(array("I").itemsize * max(upto - after, 0)))
        self.theirs: set[str] = set()
        self.rows = self.others = 0
        for seq, life, row in lines(journal):
            if seq >= 0 and life not in ours:
                self.others += 1
                self.theirs.add(key(row))
            elif 0 <= seq <= upto:
                self.rows += 1
                if seq > after:
                    self._counts[seq - after - 1] += 1
        self.rows += self.others

    def of(self, seq: int) -> int:
        """Return how many rows of an event are there under its number."""
        return self._counts[seq - self._after - 1]

    def keys(self, seqs: set[int]) -> set[str]:
        """Return what the rows of some events are known by. Raises OSError."""
        return {key(row) for seq, life, row in lines(self._journal) if seq in seqs and life in self._ours}


def key(row: Mapping[str, Any]) -> str:
    """What a row is known by: its id, and its time, since ids of older gateways lack the epoch and repeat under a new key."""
    return f"{row['id']} {row['t']}"

"""All mistakes of a configuration at once, though every section's reader stops at its first.

A section is read again without the line that was wrong (or with an example in the place of what is missing), until it says nothing new.
So a reader stays plain code that raises ConfigError, and knows nothing of this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import tomli

from gateway.config.manual import example
from gateway.config.table import ConfigError, Table

MOST = 100  # mistakes that are told; who has more has taken the wrong file

T = TypeVar("T")


class Mistakes:
    """What was found wrong so far, in the order of the file. close() raises when there was anything."""

    def __init__(self) -> None:
        self.found: list[ConfigError] = []
        self._texts: set[str] = set()

    def note(self, e: ConfigError) -> None:
        """Enter a mistake; the same one twice counts once, and only the first MOST are kept."""
        if str(e) not in self._texts and len(self.found) < MOST:
            self._texts.add(str(e))
            self.found.append(e)

    def read(self, reader: Callable[[Table], T], t: Table) -> T | None:
        """Return what `reader` makes of a table; None, and every mistake noted, when it makes nothing of it."""
        sound = True
        told: set[str] = set()
        while True:
            try:
                made = reader(t)
                return made if sound else None
            except ConfigError as e:
                sound = False
                if e.missing is not None:
                    if e.missing not in told:
                        self.note(e)
                    sample = example(t.where, t.data.get("kind"), e.missing)
                    if sample is None or e.missing in t.data or e.where != t.where:
                        return None
                    t = t.without(**{e.missing: tomli.loads(f"x = {sample}")["x"]})
                    told.add(e.missing)
                    continue
                self.note(e)
                if e.key is None or e.where != t.where or e.key not in t.data or len(self.found) >= MOST:
                    return None
                told.add(e.key)
                t = t.without(e.key)

    def close(self) -> None:
        """Raise the first mistake, which carries the others."""
        if self.found:
            first, *more = self.found
            first.more = tuple(more)
            raise first

"""One row of `make guards` (guards.py)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Guard:
    """`before` must stand exactly once in `file`; it is replaced by `after`; `tests` (pytest arguments) must fail then."""

    promise: str
    what: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]

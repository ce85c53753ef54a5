"""Raw integers to physical values with a unit and a quality flag.

Gases are measured in ppb and published in ug/m3 at 293 K and 101.3 kPa, the reference state of Directives 2008/50/EC and (EU) 2024/2881
for gases: molar mass (46.0055, 47.9982 g/mol) over a molar volume of 24.0488 l/mol (R = 8.314462618 J/(mol K)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from motewire.quantities import QUANTITIES

from gateway.core.model import Column
from gateway.core.report import Report

INSTANCE = 256
TOGGLE = 21
GAS_UG_M3_PER_PPB = {"no2": 1.9130, "o3": 1.9959}


@dataclass(frozen=True, slots=True)
class Quantity:
    """How to read one quantity id: physical = (raw + offset) / divisor * factor; the valid range is given in raw values."""

    key: str
    unit: str
    offset: int = 0
    divisor: int = 1
    factor: float | None = None
    lowest: int | None = None
    highest: int | None = None

    def physical(self, raw: int) -> int | float:
        """Return the physical value, correctly rounded (division, never multiplication by 0.1)."""
        value = raw + self.offset
        if self.divisor != 1:
            value = value / self.divisor
        return value if self.factor is None else round(value * self.factor, 2)

    def is_valid(self, raw: int) -> bool:
        """True inside the registry's range; what lies outside is delivered and marked."""
        return (self.lowest is None or raw >= self.lowest) and (self.highest is None or raw <= self.highest)


_BASE = {row[0]: row for row in QUANTITIES}


@lru_cache(maxsize=1024)
def quantity_of(number: int) -> Quantity:
    """Return how to read a quantity id; 256 * i + id is instance i; an unknown one is `q<id>`, raw and without unit."""
    instance, base = divmod(number, INSTANCE)
    row = _BASE.get(base)
    if row is None:
        return Quantity(f"q{number}", "")
    _, key, unit, exponent, offset, low, high = row
    divisor = 10 ** max(-exponent, 0)
    factor = GAS_UG_M3_PER_PPB.get(key)
    return Quantity(
        key if not instance else f"{key}-{instance}",
        unit if factor is None else "ug/m3",
        offset,
        divisor,
        factor,
        round(low * divisor) - offset,
        round(high * divisor) - offset,
    )


def columns_of(report: Report, times: range) -> tuple[Column, ...]:
    """Return the report's columns in physical values.

    Rows outside the believable `times` (report.believable) are suspect throughout, and so is a report whose node had to estimate when
    it was taken.
    """
    doubtful = tuple(i for i, t in enumerate(report.times) if report.estimated or t not in times)
    return tuple(_column(number, cells, doubtful) for number, cells in zip(report.ids, report.columns, strict=True))


def _column(number: int, cells: Sequence[int | None], doubtful: tuple[int, ...]) -> Column:
    q = quantity_of(number)
    if (
        number % INSTANCE == TOGGLE
    ):  # WIRE.md section 5: every cell holds the state after the first row; each row flips it
        first = next((raw for raw in cells if raw is not None), None)
        doubtful = (*doubtful, *(i for i, raw in enumerate(cells) if raw is not None and raw != first))
        cells = tuple(None if raw is None else raw ^ (i & 1) for i, raw in enumerate(cells))
    if q.factor is None and None not in cells:  # most columns: no call per value
        offset, divisor = q.offset, q.divisor
        values: tuple[int | float | None, ...] = (
            tuple([raw + offset for raw in cells])  # type: ignore[operator]
            if divisor == 1
            else tuple([(raw + offset) / divisor for raw in cells])  # type: ignore[operator]
        )
    else:
        values = tuple([None if raw is None else q.physical(raw) for raw in cells])
    suspect = tuple([i for i, raw in enumerate(cells) if raw is not None and (i in doubtful or not q.is_valid(raw))])
    return Column(q.key, q.unit, values, suspect)

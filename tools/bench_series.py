"""Series for `citymote bench wire`: any CSV with a header `t` and one column per quantity, as rows of raw integers."""

from __future__ import annotations

import csv
import importlib.resources
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path

from motewire import EPOCH_2000
from motewire.batch import MAX_COLUMNS, MAX_VALUE
from motewire.quantities import EXPONENT, KEY, OFFSET, QUANTITIES, UNIT

MISSING = frozenset(("", "na", "nan", "null", "none"))
SHIFT_TO = 1767225600  # 2026-01-01: where a series without a calendar (t = 0, 60, 120 ...) is put
# what public data sets call a quantity of the registry
ALIASES = {
    "temp": "temperature",
    "dewp": "temperature",
    "pres": "pressure",
    "lamax": "lafmax",
    "l10": "la10",
    "l50": "la50",
    "l90": "la90",
    "volume_l": "water_volume",
    "flow_l_h": "water_flow",
    "fill_before": "fill_level",
    "fill_after": "fill_level",
    "occupancy": "count",
}
# series shipped with the simulator: file, column that separates one node's rows from another's, columns that belong to no node
SHIPPED = (
    ("air_beijing.csv", None),
    ("bin_edinburgh.csv", "bin"),
    ("parking_birmingham.csv", None),
    ("water_naples.csv", None),
)


class CsvError(Exception):
    """A CSV that cannot be taken as a series; the text names file, line and column."""

    def __init__(self, path: str, line: int, column: str, what: str, hint: str) -> None:
        where = path + (f", line {line}" if line else "") + (f", column {column}" if column else "")
        super().__init__(f"{where}: {what}")
        self.path, self.line, self.column, self.hint = path, line, column, hint


@dataclass(frozen=True, slots=True)
class Column:
    """One quantity: physical = (raw + offset) * 10**exponent. `low`, `high`: raw + offset over the whole series."""

    name: str
    unit: str
    exponent: int
    offset: int
    low: int
    high: int
    quantity: str | None = None

    def number(self, raw: int) -> int | float:
        """The physical value as one would print it: an int when there are no decimals."""
        value = raw + self.offset
        return value * 10**self.exponent if self.exponent >= 0 else value / 10**-self.exponent


Row = tuple[int, tuple[int | None, ...]]


@dataclass(frozen=True, slots=True)
class Series:
    """Time-stamped rows of raw integers; None is a missing value. `parts`: one run of rows per node.

    interval_s: what the node would be configured to: the commonest step when it makes up at least half of all steps (others are
    exceptions to it), else 0: the rows are events. notes: what was done to the data, for the reader.
    """

    name: str
    columns: tuple[Column, ...]
    parts: tuple[tuple[Row, ...], ...]
    interval_s: int
    notes: tuple[str, ...] = field(default=())

    @property
    def rows(self) -> int:
        """Rows in all."""
        return sum(map(len, self.parts))

    def batches(self, size: int) -> Iterator[tuple[Row, ...]]:
        """Yield every full batch of `size` rows, one after the other, never across two nodes."""
        for part in self.parts:
            for at in range(0, len(part) - size + 1, size):
                yield part[at : at + size]

    def regular(self, batch: tuple[Row, ...]) -> bool:
        """True when all steps inside the batch are the interval."""
        step = self.interval_s
        return step > 0 and all(b[0] - a[0] == step for a, b in zip(batch, batch[1:], strict=False))


def read(path: Path, scales: Mapping[str, int] | None = None, by: str | None = None) -> Series:
    """Read a CSV file. scales: column -> exponent; others are found. by: column that tells nodes apart. Raises CsvError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise CsvError(str(path), 1, "", f"not UTF-8 text (byte {e.start})", "save it as CSV in UTF-8") from None
    except OSError as e:
        raise CsvError(str(path), 0, "", e.strerror or str(e), "check the name and the rights of the file") from None
    return parse(str(path), text, scales or {}, by)


def shipped() -> list[Series]:
    """The series that the simulator replays."""
    folder = importlib.resources.files("host_sim").joinpath("data")
    series = []
    for name, by in SHIPPED:
        series.append(parse(name, folder.joinpath(name).read_text(encoding="utf-8"), {}, by))
    return series


def parse(name: str, text: str, scales: Mapping[str, int], by: str | None) -> Series:
    """Make a series of the text of a CSV file called `name`. Raises CsvError."""
    reader = csv.reader(text.splitlines())
    header = [h.strip() for h in next(reader, [])]
    _check_header(name, header, scales, by)
    key = header.index(by) if by else None
    wanted = [i for i in range(1, len(header)) if i != key]
    times: list[Decimal] = []
    owners: list[str] = []
    cells: list[list[Decimal | None]] = []
    lines: list[int] = []
    try:
        for row in reader:
            if not any(c.strip() for c in row):
                continue
            line = reader.line_num
            if len(row) != len(header):
                what = f"{len(row)} cells where the header has {len(header)} columns"
                raise CsvError(
                    name, line, header[min(len(row), len(header) - 1)], what, "give every row the same cells"
                )
            times.append(_time(name, line, row[0].strip()))
            owners.append(row[key] if key is not None else "")
            cells.append([_cell(name, line, header[i], row[i].strip()) for i in wanted])
            lines.append(line)
    except csv.Error as e:
        raise CsvError(name, reader.line_num, "", f"not CSV: {e}", "check the quotes on this line") from None
    if not times:
        raise CsvError(name, 1, "", "a header and no rows", "add rows: t, then one value per quantity")
    notes: list[str] = []
    seconds = _seconds(name, times, lines, notes)
    columns, raws = [], []
    for c, i in enumerate(wanted):
        column, raw = _column(name, header[i], [r[c] for r in cells], scales.get(header[i]), lines, notes)
        columns.append(column)
        raws.append(raw)
    parts: dict[str, list[Row]] = {}
    for owner, t, *values in zip(owners, seconds, *raws, strict=True):
        parts.setdefault(owner, []).append((t, tuple(values)))
    series = Series(name, tuple(columns), tuple(map(tuple, parts.values())), 0)
    return replace(series, interval_s=_interval(series, notes), notes=tuple(notes))


def _check_header(name: str, header: list[str], scales: Mapping[str, int], by: str | None) -> None:
    if not header or header[0] != "t":
        what = f"the first column is {header[0]!r}, not 't'" if header else "the file is empty"
        raise CsvError(name, 1, "1", what, "start with a header: t (Unix seconds), then one column per quantity")
    if len(header) - (by is not None) < 2:
        raise CsvError(name, 1, "2", "no column besides the time", "add one column per quantity")
    for i, column in enumerate(header):
        if not column:
            raise CsvError(name, 1, str(i + 1), "a column without a name", "name every column")
        if column in header[:i]:
            raise CsvError(name, 1, column, "two columns of this name", "name every column differently")
    if len(header) - 1 - (by is not None) > MAX_COLUMNS:
        what = f"{len(header) - 1} columns, and a report has at most {MAX_COLUMNS}"
        raise CsvError(name, 1, header[MAX_COLUMNS + 1], what, "split the series over two files")
    for column in (*scales, *((by,) if by else ())):
        if column not in header[1:]:
            raise CsvError(name, 1, column, "no such column", f"columns are {', '.join(header[1:])}")


def _time(name: str, line: int, cell: str) -> Decimal:
    try:
        t = Decimal(cell)
        if t.is_finite():
            return t
    except InvalidOperation:
        try:
            moment = datetime.fromisoformat(cell)
        except ValueError:
            pass
        else:
            return Decimal(int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()))
    raise CsvError(
        name, line, "t", f"{cell!r} is no time", "write Unix seconds, or ISO 8601 such as 2026-01-01T00:00:00Z"
    )


def _seconds(name: str, times: list[Decimal], lines: list[int], notes: list[str]) -> list[int]:
    whole = [int(t.to_integral_value()) for t in times]
    if any(t != w for t, w in zip(times, whole, strict=True)):
        notes.append("t rounded to whole seconds")
    low, high = min(whole), max(whole)
    shift = 0 if low >= EPOCH_2000 else SHIFT_TO - low
    if shift:
        notes.append("t shifted to start on 2026-01-01 (it begins before 2000)")
    if high + shift >= 1 << 32:
        line = lines[whole.index(high)]
        raise CsvError(name, line, "t", f"{high} is past the year 2106", "write Unix seconds, not milliseconds")
    return [t + shift for t in whole]


def _cell(name: str, line: int, column: str, cell: str) -> Decimal | None:
    if cell.lower() in MISSING:
        return None
    try:
        value = Decimal(cell)
    except InvalidOperation:
        value = None
    if value is None or not value.is_finite() or abs(value) >= Decimal(10) ** 18:
        hint = "write a number with a point, or leave the cell empty when there is no value"
        raise CsvError(name, line, column, f"{cell!r} is no number", hint)
    return value


def _column(
    name: str, header: str, cells: list[Decimal | None], exponent: int | None, lines: list[int], notes: list[str]
) -> tuple[Column, list[int | None]]:
    """Scale a column: by the given exponent, else by the smallest number of decimals that says every value."""
    present = [v for v in cells if v is not None]
    given = exponent is not None
    if exponent is None:
        exponent = min((0, *(_exponent(v) for v in present)))
    top = max(present, key=abs, default=Decimal(0))
    found = exponent
    while not given and abs(top.scaleb(-exponent)) > MAX_VALUE:
        exponent += 1
    if abs(top.scaleb(-exponent)) > MAX_VALUE:
        line = lines[cells.index(top)]
        what = f"{top} at scale 10^{exponent} is beyond 2^27, the most a cell holds"
        raise CsvError(name, line, header, what, f"give a coarser --scale {header}=EXPONENT")
    if exponent != found:
        notes.append(f"{header} rounded to steps of 10^{exponent}: at 10^{found} values are beyond 2^27")
    meta = {str(q[KEY]): q for q in QUANTITIES}.get(ALIASES.get(header, header))
    same = meta is not None and meta[EXPONENT] == exponent
    offset = int(meta[OFFSET]) if meta is not None and same else 0
    scaled = [None if v is None else int(v.scaleb(-exponent).to_integral_value()) for v in cells]
    numbers = [v for v in scaled if v is not None]
    column = Column(
        header,
        str(meta[UNIT]) if meta is not None else "",
        exponent,
        offset,
        min(numbers, default=0),
        max(numbers, default=0),
        str(meta[KEY]) if meta is not None and same else None,
    )
    return column, [None if v is None else v - offset for v in scaled]


def _exponent(v: Decimal) -> int:
    if not v:
        return 0
    exponent = v.normalize().as_tuple().exponent
    assert isinstance(exponent, int)  # infinities and NaN were refused
    return exponent


def _interval(series: Series, notes: list[str]) -> int:
    """The interval a node would be configured to: the commonest step when rows keep to it, 0 when they are occurrences."""
    steps = Counter(b[0] - a[0] for part in series.parts for a, b in zip(part, part[1:], strict=False))
    if not steps:
        return 0
    back = min(steps) < 0
    if back:
        notes.append("t goes back in places: sent as irregular rows")
    step = max((s for s in steps if s > 0), key=lambda s: (steps[s], -s), default=1)
    return step if back or steps[step] * 2 >= steps.total() else 0

"""Report payloads, packed and plain, to rows of raw integers (WIRE.md sections 2 and 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from motewire.codes import EXT_TIME, TIME_ESTIMATED
from motewire.interval import seconds_of
from motewire.schemas import SCHEMAS

from gateway.core import cbor
from gateway.core.bits import CONSTANT, BitStream, unzigzag
from gateway.core.refusals import Malformed, UnknownSchema

MAX_COLUMNS = 16
MAX_ROWS = 240
MAX_VALUE = 1 << 27
ABSOLUTE = 1 << 16
"""From here on a stamp is Unix seconds; below, their low 16 bits."""

FUTURE_S = 300
"""How far ahead of the gateway's clock a node's may be before its times are not believed."""

MAX_EVENTS = 240  # values of a report of events: each one is published by itself
PAST_S = 60 * 86_400
PAST_INTERVALS = 256
"""How old a row may be when it arrives: what an outbox of 256 frames (the firmware's default) can hold, 60 days at the least, which is
five times what hourly reports fill it with. Older ones come from a clock that was never set."""

OCCURRENCES = (17, 21)  # occupied, toggle: quantities that change by events
CONFIDENCE = 26  # says how sure an event is, and is none itself

Cells = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Rows in columns: times[i] and columns[c][i] belong together; ids[c] names the quantity. None is a missing value.

    events: the rows are occurrences (interval 0), not samples on a grid. absolute: the node knew the time, and did not count back from
    receipt.
    """

    ids: tuple[int, ...]
    times: tuple[int, ...]
    columns: tuple[Cells, ...]
    events: bool
    ext: Mapping[int, Any] | None = None
    absolute: bool = field(default=False, compare=False)

    @property
    def estimated(self) -> bool:
        """True when the node had to guess when the rows were taken."""
        return bool(self.ext) and self.ext.get(EXT_TIME) == TIME_ESTIMATED


def is_int(value: object) -> TypeGuard[int]:
    """True for an integer that is not a boolean."""
    return type(value) is int


def resolve_stamp(stamp: Any, received: float, clock: float | None = None) -> int:
    """Return Unix seconds for an absolute stamp, an age at `received`, or 16 bits of what the node's clock showed then (see decode)."""
    if not is_int(stamp):
        raise Malformed("stamp")
    now = int(received)
    if stamp < 0:
        t = now + 1 + stamp
    elif stamp >= ABSOLUTE:
        t = stamp
    else:
        newest = (now if clock is None else int(clock)) + FUTURE_S
        t = newest - (newest - stamp & 0xFFFF)
    return check_time(t)


def believable(received: float, interval_s: int) -> range:
    """Return the Unix times that a node which reports every interval_s may have measured at, of what is received at `received`."""
    now = int(received)
    return range(now - max(PAST_S, PAST_INTERVALS * interval_s), now + FUTURE_S + 1)


def check_time(t: int) -> int:
    """Return t, or raise Malformed if it is no 32-bit Unix time."""
    if not 0 <= t < 1 << 32:
        raise Malformed("time out of range")
    return t


def decode(
    payload: bytes, received: float, announced: Mapping[int, tuple[int, ...]], clock: float | None = None
) -> Report:
    """Decode a report payload received at `received`; `announced` are schemas the node has announced. Raises Unreadable.

    clock: what the node's clock shows at receipt as far as one knows, where it is another time.
    """
    item = cbor.load(payload)
    if not isinstance(item, list) or len(item) < 4:
        raise Malformed("a report is an array of at least 4")
    number = item[0] if is_int(item[0]) and item[0] not in SCHEMAS and item[0] in announced else None
    try:
        return _decode(item, received, announced, clock)
    except Malformed as e:
        if number is None:
            raise
        raise UnknownSchema(number, str(e)) from e  # the announcement may be what is wrong


def _decode(item: list[Any], received: float, announced: Mapping[int, tuple[int, ...]], clock: float | None) -> Report:
    packed = is_int(item[3])
    fixed = 5 if packed else 4
    if not fixed <= len(item) <= fixed + 1:
        raise Malformed("item count")
    ext = item[fixed] if len(item) > fixed else None
    if ext is not None and not is_uint_map(ext):
        raise Malformed("ext")
    if not is_int(item[2]) or not -(1 << 32) <= item[2] < 1 << 32:
        raise Malformed("interval")
    ids = _ids_of(item[0], announced)
    if packed:
        first = resolve_stamp(item[1], received, clock)
        times, columns = _packed(first, item[2], item[3], item[4], len(ids))
    else:
        stamp = item[1]
        first = resolve_stamp(stamp[0] if isinstance(stamp, list) and stamp else stamp, received, clock)
        times, columns = _plain(first, stamp, item[2], item[3], len(ids))
    for cells in columns:
        for v in cells:
            if v is not None and not -MAX_VALUE <= v <= MAX_VALUE:
                raise Malformed("value out of range")
    # interval 0 in plain form also means irregular samples, so there the quantity decides
    events = item[2] == 0 and (packed or ids[0] in OCCURRENCES)
    counted = [c for q, c in zip(ids, columns, strict=True) if q != CONFIDENCE] if events else []
    if sum(len(c) - c.count(None) for c in counted) > MAX_EVENTS:
        raise Malformed(f"more than {MAX_EVENTS} events")
    stamp = item[1][0] if isinstance(item[1], list) else item[1]
    return Report(ids, times, columns, events, ext, stamp >= ABSOLUTE)


def is_uint_map(value: Any) -> bool:
    """True for a map whose keys are all unsigned integers."""
    return isinstance(value, dict) and all(is_int(k) and k >= 0 for k in value)


def _ids_of(schema: Any, announced: Mapping[int, tuple[int, ...]]) -> tuple[int, ...]:
    if is_int(schema) and schema >= 0:
        ids = SCHEMAS.get(schema) or announced.get(schema)
        if ids is None:
            raise UnknownSchema(schema)
        return ids
    return check_ids(schema)


def check_ids(value: Any) -> tuple[int, ...]:
    """Return an explicit list of distinct quantity ids as a tuple. Raises Malformed."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_COLUMNS:
        raise Malformed("schema")
    if not all(is_int(q) and 0 < q < 65536 for q in value) or len(set(value)) != len(value):
        raise Malformed("quantity ids")
    return tuple(value)


def _packed(t0: int, interval: int, rows: int, data: Any, width: int) -> tuple[tuple[int, ...], tuple[Cells, ...]]:
    if not 1 <= rows <= MAX_ROWS:
        raise Malformed("rows")
    if not isinstance(data, bytes):
        raise Malformed("bits")
    bits = BitStream(data)
    if interval > 0:
        step = seconds_of(interval)
        check_time(t0 + step * (rows - 1))
        times = tuple(range(t0, t0 + step * rows, step))
    else:
        times = _packed_times(bits, t0, interval, rows)
    columns = tuple(_packed_column(bits, rows) for _ in range(width))
    bits.finish()
    return times, columns


def _packed_times(bits: BitStream, t0: int, interval: int, rows: int) -> tuple[int, ...]:
    times = [t0]
    if rows > 1:
        nominal = -1 - interval if interval else 0
        k = bits.take(4)
        for _ in range(rows - 1):
            u = 0 if k == CONSTANT else bits.rice(k)
            times.append(check_time(times[-1] + (nominal + unzigzag(u) if interval else u)))
    return tuple(times)


def _packed_column(bits: BitStream, rows: int) -> Cells:
    present = bits.flags(rows) if bits.take(1) else None
    count = rows if present is None else sum(present)
    if not count:
        return (None,) * rows
    value = unzigzag(bits.eg(6))
    values = [value]
    if count > 1:
        k = bits.take(4)
        if k == CONSTANT:
            values *= count
        else:
            rice = bits.rice
            for _ in range(count - 1):
                u = rice(k)
                value += -(u + 1 >> 1) if u & 1 else u >> 1
                values.append(value)
    if present is None:
        return tuple(values)
    it = iter(values)
    return tuple(next(it) if there else None for there in present)


def _plain(t0: int, stamp: Any, interval: int, body: Any, width: int) -> tuple[tuple[int, ...], tuple[Cells, ...]]:
    if not isinstance(body, list) or len(body) != width:
        raise Malformed("columns")
    first = body[0]
    rows = len(first) if isinstance(first, list) else 1
    if rows > MAX_ROWS or isinstance(first, list) and rows < 2:
        raise Malformed("rows")
    columns = tuple(_plain_column(cells, rows) for cells in body)
    if isinstance(stamp, list):
        if interval or len(stamp) != rows or rows < 2 or not all(is_int(s) for s in stamp):
            raise Malformed("stamps")
        times = [t0]
        for step in stamp[1:]:
            times.append(check_time(times[-1] + step))
        return tuple(times), columns
    if rows == 1:
        return (t0,), columns
    if interval <= 0:
        raise Malformed("irregular rows need their own stamps")
    step = seconds_of(interval)
    check_time(t0 + step * (rows - 1))
    return tuple(range(t0, t0 + step * rows, step)), columns


def _plain_column(cells: Any, rows: int) -> Cells:
    if rows == 1:
        if cells is not None and not is_int(cells):
            raise Malformed("cell")
        return (cells,)
    if not isinstance(cells, list) or len(cells) != rows:
        raise Malformed("columns of different length")
    value, out = 0, []
    for delta in cells:
        if delta is None:
            out.append(None)
        elif is_int(delta):
            value += delta
            out.append(value)
        else:
            raise Malformed("cell")
    return tuple(out)

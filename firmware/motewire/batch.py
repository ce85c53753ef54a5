"""A batch of rows in integer columns, and its two encodings (WIRE.md sections 2 and 3).

One Batch is made at start-up and reused: append, encode and clear allocate nothing.
"""

from array import array

from motewire import cbor
from motewire._const import const
from motewire.bits import BitWriter, rice_parameter, zigzag
from motewire.errors import Full, Malformed, TooLong
from motewire.interval import code_of

MAX_ROWS = 240
MAX_COLUMNS = 16
MAX_VALUE = 1 << 27

# A sum this large asks for the largest k (239 << 14 is far below) whatever follows; going on could reach 2**30, a big integer.
_ENOUGH = const(1 << 28)


class Batch:
    """Rows of raw values in `ids` order; times are device seconds (since 2000-01-01).

    ids: quantity ids, 1..16 of them. schema: its number, or None to send the ids themselves. interval_s: nominal
    seconds between rows, 0 for events. rows_max: capacity, 1..240.
    """

    def __init__(self, ids, schema, interval_s, rows_max):
        if not 1 <= len(ids) <= MAX_COLUMNS or not 1 <= rows_max <= MAX_ROWS:
            raise TooLong
        self.ids, self.schema, self.interval_s, self.rows_max = tuple(ids), schema, interval_s, rows_max
        self.rows = 0
        self.t0 = 0
        self._steps = array("i", [0] * rows_max)  # seconds since the row before; [0] unused
        self._values = array("i", [0] * (rows_max * len(ids)))
        self._present = array("H", [0] * rows_max)
        self._last = 0
        self._bits = BitWriter()

    def append(self, t2000, values, present):
        """Add a row: `present` has bit c set when column c has a value. Raise Full, or Malformed (value range, time).

        Time may step back only in a batch with an interval; an event batch must be closed first.
        """
        rows = self.rows
        if rows == self.rows_max:
            raise Full
        if rows:
            step = t2000 - self._last
            if step < 0 and not self.interval_s:
                raise Malformed
        else:
            self.t0 = t2000
            step = 0
        n = len(self.ids)
        at = rows * n
        for c in range(n):
            v = values[c] if present >> c & 1 else 0
            if not -MAX_VALUE <= v <= MAX_VALUE:
                raise Malformed
            self._values[at + c] = v
        self._steps[rows] = step
        self._present[rows] = present
        self._last = t2000
        self.rows = rows + 1

    def pop(self):
        """Take the newest row away again (it did not fit the frame)."""
        self.rows -= 1
        self._last -= self._steps[self.rows]

    def clear(self):
        """Forget all rows."""
        self.rows = 0

    def _regular(self):
        if not self.interval_s:
            return False
        for i in range(1, self.rows):
            if self._steps[i] != self.interval_s:
                return False
        return code_of(self.interval_s) > 0

    def _put_schema(self, buf, at):
        if self.schema is not None:
            return cbor.put_head(buf, at, cbor.UINT, self.schema)
        at = cbor.put_head(buf, at, cbor.ARRAY, len(self.ids))
        for q in self.ids:
            at = cbor.put_head(buf, at, cbor.UINT, q)
        return at

    def encode(self, buf, at, limit, ext=None, stamp=cbor.ABSOLUTE, now=0):
        """Write the packed report at buf[at]; return the next offset, at most `limit`. Raise Full if it is longer.

        ext: None, or a dict with uint keys (that one may allocate). buf needs 3 bytes behind `limit` (room for the string head to
        settle). stamp: cbor.ABSOLUTE; LOW16 for what is sent within hours to a gateway with a clock; AGE for a node without a
        clock, `now` then being its own count of seconds at sending. Raise Malformed when `now` is before the first row.
        """
        if not self.rows:
            raise Malformed
        if limit - at < (20 if self.schema is not None else 20 + 3 * len(self.ids)):  # longest possible heads
            raise Full
        at = cbor.put_head(buf, at, cbor.ARRAY, 5 if ext is None else 6)
        at = self._put_schema(buf, at)
        at = cbor.put_stamp(buf, at, self.t0, stamp, now)
        regular = self._regular()
        if regular:
            at = cbor.put_int(buf, at, code_of(self.interval_s))
        else:
            at = cbor.put_int(buf, at, -1 - self.interval_s if self.interval_s else 0)
        at = cbor.put_head(buf, at, cbor.UINT, self.rows)
        start = at + 3  # room for the longest string head used here
        if start > limit:
            raise Full
        bits = self._bits
        bits.start(buf, start, limit + 2)
        if not regular and self.rows > 1:
            self._put_times(bits)
        for c in range(len(self.ids)):
            self._put_column(bits, c)
        length = bits.finish() - start
        at = cbor.put_head(buf, at, cbor.BYTES, length)
        if at + length > limit:
            raise Full
        for i in range(length):
            buf[at + i] = buf[start + i]
        at += length
        if ext is not None:
            at = cbor.put_any(buf, at, ext)
            if at > limit:
                raise Full
        return at

    def _put_times(self, bits):
        nominal, steps, rows = self.interval_s, self._steps, self.rows
        total = 0
        for i in range(1, rows):
            if total < _ENOUGH:
                total += zigzag(steps[i] - nominal) if nominal else steps[i]
        k = rice_parameter(total, rows - 1)
        bits.put(k, 4)
        if k == 15:
            return
        for i in range(1, rows):
            bits.put_rice(k, zigzag(steps[i] - nominal) if nominal else steps[i])

    def _put_column(self, bits, c):
        rows, n = self.rows, len(self.ids)
        values, present = self._values, self._present
        count = total = prev = 0
        at = c
        for i in range(rows):
            if present[i] >> c & 1:
                v = values[at]
                if count and total < _ENOUGH:
                    total += zigzag(v - prev)
                prev = v
                count += 1
            at += n
        if count == rows:
            bits.put(0, 1)
        else:
            bits.put(1, 1)
            for i in range(rows):
                bits.put(present[i] >> c & 1, 1)
        k = rice_parameter(total, count - 1) if count > 1 else 15
        first = True
        at = c
        for i in range(rows):
            if present[i] >> c & 1:
                v = values[at]
                if first:
                    first = False
                    bits.put_eg(6, zigzag(v))
                    if count > 1:
                        bits.put(k, 4)
                    if k == 15:
                        return
                else:
                    bits.put_rice(k, zigzag(v - prev))
                prev = v
            at += n

    def encode_plain(self, buf, at, limit, ext=None, stamp=cbor.ABSOLUTE, now=0):
        """Write the plain report (debugging and MQTT fallback, about twice the size); as `encode` otherwise."""
        rows, n = self.rows, len(self.ids)
        if not rows:
            raise Malformed
        # every cell at its longest: checked once, not at every byte
        if len(buf) < at + 24 + 5 * rows * (n + 1) + 5 * n:
            raise Full
        at = cbor.put_head(buf, at, cbor.ARRAY, 4 if ext is None else 5)
        at = self._put_schema(buf, at)
        regular = self._regular() or rows == 1 and self.interval_s
        if not regular and rows > 1:
            at = cbor.put_head(buf, at, cbor.ARRAY, rows)
            at = cbor.put_stamp(buf, at, self.t0, stamp, now)
            for i in range(1, rows):
                at = cbor.put_int(buf, at, self._steps[i])
        else:
            at = cbor.put_stamp(buf, at, self.t0, stamp, now)
        at = cbor.put_int(buf, at, code_of(self.interval_s) if regular else 0)
        at = cbor.put_head(buf, at, cbor.ARRAY, n)
        for c in range(n):
            if rows > 1:
                at = cbor.put_head(buf, at, cbor.ARRAY, rows)
            prev = 0
            for i in range(rows):
                if self._present[i] >> c & 1:
                    v = self._values[i * n + c]
                    at = cbor.put_int(buf, at, v - prev)
                    prev = v
                else:
                    buf[at] = cbor.NULL
                    at += 1
        if ext is not None:
            at = cbor.put_any(buf, at, ext)
        if at > limit:
            raise Full
        return at

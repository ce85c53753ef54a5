"""CBOR, the subset of the wire: one spelling when writing (RFC 8949 section 4.2.1), strict when reading.

Writers put an item at buf[at], never look at buf's contents, return the next offset and allocate nothing.
They raise IndexError only if the caller's buffer is too short; callers give room for the heads they write.
"""

from motewire._const import const
from motewire.errors import Malformed, TooLong, Truncated

UINT = const(0)
NINT = const(1)
BYTES = const(2)
TEXT = const(3)
ARRAY = const(4)
MAP = const(5)
NULL = const(0xF6)
ABSOLUTE = const(0)  # forms of a stamp (WIRE.md section 2)
LOW16 = const(1)
AGE = const(2)

_MAX_DEPTH = const(6)
_MAX_ITEMS = const(256)
_EPOCH_HI = const(0x386D)  # 946684800 >> 16
_EPOCH_LO = const(0x4380)  # 946684800 & 0xFFFF


def put_head(buf, at, major, n):
    """Write the head of an item of `major` type (0..7) with argument 0 <= n < 2**32 in its shortest form."""
    major <<= 5
    if n < 24:
        buf[at] = major | n
        return at + 1
    if n < 256:
        buf[at] = major | 24
        buf[at + 1] = n
        return at + 2
    if n < 65536:
        buf[at] = major | 25
        buf[at + 1] = n >> 8
        buf[at + 2] = n & 255
        return at + 3
    buf[at] = major | 26
    buf[at + 1] = n >> 24 & 255
    buf[at + 2] = n >> 16 & 255
    buf[at + 3] = n >> 8 & 255
    buf[at + 4] = n & 255
    return at + 5


def put_int(buf, at, v):
    """Write an integer, -2**32 <= v < 2**32."""
    return put_head(buf, at, UINT, v) if v >= 0 else put_head(buf, at, NINT, -1 - v)


def put_bytes(buf, at, data, major=BYTES):
    """Write a byte string (or, with major TEXT, the UTF-8 bytes of a text)."""
    at = put_head(buf, at, major, len(data))
    for b in data:
        buf[at] = b
        at += 1
    return at


def put_time(buf, at, t2000):
    """Write Unix time for `t2000` seconds since 2000-01-01, 0 <= t2000 < 2**31.

    Done in halves: Unix seconds are past 2**30 since 2004 and would cost an ESP32 a big integer.
    """
    lo = (t2000 & 0xFFFF) + _EPOCH_LO
    hi = (t2000 >> 16) + _EPOCH_HI + (lo >> 16)
    buf[at] = 0x1A
    buf[at + 1] = hi >> 8 & 255
    buf[at + 2] = hi & 255
    buf[at + 3] = lo >> 8 & 255
    buf[at + 4] = lo & 255
    return at + 5


def put_stamp(buf, at, t2000, form, now):
    """Write a stamp of `form` ABSOLUTE, LOW16 or AGE; `now` (device seconds) counts for AGE only. Raise Malformed: now < t2000."""
    if form == ABSOLUTE:
        return put_time(buf, at, t2000)
    if form == LOW16:
        return put_head(buf, at, UINT, (t2000 & 0xFFFF) + _EPOCH_LO & 0xFFFF)
    if now < t2000:
        raise Malformed
    return put_head(buf, at, NINT, now - t2000)


def put_any(buf, at, v):
    """Write int, bool, None, bytes, str, list or tuple (of these), or dict with uint keys in ascending order.

    For status and downlink maps, not for the measuring path: it may allocate. Raises Malformed for other types and for integers
    outside -2**32 .. 2**32 - 1.
    """
    if v is None:
        buf[at] = NULL
        return at + 1
    if v is True or v is False:
        buf[at] = 0xF5 if v else 0xF4
        return at + 1
    if isinstance(v, int):
        if (v if v >= 0 else -1 - v) >> 32:
            raise Malformed
        return put_int(buf, at, v)
    if isinstance(v, str):
        return put_bytes(buf, at, v.encode(), TEXT)
    if isinstance(v, (bytes, bytearray)):
        return put_bytes(buf, at, v)
    if isinstance(v, (list, tuple)):
        at = put_head(buf, at, ARRAY, len(v))
        for x in v:
            at = put_any(buf, at, x)
        return at
    if isinstance(v, dict):
        at = put_head(buf, at, MAP, len(v))
        for k in sorted(v):
            at = put_any(buf, put_head(buf, at, UINT, k), v[k])
        return at
    raise Malformed("no CBOR form for " + str(type(v)))


def _is_utf8(buf, at, end):
    """True when buf[at:end] is well-formed UTF-8 (RFC 3629 section 4)."""
    while at < end:
        b = buf[at]
        at += 1
        if b < 0x80:
            continue
        if b < 0xC2 or b > 0xF4:
            return False
        more = 1 if b < 0xE0 else 2 if b < 0xF0 else 3
        if at + more > end:
            return False
        low = 0xA0 if b == 0xE0 else 0x90 if b == 0xF0 else 0x80
        high = 0x9F if b == 0xED else 0x8F if b == 0xF4 else 0xBF
        if not low <= buf[at] <= high:
            return False
        for i in range(1, more):
            if buf[at + i] & 0xC0 != 0x80:
                return False
        at += more
    return True


class _Reader:
    def __init__(self, buf, at, end):
        self.buf, self.at, self.end = buf, at, end

    def take(self, n):
        at = self.at
        if n > self.end - at:
            raise Truncated
        self.at = at + n
        return at

    def head(self):
        first = self.buf[self.take(1)]
        info = first & 31
        if info < 24:
            return first >> 5, info
        if info > 27:
            raise Malformed  # reserved, or indefinite length
        size = 1 << info - 24
        at = self.take(size)
        n = int.from_bytes(bytes(self.buf[at : at + size]), "big")
        # one spelling: the argument must not fit the next smaller form (floats are refused by item())
        if first >> 5 != 7 and n < (24 if size == 1 else 1 << 4 * size):
            raise Malformed
        return first >> 5, n

    def item(self, depth):
        major, n = self.head()
        if major == UINT:
            return n
        if major == NINT:
            return -1 - n
        if major == BYTES:
            at = self.take(n)
            return bytes(self.buf[at : at + n])
        if major == TEXT:
            at = self.take(n)
            if not _is_utf8(self.buf, at, at + n):  # the VM's str() would let overlong forms and surrogates pass
                raise Malformed
            return str(bytes(self.buf[at : at + n]), "utf-8")
        if depth >= _MAX_DEPTH:
            raise TooLong
        if major == ARRAY:
            if n > _MAX_ITEMS:
                raise TooLong
            return [self.item(depth + 1) for _ in range(n)]
        if major == MAP:
            if n > _MAX_ITEMS:
                raise TooLong
            out = {}
            for _ in range(n):
                key = self.item(_MAX_DEPTH)  # integers and strings only: True would be 1 and hide it
                if key in out:
                    raise Malformed
                out[key] = self.item(depth + 1)
            return out
        if major == 7 and 20 <= n <= 22 and self.buf[self.at - 1] == 0xE0 | n:
            return (False, True, None)[n - 20]
        raise Malformed  # tags, floats, other simple values are not of the wire


def read(buf, start, end):
    """Return the one item that buf[start:end] spells: int, bytes, str, list, dict, bool or None.

    Strict: shortest heads, definite lengths, no tag, no float, no repeated key, nothing left over; nesting <= 6,
    at most 256 items in one array or map. Raises Truncated, TooLong or Malformed.
    """
    r = _Reader(buf, start, end)
    value = r.item(0)
    if r.at != end:
        raise Malformed
    return value

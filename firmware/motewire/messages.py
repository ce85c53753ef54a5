"""Alarm, status and downlink payloads (WIRE.md sections 2 and 6)."""

from motewire._const import const
from motewire import cbor
from motewire.errors import Malformed

# motewire.codes; private copies cost no RAM, tests/wire/test_registry.py compares them
_DOWN_MISSING = const(2)
_DOWN_NEXT = const(1)
_DOWN_SINCE = const(8)


def put_alarm(buf, at, code, t2000, quantity, value, limit=None, ext=None, stamp=cbor.ABSOLUTE, now=0):
    """Write [code, stamp, quantity, value, ? limit, ? ext]; value may be None (a fault has none). At most 26 bytes without ext.

    ext: dict with uint keys; stamp and now: see Batch.encode.
    """
    at = cbor.put_head(buf, at, cbor.ARRAY, 4 + (limit is not None) + (ext is not None))
    at = cbor.put_head(buf, at, cbor.UINT, code)
    at = cbor.put_stamp(buf, at, t2000, stamp, now)
    at = cbor.put_head(buf, at, cbor.UINT, quantity)
    if value is None:
        buf[at] = cbor.NULL
        at += 1
    else:
        at = cbor.put_int(buf, at, value)
    if limit is not None:
        at = cbor.put_int(buf, at, limit)
    return at if ext is None else cbor.put_any(buf, at, ext)


def put_map(buf, at, items):
    """Write a status or downlink map from (uint key, value) pairs; returns the next offset."""
    return cbor.put_any(buf, at, dict(items))


def read(buf, start, end):
    """Return the payload in buf[start:end] as Python objects; see cbor.read."""
    return cbor.read(buf, start, end)


class Ack:
    """What a downlink says of counters: all in [since, next) are committed but those flagged missing."""

    def __init__(self, payload):
        """Take the keys 1, 2 and 8 of a downlink map. Raises Malformed."""
        self.next = payload.get(_DOWN_NEXT, 0)
        self.since = payload.get(_DOWN_SINCE, 0)
        self._missing = payload.get(_DOWN_MISSING, b"")
        if not isinstance(self.next, int) or not isinstance(self.since, int) or not isinstance(self._missing, bytes):
            raise Malformed
        if self.next < 0 or self.since < 0:
            raise Malformed

    def covers(self, counter):
        """True when the gateway has committed the frame with this counter."""
        if not self.since <= counter < self.next:
            return False
        back = self.next - 1 - counter
        if back >> 3 < len(self._missing):
            return not self._missing[back >> 3] >> 7 - (back & 7) & 1
        return True

    def is_missing(self, counter):
        """True when the gateway says that it lacks the frame with this counter."""
        return self.since <= counter < self.next and not self.covers(counter)

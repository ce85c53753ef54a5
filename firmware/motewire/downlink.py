"""Downlink payloads: the shape of every key, checked before it is sent and before it is believed (WIRE.md section 6)."""

from motewire._const import const
from motewire import cbor
from motewire.errors import Malformed

# motewire.codes; private copies cost no RAM, tests/wire/test_registry.py compares them
_DOWN_EXPIRY = const(10)
_DOWN_MISSING = const(2)
_DOWN_NEXT = const(1)
_DOWN_SINCE = const(8)
_DOWN_TIME = const(3)

_BITMAP = 8


def _uint(v):
    return type(v) is int and 0 <= v <= 0xFFFFFFFF


def is_bitmap(v):
    """True for the bitmap of an ack: at most 8 bytes, the last of which is not zero."""
    return isinstance(v, bytes) and len(v) <= _BITMAP and (not v or v[-1] > 0)


def fits(key, value):
    """True when `value` has the shape of downlink key `key`; a key that nobody knows has no shape to break."""
    if key in (_DOWN_NEXT, _DOWN_TIME, _DOWN_SINCE, _DOWN_EXPIRY):
        return _uint(value)
    if key == _DOWN_MISSING:
        return is_bitmap(value)
    from motewire import shapes  # an ack, which is what most downlinks are, does without

    return shapes.fits(key, value)


def put_downlink(buf, at, items):
    """Write a downlink map from (key, value) pairs; return the next offset. Raises Malformed for a wrong shape."""
    for key, value in items:
        if not _uint(key) or not fits(key, value):
            raise Malformed
    return cbor.put_any(buf, at, dict(items))


def read_downlink(buf, start, end):
    """Return (known, wrong): {key: value} of every well-shaped or unknown key, and the keys whose value has no right shape.

    One wrong value does not take the others with it. Raises WireError when the bytes are no map with uint keys.
    """
    payload = cbor.read(buf, start, end)
    if not isinstance(payload, dict):
        raise Malformed
    known, wrong = {}, []
    for key in payload:
        if not _uint(key):
            raise Malformed
        if fits(key, payload[key]):
            known[key] = payload[key]
        else:
            wrong.append(key)
    return known, wrong

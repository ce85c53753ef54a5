"""Payload bytes to Python values: a strict scan of the shape, then cbor2 as an independent judge of the content.

The scan admits only the dialect of the wire (RFC 8949 section 4.2.1: shortest heads, definite lengths; no tags, no floats,
no repeated keys, integers of 64 bits, bounded depth and count), so that cbor2 never sees a tag whose handling could cost unbounded work.
"""

from __future__ import annotations

from typing import Any

import cbor2

from gateway.core.refusals import Malformed

MAX_DEPTH = 6
MAX_ITEMS = 256
MAX_INT = 1 << 63  # integers lie in -MAX_INT .. MAX_INT - 1: what the store and JSON can hold
_SIMPLE = (0xF4, 0xF5, 0xF6)  # false, true, null


def load(data: bytes) -> Any:
    """Return the one item that `data` spells. Raises Malformed."""
    if _scan(data, 0, 0) != len(data):
        raise Malformed("trailing bytes")
    try:
        return cbor2.loads(data)
    except (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError) as e:
        raise Malformed(f"cbor: {type(e).__name__}") from e


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """Return (major type, argument, next offset) of the head at `at`."""
    if at >= len(data):
        raise Malformed("truncated")
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if info < 24:
        return major, info, at
    if info > 27:
        raise Malformed("indefinite or reserved length")
    size = 1 << info - 24
    if at + size > len(data):
        raise Malformed("truncated")
    n = int.from_bytes(data[at : at + size], "big")
    if n < (24 if size == 1 else 1 << 4 * size):
        raise Malformed("not the shortest form")
    return major, n, at + size


def _scan(data: bytes, at: int, depth: int) -> int:
    """Check one item and return the offset behind it."""
    if data[at : at + 1] and data[at] in _SIMPLE:
        return at + 1
    major, n, at = _head(data, at)
    if major <= 1:
        if n >= MAX_INT:
            raise Malformed("an integer of more than 64 bits")
        return at
    if major <= 3:
        if at + n > len(data):
            raise Malformed("truncated")
        return at + n
    if major > 5:
        raise Malformed("tag, float or simple value")
    if depth >= MAX_DEPTH or n > MAX_ITEMS:
        raise Malformed("too deep or too many items")
    if major == 4:
        for _ in range(n):
            at = _scan(data, at, depth + 1)
        return at
    keys: set[bytes] = set()
    for _ in range(n):
        start = at
        at = _scan(data, at, MAX_DEPTH)  # scalar keys only
        if data[start] >= 0xE0:  # Python's True is 1 as a key: one would hide the other
            raise Malformed("simple value as a key")
        if data[start:at] in keys:
            raise Malformed("repeated key")
        keys.add(data[start:at])
        at = _scan(data, at, depth + 1)
    return at

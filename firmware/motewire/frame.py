"""The frame: header, nonce, and who may expect an ack (WIRE.md section 1)."""

from motewire._const import const
from motewire.errors import BadVersion, Malformed, Truncated

REPORT = const(0)
ALARM = const(1)
STATUS = const(2)
DOWNLINK = const(3)
UP = const(0)
DOWN = const(1)
TAG = const(8)
NONCE = const(13)
HEADER_MAX = const(9)
ACK_EVERY = const(4)
MAX_FRAME = const(1024)

_VERSION_BITS = const(0x40)
_LONG_COUNTER = const(8)
_LONG_NODE = const(4)


def max_frame(sf):
    """Longest LoRa frame in bytes at spreading factor 7..12 (LoRaWAN EU868 application maxima, all <= 0.4 s .. 2.5 s)."""
    return 222 if sf <= 8 else 115 if sf == 9 else 51


def _put_be(buf, at, v, size):
    while size:
        size -= 1
        buf[at] = v >> 8 * size & 255
        at += 1
    return at


def put_header(buf, kind, node, counter, slot, long_counter):
    """Write the header at buf[0]; return its length, 5..9.

    kind REPORT..DOWNLINK, node 1..2**32-2 but not 0xFFFF, counter 1..2**32-1, slot = key epoch mod 4,
    long_counter: send all 32 bits (the first frames after a boot and every 64th, for resynchronising).
    """
    if node in (0, 0xFFFF) or counter < 1:
        raise Malformed
    buf[0] = (
        _VERSION_BITS | kind << 4 | (_LONG_COUNTER if long_counter else 0) | (_LONG_NODE if node > 0xFFFF else 0) | slot
    )
    at = _put_be(buf, 1, node, 4 if node > 0xFFFF else 2)
    return _put_be(buf, at, counter, 4) if long_counter else _put_be(buf, at, counter & 0xFFFF, 2)


def parse_header(frame):
    """Return (kind, node, counter, is_long, slot, end); `counter` is its low 16 bits unless is_long.

    Raises Truncated (no room for a tag either), BadVersion, Malformed (reserved node id, 4-byte form of a 2-byte id).
    """
    if len(frame) < 5 + TAG:
        raise Truncated
    first = frame[0]
    if first & 0xC0 != _VERSION_BITS:
        raise BadVersion
    is_long = bool(first & _LONG_COUNTER)
    at = 5 if first & _LONG_NODE else 3
    end = at + (4 if is_long else 2)
    if len(frame) < end + TAG:
        raise Truncated
    node = int.from_bytes(bytes(frame[1:at]), "big")
    if node in (0, 0xFFFF, 0xFFFFFFFF) or at == 5 and node <= 0xFFFF:
        raise Malformed
    return first >> 4 & 3, node, int.from_bytes(bytes(frame[at:end]), "big"), is_long, first & 3, end


def put_nonce(buf, direction, node, epoch, counter):
    """Fill buf[0:13] with the CCM nonce. A (key, nonce) pair must never seal two plaintexts: `counter` is the promise."""
    buf[0] = direction
    _put_be(buf, 1, node, 4)
    _put_be(buf, 5, epoch, 4)
    _put_be(buf, 9, counter, 4)


def wants_ack(kind, counter):
    """True when the gateway answers this uplink even though nothing is wrong: alarms, status, every ACK_EVERYth report."""
    return kind != REPORT or counter % ACK_EVERY == 0

"""Answers a list of questions inside a VM, so that CPython can compare. Common subset.

`run(questions, aes)` yields one line for each: ["batch", vector] the hex of both encodings or the error's reason; ["read", hex] the
repr of the value or the reason; ["seal", key, nonce, aad, payload] hex; ["open", key, nonce, aad, sealed] hex or the reason.
"""

from motewire import cbor
from motewire.ccm import Ccm
from motewire.errors import WireError
from motewire.frame import parse_header

try:
    from replay import ROOM, report_bytes, tohex, unhex  # beside it in a VM
except ImportError:
    from tests.wire.replay import ROOM, report_bytes, tohex, unhex


class ThreeByteLength:
    """Wycheproof's 96-bit nonces mean L = 3: with a zero as 13th nonce byte only the flags of B0 and of the counters differ.

    So this block sets those flags on the way in: B0 is the first block of a message, a counter block has another destination.
    """

    def __init__(self, aes):
        self._aes, self._first = aes, True

    def encrypt(self, src, dst):
        """Encrypt one block with L = 3 in its flags."""
        if self._first or src is not dst:
            self._first = False
            src = bytes([src[0] + 1]) + bytes(src[1:])
        self._aes.encrypt(src, dst)


def ccm_for(key, nonce, aes):
    """(Ccm, 13-byte nonce) for a nonce of 13 or 12 bytes."""
    block = aes(key)
    if len(nonce) == 13:
        return Ccm(block), nonce
    return Ccm(ThreeByteLength(block)), nonce + b"\x00"


def shown(v):
    """A repr that is the same on every Python: maps in key order, text as code points."""
    if isinstance(v, dict):
        return "{" + ",".join(sorted(shown(k) + ":" + shown(v[k]) for k in v)) + "}"
    if isinstance(v, list):
        return "[" + ",".join(shown(x) for x in v) + "]"
    if isinstance(v, str):
        return "t" + tohex(v.encode())
    if isinstance(v, bytes):
        return "h" + tohex(v)
    return str(v)


def answer(q, aes, buf):
    """The answer to one question."""
    what = q[0]
    try:
        if what == "batch":
            return tohex(report_bytes(q[1], buf))
        if what == "read":
            raw = unhex(q[1])
            return shown(cbor.read(raw, 0, len(raw)))
        if what == "header":
            return str(parse_header(unhex(q[1])))
        key, nonce, aad, body = (unhex(x) for x in q[1:])
        ccm, nonce = ccm_for(key, nonce, aes)
        n, end = len(aad), len(aad) + len(body)
        work = bytearray(aad + body + bytes(8))
        if what == "seal":
            return tohex(work[n : ccm.seal(work, n, end, nonce)])
        return tohex(work[n : ccm.open(work, n, end, nonce)])
    except WireError as e:
        return e.reason


def run(questions, aes):
    """Yield one answer a line."""
    buf = bytearray(ROOM)
    for q in questions:
        yield answer(q, aes, buf)

"""Reader of the packed column bit stream (WIRE.md section 3), written apart from motewire's encoder.

Works on the stream as a text of "0" and "1": finding the end of a prefix and cutting out a number are then each one
call into C, which makes it quicker than shifting in Python.
"""

from __future__ import annotations

from gateway.core.refusals import Malformed

CONSTANT = 15
_RICE_ONES = 8
_EG_ZEROS = 31


class BitStream:
    """A position in a bit stream, most significant bit first. Every read raises Malformed past the end."""

    __slots__ = ("_at", "_bits")

    def __init__(self, data: bytes) -> None:
        self._bits = format(int.from_bytes(b"\x01" + data, "big"), "b")
        self._at = 1  # behind the guard bit that keeps leading zeros

    def take(self, n: int) -> int:
        """Read n bits as an unsigned number, 0 <= n <= 46."""
        if n == 0:
            return 0
        at = self._at
        piece = self._bits[at : at + n]
        if len(piece) != n:
            raise Malformed("bits exhausted")
        self._at = at + n
        return int(piece, 2)

    def flags(self, n: int) -> list[bool]:
        """Read n bits as booleans."""
        at = self._at
        piece = self._bits[at : at + n]
        if len(piece) != n:
            raise Malformed("bits exhausted")
        self._at = at + n
        return [bit == "1" for bit in piece]

    def eg(self, m: int) -> int:
        """Read an exponential-Golomb number EG(m, u)."""
        one = self._bits.find("1", self._at, self._at + _EG_ZEROS + 1)
        if one < 0:
            raise Malformed("EG prefix too long or bits exhausted")
        length = one - self._at + 1
        self._at = one
        return ((self.take(length) - 1) << m) | self.take(m)

    def rice(self, k: int) -> int:
        """Read a Rice number R(k, u) with its escape."""
        at = self._at
        zero = self._bits.find("0", at, at + _RICE_ONES)
        if zero < 0:
            self.take(_RICE_ONES)
            return self.eg(k) + (_RICE_ONES << k)
        self._at = zero + 1
        return zero - at << k | self.take(k)

    def finish(self) -> None:
        """Raise Malformed unless only zero padding of less than a byte is left."""
        rest = self._bits[self._at :]
        if len(rest) >= 8 or "1" in rest:
            raise Malformed("left-over bits")


def unzigzag(u: int) -> int:
    """Return e for u = zz(e): 0, -1, 1, -2 ... for 0, 1, 2, 3 ..."""
    return -(u + 1 >> 1) if u & 1 else u >> 1

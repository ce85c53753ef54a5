"""Named random streams: the same seed and names give the same value on every run and machine, in any order of asking."""

from __future__ import annotations

import hashlib
import math
import random


def _word(names: tuple[object, ...]) -> int:
    return int.from_bytes(hashlib.blake2b("/".join(map(str, names)).encode(), digest_size=8).digest(), "big")


def uniform(*names: object) -> float:
    """A number in [0, 1)."""
    return (_word(names) >> 11) / (1 << 53)


def gauss(*names: object) -> float:
    """A standard normal deviate (Box-Muller), at most 6 in size."""
    u = max(uniform(*names, "u"), 1e-8)
    return math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * uniform(*names, "v"))


def number(*names: object) -> int:
    """A 64-bit number."""
    return _word(names)


def stream(*names: object) -> random.Random:
    """A generator of its own for a longer series."""
    return random.Random(_word(names))

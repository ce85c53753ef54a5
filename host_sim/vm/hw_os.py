"""`os` with the node's own random source: urandom() must repeat from run to run, and differ from boot to boot."""

# ruff: noqa: E402
import sys

_path = sys.path[:]
sys.path.clear()
import os as _b

sys.path[:] = _path
for _n in dir(_b):
    if _n[0] != "_":
        globals()[_n] = getattr(_b, _n)

_state = [0x2545F491, 0x9E3779B9]


def _seed(seed):
    _state[0], _state[1] = seed & 0xFFFFFFFF or 1, (seed >> 32) & 0xFFFFFFFF or 2


def urandom(n):
    """n bytes of an xorshift64 stream seeded per node and boot. A simulator's randomness, not a secret's."""
    out = bytearray(n)
    x = _state[0] | _state[1] << 32
    for i in range(n):
        x ^= x << 13 & 0xFFFFFFFFFFFFFFFF
        x ^= x >> 7
        x ^= x << 17 & 0xFFFFFFFFFFFFFFFF
        out[i] = x >> 24 & 255
    _state[0], _state[1] = x & 0xFFFFFFFF, x >> 32
    return bytes(out)

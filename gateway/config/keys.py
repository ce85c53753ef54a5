"""Keys that no random generator has made. Whoever knows a node's key can send readings as that node, so `check` refuses these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from gateway.core.model import Node

# what documents of ours and of others show as an example
PUBLISHED = {
    bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c"): "the example of FIPS 197, and of many LoRaWAN guides",
    bytes.fromhex("603deb1015ca71be2b73aef0857d7781"): "an example of NIST SP 800-38A",
    bytes.fromhex("404142434445464748494a4b4c4d4e4f"): "the example of RFC 3610 and SP 800-38C",
    bytes.fromhex("c0c1c2c3c4c5c6c7c8c9cacbcccdcecf"): "the example of RFC 3610",
}
PERIODS = (1, 2, 4, 8)  # a random key repeats after eight bytes once in 2**64
FEW = 6  # different bytes: a random key has so few once in 3e14
_TYPED = b"0123456789 -_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # a random key is such text once in 3e9
ALIKE = 12  # bytes in a row that two random keys share once in 2**96


def weak(key: bytes) -> str | None:
    """Say in a few words why 16 bytes are no secret, without quoting them; None when they may be one."""
    if key in PUBLISHED:
        return f"is {PUBLISHED[key]}"
    if key[:8] == key[8:]:
        if not any(key):
            return "is all zeros"
        period = next(p for p in PERIODS if key == key[:p] * (len(key) // p))
        return f"repeats after {period} byte{'s' * (period > 1)}"
    if len(set(key)) <= FEW:
        return "has hardly any different bytes"
    if not key.translate(None, _TYPED):
        return "is text in hex"
    if (key[0] + key[2] - 2 * key[1]) % 256 == 0 and _counts(key, 256):
        return "counts in equal steps"
    first, second, third = (
        key[0] >> 4,
        key[0] & 15,
        key[1] >> 4,
    )  # 25,000 keys are judged at each start, so look at three digits first
    twice = first + third - 2 * second
    if twice % 16 and twice % 10:
        return None
    digits = bytes(n for byte in key for n in (byte >> 4, byte & 15))
    return "counts in equal steps" if _counts(digits, 16) or _counts(digits, 10) else None  # 10: 1234567890123...


def _counts(numbers: bytes, modulus: int) -> bool:
    return max(numbers) < modulus and len({(b - a) % modulus for a, b in pairwise(numbers)}) == 1


def weak_keys(nodes: Iterable[Node]) -> Iterator[tuple[Node, str, str]]:
    """Yield (node, "key" or "next_key", why) of every key that is no secret."""
    for node in nodes:
        for name, key in _keys(node):
            if (why := weak(key)) is not None:
                yield node, name, why


def shared_keys(nodes: Mapping[int, Node]) -> Iterator[tuple[Node, str, Node, bool]]:
    """Yield (node, "key" or "next_key", the node that has it already, whether all of it), in the order of the registry.

    Keys that share ALIKE bytes at their beginning or end were counted up: who has one of them finds the others.
    """
    if _all_differ([key for node in nodes.values() for _, key in _keys(node)]):
        return
    first: dict[bytes, Node] = {}
    parts: dict[tuple[bool, bytes], Node] = {}
    for node in nodes.values():
        for name, key in _keys(node):
            owner = first.setdefault(key, node)
            likes = [parts.setdefault(part, node) for part in ((False, key[:ALIKE]), (True, key[-ALIKE:]))]
            other = next((n for n in likes if n is not node), None)
            if owner is not node:
                yield node, name, owner, True
            elif other is not None:
                yield node, name, other, False


def _all_differ(keys: list[bytes]) -> bool:
    """True when no two keys share anything: nearly every registry, which need not be looked through pair by pair."""
    return len({key[:ALIKE] for key in keys}) == len(keys) == len({key[-ALIKE:] for key in keys})


def _keys(node: Node) -> Iterator[tuple[str, bytes]]:
    yield "key", node.key
    if node.next_key is not None:
        yield "next_key", node.next_key

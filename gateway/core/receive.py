"""The first steps of a frame: header, counter candidates, authentication. Nothing is believed before the tag fits."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from motewire import frame
from motewire.errors import BadVersion, Truncated, WireError

from gateway.core.model import Node, NodeState, Refusal
from gateway.core.replay import candidates

Opener = Callable[[bytes, bytes, bytes, bytes], bytes | None]
"""(key, nonce, ciphertext and tag, associated data) -> plaintext, or None when the tag does not fit."""


class Header(msgspec.Struct, frozen=True):
    """A parsed header; `counter` is its low 16 bits unless is_long; `end` is where the ciphertext starts."""

    kind: int
    node: int
    counter: int
    is_long: bool
    slot: int
    end: int


def parse(data: bytes) -> Header | Refusal:
    """Return the header of a frame, or why there is none: too_short, too_long, bad_version (kept), garbage, wrong_direction."""
    if len(data) > frame.MAX_FRAME:
        return Refusal("too_long")
    try:
        header = Header(*frame.parse_header(data))
    except Truncated:
        return Refusal("too_short")
    except BadVersion:
        return Refusal("bad_version", keep=True)
    except WireError:
        return Refusal("garbage")
    if header.kind == frame.DOWNLINK:
        return Refusal("wrong_direction", header.node)
    return header


def authenticate(
    node: Node, state: NodeState, header: Header, data: bytes, opener: Opener
) -> tuple[int, bytes] | Refusal:
    """Return (full counter, payload). At most two tag checks. Refusals: wrong_epoch, bad_tag."""
    if header.slot != node.epoch & 3:
        return Refusal("wrong_epoch", node.id)
    head, sealed = data[: header.end], data[header.end :]
    nonce = bytearray(frame.NONCE)
    for counter in candidates(state.replay, header.counter, header.is_long):
        if counter >= 1 << 32:
            continue
        frame.put_nonce(nonce, frame.UP, node.id, node.epoch, counter)
        payload = opener(node.key, bytes(nonce), sealed, head)
        if payload is not None:
            return counter, payload
    return Refusal("bad_tag", node.id)

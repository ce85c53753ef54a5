"""The mark that a broker keeps for an output: what of all that was published it remembers, and the probe that shows who reads there.

{"store", "seq", "generation"}: every retained message that follows from events up to `seq` and from the registry and configuration as of
`generation` was acknowledged by this broker, and is in its memory, since what is retained later is remembered later. `turn` counts the
connections, in the store before the broker hears of it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from gateway.outputs.message import json
from gateway.outputs.retained import Tree

LONGEST_PROBE = 64  # bytes

Count = Annotated[int, msgspec.Meta(ge=-1, le=(1 << 63) - 1)]
"""What fits a column of the store; -1: nothing yet."""


class Mark(msgspec.Struct, frozen=True):
    """What the broker remembers."""

    store: str
    seq: Count
    generation: Count
    turn: Count


def mark_topic(tree: Tree, output: str) -> str:
    """Return the topic of an output's mark."""
    return f"{tree.shape.root}/v1/gw/{tree.gateway}/mark/{output}"


def probe(nonce: str) -> bytes:
    """Return what is published on a mark's topic to learn who hears it."""
    return json({"probe": nonce})


def mark_of(payload: bytes) -> Mark | None:
    """Return the mark that a broker retains; None for what is none, whoever wrote it."""
    try:
        return msgspec.json.decode(payload, type=Mark)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None  # not one of ours: as if there were none, so that everything is said and it is replaced

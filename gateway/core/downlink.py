"""Downlink frames: payload map, header and seal. The counter must be committed before the frame is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from motewire import frame
from motewire.codes import DOWN_CONFIG, DOWN_NEXT, DOWN_REKEY, DOWN_SINCE, DOWN_TIME
from motewire.downlink import put_downlink

from gateway.core.model import Node

Sealer = Callable[[bytes, bytes, bytes, bytes], bytes]
"""(key, nonce, plaintext, associated data) -> ciphertext and 8-byte tag: AES-128-CCM, M = 8, L = 2."""


def payload(
    ack: Mapping[int, int | bytes | tuple[int, ...]],
    time: int | None = None,
    config: Mapping[int, int] | None = None,
    rekey: Node | None = None,
    order: Mapping[int, Any] | None = None,
) -> bytes:
    """Return a downlink map: ack keys, Unix time when given, config {1 sample_s, 2 row_s, 3 report_s} when given,
    the epoch and key of `rekey` when given, a command or configuration (core/orders.py) when given."""
    items: dict[int, Any] = {**ack, **(order or {})}
    if time is not None:
        items[DOWN_TIME] = time
    if config:
        items[DOWN_CONFIG] = dict(config)
    if rekey is not None:
        items[DOWN_REKEY] = [rekey.epoch, rekey.key]
    buf = bytearray(1200)
    return bytes(buf[: put_downlink(buf, 0, sorted(items.items()))])


def with_order(
    room: int,
    counter: int,
    ack: Mapping[int, int | bytes | tuple[int, ...]],
    time: int | None,
    order: Mapping[int, Any],
) -> bytes | None:
    """Return the fullest payload of at most `room` bytes with a command in it, None when even the command alone is too long.

    What gives way first: the time, then the counters beside `counter` (of the uplink that is answered), then the ack: the node sends
    that frame again. Only a whole ack is true, so it is shortened to the one counter and not cut.
    """
    single = {DOWN_NEXT: counter + 1, DOWN_SINCE: counter} if ack else {}
    for keys in dict.fromkeys((tuple(ack.items()), tuple(single.items()), ())):
        for told in dict.fromkeys((time, None)):
            body = payload(dict(keys), told, order=order)
            if len(body) <= room:
                return body
    return None


def seal(node: Node, counter: int, plaintext: bytes, sealer: Sealer) -> bytes:
    """Return the sealed frame. All 32 counter bits are sent: a node that slept or was reset need not guess (2 bytes)."""
    buf = bytearray(frame.HEADER_MAX)
    end = frame.put_header(buf, frame.DOWNLINK, node.id, counter, node.epoch & 3, True)
    nonce = bytearray(frame.NONCE)
    frame.put_nonce(nonce, frame.DOWN, node.id, node.epoch, counter)
    head = bytes(buf[:end])
    return head + sealer(node.key, bytes(nonce), plaintext, head)


def overhead(node: Node) -> int:
    """Return header and tag bytes of a downlink frame to a node."""
    return (9 if node.id > 0xFFFF else 7) + frame.TAG

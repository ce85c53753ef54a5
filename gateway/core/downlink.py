"""Downlink frames: payload map, header and seal. The counter must be committed before the frame is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from motewire import frame
from motewire.codes import DOWN_CONFIG, DOWN_REKEY, DOWN_TIME
from motewire.downlink import put_downlink

from gateway.core.model import Node

Sealer = Callable[[bytes, bytes, bytes, bytes], bytes]
"""(key, nonce, plaintext, associated data) -> ciphertext and 8-byte tag: AES-128-CCM, M = 8, L = 2."""


def payload(
    ack: Mapping[int, int | bytes],
    time: int | None = None,
    config: Mapping[int, int] | None = None,
    rekey: Node | None = None,
) -> bytes:
    """Return a downlink map: ack keys, Unix time when given, config {1 sample_s, 2 row_s, 3 report_s} when given,
    the epoch and key of `rekey` when given."""
    items: dict[int, Any] = dict(ack)
    if time is not None:
        items[DOWN_TIME] = time
    if config:
        items[DOWN_CONFIG] = dict(config)
    if rekey is not None:
        items[DOWN_REKEY] = [rekey.epoch, rekey.key]
    buf = bytearray(1024)
    return bytes(buf[: put_downlink(buf, 0, sorted(items.items()))])


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

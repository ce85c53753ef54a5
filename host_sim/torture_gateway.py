"""An honest gateway of a page for one node: opens, remembers, acknowledges only what it holds. Copies are cheap: one per cut point.

Judges seals with `cryptography` and payloads with cbor2 and a bit reader written from WIRE.md section 3: nothing of the node's own code.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any

import cbor2
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from motewire import frame
from motewire.codes import DOWN_CONFIG, DOWN_MISSING, DOWN_NEXT, DOWN_REKEY, DOWN_SINCE, DOWN_TIME
from motewire.downlink import put_downlink
from motewire.errors import WireError
from motewire.interval import seconds_of
from motewire.schemas import SCHEMAS

from host_sim.protocol import EPOCH_2000

_WINDOW = 64
Pair = tuple[int, int]
"""(key epoch, counter)"""
Row = tuple[int, dict[int, int]]
"""(t2000, {quantity id: raw value})"""


@dataclass(frozen=True, slots=True)
class Frame:
    """An authentic uplink frame: its type, plaintext and the bytes as sealed."""

    kind: int
    plain: bytes
    data: bytes


@dataclass(slots=True)
class Gateway:
    """State of the gateway for node `node`. keys: {epoch: key}, the last one is offered when `rekey` is set.

    hear() takes what was received and returns the answer. `clashes`: pairs seen with two different contents. refused: frames nobody
    could open. config: {config key: value} for the next answer.
    """

    node: int
    keys: dict[int, bytes]
    epoch: int = 0
    rekey: bool = False
    frames: dict[Pair, Frame] = field(default_factory=dict)
    down: int = 0
    config: dict[int, int] | None = None
    clashes: list[Pair] = field(default_factory=list)
    refused: int = 0

    def copy(self) -> Gateway:
        """A gateway that goes on from here."""
        return replace(self, frames=dict(self.frames), clashes=list(self.clashes))

    def open(self, data: bytes) -> tuple[Pair, Frame] | None:
        """Authenticate an uplink under the key in use or the next one; None when it is nobody's."""
        try:
            kind, node, counter, is_long, slot, end = frame.parse_header(data)
        except WireError:
            return None
        if node != self.node or kind == frame.DOWNLINK:
            return None
        for epoch, key in self.keys.items():
            if epoch & 3 != slot or epoch < self.epoch:
                continue
            nonce = bytearray(frame.NONCE)
            for candidate in self._candidates(epoch, counter, is_long):
                frame.put_nonce(nonce, frame.UP, node, epoch, candidate)
                try:
                    plain = AESCCM(key, tag_length=frame.TAG).decrypt(bytes(nonce), data[end:], data[:end])
                except InvalidTag:
                    continue
                return (epoch, candidate), Frame(kind, plain, data)
        return None

    def open_as(self, counter: int, data: bytes) -> list[Row]:
        """Rows of a frame whose whole counter is known; empty when it is no report."""
        kind, node, _, _, _, end = frame.parse_header(data)
        nonce = bytearray(frame.NONCE)
        frame.put_nonce(nonce, frame.UP, node, self.epoch, counter)
        plain = AESCCM(self.keys[self.epoch], tag_length=frame.TAG).decrypt(bytes(nonce), data[end:], data[:end])
        return rows_of(plain) if kind == frame.REPORT else []

    def _counters(self, epoch: int) -> list[int]:
        return sorted(c for e, c in self.frames if e == epoch)

    def _candidates(self, epoch: int, counter: int, is_long: bool) -> list[int]:
        if is_long:
            return [counter]
        base = max(1, max(self._counters(epoch), default=0) + 1 - _WINDOW)
        first = base + (counter - base & 0xFFFF)
        return [first, first - 65536] if first > 65536 else [first]

    def hear(self, data: bytes, unix_s: int) -> bytes | None:
        """Take a frame at Unix time `unix_s`; return the sealed answer, or None where the contract gives none."""
        opened = self.open(data)
        if opened is None:
            self.refused += 1
            return None
        pair, got = opened
        epoch, counter = pair
        if epoch > self.epoch:  # proven: the old key is over
            self.epoch, self.rekey, self.down = epoch, False, 0
        known = self.frames.get(pair)
        if known is not None and known != got:
            self.clashes.append(pair)
        in_order = counter == max(self._counters(epoch), default=0) + 1
        self.frames[pair] = got
        if in_order and known is None and not frame.wants_ack(got.kind, counter):
            return None
        items: dict[int, Any] = self.ack(epoch, counter)
        if got.kind == frame.STATUS or data[0] & 8:
            items[DOWN_TIME] = unix_s
        if self.config is not None:
            items[DOWN_CONFIG], self.config = self.config, None
        if self.rekey:
            last = max(self.keys)
            items[DOWN_REKEY] = [last, self.keys[last]]
        return self.seal(items)

    def ack(self, epoch: int, answering: int) -> dict[int, Any]:
        """The ack keys: what is held up to the highest counter, or, for an older frame, up to the gap above it."""
        held = set(self._counters(epoch))
        top = max(held) + 1
        items = _ack_below(top, held)
        if answering < items.get(DOWN_SINCE, 0):
            above = answering
            while above in held:
                above += 1
            items = _ack_below(above, held)
        return items

    def seal(self, items: dict[int, Any]) -> bytes:
        """Seal a downlink map under the next downlink counter."""
        self.down += 1
        buf = bytearray(frame.MAX_FRAME)
        plain = bytes(buf[: put_downlink(buf, 0, sorted(items.items()))])
        end = frame.put_header(buf, frame.DOWNLINK, self.node, self.down, self.epoch & 3, True)
        nonce = bytearray(frame.NONCE)
        frame.put_nonce(nonce, frame.DOWN, self.node, self.epoch, self.down)
        head = bytes(buf[:end])
        return head + AESCCM(self.keys[self.epoch], tag_length=frame.TAG).encrypt(bytes(nonce), plain, head)

    def rows(self) -> list[tuple[Pair, Row]]:
        """Every row of every report held, in order of counters."""
        return [(p, row) for p, f in sorted(self.frames.items()) if f.kind == frame.REPORT for row in rows_of(f.plain)]


def _ack_below(top: int, held: set[int]) -> dict[int, Any]:
    low = max(top - _WINDOW, 0)
    bitmap = bytearray(_WINDOW // 8)
    for counter in range(max(low, 1), top):
        if counter not in held:
            back = top - 1 - counter
            bitmap[back >> 3] |= 0x80 >> (back & 7)
    since = low
    while since > 1 and since - 1 in held:
        since -= 1
    while bitmap and not bitmap[-1]:
        del bitmap[-1]
    items: dict[int, Any] = {DOWN_NEXT: top}
    if bitmap:
        items[DOWN_MISSING] = bytes(bitmap)
    if since > 1:
        items[DOWN_SINCE] = since
    return items


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._text = "".join(f"{b:08b}" for b in data)
        self._at = 0

    def take(self, n: int) -> int:
        piece = self._text[self._at : self._at + n]
        if len(piece) < n:
            raise ValueError("bits exhausted")
        self._at += n
        return int(piece or "0", 2)

    def eg(self, m: int) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
        w = 1 << zeros | self.take(zeros)
        return (w - 1 << m) + self.take(m)

    def rice(self, k: int) -> int:
        q = 0
        while q < 8 and self.take(1):
            q += 1
        return (q << k | self.take(k)) if q < 8 else (8 << k) + self.eg(k)


def _unzigzag(u: int) -> int:
    return u >> 1 if not u & 1 else -(u + 1 >> 1)


@functools.lru_cache(maxsize=4096)
def rows_of(plain: bytes) -> list[Row]:
    """Rows of a packed report with an absolute stamp. ValueError for anything else."""
    item = cbor2.loads(plain)
    schema, stamp, code, count, data = item[:5]
    if not isinstance(count, int) or stamp < 65536:
        raise ValueError("not a packed report with an absolute stamp")
    ids = SCHEMAS[schema] if isinstance(schema, int) else tuple(schema)
    bits = _Bits(data)
    times = [stamp - EPOCH_2000]
    if code > 0:
        times += [times[0] + i * seconds_of(code) for i in range(1, count)]
    elif count > 1:
        nominal = -1 - code if code else 0
        k = bits.take(4)
        for _ in range(1, count):
            u = 0 if k == 15 else bits.rice(k)
            times.append(times[-1] + (nominal + _unzigzag(u) if nominal else u))
    rows: list[Row] = [(t, {}) for t in times]
    for quantity in ids:
        gaps = bits.take(1)
        there = [i for i in range(count) if not gaps or bits.take(1)]
        if not there:
            continue
        v = _unzigzag(bits.eg(6))
        k = bits.take(4) if len(there) > 1 else 15
        rows[there[0]][1][quantity] = v
        for i in there[1:]:
            v += 0 if k == 15 else _unzigzag(bits.rice(k))
            rows[i][1][quantity] = v
    return rows

"""Load without a VM: nodes whose frames are sealed beforehand on motewire and `cryptography`, and a packet forwarder's datagrams.

For benches, tortures and tests of a gateway, where thousands of nodes matter and their firmware does not.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from motewire import EPOCH_2000, frame
from motewire.batch import Batch
from motewire.messages import Ack, put_alarm, put_map, read
from motewire.schemas import SCHEMAS

PUSH_DATA, PUSH_ACK, PULL_DATA, PULL_RESP, PULL_ACK, TX_ACK = range(6)


@dataclass
class Mote:
    """A node's wire side: seals reports, alarms and status frames with ever rising counters, opens downlinks."""

    id: int
    key: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    epoch: int = 0
    counter: int = 0

    def seal(self, kind: int, payload: bytes, counter: int | None = None, long: bool = False) -> bytes:
        """Seal a payload under the next (or the given) counter."""
        if counter is None:
            self.counter += 1
            counter = self.counter
        buf = bytearray(frame.HEADER_MAX)
        end = frame.put_header(buf, kind, self.id, counter, self.epoch & 3, long)
        nonce = bytearray(frame.NONCE)
        frame.put_nonce(nonce, frame.UP, self.id, self.epoch, counter)
        head = bytes(buf[:end])
        return head + AESCCM(self.key, tag_length=frame.TAG).encrypt(bytes(nonce), payload, head)

    def report(
        self, t: int, rows: Sequence[Sequence[int | None]], schema: int = 3, interval: int = 60, **seal: Any
    ) -> bytes:
        """Seal a packed report of rows on a grid from Unix time t."""
        return self.seal(frame.REPORT, report(t, rows, schema, interval), **seal)

    def alarm(
        self, code: int, t: int, quantity: int, value: int | None, limit: int | None = None, **seal: Any
    ) -> bytes:
        """Seal an alarm."""
        buf = bytearray(64)
        return self.seal(
            frame.ALARM, bytes(buf[: put_alarm(buf, 0, code, t - EPOCH_2000, quantity, value, limit)]), **seal
        )

    def status(self, items: dict[int, Any], **seal: Any) -> bytes:
        """Seal a status map."""
        buf = bytearray(512)
        return self.seal(frame.STATUS, bytes(buf[: put_map(buf, 0, sorted(items.items()))]), **seal)

    def open(self, downlink: bytes) -> dict[int, Any]:
        """Return the map of a downlink frame; raises when it is not for this node or not authentic."""
        kind, node, counter, is_long, slot, end = frame.parse_header(downlink)
        assert (kind, node, is_long, slot) == (frame.DOWNLINK, self.id, True, self.epoch & 3)
        nonce = bytearray(frame.NONCE)
        frame.put_nonce(nonce, frame.DOWN, node, self.epoch, counter)
        plain = AESCCM(self.key, tag_length=frame.TAG).decrypt(bytes(nonce), downlink[end:], downlink[:end])
        found: Any = read(plain, 0, len(plain))
        return found

    def acked(self, downlink: bytes) -> Ack:
        """Return the ack of a downlink frame."""
        return Ack(self.open(downlink))


def report(t: int, rows: Sequence[Sequence[int | None]], schema: int = 3, interval: int = 60) -> bytes:
    """Return a packed report payload of rows (None is a missing value) on a grid of `interval` seconds from Unix time t."""
    return _encoded(t, rows, schema, interval, Batch.encode)


def plain_report(t: int, rows: Sequence[Sequence[int | None]], schema: int = 3, interval: int = 60) -> bytes:
    """Return the same report in the plain form of the wire, which any CBOR library reads."""
    return _encoded(t, rows, schema, interval, Batch.encode_plain)


def _encoded(t: int, rows: Sequence[Sequence[int | None]], schema: int, interval: int, encode: Any) -> bytes:
    batch = Batch(SCHEMAS[schema], schema, interval, 240)
    for i, row in enumerate(rows):
        present = sum(1 << c for c, v in enumerate(row) if v is not None)
        batch.append(t + i * interval - EPOCH_2000, [v or 0 for v in row], present)
    buf = bytearray(1200)
    return bytes(buf[: encode(batch, buf, 0, 1100)])


def push_data(eui: bytes, frames: Sequence[bytes], tmst: int, **fields: Any) -> bytes:
    """Return a PUSH_DATA datagram with frames as heard at SF7 on 868.1 MHz, 10 ms apart from concentrator time tmst (us).

    fields replace those of each rxpk. eui: 8 bytes.
    """
    rxpk = [
        {
            "tmst": tmst + i * 10_000 & 0xFFFFFFFF, "freq": 868.1, "chan": 0, "rfch": 0, "stat": 1, "modu": "LORA", "datr": "SF7BW125",
            "codr": "4/5", "rssi": -80, "lsnr": 7.5, "size": len(data), "data": base64.b64encode(data).decode(), **fields,
        }
        for i, data in enumerate(frames)
    ]  # fmt: skip
    return datagram(PUSH_DATA, eui, json.dumps({"rxpk": rxpk}).encode())


def datagram(kind: int, eui: bytes, body: bytes = b"") -> bytes:
    """Return a forwarder's datagram under a fresh token."""
    return b"\x02" + secrets.token_bytes(2) + bytes((kind,)) + eui + body


def registry(motes: Sequence[Mote], interval_s: int = 600, profile: str = "air_quality") -> str:
    """Return the text of a nodes.toml that knows these nodes, as open ones with a place."""
    return "".join(
        f'[[node]]\nid = {m.id}\nname = "n-{m.id}"\nkey = "{m.key.hex()}"\nepoch = {m.epoch}\nprofile = "{profile}"\n'
        f'interval_s = {interval_s}\nlat = 45.54\nlon = 13.73\nvisibility = "open"\n'
        for m in motes
    )

"""Semtech UDP packet forwarder, protocol 2 (PROTOCOL.TXT): the concentrator's side, towards the real gateway process."""

from __future__ import annotations

import base64
import json
import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

PUSH_DATA, PUSH_ACK, PULL_DATA, PULL_RESP, PULL_ACK, TX_ACK = range(6)
VERSION = 2
TMST_MASK = (1 << 32) - 1


class GatewaySilent(Exception):
    """The gateway did not answer PULL_DATA in time."""


@dataclass(frozen=True, slots=True)
class Downlink:
    """A PULL_RESP: its token and txpk as the gateway sent it."""

    token: int
    txpk: dict[str, Any]


def iso(unix_us: int) -> str:
    """ISO 8601 with microseconds, as `time` of rxpk."""
    return datetime.fromtimestamp(unix_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{unix_us % 1_000_000:06d}Z"


class Forwarder:
    """One receiver's UDP socket. eui: 8 bytes. TIMEOUT_S: longest real wait for a PULL_ACK (the gateway promises 5 s)."""

    TIMEOUT_S = 15.0

    def __init__(self, eui: bytes, gateway: tuple[str, int]) -> None:
        self._eui, self._timeout = eui, self.TIMEOUT_S
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.connect(gateway)
        self._token = self._pulled = 0
        self.counters = dict.fromkeys(("rxnb", "rxok", "rxfw", "dwnb", "txnb"), 0)

    def _send(self, kind: int, body: bytes = b"", token: int | None = None) -> int:
        if token is None:
            self._token = token = (self._token + 1) & 0xFFFF
        self._sock.send(bytes((VERSION,)) + token.to_bytes(2, "little") + bytes((kind,)) + self._eui + body)
        return token

    def push(self, rxpk: dict[str, Any]) -> None:
        """PUSH_DATA with one received packet."""
        self.counters["rxnb"] += 1
        self.counters["rxok"] += 1
        self.counters["rxfw"] += 1
        self._send(PUSH_DATA, json.dumps({"rxpk": [rxpk]}, separators=(",", ":")).encode())

    def stat(self, unix_us: int) -> None:
        """PUSH_DATA with a status; its `time` is the clock of a gateway box without one."""
        stamp = datetime.fromtimestamp(unix_us // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S GMT")
        self._send(PUSH_DATA, json.dumps({"stat": {"time": stamp, "ackr": 100.0, **self.counters}}).encode())

    def pull_begin(self) -> None:
        """Send PULL_DATA: the barrier. pull_end() must follow."""
        self._pulled = self._send(PULL_DATA)

    def pull_end(self) -> list[Downlink]:
        """Wait for the PULL_ACK; return the downlinks that came before it. GatewaySilent after the timeout."""
        found: list[Downlink] = []
        deadline = time.monotonic() + self._timeout
        while True:
            self._sock.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self._sock.recv(65536)
            except (TimeoutError, ConnectionRefusedError) as e:
                raise GatewaySilent(f"receiver {self._eui.hex()}: no PULL_ACK within {self._timeout:.0f} s") from e
            if len(data) < 4 or data[0] != VERSION:
                continue
            got, kind = int.from_bytes(data[1:3], "little"), data[3]
            if kind == PULL_RESP:
                found.append(Downlink(got, json.loads(data[4:])["txpk"]))
            elif kind == PULL_ACK and got == self._pulled:
                return found

    def tx_ack(self, token: int, error: str) -> None:
        """TX_ACK; error "" or one of the protocol's names."""
        self.counters["dwnb"] += 1
        self.counters["txnb"] += not error
        body = json.dumps({"txpk_ack": {"error": error}}).encode() if error else b""
        self._send(TX_ACK, body, token)

    def close(self) -> None:
        self._sock.close()


def payload_of(txpk: dict[str, Any]) -> bytes:
    """The bytes to send; base64 with or without padding. ValueError when they do not match `size`."""
    text = str(txpk["data"])
    data = base64.b64decode(text + "=" * (-len(text) % 4))
    if len(data) != txpk.get("size", len(data)):
        raise ValueError("size does not match data")
    return data

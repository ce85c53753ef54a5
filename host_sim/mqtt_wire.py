"""MQTT 3.1.1 packets, the few a virtual WiFi node needs from its broker (OASIS standard, sections 2 and 3)."""

from __future__ import annotations

from dataclasses import dataclass

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT = (
    1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 14,
)  # fmt: skip
MAX_PACKET = 65_536


class ProtocolError(Exception):
    """The client broke MQTT 3.1.1; the broker closes the connection."""


@dataclass(frozen=True, slots=True)
class Packet:
    kind: int
    flags: int
    body: bytes


def pack(kind: int, flags: int, body: bytes) -> bytes:
    """Fixed header (kind 1..14, flags 0..15, remaining length) and body."""
    n, length = len(body), bytearray()
    while True:
        length.append(n & 127 | (128 if n > 127 else 0))
        n >>= 7
        if not n:
            return bytes((kind << 4 | flags,)) + bytes(length) + body


def publish(topic: str, payload: bytes) -> bytes:
    """A QoS 0 PUBLISH."""
    name = topic.encode()
    return pack(PUBLISH, 0, len(name).to_bytes(2, "big") + name + payload)


class Reader:
    """Cuts a byte stream into packets."""

    def __init__(self) -> None:
        self._buf = bytearray()

    def feed(self, data: bytes) -> list[Packet]:
        """Add bytes; return the packets now complete. Raises ProtocolError."""
        self._buf += data
        packets = []
        while len(self._buf) >= 2:
            length = shift = 0
            at = 1
            while True:
                if at >= len(self._buf):
                    return packets
                byte = self._buf[at]
                length |= (byte & 127) << shift
                at, shift = at + 1, shift + 7
                if not byte & 128:
                    break
                if shift > 21:
                    raise ProtocolError("remaining length has more than four bytes")
            if length > MAX_PACKET:
                raise ProtocolError(f"packet of {length} bytes")
            if len(self._buf) < at + length:
                return packets
            packets.append(Packet(self._buf[0] >> 4, self._buf[0] & 15, bytes(self._buf[at : at + length])))
            del self._buf[: at + length]
        return packets


def text(body: bytes, at: int) -> tuple[str, int]:
    """A UTF-8 string field at `at`: (text, next offset). Raises ProtocolError."""
    end = at + 2 + int.from_bytes(body[at : at + 2], "big")
    if at + 2 > len(body) or end > len(body):
        raise ProtocolError("string runs past the packet")
    try:
        return body[at + 2 : end].decode(), end
    except UnicodeDecodeError as e:
        raise ProtocolError("string is not UTF-8") from e

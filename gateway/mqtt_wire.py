"""The bytes between paho and the broker. Two kinds of packet never reach paho: PUBLISH on its way out and PUBACK on its way in.

They are all but a handful of the packets of a gateway, and paho spends 25 us and four system calls on each pair (DECISIONS.md). What is
rare stays paho's: connecting, authentication, last will, TLS, subscriptions, messages to us, keep-alive, good-bye.
MQTT 3.1.1 sections 2.2, 3.3 and 3.4.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

import paho.mqtt.client as paho

READ = 1 << 16
LONGEST = 1 << 17  # bytes of a message to us: frames have 1 kB, requests 4, what we published ourselves a little more
FULL = 1 << 18  # bytes waiting to be sent, beyond which nobody should add any
_PUBLISH, _PUBACK, _PUBACK_LENGTH = 0x30, 0x40, 4
_PINGREQ, _PINGRESP = b"\xc0\x00", 0xD0
_NOTHING_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Wire:
    """What paho asks of a socket, over a connected one (TCP or TLS). paho is given whole packets only, one at a time.

    Outgoing bytes are collected until flush(), so that many messages leave in one system call.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._in, self._at = b"", 0
        self._left = 0  # bytes that paho may read: the rest of one packet
        self._out = bytearray()
        self._behind: bytearray | None = None  # what waits behind hold()
        self._skip = 0  # bytes to be dropped: the rest of a message that is too long
        self.pings = self.pongs = 0  # PINGREQs that were collected, and PINGRESPs that have come, whoever asked
        self._later = 0  # PINGREQs that wait behind hold()
        self.dropped = 0  # messages beyond LONGEST: acknowledged, and not kept in memory first

    # ours

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool, mid: int, first: bool = False) -> None:
        """Collect a PUBLISH of QoS 0 or 1; mid 1..65535 counts for QoS 1 only. first: before what hold() keeps back. Raises ValueError for a topic
        that is none."""
        name = topic.encode()
        if not 0 < len(name) < 1 << 16 or "+" in topic or "#" in topic:
            raise ValueError(f"topic {topic!r} cannot be published to")
        length = 2 + len(name) + (2 if qos else 0) + len(payload)
        out = self._out if self._behind is None or first else self._behind
        out.append(_PUBLISH | qos << 1 | retain)
        while length > 127:
            out.append(length & 127 | 128)
            length >>= 7
        out.append(length)
        out += len(name).to_bytes(2, "big")
        out += name
        if qos:
            out += mid.to_bytes(2, "big")
        out += payload

    def ping(self) -> int:
        """Collect a PINGREQ (section 3.12), before what hold() keeps back; return its number: that of `pongs` when it was answered."""
        self._out += _PINGREQ
        self.pings += 1
        return self.pings

    def hold(self) -> None:
        """Keep back what is collected from here on, but for pings and what is to be first, until release()."""
        if self._behind is None:
            self._behind = bytearray()

    def release(self) -> bool:
        """Let what was kept back go; True when there was something."""
        kept, self._behind = self._behind, None
        self._out += kept or b""
        self.pings, self._later = self.pings + self._later, 0
        return bool(kept)

    def flush(self) -> bool:
        """Send what was collected; True when nothing is left. Raises OSError when the connection is gone."""
        while self._out:
            try:
                sent = self.sock.send(self._out)
            except _NOTHING_YET:
                return False
            del self._out[:sent]
        return True

    @property
    def full(self) -> bool:
        """True when the other side reads more slowly than we write."""
        return len(self._out) + len(self._behind or b"") >= FULL

    def fill(self) -> bool:
        """Read what has come; False at the end of the connection. Raises OSError when it broke."""
        try:
            data = self.sock.recv(READ)
        except _NOTHING_YET:
            return True
        self._in, self._at = self._in[self._at :] + data, 0
        self._drop()
        return bool(data)

    def _drop(self) -> None:
        gone = min(self._skip, len(self._in) - self._at)
        self._at += gone
        self._skip -= gone

    def acks(self) -> list[int]:
        """Take the PUBACKs that come next; return their message ids."""
        data, at, found = self._in, self._at, []
        if not self._left and not self._skip:
            end = len(data) - _PUBACK_LENGTH
            while at <= end and data[at] == _PUBACK and data[at + 1] == 2:
                found.append(data[at + 2] << 8 | data[at + 3])
                at += _PUBACK_LENGTH
            self._at = at
        return found

    def for_paho(self) -> bool:
        """True when there is (more of) a packet that is paho's to read."""
        if self._skip:
            return False
        if not self._left:
            length = self._next_length()
            if length > LONGEST and self._in[self._at] & 0xF0 == _PUBLISH:
                return self._is_too_long(length) and self.for_paho()
            self._left = length
            self.pongs += length > 0 and self._in[self._at] == _PINGRESP
        return self._left > 0 and self._at < len(self._in)

    def _is_too_long(self, length: int) -> bool:
        """Begin to drop a PUBLISH; False while its message id has not come."""
        data, at = self._in, self._at
        head = 2 + next(n for n, byte in enumerate(data[at + 1 : at + 5]) if byte < 128)
        if len(data) < at + head + 2:
            return False
        topic = int.from_bytes(data[at + head : at + head + 2], "big")
        if data[at] & 0x06:
            mid = at + head + 2 + topic
            if len(data) < mid + 2:
                return False
            self._out += bytes((_PUBACK, 2, *data[mid : mid + 2]))
        self.dropped += 1
        self._skip = length
        self._drop()
        return True

    def _next_length(self) -> int:
        """Return the length of the packet that comes next, its head included; 0 while its head is not complete."""
        data, at = self._in, self._at
        if at < len(data) and data[at] == _PUBACK and len(data) - at < _PUBACK_LENGTH:
            return 0
        length = shift = 0
        for n, byte in enumerate(data[at + 1 : at + 5], 2):
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return n + length
        return 6 if shift == 28 else 0  # a length of five bytes: paho will say that this is no MQTT

    def pending(self) -> bool:
        """True when TLS has bytes for which the kernel will not call."""
        return isinstance(self.sock, ssl.SSLSocket) and self.sock.pending() > 0

    # paho's

    def recv(self, size: int) -> bytes:
        piece = self._in[self._at : self._at + min(size, self._left)]
        if not piece:
            raise BlockingIOError
        self._at += len(piece)
        self._left -= len(piece)
        return piece

    def send(self, data: bytes | bytearray) -> int:
        asked = data == _PINGREQ
        if self._behind is None:
            self._out += data
            self.pings += asked
        else:
            self._behind += data
            self._later += asked
        return len(data)

    def setblocking(self, flag: bool) -> None:
        self.sock.setblocking(flag)

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        """Send what still goes, a DISCONNECT for example, and close."""
        self.release()
        try:
            self.flush()
        except OSError:
            pass  # the connection is gone, which is what close() is for
        self.sock.close()


class Client(paho.Client):
    """paho over a Wire."""

    def _create_socket(self) -> Any:
        return Wire(super()._create_socket())  # type: ignore[misc]

"""An MQTT 3.1.1 client for one asyncio loop: QoS 0, a deadline on every await, one write per packet.

It makes no delivery promise: the frame's own ack does (design.md 1). Any surprise is an OSError, and the owner connects anew.
OASIS MQTT 3.1.1; section numbers below are its own.
"""

import asyncio
from micropython import const
from time import ticks_diff, ticks_ms

_CONNECT = const(0x10)
_CONNACK = const(0x20)
_PUBLISH = const(0x30)
_SUBSCRIBE = const(0x82)
_SUBACK = const(0x90)
_PINGREQ = const(0xC0)
_PINGRESP = const(0xD0)
_DISCONNECT = const(0xE0)
_PROTOCOL = const(71)  # EPROTO
_TIMEDOUT = const(116)  # lwIP's ETIMEDOUT
_RESET = const(104)
_REFUSED = const(111)


def _put_text(out, text):
    data = text.encode() if isinstance(text, str) else text
    out.append(len(data) >> 8)
    out.append(len(data) & 255)
    out.extend(data)


def _packet(kind, body):
    """One packet: fixed header with the remaining length (2.2.3), then the body."""
    out = bytearray((kind,))
    n = len(body)
    while True:
        out.append(n & 127 | (128 if n > 127 else 0))
        n >>= 7
        if not n:
            break
    out.extend(body)
    return out


class Mqtt:
    """One connection. reader, writer: asyncio streams. deadline_s: for every answer and every rest of a packet.

    on_message: function(topic bytes, payload bytearray). max_packet: longer ones are a protocol error.
    """

    def __init__(self, reader, writer, on_message, deadline_s=10, max_packet=2048):
        self._r, self._w = reader, writer
        self._on_message = on_message
        self._ms = 1000 * deadline_s
        self._max = max_packet
        self._id = 0
        self._ping_sent = False
        self._wrote = 0  # ticks at the last packet that was sent
        self._inside = False  # between the first and the last byte of a packet
        self._torn = False  # a packet did not leave whole: whatever follows it is read as its rest
        self.keepalive_s = 0

    async def _exactly(self, n, ms):
        """Read n bytes within ms. Raises OSError: timed out, or closed by the broker."""
        try:
            data = await asyncio.wait_for_ms(self._r.readexactly(n), ms)
        except asyncio.TimeoutError:
            raise OSError(_TIMEDOUT)
        except EOFError:
            raise OSError(_RESET)
        if len(data) < n:
            raise OSError(_RESET)
        return data

    async def _write(self, packet):
        if self._torn:
            raise OSError(_RESET)
        self._wrote = ticks_ms()
        whole = False
        try:
            self._w.write(packet)  # one write: small ones would wait for each other's TCP acks (Nagle)
            await asyncio.wait_for_ms(self._w.drain(), self._ms)
            whole = True
        except asyncio.TimeoutError:
            raise OSError(_TIMEDOUT)
        finally:
            if not whole:  # cancelled, too
                self._torn = True

    async def _read_packet(self, first_ms):
        """Return (first byte, body) of the next packet; first_ms: how long the first byte may take. Raises OSError."""
        self._inside = False
        first = (await self._exactly(1, first_ms))[0]
        self._inside = True
        n = 0
        for shift in (0, 7, 14, 21):
            b = (await self._exactly(1, self._ms))[0]
            n |= (b & 127) << shift
            if b < 128:
                break
        else:
            raise OSError(_PROTOCOL)
        if n > self._max:
            raise OSError(_PROTOCOL)
        return first, (await self._exactly(n, self._ms) if n else b"")

    async def connect(self, client_id, keepalive_s=120, user=None, password=None):
        """Open a clean session. Raises OSError: refused (errno 111), timed out, closed."""
        body = bytearray()
        _put_text(body, "MQTT")
        body.append(4)
        body.append(2 | (0x80 if user is not None else 0) | (0x40 if password is not None else 0))
        body.append(keepalive_s >> 8)
        body.append(keepalive_s & 255)
        _put_text(body, client_id)
        if user is not None:
            _put_text(body, user)
        if password is not None:
            _put_text(body, password)
        await self._write(_packet(_CONNECT, body))
        kind, answer = await self._read_packet(self._ms)
        if kind != _CONNACK or len(answer) != 2:
            raise OSError(_PROTOCOL)
        if answer[1]:
            raise OSError(_REFUSED, "CONNACK %d" % answer[1])
        self.keepalive_s = keepalive_s

    async def subscribe(self, topic):
        """Subscribe with QoS 0 and wait for the SUBACK; messages that come first are delivered. Raises OSError."""
        self._id = self._id % 65535 + 1  # never 0 (2.3.1)
        body = bytearray((self._id >> 8, self._id & 255))
        _put_text(body, topic)
        body.append(0)
        await self._write(_packet(_SUBSCRIBE, body))
        while True:
            kind, answer = await self._read_packet(self._ms)
            if kind == _SUBACK:
                if len(answer) != 3 or answer[0] << 8 | answer[1] != self._id or answer[2] & 0x80:
                    raise OSError(_PROTOCOL)
                return
            self._take(kind, answer)

    async def publish(self, topic, payload):
        """Send a QoS 0 message; on return TCP has taken it, which promises nothing. Raises OSError."""
        body = bytearray()
        _put_text(body, topic)
        body.extend(payload)
        await self._write(_packet(_PUBLISH, body))

    async def run(self):
        """Read until it is over, keep the connection alive by a ping when nothing was sent for half the time (3.1.2.10). Raises OSError when it is over, also when a
        ping goes unanswered, or at the latest with the next ping when a packet did not leave whole."""
        idle_ms = 1000 * self.keepalive_s // 2
        while True:
            try:
                quiet = idle_ms - ticks_diff(ticks_ms(), self._wrote)
                kind, body = await self._read_packet(self._ms if self._ping_sent else max(1, quiet))
            except OSError as e:
                if e.errno != _TIMEDOUT or self._ping_sent or self._inside:
                    raise
                self._ping_sent = True
                await self._write(_packet(_PINGREQ, b""))
                continue
            self._ping_sent = False  # whatever it was, the broker lives
            self._take(kind, body)

    def _take(self, kind, body):
        if kind == _PINGRESP:
            return
        if kind & 0xF0 != _PUBLISH or kind & 6:  # QoS 0 was asked for
            raise OSError(_PROTOCOL)
        n = 2 + (body[0] << 8 | body[1]) if len(body) >= 2 else 3
        if n > len(body):
            raise OSError(_PROTOCOL)
        self._on_message(bytes(body[2:n]), bytearray(body[n:]))

    async def close(self):
        """Say goodbye if that is still possible, and close. Never raises OSError."""
        try:
            await self._write(_packet(_DISCONNECT, b""))
        except OSError:
            pass  # it was dead already
        try:
            self._w.close()
            await self._w.wait_closed()
        except OSError:
            pass

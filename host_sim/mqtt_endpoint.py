"""The broker as WiFi nodes see it: one MQTT 3.1.1 connection, bytes in, bytes and uplinks out. Pure; time stays outside."""

from __future__ import annotations

from dataclasses import dataclass, field

from host_sim import mqtt_wire as mw


@dataclass(frozen=True, slots=True)
class Uplink:
    """A QoS 0 or 1 PUBLISH of the node."""

    topic: str
    payload: bytes


@dataclass(slots=True)
class Reaction:
    """What a piece of input leads to: bytes back to the node, messages on to the real broker, the end of the connection."""

    reply: bytes = b""
    uplinks: list[Uplink] = field(default_factory=list)
    close: bool = False


class Endpoint:
    """State of one connection: CONNECT first, SUBSCRIBE exact topics or with a trailing #, PUBLISH QoS 0/1, PINGREQ."""

    def __init__(self) -> None:
        self._reader = mw.Reader()
        self.client_id: str | None = None
        self.subscribed: set[str] = set()

    def feed(self, data: bytes) -> Reaction:
        """Digest bytes from the node. A protocol error closes the connection, as a broker does."""
        reaction = Reaction()
        try:
            for packet in self._reader.feed(data):
                self._packet(packet, reaction)
                if reaction.close:
                    break
        except (mw.ProtocolError, IndexError):
            reaction.close = True
        return reaction

    def _packet(self, packet: mw.Packet, out: Reaction) -> None:
        body = packet.body
        if self.client_id is None:
            if packet.kind != mw.CONNECT:
                raise mw.ProtocolError("first packet is not CONNECT")
            name, at = mw.text(body, 0)
            if name != "MQTT" or body[at] != 4:
                out.reply += mw.pack(mw.CONNACK, 0, b"\0\1")
                out.close = True
                return
            self.client_id, _ = mw.text(body, at + 4)
            out.reply += mw.pack(mw.CONNACK, 0, b"\0\0")
        elif packet.kind == mw.PUBLISH:
            topic, at = mw.text(body, 0)
            qos = packet.flags >> 1 & 3
            if qos == 1:
                out.reply += mw.pack(mw.PUBACK, 0, body[at : at + 2])
            elif qos > 1:
                raise mw.ProtocolError("QoS 2")
            out.uplinks.append(Uplink(topic, body[at + (2 if qos else 0) :]))
        elif packet.kind == mw.SUBSCRIBE:
            at, codes = 2, bytearray()
            while at < len(body):
                topic, at = mw.text(body, at)
                codes.append(min(body[at], 1))
                at += 1
                self.subscribed.add(topic)
            out.reply += mw.pack(mw.SUBACK, 0, body[:2] + bytes(codes))
        elif packet.kind == mw.UNSUBSCRIBE:
            at = 2
            while at < len(body):
                topic, at = mw.text(body, at)
                self.subscribed.discard(topic)
            out.reply += mw.pack(mw.UNSUBACK, 0, body[:2])
        elif packet.kind == mw.PINGREQ:
            out.reply += mw.pack(mw.PINGRESP, 0, b"")
        elif packet.kind == mw.DISCONNECT:
            out.close = True
        elif packet.kind != mw.PUBACK:
            raise mw.ProtocolError(f"packet kind {packet.kind} from a client")

    def wants(self, topic: str) -> bool:
        """True when the node subscribed to topic."""
        return any(t == topic or t.endswith("#") and topic.startswith(t[:-1]) for t in self.subscribed)

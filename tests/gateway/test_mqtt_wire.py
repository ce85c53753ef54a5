"""PUBLISH and PUBACK that pass by paho: judged by another library's codec, and by streams cut at any byte."""

from __future__ import annotations

import asyncio
import socket

import pytest
from amqtt.adapters import BufferReader
from amqtt.mqtt.publish import PublishPacket
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Broker
from gateway.mqtt_session import FIRST_MID, LAST_MID, MqttError, MqttSession
from gateway.mqtt_wire import FULL, Wire
from tests.gateway.world import ScriptedBroker

topics = st.text(st.characters(exclude_characters="+#\0", exclude_categories=("Cs",)), min_size=1, max_size=200)


def pair() -> tuple[Wire, socket.socket]:
    """A wire and its other end."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    return Wire(near), far


@given(topics, st.binary(max_size=20_000), st.integers(0, 1), st.booleans(), st.integers(1, 65535))
async def test_another_library_reads_the_publication(
    topic: str, payload: bytes, qos: int, retain: bool, mid: int
) -> None:
    wire, far = pair()
    wire.publish(topic, payload, qos, retain, mid)
    assert wire.flush()
    sent = far.recv(1 << 16)
    wire.close()
    far.close()
    reader = BufferReader(sent)
    packet = await PublishPacket.from_stream(reader)
    assert (packet.topic_name, bytes(packet.data or b""), packet.qos, packet.retain_flag) == (
        topic,
        payload,
        qos,
        retain,
    )
    assert packet.packet_id == (mid if qos else None)
    assert await reader.read(1) == b""


def test_what_is_kept_back_leaves_behind_what_is_first_and_pings_are_counted_as_they_leave() -> None:
    wire, far = pair()
    wire.hold()
    wire.publish("late", b"", 0, False, 0)
    wire.send(b"\xc0\x00")
    wire.publish("first", b"", 0, False, 0, True)
    assert wire.ping() == 1 and wire.pings == 1 and wire.flush()
    early = b"\x30\x07\x00\x05first\xc0\x00"
    assert far.recv(99) == early
    assert wire.release() and wire.pings == 2 and wire.flush() and not wire.release()
    assert far.recv(99) == b"\x30\x06\x00\x04late\xc0\x00"
    wire.hold()
    wire.publish("last", b"", 0, False, 0)
    wire.close()
    assert far.recv(99) == b"\x30\x06\x00\x04last"
    far.close()


@pytest.mark.parametrize("topic", ["", "a/+/b", "a/#", "x" * 65536])
def test_what_is_no_topic_is_refused(topic: str) -> None:
    wire, far = pair()
    with pytest.raises(ValueError, match="cannot be published"):
        wire.publish(topic, b"", 1, False, 1)
    wire.close()
    assert far.recv(10) == b""
    far.close()


class PahosReading:
    """Reads as paho does: one byte, the length byte by byte, the rest; what is not there yet is asked for again later."""

    def __init__(self, wire: Wire) -> None:
        self.wire, self.packets = wire, list[bytes]()
        self._have, self._want = bytearray(), 1

    def loop_read(self) -> None:
        """Read one packet at most."""
        try:
            while True:
                while len(self._have) < self._want:
                    got = self.wire.recv(self._want - len(self._have))
                    assert got
                    self._have += got
                if self._want < 2 or (self._head() is None):
                    self._want += 1
                    continue
                self._want = self._head() or 0
                if len(self._have) == self._want:
                    self.packets.append(bytes(self._have))
                    self._have, self._want = bytearray(), 1
                    return
        except BlockingIOError:
            return

    def _head(self) -> int | None:
        """The length of the whole packet, once its head is there."""
        length = 0
        for n, byte in enumerate(self._have[1:]):
            length |= (byte & 127) << 7 * n
            if byte < 128:
                return 2 + n + length
        return None


def packet(kind: int, body: bytes) -> bytes:
    length, head = len(body), bytearray((kind,))
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    return bytes(head) + bytes((length,)) + body


pubacks = st.integers(1, 65535).map(lambda mid: packet(0x40, mid.to_bytes(2, "big")))
others = st.one_of(
    st.just(packet(0xD0, b"")),
    st.binary(min_size=3, max_size=3).map(lambda b: packet(0x90, b)),
    st.binary(min_size=4, max_size=400).map(lambda b: packet(0x30, b)),
    # what looks like PUBACKs inside of a message
    st.integers(2, 60).map(lambda n: packet(0x30, bytes((0x40, 2, 1, 1)) * n)),
)


@given(st.lists(st.one_of(pubacks, others), max_size=30), st.lists(st.integers(1, 40), min_size=1))
def test_however_the_stream_is_cut_acks_are_taken_and_paho_gets_the_rest_whole(
    stream: list[bytes], cuts: list[int]
) -> None:
    wire, far = pair()
    reading, acked = PahosReading(wire), list[int]()
    data, n = b"".join(stream), 0
    while data:
        size = cuts[n % len(cuts)]
        far.send(data[:size])
        data, n = data[size:], n + 1
        assert wire.fill()
        while True:
            acked += wire.acks()
            if not wire.for_paho():
                break
            reading.loop_read()
    far.close()
    assert not wire.fill()
    wire.close()
    assert acked == [int.from_bytes(p[2:], "big") for p in stream if p[0] == 0x40]
    assert reading.packets == [p for p in stream if p[0] != 0x40]


def test_what_the_kernel_does_not_take_waits_and_is_not_lost() -> None:
    wire, far = pair()
    body = bytes(range(256)) * 64
    for _ in range(100):
        wire.publish("t", body, 0, False, 0)
    assert not wire.flush() and wire.full
    got = bytearray()
    while not wire.flush():
        got += far.recv(1 << 20)
    while True:
        try:
            got += far.recv(1 << 20)
        except BlockingIOError:
            break
    assert not wire.full and len(got) == 100 * (1 + 3 + 3 + len(body)) > FULL
    wire.close()
    far.close()


async def test_a_message_id_is_not_used_again_before_its_ack() -> None:
    broker = ScriptedBroker(acknowledges=False)
    broker.start()
    session = MqttSession(Broker(*broker.address), "t")
    await session.connect()
    first = [session.publish("t", b"", 1) for _ in range(3)]
    assert first == [FIRST_MID, FIRST_MID + 1, FIRST_MID + 2]
    session._mid = LAST_MID  # once round
    assert session.publish("t", b"", 1) == LAST_MID
    assert session.publish("t", b"", 1) == FIRST_MID + 3
    await session.disconnect()
    broker.end()


async def test_a_broker_that_speaks_no_mqtt_ends_the_session() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    session = MqttSession(Broker(*server.getsockname()), "t")

    async def answer(data: bytes) -> None:
        client, _ = await asyncio.to_thread(server.accept)
        client.sendall(data)
        await asyncio.sleep(0.2)
        client.close()

    task = asyncio.create_task(answer(b"\x20\xff\xff\xff\xff\xff"))
    with pytest.raises(MqttError):
        await session.connect()
    await task
    server.close()

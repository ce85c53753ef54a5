"""The MQTT client against a scripted broker: half packets, silence, closes. No call may block past its deadline."""

import asyncio

import sim
from mote.links.mqtt import Mqtt


class Stream:
    """Both directions of a connection. feed() gives bytes to the client; `closed` ends them; written packets are kept."""

    def __init__(self):
        self.written = []
        self.data = b""
        self.closed = self.stuck = False
        self.shut = False

    async def readexactly(self, n):
        while len(self.data) < n:
            if self.closed:
                raise EOFError
            await asyncio.sleep_ms(50)
        out, self.data = self.data[:n], self.data[n:]
        return out

    def write(self, data):
        self.written.append(bytes(data))

    async def drain(self):
        while self.stuck:
            await asyncio.sleep_ms(100)

    def close(self):
        self.shut = True

    async def wait_closed(self):
        pass


CONNACK = b"\x20\x02\x00\x00"
got = []


def client(stream):
    del got[:]
    return Mqtt(stream, stream, lambda topic, payload: got.append((topic, bytes(payload))), deadline_s=5)


async def fails(awaitable, within_s, errno=None):
    t = sim.now_us()
    try:
        await awaitable
    except OSError as e:
        assert errno is None or e.errno == errno, e
    else:
        raise AssertionError("did not fail")
    assert sim.now_us() - t <= within_s * 1000000 + 200000, sim.now_us() - t


async def connected():
    s = Stream()
    s.data = CONNACK
    c = client(s)
    await c.connect("n-1", keepalive_s=60)
    return s, c


async def test_a_packet_is_one_write():
    s, c = await connected()
    assert s.written == [b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03n-1"]
    await c.publish("citymote/v1/up/00000107", b"x" * 200)
    assert len(s.written) == 2
    assert s.written[1][:3] == b"\x30\xe1\x01" and s.written[1].endswith(b"x" * 200)


async def test_user_and_password_go_in_the_order_of_the_standard():
    s = Stream()
    s.data = CONNACK
    await client(s).connect("n", user="u", password="p")
    assert s.written[0][9:] == b"\xc2\x00\x78\x00\x01n\x00\x01u\x00\x01p"


async def test_a_silent_broker_ends_connect_at_the_deadline():
    await fails(client(Stream()).connect("n"), 5, 116)


async def test_half_a_connack_ends_connect_at_the_deadline():
    s = Stream()
    s.data = CONNACK[:1]
    await fails(client(s).connect("n"), 5.2, 116)
    s = Stream()
    s.data = CONNACK[:3]
    await fails(client(s).connect("n"), 5.2, 116)


async def test_a_close_inside_connect_is_an_oserror():
    for n in range(4):
        s = Stream()
        s.data, s.closed = CONNACK[:n], True
        await fails(client(s).connect("n"), 1, 104)


async def test_a_refusal_is_an_oserror():
    s = Stream()
    s.data = b"\x20\x02\x00\x05"
    await fails(client(s).connect("n"), 1, 111)


async def test_something_else_than_a_connack_is_refused():
    s = Stream()
    s.data = b"\x30\x05\x00\x01tab"
    await fails(client(s).connect("n"), 1, 71)


async def test_a_peer_that_takes_no_bytes_ends_publish_at_the_deadline():
    s, c = await connected()
    s.stuck = True
    await fails(c.publish("t", b"x"), 5, 116)


async def test_a_packet_that_did_not_leave_whole_ends_the_session_though_the_broker_answers():
    """TCP may get over it: what is written next would be read as the rest of that packet, and a link without a session waited without end."""
    for how in ("deadline", "cancelled", "drain", "write"):
        s, c = await connected()
        session = asyncio.create_task(c.run())
        await asyncio.sleep(1)
        if how in ("drain", "write"):

            async def drain():
                raise OSError(107)

            def write(packet):
                raise OSError(107)  # a Stream writes at once what it can

            setattr(s, how, drain if how == "drain" else write)
            await fails(c.publish("t", b"x"), 1, 107)
            delattr(s, how)
        else:
            s.stuck = True
            sending = asyncio.create_task(c.publish("t", b"x"))
            await asyncio.sleep(1 if how == "cancelled" else 7)
            sending.cancel()
            await asyncio.sleep_ms(10)
        s.stuck = False
        written = len(s.written)
        await fails(c.publish("t", b"y"), 1, 104)
        for _ in range(40):
            await asyncio.sleep(1)
            s.data += b"\xd0\x00"  # it lives
        assert session.done() and len(s.written) == written, (how, s.written[written:])


async def test_messages_that_come_before_the_suback_are_delivered():
    s, c = await connected()
    s.data = b"\x30\x04\x00\x01tA" + b"\x90\x03\x00\x01\x00"
    await c.subscribe("down/1")
    assert got == [(b"t", b"A")]
    assert s.written[-1] == b"\x82\x0b\x00\x01\x00\x06down/1\x00"


async def test_a_refused_subscription_and_a_foreign_suback_are_errors():
    for answer in (b"\x90\x03\x00\x01\x80", b"\x90\x03\x00\x09\x00"):
        s, c = await connected()
        s.data = answer
        await fails(c.subscribe("d"), 1, 71)


async def test_packet_ids_pass_65535_without_becoming_zero():
    s, c = await connected()
    c._id = 65534
    for packet_id in (65535, 1, 2):
        s.data = bytes((0x90, 3, packet_id >> 8, packet_id & 255, 0))
        await c.subscribe("d")


async def test_a_long_topic_is_written_whole():
    s, c = await connected()
    s.data = b"\x90\x03\x00\x01\x00"
    await c.subscribe("d" * 200)
    assert s.written[-1][:3] == b"\x82\xcd\x01" and len(s.written[-1]) == 3 + 205


async def test_an_idle_connection_pings_and_a_missing_answer_ends_it():
    s, c = await connected()
    t = sim.now_us()
    await fails(c.run(), 35.5, 116)
    assert s.written[-1] == b"\xc0\x00" and sim.now_us() - t > 34_000_000
    s, c = await connected()
    task = asyncio.create_task(c.run())
    pings = 0
    for _ in range(620):
        await asyncio.sleep(1)
        if s.written.count(b"\xc0\x00") > pings:
            pings += 1
            s.data += b"\xd0\x00"
    assert not task.done() and pings >= 19, pings
    task.cancel()


async def test_a_client_that_only_hears_pings_too():
    """The broker ends a session in which the client has sent nothing for one and a half keepalive times, whatever it sent itself (3.1.2.10)."""
    s, c = await connected()
    task = asyncio.create_task(c.run())
    since, longest = sim.now_us(), 0
    for i in range(360):
        await asyncio.sleep(3.3)
        s.data += b"\x30\x05\x00\x03abc" if i % 3 else b"\xd0\x00"
        if s.written[-1:] == [b"\xc0\x00"]:
            longest, since = max(longest, sim.now_us() - since), sim.now_us()
            s.written.clear()
    assert not task.done() and 25000000 < longest <= 45000000, longest
    await c.publish("abc", b"x")
    s.written.clear()
    for _ in range(3):
        await asyncio.sleep(9)
        s.data += b"\xd0\x00"
    assert s.written == [], "what was sent is a sign of life, too"
    task.cancel()


async def test_half_a_message_ends_the_connection_instead_of_hanging():
    whole = b"\x30\x0a\x00\x03abchello"
    for n in range(1, len(whole)):
        s, c = await connected()
        s.data = whole[:n]
        await fails(c.run(), 5.2, 116)
        assert got == []
    s, c = await connected()
    s.data, s.closed = whole, True
    await fails(c.run(), 1, 104)
    assert got == [(b"abc", b"hello")]


async def test_nonsense_from_the_broker_ends_the_connection():
    for bad in (
        b"\x30\xff\xff\xff\xff\x01",
        b"\x30\xff\xff\x7f",
        b"\x32\x05\x00\x01t\x00\x01",
        b"\x30\x02\x00\x09",
        b"\x30\x00",
        b"\xe0\x00",
    ):
        s, c = await connected()
        s.data = bad
        await fails(c.run(), 5.2, 71)


async def test_closing_a_dead_connection_is_quiet():
    s, c = await connected()
    s.stuck = True
    await c.close()
    assert s.shut


async def test_a_write_that_fails_late_does_not_end_the_session_after_it():
    from mote.links.wifi_link import WifiLink

    link = WifiLink(None, "10.0.0.1", 1883, 1, "")
    failed = asyncio.Event()

    class Old:
        async def publish(self, topic, payload):
            await failed.wait()
            raise OSError(107)

    link._mqtt = Old()
    sending = asyncio.create_task(link.send(bytearray(8), 8, 1, False))
    await asyncio.sleep_ms(10)
    link._mqtt = following = object()  # the broker was quicker than the write's end
    failed.set()
    await fails(sending, 1, 107)
    assert link.up and link._mqtt is following

"""An MQTT session ends when its broker is of no use, whatever the broker does, and never by an exception that is not MqttError."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway import backoff, mqtt_session
from gateway.backoff import MANY, Backoff
from gateway.clock import HostClock
from gateway.config import Broker, MqttLinkConfig
from gateway.links.mqtt_link import MqttLink
from gateway.metrics import Metrics
from gateway.mqtt_session import MqttError, MqttSession, NotSubscribed
from gateway.supervise import Watch
from tests.gateway.conftest import Mosquitto
from tests.gateway.world import PATIENCE_S

CONNACK = b"\x20\x02\x00\x00"


def suback(packet: bytes, code: int) -> bytes:
    return b"\x90\x03" + packet[2:4] + bytes((code,))


class Script:
    """A broker that answers packet n of a connection with answers[n] (bytes, or a function of the packet); None closes; past the end it is silent."""

    def __init__(self, *answers: bytes | None | Callable[[bytes], bytes | None], then_close: bool = False) -> None:
        self.answers, self.then_close, self.connections = answers, then_close, 0
        self.writers: list[asyncio.StreamWriter] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        for answer in self.answers:
            head = await reader.read(2)
            if len(head) < 2:
                break
            packet = head + await reader.readexactly(head[1])
            said = answer(packet) if callable(answer) else answer
            if said is None:
                break
            writer.write(said)
        else:
            if not self.then_close:
                await reader.read()
        writer.close()


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[Broker]:
    server = await asyncio.start_server(script, "127.0.0.1", 0)
    try:
        yield Broker(*server.sockets[0].getsockname()[:2])
    finally:
        for w in script.writers:
            w.transport.abort()
        server.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_session, "CONNECT_S", 0.4)
    monkeypatch.setattr(backoff, "FIRST_S", 0.01)
    monkeypatch.setattr(backoff, "LAST_S", 0.05)


NO_CONNECTION = {
    "silent": Script(),
    "closes at once": Script(None),
    "refuses": Script(b"\x20\x02\x00\x05"),
    "garbage": Script(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "zeros": Script(b"\0" * 64),
    "half a CONNACK": Script(b"\x20\x02"),
    "half a CONNACK and the end": Script(b"\x20\x02\x00", then_close=True),
    "a length without end": Script(b"\x20\xff\xff\xff\xff\xff"),
    "a PUBLISH instead": Script(b"\x30\x03\x00\x01t"),
    "a SUBACK instead": Script(b"\x90\x03\x00\x01\x00"),
}


@pytest.mark.parametrize("name", NO_CONNECTION)
async def test_a_broker_that_is_none_is_an_mqtt_error_within_its_time(name: str) -> None:
    script = NO_CONNECTION[name]
    async with serving(script) as broker, asyncio.timeout(9):
        session = MqttSession(broker, "t")
        with pytest.raises(MqttError):
            await session.connect()
        assert session.publish("t", b"", 1) is None
        await session.disconnect()
        assert not any(t.get_name() == "mqtt-keepalive" for t in asyncio.all_tasks() if not t.cancelling())


NO_SUBSCRIPTION = {
    "silent": Script(CONNACK),
    "refused": Script(CONNACK, lambda p: suback(p, 0x80)),
    "closes": Script(CONNACK, None),
    "half a SUBACK": Script(CONNACK, lambda p: suback(p, 0)[:3]),
    "garbage": Script(CONNACK, b"\xff" * 40),
    "another's SUBACK": Script(CONNACK, b"\x90\x03\xff\xff\x00"),
    "an empty SUBACK": Script(CONNACK, lambda p: b"\x90\x00"),
}


@pytest.mark.parametrize("name", NO_SUBSCRIPTION)
async def test_a_subscription_that_does_not_stand_is_an_mqtt_error_within_its_time(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught: list[BaseException] = []
    async with serving(NO_SUBSCRIPTION[name]) as broker, asyncio.timeout(9):
        session = MqttSession(broker, "t", caught=caught.append)
        with monkeypatch.context() as patient:
            patient.setattr(mqtt_session, "CONNECT_S", PATIENCE_S)
            await session.connect()
        with pytest.raises(NotSubscribed if name == "refused" else MqttError):
            await session.subscribe("up/+")
        await session.disconnect()
        assert session.closed.done() and not session.closed.cancelled()


async def test_a_connection_that_is_given_up_from_outside_leaves_nothing_behind() -> None:
    async with serving(Script()) as broker, asyncio.timeout(9):
        session = MqttSession(broker, "t")
        task = asyncio.create_task(session.connect())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await session.disconnect()
        assert session._wire is None and session._misc is None


async def test_a_message_we_cannot_handle_is_that_messages_fault_and_the_next_is_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """paho keeps a packet whose handler raises, and handles it again with whatever comes next."""
    monkeypatch.setattr(mqtt_session, "CONNECT_S", PATIENCE_S)
    caught: list[BaseException] = []
    heard: list[tuple[str, bytes]] = []

    def handle(topic: str, payload: bytes) -> None:
        heard.append((topic, payload))
        if payload == b"bad":
            raise OverflowError

    publish = b"\x30\x06\x00\x01tbad" + b"\x30\x05\x00\x02\xff\xfex" + b"\x30\x07\x00\x01tgood" + b"\x32\x08\x00\x01t\x00\x07bad" + b"\x30\x05\x00\x01tok"  # fmt: skip
    async with serving(Script(CONNACK, lambda p: suback(p, 0) + publish)) as broker, asyncio.timeout(60):
        session = MqttSession(broker, "t", caught=caught.append)
        session.on_message = handle
        await session.connect()
        await session.subscribe("t")
        while not heard or heard[-1] != ("t", b"ok"):
            await asyncio.sleep(0.01)
        assert [p for _, p in heard] == [b"bad", b"good", b"bad", b"ok"], "each once"
        assert [type(e) for e in caught] == [OverflowError, UnicodeDecodeError, OverflowError]
        assert not session.closed.done()
        await session.disconnect()


async def test_an_exception_behind_a_puback_ends_the_session_since_the_books_may_be_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mqtt_session, "CONNECT_S", PATIENCE_S)
    caught: list[BaseException] = []

    def finished(_mid: int) -> None:
        raise KeyError

    async with serving(Script(CONNACK, lambda p: b"\x40\x02" + p[5:7])) as broker, asyncio.timeout(60):
        session = MqttSession(broker, "t", caught=caught.append)
        session.on_puback = finished
        await session.connect()
        session.publish("t", b"", 1)
        assert "KeyError" in await session.closed
        assert [type(e) for e in caught] == [KeyError]


@pytest.mark.parametrize("name", [*NO_CONNECTION, *(f"then {n}" for n in NO_SUBSCRIPTION)])
async def test_a_link_tries_again_whatever_its_broker_does(name: str) -> None:
    script = NO_CONNECTION[name] if name in NO_CONNECTION else NO_SUBSCRIPTION[name.removeprefix("then ")]
    script.connections = 0
    metrics = Metrics()
    async with serving(script) as broker, asyncio.timeout(60):
        watch = Watch(metrics)
        link = MqttLink(MqttLinkConfig("wifi", broker), "gw-1", lambda _rx: None, HostClock(), metrics, watch)
        started = asyncio.create_task(link.start())
        while script.connections < 3:
            await asyncio.sleep(0.01)
        await started
        assert not link.connected and watch.alive and not metrics.restarts
        await link.stop()
        await link.close()


async def test_a_frozen_broker_is_left_and_a_thawed_one_is_used_again(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_session, "KEEPALIVE_S", 1)
    metrics = Metrics()
    link = MqttLink(
        MqttLinkConfig("wifi", Broker(*broker.address)), "gw-1", lambda _rx: None, HostClock(), metrics, Watch(metrics)
    )
    assert broker._process is not None
    pid = broker._process.pid
    async with asyncio.timeout(60):
        await link.start()
        while not link.connected:
            await asyncio.sleep(0.05)
        os.kill(pid, signal.SIGSTOP)
        try:
            while link.connected:
                await asyncio.sleep(0.05)
            while metrics.totals["link_connects_failed"] < 2:
                await asyncio.sleep(0.05)
        finally:
            os.kill(pid, signal.SIGCONT)
        while not link.connected:
            await asyncio.sleep(0.05)
    await link.close()


async def test_a_password_file_that_is_none_is_an_mqtt_error_and_stops_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for file in (
        tmp_path / "fifo",
        tmp_path,
        Path("/dev/zero"),
        tmp_path / "empty",
        tmp_path / "binary",
        tmp_path / "none",
    ):
        async with asyncio.timeout(9):
            with pytest.raises(MqttError):
                await MqttSession(Broker("127.0.0.1", 9, "user", file), "t").connect()


def test_another_client_of_our_name_is_seen_by_connections_that_stand_only_for_moments() -> None:
    now = [0.0]
    b = Backoff(lambda: now[0])
    pauses = []
    for _ in range(MANY):
        assert not b.taken_over
        b.connected()
        now[0] += 1
        b.lost()
        pauses.append(b.pause())
    assert b.taken_over and pauses[-1] > pauses[0], "and we step aside more and more"
    now[0] += backoff.TOLD_S + 1
    assert not b.taken_over


def test_a_broker_that_is_started_anew_is_no_other_client() -> None:
    now = [0.0]
    b = Backoff(lambda: now[0])
    for _ in range(3 * MANY):
        b.connected()
        now[0] += 1
        b.lost()
        b.pause()
        b.failed()  # while it was down
        b.pause()
    assert not b.taken_over


def test_long_connections_that_end_are_no_other_client() -> None:
    now = [0.0]
    b = Backoff(lambda: now[0])
    for _ in range(3 * MANY):
        b.connected()
        now[0] += backoff.HELD_S
        b.lost()
        assert b.pause() <= backoff.FIRST_S * 1.25
    assert not b.taken_over


def message(size: int, qos: int, mid: int = 7) -> bytes:
    body = b"\x00\x01t" + (mid.to_bytes(2, "big") if qos else b"") + bytes(size)
    length, n = b"", len(body)
    while n > 127:
        length, n = length + bytes((n & 127 | 128,)), n >> 7
    return bytes((0x30 | qos << 1,)) + length + bytes((n,)) + body


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("cut", [1, 3, 5, 7, 9, 100, 65_536, 1 << 21])
async def test_a_message_that_is_too_long_is_dropped_as_it_comes_and_the_next_is_heard(
    qos: int, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MQTT allows 256 MB, and whoever may publish could fill our memory with them."""
    monkeypatch.setattr(mqtt_session, "CONNECT_S", PATIENCE_S)
    heard: list[bytes] = []
    long, dropped = message(1_000_000, qos), 0
    acks = b""

    def count() -> None:
        nonlocal dropped
        dropped += 1

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal acks
        head = await reader.readexactly(2)
        await reader.readexactly(head[1])
        writer.write(CONNACK)
        head = await reader.readexactly(2)
        packet = head + await reader.readexactly(head[1])
        writer.write(suback(packet, 0) + message(3, 0))
        await writer.drain()
        for _ in range(2):
            writer.write(long[:cut])
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.write(long[cut:])
            await writer.drain()
        writer.write(message(4, 0) + message(5, 1, 9))
        acks = await reader.read(100)
        while not acks.endswith(b"\x00\x09"):
            acks += await reader.read(100)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with asyncio.timeout(PATIENCE_S):
        session = MqttSession(Broker(*server.sockets[0].getsockname()[:2]), "t")
        session.on_message = lambda _t, payload: heard.append(payload)
        session.on_too_long = count
        await session.connect()
        await session.subscribe("t", 1)
        while len(heard) < 3:
            await asyncio.sleep(0.01)
            assert session._wire is not None and len(session._wire._in) < 200_000
        while not acks.endswith(b"\x40\x02\x00\x09"):
            await asyncio.sleep(0.01)
    assert [len(p) for p in heard] == [3, 4, 5] and dropped == 2
    assert acks == b"\x40\x02\x00\x07" * (2 * qos) + b"\x40\x02\x00\x09"
    await session.disconnect()
    server.close()

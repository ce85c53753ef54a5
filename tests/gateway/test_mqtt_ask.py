"""Brokers that cannot do what the gateway needs are named: in the log, in health, and by `check --brokers` before anything is started."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway import mqtt_ask
from gateway.config import Broker
from gateway.mqtt_ask import Answer, NoMqtt, ask
from gateway.mqtt_session import MqttError, MqttSession
from gateway.verbs import check
from tests.gateway.conftest import Mosquitto
from tests.gateway.test_check import KEY, node
from tests.gateway.test_mqtt_session import CONNACK, Script, serving
from tests.gateway.world import Mote, Process, toml_of, until

Make = Callable[..., Mosquitto]
REFUSED_PROTOCOL = b"\x20\x02\x00\x01"


@pytest.fixture
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Start brokers with lines of configuration."""
    running: list[Mosquitto] = []

    def start(*lines: str) -> Mosquitto:
        m = Mosquitto(tmp_path_factory.mktemp("mosquitto"))
        conf = m.folder / "mosquitto.conf"
        conf.write_text("".join(f"{line}\n" for line in (conf.read_text(), *lines)))
        m.start()
        running.append(m)
        return m

    yield start
    for m in running:
        m.stop()


def at(m: Mosquitto, **more: object) -> Broker:
    return Broker(m.host, m.port, **more)  # type: ignore[arg-type]


def test_a_broker_says_what_it_can_do(made: Make) -> None:
    assert ask(at(made())) == Answer()
    assert ask(at(made("retain_available false"))) == Answer(retains=False)
    assert ask(at(made("max_packet_size 2000"))) == Answer(longest=2000)


def only_311(answer: bytes | None, connack: bytes = CONNACK) -> Callable[[bytes], bytes | None]:
    """A broker of 3.1.1 alone: `answer` is what it has for another level of the protocol, b"" nothing."""
    return lambda connect: connack if connect[8] == 4 else answer


async def test_a_broker_that_speaks_no_mqtt_5_is_not_judged_and_one_that_is_away_is_no_answer() -> None:
    for answer in (REFUSED_PROTOCOL, None, b""):
        async with serving(Script(only_311(answer))) as broker:
            assert await asyncio.to_thread(ask, broker, 1.0) is None
        async with serving(Script(only_311(answer, b"\x20\x02\x00\x05"))) as broker:
            found = await asyncio.to_thread(ask, broker, 1.0)
            assert found is not None and "uthorized" in found.refused
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(ask, broker, 1.0)


HTTP = b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<html></html>"


@pytest.mark.parametrize(
    "script",
    [
        Script(None),
        Script(CONNACK[:1], then_close=True),
        Script(HTTP, then_close=True),
        Script(HTTP),
        Script(b"\x15\x03\x01\x00\x02\x02\x16", then_close=True),  # an alert of TLS
        Script(b"\xff" * 64),
    ],
)
async def test_what_is_no_broker_is_not_taken_for_one(script: Script) -> None:
    async with serving(script) as broker:
        with pytest.raises(NoMqtt):
            await asyncio.to_thread(ask, broker, 1.0)


async def test_a_port_that_takes_connections_and_never_answers_is_away() -> None:
    for script in (Script(), Script(b"SSH-2.0-OpenSSH_9.6\r\n")):  # which could be the beginning of a packet
        async with serving(script) as broker:
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(ask, broker, 0.5)


async def test_a_session_says_why_a_broker_closes_it_without_a_word(made: Make) -> None:
    m = made("retain_available false")
    with pytest.raises(MqttError, match="keeps no retained messages") as e:
        await MqttSession(at(m), "a", will=("x", b"offline")).connect()
    assert "retain_available true" in e.value.hint
    plain = MqttSession(at(m), "a")
    await plain.connect()  # one that retains nothing itself is let in
    await plain.disconnect()
    async with serving(Script(None)) as broker:
        with pytest.raises(MqttError, match="closed by the broker"):
            await MqttSession(broker, "a", will=("x", b"offline")).connect()


async def test_a_broker_that_refuses_us_by_a_code_is_not_asked_again() -> None:
    script = Script(b"\x20\x02\x00\x05")
    async with serving(script) as broker:
        with pytest.raises(MqttError, match="broker says"):
            await MqttSession(broker, "a", will=("x", b"offline")).connect()
    assert script.connections == 1


def test_the_gateway_names_a_broker_that_retains_nothing_and_is_there_when_it_does(tmp_path: Path, made: Make) -> None:
    m = made("retain_available false")
    p = Process(toml_of(tmp_path, m.address, [Mote(263)]))
    try:
        assert until(lambda: [x for x in p.lines() if x["event"] == "output_unreachable"])
        (line, *_) = [x for x in p.lines() if x["event"] == "output_unreachable"]
        assert "keeps no retained messages" in line["error"] and "retain_available true" in line["next"]
        m.stop()
        conf = m.folder / "mosquitto.conf"
        conf.write_text(conf.read_text().replace("retain_available false", ""))
        m.start()
        assert until(lambda: [x for x in p.lines() if x["event"] == "output_connected"], 40)
    finally:
        assert p.stop() == 0


def test_check_asks_the_brokers_where_it_is_told_to(
    tmp_path: Path, made: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bare, short, locked = made(), made("retain_available false"), made("max_packet_size 2000"), None
    if tool := shutil.which("mosquitto_passwd"):
        passwords = tmp_path / "passwords"
        subprocess.run([tool, "-b", "-c", str(passwords), "gw", "right"], check=True, capture_output=True, timeout=60)
        passwords.chmod(0o644)
        locked = made(f"password_file {passwords}")
        conf = locked.folder / "mosquitto.conf"
        locked.stop()
        conf.write_text(conf.read_text().replace("allow_anonymous true", "allow_anonymous false"))
        locked.start()
    file = tmp_path / "gateway.toml"
    (tmp_path / "nodes.toml").write_text(node(1, KEY))
    (tmp_path / "nodes.toml").chmod(0o600)
    (tmp_path / "wrong").write_text("wrong")
    text = f'[gateway]\nid = "gw-7"\n[link.wifi]\nkind = "mqtt"\nbroker = "127.0.0.1:{bare.port}"\n'
    for name, port, more in (("good", good.port, ""), ("bare", bare.port, ""), ("short", short.port, ""), ("away", 1, ""),
                             ("locked", locked.port if locked else 1, 'username = "gw"\npassword_file = "wrong"\n')):  # fmt: skip
        text += f'[output.{name}]\nkind = "mqtt"\nbroker = "127.0.0.1:{port}"\nroot = "{name}"\n{more}'
    file.write_text(text)
    assert check(file) == 0, "without being asked it connects to nothing"
    capsys.readouterr()
    began = time.monotonic()
    assert check(file, as_json=True, brokers=True) == 2
    assert time.monotonic() - began < 20
    out, err = capsys.readouterr()
    refused = {m["code"]: m["text"] for m in json.loads(out)["mistakes"]}
    assert refused.keys() == {"broker_keeps_nothing"} | ({"broker_refuses"} if locked else set())
    assert "output.bare, link.wifi" in refused["broker_keeps_nothing"]
    assert "output.away" in err and "cannot be reached" in err and "2000 bytes" in err and "output.good" not in err


async def test_check_names_what_is_no_broker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_ask, "ASK_S", 0.5)
    (tmp_path / "nodes.toml").write_text(node(1, KEY))
    (tmp_path / "nodes.toml").chmod(0o600)
    async with serving(Script()) as mute, serving(Script(HTTP, then_close=True)) as web:
        text = '[gateway]\nid = "gw-7"\n'
        for kind, name, b in (("link", "wifi", mute), ("output", "city", web)):
            text += f'[{kind}.{name}]\nkind = "mqtt"\nbroker = "{b.host}:{b.port}"\n'
        (tmp_path / "gateway.toml").write_text(text)
        assert await asyncio.to_thread(check, tmp_path / "gateway.toml", as_json=True, brokers=True) == 2
    out, err = capsys.readouterr()
    (mistake,) = json.loads(out)["mistakes"]
    assert mistake["code"] == "no_mqtt" and "output.city" in mistake["text"] and "8883" in mistake["hint"]
    assert "link.wifi" in err and "cannot be reached: it takes the connection and sends no CONNACK" in err

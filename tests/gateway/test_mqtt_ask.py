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

from gateway.config import Broker
from gateway.mqtt_ask import Answer, ask
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


async def test_a_broker_that_speaks_no_mqtt_5_is_not_judged_and_one_that_is_away_is_no_answer() -> None:
    for script in (Script(REFUSED_PROTOCOL), Script(None), Script(CONNACK[:1], then_close=True), Script()):
        async with serving(script) as broker:
            assert await asyncio.to_thread(ask, broker, 1.0) is None
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(ask, broker, 1.0)


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
        subprocess.run([tool, "-b", "-c", str(passwords), "gw", "right"], check=True, capture_output=True, timeout=20)
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

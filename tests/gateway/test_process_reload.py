"""SIGHUP on the real process, under load: what is unchanged does not notice, what is wrong changes nothing, no frame is lost."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gateway.schemas import schema
from tests.gateway.conftest import BrokerAddress
from tests.gateway.test_process import NOW, ROWS, Load
from tests.gateway.world import Backend, Concentrator, Mote, Process, registry, toml_of, until

Start = Callable[..., Process]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start gateways; whatever a test leaves running is ended."""
    running: list[Process] = []

    def make(config: Path) -> Process:
        running.append(Process(config))
        return running[-1]

    yield make
    for p in running:
        p.kill()


def reload(p: Process) -> str:
    """SIGHUP; wait for RELOADING=1 and READY=1, and return the STATUS that came with it."""
    p.process.send_signal(signal.SIGHUP)
    told: list[str] = []
    while not any("READY=1" in t for t in told):
        told.append(p._notify.recv(4096).decode())
    first = next(t for t in told if "RELOADING=1" in t)
    stamp = int(first.split("MONOTONIC_USEC=")[1])
    assert 0 <= time.monotonic_ns() // 1000 - stamp < 60_000_000
    return told[-1].split("STATUS=")[1]


def health(backend: Backend) -> dict[str, Any]:
    """The newest health document, or what stands for none."""
    return json.loads(([b'{"status": null}'] + backend.on("gw/gw-1/health"))[-1])


def add(config: Path, text: str) -> None:
    config.write_text(config.read_text() + text)


def test_nodes_come_go_and_get_other_keys(tmp_path: Path, mosquitto: BrokerAddress, start: Start) -> None:
    stays, goes, comes = Mote(263), Mote(264), Mote(265)
    config = toml_of(tmp_path, mosquitto, [stays, goes])
    backend, p = Backend(mosquitto), start(config)
    c = Concentrator(p.port)
    for m in (stays, goes, comes):
        c.push(m.report(NOW, ROWS))
    c.pull()
    rekeyed = Mote(263, epoch=1)
    toml_of(tmp_path, mosquitto, [rekeyed, comes])
    assert "2 nodes" in reload(p)
    for m in (stays, goes, rekeyed, comes):
        c.push(m.report(NOW + 60, ROWS))
    c.pull()
    backend.wait(lambda: sum(t.endswith("/senml") for t, _, _ in backend.messages) == 4)
    assert [t.split("/")[1] for t, _, _ in backend.messages if t.endswith("/senml")] == [
        "n-263",
        "n-264",
        "n-263",
        "n-265",
    ]
    backend.wait(lambda: backend.on("node/n-265/meta"))
    p.stop()
    stopped = p.lines()[-1]
    assert stopped["totals"]["reloads"] == 1 and stopped["refused"]["unknown_node"] == 2
    assert stopped["refused"]["wrong_epoch"] + stopped["refused"].get("bad_tag", 0) == 1


def test_outputs_come_go_and_get_other_filters(tmp_path: Path, mosquitto: BrokerAddress, start: Start) -> None:
    m = Mote(263)
    config = toml_of(tmp_path, mosquitto, [m])
    one = config.read_text()
    city, portal = Backend(mosquitto), Backend(mosquitto, "portal/#")
    p = start(config)
    c = Concentrator(p.port)

    def send() -> None:
        c.push(m.report(NOW - 9000 + m.counter * 60, ROWS))
        c.pull()

    send()
    add(config, f'[output.portal]\nkind = "mqtt"\nbroker = "{mosquitto[0]}:{mosquitto[1]}"\nroot = "portal"\n')
    reload(p)
    send()
    portal.wait(lambda: len([t for t, _, _ in portal.messages if t.endswith("/senml")]) == 2)
    city.wait(lambda: len(city.packs()) == 2)
    assert city.on("gw/gw-1/state") == [b"online"], "an output that did not change does not even notice"
    config.write_text(
        config.read_text().replace(
            'root = "portal"', 'root = "portal"\nquantities = ["temperature"]\nformats = ["native"]'
        )
    )
    reload(p)
    before = len(portal.messages)
    send()
    portal.wait(lambda: any(t.endswith("/q/temperature") for t, _, _ in portal.messages[before:]))
    assert not any(t.endswith(("/senml", "/q/pm10")) for t, _, _ in portal.messages[before:])
    assert [x for t, x, _ in portal.messages if t == "portal/v1/gw/gw-1/state"] == [b"online", b"online"], (
        "no flap to offline"
    )
    config.write_text(one + "# no portal\n")  # not the beginning of what it was: that would be asked for twice
    reload(p)
    portal.wait(lambda: any(x == b"offline" for _, x, _ in portal.messages))
    last = [x for t, x, _ in portal.messages if t == "portal/v1/gw/gw-1/state"][2:]
    assert last[0] == b"offline", "before its topics are emptied"
    send()
    city.wait(lambda: len(city.packs()) == 4)
    assert p.stop() == 0
    assert set(p.lines()[-1]["totals"]) >= {"reloads"}


def test_links_come_and_go_and_one_that_keeps_its_socket_is_not_reopened(
    tmp_path: Path, mosquitto: BrokerAddress, start: Start
) -> None:
    m = Mote(263)
    config = toml_of(tmp_path, mosquitto, [m])
    p = start(config)
    c = Concentrator(p.port)
    c.push(m.status({1: 1}))
    assert len(c.pull()) == 1
    text = config.read_text()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    config.write_text(text.replace('bind = "127.0.0.1:0"', 'bind = "127.0.0.1:0"\nallow = ["bbbbbbbbbbbbbbbb"]')
                      + f'[link.east]\nkind = "udp-forwarder"\nbind = "127.0.0.1:{port}"\n')  # fmt: skip
    assert f"east on 127.0.0.1:{port}" in reload(p)
    east, allowed = Concentrator(port), Concentrator(p.port, "bbbbbbbbbbbbbbbb")
    for other in (east, allowed):
        other.push(m.status({1: 2}))
        assert len(other.pull()) == 1
    c.push(m.status({1: 3}))
    allowed.pull()
    config.write_text(text)
    assert "east" not in reload(p)
    c.push(m.status({1: 4}))
    assert len(c.pull()) == 1
    p.stop()
    assert p.lines()[-1]["refused"] == {"unknown_forwarder": 1}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("[gateway]", "[gateway]\nclok = 1"), "did you mean `clock`?"),
        (('id = "gw-1"', 'id = "gw-2"'), "restart the gateway"),
        (("[gateway]", '[gateway]\nstore = "other.db"'), "restart the gateway"),
        (("[gateway]", '[commands]\nrole = { r = { commands = ["read_now"] } }\nrequester = { ana = { roles = ["r"] } }\n[gateway]'), "restart the gateway"),
        (("[gateway]", '[http]\nbind = "127.0.0.1:BUSY"\n[gateway]'), "change http.bind"),
        (('[link.wifi]', '[link.east]\nkind = "udp-forwarder"\nbind = "127.0.0.1:BUSY"\n[link.wifi]'), "change link.east.bind"),
    ],
    ids=["misspelt", "id", "store", "commands come", "http port", "link port"],
)  # fmt: skip
def test_a_bad_file_is_refused_loudly_and_the_old_one_stays_in_force(
    tmp_path: Path, mosquitto: BrokerAddress, start: Start, change: tuple[str, str], says: str
) -> None:
    m = Mote(263)
    config = toml_of(tmp_path, mosquitto, [m])
    sound = config.read_text()
    backend, p = Backend(mosquitto), start(config)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        udp.bind(tcp.getsockname())
        config.write_text(sound.replace(change[0], change[1].replace("BUSY", str(tcp.getsockname()[1]))))
        toml_of_nodes = (tmp_path / "nodes.toml").read_text()
        (tmp_path / "nodes.toml").write_text(
            registry([Mote(999)])
        )  # would make the node unknown, were anything of it in force
        status = reload(p)
    assert status.startswith("degraded: the configuration on disk is not in force: ")
    assert until(lambda: any(line["event"] == "reload_refused" for line in p.lines()))
    refused = [line for line in p.lines() if line["event"] == "reload_refused"]
    assert says in refused[-1]["next"] and refused[-1]["level"] == "error"
    c = Concentrator(p.port)
    c.push(m.report(NOW, ROWS))
    c.pull()
    backend.wait(lambda: list(backend.packs()) == ["263:0:1"])
    backend.wait(lambda: health(backend)["status"] == "degraded")
    assert health(backend)["problems"][0]["code"] == "reload_refused"
    jsonschema.validate(health(backend), schema("gateway-health"))
    config.write_text(sound)
    (tmp_path / "nodes.toml").write_text(toml_of_nodes)
    assert not reload(p).startswith("degraded")
    backend.wait(lambda: health(backend)["status"] == "ok")
    assert p.stop() == 0
    assert p.lines()[-1]["totals"]["reloads_refused"] == 1


def test_rules_come_change_and_go_on_with_what_they_knew(
    tmp_path: Path, mosquitto: BrokerAddress, start: Start
) -> None:
    m, began = Mote(263), int(time.time())  # NOW is of the import, which may be half an hour ago: too old for an alarm
    config = toml_of(tmp_path, mosquitto, [m])
    without = config.read_text()
    backend, p = Backend(mosquitto), start(config)
    c = Concentrator(p.port)

    def measure(celsius: int) -> None:
        c.push(m.report(began - 300 + m.counter * 60, [[3, 5, 5, celsius * 10, 631, 121]]))
        c.pull()

    def rule(above: int) -> str:
        return f'[rules]\ndefaults = []\n[rule.hot]\nquantity = "temperature"\nabove = {above}\nclear = {above - 2}\n'

    measure(40)
    (tmp_path / "rules.toml").write_text(rule(35))
    config.write_text(without.replace("[gateway]\n", '[gateway]\nrules = "rules.toml"\n', 1))
    reload(p)
    measure(41)
    backend.wait(lambda: [json.loads(x)["value"] for x in backend.on("node/n-263/alert/hot")] == [41.0])
    (tmp_path / "rules.toml").write_text(rule(35).replace("above", "abov"))
    assert "rules.toml" in reload(p), "the mistake is named"
    (tmp_path / "rules.toml").write_text(rule(30))
    reload(p)
    measure(29)  # between the old clear and the new one: still up, so it was known
    measure(27)
    backend.wait(lambda: backend.on("node/n-263/alert/hot")[-1] == b"")
    assert p.stop() == 0
    assert json.loads([x for x in backend.on("node/n-263/alert/hot") if x][-1])["value"] >= 29


def test_people_come_go_and_may_ask_on_another_topic(tmp_path: Path, mosquitto: BrokerAddress, start: Start) -> None:
    m = Mote(263)
    config = toml_of(tmp_path, mosquitto, [m])
    people = '[commands]\nrole = { r = { commands = ["read_now"] } }\nrequester = { ana = { roles = ["r"] } }\n'
    add(config, people)
    backend, p = Backend(mosquitto), start(config)

    def ask(topic: str, who: str, n: int) -> None:
        body = json.dumps({"id": f"{who}-{n}", "name": "read_now", "requester": who})
        backend._client.publish(f"city/v1/{topic}", body, 1).wait_for_publish(60)

    def states(who: str, n: int) -> list[str]:
        told = [json.loads(x) for x in backend.on("node/n-263/ack") + backend.on(f"cmd/{who}/n-263/ack")]
        return [a["state"] for a in told if a.get("id", f"{who}-{n}") == f"{who}-{n}" and a["requester"] == who]

    ask("cmd/ana/n-263", "ana", 1)
    ask("cmd/boris/n-263", "boris", 1)
    backend.wait(lambda: "accepted" in states("ana", 1) and "refused" in states("boris", 1))
    config.write_text(config.read_text().replace("ana = {", "boris = {"))
    reload(p)
    ask("cmd/ana/n-263", "ana", 2)
    ask("cmd/boris/n-263", "boris", 2)
    backend.wait(lambda: "accepted" in states("boris", 2) and "refused" in states("ana", 2))
    config.write_text(config.read_text().replace("[commands]", '[commands]\nconsole = "boris"'))
    reload(p)
    assert until(lambda: sum(line["event"] == "commands_connected" for line in p.lines()) == 2)
    ask("node/n-263/cmd", "boris", 3)
    backend.wait(lambda: "accepted" in states("boris", 3))
    assert p.stop() == 0


@pytest.mark.slow
def test_reloads_under_load_lose_no_frame(tmp_path: Path, mosquitto: BrokerAddress, start: Start) -> None:
    """600 frames while the registry, the outputs and the rates change 20 times, a wrong file among them each time."""
    m = Mote(263)
    others = [Mote(1000 + i) for i in range(300)]
    config = toml_of(tmp_path, mosquitto, [m])
    address = f"{mosquitto[0]}:{mosquitto[1]}"
    backend, p = Backend(mosquitto), start(config)
    load = Load(m, 600)
    load.port = p.port
    load.gateway.set()
    load.start()
    for n in range(20):
        extra = {"gateway": f"node_rate = {500 + n}"} | ({"output_city": "window = 50"} if n % 3 == 0 else {})
        toml_of(tmp_path, mosquitto, [m, *others[: n * 10]], **extra)
        if n % 2:
            add(config, f'[output.portal]\nkind = "mqtt"\nbroker = "{address}"\nroot = "portal"\n')
        reload(p)
        sound = config.read_text()
        config.write_text(sound + "[otput.x]\n")
        assert reload(p).startswith("degraded")
        config.write_text(sound)
    load.join(60)
    assert not load.is_alive() and len(load.acked) == 600
    assert p.stop() == 0
    backend.wait(lambda: len(backend.packs()) == 600)
    stopped = p.lines()[-1]
    assert stopped["totals"]["reloads"] == 20 and stopped["totals"]["reloads_refused"] == 20
    assert stopped["totals"]["committed"] == 600

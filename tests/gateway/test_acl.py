"""The broker's templates on a real mosquitto: each role may do its part and nothing else, and no one learns what another asked for."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.gateway.conftest import BrokerAddress
from tests.gateway.test_deploy import DEPLOY, needs
from tests.gateway.test_process_reload import reload
from tests.gateway.world import Concentrator, Mote, Process, toml_of, until

PEOPLE = ("gw-1", "gw-2", "portal", "operator", "bob", "nodes", "+", "#", "ana/aq-01", "citymote")
NODES = ("00000107", "00000108", "gw-1", "nodes", "up", "+", "#")  # on the plain listener, under whatever name
UP, DOWN = "citymote/v1/up", "citymote/v1/down"


@dataclass
class Secured:
    """mosquitto as the templates have it, with paths and ports replaced, certificates and passwords made."""

    folder: Path
    tls: BrokerAddress
    plain: BrokerAddress
    process: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen([needs("mosquitto"), "-c", str(self.folder / "m.conf")], stdout=log, stderr=log)
        self.process.append(process)

        def listens() -> bool:
            assert process.poll() is None, (self.folder / "log").read_text()
            try:
                for address in (self.tls, self.plain):
                    socket.create_connection(address, 0.5).close()
            except OSError:
                return False
            return True

        assert until(listens)

    def stop(self) -> None:
        self.process[-1].terminate()
        self.process[-1].wait(60)


def page_block(word: str) -> str:
    """The commands of docs/operator/broker.md that have this word among them."""
    text = (DEPLOY.parents[1] / "docs/operator/broker.md").read_text()
    (found,) = [block for block in re.findall(r"(?ms)^```\n(.*?)^```$", text) if word in block]
    return found


@pytest.fixture
def secured() -> Iterator[Secured]:
    passwd = needs("mosquitto_passwd")
    for tool in ("openssl", "mosquitto"):
        needs(tool)
    folder = Path("/tmp") / f"cm-{secrets.token_hex(4)}"  # a way that mosquitto's own user can go, too
    folder.mkdir()

    def run(*arguments: str) -> None:
        subprocess.run(arguments, cwd=folder, check=True, capture_output=True, timeout=60)

    script = page_block("openssl").replace("/etc/mosquitto/certs", str(folder)).replace("192.0.2.7", "127.0.0.1")
    run("sh", "-e", "-c", script.replace("chown mosquitto: server.key", ":"))
    folder.chmod(0o777)  # its memory is written by mosquitto's own user
    for file, names in (("citymote.passwd", PEOPLE), ("citymote-nodes.passwd", NODES)):
        (folder / file).touch()
        for name in names:
            run(passwd, "-b", file, name, f"pw-{name}")
    acl = (DEPLOY / "mosquitto/citymote.acl").read_text()
    own = re.search(r"(?m)^user operator\n(?:topic .*\n)+", acl)
    assert own, "the section of a person is there to be copied"
    (folder / "citymote.acl").write_text(f"{acl}\n{own[0].replace('operator', 'bob')}")
    shutil.copy(DEPLOY / "mosquitto/citymote-nodes.acl", folder)
    for file in folder.iterdir():
        file.chmod(0o644)
    ports = []
    for _ in range(2):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            ports.append(s.getsockname()[1])
    text = (DEPLOY / "mosquitto/citymote.conf").read_text()
    text = text.replace("/etc/mosquitto/certs", str(folder)).replace("/etc/mosquitto", str(folder))
    text = text.replace("listener 8883", f"listener {ports[0]} 127.0.0.1").replace(
        "listener 1883", f"listener {ports[1]}"
    )
    (folder / "conf.d").mkdir()
    (folder / "conf.d/citymote.conf").write_text(text)
    main = f"persistence true\npersistence_location {folder}/\nlog_dest stderr\ninclude_dir {folder}/conf.d\n"  # as Debian's
    (folder / "m.conf").write_text(main)
    s = Secured(folder, BrokerAddress("127.0.0.1", ports[0]), BrokerAddress("127.0.0.1", ports[1]))
    s.start()
    yield s
    s.stop()
    shutil.rmtree(folder)


class Client:
    """One user at one of the two listeners, who listens to everything. `refused` is the broker's reason when it was not let in."""

    def __init__(
        self, at: Secured, name: str | None, plain: bool = False, password: str | None = None, session: str = ""
    ) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.refused: str | None = None
        self._answered, self._acks = threading.Event(), 0
        c = self._client = paho.Client(
            CallbackAPIVersion.VERSION2, session or f"c-{secrets.token_hex(4)}", clean_session=not session
        )
        if name is not None:
            c.username_pw_set(name, password or f"pw-{name}")
        if not plain:
            strict = ssl.create_default_context(cafile=str(at.folder / "ca.crt"))
            strict.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
            c.tls_set_context(strict)
        c.on_connect = self._connected
        c.on_message = lambda _c, _d, m: self.heard.append((m.topic, bytes(m.payload)))
        c.connect(*(at.plain if plain else at.tls))
        c.loop_start()
        assert self._answered.wait(60)
        if self.refused is None:
            self.barrier([("#", 1), ("$SYS/#", 0)])

    def barrier(self, topics: list[tuple[str, int]]) -> None:
        """Subscribe and wait for the answer, behind which stands what the broker has sent before."""
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.subscribe(topics)
        assert subscribed.wait(60)

    def _connected(self, _c: paho.Client, _d: object, _f: object, code: paho.ReasonCode, _p: object) -> None:  # type: ignore[name-defined]
        self.refused = str(code) if code.is_failure else None
        self._answered.set()

    def publish(self, topic: str, body: bytes) -> None:
        """QoS 1: the broker acknowledges what its ACL throws away, too (MQTT 3.1.1), so the PUBACK is a barrier."""
        self._client.publish(topic, body, 1).wait_for_publish(10)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def matrix(at: Secured, users: dict[str, Client], topics: list[str]) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Have every user publish on every topic and return ({who: topics that arrived anywhere}, {who: topics heard of others or itself}).

    Whoever publishes is heard by a witness that may read everything, and by those whose ACL lets them.
    """
    for name, client in users.items():
        for topic in topics:
            client.publish(topic, f"{name}|{topic}".encode())
    for client in users.values():
        client.barrier([("nothing/here", 1)])
    writes: dict[str, set[str]] = {name: set() for name in users}
    reads: dict[str, set[str]] = {name: set() for name in users}
    for listener, client in users.items():
        for topic, body in client.heard:
            writer = body.decode().partition("|")[0]
            if writer in writes:
                writes[writer].add(topic)
            reads[listener].add(topic)
    return writes, reads


NODE, AREA, NGSI = "city/v1/node/a/q/pm10", "city/v1/area/lot/lot", "city/v1/ngsi-ld/Device/a"
TOPICS = [
    NODE, AREA, NGSI, "city/v1/node/a/state", "city/v1/node/a/alert/x", "city/v1/node/a/cmd", "city/v1/node/a/ack",
    "city/v1/gw/gw-1/state", "city/v1/gw/gw-1/mark/city", "city/v1/gw/gw-2/state", "city/v1/gw/gw-2/mark/city",
    "city/v1/cmd/operator/a", "city/v1/cmd/operator/a/ack", "city/v1/cmd/bob/a", "city/v1/cmd/bob/a/ack", "city/v1/cmd/gateway/a",
    f"{UP}/00000107", f"{DOWN}/00000107", f"{UP}/00000108", f"{DOWN}/00000108", f"{UP}/nodes", f"{DOWN}/nodes", f"{UP}/gw-1",
    "homeassistant/device/a/config", "homeassistant/status", "other/x", "city/v1/cmd/00000107/a",
]  # fmt: skip
CMD = {t for t in TOPICS if "/cmd/" in t}
SEEN = {
    NODE,
    AREA,
    NGSI,
    "city/v1/node/a/state",
    "city/v1/node/a/alert/x",
    "city/v1/gw/gw-1/state",
    "city/v1/gw/gw-1/mark/city",
}


def test_each_role_writes_and_reads_its_own_part_and_nothing_else(secured: Secured) -> None:
    """Beside the shipped lines there is one witness, who may read everything: so that what arrives is seen though no role may read it."""
    acl = secured.folder / "citymote.acl"
    acl.write_text(acl.read_text() + "\nuser citymote\ntopic readwrite #\n")
    secured.stop()
    secured.start()
    users = {name: Client(secured, name) for name in PEOPLE}
    users |= {f"node {name}": Client(secured, name, plain=True) for name in NODES}
    refused = {name for name, c in users.items() if c.refused}
    for name in refused:
        users.pop(name).close()
    assert {"gw-1", "portal", "operator", "bob", "node 00000107", "node 00000108", "citymote"} <= users.keys()
    writes, reads = matrix(secured, users, TOPICS)
    assert writes.pop("citymote") == reads.pop("citymote") == set(TOPICS), "the witness sees what arrives"
    own = {"gw-1": {NODE, AREA, NGSI, "city/v1/node/a/state", "city/v1/node/a/alert/x", "city/v1/node/a/cmd", "city/v1/node/a/ack",
                    "city/v1/gw/gw-1/state", "city/v1/gw/gw-1/mark/city", "city/v1/cmd/operator/a/ack", "city/v1/cmd/bob/a/ack",
                    f"{DOWN}/00000107", f"{DOWN}/00000108", f"{DOWN}/nodes", "homeassistant/device/a/config"},
           "operator": {"city/v1/cmd/operator/a"}, "bob": {"city/v1/cmd/bob/a"},
           "node 00000107": {f"{UP}/00000107"}, "node 00000108": {f"{UP}/00000108"},
           "node nodes": {f"{UP}/nodes"}, "node gw-1": {f"{UP}/gw-1"}}  # fmt: skip
    assert {name: topics for name, topics in writes.items() if topics} == own
    seen = set(SEEN) | {
        "city/v1/gw/gw-2/state",
        "city/v1/gw/gw-2/mark/city",
    }  # the witness has written there, too
    asked = {t for t in CMD if not t.endswith("/ack")}
    back = {
        NODE,
        AREA,
        NGSI,
        "city/v1/node/a/state",
        "city/v1/node/a/alert/x",
        "city/v1/node/a/cmd",
        "city/v1/node/a/ack",
        "homeassistant/device/a/config",
    }
    may = {"gw-1": asked | back | {"city/v1/gw/gw-1/state", "city/v1/gw/gw-1/mark/city", "homeassistant/status", "city/v1/cmd/operator/a/ack", "city/v1/cmd/bob/a/ack"} | {t for t in TOPICS if UP in t},
           "portal": seen,
           "operator": seen - {NGSI} | {"city/v1/cmd/operator/a/ack"}, "bob": seen - {NGSI} | {"city/v1/cmd/bob/a/ack"},
           "node 00000107": {f"{DOWN}/00000107"}, "node 00000108": {f"{DOWN}/00000108"}, "node nodes": {f"{DOWN}/nodes"}}  # fmt: skip
    assert {name: topics for name, topics in reads.items() if topics} == may
    assert not any(
        topic.startswith("$SYS") for c in users.values() for topic, _ in c.heard if c is not users["citymote"]
    )
    for c in users.values():
        c.close()


def test_a_password_of_one_listener_is_refused_at_the_other(secured: Secured) -> None:
    assert Client(secured, None).refused and Client(secured, None, plain=True).refused, "anonymous"
    assert Client(secured, "operator", plain=True).refused and Client(secured, "00000107").refused
    assert Client(secured, "gw-1", plain=True, password="pw-wrong").refused
    with socket.create_connection(secured.tls, 5) as s:  # a CONNECT in the clear, at the listener with TLS
        s.settimeout(60)
        s.sendall(bytes((0x10, 15)) + b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x03abc")
        try:
            answer = s.recv(4)
        except ConnectionResetError:
            answer = b""
    assert answer[:1] != b"\x20", "no CONNACK"


def test_what_a_backend_that_is_away_has_not_taken_outlives_a_restart_of_the_broker(secured: Secured) -> None:
    """Each listener has its own ACL (per_listener_settings): a stored session must be judged by that of the listener it was made on."""
    away = Client(secured, "portal", session="portal-1")
    away.close()
    gateway = Client(secured, "gw-1")
    gateway.publish(NODE, b"12")
    gateway.publish("city/v1/node/a/ack", b"not for it")
    secured.stop()
    secured.start()
    back = Client(secured, "portal", session="portal-1")
    assert until(lambda: back.heard == [(NODE, b"12")]), back.heard
    for c in (gateway, back):
        c.close()


def test_a_node_whose_broker_user_is_removed_is_disconnected_at_once(secured: Secured) -> None:
    """docs/operator/stolen.md: mosquitto_passwd -D, then SIGHUP. Other nodes stay connected."""
    stolen, honest = Client(secured, "00000107", plain=True), Client(secured, "00000108", plain=True)
    gone = threading.Event()
    stolen._client.on_disconnect = lambda *_: gone.set()
    subprocess.run(
        [needs("mosquitto_passwd"), "-D", "citymote-nodes.passwd", "00000107"],
        cwd=secured.folder,
        check=True,
        timeout=60,
    )
    (secured.folder / "citymote-nodes.passwd").chmod(
        0o644
    )  # in the field root writes it, and mosquitto reads it as root at its start
    secured.process[-1].send_signal(signal.SIGHUP)
    assert gone.wait(60)
    assert Client(secured, "00000107", plain=True).refused
    honest.publish(f"{UP}/00000108", b"x")
    for c in (stolen, honest):
        c.close()


def test_the_gateway_works_through_the_brokers_template(tmp_path: Path, secured: Secured) -> None:
    m = Mote(263)
    (tmp_path / "password").write_text("pw-gw-1\n")
    login = f'username = "gw-1"\npassword_file = "password"\nca_file = "{secured.folder}/ca.crt"'
    config = toml_of(tmp_path, secured.tls, [m], output_city=login)
    config.write_text(config.read_text().replace("[output.city]", f"{login}\n[output.city]"))
    portal, node = Client(secured, "portal"), Client(secured, f"{m.id:08x}", plain=True)
    p = Process(config)
    try:
        c = Concentrator(p.port)
        c.push(m.report(int(time.time()) - 60, [[3, 5, 5, 231, 631, 121]]))
        c.pull()
        assert until(lambda: "city/v1/node/n-263/senml" in dict(portal.heard)), portal.heard
        assert until(lambda: "city/v1/gw/gw-1/health" in dict(portal.heard))
        node.publish(f"{UP}/{m.id:08x}", m.status({1: 1}, long=True))
        assert until(lambda: f"{DOWN}/{m.id:08x}" in dict(node.heard)), (
            "a WiFi node is answered through its own listener"
        )
        assert p.stop() == 0
        assert any(line["event"] == "link_connected" for line in p.lines())
        assert "pw-gw-1" not in p.log.read_text()
    finally:
        p.kill()
        for client in (portal, node):
            client.close()


def test_home_assistant_reads_all_that_its_discovery_points_to(tmp_path: Path, secured: Secured) -> None:
    """With the template's lines for it: an availability that it may not read leaves every entity unavailable."""
    m = Mote(263)
    acl = secured.folder / "citymote.acl"
    lines = re.search(r"(?m)^# user homeassistant\n(?:# topic .*\n)+", acl.read_text())
    assert lines
    acl.write_text(acl.read_text() + "\n" + lines[0].replace("# ", ""))
    passwd = [needs("mosquitto_passwd"), "-b", "citymote.passwd", "homeassistant", "pw-homeassistant"]
    subprocess.run(passwd, cwd=secured.folder, check=True, capture_output=True, timeout=60)
    (secured.folder / "citymote.passwd").chmod(0o644)
    secured.stop()
    secured.start()
    (tmp_path / "password").write_text("pw-gw-1\n")
    login = f'username = "gw-1"\npassword_file = "password"\nca_file = "{secured.folder}/ca.crt"'
    config = toml_of(tmp_path, secured.tls, [m], output_city=f'{login}\nformats = ["native", "homeassistant"]')
    config.write_text(config.read_text().replace("[output.city]", f"{login}\n[output.city]"))
    home, portal = Client(secured, "homeassistant"), Client(secured, "portal")
    p = Process(config)
    try:
        assert not home.refused
        c = Concentrator(p.port)
        c.push(m.status({1: 5, 11: 371}, long=True))
        c.push(m.report(int(time.time()) - 60, [[3, 5, 5, 231, 631, 121]]))
        c.push(m.alarm(2, int(time.time()) - 60, 6, 400, 150))
        c.pull()
        assert until(lambda: "homeassistant/device/n-263/config" in dict(home.heard)), sorted(dict(home.heard))
        pointed = set[str]()

        def look(value: object) -> None:
            for key, v in (
                value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
            ):
                if isinstance(key, str) and key.endswith("topic") and isinstance(v, str):
                    pointed.add(v)
                look(v)

        def complete() -> bool:
            look(json.loads(dict(home.heard)["homeassistant/device/n-263/config"]))
            return pointed & dict(portal.heard).keys() <= dict(home.heard).keys() >= needed

        # what the node has not reported is at no topic; the portal reads what there is
        needed = {"city/v1/gw/gw-1/state", "city/v1/node/n-263/state", "city/v1/node/n-263/q/pm10"}
        assert until(complete), (sorted(pointed), sorted(dict(home.heard)))
        assert needed <= pointed
    finally:
        p.kill()
        for client in (home, portal):
            client.close()


def test_a_gateway_reads_through_the_brokers_template_whose_it_is_before_it_empties_a_former_name(
    tmp_path: Path, secured: Secured
) -> None:
    m = Mote(263)
    (tmp_path / "password").write_text("pw-gw-1\n")
    login = f'username = "gw-1"\npassword_file = "password"\nca_file = "{secured.folder}/ca.crt"'
    formats = 'formats = ["native", "ngsi-ld", "homeassistant"]\nvisibility = ["open", "restricted", "personal"]'
    config = toml_of(tmp_path, secured.tls, [m], output_city=f"{login}\n{formats}")
    config.write_text(config.read_text().replace("[output.city]", f"{login}\n[output.city]"))
    acl = secured.folder / "citymote.acl"
    acl.write_text(acl.read_text() + "\nuser citymote\ntopic readwrite #\n")
    secured.stop()
    secured.start()
    portal = Client(secured, "citymote")
    p = Process(config)
    try:
        c = Concentrator(p.port)
        c.push(m.status({1: 5, 11: 371}, long=True))
        c.push(m.report(int(time.time()) - 60, [[3, 5, 5, 231, 631, 121]]))
        c.pull()
        topics = ("city/v1/node/n-263/q/pm10", "city/v1/ngsi-ld/Device/n-263", "homeassistant/device/n-263/config")
        assert until(lambda: dict(portal.heard).keys() >= set(topics)), sorted(dict(portal.heard))
        nodes = tmp_path / "nodes.toml"
        nodes.write_text(nodes.read_text().replace('"n-263"', '"n-renamed"'))
        reload(p)
        assert until(lambda: all(dict(portal.heard)[t] == b"" for t in topics), 15)
        assert not any(line["event"] == "retained_unread" for line in p.lines())
    finally:
        p.kill()
        portal.close()

"""Commands end to end: the operator's client, a real broker with its ACL, the real process, a node on the air; and kill -9 in between."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from motewire.codes import DOWN_COMMAND
from paho.mqtt.enums import CallbackAPIVersion

from gateway.store.audit import entries
from tests.gateway.conftest import BrokerAddress, Mosquitto
from tests.gateway.world import REPO, Backend, Concentrator, Mote, Process, frame_of, toml_of, until

COMMANDS = """
[commands]
output = "city"

[commands.role.operator]
commands = ["*"]

[commands.role.water]
commands = ["valve", "read_now"]
nodes = ["w-*"]

[commands.requester.ana]
roles = ["operator"]

[commands.requester.boris]
roles = ["water"]
"""

Start = Callable[[Path], Process]


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


def configured(folder: Path, broker: tuple[str, int], m: Mote, more: str = "") -> Path:
    file = toml_of(folder, broker, [m])
    file.write_text(file.read_text() + COMMANDS + more)
    return file


def cli(*args: str) -> list[str]:
    return [sys.executable, "-m", "tools.cli", "gateway", *args]


def run(*args: str, timeout: float = 40) -> subprocess.CompletedProcess[str]:
    return subprocess.run(cli(*args), cwd=REPO, capture_output=True, text=True, timeout=timeout)


class Air(threading.Thread):
    """A node of one receiver: says hello, executes each number once, answers as mote.commands does."""

    def __init__(self, m: Mote, port: int) -> None:
        super().__init__(daemon=True)
        self.m, self.c, self.ended = m, Concentrator(port), threading.Event()
        self.executed: dict[int, list[Any]] = {}
        self.heard: list[int] = []
        self.dumb = False

    def run(self) -> None:
        words: list[list[Any]] = []
        while not self.ended.is_set():
            self.c.push(self.m.status({20: words.pop(0)} if words else {1: 5}), freq=869.525)
            try:
                downs = self.c.pull(timeout=30.0)
            except (TimeoutError, ConnectionRefusedError):
                return
            for down in downs:
                command = self.m.open(frame_of(down)).get(DOWN_COMMAND)
                if command:
                    self.heard.append(command[0])
                    self.executed.setdefault(command[0], command[1:])
                    if not self.dumb:
                        words += [[command[0], 1], [command[0], 2, "ok 2"]]
            time.sleep(0.05)

    def end(self) -> None:
        self.ended.set()
        self.join(60)
        self.c.close()


def test_an_operator_orders_waits_and_finds_it_in_the_audit_log(
    tmp_path: Path, mosquitto: BrokerAddress, start: Start
) -> None:
    m = Mote(263)
    config = configured(tmp_path, mosquitto, m)
    backend, p = Backend(mosquitto), start(config)
    air = Air(m, p.port)
    air.start()
    done = run(
        "command",
        "n-263",
        "selftest",
        "--config",
        str(config),
        "--as",
        "ana",
        "--expires",
        "5m",
        "--id",
        "t1",
        "--wait",
    )
    assert (done.returncode, done.stdout) == (0, "selftest to n-263: done, ok 2\n"), done.stderr
    assert [line.split()[1].rstrip(":") for line in done.stderr.splitlines()] == [
        "accepted",
        "queued",
        "sent",
        "sent",
        "done",
    ]
    again = run("command", "n-263", "selftest", "--config", str(config), "--as", "ana", "--id", "t1", "--json")
    body = json.loads(again.stdout)
    assert again.returncode == 0 and body["ok"] and body["again"] and body["state"] == "done"
    assert list(air.executed.values()) == [["selftest"]]
    refused = run(
        "command",
        "n-263",
        "valve",
        "close",
        "--config",
        str(config),
        "--as",
        "boris",
        "--json",
        "--reason",
        "leak",
        "--expires",
        "5m",
    )
    body = json.loads(refused.stdout)
    assert (
        refused.returncode == 4 and not body["ok"] and (body["error"], body["requester"]) == ("unauthorised", "boris")
    )
    late = run("command", "n-263", "reboot", "--config", str(config), "--as", "ana", "--expires", "0s")
    assert late.returncode == 4 and "refused" in late.stderr and "next: " in late.stderr
    air.end()
    log = json.loads(run("audit", "--config", str(config), "--node", "n-263", "--since", "1h", "--json").stdout)
    assert [e["state"] for e in log["entries"]] == [
        "accepted",
        "queued",
        "sent",
        "sent",
        "done",
        "done",
        "refused",
        "refused",
    ]
    assert {e["requester"] for e in log["entries"]} == {"ana", "boris"}
    table = run("audit", "--config", str(config)).stdout
    assert "valve close (leak)" in table and "unauthorised" in table
    assert p.stop() == 0
    totals = p.lines()[-1]
    assert totals["refused"]["command_unauthorised"] == 1 and totals["totals"]["commands_accepted"] == 1
    acks = [json.loads(x) for x in backend.on("node/n-263/ack")]
    assert len(acks) == 8 and not any(r for t, _, r in backend.messages if t.endswith("/ack"))


@pytest.mark.slow
def test_kill_9_between_sent_and_answered_loses_no_command_and_executes_none_twice(
    tmp_path: Path, mosquitto: BrokerAddress, start: Start
) -> None:
    m = Mote(263)
    config = configured(tmp_path, mosquitto, m)
    backend, p = Backend(mosquitto), start(config)
    air = Air(m, p.port)
    air.dumb = True
    air.start()
    assert (
        run(
            "command", "n-263", "identify", "7", "--config", str(config), "--as", "ana", "--expires", "10m", "--id", "k"
        ).returncode
        == 0
    )
    backend.wait(lambda: any(b'"sent"' in x for x in backend.on("node/n-263/ack")))
    p.kill()
    air.end()
    p = start(config)
    second = Air(m, p.port)
    second.executed, second.heard = air.executed, air.heard
    second.start()
    backend.wait(lambda: any(b'"done"' in x for x in backend.on("node/n-263/ack")), timeout=40)
    second.end()
    assert len(air.executed) == 1 and len(air.heard) == 2, air.heard
    assert p.stop() == 0
    assert [e.state for e in entries(tmp_path / "gateway.db", "n-263")] == [
        "accepted",
        "queued",
        "sent",
        "sent",
        "sent",
        "done",
    ]


class User:
    """An MQTT user."""

    def __init__(self, address: tuple[str, int], name: str, password: str) -> None:
        self.acks: list[dict[str, Any]] = []
        ready = threading.Event()
        c = self.client = paho.Client(CallbackAPIVersion.VERSION2, f"user-{secrets.token_hex(4)}")
        c.username_pw_set(name, password)
        c.on_connect = lambda *_: c.subscribe([("city/v1/node/+/ack", 1), ("city/v1/cmd/+/+/ack", 1)])
        c.on_subscribe = lambda *_: ready.set()
        c.on_message = lambda _c, _d, m: self.acks.append(json.loads(m.payload))
        c.connect(*address)
        c.loop_start()
        assert ready.wait(60)

    def ask(self, topic: str, retain: bool = False, **body: Any) -> None:
        self.client.publish(topic, json.dumps({"name": "read_now", **body}), 1, retain).wait_for_publish(60)

    def leave(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def guarded(broker: Mosquitto, tmp_path_factory: pytest.TempPathFactory) -> Mosquitto:
    """A broker with users and the ACL of the template: a gateway, and two people."""
    tool = shutil.which("mosquitto_passwd") or shutil.which("mosquitto_passwd", path="/usr/sbin:/usr/local/sbin")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed (next: apt-get install mosquitto)")
    folder = Path(broker._command[-1]).parent
    acl = (REPO / "gateway" / "deploy" / "mosquitto" / "citymote.acl").read_text()
    acl = acl.replace("user gw-1\n", "user gw\n")
    acl, person = acl.split("user operator\n")
    acl += "".join(f"user {name}\n" + person.replace("operator", name) for name in ("ana", "boris"))
    (folder / "acl").write_text(acl)
    for i, user in enumerate(("gw", "ana", "boris", "carl")):
        subprocess.run(
            [tool, *(["-c"] if not i else []), "-b", str(folder / "passwd"), user, f"{user}-secret"],
            check=True,
            capture_output=True,
        )
    for name in ("acl", "passwd"):
        (folder / name).chmod(0o644)
    conf = folder / "mosquitto.conf"
    conf.write_text(
        conf.read_text().replace("allow_anonymous true", "allow_anonymous false")
        + f"acl_file {folder}/acl\npassword_file {folder}/passwd\n"
    )
    broker.stop()
    broker.start()
    return broker


def test_the_brokers_acl_lets_each_user_ask_in_its_own_name_only(
    tmp_path: Path, guarded: Mosquitto, start: Start
) -> None:
    m = Mote(263)
    config = configured(tmp_path, guarded.address, m)
    (tmp_path / "secret").write_text("gw-secret\n")
    login = 'username = "gw"\npassword_file = "secret"\n'
    config.write_text(config.read_text().replace('kind = "mqtt"\n', 'kind = "mqtt"\n' + login))
    p = start(config)
    ana, boris = (User(guarded.address, who, f"{who}-secret") for who in ("ana", "boris"))
    forged = {"id": "forged", "requester": "ana", "state": "done"}
    for topic in ("cmd/ana/n-263", "node/n-263/cmd", "node/n-263/ack", "cmd/ana/n-263/ack"):
        forger = User(guarded.address, "boris", "boris-secret")  # some brokers end the connection for it
        forger.client.publish(f"city/v1/{topic}", json.dumps(forged), 1)
        time.sleep(0.1)
        forger.leave()
    boris.ask("city/v1/cmd/boris/n-263", id="lied", requester="ana")
    ana.ask("city/v1/cmd/ana/n-263", retain=True, id="r", requester="ana")
    ana.ask("city/v1/cmd/ana/n-263", id="mine", requester="ana")
    assert until(lambda: len(ana.acks) == 4 and len(boris.acks) == 1), (ana.acks, boris.acks)
    assert [(a["requester"], a.get("id"), a["state"]) for a in ana.acks] == [
        ("ana", "r", "accepted"), ("ana", "r", "queued"), ("ana", "mine", "accepted"), ("ana", "mine", "queued"),
    ]  # fmt: skip
    (lie,) = boris.acks
    assert (lie["requester"], lie["id"], lie["error"]) == ("boris", "lied", "wrong_requester")
    password = tmp_path / "ana"
    password.write_text("ana-secret")
    common = ("--broker", f"{guarded.address.host}:{guarded.address.port}", "--as")
    done = run("command", "n-263", "reboot", *common, "ana", "--password-file", str(password))
    assert done.returncode == 0, done.stderr
    wrong = run("command", "n-263", "reboot", *common, "boris", "--password-file", str(password))
    assert wrong.returncode == 1 and "check --as and --password-file" in wrong.stderr
    ana.leave()
    boris.leave()
    assert p.stop() == 0
    p = start(config)  # the retained request comes to the new connection, as such
    assert p.stop() == 0
    assert p.lines()[-1]["refused"] == {"command_retained": 1}


def test_who_has_no_role_is_refused_and_by_which_rule(tmp_path: Path, mosquitto: BrokerAddress, start: Start) -> None:
    config = configured(tmp_path, mosquitto, Mote(263))
    p = start(config)
    asked = ("command", "n-263", "reboot", "--config", str(config), "--as")
    done = run(*asked, "carl", "--reason", "curiosity", "--json")
    body = json.loads(done.stdout)
    assert done.returncode == 4 and body["reason"] == body["error"] == "unauthorised", done.stderr
    assert "carl has no role" in body["text"] and "[commands.requester.carl]" in body["hint"]
    assert not {"n-263", "online", "queued"} & set(body.get("detail", "").split()), "a stranger learns no more"
    for more, error in ((("--id", "no id"), "malformed"), (("--reason", "x" * 121), "malformed")):
        done = run(*asked, "ana", *more, "--json")
        assert done.returncode == 4 and json.loads(done.stdout)["error"] == error, done.stdout
    done = run(*asked, "ana", "--reason", "works", "--json")
    body = json.loads(done.stdout)
    assert done.returncode == 0 and body["reason"] is None and body["why"] == "works"
    assert p.stop() == 0
    done = run(*asked, "carl")  # nothing answers: the configuration that was read says it
    assert done.returncode == 4 and "carl has no role" in done.stderr and "[commands.requester.carl]" in done.stderr


def test_who_may_not_publish_learns_it_from_the_broker(tmp_path: Path, guarded: Mosquitto) -> None:
    password = tmp_path / "carl"
    password.write_text("carl-secret")
    address = f"{guarded.address.host}:{guarded.address.port}"
    done = run(
        "command", "n-263", "reboot", "--broker", address, "--as", "carl", "--password-file", str(password), "--json"
    )
    body = json.loads(done.stdout)
    assert done.returncode == 4 and body["error"] == "broker_acl", done.stdout
    assert "carl" in body["text"] and "cmd/carl/" in body["text"] and "ACL" in body["hint"]


def test_answers_about_a_personal_node_reach_who_asked_and_no_output_that_may_not_see_it(
    tmp_path: Path, mosquitto: BrokerAddress, start: Start
) -> None:
    config = configured(tmp_path, mosquitto, Mote(263))
    nodes = tmp_path / "nodes.toml"
    nodes.write_text(nodes.read_text().replace('"open"', '"personal"'))
    backend, p = Backend(mosquitto), start(config)
    body = json.dumps({"id": "p1", "name": "read_now", "requester": "ana"})
    backend._client.publish("city/v1/cmd/ana/n-263", body, 1).wait_for_publish(60)
    backend.wait(lambda: len(backend.on("cmd/ana/n-263/ack")) == 2)
    assert p.stop() == 0
    assert backend.on("node/n-263/ack") == []


def test_a_gateway_says_nothing_of_a_node_that_another_one_at_the_root_has(
    tmp_path: Path, mosquitto: BrokerAddress, start: Start
) -> None:
    """Two districts, two gateways, one broker and root: both hear every request. One node's metadata show whose it is, the other's are shown to no one."""
    backend, folders = Backend(mosquitto), (tmp_path / "a", tmp_path / "b")
    for folder, id_, numbers in zip(folders, ("gw-1", "gw-2"), ((263,), (264, 265)), strict=True):
        folder.mkdir()
        config = toml_of(folder, mosquitto, [Mote(n) for n in numbers])
        config.write_text(config.read_text().replace('"gw-1"', f'"{id_}"') + COMMANDS)
        nodes = folder / "nodes.toml"
        head, mark, last = nodes.read_text().rpartition("[[node]]")
        nodes.write_text(head + mark + (last.replace('"open"', '"personal"') if 265 in numbers else last))
    one, two = (start(folder / "gateway.toml") for folder in folders)
    backend.wait(lambda: backend.on("node/n-264/meta"))

    def states(node: str) -> list[str]:
        return [json.loads(x)["state"] for x in backend.on(f"cmd/ana/{node}/ack")]

    for node in ("n-264", "n-265", "n-999", "n-263"):
        body = json.dumps({"id": f"to-{node}", "name": "read_now", "requester": "ana"})
        backend._client.publish(f"city/v1/cmd/ana/{node}", body, 1).wait_for_publish(60)
    backend.wait(lambda: states("n-999"), what="a node that no one has is refused, by the first or by both")
    backend.wait(lambda: all(len(states(node)) >= 2 for node in ("n-263", "n-264", "n-265")))
    assert one.stop() == 0 and two.stop() == 0
    assert set(states("n-999")) == {"refused"}
    assert {n: states(n) for n in ("n-263", "n-264", "n-265")} == dict.fromkeys(
        ("n-263", "n-264", "n-265"), ["accepted", "queued"]
    )
    elsewhere = [p.lines()[-1]["totals"]["commands_elsewhere"] for p in (one, two)]
    assert elsewhere[0] >= 2 and elsewhere[1] >= 1 and sum(elsewhere) + len(states("n-999")) == 5
    for folder, others in zip(folders, (("n-264", "n-265"), ("n-263",)), strict=True):
        audit = [str(e) for e in entries(folder / "gateway.db")]
        assert not any(f"to-{node}" in e for node in others for e in audit), "what is another's is not in the audit log"


def test_a_console_topic_is_refused_unless_somebody_answers_for_it(
    tmp_path: Path, mosquitto: BrokerAddress, start: Start
) -> None:
    m = Mote(263)
    backend = Backend(mosquitto)
    config = configured(tmp_path, mosquitto, m)
    body = json.dumps({"id": "c1", "name": "read_now", "requester": "ana"})
    p = start(config)
    backend._client.publish("city/v1/node/n-263/cmd", body, 1).wait_for_publish(60)
    backend._client.publish("city/v1/cmd/Ana/n-263", body, 1).wait_for_publish(60)
    last = json.dumps(
        {"id": "c0", "name": "read_now", "requester": "ana"}
    )  # both were taken before this one is answered
    backend._client.publish("city/v1/cmd/ana/n-263", last, 1).wait_for_publish(60)
    backend.wait(lambda: backend.on("cmd/ana/n-263/ack"))
    assert p.stop() == 0
    assert p.lines()[-1]["refused"] == {"command_unauthenticated": 1, "command_bad_topic": 1}
    config.write_text(config.read_text().replace('output = "city"\n', 'output = "city"\nconsole = "ana"\n'))
    p = start(config)
    backend._client.publish("city/v1/node/n-263/cmd", body, 1).wait_for_publish(60)
    backend.wait(lambda: len(backend.on("node/n-263/ack")) == 2)
    assert p.stop() == 0


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("n-1", "reboot"), 2, "--config FILE"),
        (("n-1", "reboot", "--broker", "127.0.0.1:1", "--as", "ana"), 1, "no broker at 127.0.0.1:1"),
        (("n-1", "reboot", "--config", "nowhere.toml"), 2, "does not exist"),
        (("n-1", "reboot", "--broker", "x", "--as", "ana", "--expires", "soon"), 2, "no duration"),
    ],
)
def test_bad_usage_is_said_with_what_to_do(args: tuple[str, ...], code: int, words: str) -> None:
    done = run("command", *args)
    assert done.returncode == code and words in done.stderr and "Traceback" not in done.stderr


def test_an_operator_who_may_not_ask_is_told_that_nobody_answers(tmp_path: Path, mosquitto: BrokerAddress) -> None:
    done = run("command", "n-1", "reboot", "--broker", f"{mosquitto.host}:{mosquitto.port}", "--as", "ana", "--json")
    body = json.loads(done.stdout)
    assert done.returncode == 1 and body["error"] == "no_answer" and "[commands]" in body["hint"]
    empty = tmp_path / "none.json"
    empty.write_text("[]")
    done = run("command", "n-1", "config", "--broker", "127.0.0.1:1", "--as", "ana", "--args-file", str(empty))
    assert done.returncode == 2 and "holds no JSON object" in done.stderr

"""The real process at its edges: brokers that are silent, a second gateway of its id, a stop with an output away, secrets in orders."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.gateway.conftest import Mosquitto
from tests.gateway.desk_bench import iso
from tests.gateway.test_process import NOW, ROWS
from tests.gateway.test_process_reload import Start, health, reload, start
from tests.gateway.world import Backend, Concentrator, Mote, toml_of, until

__all__ = ["start"]
SECRET = "hunter22-secret"


@pytest.mark.slow
def test_a_broker_that_accepts_and_does_not_answer_is_used_once_it_does(
    tmp_path: Path, broker: Mosquitto, start: Start
) -> None:
    m = Mote(263)
    config = toml_of(tmp_path, broker.address, [m])
    backend = Backend(broker.address)
    assert broker._process is not None
    os.kill(broker._process.pid, signal.SIGSTOP)
    try:
        p = start(config)
        c = Concentrator(p.port)
        c.push(m.report(NOW, ROWS))
        c.pull()
        assert until(lambda: {"link_unreachable", "output_unreachable"} <= {line["event"] for line in p.lines()}, 30)
    finally:
        os.kill(broker._process.pid, signal.SIGCONT)
    backend.wait(lambda: backend.packs(), 60, "what waited for the broker")
    assert until(lambda: any(line["event"] == "link_connected" for line in p.lines()), 60)
    assert p.stop() == 0
    assert not any(line["event"] in ("part_ended", "internal") for line in p.lines())


def test_a_second_gateway_of_one_id_is_named_and_the_two_do_not_flap_all_the_time(
    tmp_path: Path, broker: Mosquitto, start: Start
) -> None:
    backend = Backend(broker.address)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first = start(toml_of(tmp_path / "a", broker.address, [Mote(263)]))
    second = start(toml_of(tmp_path / "b", broker.address, [Mote(263)]))

    def named() -> bool:
        return any(
            b"twin" in body for t, body, _ in list(backend.messages) if t == "gw/gw-1/health"
        ) and any(line["event"] == "health" and any("another client called" in text for text in line["problems"]) for line in second.lines())  # fmt: skip

    assert until(named, 40)
    before = sum(line["event"] == "link_connected" for line in first.lines() + second.lines())
    time.sleep(5)
    after = sum(line["event"] == "link_connected" for line in first.lines() + second.lines())
    assert after - before <= 6, "each steps aside for longer and longer"
    assert second.stop() == 0 and first.stop() == 0


def test_a_stop_does_not_wait_for_an_output_that_is_away(tmp_path: Path, broker: Mosquitto, start: Start) -> None:
    m = Mote(263)
    config = toml_of(tmp_path, broker.address, [m], gateway="drain_s = 60")
    config.write_text(config.read_text() + '[output.gone]\nkind = "mqtt"\nbroker = "127.0.0.1:9"\n')
    backend, p = Backend(broker.address), start(config)
    c = Concentrator(p.port)
    for n in range(50):
        c.push(m.report(NOW + 60 * n, ROWS))
    c.pull()
    began = time.monotonic()
    assert p.stop() == 0
    assert time.monotonic() - began < 45, "drain_s is a minute"
    assert len(backend.packs()) == 50, "what can be delivered is"
    left = [line for line in p.lines() if line["event"] == "not_drained"]
    assert [(line["output"], line["away"]) for line in left] == [("gone", True)]
    events = [line["event"] for line in p.lines()]
    assert "uplink_committed" not in events, "a line a minute"
    assert sum(line["frames"] for line in p.lines() if line["event"] == "taken") == 50


def test_a_registry_that_is_still_being_written_takes_no_node_away(
    tmp_path: Path, broker: Mosquitto, start: Start
) -> None:
    motes = [Mote(300 + n) for n in range(6)]
    config = toml_of(tmp_path, broker.address, motes)
    backend, p = Backend(broker.address), start(config)
    whole = (tmp_path / "nodes.toml").read_text()
    (tmp_path / "nodes.toml").write_text("")
    assert "6 of 6 nodes are gone" in reload(p)
    (tmp_path / "nodes.toml").write_text("a = " + "[" * 5000 + "]" * 5000)
    assert "nested too deep" in reload(p)
    assert until(lambda: any(problem["code"] == "reload_refused" for problem in health(backend).get("problems", [])))
    c = Concentrator(p.port)
    c.push(motes[5].report(NOW, ROWS))
    c.pull()
    backend.wait(lambda: backend.packs())
    (tmp_path / "nodes.toml").write_text(whole)
    assert reload(p).startswith("6 nodes")
    assert p.stop() == 0


def test_a_password_in_an_order_is_on_no_topic_in_no_log_and_in_no_file_once_it_ended(
    tmp_path: Path, broker: Mosquitto, start: Start
) -> None:
    config = toml_of(tmp_path, broker.address, [Mote(263)])
    config.write_text(
        config.read_text()
        + '[commands]\noutput = "city"\n[commands.role.op]\ncommands = ["*"]\n[commands.requester.ana]\nroles = ["op"]\n'
    )
    backend, p = Backend(broker.address), start(config)
    body = {
        "id": "a",
        "name": "config",
        "requester": "ana",
        "args": {"wifi": {"ssid": "city", "password": SECRET}},
        "expires": iso(time.time() + 4),
    }
    backend._client.publish("city/v1/cmd/ana/n-263", json.dumps(body), 1)
    backend.wait(lambda: len(backend.on("cmd/ana/n-263/ack")) >= 2, what="accepted, queued")
    backend.wait(lambda: any(b"expired" in a for a in backend.on("node/n-263/ack")), 30, "its end")
    bad = {**body, "id": "b", "args": {"wifi": {"password": SECRET}, "node": 5}}
    backend._client.publish("city/v1/cmd/ana/n-263", json.dumps(bad), 1)
    backend.wait(lambda: any(b"bad_arguments" in a for a in backend.on("cmd/ana/n-263/ack")))
    for poison in (b'{"id":"c","name":"config","requester":"ana","args":{"x":' + b"9" * 40 + b"}}",
                   json.dumps({**body, "id": "d", "expires": "0001-01-01T00:00:00+23:59"}).encode()):  # fmt: skip
        backend._client.publish("city/v1/cmd/ana/n-263", poison, 1)
    backend._client.publish("city/v1/cmd/ana/n-263", json.dumps({"id": "e", "name": "read_now", "requester": "ana"}), 1)
    backend.wait(
        lambda: any(b'"e"' in a and b"queued" in a for a in backend.on("cmd/ana/n-263/ack")),
        what="a poisoned request deafens no one",
    )
    told = [(t, payload) for t, payload, _ in list(backend.messages) if t != "cmd/ana/n-263"]
    assert any(b"<hidden>" in payload for _, payload in told)
    assert [t for t, payload in told if SECRET.encode() in payload] == []
    assert p.stop() == 0
    assert SECRET not in json.dumps(p.lines())
    kept = [f.name for f in tmp_path.iterdir() if f.is_file() and SECRET.encode() in f.read_bytes()]
    assert kept == []

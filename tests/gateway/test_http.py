"""/metrics, /health, /ready: read-only, bounded, on this machine alone, and true."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.config import ConfigError, load
from gateway.config.gateway import HttpConfig
from gateway.http import HttpServer
from gateway.http.server import MAX_CONNECTIONS
from gateway.metrics import Metrics
from gateway.schemas import schema
from tests.gateway.conftest import Mosquitto
from tests.gateway.test_process_reload import Start, start
from tests.gateway.world import REPO, Concentrator, Mote, Process, toml_of, until

__all__ = ["start"]
ON = '[http]\nbind = "127.0.0.1:0"\n'


def ask(p: Process, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    c = http.client.HTTPConnection("127.0.0.1", port_of(p), timeout=60)
    c.request(method, path)
    r = c.getresponse()
    return r.status, r.getheader("content-type", ""), r.read()


def port_of(p: Process) -> int:
    place = next(line for line in p.lines() if line["event"] == "ready")["links"]["http"]
    assert place.startswith("127.0.0.1:")
    return int(place.rsplit(":", 1)[1])


@pytest.fixture
def served(tmp_path: Path, broker: Mosquitto, start: Start) -> Process:
    config = toml_of(tmp_path, broker.address, [Mote(263)])
    config.write_text(ON + config.read_text())
    return start(config)


def test_metrics_are_what_prometheus_reads(served: Process) -> None:
    c = Concentrator(served.port)
    for n in range(3):
        c.push(Mote(400 + n).status({1: 1}))
    c.pull()
    code, kind, body = ask(served, "/metrics")
    assert code == 200 and kind.startswith("text/plain; version=")
    found = {s.name: (s.labels, s.value) for f in text_string_to_metric_families(body.decode()) for s in f.samples}
    assert found["citymote_refused_total"] == ({"reason": "unknown_node"}, 3)
    assert found["citymote_output_up"][0] == {"output": "city"}


def test_health_and_readiness_are_json_and_read_only(served: Process) -> None:
    assert until(lambda: json.loads(ask(served, "/health")[2])["outputs"]["city"]["connected"])
    code, kind, body = ask(served, "/health?x=1")
    document = json.loads(body)
    jsonschema.validate(document, schema("gateway-health"), format_checker=jsonschema.FormatChecker())
    assert (code, kind, document["status"], document["problems"]) == (200, "application/json", "ok", [])
    assert json.loads(ask(served, "/ready")[2]) == {"ready": True}
    assert ask(served, "/health", "HEAD")[2] == b""
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert ask(served, "/health", method)[0] == 405
    for path in ("/", "/../etc/passwd", "/metrics/", "//health", "/nodes.toml"):
        assert ask(served, path)[0] == 404
    c = Concentrator(served.port)
    c.push(Mote(263).status({1: 1}))
    assert served.stop() == 0


def test_hostile_clients_get_nothing_and_hold_nothing_up(served: Process) -> None:
    port = port_of(served)
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(MAX_CONNECTIONS)]  # say nothing at all
    for raw in (b"\0" * 100 + b"\r\n\r\n", b"GET /health\r\n\r\n", b"GET " + b"a" * 100_000, b"\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port)) as s:
            try:
                s.sendall(raw)
                s.settimeout(60)
                answer = s.recv(100)
            except OSError:
                answer = b""
            assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    for s in held:
        s.close()
    assert ask(served, "/ready")[0] == 200
    assert served.stop() == 0
    refused = served.lines()[-1]["refused"]
    assert refused["http_silent"] >= 1 and refused["http_bad_request"] >= 1


def test_who_says_nothing_makes_room_for_who_asks(served: Process) -> None:
    port = port_of(served)
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(4 * MAX_CONNECTIONS)]
    began = time.monotonic()
    assert [ask(served, path)[0] for path in ("/health", "/ready", "/metrics")] == [200, 200, 200]
    assert time.monotonic() - began < 3, "and it waits for no one's time to run out"
    for s in held:
        s.close()
    assert served.stop() == 0


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1:9464", 200), ("localhost", 200), ("LOCALHOST.:80", 200), ("[::1]:9464", 200), ("::1", 200), ("192.0.2.7", 200),
        ("gateway.lan:9464", 200), ("Gateway.LAN", 200), ("evil.example", 421), ("evil.example:9464", 421),
        ("localhost.evil.example", 421), ("127.0.0.1.evil.example", 421), ("", 421), ("127.0.0.1:x", 421),
    ],
)  # fmt: skip
def test_a_name_that_is_not_ours_is_not_answered(host: str, code: int) -> None:
    metrics = Metrics()
    server = HttpServer(HttpConfig("127.0.0.1", 0, ("gateway.lan",)), metrics, lambda: (True, {}), lambda: (True, {}))
    assert server._answer("GET", "/health", "HTTP/1.1", [f"Host: {host}"])[0] == code
    assert server._answer("GET", "/health", "HTTP/1.1", [f"hOsT:{host}", "Host: localhost"])[0] == 400
    assert server._answer("GET", "/health", "HTTP/1.0", [])[0] == 200
    assert metrics.refused["http_bad_host"] == (code == 421)


async def test_a_fault_of_ours_is_one_answers_fault() -> None:
    def broken() -> tuple[bool, dict[str, object]]:
        raise KeyError("a problem's source is ill")

    metrics = Metrics()
    server = HttpServer(HttpConfig("127.0.0.1", 0), metrics, broken, lambda: (True, {"ready": True}))
    port = int((await server.start()).rsplit(":", 1)[1])

    async def get(path: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer

    assert (await get("/health")).startswith(b"HTTP/1.1 500")
    assert (await get("/ready")).startswith(b"HTTP/1.1 200")
    assert metrics.refused["internal"] == 1
    await server.close()


@pytest.mark.parametrize("bind", ["0.0.0.0:9464", "192.0.2.1:9464", "[::]:9464"])
def test_other_machines_are_served_only_when_it_is_said_twice(tmp_path: Path, bind: str) -> None:
    config = toml_of(tmp_path, ("127.0.0.1", 1), [Mote(263)])
    sound = config.read_text()
    config.write_text(f'[http]\nbind = "{bind}"\n' + sound)
    with pytest.raises(ConfigError, match="which others can reach") as e:
        load(config)
    assert "allow_non_loopback = true" in e.value.hint
    config.write_text(f'[http]\nbind = "{bind}"\nallow_non_loopback = true\n' + sound)
    assert load(config).http is not None
    config.write_text(sound)
    assert load(config).http is None, "off unless it is asked for"


def test_a_busy_http_port_ends_it_with_one_line_and_advice(tmp_path: Path, broker: Mosquitto) -> None:
    config = toml_of(tmp_path, broker.address, [Mote(263)])
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        config.write_text(ON.replace(":0", f":{busy.getsockname()[1]}") + config.read_text())
        done = subprocess.run([sys.executable, "-m", "gateway", "run", "--config", str(config)],
                              cwd=REPO, capture_output=True, text=True, timeout=60)  # fmt: skip
    assert (
        done.returncode == 1
        and "error: http: cannot listen on tcp 127.0.0.1:" in done.stderr
        and "next: " in done.stderr
    )
    assert "Traceback" not in done.stderr

"""All that a real gateway says on a real broker is valid against the published schemas, and what it cannot read is kept for `wire decode`."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cbor2
from jsonschema import Draft202012Validator, FormatChecker
from motewire import frame

from gateway.schemas import FOLDER
from tests.gateway.conftest import BrokerAddress
from tests.gateway.world import Backend, Concentrator, Mote, Process, toml_of

NOW = int(time.time())
CITYMOTE = str(Path(sys.executable).with_name("citymote"))
TOPICS = {("node", "q"): "native-q", ("gw", "info"): "gateway-info", ("gw", "health"): "gateway-health"}


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((FOLDER / f"{name}.json").read_text()), format_checker=FormatChecker())


def kept(store: Path) -> list[bytes]:
    """Every raw frame in a gateway's store: those of its nodes, and those that nobody could be told to own."""
    with sqlite3.connect(store) as db:
        return [r[0] for table in ("frames", "quarantine") for r in db.execute(f"SELECT data FROM {table}")]


def decode(data: bytes, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [CITYMOTE, "wire", "decode", data.hex(), "--json", *arguments], capture_output=True, text=True, timeout=60
    )
    return done.returncode, json.loads(done.stdout)


def test_a_gateway_on_a_broker_keeps_to_the_schemas_and_keeps_what_it_cannot_read(
    tmp_path: Path, mosquitto: BrokerAddress
) -> None:
    m, stranger, forger = Mote(263), Mote(99), Mote(263)
    backend, p = Backend(mosquitto), Process(toml_of(tmp_path, mosquitto, [m]))
    try:
        c = Concentrator(p.port)
        unknown = m.seal(frame.REPORT, cbor2.dumps([4000, NOW - 60, 8, 1, b"\x00"]))
        future = b"\xc0" + m.report(NOW, [[1, 2, 3, 4, 5, 6]])[1:]
        for data in (
            m.status({1: 5, 2: 1, 3: 1, 5: "0.1"}, long=True),
            m.report(NOW - 120, [[3, 5, 5, 231, 631, 121], [9, 9, 9, None, 631, 2000]]),
            m.alarm(2, NOW, 6, 181, 150),
            unknown,
            future,
            stranger.report(NOW, [[1, 2, 3, 4, 5, 6]]),
            forger.report(NOW, [[1, 2, 3, 4, 5, 6]]),
            b"garbage",
        ):
            c.push(data)
            c.pull()
        backend.wait(lambda: len(backend.on("gw/gw-1/reject")) >= 4, what="rejects")
        backend.wait(lambda: backend.on("node/n-263/alert/pm10-above"), what="alert")
        c.close()
    finally:
        code = p.stop()
    assert code == 0
    seen: set[str] = set()
    probes = [kept for topic, payload, kept in backend.messages if topic == "gw/gw-1/mark/city" and b"probe" in payload]
    assert probes and not any(probes), "a probe is for who listens now, and never in the broker's memory"
    for topic, payload, _ in backend.messages:
        level = topic.split("/")
        name = TOPICS.get((level[0], level[2]), level[2])
        if name != "state" and payload:
            errors = [f"{topic}: {e.message} in {payload!r}" for e in validator(name).iter_errors(json.loads(payload))]
            assert errors == []
            seen.add(name)
    backend.close()
    # the payloads of the other formats and of commands are validated in tests/wire/test_registry.py
    assert seen == {"native-q", "senml", "alert", "event", "meta", "gateway-info", "gateway-health", "mark", "reject"}
    stored = kept(tmp_path / "gateway.db")
    assert unknown in stored and future in stored

    key = tmp_path / "key"
    key.write_text(m.key.hex())
    status, found = decode(unknown, "--key-file", str(key))
    assert (status, found["error"], found["header"]["node"]) == (12, "unknown_schema", 263)
    assert (decode(future)[0], decode(future)[1]["error"]) == (11, "bad_version")
    assert decode(unknown, "--key-file", str(tmp_path / "nodes.toml"))[0] == 12

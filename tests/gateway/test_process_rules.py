"""The real process with rules: what follows reaches the broker, and a killed gateway goes on where it was."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.gateway.conftest import BrokerAddress
from tests.gateway.world import Backend, Concentrator, Mote, Process, toml_of

RULES = """\
[rule.hot]
quantity = "temperature"
above = 35
clear = 33
reference = "house rule"
[aggregates]
mean = ["temperature", "pm10"]
"""


def row(celsius: float) -> list[list[int]]:
    return [[3, 5, 5, round(celsius * 10), 631, 121]]


def test_an_alarm_and_an_hour_reach_the_broker_and_survive_a_kill(tmp_path: Path, mosquitto: BrokerAddress) -> None:
    m, backend = Mote(263), Backend(mosquitto)
    file = toml_of(tmp_path, mosquitto, [m])
    file.write_text(file.read_text().replace("[gateway]\n", '[gateway]\nrules = "rules.toml"\n', 1))
    (tmp_path / "rules.toml").write_text(RULES)
    now = int(time.time())
    hour = now // 3600 * 3600 - 3600
    p = Process(file)
    try:
        c = Concentrator(p.port)
        c.push(m.status({1: 5, 2: 1, 3: 1}, long=True))
        c.push(m.report(hour + 1200, row(20) * 3, interval=1200))
        c.push(m.report(now - 60, row(40)))
        c.pull()
        backend.wait(lambda: backend.on("node/n-263/alert/hot") and backend.on("node/n-263/agg/hour"))
        alert = json.loads(backend.on("node/n-263/alert/hot")[-1])
        assert (alert["code"], alert["value"], alert["reference"], set(alert["text"])) == (
            "above",
            40.0,
            "house rule",
            {"sl", "it", "en"},
        )
        first = json.loads(backend.on("node/n-263/agg/hour")[-1])
        assert first["values"]["temperature"] == {"v": 20.0, "u": "Cel", "capture": 100.0}
        p.kill()
        p = Process(file)
        c = Concentrator(p.port)
        c.push(m.report(now, row(30)))
        c.pull()
        backend.wait(lambda: backend.on("node/n-263/alert/hot")[-1] == b"", what="cleared by the second life")
        c.push(m.report(now + 1, row(41)))
        c.pull()
        backend.wait(lambda: backend.on("node/n-263/alert/hot")[-1] != b"")
        p.kill()
        file.write_text(file.read_text().replace('rules = "rules.toml"\n', ""))
        p = Process(file, accept=True)
        backend.wait(lambda: backend.on("node/n-263/alert/hot")[-1] == b"", what="cleared by a life without rules")
    finally:
        p.kill()
        backend.close()

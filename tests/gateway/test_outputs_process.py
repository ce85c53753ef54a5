"""Several outputs of a real gateway: each its own formats, filter, window and fate."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.gateway.conftest import BrokerAddress, Mosquitto
from tests.gateway.senml_judge import from_cbor
from tests.gateway.world import Backend, Concentrator, Mote, Process, ScriptedBroker, until

NOW = int(time.time())
ROWS = [[3, 5, 5, 231, 631, 121], [9, 9, 9, 231, 631, 120]]
HEAD = '[gateway]\nid = "gw-1"\n{gateway}\n[link.lora]\nkind = "udp-forwarder"\nbind = "127.0.0.1:0"\n'
Start = Callable[..., Process]


@pytest.fixture
def motes(tmp_path: Path) -> dict[str, Mote]:
    """An air node and a water meter, both provisioned as open, in different areas."""
    found = {"air_quality": Mote(263), "water_meter": Mote(264)}
    (tmp_path / "nodes.toml").write_text(
        "".join(
            f'[[node]]\nid = {m.id}\nname = "n-{m.id}"\nkey = "{m.key.hex()}"\nprofile = "{p}"\ninterval_s = 600\nvisibility = "open"\n'
            f'lat = 45.54\nlon = 13.73\narea = "area-{m.id}"\n'
            for p, m in found.items()
        )
    )
    return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[Process] = []

    def make(outputs: str, gateway: str = "") -> Process:
        (tmp_path / "gateway.toml").write_text(HEAD.format(gateway=gateway) + outputs)
        running.append(Process(tmp_path / "gateway.toml"))
        return running[-1]

    yield make
    for p in running:
        p.kill()


def mqtt(name: str, broker: BrokerAddress | tuple[str, int], *more: str) -> str:
    return f'[output.{name}]\nkind = "mqtt"\nbroker = "{broker[0]}:{broker[1]}"\nroot = "{name}"\n' + "".join(
        f"{m}\n" for m in more
    )


def feed(p: Process, motes: dict[str, Mote]) -> None:
    c = Concentrator(p.port)
    c.push(motes["air_quality"].status({1: 5, 2: 1, 3: 1, 5: "0.1.0"}, long=True))
    c.push(motes["air_quality"].report(NOW - 120, ROWS))
    c.push(motes["water_meter"].report(NOW - 120, [[1234, 15]], schema=4))
    c.push(motes["water_meter"].alarm(2, NOW, 14, 50, 10))
    c.pull()
    c.close()


def test_personal_data_reach_only_the_output_that_says_so(
    mosquitto: BrokerAddress, motes: dict[str, Mote], start: Start
) -> None:
    everything = 'formats = ["native", "senml", "senml-cbor", "ngsi-ld", "homeassistant"]'
    p = start(
        mqtt("city", mosquitto, everything)
        + mqtt(
            "utility",
            mosquitto,
            everything,
            'visibility = ["open", "restricted", "personal"]',
            'discovery = "ha2"',
            'areas = "area-264"',
        )
    )
    seen = Backend(mosquitto, "#")
    feed(p, motes)
    assert p.stop() == 0
    seen.wait(lambda: b"offline" in seen.on("utility/v1/gw/gw-1/state") and b"offline" in seen.on("gw/gw-1/state"))
    city = [(t, x) for t, x, _ in seen.messages if not t.startswith(("utility/", "ha2/"))]
    utility = [(t, x) for t, x, _ in seen.messages if t.startswith(("utility/", "ha2/"))]
    assert not [
        t for t, x in city if b"water_volume" in x or b"water_flow" in x or "water_" in t or b"SmartMetering" in x
    ]
    assert {
        "node/n-263/q/pm10",
        "node/n-263/senml",
        "ngsi-ld/AirQualityObserved/n-263",
        "homeassistant/device/n-263/config",
    } <= {t for t, _ in city}
    topics = {t.removeprefix("utility/v1/") for t, _ in utility}
    assert {
        "node/n-264/q/water_volume",
        "node/n-264/alert/water_volume-above",
        "ngsi-ld/SmartMeteringObservation/n-264",
        "ha2/device/n-264/config",
    } <= topics
    assert not [t for t in topics if "263" in t], "the other area"
    packs = [x for t, x in utility if t.endswith("/senml-cbor")]
    assert [r.value for x in packs for r in from_cbor(x) if r.name.endswith("water_volume")] == [pytest.approx(0.1234)]


def test_a_new_output_is_told_what_every_node_is_though_the_spool_has_forgotten(
    tmp_path: Path, mosquitto: BrokerAddress, motes: dict[str, Mote], start: Start
) -> None:
    p = start(mqtt("city", mosquitto))
    feed(p, motes)
    assert p.stop() == 0
    db = sqlite3.connect(tmp_path / "gateway.db")
    db.execute("DELETE FROM spool")
    db.commit()
    db.close()
    p = start(mqtt("city", mosquitto) + mqtt("late", mosquitto, 'formats = ["native", "homeassistant", "ngsi-ld"]'))
    seen = Backend(mosquitto, "#")
    seen.wait(lambda: seen.on("homeassistant/device/n-263/config") and seen.on("late/v1/ngsi-ld/Device/n-263"))
    meta = json.loads(seen.on("late/v1/node/n-263/meta")[-1])
    assert meta["quantities"]["pm10"] == "ug/m3" and meta["firmware"] == "0.1.0" and meta["area"] == ["area-263"]
    assert seen.on("late/v1/node/n-263/state") == [b"online"]
    assert p.stop() == 0
    assert not [line for line in p.lines() if line["event"] == "not_drained"], (
        "what the spool does not hold is not waited for"
    )


@pytest.mark.slow
def test_no_output_waits_for_another(
    tmp_path: Path, mosquitto: BrokerAddress, motes: dict[str, Mote], start: Start
) -> None:
    """A broker that takes and never acknowledges, one that is not there, a folder that cannot be: the others get everything."""
    hole = ScriptedBroker(acknowledges=False)
    hole.start()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        nobody = s.getsockname()
    (tmp_path / "file").write_text("")
    p = start(
        mqtt("hole", hole.address, "window = 3")
        + mqtt("nobody", nobody)
        + mqtt("city", mosquitto)
        + f'[output.hub]\nkind = "ngsi-ld-http"\nurl = "http://{nobody[0]}:{nobody[1]}"\n'
        + f'[output.bad]\nkind = "files"\nfolder = "{tmp_path}/file/days"\n[output.days]\nkind = "files"\nfolder = "days"\n',
        "drain_s = 1",
    )
    seen = Backend(mosquitto)
    c = Concentrator(p.port)
    for n in range(20):
        c.push(motes["air_quality"].report(NOW - 9000 + 120 * n, ROWS))
    c.pull()
    seen.wait(lambda: len(seen.packs()) == 20)
    assert until(
        lambda: (
            len((tmp_path / "days").joinpath(time.strftime("%Y-%m-%d.part", time.gmtime())).read_text().splitlines())
            == 20 * 12
        )
    )
    assert p.stop() == 0
    log = p.lines()
    assert {line["output"] for line in log if line["event"] == "not_drained"} == {"hole", "nobody", "hub", "bad"}
    assert {line["output"] for line in log if line["event"] == "output_unreachable"} >= {"nobody", "hub", "bad"}
    assert all(line["next"] for line in log if line["event"] == "output_unreachable")
    hole.end()


@pytest.mark.slow
def test_the_window_bounds_what_a_broker_has_not_acknowledged(
    mosquitto: BrokerAddress, motes: dict[str, Mote], start: Start
) -> None:
    hole = ScriptedBroker(acknowledges=False)
    hole.start()
    p = start(mqtt("hole", hole.address, "window = 3", 'formats = ["senml"]'), "drain_s = 1")
    c = Concentrator(p.port)
    for n in range(20):
        c.push(motes["air_quality"].report(NOW - 9000 + 120 * n, ROWS))
    c.pull()
    assert until(lambda: len(hole.senml) == 3)
    p.stop()
    assert len(hole.senml) == 3
    hole.end()


def test_a_broker_that_returns_gets_retained_topics_of_every_format_without_a_step_back(
    broker: Mosquitto, motes: dict[str, Mote], start: Start
) -> None:
    p = start(mqtt("city", broker.address, 'formats = ["native", "ngsi-ld"]'))
    seen = Backend(broker.address)
    c = Concentrator(p.port)

    def send(n: int) -> None:
        for _ in range(n):
            c.push(motes["air_quality"].report(NOW - 50_000 + motes["air_quality"].counter * 120, ROWS))
            c.pull()

    send(20)
    broker.stop()
    send(20)
    broker.start()
    send(5)
    assert p.stop() == 0
    topic = "ngsi-ld/AirQualityObserved/n-263"
    live = [json.loads(x)["dateObserved"]["value"] for t, x, retained in seen.messages if t == topic and not retained]
    assert live and live == sorted(live)
    late = Backend(broker.address)
    late.wait(lambda: late.on(topic))
    newest = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW - 50_000 + 44 * 120 + 60))
    assert json.loads(late.on(topic)[0])["dateObserved"]["value"] == newest

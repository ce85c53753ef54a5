"""Home Assistant discovery: an independent consumer reads it from a real mosquitto and ends with the right entities and states."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from motewire.quantities import KEY, QUANTITIES

from gateway.core.model import Event
from gateway.core.value import replace
from gateway.outputs import FORMATS, homeassistant
from gateway.outputs.message import Known
from tests.gateway.conftest import BrokerAddress, Mosquitto
from tests.gateway.ha_judge import HomeAssistant, Refused, entities_of, state_of
from tests.gateway.told import district, events
from tests.gateway.world import Concentrator, Mote, Process, until

NODES = district()
KNOWN = Known("gw-1", NODES)
NOW = int(time.time())


def discovered(e: Event, known: Known = KNOWN) -> dict[str, Any] | None:
    found = FORMATS["homeassistant"](e, "city", known)
    assert all(m.retain and m.qos == 1 for m in found)
    return json.loads(found[-1].payload) if found else None


def test_every_message_is_one_that_home_assistant_takes() -> None:
    kinds = set()
    for node in NODES.values():
        for e in events(node):
            for m in FORMATS["homeassistant"](e, "city", KNOWN):
                assert m.topic == f"homeassistant/device/{node.name}/config"
                found = entities_of(m.topic, json.loads(m.payload))
                kinds |= {x.config.get("device_class") for x in found.values()}
    assert kinds >= {
        "pm25",
        "temperature",
        "humidity",
        "sound_pressure",
        "water",
        "volume_flow_rate",
        "occupancy",
        "moisture",
        "signal_strength",
    }


@pytest.mark.parametrize("row", QUANTITIES, ids=lambda r: r[KEY])
def test_every_quantity_has_a_line_with_an_allowed_unit(row: tuple[Any, ...]) -> None:
    assert row[KEY] in homeassistant.SENSORS
    e = Event("meta", "1:0:meta:0", 1, "n-1", "open", 0.0, 600, meta={"profile": "x", "quantities": {row[KEY]: row[2]}})
    body = discovered(e)
    assert body is not None and row[KEY] in body["components"]
    entities_of("homeassistant/device/n-1/config", body)


def test_the_judge_refuses_what_home_assistant_refuses() -> None:
    (e,) = [e for e in events(NODES[300]) if e.meta is not None and e.meta["quantities"]][-1:]
    good = discovered(e)
    assert good is not None
    entities_of("homeassistant/device/a/config", good)

    def spoiled(change: Callable[[dict[str, Any]], Any]) -> None:
        body = copy.deepcopy(good)
        change(body)
        with pytest.raises((Refused, KeyError)):
            entities_of("homeassistant/device/a/config", body)

    spoiled(lambda b: b.pop("origin"))
    spoiled(lambda b: b["device"].pop("identifiers"))
    spoiled(lambda b: b["components"]["pm25"].pop("unique_id"))
    spoiled(lambda b: b["components"]["pm25"].pop("state_topic"))
    spoiled(lambda b: b["components"]["pm25"].update(unit_of_measurement="\u03bcg/m\u00b3"))  # Greek mu
    spoiled(lambda b: b["components"]["pm25"].update(unit_of_measurement="ug/m3"))
    spoiled(lambda b: b["components"]["temperature"].update(state_class="total"))
    spoiled(lambda b: b["components"]["pm25"].update(object_id="x"))
    spoiled(lambda b: b["components"]["pm25"].update(unique_id=b["components"]["pm10"]["unique_id"]))


def test_what_the_destination_may_not_see_is_not_announced() -> None:
    from gateway.config import Filter
    from gateway.outputs.filter import Sieve

    f = Filter(visibility=frozenset(["open"]))
    for e in events(NODES[302]):  # a water meter, provisioned as open by mistake
        seen = Sieve(f).narrow(e, NODES)
        body = discovered(seen, Known("gw-1", NODES, f)) if seen is not None else None
        assert body is None, "nothing of it is open"
    (e,) = [e for e in events(NODES[300]) if e.meta is not None and e.meta["quantities"]][-1:]
    body = discovered(e, Known("gw-1", NODES, f))
    assert body is not None and "rssi" not in body["components"] and "pm25" in body["components"]


def component(key: str, unit: str, **meta: Any) -> dict[str, Any]:
    """What is announced of one quantity."""
    e = Event(
        "meta", "1:0:meta:0", 1, "n-1", "open", 0.0, 600, meta={"profile": "x", "quantities": {key: unit}, **meta}
    )
    body = discovered(e)
    assert body is not None
    (found,) = entities_of(
        "homeassistant/device/n-1/config", {**body, "components": {key: body["components"][key]}}
    ).values()
    return found.config


@pytest.mark.parametrize("row", QUANTITIES, ids=lambda r: r[KEY])
def test_a_doubtful_value_of_any_quantity_is_unknown_and_a_good_one_is_shown(row: tuple[Any, ...]) -> None:
    config = component(row[KEY], row[2])
    assert state_of(config, '{"v": 999.9, "q": "suspect"}') == "unknown"
    assert state_of(config, '{"v": 0, "q": "suspect"}') == "unknown"
    assert state_of(config, '{"v": 1, "q": "ok"}') in ("1", "on", "0.001")
    assert state_of(config, '{"v": 0, "q": "ok"}') in ("0", "off", "0.0")


def test_only_registers_and_counts_that_rise_are_totals() -> None:
    """Home Assistant adds up what is `total_increasing`; `count` is of one row, and 5 3 7 2 would become 9 instead of 12."""
    totals = {key for key, s in homeassistant.SENSORS.items() if s.state_class == "total_increasing"}
    assert totals == {"water_volume", "lid_opens"}
    assert component("count", "count")["state_class"] == "measurement"


def test_values_of_status_frames_live_by_their_own_rhythm() -> None:
    (e,) = [e for e in events(NODES[300]) if e.meta is not None and e.meta["quantities"]][-1:]
    for health, always, daily in ((None, 3 * 21_600, 3 * 86_400), (172_800, 3 * 172_800, 3 * 172_800)):
        meta = {**(e.meta or {}), **({} if health is None else {"health": health})}
        body = discovered(replace(e, meta=meta))
        assert body is not None
        lives = {key: c["expire_after"] for key, c in body["components"].items() if "expire_after" in c}
        assert (lives["uptime"], lives["boots"], lives["board_temperature"]) == (always, daily, daily)
        assert lives["pm25"] == lives["rssi"] == 3 * e.interval_s


TOML = """\
[gateway]
id = "gw-1"
[link.lora]
kind = "udp-forwarder"
bind = "127.0.0.1:0"
[output.home]
kind = "mqtt"
broker = "{0}:{1}"
formats = ["native", "homeassistant"]
visibility = ["open", "restricted", "personal"]
"""
PROFILES = {263: "air_quality", 264: "water_meter", 265: "parking"}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Callable[[BrokerAddress], tuple[Process, dict[str, Mote]]]]:
    running: list[Process] = []
    motes = {profile: Mote(number) for number, profile in PROFILES.items()}

    def start(broker: BrokerAddress) -> tuple[Process, dict[str, Mote]]:
        (tmp_path / "gateway.toml").write_text(TOML.format(*broker))
        (tmp_path / "nodes.toml").write_text(
            "".join(
                f'[[node]]\nid = {m.id}\nname = "{p.replace("_", "-")}"\nkey = "{m.key.hex()}"\nprofile = "{p}"\ninterval_s = 600\n'
                for p, m in motes.items()
            )
        )
        running.append(Process(tmp_path / "gateway.toml"))
        return running[-1], motes

    yield start
    for p in running:
        p.kill()


def test_a_consumer_ends_with_the_right_states(
    mosquitto: BrokerAddress, gateway: Callable[..., tuple[Process, dict[str, Mote]]]
) -> None:
    p, motes = gateway(mosquitto)
    ha, c = HomeAssistant(mosquitto), Concentrator(p.port)
    for m in motes.values():
        c.push(m.status({1: 5, 2: 1, 3: 1, 5: "0.1.0", 12: 371}, long=True))
    c.push(motes["air_quality"].report(NOW - 60, [[3, 5, 8, -31, 631, 121]]))
    c.push(motes["water_meter"].report(NOW - 60, [[1234567, 1500]], schema=4))
    c.push(motes["water_meter"].alarm(2, NOW, 14, 50, 10))
    c.push(motes["parking"].report(NOW - 60, [[0], [1]], schema=12, interval=30))
    c.push(motes["air_quality"].report(NOW - 30, [[4, 5, 9, -31, 6310, 121]]))  # a humidity that cannot be
    c.pull()

    def state(number: int, key: str) -> str | None:
        entity = ha.entities.get(f"citymote_city_{number}_{key}")
        return entity.shown if entity is not None else None

    wanted = {
        (263, "pm1"): "4", (263, "pm10"): "9", (263, "temperature"): "-3.1", (263, "humidity"): "unknown", (263, "pressure"): "1012.1",
        (263, "battery_voltage"): "3.71", (263, "rssi"): "-80", (263, "uptime"): "5",
        (264, "water_volume"): "123456.7", (264, "water_flow"): "1.5", (264, "leak"): "on", (265, "occupied"): "on",
    }  # fmt: skip
    try:
        ha.wait(lambda: all(state(*key) == value for key, value in wanted.items()))
    except AssertionError as e:
        raise AssertionError(
            {key: (state(*key), value) for key, value in wanted.items() if state(*key) != value}
        ) from e
    c.push(motes["water_meter"].alarm(1, NOW + 1, 14, 5, 10))
    c.push(motes["parking"].report(NOW, [[0]], schema=12, interval=0))
    c.pull()
    ha.wait(lambda: state(264, "leak") == "off" and state(265, "occupied") == "off")
    assert ha.refused == []
    assert p.stop() == 0
    ha.wait(lambda: all(e.shown == "unavailable" for e in ha.entities.values()))
    late = HomeAssistant(mosquitto)  # everything it needs is retained
    late.wait(lambda: len(late.entities) == len(ha.entities))
    late.close()
    ha.close()
    c.close()


def test_discovery_is_told_again_when_home_assistant_starts(
    broker: Mosquitto, gateway: Callable[..., tuple[Process, dict[str, Mote]]]
) -> None:
    p, motes = gateway(broker.address)
    ha, c = HomeAssistant(broker.address), Concentrator(p.port)
    c.push(motes["air_quality"].report(NOW - 60, [[3, 5, 8, 231, 631, 121]]))
    c.pull()
    ha.wait(lambda: ha.configs >= 1)
    # the pass behind the connection may publish it once more, when the report was faster than that. Its line says that the broker has
    # it, not that a subscriber has: what arrives later would be taken for the answer to what follows
    assert until(lambda: any(line["event"] == "output_resynced" for line in p.lines()))
    ha.catch_up()
    before = ha.configs
    ha.say_online()
    ha.wait(lambda: ha.configs == before + 1)
    assert p.stop() == 0
    assert p.lines()[-1]["totals"].get("discovery_resent") == 1
    ha.catch_up()
    assert ha.configs == before + 1
    assert ha.refused == []
    ha.close()
    c.close()

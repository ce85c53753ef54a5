"""What outputs say: native and SenML, as pure functions of an event."""

from __future__ import annotations

import json
from typing import Any

import pytest
from motewire.quantities import QUANTITIES

from gateway.core.model import Alarm, Column, Event
from gateway.outputs import FORMATS
from gateway.outputs.message import Message
from gateway.outputs.senml import primary
from tests.gateway.world import T0

BASE = Event("report", "263:0:7", 263, "aq-01", "open", T0 + 100.25, 600, 7, rssi=-97, snr=-3.5)


def native(e: Event) -> dict[str, Message]:
    found = {m.topic.removeprefix("city/v1/node/aq-01/"): m for m in FORMATS["native"](e, "city")}
    for m in found.values():
        assert m.qos == 1
    return found


def changed(**fields: Any) -> Event:
    from gateway.core.value import replace

    return replace(BASE, **fields)


REPORT = changed(
    times=(T0, T0 + 60),
    columns=(
        Column("pm10", "ug/m3", (5, 8), (1,)),
        Column("pressure", "hPa", (1012.1, None)),
        Column("q99", "", (7, 8)),
    ),
    latest=((0, 1), (1, 0)),
)


def test_native_retains_the_newest_value_of_each_quantity() -> None:
    found = native(REPORT)
    assert set(found) == {"q/pm10", "q/pressure", "q/rssi", "q/snr"}
    assert all(m.retain for m in found.values())
    assert json.loads(found["q/pm10"].payload) == {
        "v": 8, "u": "ug/m3", "t": "2026-01-01T00:01:00Z", "q": "suspect", "until": "2026-01-01T00:31:00Z", "rx": "2026-01-01T00:01:40.250Z",
    }  # fmt: skip
    assert json.loads(found["q/pressure"].payload)["v"] == 1012.1
    assert json.loads(found["q/rssi"].payload)["v"] == -97


def test_senml_carries_every_sample_in_primary_units_and_its_id() -> None:
    (m,) = FORMATS["senml"](REPORT, "city")
    assert (m.topic, m.qos, m.retain) == ("city/v1/node/aq-01/senml", 1, False)
    assert json.loads(m.payload) == [
        {"bn": "urn:dev:ops:citymote-aq-01:", "bt": T0, "id": "263:0:7", "n": "pm10", "u": "kg/m3", "v": 5e-9},
        {"n": "pressure", "u": "Pa", "v": 101210.0},
        {"n": "q99", "v": 7},
        {"n": "pm10", "u": "kg/m3", "t": 60, "v": 8e-9, "q": "suspect"},
        {"n": "q99", "t": 60, "v": 8},
    ]


@pytest.mark.parametrize("row", QUANTITIES, ids=lambda r: r[1])
def test_no_raw_value_is_lost_in_a_primary_unit(row: tuple[Any, ...]) -> None:
    """Converting back must give the raw integer for every value of the range, or a thousand of them."""
    _, _, unit, exponent, offset, low, high = row
    back = {
        "ug/m3": 1e9, "ppb": 1e9, "hPa": 1e-2, "bar": 1e-5, "l": 1e3, "l/h": 3.6e6, "mm": 1e3, "%": 1e2, "deg": 57.29577951308232,
        "uT": 1e6,
    }.get(unit, 1)  # fmt: skip
    shift = 30 if unit == "dBm" else 0
    first, last = int(low / 10**exponent) - offset, int(high / 10**exponent) - offset
    for raw in range(first, last + 1, max((last - first) // 1000, 1)):
        value, _ = primary((raw + offset) / 10**-exponent, unit)
        assert round((value * back + shift) / 10**exponent) - offset == raw


def test_an_alert_is_retained_while_it_is_up_and_cleared_by_an_empty_payload() -> None:
    alarm = Alarm("raised", "above", "warning", "pm10", "ug/m3", 181, 150, T0 + 90, T0 + 60, ("pm10-above",))
    found = native(changed(kind="alarm", alarm=alarm))
    assert found["alert/pm10-above"].retain
    assert json.loads(found["alert/pm10-above"].payload) == {
        "code": "above", "severity": "warning", "quantity": "pm10", "value": 181, "limit": 150, "unit": "ug/m3",
        "since": "2026-01-01T00:01:00Z", "t": "2026-01-01T00:01:30Z", "gw": "gw-1",
    }  # fmt: skip
    assert json.loads(found["event"].payload)["event"] == "alarm_raised"
    clear = Alarm("cleared", "cleared", "warning", "pm10", "ug/m3", 140, 150, T0 + 99, T0, ("pm10-above", "pm10-fault"))
    found = native(changed(kind="alarm", alarm=clear))
    assert found["alert/pm10-above"].payload == found["alert/pm10-fault"].payload == b""
    late = Alarm("late", "above", "warning", "pm10", "ug/m3", 181, 150, T0, T0, ())
    assert not any(t.startswith("alert") for t in native(changed(kind="alarm", alarm=late)))


def test_parking_rows_are_told_one_by_one() -> None:
    e = changed(times=(T0, T0 + 431), columns=(Column("occupied", "1", (1, 0)),), latest=((0, 1),), occurrences=True)
    events = [json.loads(m.payload) for m in FORMATS["native"](e, "city") if m.topic.endswith("/event")]
    assert [(x["event"], x["t"], x["id"]) for x in events] == [
        ("arrival", "2026-01-01T00:00:00Z", "263:0:7:0"),
        ("departure", "2026-01-01T00:07:11Z", "263:0:7:1"),
    ]


def test_a_status_becomes_health_values_and_an_event() -> None:
    e = changed(kind="status", status={"battery_voltage": 371, "boots": 4, "s99": [1]}, rebooted=True, online=True)
    found = native(e)
    assert json.loads(found["q/battery_voltage"].payload)["v"] == 3.71
    assert json.loads(found["event"].payload)["event"] == "reboot"
    assert found["state"].payload == b"online" and found["state"].retain


def test_what_a_newer_status_has_told_before_is_an_event_and_no_health_value() -> None:
    status = {"battery_voltage": 371, "boots": 4, "uptime": True}
    found = native(changed(kind="status", status=status, stale=("battery_voltage",)))
    assert {t for t in found if t.startswith("q/")} == {"q/boots", "q/rssi", "q/snr"}, "and True is no uptime"
    body = json.loads(found["event"].payload)
    assert body["battery_voltage"] == 371 and body["stale"] == ["battery_voltage"]
    assert "stale" not in json.loads(native(changed(kind="status", status=status))["event"].payload)


def test_an_alarm_that_cannot_be_right_says_so() -> None:
    for suspect in (True, False):
        a = Alarm(
            "raised",
            "above",
            "warning",
            "temperature",
            "Cel",
            3276.7,
            30,
            T0,
            T0,
            ("temperature-above",),
            suspect=suspect,
        )
        found = native(changed(kind="alarm", alarm=a))
        for topic in ("alert/temperature-above", "event"):
            assert json.loads(found[topic].payload).get("q") == ("suspect" if suspect else None)


def test_an_unreadable_frame_still_shows_that_the_node_is_there() -> None:
    assert set(native(changed(kind="opaque", online=True))) == {"state", "q/rssi", "q/snr"}
    assert FORMATS["senml"](changed(kind="opaque"), "city") == []


def test_json_has_no_infinity_whatever_comes() -> None:
    for m in FORMATS["native"](REPORT, "city") + FORMATS["senml"](REPORT, "city"):
        json.loads(m.payload, parse_constant=lambda c: pytest.fail(c))

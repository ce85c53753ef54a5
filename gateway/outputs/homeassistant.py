"""`homeassistant`: MQTT device discovery, one retained message per node, pointing at the topics of `native`.

Said whenever a node's metadata change, and again for all nodes when Home Assistant says that it has started (outputs/mqtt.py).
Unit strings are Home Assistant's own, to the code point: micro is U+00B5, superscripts are U+00B9, U+00B2, U+00B3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from gateway import __version__
from gateway.core.current import Current
from gateway.core.model import Event, Node
from gateway.core.registry import label, strictest
from gateway.core.rhythm import DEFAULT_S
from gateway.outputs.filter import may_see
from gateway.outputs.message import NOTHING, Known, Message, json, node_topic
from gateway.outputs.native import VALID_INTERVALS, health_life_s


class Sensor(NamedTuple):
    """How Home Assistant shows a quantity; template: the expression that it shows. binary: a binary_sensor, on when not 0."""

    device_class: str | None
    unit: str | None
    state_class: str | None = "measurement"
    template: str = "value_json.v"
    precision: int | None = None
    diagnostic: bool = False
    binary: bool = False


_UG = "\u00b5g/m\u00b3"
# a quantity of motewire without a line here is shown as a plain number with its own unit
SENSORS = {
    "temperature": Sensor("temperature", "°C", precision=1),
    "humidity": Sensor("humidity", "%", precision=0),
    "pressure": Sensor("atmospheric_pressure", "hPa", precision=1),
    "pm1": Sensor("pm1", _UG),
    "pm25": Sensor("pm25", _UG),
    "pm10": Sensor("pm10", _UG),
    "no2": Sensor("nitrogen_dioxide", _UG, precision=0),
    "o3": Sensor("ozone", _UG, precision=0),
    "laeq": Sensor("sound_pressure", "dBA", precision=1),
    "lafmax": Sensor("sound_pressure", "dBA", precision=1),
    "la10": Sensor("sound_pressure", "dBA", precision=1),
    "la50": Sensor("sound_pressure", "dBA", precision=1),
    "la90": Sensor("sound_pressure", "dBA", precision=1),
    "water_volume": Sensor("water", "L", "total_increasing", precision=0),
    "water_flow": Sensor("volume_flow_rate", "m\u00b3/h", template="(value_json.v / 1000) | round(3)", precision=3),
    "water_pressure": Sensor("pressure", "bar", precision=2),
    "occupied": Sensor("occupancy", None, None, "'ON' if value_json.v else 'OFF'", binary=True),
    "toggle": Sensor(None, None, None, "'ON' if value_json.v else 'OFF'", binary=True),
    "fill_level": Sensor(None, "%"),
    "tilt": Sensor(None, "°"),
    "distance": Sensor("distance", "mm"),
    "battery_voltage": Sensor("voltage", "V", precision=2, diagnostic=True),
    "count": Sensor(None, None),  # of the row, no register
    "lid_opens": Sensor(None, None, "total_increasing"),
    "particle_count": Sensor(None, "1/cm\u00b3"),
    "confidence": Sensor(None, "%", diagnostic=True),
    "magnetic_anomaly": Sensor(None, "\u00b5T", diagnostic=True),
    "rssi": Sensor("signal_strength", "dBm", diagnostic=True),
    "snr": Sensor("signal_strength", "dB", diagnostic=True),
}
# what nodes of every profile may tell of themselves; not shown until the user wants it, since not every node tells all of it
HEALTH = {
    "rssi": SENSORS["rssi"],
    "battery_voltage": SENSORS["battery_voltage"],
    "board_temperature": Sensor("temperature", "°C", diagnostic=True),
    "uptime": Sensor("duration", "s", "total_increasing", diagnostic=True),
    "boots": Sensor(None, None, "total_increasing", diagnostic=True),
}
# profile -> (id, name, quantity, rule of `native` alerts, device class)
ALERTS = {
    "water_meter": (
        ("leak", "leak", "water_volume", "water_volume-above", "moisture"),
        ("burst", "burst", "water_flow", "water_flow-above", "problem"),
    ),
    "bin_fill": (
        ("heat", "heat", "temperature", "temperature-above", "heat"),
        ("tipped", "tipped over", "tilt", "tilt-above", "problem"),
    ),
}
_ON = "{{ 'ON' if value else 'OFF' }}"


def messages(e: Event, root: str, known: Known = NOTHING) -> list[Message]:
    """Return the discovery message of a node whose metadata are told and which has measured something."""
    meta = e.meta
    if meta is None or not meta["quantities"]:
        return []
    node = known.nodes.get(e.node)
    visibility = e.visibility if node is None else strictest(e.visibility, node.visibility)
    every, health = VALID_INTERVALS * max(e.interval_s, 1), int(meta.get("health", DEFAULT_S))
    components: dict[str, Any] = {}

    def add(key: str, s: Sensor, name: str, unit: str | None, shown: bool) -> None:
        # signal strength comes with every frame
        expire = every if shown or key == "rssi" else health_life_s(key, health)
        components[key] = _component(e, root, key, s, name, unit, expire) | (
            {} if shown else {"enabled_by_default": False}
        )

    for key, unit in meta["quantities"].items():
        s = SENSORS.get(key.partition("-")[0]) or Sensor(None, unit or None)
        add(key, s, label(key, "en"), s.unit, True)
    for key, s in HEALTH.items():
        if key not in components and may_see(key, visibility, known.filter):
            add(key, s, label(key, "en").replace("_", " "), s.unit, False)
    for key, name, quantity, rule, device_class in ALERTS.get(meta["profile"], ()):
        if quantity in meta["quantities"]:
            components[key] = {
                "platform": "binary_sensor", "unique_id": _unique(e, root, key), "name": name, "device_class": device_class,
                "state_topic": node_topic(root, e.name, "alert", rule), "value_template": _ON,
            }  # fmt: skip
    device: dict[str, Any] = {
        "identifiers": [_unique(e, root)], "name": e.name, "manufacturer": "citymote", "model": meta["profile"], "serial_number": str(e.node),
    }  # fmt: skip
    if "firmware" in meta:
        device["sw_version"] = meta["firmware"]
    if "area" in meta:
        device["suggested_area"] = meta["area"][0]
    body = {
        "device": device,
        "origin": {"name": "citymote", "sw_version": __version__},
        "availability": [
            {"topic": f"{root}/v1/gw/{known.gateway}/state"},
            {"topic": node_topic(root, e.name, "state")},
        ],
        "availability_mode": "all",
        "qos": 1,
        "components": components,
    }
    return [Message(f"{known.discovery}/device/{e.name}/config", json(body), retain=True, newest=e.received)]


def retained(c: Current, name: str, root: str, node: Node | None, known: Known = NOTHING) -> list[Message]:
    """Return the discovery message of a node, from its facts; none of an area."""
    if node is None or c.meta is None:
        return []
    told = Event(
        "meta",
        "",
        node.id,
        name,
        c.meta["visibility"],
        c.device.at if c.device else 0.0,
        c.meta["interval"],
        meta=c.meta,
    )
    return messages(told, root, known)


def _component(e: Event, root: str, key: str, s: Sensor, name: str, unit: str | None, expire: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "platform": "binary_sensor" if s.binary else "sensor", "unique_id": _unique(e, root, key), "name": name,
        "state_topic": node_topic(root, e.name, "q", key), "value_template": _shown(s), "expire_after": expire,
    }  # fmt: skip
    if s.device_class is not None:
        found["device_class"] = s.device_class
    if s.diagnostic:
        found["entity_category"] = "diagnostic"
    if not s.binary:
        if unit is not None:
            found["unit_of_measurement"] = unit
        if s.state_class is not None:
            found["state_class"] = s.state_class
        if s.precision is not None:
            found["suggested_display_precision"] = s.precision
    return found


def _shown(s: Sensor) -> str:
    """Return the template: a doubtful value is unknown. Home Assistant takes "None" as that, of sensors and of binary sensors."""
    return f"{{{{ ({s.template}) if value_json.q == 'ok' else None }}}}"


def _unique(e: Event, root: str, *more: str) -> str:
    """Return an id that stays when a node is renamed or changes its gateway."""
    return "_".join(("citymote", root, str(e.node), *more))

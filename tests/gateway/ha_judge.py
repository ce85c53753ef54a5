"""Home Assistant's side of MQTT device discovery, written from its documentation alone: reads configs, subscribes to what they name,
applies templates with the template engine it uses, and ends with states. Refuses what Home Assistant would refuse.

Rules: home-assistant.io, integrations `mqtt`, `sensor.mqtt`, `binary_sensor.mqtt`; units per device class: developers.home-assistant.io,
sensor entity (SensorDeviceClass).
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jinja2
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

_UG = "\u00b5g/m\u00b3"
UNITS: dict[str | None, set[str | None]] = {
    "temperature": {"°C", "°F", "K"}, "humidity": {"%"}, "atmospheric_pressure": {"hPa", "Pa", "kPa", "bar", "cbar", "mbar", "mmHg", "inHg", "psi"},
    "pressure": {"Pa", "kPa", "hPa", "bar", "cbar", "mbar", "mmHg", "inHg", "psi"}, "pm1": {_UG}, "pm25": {_UG}, "pm10": {_UG},
    "nitrogen_dioxide": {_UG}, "ozone": {_UG}, "sound_pressure": {"dB", "dBA"}, "water": {"L", "gal", "m\u00b3", "ft\u00b3", "CCF", "MCF"},
    "volume_flow_rate": {"m\u00b3/h", "m\u00b3/min", "m\u00b3/s", "ft\u00b3/min", "L/h", "L/min", "L/s", "gal/d", "gal/h", "gal/min", "mL/s"},
    "voltage": {"V", "mV", "\u00b5V", "kV", "MV"}, "distance": {"km", "m", "cm", "mm", "mi", "nmi", "yd", "in"}, "signal_strength": {"dB", "dBm"},
    "duration": {"d", "h", "min", "s", "ms", "\u00b5s"}, "battery": {"%"}, "power": {"W", "kW", "mW", "MW", "GW", "TW"},
    "energy": {"Wh", "kWh", "MWh", "J", "kJ", "MJ"}, "illuminance": {"lx"}, "wind_speed": {"m/s", "km/h", "mph", "kn", "ft/s", "Beaufort"},
    "precipitation": {"mm", "cm", "in"}, "carbon_dioxide": {"ppm"},
}  # fmt: skip
STATE_CLASSES = {
    "water": {"total", "total_increasing"}, "energy": {"total", "total_increasing"}, "duration": {"measurement", "total", "total_increasing"},
}  # fmt: skip
BINARY = {
    "occupancy",
    "moisture",
    "problem",
    "heat",
    "motion",
    "smoke",
    "tamper",
    "battery",
    "connectivity",
    "door",
    "window",
    "opening",
}
ID = re.compile(r"[a-zA-Z0-9_-]+")


class Refused(Exception):
    """Home Assistant would log an error and make no entity."""


def need(condition: Any, why: str) -> None:
    if not condition:
        raise Refused(why)


@dataclass
class Entity:
    """One entity with its newest state; available when all its availability topics say so."""

    config: dict[str, Any]
    device: str
    state: str | None = None
    available: dict[str, bool] = field(default_factory=dict)

    @property
    def shown(self) -> str | None:
        """What the dashboard shows."""
        return self.state if self.available and all(self.available.values()) else "unavailable"


def entities_of(topic: str, body: dict[str, Any]) -> dict[str, Entity]:
    """Return unique_id -> entity of a device discovery message. Raises Refused."""
    prefix, component, object_id, last = topic.split("/")
    need((component, last) == ("device", "config") and ID.fullmatch(object_id), f"topic {topic}")
    device, origin = body.get("device", body.get("dev")), body.get("origin", body.get("o"))
    need(
        isinstance(device, dict) and (device.get("identifiers") or device.get("connections")) and device.get("name"),
        "device",
    )
    need(isinstance(origin, dict) and origin.get("name"), "origin.name is required")
    components = body.get("components", body.get("cmps"))
    need(isinstance(components, dict) and components, "components")
    availability = body.get("availability", [])
    need(isinstance(availability, list) and all(isinstance(a.get("topic"), str) for a in availability), "availability")
    need(body.get("availability_mode", "latest") in ("all", "any", "latest"), "availability_mode")
    need(body.get("qos", 0) in (0, 1, 2), "qos")
    found: dict[str, Entity] = {}
    for key, c in components.items():
        need(ID.fullmatch(key), f"component id {key!r}")
        _check(c)
        need(c["unique_id"] not in found, f"unique_id {c['unique_id']} twice")
        merged = {"availability": availability, "availability_mode": body.get("availability_mode", "latest"), **c}
        found[c["unique_id"]] = Entity(
            merged, device["name"], available={a["topic"]: False for a in merged["availability"]}
        )
    return found


def _check(c: dict[str, Any]) -> None:
    platform = c.get("platform", c.get("p"))
    need(platform in ("sensor", "binary_sensor"), f"platform {platform}")
    need(isinstance(c.get("unique_id"), str), "unique_id is required")
    need(isinstance(c.get("state_topic"), str) and not re.search(r"[+#]", c["state_topic"]), "state_topic is required")
    need("object_id" not in c, "object_id has gone")
    need(c.get("entity_category") in (None, "diagnostic"), "entity_category: a sensor is no config")
    need(isinstance(c.get("expire_after", 0), int) and c.get("expire_after", 0) >= 0, "expire_after")
    kind, unit, state_class = c.get("device_class"), c.get("unit_of_measurement"), c.get("state_class")
    if platform == "binary_sensor":
        need(kind is None or kind in BINARY, f"device_class {kind}")
        need(unit is None and state_class is None, "a binary sensor has no unit and no state_class")
        return
    need(kind is None or kind in UNITS, f"device_class {kind}")
    need(kind is None or unit in UNITS[kind], f"unit {unit!r} is not of device_class {kind}")
    need(
        state_class in (None, "measurement", "total", "total_increasing", "measurement_angle"),
        f"state_class {state_class}",
    )
    need(
        state_class is None or kind is None or state_class in STATE_CLASSES.get(kind, {"measurement"}),
        f"{state_class} with {kind}",
    )
    jinja2.Environment(autoescape=False).from_string(c.get("value_template", ""))


def state_of(config: dict[str, Any], text: str) -> str:
    """Return the state that an entity takes from a payload. Raises Refused. "None" is unknown, of sensors with numbers and binary sensors."""
    values: dict[str, Any] = {"value": text}
    try:
        values["value_json"] = json.loads(text)
    except ValueError:
        pass
    shown = jinja2.Environment(autoescape=False).from_string(config.get("value_template", "{{ value }}")).render(values)
    binary = config.get("platform", config.get("p")) == "binary_sensor"
    numeric = config.get("device_class") or config.get("state_class") or config.get("unit_of_measurement")
    if (binary or numeric) and shown == "None":
        return "unknown"
    if binary:
        need(shown in ("ON", "OFF"), f"payload {shown!r} is neither ON nor OFF")
        return shown.lower()
    if numeric:
        try:
            float(shown)
        except ValueError:
            raise Refused(f"{shown!r} is not a number") from None
    return shown


class HomeAssistant:
    """A consumer on a broker. refused: what it would not take, with the reason."""

    def __init__(self, address: tuple[str, int], prefix: str = "homeassistant") -> None:
        self.entities: dict[str, Entity] = {}
        self.refused: list[str] = []
        self.configs = 0
        self._fences: set[str] = set()
        self._prefix = prefix
        self._by_device: dict[str, set[str]] = {}
        self._news = threading.Condition()
        ready = threading.Event()
        c = self._client = paho.Client(CallbackAPIVersion.VERSION2, "home-assistant")
        c.on_connect = lambda *_: c.subscribe([(f"{prefix}/+/+/config", 1), ("fence/+", 1)])
        c.on_subscribe = lambda *_: ready.set()
        c.on_message = self._arrived
        c.connect(*address)
        c.loop_start()
        assert ready.wait(60)

    def say_online(self) -> None:
        """Tell that we have started, as Home Assistant does."""
        self._client.publish(f"{self._prefix}/status", "online", 1)

    def catch_up(self) -> None:
        """Return when all has arrived here that the broker had acknowledged to others before the call: it delivers in order."""
        fence = f"fence/{secrets.token_hex(8)}"
        self._client.publish(fence, b"", 1)
        self.wait(lambda: fence in self._fences)

    def _arrived(self, client: paho.Client, _data: Any, m: paho.MQTTMessage) -> None:
        with self._news:
            if m.topic.startswith("fence/"):
                self._fences.add(m.topic)
            elif m.topic.startswith(f"{self._prefix}/") and m.topic.endswith("/config"):
                self._configured(client, m.topic, bytes(m.payload))
            else:
                self._state(m.topic, bytes(m.payload))
            self._news.notify_all()

    def _configured(self, client: paho.Client, topic: str, payload: bytes) -> None:
        self.configs += 1
        for key in self._by_device.pop(topic, set()):
            if not payload:
                self.entities.pop(key, None)
        if not payload:
            return
        try:
            found = entities_of(topic, json.loads(payload))
            others = {key for t, keys in self._by_device.items() if t != topic for key in keys}
            need(not others & set(found), "unique_id of another device")
        except (Refused, ValueError, KeyError, AttributeError, jinja2.TemplateError) as e:
            self.refused.append(f"{topic}: {type(e).__name__} {e}")
            return
        self._by_device[topic] = set(found)
        topics = set()
        for key, entity in found.items():
            old = self.entities.get(key)
            if old is not None:
                entity.state, entity.available = (
                    old.state,
                    {**entity.available, **{t: a for t, a in old.available.items() if t in entity.available}},
                )
            self.entities[key] = entity
            topics |= {entity.config["state_topic"], *entity.available}
        for t in sorted(topics):
            client.subscribe(t, 1)

    def _state(self, topic: str, payload: bytes) -> None:
        text = payload.decode()
        for entity in self.entities.values():
            if topic in entity.available:
                entity.available[topic] = text == "online"
            if topic == entity.config["state_topic"]:
                entity.state = self._render(entity.config, text)

    def _render(self, config: dict[str, Any], text: str) -> str | None:
        try:
            return state_of(config, text)
        except Refused as e:
            self.refused.append(f"{config['unique_id']}: {e}")
            return None

    def wait(self, enough: Callable[[], Any], timeout: float = 20.0) -> None:
        """Wait until enough() is true."""
        with self._news:
            if not self._news.wait_for(enough, timeout):
                raise AssertionError(f"not in {timeout} s; refused {self.refused}, have {sorted(self.entities)}")

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()

"""A backend for tests and the demo: subscribes to a gateway's MQTT tree and keeps the books of what arrived.

It reads only what the city gets, SenML packs and alert topics, and knows nothing of the gateway's inside. Values are turned
back into the wire's raw integers, so that they can be compared with what the nodes persisted, digit by digit.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as mqtt
from motewire.quantities import EXPONENT, KEY, OFFSET, QUANTITIES, UNIT
from paho.mqtt.enums import CallbackAPIVersion

# SenML primary unit (RFC 8428, RFC 8798) -> unit of our registry: factor and summand
_FROM_PRIMARY: dict[tuple[str, str], tuple[float, float]] = {
    ("kg/m3", "ug/m3"): (1e9, 0.0),
    ("Pa", "hPa"): (1e-2, 0.0),
    ("Pa", "bar"): (1e-5, 0.0),
    ("m3", "l"): (1e3, 0.0),
    ("m3/s", "l/h"): (3.6e6, 0.0),
    ("m", "mm"): (1e3, 0.0),
    ("/", "%"): (1e2, 0.0),
    ("/", "1"): (1.0, 0.0),
    ("/", "ppb"): (1e9, 0.0),
    ("rad", "deg"): (57.29577951308232, 0.0),
    ("1/m3", "1/cm3"): (1e-6, 0.0),
    ("dBW", "dBm"): (1.0, 30.0),
    ("T", "uT"): (1e6, 0.0),
    ("", "1/cm3"): (1.0, 0.0),  # SenML has no unit for it
}
# gases travel as ppb and are told in ug/m3 at 293 K and 101.3 kPa (from molar masses)
_UG_M3_PER_PPB = {"no2": 1.9130, "o3": 1.9959}
_BY_KEY = {str(row[KEY]): (str(row[UNIT]), int(row[EXPONENT]), int(row[OFFSET])) for row in QUANTITIES}

LADDER = "ladder"
Reading = tuple[str, str, int]  # node name, quantity, Unix seconds


def raw_of(quantity: str, value: float, unit: str) -> int:
    """Return the raw integer behind a SenML value. Raises KeyError for a quantity or unit nobody told us of."""
    own_unit, exponent, offset = _BY_KEY[quantity]
    if quantity in _UG_M3_PER_PPB and unit == "kg/m3":
        factor, summand = 1e9 / _UG_M3_PER_PPB[quantity], 0.0
    else:
        factor, summand = (1.0, 0.0) if unit == own_unit else _FROM_PRIMARY[unit, own_unit]
    return round((value * factor + summand) / 10.0**exponent) - offset


@dataclass
class Books:
    """What arrived. `repeats` counts readings that came again, `resent` those among them whose pack came again under its id, as
    at-least-once permits; `strange` lists what could not be read.

    Per node: `status` the newest value of each health key, `ladders` every [level, [ids left out]] told, `exceptions` last words,
    `faults` quantities with a fault alarm. `acks`: steps of commands, in order.
    """

    readings: dict[Reading, int] = field(default_factory=dict)
    repeats: int = 0
    resent: int = 0
    status: dict[str, dict[str, Any]] = field(default_factory=dict)
    ladders: dict[str, list[tuple[int, tuple[int, ...]]]] = field(default_factory=dict)
    exceptions: dict[str, list[str]] = field(default_factory=dict)
    faults: dict[str, set[str]] = field(default_factory=dict)
    _packs_seen: set[tuple[str, str]] = field(default_factory=set)
    packs: int = 0
    messages: int = 0
    alarms: int = 0
    active_alarms: dict[str, dict[str, Any]] = field(default_factory=dict)
    rejects: dict[str, int] = field(default_factory=dict)
    acks: list[dict[str, Any]] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)

    def take(self, topic: str, payload: bytes, root: str) -> None:
        """Enter one message of the tree below `root`; what cannot be read is kept in `strange`."""
        self.messages += 1
        parts = topic.split("/")
        if len(parts) < 5 or parts[:2] != [root, "v1"]:
            return
        try:
            match parts[2], parts[4]:
                case "node", "senml":
                    self._pack(parts[3], json.loads(payload))
                case "node", "alert":
                    self._alert(parts[3], parts[5], payload)
                case "node", "event":
                    self._event(parts[3], json.loads(payload))
                case "node", "ack":
                    self.acks.append(json.loads(payload))
                case "gw", "reject":
                    reason = json.loads(payload)["reason"]
                    self.rejects[reason] = self.rejects.get(reason, 0) + 1
        except (ValueError, KeyError, TypeError, IndexError) as e:
            self.strange.append(f"{topic}: {type(e).__name__}: {e}")

    def _pack(self, node: str, records: list[dict[str, Any]]) -> None:
        """Resolve base fields as RFC 8428 section 4.6 says."""
        self.packs += 1
        base_name, base_time, base_unit = "", 0.0, ""
        mark = records[0].get("id") if records else None
        again = mark is not None and (node, mark) in self._packs_seen
        if mark is not None:
            self._packs_seen.add((node, mark))
        for record in records:
            base_name = record.get("bn", base_name)
            base_time = record.get("bt", base_time)
            base_unit = record.get("bu", base_unit)
            if "v" not in record:
                continue
            quantity = (base_name + record.get("n", "")).rsplit(":", 1)[-1]
            key = (node, quantity, round(base_time + record.get("t", 0)))
            if key in self.readings:
                self.repeats += 1
                self.resent += again
            self.readings[key] = raw_of(quantity, record["v"], record.get("u", base_unit))

    def _alert(self, node: str, rule: str, payload: bytes) -> None:
        name = f"{node}/{rule}"
        if payload:
            if name not in self.active_alarms:
                self.alarms += 1
            alarm = self.active_alarms[name] = json.loads(payload)
            if alarm.get("severity") == "fault":
                self.faults.setdefault(node, set()).add(alarm["quantity"])
        else:
            self.active_alarms.pop(name, None)

    def _event(self, node: str, body: dict[str, Any]) -> None:
        if body["event"] not in ("status", "reboot"):
            return
        known = self.status.setdefault(node, {})
        known.update(
            {k: v for k, v in body.items() if k not in ("id", "event", "t", "rx", "stale", *body.get("stale", ()))}
        )
        if LADDER in body:
            level, *ids = body[LADDER]
            self.ladders.setdefault(node, []).append((int(level), tuple(ids)))
        if "exception" in body:
            self.exceptions.setdefault(node, []).append(body["exception"])

    def ladder(self, node: str) -> tuple[int, tuple[int, ...]]:
        """What the node said last of its crash ladder: (level, quantity ids left out); (0, ()) when it never spoke of it."""
        return self.ladders[node][-1] if node in self.ladders else (0, ())


class Collector:
    """Subscribes to `<root>/#` on HOST:PORT with QoS 1 and keeps `books`; on_message(topic, payload) sees every message.

    What the broker had retained before the subscription is not news and is left out. `offline` is set when the gateway says
    good-bye: nothing of it follows then.
    """

    def __init__(self, host: str, port: int, root: str = "city") -> None:
        self.books = Books()
        self.offline = threading.Event()
        self.on_message: Callable[[str, bytes], None] = lambda _topic, _payload: None
        self._root, self._host, self._port = root, host, port
        self._ready = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"citymote-collector-{id(self):x}")
        self._client.on_connect = self._connected
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._arrived

    @property
    def readings(self) -> dict[Reading, int]:
        """Raw value by (node name, quantity, Unix seconds)."""
        return self.books.readings

    @property
    def repeats(self) -> int:
        """Readings that came more than once."""
        return self.books.repeats

    @property
    def alarms(self) -> int:
        """Alarms raised."""
        return self.books.alarms

    @property
    def rejects(self) -> dict[str, int]:
        """Refusals the gateway published, by reason."""
        return self.books.rejects

    def start(self, timeout: float = 10.0) -> None:
        """Connect and wait until the subscription stands. Raises OSError or TimeoutError."""
        self._client.connect(self._host, self._port)
        self._client.loop_start()
        if not self._ready.wait(timeout):
            self.stop()
            raise TimeoutError(f"broker {self._host}:{self._port} does not confirm a subscription")

    def stop(self) -> None:
        """Leave the broker."""
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe(f"{self._root}/#", qos=1)

    def _arrived(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        if message.retain:
            return
        payload = bytes(message.payload)
        self.books.take(message.topic, payload, self._root)
        if payload == b"offline" and message.topic.startswith(f"{self._root}/v1/gw/"):
            self.offline.set()
        self.on_message(message.topic, payload)

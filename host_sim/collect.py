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
}
_BY_KEY = {row[KEY]: row for row in QUANTITIES}

Reading = tuple[str, str, int]  # node name, quantity, Unix seconds


def raw_of(quantity: str, value: float, unit: str) -> int:
    """Return the raw integer behind a SenML value. Raises KeyError for a quantity or unit nobody told us of."""
    row = _BY_KEY[quantity]
    factor, summand = (1.0, 0.0) if unit == row[UNIT] else _FROM_PRIMARY[unit, row[UNIT]]
    return round((value * factor + summand) / 10.0 ** row[EXPONENT]) - row[OFFSET]


@dataclass(frozen=True, slots=True)
class Arrival:
    """One MQTT message as the city sees it. `retained` tells a stored message from a live one."""

    topic: str
    payload: bytes
    retained: bool


@dataclass
class Books:
    """What arrived. `repeats` counts readings that came again under the same id; `strange` lists what could not be read."""

    readings: dict[Reading, int] = field(default_factory=dict)
    repeats: int = 0
    packs: int = 0
    messages: int = 0
    alarms: int = 0
    active_alarms: dict[str, dict[str, Any]] = field(default_factory=dict)
    strange: list[str] = field(default_factory=list)

    def take(self, root: str, arrival: Arrival) -> None:
        """Enter one message."""
        self.messages += 1
        parts = arrival.topic.split("/")
        if len(parts) < 5 or parts[:3] != [root, "v1", "node"]:
            return
        try:
            if parts[4] == "senml":
                self._pack(parts[3], json.loads(arrival.payload))
            elif parts[4] == "alert" and not arrival.retained:
                self._alert(f"{parts[3]}/{parts[5]}", arrival.payload)
        except (ValueError, KeyError, TypeError, IndexError) as e:
            self.strange.append(f"{arrival.topic}: {type(e).__name__}: {e}")

    def _pack(self, node: str, records: list[dict[str, Any]]) -> None:
        """Resolve base fields as RFC 8428 section 4.6 says."""
        self.packs += 1
        base_name, base_time, base_unit = "", 0.0, ""
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
            self.readings[key] = raw_of(quantity, record["v"], record.get("u", base_unit))

    def _alert(self, name: str, payload: bytes) -> None:
        if payload:
            if name not in self.active_alarms:
                self.alarms += 1
            self.active_alarms[name] = json.loads(payload)
        else:
            self.active_alarms.pop(name, None)


class Collector:
    """Subscribes to `<root>/#` on HOST:PORT with QoS 1 and keeps `books`; on_message sees every arrival.

    `offline` is set when the gateway says good-bye: nothing of it follows then.
    """

    def __init__(self, host: str, port: int, root: str = "city", on_message: Callable[[Arrival], None] | None = None):
        self.books = Books()
        self.offline = threading.Event()
        self._root, self._host, self._port = root, host, port
        self._on_message = on_message
        self._ready = threading.Event()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"citymote-collector-{id(self):x}")
        self._client.on_connect = self._connected
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._arrived

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
        arrival = Arrival(message.topic, message.payload, message.retain)
        self.books.take(self._root, arrival)
        if message.topic.startswith(f"{self._root}/v1/gw/") and message.topic.endswith("/state"):
            if message.payload == b"offline" and not message.retain:
                self.offline.set()
        if self._on_message is not None:
            self._on_message(arrival)

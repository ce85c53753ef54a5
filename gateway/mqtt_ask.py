"""What a broker can do, asked with MQTT 5: only its CONNACK says whether it keeps retained messages, and how long a packet may be.

The gateway itself speaks 3.1.1, where a broker that keeps nothing can only close the connection. Blocking: for a thread, or a verb.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gateway import tls
from gateway.config import Broker
from gateway.credentials import read_secret

ASK_S = 5.0
NO_RETAIN_NEXT = "the gateway's retained topics are what late subscribers get: let the broker keep them (mosquitto: retain_available true)"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a broker says of itself. refused: the reason why it does not let us in, "" when it does. longest: bytes of a packet, None without a limit."""

    refused: str = ""
    retains: bool = True
    longest: int | None = None


def ask(broker: Broker, seconds: float = ASK_S) -> Answer | None:
    """Connect, read what the broker can do, and leave; None when it does not speak MQTT 5. Raises OSError or ValueError: it is not to be reached."""
    found: list[Answer] = []

    def connected(_c: object, _d: object, _flags: object, code: ReasonCode, props: Properties | None) -> None:
        body = props.json() if props is not None else {}
        found.append(
            Answer(
                str(code) if code.is_failure else "", body.get("RetainAvailable", 1) != 0, body.get("MaximumPacketSize")
            )
        )

    c = paho.Client(CallbackAPIVersion.VERSION2, f"citymote-ask-{secrets.token_hex(4)}", protocol=paho.MQTTv5)
    c.on_connect = connected
    c.connect_timeout = seconds
    if broker.username is not None:
        c.username_pw_set(broker.username, read_secret(broker.password_file) if broker.password_file else None)
    if broker.ca_file is not None:
        c.tls_set_context(tls.context(broker.ca_file, broker.cert_file, broker.key_file))
    c.connect(broker.host, broker.port, keepalive=10)
    deadline = time.monotonic() + seconds
    try:
        while not found and time.monotonic() < deadline:
            if c.loop(0.1) != paho.MQTT_ERR_SUCCESS:
                break
    finally:
        c.disconnect()
        c.loop(0.1)
    # a broker of 3.1.1 alone answers with "unsupported protocol version", or closes
    return None if not found or "rotocol" in found[0].refused else found[0]

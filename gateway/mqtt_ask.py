"""What a broker can do, asked with MQTT 5: only its CONNACK says whether it keeps retained messages, and how long a packet may be.

The gateway itself speaks 3.1.1, where a broker that keeps nothing can only close the connection. Blocking: for a thread, or a verb.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
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


class NoMqtt(OSError):
    """What answers at a broker's address is no MQTT broker, or not by this way (plain where it wants TLS)."""


def ask(broker: Broker, seconds: float | None = None) -> Answer | None:
    """Connect, read what the broker can do, and leave; None when it is a broker that does not speak MQTT 5, and lets us in with 3.1.1.

    seconds: for each of the two, ASK_S by default. Raises NoMqtt; another OSError (TimeoutError: no answer) or ValueError: it is not to be
    reached.
    """
    seconds = ASK_S if seconds is None else seconds
    try:
        answer = _connect(broker, paho.MQTTv5, seconds)
    except (NoMqtt, TimeoutError):
        answer = None  # a broker of 3.1.1 alone may close, or be silent; so may what is none
    if answer is not None and "rotocol" not in answer.refused:  # or it answers with "unsupported protocol version"
        return answer
    answer = _connect(broker, paho.MQTTv311, seconds)
    return answer if answer.refused else None


def _connect(broker: Broker, protocol: MQTTProtocolVersion, seconds: float) -> Answer:
    """Return what a CONNACK holds. Raises as ask()."""
    found: list[Answer] = []

    def connected(_c: object, _d: object, _flags: object, code: ReasonCode, props: Properties | None) -> None:
        body = props.json() if props is not None else {}
        found.append(
            Answer(
                str(code) if code.is_failure else "", body.get("RetainAvailable", 1) != 0, body.get("MaximumPacketSize")
            )
        )

    name = f"citymote-ask-{secrets.token_hex(4)}"
    c = paho.Client(CallbackAPIVersion.VERSION2, name, protocol=protocol, reconnect_on_failure=False)
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
            code = c.loop(0.1)
            if not found and code == paho.MQTT_ERR_CONN_LOST:
                raise NoMqtt("it closes the connection without an answer")
            if not found and code != paho.MQTT_ERR_SUCCESS:
                raise NoMqtt(f"its answer is no MQTT ({paho.error_string(code)})")
    except OSError:
        raise
    except Exception as e:  # of paho's decoder, which takes any bytes for a packet
        raise NoMqtt(f"its answer is no MQTT ({type(e).__name__})") from e
    finally:
        if found:
            c.disconnect()
            c.loop(0.1)
        elif (wire := c.socket()) is not None:
            wire.close()
    if not found:
        raise TimeoutError(f"it takes the connection and sends no CONNACK in {seconds:g} s")
    return found[0]

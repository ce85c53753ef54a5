"""[link.NAME]: where frames come from. A new kind of link is a dataclass and a branch of `link`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.config.broker import BROKER_KEYS, Broker, broker
from gateway.config.table import Table


@dataclass(frozen=True, slots=True)
class UdpForwarderConfig:
    """Semtech UDP packet forwarders. allow: their EUIs (16 hex); empty refuses all but loopback. collect_ms: how long to
    wait for copies through other receivers; a PULL_DATA ends it at once. power_dbm: of downlinks (ERP limit 14 dBm below 869.4 MHz)."""

    name: str
    host: str
    port: int
    allow: frozenset[str] = frozenset()
    collect_ms: int = 60
    power_dbm: int = 14


@dataclass(frozen=True, slots=True)
class MqttLinkConfig:
    """WiFi nodes through a broker: frames on <root>/v1/up/<id>, downlinks on <root>/v1/down/<id>."""

    name: str
    broker: Broker
    root: str = "citymote"


def link(name: str, t: Table) -> UdpForwarderConfig | MqttLinkConfig:
    """Read one link. Raises ConfigError."""
    if t.choice("kind", ("udp-forwarder", "mqtt")) == "mqtt":
        t.only((*BROKER_KEYS, "root"))
        return MqttLinkConfig(name, broker(t), t.name("root", "citymote"))
    t.only(("kind", "bind", "allow", "collect_ms", "power_dbm"))
    host, port = t.address("bind", None, 0)
    allow = t.get("allow", list, [], "a list of EUIs")
    for eui in allow:
        if not isinstance(eui, str) or not re.fullmatch(r"[0-9a-fA-F]{16}", eui):
            raise t.error("allow", f"holds {eui!r}", 'write each EUI as 16 hex digits, for example "aa555a0000000001"')
    return UdpForwarderConfig(
        name,
        host,
        port,
        frozenset(e.lower() for e in allow),
        t.number("collect_ms", 60, 0, 500),
        t.number("power_dbm", 14, -9, 27),
    )

"""[link.NAME]: where frames come from. A new kind of link is a dataclass and a branch of `link`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.config.broker import BROKER_KEYS, Broker, broker
from gateway.config.table import Table

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
ANYWHERE = "*"


@dataclass(frozen=True, slots=True)
class UdpForwarderConfig:
    """Semtech UDP packet forwarders. allow: their EUIs (16 hex); empty refuses all but loopback. pins: the addresses or
    networks that a forwarder's datagrams must come from; one without an entry may come from anywhere. collect_ms: how
    long to wait for copies through other receivers; a PULL_DATA ends it at once. power_dbm: of downlinks (ERP limit 14
    dBm below 869.4 MHz)."""

    name: str
    host: str
    port: int
    allow: frozenset[str] = frozenset()
    collect_ms: int = 60
    power_dbm: int = 14
    pins: Mapping[str, tuple[Network, ...]] = field(default_factory=dict)

    def may_come_from(self, eui: str, host: str) -> bool:
        """True when a datagram of this EUI may have this source address (as the socket reports it; IPv4 also mapped
        into IPv6)."""
        pins = self.pins.get(eui)
        if pins is None:
            return True
        address = ipaddress.ip_address(host.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in pins)


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
    pins = _allowed(t)
    return UdpForwarderConfig(
        name,
        host,
        port,
        frozenset(pins),
        t.number("collect_ms", 60, 0, 500),
        t.number("power_dbm", 14, -9, 27),
        {eui: networks for eui, networks in pins.items() if networks is not None},
    )


def _allowed(t: Table) -> dict[str, tuple[Network, ...] | None]:
    """Return the EUIs of `allow`, each with the networks it must come from; None: from anywhere. Raises ConfigError."""
    allow = t.get("allow", (list, dict), [], 'a list of EUIs, or a table { EUI = "address" }')
    found: dict[str, tuple[Network, ...] | None] = {}
    for eui in allow:
        if not isinstance(eui, str) or not re.fullmatch(r"[0-9a-fA-F]{16}", eui):
            raise t.error("allow", f"holds {eui!r}", 'write each EUI as 16 hex digits, for example "aa555a0000000001"')
        if eui.lower() in found:
            raise t.error("allow", f"holds {eui!r} twice", "leave one of them out")
        found[eui.lower()] = _networks(t, eui, allow[eui]) if isinstance(allow, dict) else None
    return found


def _networks(t: Table, eui: str, value: object) -> tuple[Network, ...] | None:
    if value == ANYWHERE:
        return None
    places = value if isinstance(value, list) and value else [value]
    try:
        return tuple(ipaddress.ip_network(place if isinstance(place, str) else "") for place in places)
    except ValueError:
        raise t.error(
            "allow", f"has {value!r} for {eui}",
            f'write the address it sends from, "10.0.0.7", a network, "10.0.0.0/24", a list of them, or "{ANYWHERE}"',
        ) from None  # fmt: skip

"""Configuration and node registry: TOML files to frozen dataclasses. Every complaint names the file, the line, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.config.broker import Broker
from gateway.config.commands import CommandsConfig, commands
from gateway.config.links import MqttLinkConfig, UdpForwarderConfig, link
from gateway.config.nodes import load_registry
from gateway.config.outputs import MqttOutputConfig, output
from gateway.config.table import ConfigError, Table, level, read
from gateway.core.model import Node

CLOCKS = ("host", "forwarder")


@dataclass(frozen=True, slots=True)
class Config:
    """A whole gateway. Paths are absolute. clock: "host", or "forwarder" for a box that learns the time from its receivers."""

    file: Path
    id: str
    store: Path
    registry: Path
    clock: str = "host"
    drain_s: float = 30.0
    links: tuple[UdpForwarderConfig | MqttLinkConfig, ...] = ()
    outputs: tuple[MqttOutputConfig, ...] = ()
    nodes: Mapping[int, Node] = field(default_factory=dict)
    commands: CommandsConfig | None = None


def load(file: Path) -> Config:
    """Read a gateway configuration and the registry it names. Raises ConfigError."""
    file = Path(file).resolve()
    text, data = read(file, "configuration")
    top = Table(file, text, "", data)
    top.only(("gateway", "link", "output", "commands"))
    g = Table(file, text, "gateway", data.get("gateway", {}))
    g.only(("id", "store", "registry", "clock", "drain_s"))
    links = tuple(link(level(t, name), t) for name, t in top.tables("link").items())
    outputs = tuple(output(level(t, name), t) for name, t in top.tables("output").items())
    if not links:
        raise ConfigError(
            f"{file}: no link, so no frame can arrive",
            'add [link.lora] with kind = "udp-forwarder" or [link.wifi] with kind = "mqtt"',
        )
    if not outputs:
        raise ConfigError(
            f"{file}: no output, so nobody is told",
            'add [output.city] with kind = "mqtt" and broker = "127.0.0.1:1883"',
        )
    clock = g.choice("clock", CLOCKS, "host")
    if clock == "forwarder" and not any(isinstance(link, UdpForwarderConfig) for link in links):
        raise g.error("clock", 'is "forwarder", but there is no udp-forwarder link', 'set clock = "host"')
    store, registry = g.path("store", "gateway.db"), g.path("registry", "nodes.toml")
    assert store is not None and registry is not None
    return Config(
        file,
        g.name("id", "gw-1"),
        store,
        registry,
        clock,
        g.number("drain_s", 30, 0, 3600),
        links,
        outputs,
        load_registry(registry),
        commands(Table(file, text, "commands", data["commands"]), outputs) if "commands" in data else None,
    )


__all__ = [
    "Broker",
    "CommandsConfig",
    "Config",
    "ConfigError",
    "MqttLinkConfig",
    "MqttOutputConfig",
    "UdpForwarderConfig",
    "load",
    "load_registry",
]

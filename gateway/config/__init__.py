"""Configuration and node registry: TOML files to frozen dataclasses. Every complaint names the file, the line, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.config.broker import Broker
from gateway.config.commands import CommandsConfig, commands
from gateway.config.links import MqttLinkConfig, UdpForwarderConfig, link
from gateway.config.nodes import load_registry
from gateway.config.outputs import (
    FilesOutputConfig,
    Filter,
    MqttOutputConfig,
    NgsiHttpOutputConfig,
    OutputConfig,
    output,
)
from gateway.config.rules import RulesConfig, load_rules
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
    outputs: tuple[OutputConfig, ...] = ()
    nodes: Mapping[int, Node] = field(default_factory=dict)
    commands: CommandsConfig | None = None
    rules: RulesConfig | None = None

    def asked_through(self) -> MqttOutputConfig | None:
        """The output over whose broker commands come in, None without [commands]."""
        if self.commands is None:
            return None
        name = self.commands.output
        return next(o for o in self.outputs if isinstance(o, MqttOutputConfig) and o.name == name)


def load(file: Path) -> Config:
    """Read a gateway configuration and the registry it names. Raises ConfigError."""
    file = Path(file).resolve()
    text, data = read(file, "configuration")
    top = Table(file, text, "", data)
    top.only(("gateway", "link", "output", "commands"))
    g = Table(file, text, "gateway", data.get("gateway", {}))
    g.only(("id", "store", "registry", "clock", "drain_s", "rules"))
    links = tuple(link(level(t, name), t) for name, t in top.tables("link").items())
    store, registry = g.path("store", "gateway.db"), g.path("registry", "nodes.toml")
    assert store is not None and registry is not None
    nodes = load_registry(registry)
    outputs = tuple(output(level(t, name), t, nodes) for name, t in top.tables("output").items())
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
    rules = g.path("rules", None)
    return Config(
        file,
        g.name("id", "gw-1"),
        store,
        registry,
        clock,
        g.number("drain_s", 30, 0, 3600),
        links,
        outputs,
        nodes,
        commands(
            Table(file, text, "commands", data["commands"]), [o for o in outputs if isinstance(o, MqttOutputConfig)]
        )
        if "commands" in data
        else None,
        load_rules(rules, nodes) if rules is not None else None,
    )


__all__ = [
    "Broker",
    "CommandsConfig",
    "Config",
    "ConfigError",
    "FilesOutputConfig",
    "Filter",
    "MqttLinkConfig",
    "MqttOutputConfig",
    "NgsiHttpOutputConfig",
    "OutputConfig",
    "RulesConfig",
    "UdpForwarderConfig",
    "load",
    "load_registry",
    "load_rules",
]

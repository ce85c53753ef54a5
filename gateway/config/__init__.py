"""Configuration and node registry: TOML files to frozen dataclasses. Every complaint names the file, the line, and what to do.

A new section is a file here (reader: (name, table) -> frozen dataclass), a line in SECTIONS, a member of Config, and its keys' comments in
manual.py; tests then try every key of it with wrong values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.config.broker import Broker
from gateway.config.commands import CommandsConfig, commands
from gateway.config.filter import Filter
from gateway.config.gateway import GatewayConfig, HttpConfig, LogConfig, gateway, http, log
from gateway.config.links import MqttLinkConfig, UdpForwarderConfig, link
from gateway.config.mistakes import Mistakes
from gateway.config.nodes import load_registry
from gateway.config.outputs import (
    FilesOutputConfig,
    MqttOutputConfig,
    NgsiHttpOutputConfig,
    OutputConfig,
    output,
)
from gateway.config.rules import RulesConfig, load_rules
from gateway.config.seen import Seen, digests
from gateway.config.store import StoreConfig
from gateway.config.store import store as read_store
from gateway.config.table import ConfigError, Table, level, real, too_long
from gateway.core.model import Node


@dataclass(frozen=True, slots=True)
class Section:
    """[name], or [name.NAME] any number of times when `many`. The reader gets (NAME, table, registry, outputs).

    optional: not read, and None, when it is not there.
    """

    name: str
    many: bool
    reader: Callable[[str, Table, Mapping[int, Node], Sequence[OutputConfig]], Any]
    optional: bool = False


SECTIONS = (
    Section("gateway", False, lambda name, t, _nodes, _outputs: gateway(name, t)),
    Section("log", False, lambda name, t, _nodes, _outputs: log(name, t)),
    Section("http", False, lambda name, t, _nodes, _outputs: http(name, t)),
    Section("store", False, lambda _name, t, _nodes, _outputs: read_store(t)),
    Section("link", True, lambda name, t, _nodes, _outputs: link(name, t)),
    Section("output", True, lambda name, t, nodes, _outputs: output(name, t, nodes)),
    Section("commands", False, lambda _name, t, _nodes, outputs: commands(t, _mqtt(outputs)), optional=True),
)


@dataclass(frozen=True, slots=True)
class Config:
    """A whole gateway. Paths are absolute."""

    file: Path
    gateway: GatewayConfig
    log: LogConfig = field(default_factory=LogConfig)
    http: HttpConfig | None = None
    links: tuple[UdpForwarderConfig | MqttLinkConfig, ...] = ()
    outputs: tuple[OutputConfig, ...] = ()
    nodes: Mapping[int, Node] = field(default_factory=dict)
    commands: CommandsConfig | None = None
    rules: RulesConfig | None = None
    keep: StoreConfig = field(default_factory=StoreConfig)
    unsaid: frozenset[int] = frozenset()
    """Nodes whose entry names no visibility: the default holds."""
    seen: Mapping[Path, Seen] = field(default_factory=dict, compare=False)
    """The files it was read from, as they were then."""
    digests: Mapping[str, bytes] = field(default_factory=dict, compare=False)
    """Of each entry of gateway.toml and rules.toml, by section and name."""

    def asked_through(self) -> MqttOutputConfig | None:
        """The output over whose broker commands come in, None without [commands], and while that output is withheld."""
        if self.commands is None:
            return None
        name = self.commands.output
        return next((o for o in self.outputs if isinstance(o, MqttOutputConfig) and o.name == name), None)

    @property
    def id(self) -> str:
        """Name of the gateway, a level of its topics."""
        return self.gateway.id

    @property
    def store(self) -> Path:
        """File of the store."""
        return self.gateway.store


def load(file: Path) -> Config:
    """Read a gateway configuration and the registry it names. Raises ConfigError, whose `more` are all further mistakes."""
    file = real(Path(file))
    book = Mistakes()
    toml = book.toml(file, "configuration")
    if not toml.whole:
        book.close()
    text, data = toml.text, toml.data
    top = Table(file, text, "", data)
    book.read(lambda t: t.only(tuple(s.name for s in SECTIONS)), top)
    unsaid: set[int] = set()
    nodes = load_registry(_registry(top), book, unsaid)
    made: dict[str, list[Any]] = {}
    outputs: list[OutputConfig] = []
    for section in SECTIONS:
        made[section.name] = [
            book.read(
                lambda t, s=section, n=name, o=tuple(outputs): s.reader(level(t, n) if s.many else "", t, nodes, o),
                table,
            )
            for name, table in _tables(section, top, book).items()
            if not toml.hurt(table)
        ]
        outputs = [o for o in made.get("output", []) if o is not None]
    links = made["link"]
    if not links and not toml.broken:
        book.note(_none(top, "link", "no link, so no frame can arrive",
            'add [link.lora] with kind = "udp-forwarder" or [link.wifi] with kind = "mqtt"'))  # fmt: skip
    if not made["output"] and not toml.broken:
        book.note(_none(top, "output", "no output, so nobody is told",
            'add [output.city] with kind = "mqtt" and broker = "127.0.0.1:1883"'))  # fmt: skip
    g = made["gateway"][0] if made["gateway"] else None
    if g is not None and g.clock != "host" and links and not any(isinstance(o, UdpForwarderConfig) for o in links):
        t = Table(file, text, "gateway", data["gateway"])
        book.note(t.error("clock", f'is "{g.clock}", but there is no udp-forwarder link', 'set clock = "host"'))
    where = g.rules if g is not None else _named(top, "rules")
    rules = load_rules(where, nodes, book) if where is not None else None
    book.close(nodes, _registry(top))
    assert g is not None  # or there was a mistake
    asked = made["commands"][0] if made["commands"] else None
    return Config(
        file,
        g,
        made["log"][0],
        made["http"][0],
        tuple(links),
        tuple(outputs),
        nodes,
        asked,
        rules,
        made["store"][0],
        frozenset(unsaid),
        book.seen,
        {**digests(_entries(data)), **({} if rules is None else rules.digests)},
    )


def _entries(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of a configuration: "output.city", "store"."""
    many = {s.name for s in SECTIONS if s.many}
    named = {f"{section}.{name}": table for section in many for name, table in data.get(section, {}).items()}
    return named | {section: table for section, table in data.items() if section not in many}


def _mqtt(outputs: Sequence[OutputConfig]) -> list[MqttOutputConfig]:
    return [o for o in outputs if isinstance(o, MqttOutputConfig)]


def _registry(top: Table) -> Path:
    return _named(top, "registry") or real(top.file.parent / "nodes.toml")


def _named(top: Table, key: str) -> Path | None:
    """Where a file of [gateway] is, even when other keys of it are wrong."""
    g = top.data.get("gateway", {})
    name = g.get(key) if isinstance(g, dict) else None
    if not isinstance(name, str) or "\0" in name:
        return None
    path = real(top.file.parent / name)
    return None if too_long(path) else path


def _tables(section: Section, top: Table, book: Mistakes) -> dict[str, Table]:
    try:
        if section.many:
            return top.tables(section.name)
        if section.optional and section.name not in top.data:
            return {}
        return {"": Table(top.file, top.text, section.name, top.data.get(section.name, {}))}
    except ConfigError as e:
        book.note(e)
        return {"": Table(top.file, top.text, section.name, {})} if not section.many else {}


def _none(top: Table, section: str, text: str, hint: str) -> ConfigError:
    near = {"links": "link", "outputs": "output"}
    if any(near.get(key) == section for key in top.data):
        hint = f"write [{section}.NAME]"
    return ConfigError(f"{top.file}: {text}", hint, top.file, None, section)


__all__ = [
    "SECTIONS",
    "Broker",
    "CommandsConfig",
    "Config",
    "ConfigError",
    "FilesOutputConfig",
    "Filter",
    "GatewayConfig",
    "HttpConfig",
    "LogConfig",
    "Mistakes",
    "MqttLinkConfig",
    "MqttOutputConfig",
    "NgsiHttpOutputConfig",
    "OutputConfig",
    "RulesConfig",
    "Section",
    "StoreConfig",
    "UdpForwarderConfig",
    "load",
    "load_registry",
    "load_rules",
]

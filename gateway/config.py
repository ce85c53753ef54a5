"""Configuration and node registry: TOML files to frozen dataclasses. Every complaint names the file, the line, and what to do."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from gateway.core.model import OPEN, PERSONAL, RESTRICTED, Node

NAME = re.compile(r"[a-z0-9_-]{1,32}")
VISIBILITIES = (OPEN, RESTRICTED, PERSONAL)
CLOCKS = ("host", "forwarder")


class ConfigError(Exception):
    """A file that cannot be used; `hint` says what to do next."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Broker:
    """host:port and how to log in. ca_file switches TLS on; the password is read from its file at every connect."""

    host: str
    port: int
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None


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


@dataclass(frozen=True, slots=True)
class MqttOutputConfig:
    """A destination: broker, topic root, formats, window (messages waiting for PUBACK), visibilities it may see."""

    name: str
    broker: Broker
    root: str = "city"
    formats: tuple[str, ...] = ("native", "senml")
    window: int = 100
    visibility: tuple[str, ...] = VISIBILITIES


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


class _Table:
    """One table of a TOML file with checked access; `where` names it in messages, `line_of` finds keys in the text."""

    def __init__(self, file: Path, text: str, where: str, data: Any, nth: int = 0) -> None:
        self.file, self.text, self.where, self.nth = file, text, where, nth
        if not isinstance(data, dict):
            raise ConfigError(f"{file}: {where} must be a table", f"write [{where}] and its keys below it")
        self.data: dict[str, Any] = data

    def line_of(self, key: str | None) -> int | None:
        """Best guess at the 1-based line of a key below this table's header (the nth of its kind), or of the header."""
        header = re.compile(
            r"\s*\[\[?\s*" + r"\s*\.\s*".join(re.escape(p) for p in self.where.split(".")) + r"\s*\]\]?"
        )
        seen, inside = -1, not self.where
        for number, line in enumerate(self.text.splitlines(), 1):
            if line.lstrip().startswith("["):
                inside = False
                if header.match(line):
                    seen += 1
                    inside = seen == self.nth
                    if inside and key is None:
                        return number
            elif inside and key is not None and re.match(r"\s*[\"']?" + re.escape(key) + r"[\"']?\s*=", line):
                return number
        return None

    def error(self, key: str | None, text: str, hint: str) -> ConfigError:
        line = self.line_of(key)
        place = f"{self.file}:{line}" if line else f"{self.file}"
        name = f"{self.where}.{key}" if key and self.where else key or self.where
        return ConfigError(f"{place}: {name} {text}", hint)

    def only(self, allowed: tuple[str, ...]) -> None:
        """Refuse keys that are not in `allowed`, naming the nearest that is."""
        for key in self.data:
            if key not in allowed:
                near = difflib.get_close_matches(key, allowed, 1, 0.5)
                hint = f"did you mean `{near[0]}`?" if near else "known keys here: " + ", ".join(allowed)
                raise self.error(key, "is not a known key", hint)

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = ..., what: str = "") -> Any:
        """Return a value of the right type; without a default the key must be there."""
        if key not in self.data:
            if default is ...:
                raise self.error(None, f"needs the key `{key}`", f"add {key} = {what or '...'}")
            return default
        value = self.data[key]
        if not isinstance(value, kind) or isinstance(value, bool) and kind is not bool:
            raise self.error(key, f"must be {what or kind}, not {value!r}", f"write {key} = {what or '...'}")
        return value

    def number(self, key: str, default: int, low: int, high: int) -> int:
        value = self.get(key, int, default, f"a whole number {low}..{high}")
        if not low <= value <= high:
            raise self.error(key, f"is {value}", f"choose {low}..{high}")
        return value

    def name(self, key: str, default: Any = ...) -> str:
        value = self.get(key, str, default, '"a-name"')
        if not NAME.fullmatch(value):
            raise self.error(key, f"is {value!r}, it becomes a topic level", "use 1 to 32 of a-z 0-9 _ -")
        return value

    def choice(self, key: str, allowed: tuple[str, ...], default: Any = ...) -> str:
        value = self.get(key, str, default, " or ".join(f'"{a}"' for a in allowed))
        if value not in allowed:
            near = difflib.get_close_matches(value, allowed, 1, 0.5)
            raise self.error(
                key, f"is {value!r}", f"did you mean `{near[0]}`?" if near else "choose from " + ", ".join(allowed)
            )
        return value

    def choices(self, key: str, allowed: tuple[str, ...], default: tuple[str, ...]) -> tuple[str, ...]:
        values = self.get(key, list, list(default), "a list of " + ", ".join(allowed))
        for value in values:
            if value not in allowed:
                near = difflib.get_close_matches(str(value), allowed, 1, 0.5)
                hint = f"did you mean `{near[0]}`?" if near else "choose from " + ", ".join(allowed)
                raise self.error(key, f"holds {value!r}", hint)
        if not values:
            raise self.error(key, "is empty", "choose from " + ", ".join(allowed))
        return tuple(dict.fromkeys(values))

    def address(self, key: str, default_port: int | None, lowest: int = 1) -> tuple[str, int]:
        value = self.get(key, str, what=f'"127.0.0.1:{default_port or 1700}"')
        host, colon, port = value.rpartition(":")
        if not colon and default_port:
            host, port = value, str(default_port)
        if not host or not port.isascii() or not port.isdigit() or not lowest <= int(port) <= 65535:
            raise self.error(key, f"is {value!r}", f'write host:port, for example "127.0.0.1:{default_port or 1700}"')
        return host.strip("[]"), int(port)

    def path(self, key: str, default: Any = ...) -> Path | None:
        value = self.get(key, str, default, '"a/file"')
        return None if value is None else (self.file.parent / value).resolve()

    def tables(self, key: str) -> dict[str, _Table]:
        """Return the sub-tables [key.NAME]."""
        value = self.data.get(key, {})
        if not isinstance(value, dict):
            raise self.error(key, "must be tables", f"write [{key}.NAME]")
        return {name: _Table(self.file, self.text, f"{key}.{name}", data) for name, data in value.items()}


def _read(file: Path, what: str) -> tuple[str, dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{what} {file} does not exist", "check the path") from None
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(
            f"{what} {file} cannot be read: {getattr(e, 'strerror', None) or 'not UTF-8'}", "check its permissions"
        ) from e
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{file}: not TOML: {e}", "text values need quotes; a table starts with [name]") from e


def _broker(t: _Table) -> Broker:
    host, port = t.address("broker", 1883)
    password, ca = t.path("password_file", None), t.path("ca_file", None)
    for key, path in (("password_file", password), ("ca_file", ca)):
        if path is not None and not path.is_file():
            raise t.error(key, f"names {path}, which is not a file", "check the path")
    return Broker(host, port, t.get("username", str, None, '"a-user"'), password, ca)


_BROKER_KEYS = ("kind", "broker", "username", "password_file", "ca_file")


def _link(name: str, t: _Table) -> UdpForwarderConfig | MqttLinkConfig:
    if t.choice("kind", ("udp-forwarder", "mqtt")) == "mqtt":
        t.only((*_BROKER_KEYS, "root"))
        return MqttLinkConfig(name, _broker(t), t.name("root", "citymote"))
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


def _output(name: str, t: _Table) -> MqttOutputConfig:
    from gateway.outputs import FORMATS

    t.choice("kind", ("mqtt",))
    t.only((*_BROKER_KEYS, "root", "formats", "window", "visibility"))
    known = tuple(FORMATS)
    return MqttOutputConfig(
        name,
        _broker(t),
        t.name("root", "city"),
        t.choices("formats", known, ("native", "senml")),
        t.number("window", 100, 1, 10_000),
        t.choices("visibility", VISIBILITIES, VISIBILITIES),
    )


def load(file: Path) -> Config:
    """Read a gateway configuration and the registry it names. Raises ConfigError."""
    file = Path(file).resolve()
    text, data = _read(file, "configuration")
    top = _Table(file, text, "", data)
    top.only(("gateway", "link", "output"))
    g = _Table(file, text, "gateway", data.get("gateway", {}))
    g.only(("id", "store", "registry", "clock", "drain_s"))
    links = tuple(_link(_level(t, name), t) for name, t in top.tables("link").items())
    outputs = tuple(_output(_level(t, name), t) for name, t in top.tables("output").items())
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
    )


def _level(t: _Table, name: str) -> str:
    if not NAME.fullmatch(name):
        raise t.error(None, "has a name that does not fit", "use 1 to 32 of a-z 0-9 _ -")
    return name


_NODE_KEYS = tuple(f.name for f in fields(Node))


def load_registry(file: Path) -> dict[int, Node]:
    """Read nodes.toml. Raises ConfigError naming the entry; a key is never quoted in a message."""
    text, data = _read(file, "registry")
    _Table(file, text, "", data).only(("node",))
    entries = data.get("node", [])
    if not isinstance(entries, list):
        raise ConfigError(f"{file}: node must be a list of tables", "write [[node]] before each node")
    nodes: dict[int, Node] = {}
    names: dict[str, int] = {}
    for nth, entry in enumerate(entries):
        t = _Table(file, text, "node", entry, nth)
        node = _node(t)
        if node.id in nodes:
            raise t.error("id", f"{node.id} is taken by {nodes[node.id].name!r}", "give every node its own id")
        if node.name in names:
            raise t.error("name", f"{node.name!r} is taken by node {names[node.name]}", "give every node its own name")
        nodes[node.id], names[node.name] = node, node.id
    return nodes


def _node(t: _Table) -> Node:
    t.only(_NODE_KEYS)
    number = t.get("id", int, what="a number")
    if not 0 < number < 0xFFFFFFFF or number == 0xFFFF:
        raise t.error("id", f"is {number}", "choose 1..4294967294, but not 65535 (reserved)")
    key = t.get("key", str, what='"32 hex digits"')
    if not re.fullmatch(r"[0-9a-fA-F]{32}", key):
        raise t.error("key", "is not 32 hex digits", "copy the node's key from its provisioning (16 bytes as hex)")
    lat, lon = (t.get(k, (int, float), None, "degrees") for k in ("lat", "lon"))
    if (lat is None) != (lon is None):
        raise t.error("lat" if lon is None else "lon", "stands alone", "give lat and lon, or neither")
    if lat is not None and not (-90 <= lat <= 90 and -180 <= lon <= 180):
        raise t.error("lat", f"and lon are {lat}, {lon}", "degrees north -90..90, degrees east -180..180")
    return Node(
        number,
        t.name("name", f"node-{number}"),
        bytes.fromhex(key),
        t.number("epoch", 0, 0, (1 << 32) - 1),
        t.name("profile", "unknown"),
        t.number("interval_s", 3600, 1, 7 * 86400),
        lat,
        lon,
        t.choice("visibility", VISIBILITIES, RESTRICTED),
        *_next_key(t, key),
    )


def _next_key(t: _Table, key: str) -> tuple[bytes | None, int | None]:
    """Read next_key and next_epoch: both or neither, another key, and 1 to 3 epochs on, so that the slots differ."""
    following = t.get("next_key", str, None, '"32 hex digits"')
    if following is None:
        if "next_epoch" in t.data:
            raise t.error("next_epoch", "stands alone", "give next_key too, or neither")
        return None, None
    if not re.fullmatch(r"[0-9a-fA-F]{32}", following):
        raise t.error("next_key", "is not 32 hex digits", "make one with: openssl rand -hex 16")
    if following.lower() == key.lower():
        raise t.error("next_key", "is the key the node has", "make one with: openssl rand -hex 16")
    epoch = t.number("epoch", 0, 0, (1 << 32) - 1)
    return bytes.fromhex(following), t.number("next_epoch", epoch + 1, epoch + 1, min(epoch + 3, (1 << 31) - 1))

"""[gateway], [log] and [http]: the box itself."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from gateway.config.table import Table, shown
from gateway.target import taken_by

CLOCKS = ("host", "forwarder", "lockstep")
LEVELS = ("debug", "info", "warning", "error")
STYLES = ("auto", "console", "json")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """clock: "host", or "forwarder" for a box that learns the time from its receivers. node_burst, node_rate: what
    one node may cause at once, and per second after that, in tokens (gateway.core.rate); what is beyond is not acked and comes again."""

    id: str
    store: Path
    registry: Path
    clock: str = "host"
    drain_s: int = 30
    node_burst: int = 1000
    node_rate: int = 1
    rules: Path | None = None


@dataclass(frozen=True, slots=True)
class LogConfig:
    """style auto: JSON unless stderr is a terminal. repeats: lines of one kind within ten seconds, 0 for all."""

    level: str = "info"
    style: str = "auto"
    repeats: int = 20


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """Where metrics and health are served, read-only; None: nowhere. hosts: names beside addresses and localhost under which it is asked."""

    host: str
    port: int
    hosts: tuple[str, ...] = ()


def _kind(store: Path) -> str | None:
    """Return what stands in the store's place if it is no file; None also where that cannot be seen: opening it says why."""
    try:
        return taken_by(store)
    except OSError:
        return None


def gateway(_name: str, t: Table) -> GatewayConfig:
    """Read [gateway]. Raises ConfigError."""
    t.only(("id", "store", "registry", "clock", "drain_s", "node_burst", "node_rate", "rules"))
    store, registry = t.path("store", "gateway.db"), t.path("registry", "nodes.toml")
    assert store is not None and registry is not None
    what = _kind(store)
    if what == "a folder":
        raise t.error("store", f"is {store}, a folder", f'name a file in it: store = "{store / "gateway.db"}"')
    if what is not None:
        raise t.error("store", f"is {store}, {what}", 'name a file, or a new one: store = "gateway.db"')
    return GatewayConfig(
        t.name("id", "gw-1"),
        store,
        registry,
        t.choice("clock", CLOCKS, "host"),
        t.number("drain_s", 30, 0, 3600),
        t.number("node_burst", 1000, 10, 100_000),
        t.number("node_rate", 1, 1, 1000),
        t.path("rules", None),
    )


def log(_name: str, t: Table) -> LogConfig:
    """Read [log]. Raises ConfigError."""
    t.only(("level", "style", "repeats"))
    return LogConfig(
        t.choice("level", LEVELS, "info"), t.choice("style", STYLES, "auto"), t.number("repeats", 20, 0, 100_000)
    )


def http(_name: str, t: Table) -> HttpConfig | None:
    """Read [http]: without `bind` nothing is served, and beyond this machine only when it is said twice. Raises ConfigError."""
    t.only(("bind", "allow_non_loopback", "hosts"))
    beyond = t.get("allow_non_loopback", bool, False, "true or false")
    if "bind" not in t.data:
        if beyond:
            raise t.error("allow_non_loopback", "stands without bind", 'add bind = "host:port", or remove this line')
        return None
    host, port = t.address("bind", 9464, 0)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise t.error(
            "bind", f"is {host!r}, a name", 'write an address of this machine, for example "127.0.0.1:9464"'
        ) from None
    if not address.is_loopback and not beyond:
        raise t.error(
            "bind",
            f"is {host}, which others can reach: metrics tell names of nodes and links to whoever asks",
            'write "127.0.0.1:9464"; to serve a closed network all the same add allow_non_loopback = true',
        )
    hosts = t.get("hosts", list, [], 'a list of names like ["gateway.lan"]')
    for name in hosts:
        if not isinstance(name, str) or not _HOST.fullmatch(name):
            raise t.error("hosts", f"holds {shown(name)}", 'write names without port, for example ["gateway.lan"]')
    return HttpConfig(host, port, tuple(name.lower() for name in hosts))

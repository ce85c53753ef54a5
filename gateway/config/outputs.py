"""[output.NAME]: who is told. A new kind of output is a dataclass here, its line in KINDS, and its line in outputs/build.py."""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR

from gateway.config.broker import BROKER_KEYS, TLS_KEYS, Broker, broker, file_of, tls_files
from gateway.config.filter import Filter
from gateway.config.table import Table
from gateway.core.messages import STATUS_KEYS
from gateway.core.model import OPEN, RESTRICTED, Node
from gateway.core.registry import ABOUT, VISIBILITIES

PROFILES = (
    "air_quality",
    "noise",
    "water_meter",
    "parking",
    "bin_fill",
)  # those with firmware; nodes.toml may name more
FILE_FORMATS = ("jsonl", "csv", "parquet")
QUANTITIES = (*ABOUT, *(key for key in STATUS_KEYS.values() if key not in ABOUT))
"""What `quantities` of an output and `export --quantity` may name."""

FILTER_KEYS = ("visibility", "profiles", "quantities", "areas")


@dataclass(frozen=True, slots=True)
class MqttOutputConfig:
    """A broker: topic root, formats, window (messages waiting for PUBACK). discovery: Home Assistant's topic prefix."""

    name: str
    broker: Broker
    root: str = "city"
    formats: tuple[str, ...] = ("native", "senml")
    window: int = 100
    discovery: str = "homeassistant"
    filter: Filter = field(default_factory=Filter)

    def describe(self) -> str:
        """Say in a few words what is told to whom."""
        tls = " with TLS" if self.broker.ca_file else ""
        return f"{'+'.join(self.formats)} to {self.broker.host}:{self.broker.port}{tls}"


@dataclass(frozen=True, slots=True)
class FilesOutputConfig:
    """A folder of daily files: JSON lines, CSV, Parquet."""

    name: str
    folder: Path
    formats: tuple[str, ...] = ("jsonl",)
    filter: Filter = field(default_factory=Filter)

    def describe(self) -> str:
        """Say in a few words what is told to whom."""
        return f"{'+'.join(self.formats)} in {self.folder}"


@dataclass(frozen=True, slots=True)
class NgsiHttpOutputConfig:
    """An NGSI-LD broker: batches of entities to <url>/ngsi-ld/v1/entityOperations/upsert. The token is read at every connect."""

    name: str
    url: str
    batch: int = 64
    timeout_s: int = 10
    tenant: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    filter: Filter = field(default_factory=Filter)

    def describe(self) -> str:
        """Say in a few words what is told to whom."""
        return f"ngsi-ld to {self.url}"


OutputConfig = MqttOutputConfig | FilesOutputConfig | NgsiHttpOutputConfig


def output(name: str, t: Table, nodes: Mapping[int, Node]) -> OutputConfig:
    """Read one output; filters are compared with the registry. Raises ConfigError."""
    return KINDS[t.choice("kind", tuple(KINDS))](name, t, _filter(t, nodes))


def _mqtt(name: str, t: Table, sieve: Filter) -> MqttOutputConfig:
    from gateway.outputs import FORMATS, INSTEAD, NEEDS

    t.only((*BROKER_KEYS, *FILTER_KEYS, "root", "formats", "window", "discovery"))
    formats = t.choices("formats", tuple(FORMATS), ("native", "senml"))
    for wanted, other in NEEDS.items():
        if wanted in formats and other not in formats:
            raise t.error("formats", f"has {wanted!r}, which points at the topics of {other!r}", f'add "{other}"')
    same = [f for f in formats if f in INSTEAD]
    if len(same) > 1:
        raise t.error("formats", f"has {' and '.join(same)}, which use the same topics", "keep one, or use two outputs")
    if "discovery" in t.data and "homeassistant" not in formats:
        raise t.error(
            "discovery", "is used by homeassistant alone", 'add "homeassistant" to formats, or remove this line'
        )
    return MqttOutputConfig(
        name,
        broker(t),
        t.name("root", "city"),
        formats,
        t.number("window", 100, 1, 10_000),
        t.name("discovery", "homeassistant"),
        sieve,
    )


def _files(name: str, t: Table, sieve: Filter) -> FilesOutputConfig:
    t.only(("kind", "folder", "formats", *FILTER_KEYS))
    folder = t.path("folder")
    assert folder is not None
    at = t.stat("folder", folder)
    if at is not None and not S_ISDIR(at.st_mode):
        raise t.error("folder", f"names {folder}, which is a file", "name a folder; it is made when it does not exist")
    formats = t.choices("formats", FILE_FORMATS, ("jsonl",))
    if "parquet" in formats and importlib.util.find_spec("pyarrow") is None:
        raise t.error("formats", "has parquet, but pyarrow is not installed", "pip install 'pyarrow>=18,<27'")
    return FilesOutputConfig(name, folder, formats, sieve)


def _ngsi_http(name: str, t: Table, sieve: Filter) -> NgsiHttpOutputConfig:
    t.only(("kind", "url", "batch", "timeout_s", "tenant", "token_file", *TLS_KEYS, *FILTER_KEYS))
    url = t.get("url", str, what='"https://broker.example:1026"')
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", url):
        raise t.error("url", f"is {url!r}", 'write "http://host:port" or "https://host:port", without query or user')
    if "ca_file" in t.data and not url.startswith("https:"):
        raise t.error("ca_file", "needs TLS, but url is http", "write the url with https")
    tenant = t.get("tenant", str, None, '"a-tenant"')
    if tenant is not None and not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", tenant):
        raise t.error(
            "tenant", f"is {tenant!r}, it becomes the header NGSILD-Tenant", "use 1 to 64 of A-Z a-z 0-9 _ . -"
        )
    return NgsiHttpOutputConfig(
        name,
        url.rstrip("/"),
        t.number("batch", 64, 1, 256),
        t.number("timeout_s", 10, 1, 120),
        tenant,
        file_of(t, "token_file"),
        *tls_files(t),
        sieve,
    )


def _filter(t: Table, nodes: Mapping[int, Node]) -> Filter:
    return Filter(
        frozenset(t.choices("visibility", VISIBILITIES, (OPEN, RESTRICTED))),
        _known(t, "profiles", (*PROFILES, *(n.profile for n in nodes.values())), "no profile of nodes.toml"),
        _known(t, "quantities", QUANTITIES, "no quantity"),
        _known(t, "areas", [a for n in nodes.values() for a in n.area], "no area of any node in nodes.toml"),
        frozenset(key for key in FILTER_KEYS if key in t.data),
    )


def _known(t: Table, key: str, known: Iterable[str], what: str) -> frozenset[str]:
    """Return the names of a filter; one that would let nothing through for ever is a slip."""
    names, known = t.names(key), set(known)
    if not names and key in t.data:
        raise t.error(key, "is empty, so nothing would pass", f"remove the line to let all {key} pass")
    for name in names:
        if name not in known:
            none = f"no node has any; remove {key}, or write area = ... at the nodes"
            raise t.error(key, f"holds {name!r}, {what}", meant(name, known, none))
    return frozenset(names)


def meant(name: str, known: Iterable[str], none: str) -> str:
    """Return the advice about a name that is not known: the nearest, else all. none: when there are none."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, 1, 0.5)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"known: {', '.join(known)}" if known else none


KINDS: Mapping[str, Callable[[str, Table, Filter], OutputConfig]] = {
    "mqtt": _mqtt,
    "files": _files,
    "ngsi-ld-http": _ngsi_http,
}

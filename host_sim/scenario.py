"""Scenario files (scenarios/*.toml): which nodes, where, what goes wrong when. The schema is below; `load` is strict (scenario_checks.py)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from host_sim.schema import SchemaError, nearest, read, toml_of

FOLDER = Path(__file__).resolve().parent / "scenarios"


class ScenarioError(SchemaError):
    """Unknown scenario, or a file that does not fit."""


@dataclass(frozen=True, slots=True)
class Head:
    """[scenario]: start is the UTC instant of virtual second 0; drain_hours the longest drain after `hours`."""

    description: str
    start: datetime
    hours: float = 24.0
    seed: int = 1
    drain_hours: float = 6.0
    power_on_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Area:
    """[area]: nodes stand within radius_m of lat, lon."""

    lat: float
    lon: float
    radius_m: float = 1500.0
    shadow_db: float = 6.0


@dataclass(frozen=True, slots=True)
class ReceiverSpec:
    """[[receiver]]: a concentrator with its forwarder's EUI (16 hex digits)."""

    name: str
    eui: str
    lat: float
    lon: float
    gain_dbi: float = 5.0


@dataclass(frozen=True, slots=True)
class Group:
    """[[group]]: `count` nodes named <name>-01 ...; config keys go to the node's config.json as they are.

    drift_ppm: of the clock that counts deep sleep, positive = fast; one number, or [low, high] for a seeded one per node.
    battery: volts, or points [[hour, volts], ...]. broken: {chip = fault}: its driver is replaced by host_sim/faulty/<fault>.py,
    whose options (`good`, ...) go into sensors.<chip>. heap: what the firmware has free at start, in words of a 32-bit board ("100wK"); without it, what
    the board leaves on this link, less the real radio driver's share. way: "romfs" or "mpy", what the node runs from; without it, what the board does.
    """

    name: str
    profile: str
    count: int
    link: str = "lora"
    sf: int = 7
    board: str = "esp32_generic"
    sample_s: int = 60
    row_s: int = 300
    report_s: int = 3600
    sensors: dict[str, Any] = field(default_factory=dict)
    alarms: tuple[dict[str, Any], ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    visibility: str = "open"
    flash: str = "image"
    drift_ppm: float | tuple[float, ...] = 0.0
    battery: float | tuple[tuple[float, ...], ...] = ()
    broken: dict[str, str] = field(default_factory=dict)
    heap: str = ""
    way: str = ""


@dataclass(frozen=True, slots=True)
class CutSpec:
    """[[power_cut]]: the named nodes (or groups) lose power at at_h for `minutes`; every_h repeats it."""

    nodes: tuple[str, ...]
    at_h: float
    minutes: float
    every_h: float = 0.0


@dataclass(frozen=True, slots=True)
class PowerSpec:
    """[[power]]: the named nodes (or groups) stand on a supply that is there from on_h to off_h of every day (UTC), and not else.

    Every node's hours are shifted by a seeded -spread_min..spread_min, as lamp posts do not switch in one second.
    """

    nodes: tuple[str, ...]
    on_h: float
    off_h: float
    spread_min: float = 5.0


@dataclass(frozen=True, slots=True)
class GatewayDown:
    """[[gateway_down]]: the gateway process is stopped at from_h (kill: SIGKILL) and started again on its store at to_h.

    Receivers and access points go on listening, but what they hear nobody takes. A run that ends before to_h starts it at its end.
    """

    from_h: float
    to_h: float
    kill: bool = False


@dataclass(frozen=True, slots=True)
class LossSpec:
    """[[loss]]: between from_h and to_h this fraction of frames is lost on the air, up and down (or only at the named receivers)."""

    from_h: float
    to_h: float
    fraction: float
    receivers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """[[command]]: at at_h `requester` asks `node` (one node) for `name` with args, a list, or options, a table.

    expires_h: hours until it must not begin any more, negative: over already; without it the gateway's default. id: of the requester; the
    same as another's: replayed. claims: another requester that the request names. ends: the state or the error it must end with.
    """

    node: str
    at_h: float
    name: str
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    requester: str = "operator"
    claims: str = ""
    expires_h: float | None = None
    reason: str = ""
    id: str = ""
    ends: str = "done"


@dataclass(frozen=True, slots=True)
class WifiDown:
    """[[wifi_down]]: the access points are away between from_h and to_h."""

    from_h: float
    to_h: float


@dataclass(frozen=True, slots=True)
class GatewayClock:
    """[[gateway_clock]]: between from_h and to_h the gateway's clock is off: offset_s ahead of time, and `rate` seconds more each second since from_h."""

    from_h: float
    to_h: float
    offset_s: float = 0.0
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class RadioFault:
    """[[radio_fault]]: from from_h on, for `minutes`, the LoRa chips of the named nodes (or groups) fail as `kind` says (vm/sim_radio.py); every_h repeats it."""

    nodes: tuple[str, ...]
    kind: str
    from_h: float
    minutes: float = 1.0
    every_h: float = 0.0


@dataclass(frozen=True, slots=True)
class ChipFault:
    """[[chip_fault]]: likewise for a chip of a node and one of its model's FAULTS, or chip "adc" and fault "noise"."""

    nodes: tuple[str, ...]
    chip: str
    fault: str
    from_h: float
    minutes: float
    every_h: float = 0.0


@dataclass(frozen=True, slots=True)
class Expect:
    """[expect]: what the backend must have seen by the end, per node (or group); what it did not is in Result.unmet.

    shed: quantities that the newest ladder status leaves out, exactly these. exceptions: words of last words that were reported. faults:
    quantities for which a fault alarm was raised. resets: kinds of reset that must have happened (hard, wdt, soft), seen by the
    simulator. delivers: quantities of which a value taken in the run's last two hours arrived.
    """

    shed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    exceptions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    faults: dict[str, tuple[str, ...]] = field(default_factory=dict)
    resets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    delivers: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    head: Head
    area: Area
    receivers: tuple[ReceiverSpec, ...]
    groups: tuple[Group, ...]
    cuts: tuple[CutSpec, ...]
    losses: tuple[LossSpec, ...]
    wifi_down: tuple[WifiDown, ...]
    power: tuple[PowerSpec, ...] = ()
    gateway_down: tuple[GatewayDown, ...] = ()
    expect: Expect = field(default_factory=Expect)
    commands: tuple[CommandSpec, ...] = ()
    gateway_clock: tuple[GatewayClock, ...] = ()
    radio_faults: tuple[RadioFault, ...] = ()
    chip_faults: tuple[ChipFault, ...] = ()
    requesters: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"operator": ("*",)})

    def members(self, nodes: int | None = None) -> list[tuple[Group, str]]:
        """(group, node name) for every node; with `nodes`, that many in the scenario's proportions (at least one a group if it can)."""
        counts = [g.count for g in self.groups]
        if nodes is not None:
            if nodes < 1:
                raise ScenarioError(f"{self.name}: nodes must be at least 1, not {nodes}")
            total, counts = sum(counts), []
            left = nodes
            for i, g in enumerate(self.groups):
                share = max(1, round(nodes * g.count / total)) if i + 1 < len(self.groups) else left
                counts.append(min(share, left))
                left -= counts[-1]
        return [(g, f"{g.name}-{i + 1:02d}") for g, n in zip(self.groups, counts, strict=True) for i in range(n)]


_TABLES = (
    "scenario",
    "area",
    "receiver",
    "group",
    "power",
    "power_cut",
    "loss",
    "wifi_down",
    "gateway_down",
    "expect",
    "command",
    "gateway_clock",
    "radio_fault",
    "chip_fault",
    "requesters",
)


NAME = re.compile(
    r"[a-z0-9_-]{1,28}"
)  # of nodes (less the number), receivers and people: folders and topics are named so
_WORD = re.compile(r"[a-z0-9_*?]{1,64}")  # commands, and patterns of them


def known() -> list[str]:
    """Names of the shipped scenarios."""
    return sorted(p.stem for p in FOLDER.glob("*.toml"))


def load(name: str) -> Scenario:
    """Read a shipped scenario by name, or any file by a path that ends in .toml. Raises ScenarioError."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        return parse(path.stem, toml_of(path), str(path))
    except FileNotFoundError as e:
        raise ScenarioError(f'unknown scenario "{name}"{nearest(name, known())}; next: citymote sim list') from e
    except ScenarioError:
        raise
    except SchemaError as e:
        raise ScenarioError(str(e)) from e


def parse(name: str, table: Mapping[str, Any], file: str) -> Scenario:
    """Check a scenario table against the schema. Raises SchemaError naming file and key."""
    for key in table:
        if key not in _TABLES:
            raise ScenarioError(f'{file}: unknown table "{key}"{nearest(key, _TABLES)}')
    for key in ("scenario", "area", "group"):
        if key not in table:
            raise ScenarioError(f'{file}: table "{key}" is missing')

    def many(key: str, cls: type[Any]) -> tuple[Any, ...]:
        rows = table.get(key, [])
        if not isinstance(rows, list):
            raise ScenarioError(f"{file}: write [[{key}]], not [{key}]")
        return tuple(read(cls, row, f"{file}: [[{key}]] number {i + 1}") for i, row in enumerate(rows))

    if not isinstance(table.get("expect", {}), dict):
        raise ScenarioError(f"{file}: write [expect], not [[expect]]")
    head = read(Head, table["scenario"], f"{file}: [scenario]")
    if head.start.tzinfo is None:
        raise ScenarioError(f'{file}: [scenario]: "start" needs a time zone (write ...Z)')
    scenario = Scenario(
        name,
        head,
        read(Area, table["area"], f"{file}: [area]"),
        many("receiver", ReceiverSpec),
        many("group", Group),
        many("power_cut", CutSpec),
        many("loss", LossSpec),
        many("wifi_down", WifiDown),
        many("power", PowerSpec),
        many("gateway_down", GatewayDown),
        read(Expect, table.get("expect", {}), f"{file}: [expect]"),
        many("command", CommandSpec),
        many("gateway_clock", GatewayClock),
        many("radio_fault", RadioFault),
        many("chip_fault", ChipFault),
        _requesters(table.get("requesters", {"operator": ["*"]}), file),
    )
    from host_sim.scenario_checks import check  # it imports what imports this module

    check(scenario, file)
    return scenario


def _requesters(table: Any, file: str) -> Mapping[str, tuple[str, ...]]:
    """Read [requesters]: name = ["command", ...], what each may ask for."""
    lists = table.values() if isinstance(table, dict) else [None]
    if not all(isinstance(x, list) and x and all(isinstance(w, str) and _WORD.fullmatch(w) for w in x) for x in lists):
        raise ScenarioError(f'{file}: [requesters]: write name = ["command", ...]')
    for who in table:
        if not NAME.fullmatch(who):
            raise ScenarioError(f'{file}: [requesters]: "{who[:40]}" is no name; next: 1 to 28 of a-z 0-9 _ -')
    return {who: tuple(names) for who, names in table.items()}


def names_node(names: Collection[str], group: Group, node: str) -> bool:
    """True when a list of names means this node: by its own name or by its group's."""
    return node in names or group.name in names


def unix(moment: datetime) -> int:
    return int(moment.astimezone(UTC).timestamp())

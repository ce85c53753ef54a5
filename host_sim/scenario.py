"""Scenario files (scenarios/*.toml): which nodes, where, what goes wrong when. `load` is strict; the schema is below."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from motewire.config import foreign, judged, misspelt
from motewire.quantities import KEY, QUANTITIES

from host_sim import compile as mpy
from host_sim.boards import WAYS
from host_sim.schema import SchemaError, nearest, read, toml_of
from host_sim.worlds import WORLDS

RADIO_FAULTS = ("busy", "status", "absent", "lost_tx_done", "lost_edge", "stuck_receive")
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


_NAME = re.compile(
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
    _check_groups(scenario, file)
    _check_ranges(scenario, file)
    _check_names(scenario, file)
    _check_times(scenario, file)
    return scenario


def _requesters(table: Any, file: str) -> Mapping[str, tuple[str, ...]]:
    """Read [requesters]: name = ["command", ...], what each may ask for."""
    lists = table.values() if isinstance(table, dict) else [None]
    if not all(isinstance(x, list) and x and all(isinstance(w, str) and _WORD.fullmatch(w) for w in x) for x in lists):
        raise ScenarioError(f'{file}: [requesters]: write name = ["command", ...]')
    for who in table:
        if not _NAME.fullmatch(who):
            raise ScenarioError(f'{file}: [requesters]: "{who[:40]}" is no name; next: 1 to 28 of a-z 0-9 _ -')
    return {who: tuple(names) for who, names in table.items()}


def _check_groups(s: Scenario, file: str) -> None:
    boards = sorted(p.stem for p in mpy.boards_root().glob("*.toml"))
    if not s.groups:
        raise ScenarioError(f"{file}: there is no [[group]]")
    for i, g in enumerate(s.groups):
        where = f"{file}: [[group]] number {i + 1}"
        if not _NAME.fullmatch(g.name):
            raise ScenarioError(f'{where}: name "{g.name[:40]}" is none; next: 1 to 28 of a-z 0-9 _ -')
        if g.name in [other.name for other in s.groups[:i]]:
            raise ScenarioError(f'{where}: name "{g.name}" is that of another group')
        for key in ("sample_s", "row_s", "report_s"):
            _within(where, key, getattr(g, key), key != "row_s", 604_800)  # row_s 0: alarms alone
        for key, value, allowed in (
            ("profile", g.profile, list(WORLDS)),
            ("link", g.link, ["lora", "wifi"]),
            ("board", g.board, boards),
            ("flash", g.flash, ["image", "folder"]),
            ("way", g.way, ["", *WAYS]),
            ("visibility", g.visibility, ["open", "restricted", "personal"]),
        ):
            if value not in allowed:
                raise ScenarioError(f'{where}: {key} "{value}" is unknown{nearest(value, allowed)}')
        if not 7 <= g.sf <= 12:
            raise ScenarioError(f'{where}: "sf" must be 7..12, not {g.sf}')
        if not 1 <= g.count <= 1000:
            raise ScenarioError(f'{where}: "count" must be 1..1000, not {g.count}')
        if g.heap and not re.fullmatch(r"[0-9]{2,4}w?[kK]", g.heap):
            raise ScenarioError(
                f'{where}: "heap" must be kilobytes, "100wK" counts words of a 32-bit board, not {g.heap!r}'
            )
        _check_node(g, where)


def _within(where: str, key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ScenarioError(f'{where}: "{key}" must be {low:g}..{high:g}, not {value:g}')


def _check_ranges(s: Scenario, file: str) -> None:
    """What would make a run without an end, or a place that is none."""
    at = f"{file}: [scenario]"
    _within(at, "hours", s.head.hours, 0.1, 9600)
    _within(at, "drain_hours", s.head.drain_hours, 0, 9600)
    _within(at, "power_on_s", s.head.power_on_s, 0, 86_400)
    _within(at, "seed", s.head.seed, 0, 1 << 31)
    if not 2000 <= s.head.start.year <= 2100:
        raise ScenarioError(f'{at}: "start" must be in the years 2000..2100, not {s.head.start.year}')
    places = [(f"{file}: [area]", s.area.lat, s.area.lon)]
    places += [(f"{file}: [[receiver]] number {i + 1}", r.lat, r.lon) for i, r in enumerate(s.receivers)]
    for where, lat, lon in places:
        _within(where, "lat", lat, -90, 90)
        _within(where, "lon", lon, -180, 180)
    _within(f"{file}: [area]", "radius_m", s.area.radius_m, 0, 100_000)
    for i, c in enumerate(s.commands):
        where = f"{file}: [[command]] number {i + 1}"
        _within(where, "expires_h", c.expires_h or 0, -100_000, 100_000)
        _within(where, "at_h", c.at_h, 0, 100_000)


def _check_node(g: Group, where: str) -> None:
    drift = g.drift_ppm if isinstance(g.drift_ppm, tuple) else (g.drift_ppm,)
    if len(drift) not in (1, 2) or drift != tuple(sorted(drift)) or any(abs(d) > 100_000 for d in drift):
        raise ScenarioError(f'{where}: "drift_ppm" must be a number or [low, high] within 100000, not {g.drift_ppm}')
    if isinstance(g.battery, tuple) and (
        any(len(p) != 2 for p in g.battery) or [p[0] for p in g.battery] != sorted({p[0] for p in g.battery})
    ):
        raise ScenarioError(
            f'{where}: "battery" must be volts or [[hour, volts], ...] in order of time, not {g.battery}'
        )
    from host_sim.provision import CHIPS, configuration  # provision imports this module

    whole = {
        chip: options for chip, options in g.sensors.items() if chip not in g.broken
    }  # host_sim/faulty has options of its own
    values = configuration(g, 1, g.name)
    why = judged(values)[0] or misspelt(whole) or foreign(values)
    if why:
        raise ScenarioError(f"{where}: no node can work so: {why}")

    chips = [chip for _, _, chip in CHIPS[g.profile]]
    for chip, fault in g.broken.items():
        if chip not in chips:
            raise ScenarioError(f'{where}: "broken": {g.profile} has no "{chip}"{nearest(chip, chips)}')
        if fault not in mpy.faults():
            raise ScenarioError(f'{where}: "broken": fault "{fault}" is unknown{nearest(fault, mpy.faults())}')


def _check_names(s: Scenario, file: str) -> None:
    nodes = [name for _, name in s.members()]
    names = nodes + [g.name for g in s.groups]
    keys = [str(row[KEY]) for row in QUANTITIES]
    named = [
        (f"[[{table}]] number {i + 1}", node)
        for table, specs in (
            ("power_cut", s.cuts),
            ("power", s.power),
            ("radio_fault", s.radio_faults),
            ("chip_fault", s.chip_faults),
        )
        for i, spec in enumerate(specs)
        for node in spec.nodes
    ]
    for f in fields(Expect):
        for node, wanted in getattr(s.expect, f.name).items():
            named.append((f"[expect] {f.name}", node))
            known_words = {"resets": ["hard", "soft", "wdt"], "exceptions": list(wanted)}.get(f.name, keys)
            for word in wanted:
                if word not in known_words:
                    raise ScenarioError(f'{file}: [expect] {f.name}: "{word}" is unknown{nearest(word, known_words)}')
    for i, c in enumerate(s.commands):
        where = f"{file}: [[command]] number {i + 1}"
        if c.node not in nodes:
            raise ScenarioError(f'{where}: node "{c.node}" is unknown{nearest(c.node, nodes)}')
        if c.args and c.options:
            raise ScenarioError(f"{where}: give args or options, not both")
    for where, node in named:
        if node not in names:
            raise ScenarioError(f'{file}: {where}: node "{node}" is unknown{nearest(node, names)}')
    for i, r in enumerate(s.receivers):
        if len(r.eui) != 16 or any(c not in "0123456789abcdef" for c in r.eui):
            raise ScenarioError(
                f'{file}: [[receiver]] number {i + 1}: "eui" must be 16 lower-case hex digits, not "{r.eui}"'
            )
    if not s.receivers and any(g.link == "lora" for g in s.groups):
        raise ScenarioError(f"{file}: LoRa groups need at least one [[receiver]]")
    receivers = [r.name for r in s.receivers]
    for i, loss in enumerate(s.losses):
        for r in loss.receivers:
            if r not in receivers:
                raise ScenarioError(
                    f'{file}: [[loss]] number {i + 1}: receiver "{r}" is unknown{nearest(r, receivers)}'
                )


def _check_times(s: Scenario, file: str) -> None:
    for i, loss in enumerate(s.losses):
        if not 0 <= loss.fraction <= 1 or loss.to_h <= loss.from_h:
            raise ScenarioError(f"{file}: [[loss]] number {i + 1}: needs 0 <= fraction <= 1 and from_h < to_h")
    for i, p in enumerate(s.power):
        if not 0 <= p.on_h < 24 or not 0 <= p.off_h < 24 or p.on_h == p.off_h or not 0 <= p.spread_min < 30:
            raise ScenarioError(
                f"{file}: [[power]] number {i + 1}: needs on_h and off_h within 0..24, not equal, and spread_min below 30"
            )
    _check_faults(s, file)
    back = 0.0
    for i, down in enumerate(s.gateway_down):
        if not back <= down.from_h < down.to_h:
            raise ScenarioError(
                f"{file}: [[gateway_down]] number {i + 1}: needs from_h < to_h, after the one before has ended"
            )
        back = down.to_h


def _check_faults(s: Scenario, file: str) -> None:
    back = 0.0
    for i, clock in enumerate(s.gateway_clock):
        if not back <= clock.from_h < clock.to_h or not -0.5 <= clock.rate <= 0.5:
            raise ScenarioError(f"{file}: [[gateway_clock]] number {i + 1}: needs from_h < to_h, after the one before has ended, and rate within 0.5")  # fmt: skip
        back = clock.to_h
    if s.gateway_clock and not s.receivers:
        raise ScenarioError(f"{file}: [[gateway_clock]] needs a [[receiver]], whose time the simulated gateway follows")
    for i, fault in enumerate(s.radio_faults):
        if fault.kind not in RADIO_FAULTS:
            raise ScenarioError(
                f'{file}: [[radio_fault]] number {i + 1}: kind "{fault.kind}" is unknown{nearest(fault.kind, RADIO_FAULTS)}'
            )
    from host_sim.chips import CHIPS  # the models, by name

    for i, fault in enumerate(s.chip_faults):
        where = f"{file}: [[chip_fault]] number {i + 1}"
        if fault.chip not in (*CHIPS, "adc"):
            raise ScenarioError(f'{where}: chip "{fault.chip}" is unknown{nearest(fault.chip, [*CHIPS, "adc"])}')
        module, cls = CHIPS.get(fault.chip, ":").split(":")
        kinds = getattr(import_module(f"host_sim.chips.{module}"), cls).FAULTS if cls else ("noise",)
        if fault.fault not in kinds:
            raise ScenarioError(f'{where}: fault "{fault.fault}" is unknown{nearest(fault.fault, kinds)}')
    for table, faults in (("radio_fault", s.radio_faults), ("chip_fault", s.chip_faults)):
        for i, fault in enumerate(faults):
            if fault.from_h < 0 or fault.minutes <= 0 or fault.every_h < 0 or 0 < 60 * fault.every_h <= fault.minutes:
                raise ScenarioError(
                    f"{file}: [[{table}]] number {i + 1}: needs from_h >= 0, minutes > 0, and every_h longer than that"
                )


def names_node(names: Collection[str], group: Group, node: str) -> bool:
    """True when a list of names means this node: by its own name or by its group's."""
    return node in names or group.name in names


def unix(moment: datetime) -> int:
    return int(moment.astimezone(UTC).timestamp())

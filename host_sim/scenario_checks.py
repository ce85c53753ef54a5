"""What a scenario may say: names that exist, values that a world, a chip and a node can have, and nothing planned that cannot happen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any, Protocol

from motewire.config import KEYS, foreign, judged, misspelt
from motewire.quantities import HIGHEST, KEY, LOWEST, QUANTITIES

from host_sim import boards
from host_sim import compile as mpy
from host_sim.boards import WAYS
from host_sim.chips import CHIPS as MODELS
from host_sim.provision import CHIPS, configuration
from host_sim.scenario import NAME, Expect, Group, Scenario, ScenarioError, names_node
from host_sim.schema import nearest
from host_sim.vm.run import heap_bytes
from host_sim.worlds import WORLDS

RADIO_FAULTS = ("busy", "status", "absent", "lost_tx_done", "lost_edge", "stuck_receive")
RULE = ("q", "above", "below", "clear", "hold", "step", "update_s", "least_s", "boost")  # of mote.rules
LEAST_KB = 48  # of a 32-bit board
SHORTEST_H = 1 / 3600  # of what repeats: once a second


def check(s: Scenario, file: str) -> None:
    """Raise ScenarioError, with file, table and key, for what no run can play or what would silently not happen."""
    _check_groups(s, file)
    _check_ranges(s, file)
    _check_names(s, file)
    _check_times(s, file)
    _check_faults(s, file)


def _check_groups(s: Scenario, file: str) -> None:
    known_boards = sorted(p.stem for p in mpy.boards_root().glob("*.toml"))
    if not s.groups:
        raise ScenarioError(f"{file}: there is no [[group]]")
    for i, g in enumerate(s.groups):
        where = f"{file}: [[group]] number {i + 1}"
        if not NAME.fullmatch(g.name):
            raise ScenarioError(f'{where}: name "{g.name[:40]}" is none; next: 1 to 28 of a-z 0-9 _ -')
        if g.name in [other.name for other in s.groups[:i]]:
            raise ScenarioError(f'{where}: name "{g.name}" is that of another group')
        for key in ("sample_s", "row_s", "report_s"):
            _within(where, key, getattr(g, key), key != "row_s", 604_800)  # row_s 0: alarms alone
        for key, value, allowed in (
            ("profile", g.profile, list(WORLDS)),
            ("link", g.link, ["lora", "wifi"]),
            ("board", g.board, known_boards),
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
        if g.heap and heap_bytes(g.heap) < 2048 * LEAST_KB:
            raise ScenarioError(
                f'{where}: "heap" must be at least "{LEAST_KB}wK", not {g.heap!r}: no node starts in it'
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
    for n, rule in enumerate(g.alarms):
        _check_rule(rule, f"{where}: alarms number {n + 1}")
    for key in g.config:  # a node takes what it does not know, for a firmware to come; in a scenario it is a slip
        if key not in KEYS:
            raise ScenarioError(f'{where}: config: unknown key "{key}"{nearest(key, KEYS)}')
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


def _check_rule(rule: Mapping[str, Any], where: str) -> None:
    """What a node would leave out, or would never raise; the rest it judges itself (mote.rules)."""
    for key in rule:
        if key not in RULE:
            raise ScenarioError(f'{where}: unknown key "{key}"{nearest(key, RULE)}')
    ranges = {str(row[KEY]): (float(row[LOWEST]), float(row[HIGHEST])) for row in QUANTITIES}
    q = rule.get("q")
    if q not in ranges:
        raise ScenarioError(f'{where}: q "{q}" is unknown{nearest(str(q), ranges)}')
    sides = [side for side in ("above", "below") if side in rule]
    if len(sides) != 1:
        raise ScenarioError(f'{where}: needs one of "above", "below"')
    for key in (*sides, "clear"):
        value = rule.get(key, ranges[q][0])
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ScenarioError(f'{where}: "{key}" must be a number, not {value!r}')
        _within(where, key, value, *ranges[q])
    limit, clear = rule[sides[0]], rule.get("clear", rule[sides[0]])
    if clear > limit if sides == ["above"] else clear < limit:
        raise ScenarioError(f'{where}: "clear" {clear:g} is on the wrong side of {sides[0]} {limit:g}')


def _check_names(s: Scenario, file: str) -> None:
    nodes = [name for _, name in s.members()]
    names = nodes + [g.name for g in s.groups]
    keys = [str(row[KEY]) for row in QUANTITIES]
    named = []
    for table, specs in (
        ("power_cut", s.cuts),
        ("power", s.power),
        ("radio_fault", s.radio_faults),
        ("chip_fault", s.chip_faults),
    ):
        for i, spec in enumerate(specs):
            if not spec.nodes:
                raise ScenarioError(
                    f'{file}: [[{table}]] number {i + 1}: "nodes" names none; next: name nodes or groups'
                )
            named += [(f"[[{table}]] number {i + 1}", node) for node in spec.nodes]
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
        where = f"{file}: [[receiver]] number {i + 1}"
        if len(r.eui) != 16 or any(c not in "0123456789abcdef" for c in r.eui):
            raise ScenarioError(f'{where}: "eui" must be 16 lower-case hex digits, not "{r.eui}"')
        for key in ("eui", "name"):
            if getattr(r, key) in [getattr(other, key) for other in s.receivers[:i]]:
                raise ScenarioError(f'{where}: {key} "{getattr(r, key)}" is that of another receiver')
    if not s.receivers and any(g.link == "lora" for g in s.groups):
        raise ScenarioError(f"{file}: LoRa groups need at least one [[receiver]]")
    receivers = [r.name for r in s.receivers]
    for i, loss in enumerate(s.losses):
        for r in loss.receivers:
            if r not in receivers:
                raise ScenarioError(
                    f'{file}: [[loss]] number {i + 1}: receiver "{r}" is unknown{nearest(r, receivers)}'
                )


class _Span(Protocol):
    @property
    def from_h(self) -> float: ...
    @property
    def to_h(self) -> float: ...


def _check_times(s: Scenario, file: str) -> None:
    spans: tuple[tuple[str, Iterable[_Span], bool], ...] = (
        ("loss", s.losses, False),
        ("wifi_down", s.wifi_down, False),
        ("gateway_down", s.gateway_down, True),
        ("gateway_clock", s.gateway_clock, True),
    )
    for table, rows, in_turn in spans:
        back = 0.0
        for i, row in enumerate(rows):
            where = f"{file}: [[{table}]] number {i + 1}"
            if not 0 <= row.from_h < row.to_h:
                raise ScenarioError(f"{where}: needs 0 <= from_h < to_h")
            if in_turn and row.from_h < back:
                raise ScenarioError(f"{where}: begins before the one before has ended")
            _begins(s, where, "from_h", row.from_h)
            back = row.to_h
    for i, loss in enumerate(s.losses):
        _within(f"{file}: [[loss]] number {i + 1}", "fraction", loss.fraction, 0, 1)
    for i, clock in enumerate(s.gateway_clock):
        where = f"{file}: [[gateway_clock]] number {i + 1}"
        _within(where, "rate", clock.rate, -0.5, 0.5)
        _within(where, "offset_s", clock.offset_s, -4e9, 4e9)  # the wire's clock has 32 bits
    if s.gateway_clock and not s.receivers:
        raise ScenarioError(f"{file}: [[gateway_clock]] needs a [[receiver]], whose time the simulated gateway follows")
    for i, p in enumerate(s.power):
        if not 0 <= p.on_h < 24 or not 0 <= p.off_h < 24 or p.on_h == p.off_h or not 0 <= p.spread_min < 30:
            raise ScenarioError(
                f"{file}: [[power]] number {i + 1}: needs on_h and off_h within 0..24, not equal, and spread_min below 30"
            )
    for i, cut in enumerate(s.cuts):
        where = f"{file}: [[power_cut]] number {i + 1}"
        _repeats(where, "at_h", cut.at_h, cut.minutes, cut.every_h)
        _begins(s, where, "at_h", cut.at_h)
    for i, c in enumerate(s.commands):
        _begins(s, f"{file}: [[command]] number {i + 1}", "at_h", c.at_h)


def _begins(s: Scenario, where: str, key: str, at_h: float) -> None:
    """What begins when the run has ended would never happen (of `--hours` whoever writes it knows)."""
    if at_h >= s.head.hours:
        raise ScenarioError(f'{where}: "{key}" is {at_h:g}, but the scenario ends at {s.head.hours:g} h')


def _repeats(where: str, key: str, at_h: float, minutes: float, every_h: float) -> None:
    if at_h < 0 or minutes <= 0 or every_h < 0 or 0 < 60 * every_h <= minutes or 0 < every_h < SHORTEST_H:
        raise ScenarioError(f"{where}: needs {key} >= 0, minutes > 0, and every_h longer than that")


def _check_faults(s: Scenario, file: str) -> None:
    for i, fault in enumerate(s.radio_faults):
        where = f"{file}: [[radio_fault]] number {i + 1}"
        if fault.kind not in RADIO_FAULTS:
            raise ScenarioError(f'{where}: kind "{fault.kind}" is unknown{nearest(fault.kind, RADIO_FAULTS)}')
        for g in _groups(s, fault.nodes):
            if g.link != "lora":
                raise ScenarioError(f'{where}: "{g.name}" has no LoRa chip: its link is {g.link}')
        _repeats(where, "from_h", fault.from_h, fault.minutes, fault.every_h)
        _begins(s, where, "from_h", fault.from_h)
    for i, fault in enumerate(s.chip_faults):
        where = f"{file}: [[chip_fault]] number {i + 1}"
        if fault.chip not in (*MODELS, "adc"):
            raise ScenarioError(f'{where}: chip "{fault.chip}" is unknown{nearest(fault.chip, [*MODELS, "adc"])}')
        module, cls = MODELS.get(fault.chip, ":").split(":")
        kinds = getattr(import_module(f"host_sim.chips.{module}"), cls).FAULTS if cls else ("noise",)
        if fault.fault not in kinds:
            raise ScenarioError(f'{where}: fault "{fault.fault}" is unknown{nearest(fault.fault, kinds)}')
        for g in _groups(s, fault.nodes):
            if fault.chip not in _chips(g):
                raise ScenarioError(f'{where}: "{g.name}" has no {fault.chip}; it has {", ".join(_chips(g))}')
        _repeats(where, "from_h", fault.from_h, fault.minutes, fault.every_h)
        _begins(s, where, "from_h", fault.from_h)


def _groups(s: Scenario, names: tuple[str, ...]) -> list[Group]:
    """Groups of which these names mean a node."""
    return list({g.name: g for g, node in s.members() if names_node(names, g, node)}.values())


def _chips(g: Group) -> list[str]:
    """Chips of a group's nodes that can fail: the profile's, and the battery's converter where the board has one."""
    return [chip for _, _, chip in CHIPS[g.profile]] + ["adc"] * ("battery" in boards.wiring(g.board))

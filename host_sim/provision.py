"""Makes the nodes of a scenario: places, keys, flash files, worlds, and the gateway's registry and configuration."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any

from host_sim import boards, chance, operator, romfs, series, worlds
from host_sim import compile as mpy
from host_sim.air import Station
from host_sim.brownout import merged, with_supply
from host_sim.node import NodeSpec, PowerCut
from host_sim.scenario import Group, Scenario, ScenarioError, names_node
from host_sim.vm32.driver import radio_driver

ACCESS_POINT = ("city", "simulated")  # name and password: a node that is given others does not join
HOUR_US = 3_600_000_000
FIRST_ID = 0x0101
# chips each profile carries, on the buses the boards describe: (bus kind, address or "", chip)
CHIPS = {
    "air_quality": (("uart", "", "pms5003"), ("i2c", "0x76", "bme280")),
    "noise": (("i2s", "", "inmp441"),),
    "water_meter": (("pulse", "", "pulse"),),
    "parking": (("i2c", "0x0d", "qmc5883l"),),
    "bin_fill": (("uart", "", "a02yyuw"), ("i2c", "0x76", "bme280"), ("i2c", "0x18", "lis3dh")),
}


board = boards.wiring


def hardware(profile: str, wiring: dict) -> dict:
    """hw.json of a node: the profile's chips on the first bus of each kind the board has; battery on its ADC pin; the radio."""
    hw: dict = {}
    for kind, address, chip in CHIPS[profile]:
        number, pins = next(iter(wiring[kind].items()))
        if kind == "i2c":
            hw.setdefault(kind, {}).setdefault(number, {})[address] = chip
        elif kind == "pulse":
            hw.setdefault(kind, {})[str(pins["pin"])] = chip
        else:
            hw.setdefault(kind, {})[number] = chip
    if "radio" in wiring:
        hw["radio"] = wiring["radio"]
    if "battery" in wiring:
        hw["analog"] = {str(wiring["battery"]["pin"]): "battery_pin_voltage"}
    return hw


@dataclass(frozen=True, slots=True)
class Member:
    """A provisioned node with what the registry needs."""

    spec: NodeSpec
    group: Group
    key: bytes


def _place(scenario: Scenario, seed: int, name: str) -> tuple[float, float]:
    area = scenario.area
    r = area.radius_m * math.sqrt(chance.uniform(seed, "place", name, "r"))
    a = 2 * math.pi * chance.uniform(seed, "place", name, "a")
    dlat = r * math.cos(a) / 111_195
    return round(area.lat + dlat, 6), round(
        area.lon + r * math.sin(a) / (111_195 * math.cos(math.radians(area.lat))), 6
    )


def _cuts(scenario: Scenario, group: Group, name: str, hours: float, seed: int) -> tuple[PowerCut, ...]:
    found = []
    for cut in scenario.cuts:
        if not names_node(cut.nodes, group, name):
            continue
        at = cut.at_h
        while at < hours:
            found.append(PowerCut(round(at * HOUR_US), round(at * HOUR_US + cut.minutes * 60_000_000)))
            if not cut.every_h:
                break
            at += cut.every_h
    start = scenario.head.start.astimezone(UTC)
    midnight = start.replace(hour=0, minute=0, second=0, microsecond=0)
    for i, supply in enumerate(scenario.power):
        if not names_node(supply.nodes, group, name):
            continue
        shift = (2 * chance.uniform(seed, "power", i, name) - 1) * supply.spread_min / 60
        at = supply.off_h + shift - (start - midnight).total_seconds() / 3600 - 24
        while at < hours + scenario.head.drain_hours:
            back = at + (supply.on_h - supply.off_h) % 24
            if back > 0:
                found.append(PowerCut(round(at * HOUR_US), round(back * HOUR_US)))
            at += 24
    return merged(found)


def _faults(scenario: Scenario, group: Group, name: str, hours: float) -> list[list[object]]:
    """[what, kind, from_us, to_us] of every fault of this node's hardware that begins within `hours`."""
    found: list[list[object]] = []
    for what, kind, fault in (
        *(("radio", f.kind, f) for f in scenario.radio_faults),
        *((f.chip, f.fault, f) for f in scenario.chip_faults),
    ):
        at = fault.from_h
        while names_node(fault.nodes, group, name) and at < hours:
            found.append([what, kind, round(at * HOUR_US), round(at * HOUR_US + fault.minutes * 60_000_000)])
            if not fault.every_h:
                break
            at += fault.every_h
    return found


def _drift(group: Group, seed: int, name: str) -> float:
    if not isinstance(group.drift_ppm, tuple):
        return group.drift_ppm
    low, high = group.drift_ppm[0], group.drift_ppm[-1]
    return low + (high - low) * chance.uniform(seed, "drift", name)


def heap(group: Group, *, driver: bool = False) -> str:
    """What the firmware of such a node has free at start: the scenario's word, or what the board leaves on this link, less the real radio driver's share,
    unless that driver is there."""
    if group.heap:
        return group.heap
    kb = boards.heap_kb(group.board)
    if driver:
        return f"{1000 * kb.radio}w"
    return f"{1000 * (kb.wifi if group.link == 'wifi' else kb.radio) - radio_driver(group.link, way(group))}w"


def way(group: Group) -> str:
    """What such a node runs from, "romfs" or "mpy": the scenario's word, or the board's."""
    return group.way or boards.image(group.board).way


def image_of(group: Group, more: Mapping[str, bytes] | None = None) -> romfs.Image:
    """The ROMFS image of such a node: the firmware, with the drivers that are broken on it, and `more` files."""
    root = mpy.firmware_root()
    return romfs.image(mpy.with_faults(root, group.broken) if group.broken else mpy.compiled(root), more)


def supply(group: Group, world: dict[str, series.Series]) -> series.Series:
    """Battery voltage: the group's, or the world's."""
    if isinstance(group.battery, tuple):
        return series.Series([(h * 3600, v) for h, v in group.battery]) if group.battery else world["battery_voltage"]
    return series.Series([(0.0, group.battery)])


def configuration(group: Group, node_id: int, name: str) -> dict[str, Any]:
    """/config.json of a node of the group."""
    return {
        "node": node_id,
        "name": name,
        "profile": group.profile,
        "link": group.link,
        "sf": group.sf,
        "sample_s": group.sample_s,
        "row_s": group.row_s,
        "report_s": group.report_s,
        "sensors": group.sensors,
        "alarms": list(group.alarms),
        "wifi": {"ssid": ACCESS_POINT[0], "password": ACCESS_POINT[1], "host": "10.0.0.1", "port": 1883},
        **group.config,
    }


def nodes(
    scenario: Scenario, *, hours: float, count: int | None, seed: int, folder: Path, driver: Path | None = None
) -> list[Member]:
    """Create every node's folder with config.json, board.json and world.bin; nothing is started. driver: folder with micropython-lib's lora/, for the
    nodes on LoRa."""
    made = []
    for index, (group, name) in enumerate(scenario.members(count)):
        home = folder / "nodes" / name
        home.mkdir(parents=True)
        node_id = FIRST_ID + index
        key = chance.number(seed, "key", name, 0).to_bytes(8, "big") + chance.number(seed, "key", name, 1).to_bytes(
            8, "big"
        )
        wiring = board(group.board)
        config = configuration(group, node_id, name)
        (home / "config.json").write_text(json.dumps(config))
        (home / "board.json").write_text(json.dumps(wiring))
        try:
            world = worlds.build(group.profile, hours + scenario.head.drain_hours, seed, name)
        except worlds.WorldEnds as e:
            raise ScenarioError(f'{scenario.name}: [[group]] "{group.name}": {e}; next: a shorter run') from e
        volts = world["battery_voltage"] = supply(group, world)
        if "battery" in wiring:
            world["battery_pin_voltage"] = series.Series(
                [(t, v / wiring["battery"]["divider"]) for t, v in volts.points]
            )
        series.write(home / "world.bin", world)
        hw = hardware(group.profile, wiring) | {"node": node_id, "chip": wiring["board"]["chip"]}
        hw["wifi_ap"] = ACCESS_POINT
        hw["wifi_down"] = [[round(w.from_h * HOUR_US), round(w.to_h * HOUR_US)] for w in scenario.wifi_down]
        hw["faults"] = _faults(scenario, group, name, hours)
        hw["wifi_rssi"] = -50 - int(30 * chance.uniform(seed, "wifi", name))
        files = {"/config.json": home / "config.json", "/board.json": home / "board.json"}
        partition = None
        real = driver if group.link == "lora" else None
        if way(group) == "romfs":
            image = image_of(group, romfs.driver_files(real, wiring["radio"]["chip"]) if real else None)
            partition = romfs.cached_partition(image)
            for i, (file, data) in enumerate(image.proven().items()):
                files[file] = home / f"slot{i}"
                files[file].write_bytes(data)
        gain = wiring.get("radio", {}).get("antenna_gain_dbi", 0)
        spec = NodeSpec(
            index=index,
            id=node_id,
            name=name,
            profile=group.profile,
            link=group.link,
            station=Station(name, _place(scenario, seed, name), gain),
            hw=hw,
            files=files,
            partition=partition,
            driver=romfs.driver_folder(real, wiring["radio"]["chip"]) if real else None,
            nvs={"citymote": {"key": key.hex(), "epoch": 0, "ceiling": 0}},
            world=home / "world.bin",
            folder=home,
            power_on=round(chance.uniform(seed, "power_on", name) * scenario.head.power_on_s * 1e6),
            cuts=_cuts(scenario, group, name, hours, seed),
            flash=1 << 20 if group.flash == "image" else 0,
            drift_ppm=_drift(group, seed, name),
            broken=dict(group.broken),
            heap=heap(group, driver=real is not None),
        )
        made.append(Member(with_supply(spec, world, wiring.get("limits", {})), group, key))
    return made


def registry(members: Iterable[Member]) -> str:
    """nodes.toml of the gateway."""
    blocks = []
    for m in members:
        lat, lon = m.spec.station.place
        blocks.append(
            f'[[node]]\nid = {m.spec.id}\nname = "{m.spec.name}"\nkey = "{m.key.hex()}"\nepoch = 0\nprofile = "{m.spec.profile}"\n'
            f'interval_s = {m.group.report_s}\nlat = {lat}\nlon = {lon}\nvisibility = "{m.group.visibility}"\n'
        )
    return "\n".join(blocks)


def gateway_config(
    scenario: Scenario, *, udp_port: int, broker: tuple[str, int], root: str = "city", gateway: str = "gw-1", wifi_root: str = "citymote"
) -> str:  # fmt: skip
    """gateway.toml beside nodes.toml; gateway/config/ reads it strictly."""
    euis = ", ".join(f'"{r.eui}"' for r in scenario.receivers)
    host, port = broker
    lora = (
        f'[link.lora]\nkind = "udp-forwarder"\nbind = "127.0.0.1:{udp_port}"\nallow = [{euis}]\n\n'
        if scenario.receivers
        else ""
    )
    return (
        f'[gateway]\nid = "{gateway}"\nstore = "gateway.db"\nregistry = "nodes.toml"\nclock = "{"lockstep" if scenario.receivers else "host"}"\n\n'
        f'{lora}[link.wifi]\nkind = "mqtt"\nbroker = "{host}:{port}"\nroot = "{wifi_root}"\n\n'
        f'[output.city]\nkind = "mqtt"\nbroker = "{host}:{port}"\nroot = "{root}"\nformats = ["native", "senml"]\n'
        # the simulation's books compare every reading, water meters' too, which no output gets unless it asks for them
        'visibility = ["open", "restricted", "personal"]\n'
        f"{operator.config(scenario)}"
    )

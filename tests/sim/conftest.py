"""A small district on the tiny firmware, with a gateway of a page: the simulator under test, nothing of the product's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from host_sim import compile as mpy
from host_sim import provision, standins
from host_sim.air import Air, Fade, Station
from host_sim.broker import Broker, free_port
from host_sim.fleet import Fleet
from host_sim.forwarder import Forwarder
from host_sim.gateway_process import GatewayProcess
from host_sim.node import Node
from host_sim.receiver import Receiver
from host_sim.scenario import Scenario, parse, unix
from host_sim.wifi import Bridge
from host_sim.zygote import Zygote

HERE = Path(__file__).resolve().parent
FAKE_GATEWAY = [sys.executable, str(HERE / "fake_gateway.py")]
HOUR_US = provision.HOUR_US

TABLE: dict[str, Any] = {
    "area": {"lat": 45.55, "lon": 13.73, "radius_m": 800},
    "receiver": [
        {"name": "rx-a", "eui": "aa555a0000000001", "lat": 45.553, "lon": 13.727},
        {"name": "rx-b", "eui": "aa555a0000000002", "lat": 45.546, "lon": 13.733},
    ],
    "group": [  # the tiny firmware is no application for an image
        {"name": "aq", "profile": "air_quality", "count": 3, "way": "mpy"},
        {"name": "w", "profile": "air_quality", "count": 1, "link": "wifi", "way": "mpy"},
    ],
}


def plan(**changes: Any) -> Scenario:
    """A four-node scenario; keyword tables replace those of TABLE."""
    from datetime import UTC, datetime

    head = {"description": "test", "start": datetime(2026, 3, 2, tzinfo=UTC), "drain_hours": 1}
    return parse("tiny", {"scenario": head, **TABLE, **changes}, "tiny.toml")


class Told:
    """Enters what nodes say of their rows: (node name, t2000, row)."""

    def __init__(self, rows: list[tuple[str, int, list[tuple[int, int]]]]) -> None:
        self._rows = rows

    def taken(self, node: Node, t2000: int, row: list[tuple[int, int]], held: bool) -> None:
        self._rows.append((node.spec.name, t2000, row))

    def persisted(self, node: Node) -> None:
        pass

    def power_cut(self, node: Node) -> None:
        pass


@dataclass
class Played:
    fleet: Fleet
    rows: list[tuple[str, int, list[tuple[int, int]]]]
    events: list[dict[str, Any]]
    folder: Path

    def node(self, name: str) -> Node:
        return next(n for n in self.fleet.nodes if n.spec.name == name)


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Played]]:
    """play(scenario, hours=..., seed=...): run the tiny firmware on it; everything is ended at teardown."""
    monkeypatch.setattr(provision, "CHIPS", dict.fromkeys(provision.CHIPS, ()))
    with ExitStack() as stack:
        broker = stack.enter_context(Broker())
        runs = 0

        def run(
            scenario: Scenario, *, hours: float, seed: int = 1, firmware: Path = HERE / "tiny", mapped: bool = True
        ) -> Played:
            nonlocal runs
            runs += 1
            folder = tmp_path / f"run{runs}"
            folder.mkdir()
            members = provision.nodes(scenario, hours=hours, count=None, seed=seed, folder=folder)
            udp = free_port()
            (folder / "gateway.toml").write_text(
                provision.gateway_config(scenario, udp_port=udp, broker=(broker.host, broker.port))
            )
            gateway = GatewayProcess(folder / "gateway.toml", command=FAKE_GATEWAY)
            stack.callback(gateway.kill)
            air = Air(
                seed, tuple(Fade(int(x.from_h * HOUR_US), int(x.to_h * HOUR_US), x.fraction) for x in scenario.losses)
            )
            receivers = [
                Receiver(
                    Station(r.name, (r.lat, r.lon), r.gain_dbi, roof=True),
                    bytes.fromhex(r.eui),
                    air,
                    Forwarder(bytes.fromhex(r.eui), ("127.0.0.1", udp)),
                    unix(scenario.head.start),
                    (1 << 32) - 5_000_000,  # the concentrators' counters wrap on the way
                )
                for r in scenario.receivers
            ]
            rows: list[tuple[str, int, list[tuple[int, int]]]] = []
            events: list[dict[str, Any]] = []
            rom = mpy.compiled(firmware)
            end = round(hours * HOUR_US)
            fleet = Fleet(
                [Node(m.spec, rom, seed) for m in members],
                air,
                receivers,
                Bridge(broker.host, broker.port),
                stack.enter_context(Zygote(standins.image() if mapped else None)),
                end=end,
                probe=Told(rows),
                on_event=events.append,
            )
            stack.callback(fleet.close)
            fleet.run_to(end)
            return Played(fleet, rows, events, folder)

        yield run

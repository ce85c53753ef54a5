"""Plays a scenario end to end: nodes on the real VM, simulated air, the real gateway, a real broker; and counts what arrived."""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from host_sim import chance, interrupt, provision, romfs, standins
from host_sim import compile as mpy
from host_sim.air import Air, Fade, Station
from host_sim.broker import Broker, BrokerError, reachable
from host_sim.collect import Collector
from host_sim.compile import CompileError, firmware_root
from host_sim.fleet import Fleet, FleetError
from host_sim.forwarder import Forwarder, GatewaySilent
from host_sim.gateway_process import Gateway, GatewayError
from host_sim.node import Node
from host_sim.operator import Operator
from host_sim.probe import Probe
from host_sim.receiver import Receiver
from host_sim.result import Result, assemble
from host_sim.scenario import CommandSpec, Scenario, ScenarioError, known, load, unix
from host_sim.torture import TortureError, torture
from host_sim.tree import RootTaken, Tree, own_root
from host_sim.wifi import TREE, Bridge, BrokerUnreachable
from host_sim.zygote import Zygote

# The simulator's face: tools import from here and from nowhere else in host_sim (tests/test_layers.py).
__all__ = [
    "Broker",
    "BrokerError",
    "BrokerUnreachable",
    "CompileError",
    "FleetError",
    "GatewayError",
    "Result",
    "RootTaken",
    "Scenario",
    "ScenarioError",
    "TortureError",
    "firmware_root",
    "known",
    "load",
    "run",
    "torture",
]

HOUR_US = provision.HOUR_US
DRAIN_STEP_US = 900_000_000
REPORTED_US = 5 * 60_000_000  # from when a report is due to when it has arrived, its slot and a retry between
UNASKED_S = 2.0  # real seconds for the downlink of a command that was accepted
ROOT = "city"

OnEvent = Callable[[dict[str, Any]], None]
Progress = Callable[[dict[str, Any]], None]


def _address(broker: str) -> tuple[str, int]:
    host, _, port = broker.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise BrokerUnreachable(f'broker "{broker}" is not HOST:PORT')
    if not reachable(host, int(port)):
        raise BrokerUnreachable(f"no MQTT broker answers at {host}:{port}; next: start it, or leave --broker out")
    return host, int(port)


def _free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(
    scenario: str | Scenario,
    *,
    hours: float | None = None,
    nodes: int | None = None,
    seed: int | None = None,
    broker: str | Broker | None = None,
    on_event: OnEvent | None = None,
    progress: Progress | None = None,
    keep: Path | None = None,
    gateway_command: list[str] | None = None,
    root: str | None = None,
    anyway: bool = False,
    driver: Path | None = None,
) -> Result:
    """Play `scenario` (a shipped name, a .toml path, or a Scenario) and return what came of it.

    hours, nodes, seed: override the file's. broker: "HOST:PORT" of a running one instead of the embedded, or a Broker that the caller has started
    and whose topics stay. root: of the topics; by default "city" at the
    embedded broker, and sim-<scenario> at another. There the root must be one that no one uses (anyway: it may be used), and the run's retained topics are removed at its end,
    however it ends. on_event gets
    dicts with "event": ready {broker, root, nodes}, boot, reset, power_cut, repl, drain, command, message {topic, payload}, left {error}: the
    retained topics could not be removed. progress gets
    {virtual_s, total_s, frames, sampled}, a few times a second. keep: folder that receives consoles, logs and the gateway's
    store. gateway_command: a program with the gateway's contract instead of it. driver: folder with micropython-lib's lora/, which nodes then send with, on
    a model of the SX1262's commands. Raises ScenarioError, BoardError, ImageError, BrokerUnreachable, RootTaken,
    BrokerError, GatewayError, FleetError, CompileError; whatever happens, nothing it started is left running.
    """
    plan = load(scenario) if isinstance(scenario, str) else scenario
    hours = plan.head.hours if hours is None else hours
    seed = plan.head.seed if seed is None else seed
    with interrupt.noted(), ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="citymote-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if keep is not None:
            stack.callback(_keep, folder, keep)
        return _Run(plan, hours, nodes, seed, folder, stack, on_event or (lambda _e: None), progress, driver).play(
            broker, gateway_command, root, anyway
        )


def _keep(folder: Path, keep: Path) -> None:
    shutil.copytree(
        folder, keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("flash.img", "world.bin", "notify.sock")
    )


class _Run:
    def __init__(
        self,
        plan: Scenario,
        hours: float,
        count: int | None,
        seed: int,
        folder: Path,
        stack: ExitStack,
        on_event: OnEvent,
        progress: Progress | None,
        driver: Path | None = None,
    ) -> None:
        self.plan, self.seed, self.folder, self.stack = plan, seed, folder, stack
        self.on_event, self.progress = on_event, progress
        self.end = round(hours * HOUR_US)
        self.hours = hours
        self.unix0 = unix(plan.head.start)
        self.members = provision.nodes(plan, hours=hours, count=count, seed=seed, folder=folder, driver=driver)
        self.probe = Probe(plan, self.members, self.end)

    def play(
        self,
        broker: str | Broker | None,
        gateway_command: list[str] | None,
        root: str | None = None,
        anyway: bool = False,
    ) -> Result:
        started = time.monotonic()
        rom = mpy.compiled(mpy.firmware_root())
        own = broker if isinstance(broker, Broker) else None
        address = (own.host, own.port) if own else _address(broker) if isinstance(broker, str) else self._broker()
        self.root, gateway_id, self.wifi_root = root or ROOT, "gw-1", TREE
        if isinstance(broker, str):
            tree = Tree(*address, root or own_root(self.plan.name), [m.spec.name for m in self.members])
            tree.claim(anyway)
            self.stack.callback(self._clear, tree)  # behind the gateway's end, which publishes once more
            self.root, gateway_id, self.wifi_root = tree.root, tree.gateway, tree.root
        udp = _free_udp_port()
        (self.folder / "nodes.toml").write_text(provision.registry(self.members))
        config = self.folder / "gateway.toml"
        config.write_text(
            provision.gateway_config(
                self.plan, udp_port=udp, broker=address, root=self.root, gateway=gateway_id, wifi_root=self.wifi_root
            )
        )
        collector = Collector(*address, self.root)
        collector.on_message = lambda topic, payload: self.on_event(
            {"event": "message", "topic": topic, "payload": payload}
        )
        collector.start()
        self.stack.callback(collector.stop)
        wifi = any(m.spec.link == "wifi" for m in self.members) and gateway_command is None
        if self.plan.gateway_clock and gateway_command is None:
            gateway_command = [sys.executable, "-m", "host_sim.set_gateway", "run"]
        gateway = Gateway(config, gateway_command, ["wifi"] if wifi else [])
        self.stack.callback(gateway.kill)
        fleet = self._fleet(rom, udp, address)
        self._plan_outages(fleet, gateway, collector)
        self._plan_commands(fleet, address, collector)
        self.on_event({"event": "ready", "broker": address, "root": self.root, "nodes": [m.spec for m in self.members]})
        try:
            fleet.run_to(self.end)
            drained = self._drain(fleet, collector)
        except GatewaySilent as e:
            raise GatewayError(f"{'the gateway died' if gateway.dead else e}\n{gateway.tail()}") from e
        fleet.close()
        self.probe.close()
        if fleet.gateway_up:
            gateway.stop()
            interrupt.wait_event(collector.offline, 5)
        self._settle(collector, quiet_s=3.0)
        return assemble(
            self.plan,
            self.seed,
            self.members,
            fleet,
            collector.books,
            self.probe,
            end=self.end,
            drained=drained,
            wall_s=time.monotonic() - started,
        )

    def _clear(self, tree: Tree) -> None:
        try:
            tree.clear()
        except BrokerUnreachable as e:
            self.on_event({"event": "left", "error": str(e)})

    def _plan_outages(self, fleet: Fleet, gateway: Gateway, collector: Collector) -> None:
        """End the gateway process and start it again at the scenario's times; at the end of the run it is back at the latest."""

        def down(t: int, kill: bool) -> None:
            if kill:
                gateway.kill()
            else:
                gateway.stop()
            interrupt.wait_event(collector.offline, 5)  # its own word, or its will
            fleet.gateway_gone()
            self.on_event({"event": "gateway_down", "t": t, "kill": kill})

        def back(t: int) -> None:
            collector.offline.clear()
            gateway.start()
            fleet.gateway_back(t)
            self.on_event({"event": "gateway_back", "t": t})

        for spec in self.plan.gateway_down:
            if spec.from_h < self.hours:
                fleet.at(round(spec.from_h * HOUR_US), partial(down, kill=spec.kill))
                fleet.at(min(round(spec.to_h * HOUR_US), self.end), back)

    def _plan_commands(self, fleet: Fleet, address: tuple[str, int], collector: Collector) -> None:
        """Let people ask at the scenario's times."""
        if not self.plan.commands:
            return
        operator = Operator(*address, self.root, collector.books, self.unix0)
        self.stack.callback(operator.close)

        links = {m.spec.name: m.spec.link for m in self.members}

        def ask(t: int, nth: int, spec: CommandSpec) -> None:
            fleet.tell_time(t)
            answered = operator.ask(nth, spec, t)
            if links[spec.node] == "wifi":  # it listens all the time: the command is on its way already
                fleet.unasked(t, UNASKED_S)
            self.on_event({"event": "command", "t": t, "node": spec.node, "name": spec.name, "answered": answered})

        for nth, spec in enumerate(self.plan.commands, 1):
            if spec.at_h < self.hours:
                fleet.at(round(spec.at_h * HOUR_US), partial(ask, nth=nth, spec=spec))

    def _broker(self) -> tuple[str, int]:
        embedded = Broker()
        self.stack.callback(embedded.close)
        return embedded.host, embedded.port

    def _fleet(self, rom: Path, udp: int, address: tuple[str, int]) -> Fleet:
        fades = tuple(
            Fade(round(x.from_h * HOUR_US), round(x.to_h * HOUR_US), x.fraction, x.receivers) for x in self.plan.losses
        )
        air = Air(self.seed, fades, self.plan.area.shadow_db)
        receivers = [
            Receiver(
                Station(r.name, (r.lat, r.lon), r.gain_dbi, roof=True),
                bytes.fromhex(r.eui),
                air,
                Forwarder(bytes.fromhex(r.eui), ("127.0.0.1", udp)),
                self.unix0,
                chance.number(self.seed, "tmst", r.name) & 0xFFFFFFFF,
                self._ahead_us,
            )
            for r in self.plan.receivers
        ]
        wifi = any(m.spec.link == "wifi" for m in self.members)
        zygote = self.stack.enter_context(Zygote(standins.image()))
        fleet = Fleet(
            [Node(m.spec, self._rom(m, rom), self.seed) for m in self.members],
            air,
            receivers,
            Bridge(*address, root=self.wifi_root) if wifi else None,
            zygote,
            end=self.end,
            probe=self.probe,
            on_event=self.on_event,
            on_progress=self._progress,
        )
        self.stack.callback(fleet.close)
        return fleet

    def _ahead_us(self, t: int) -> int:
        """By how much the gateway's clock is ahead at virtual time t."""
        for c in self.plan.gateway_clock:
            if c.from_h * HOUR_US <= t < c.to_h * HOUR_US:
                return round(c.offset_s * 1e6 + (t - c.from_h * HOUR_US) * c.rate)
        return 0

    def _rom(self, member: provision.Member, rom: Path) -> Path:
        """The folder that stands for the node's flash root."""
        if member.spec.partition is not None:
            return romfs.root_folder()
        return mpy.with_faults(mpy.firmware_root(), member.spec.broken) if member.spec.broken else rom

    def _progress(self, fleet: Fleet) -> None:
        if self.progress is not None:
            self.progress(
                {
                    "virtual_s": fleet.now / 1e6,
                    "total_s": self.end / 1e6,
                    "frames": fleet.air.stats.frames,
                    "sampled": len(self.probe.truth.readings),
                }
            )

    def _settle(self, collector: Collector, quiet_s: float = 0.7, most_s: float = 15.0) -> bool:
        """Wait in real time until everything sampled has arrived, or nothing arrives any more; True when complete."""
        deadline = time.monotonic() + most_s
        count, since = -1, time.monotonic()
        while time.monotonic() < deadline:
            interrupt.check()
            if not self.probe.truth.missing(collector.readings):
                return True
            if len(collector.readings) != count:
                count, since = len(collector.readings), time.monotonic()
            elif time.monotonic() - since > quiet_s:
                return False
            time.sleep(0.05)
        return False

    def _drain(self, fleet: Fleet, collector: Collector) -> int:
        """Let the nodes run on until everything sampled before the end has arrived; return the virtual us it took.

        A sleeping node's last rows are in RTC memory, where the probe does not see them: they are known when its next report has been due.
        """
        self.on_event({"event": "drain", "t": self.end})
        last = self.end + round(self.plan.head.drain_hours * HOUR_US)
        reports = [m.group.report_s for m in self.members if m.group.config.get("mode") == "sleep"]
        seen = self.end + (max(reports) * 1_000_000 + REPORTED_US if reports else 0)
        now = self.end
        complete = self._settle(collector)
        while (not complete or now < seen) and now < last:
            heard = fleet.heard
            now = min(now + DRAIN_STEP_US, last)
            fleet.run_to(now)
            complete = fleet.heard != heard and self._settle(collector)
        return now - self.end

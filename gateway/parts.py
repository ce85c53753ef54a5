"""What a configuration may change while the gateway runs: links and outputs, each with apply(), which leaves alone what is unchanged.

Order of a change: what can fail first (a port that is taken), and then only what cannot. So a refused reload has changed nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import structlog

from gateway import followers
from gateway.backoff import Backoff
from gateway.clock import Clock
from gateway.commands import CommandRim
from gateway.config import Config, MqttLinkConfig, MqttOutputConfig, OutputConfig, UdpForwarderConfig
from gateway.core.model import Node
from gateway.core.shape import Entry
from gateway.health import Problem, Since, twin
from gateway.links.link import Link, LinkError, Reject, unheard
from gateway.links.mqtt_link import MqttLink
from gateway.links.udp_forwarder import UdpForwarderLink
from gateway.metrics import Metrics
from gateway.outputs.build import build
from gateway.outputs.destination import Destination
from gateway.outputs.held import PREFIX
from gateway.outputs.leaving import Leaving
from gateway.outputs.mqtt import MqttOutput, place_of
from gateway.pipeline import Pipeline
from gateway.store.engine import Engine, StoreError
from gateway.store.ledger import Place
from gateway.supervise import Kept, Watch

if TYPE_CHECKING:
    from gateway.outputs.folders import Folders

AWAY_S = 30.0
STALLED_S = 60.0
RETIRE_S = 5.0

NO_PLACES: Mapping[str, Place] = {}

log = structlog.get_logger(__name__)

LinkConfig = UdpForwarderConfig | MqttLinkConfig


@runtime_checkable
class Part(Protocol):
    """What follows the configuration: followers of the pipeline, request handlers. apply() must not fail for what `check` accepts."""

    async def apply(self, config: Config) -> None:
        """Make this configuration the one in force."""
        ...


class Links:
    """All links by name. places: where each listens."""

    def __init__(
        self,
        gateway: str,
        pipeline: Pipeline,
        clock: Clock,
        metrics: Metrics,
        watch: Watch,
        rejected: Reject = unheard,
    ) -> None:
        self._gateway, self._pipeline, self._clock, self._metrics = gateway, pipeline, clock, metrics
        self._watch, self._rejected = watch, rejected
        self._links: dict[str, tuple[LinkConfig, Link]] = {}
        self._since = Since()
        self.places: dict[str, str] = {}

    async def apply(self, wanted: Sequence[LinkConfig]) -> None:
        """Open, change and close links. Raises LinkError, and then nothing has changed."""
        new: list[tuple[LinkConfig, Link, str]] = []
        later: list[LinkConfig] = []
        try:
            for config in wanted:
                known = self._links.get(config.name)
                if known is not None and (known[0] == config or _same_socket(known[0], config)):
                    continue
                if isinstance(config, MqttLinkConfig):
                    later.append(config)  # a broker takes the second of one name for the first: close that before
                    continue
                link = self._make(config)
                new.append((config, link, await link.start()))
        except LinkError:
            for _, link, _ in new:
                await link.close()
            raise
        names = {config.name for config in wanted}
        replaced = {config.name for config, _, _ in new} | {config.name for config in later}
        for name in [n for n in self._links if n not in names or n in replaced]:
            _, old = self._links.pop(name)
            await old.stop()
            self._pipeline.flush()
            await old.close()
            self._pipeline.detach(name)
            self.places.pop(name, None)
        for config in wanted:  # those that keep their socket
            known = self._links.get(config.name)
            if known is not None and known[0] != config and isinstance(config, UdpForwarderConfig):
                assert isinstance(known[1], UdpForwarderLink)
                known[1].use(config)
                self._enter(config, known[1], self.places[config.name])
        for config, link, place in new:
            self._enter(config, link, place)
        for config in later:
            link = self._make(config)
            self._enter(config, link, "")
            self.places[config.name] = await link.start()

    def _make(self, config: LinkConfig) -> Link:
        p = self._pipeline
        if isinstance(config, MqttLinkConfig):
            return MqttLink(config, self._gateway, p.deliver, self._clock, self._metrics, self._watch, self._rejected)
        return UdpForwarderLink(config, p.deliver, p.flush, self._clock, self._metrics, self._watch)

    def _enter(self, config: LinkConfig, link: Link, place: str) -> None:
        self._links[config.name] = config, link
        self.places[config.name] = place
        self._pipeline.attach(link, config.collect_ms / 1000 if isinstance(config, UdpForwarderConfig) else 0.0)

    def problems(self) -> Iterator[Problem]:
        """Say which links are away."""
        for name, (_, link) in self._links.items():
            away = self._since.held(name, not getattr(link, "connected", True))
            if away > AWAY_S:
                yield Problem(
                    "link_away",
                    f"link {name} ({self.places[name]}) has been away for {away:.0f} s",
                    "nodes keep their frames; look at the log's lines link_unreachable; start the broker or correct the link's broker"
                    if isinstance(link, MqttLink)
                    else "nodes keep their frames; free the port, or change the link's bind",
                )
            if isinstance(link, MqttLink):
                yield from _twin(f"link {name}", link.client_id, link.backoff)
            else:
                yield from link.problems() if isinstance(link, UdpForwarderLink) else ()

    async def stop(self) -> None:
        """Take no more frames."""
        for _, link in self._links.values():
            await link.stop()

    async def close(self) -> None:
        """Let go of everything."""
        for _, link in self._links.values():
            await link.close()


def _same_socket(a: LinkConfig, b: LinkConfig) -> bool:
    return (
        isinstance(a, UdpForwarderConfig) and isinstance(b, UdpForwarderConfig) and (a.host, a.port) == (b.host, b.port)
    )


class Commands:
    """The way in for commands, over the broker of one output; nothing without [commands]."""

    def __init__(self, pipeline: Pipeline, metrics: Metrics, watch: Watch) -> None:
        self._pipeline, self._metrics, self._watch = pipeline, metrics, watch
        self._wired: tuple[Any, ...] | None = None
        self._rim: CommandRim | None = None
        self._kept: Kept | None = None
        self._since = Since()
        self._names: set[str] = set()

    async def apply(self, config: Config) -> None:
        """Follow policy, registry, and the broker through which people ask."""
        c, o = config.commands, config.asked_through()
        if c is None or o is None:
            return
        self._pipeline.configure(c.policy, config.nodes)
        self._names.clear()
        self._names.update(n.name for n in config.nodes.values())
        wired = (o.broker, o.root, config.id, c.console)
        if wired != self._wired:
            await self.cancel()
            self._wired, self._rim = (
                wired,
                CommandRim(*wired, self._pipeline.ask, self._metrics, self._names.__contains__),
            )
            self._pipeline.answered = self._rim.answer
            self._kept = self._watch.keep("commands", self._rim.run)

    async def up(self, seconds: float) -> None:
        """Wait until requests can come in, at most so long."""
        if self._rim is not None:
            await self._rim.up(seconds)

    def problems(self) -> Iterator[Problem]:
        """Say that nothing can be ordered."""
        away = self._since.held("rim", self._rim is not None and not self._rim.connected.is_set())
        if away > AWAY_S:
            yield Problem(
                "commands_away", f"nothing can be ordered for {away:.0f} s", "start the broker or correct the output"
            )
        if self._rim is not None:
            yield from _twin("the way in for commands", self._rim.client_id, self._rim.backoff)

    async def cancel(self) -> None:
        """Take no more requests."""
        if self._kept is not None:
            await self._kept.stop()


class Rules:
    """What follows from readings: built anew when rules or registry change, and going on from its notes."""

    def __init__(self, pipeline: Pipeline, config: Config) -> None:
        self._pipeline, self._inputs = pipeline, (config.rules, config.nodes)

    async def apply(self, config: Config) -> None:
        """Follow rules.toml and the registry."""
        inputs = config.rules, config.nodes
        if inputs != self._inputs:
            self._inputs = inputs
            self._pipeline.refollow(followers.build(*inputs))


class Outputs:
    """All destinations by name, each with its task."""

    def __init__(
        self,
        gateway: str,
        engine: Engine,
        metrics: Metrics,
        info: Callable[[], dict[str, Any]],
        watch: Watch | None = None,
    ) -> None:
        self._gateway, self._engine, self._metrics, self._info = gateway, engine, metrics, info
        self._watch = Watch(metrics) if watch is None else watch
        self._configs: dict[str, OutputConfig] = {}
        self._all: dict[str, Destination] = {}
        self._tasks: dict[str, Kept] = {}
        self._since = Since()
        self._cursors: dict[str, int] = {}
        self._told: dict[str, float] = {}
        self._leaving = Leaving(gateway, engine, metrics, self._mqtt)
        self._folders: Folders | None = None  # the same of folders, where there is one

    def __iter__(self) -> Iterator[Destination]:
        return iter(list(self._all.values()))

    async def apply(
        self,
        wanted: Sequence[OutputConfig],
        nodes: Mapping[int, Node],
        areas: Mapping[str, Entry],
        now: float,
        kept: bool = False,
        links: Sequence[LinkConfig] = (),
        absent: Iterable[str] = (),
    ) -> None:
        """Start, change and end destinations; an unchanged one does not even notice. Cursors of the same name go on.

        areas: by name, what rules.toml gathers; links: their logins may be needed where an output was. What has gone from registry, areas and
        outputs is noted in the ledger first (kept: that is done). absent: names of outputs that are not there and have not gone.
        """
        configs = {c.name: c for c in wanted}
        gone = [name for name, config in self._configs.items() if configs.get(name) != config]
        former = {name: self._configs[name] for name in gone}
        stay = {getattr(c, "root", None) for name, c in configs.items() if name not in gone}
        roots = {name: getattr(c, "root", None) for name, c in former.items()}
        await asyncio.gather(
            *(self._retire(name, configs.get(name), roots[name] is not None and roots[name] in stay) for name in gone)
        )
        for destination in self._mqtt() if gone else ():
            destination.greet()  # a last will, or an older gateway's good-bye, may have come before
        if not kept:
            await self.keep(wanted, nodes, areas, now)
        brokers = [c.broker for c in links if isinstance(c, MqttLinkConfig)]
        self._leaving.follow([*former.values()], wanted, nodes, brokers)
        await self._leave(former, configs, nodes, absent)
        for destination in self:
            destination.reload(nodes)
        for name, config in configs.items():
            if name not in self._all:
                destination = build(config, self._gateway, self._engine, self._metrics, self._info, nodes)
                self._configs[name], self._all[name] = config, destination
                if isinstance(destination, MqttOutput):
                    destination.resync.neighbours.others = lambda: [o.resync for o in self._mqtt()]
                self._tasks[name] = self._watch.keep(f"output {name}", destination.run)

    async def keep(
        self,
        wanted: Sequence[OutputConfig],
        nodes: Mapping[int, Node],
        areas: Mapping[str, Entry],
        now: float,
        stay: Mapping[str, Place] = NO_PLACES,
    ) -> None:
        """Note in the ledger what has gone from registry, areas and outputs, and what is another device now. stay: places of outputs that
        are not there and have not gone."""
        ledger = self._engine.ledger
        places = {**stay} | {
            place.key: place for c in wanted if isinstance(c, MqttOutputConfig) for place in [place_of(c)]
        }
        try:
            await ledger.keep_id(self._gateway)
            changed = await ledger.keep_registry(nodes, areas, now)
            await ledger.keep_places(places)
        except StoreError as e:  # compared again at the next reload or start
            log.error("ledger_not_kept", error=str(e), next=e.hint or "look at the disk, then reload")
            return
        if changed:
            log.info("registry_changed", subjects=changed)
            self.wake()

    async def _leave(
        self,
        former: Mapping[str, OutputConfig],
        configs: Mapping[str, OutputConfig],
        nodes: Mapping[int, Node],
        absent: Iterable[str],
    ) -> None:
        """Have the running day of folders that are left become files."""
        if self._folders is None and self._engine.notes(PREFIX):
            from gateway.outputs.folders import Folders  # few need it

            self._folders = Folders(self._gateway, self._engine, self._metrics)
        if self._folders is not None:
            await self._folders.follow(configs, former, nodes, absent)

    def _mqtt(self) -> list[MqttOutput]:
        return [o for o in self if isinstance(o, MqttOutput)]

    async def _retire(self, name: str, successor: OutputConfig | None, shared: bool) -> None:
        """End one. shared: another output publishes the gateway's state under the same root. It says good-bye only where nobody takes its place: state must not flap to offline for another filter."""
        old, task, config = self._all.pop(name), self._tasks.pop(name), self._configs.pop(name)
        self._metrics.outputs.pop(name, None)
        task.may_end()
        if successor is None or _place(successor) != _place(config):
            try:
                async with asyncio.timeout(RETIRE_S):
                    await old.farewell(state=not shared)
            except TimeoutError:
                log.warning("output_left", output=name, next="its broker did not answer; it will tell `offline` itself")
        await task.stop()
        await old.retire()

    def may_end(self) -> None:
        """From now on the end of a destination's task is in order."""
        for task in self._tasks.values():
            task.may_end()

    def wake(self) -> None:
        """Tell all that the spool has grown."""
        for destination in self._all.values():
            destination.wake()

    def reject(self, body: dict[str, Any]) -> None:
        """Tell all why a frame was refused."""
        for destination in self._all.values():
            destination.reject(body)

    def states(self) -> dict[str, tuple[bool, int]]:
        """Return (connected, events behind) of each."""
        newest = self._engine.newest()
        return {name: (o.connected, newest - o.cursor) for name, o in self._all.items()}

    def problems(self) -> Iterator[Problem]:
        """Say which destinations are away, and which take nothing though they are there."""
        for name, o in self._all.items():
            behind = self._engine.newest() - o.cursor
            away = self._since.held(name, not o.connected and not o.untried)
            if self._cursors.get(name) != o.cursor:
                self._cursors[name] = o.cursor
                self._since.forget((name, "stalled"))
            stalled = self._since.held((name, "stalled"), o.connected and behind > 0)
            if away > AWAY_S:
                why, what = o.away or ("", "data are kept in the store; start the broker or correct the output")
                yield Problem(
                    "output_away",
                    f"output {name} has been away for {away:.0f} s, {behind} events wait for it{': ' if why else ''}{why}",
                    what,
                )
            elif stalled > STALLED_S:
                yield Problem(
                    "output_stalled",
                    f"output {name} is connected but has taken nothing for {stalled:.0f} s, {behind} events wait",
                    "look at the broker's log and disk; restart it",
                )
            yield from o.problems()
        if self._folders is not None:
            yield from self._folders.problems()
        yield from self._leaving.problems()

    def tell(self, leaf: str, body: dict[str, Any], every_s: float, changed: bool) -> None:
        """Publish gw/<gw>/<leaf> where a destination has a place for it: when it has changed, every so often, and to who is back."""
        now = time.monotonic()
        for name, o in self._all.items():
            if not o.connected:
                self._told.pop(name, None)
            elif changed or now - self._told.get(name, float("-inf")) >= every_s:
                self._told[name] = now
                o.tell(leaf, body)

    async def cancel(self) -> None:
        """End all tasks."""
        if self._folders is not None:
            await self._folders.cancel()
        await asyncio.gather(*(task.stop() for task in self._tasks.values()), self._leaving.cancel())


def _twin(part: str, client_id: str, backoff: Backoff) -> Iterator[Problem]:
    if backoff.taken_over:
        yield twin(part, client_id)


def _place(config: OutputConfig) -> tuple[Any, ...]:
    return type(config), getattr(config, "broker", None), getattr(config, "root", None)

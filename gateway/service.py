"""The gateway as a process: starts store, outputs and links in that order, ends them in reverse, and says so.

READY means that the links listen and the store takes commits; a broker that is away does not delay it, since its data are kept.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from gateway import __version__, followers, logs
from gateway.clock import Clock, ForwarderClock, HostClock
from gateway.commands import CommandRim
from gateway.config import Config, ConfigError, MqttLinkConfig, load
from gateway.core.commands import Desk
from gateway.links.link import Link, LinkError
from gateway.links.mqtt_link import MqttLink
from gateway.links.udp_forwarder import UdpForwarderLink
from gateway.metrics import Metrics
from gateway.notify import notify, watchdog_s
from gateway.outputs.build import build
from gateway.outputs.destination import Destination
from gateway.outputs.message import iso
from gateway.pipeline import Pipeline
from gateway.store.engine import StoreError
from gateway.store.sqlite import SqliteEngine

TICK_S = 0.5
STUCK_S = 20.0
PURGE_S = 600.0
SPOOL_KEEP_S = 24 * 3600
OUTPUT_READY_S = 2.0
GC_THRESHOLDS = (10_000, 20, 20)

log = structlog.get_logger(__name__)


class Service:
    """One gateway. run() returns after stop() has drained it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.metrics = Metrics()
        self._stopping = asyncio.Event()
        self._started = datetime.now(UTC).timestamp()
        self._progress = (0, time.monotonic())

    def stop(self, why: str) -> None:
        """Ask for the end; a second call changes nothing."""
        if not self._stopping.is_set():
            log.info("stopping", why=why)
            notify("STOPPING=1")
            self._stopping.set()

    async def run(self) -> None:
        """Work until stop(). Raises StoreError or LinkError when it cannot start."""
        c = self.config
        clock: Clock = ForwarderClock() if c.clock == "forwarder" else HostClock()
        engine = SqliteEngine(c.store, [o.name for o in c.outputs])
        outputs: list[Destination] = []
        tasks: list[asyncio.Task[None]] = []
        links: list[Link] = []
        try:
            outputs += [build(o, c.id, engine, self.metrics, self._info, c.nodes) for o in c.outputs]

            def committed() -> None:
                for o in outputs:
                    o.wake()

            def rejected(body: dict[str, Any]) -> None:
                told = {**body, "t": iso(clock.now())}
                for o in outputs:
                    o.reject(told)

            desk = Desk(c.nodes, c.commands.policy) if c.commands else None
            pipeline = Pipeline(
                c.nodes, engine, clock, self.metrics, committed, rejected, followers.build(c.rules, c.nodes), desk
            )
            pipeline.introduce()
            await pipeline.settle()
            tasks += [asyncio.create_task(o.run(), name=f"output-{o.name}") for o in outputs]
            places: dict[str, str] = {}
            for lc in c.links:
                link: Link
                if isinstance(lc, MqttLinkConfig):
                    link = MqttLink(lc, c.id, pipeline.deliver, clock, self.metrics)
                    pipeline.attach(link, 0.0)
                else:
                    link = UdpForwarderLink(lc, pipeline.deliver, pipeline.flush, clock, self.metrics)
                    pipeline.attach(link, lc.collect_ms / 1000)
                places[lc.name] = await link.start()
                links.append(link)
            o = c.asked_through()
            if c.commands is not None and o is not None:
                rim = CommandRim(o.broker, o.root, c.id, c.commands.console, pipeline.ask, self.metrics)
                pipeline.answered = rim.answer
                tasks.append(asyncio.create_task(rim.run(), name="commands"))
                await rim.up(OUTPUT_READY_S)
            await self._outputs_up(outputs)
            # the registry lives as long as we do: the collector need not walk over it, nor look after every 700 allocations
            gc.collect()
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLDS)
            log.info("ready", version=__version__, gateway=c.id, nodes=len(c.nodes), links=places,
                     outputs={o.name: "connected" if o.connected else "waiting" for o in outputs})  # fmt: skip
            notify("READY=1\nSTATUS=" + ", ".join(f"{k} on {v}" for k, v in places.items()))
            await self._work(pipeline, engine, clock, tasks)
            await self._end(pipeline, engine, links, outputs)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for link in links:
                await link.close()
            engine.close()
        log.info("stopped", **self.metrics.snapshot())

    async def _outputs_up(self, outputs: list[Destination]) -> None:
        """Give the brokers a moment, so that READY usually means published too."""
        deadline = time.monotonic() + OUTPUT_READY_S
        while not all(o.connected for o in outputs) and time.monotonic() < deadline and not self._stopping.is_set():
            await asyncio.sleep(0.02)

    async def _work(
        self, pipeline: Pipeline, engine: SqliteEngine, clock: Clock, tasks: list[asyncio.Task[None]]
    ) -> None:
        """The loop that proves that we work: presence, watchdog, housekeeping."""
        every = watchdog_s()
        fed = purged = time.monotonic()
        while not self._stopping.is_set():
            try:
                async with asyncio.timeout(TICK_S):
                    await self._stopping.wait()
            except TimeoutError:
                pass
            for task in tasks:
                if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                    raise error
            pipeline.check_presence()
            pipeline.tick()
            self.metrics.gauges.update(
                pending=pipeline.pending, spool_newest=engine.newest(), store_waiting=engine.waiting
            )
            now = time.monotonic()
            if every is not None and now - fed >= min(every, TICK_S * 2) and self._moves(engine, now):
                notify("WATCHDOG=1")
                fed = now
            if now - purged >= PURGE_S:
                engine.purge(clock.now() - SPOOL_KEEP_S)
                purged = now

    def _moves(self, engine: SqliteEngine, now: float) -> bool:
        """True while the writer either has nothing to do or gets on with it."""
        if not engine.waiting or engine.transactions != self._progress[0]:
            self._progress = (engine.transactions, now)
        return now - self._progress[1] < STUCK_S

    async def _end(
        self, pipeline: Pipeline, engine: SqliteEngine, links: list[Link], outputs: list[Destination]
    ) -> None:
        for link in links:
            await link.stop()
        await pipeline.settle()
        drains = [asyncio.create_task(o.drain(), name=f"drain-{o.name}") for o in outputs]
        if drains:
            _, late = await asyncio.wait(drains, timeout=self.config.drain_s)
            for task in late:
                task.cancel()
                name = task.get_name().removeprefix("drain-")
                behind = engine.newest() - next(o.cursor for o in outputs if o.name == name)
                log.warning(
                    "not_drained",
                    output=name,
                    events=behind,
                    next="they are kept and will be sent after the next start",
                )
            await asyncio.gather(*late, return_exceptions=True)
        await asyncio.gather(*(o.farewell() for o in outputs))

    def _info(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "started": iso(self._started),
            "nodes": len(self.config.nodes),
            "counters": self.metrics.snapshot(),
        }


def complain(error: ConfigError | StoreError | LinkError) -> None:
    """Print what is wrong and what to do next."""
    print(f"error: {error}", file=sys.stderr)
    if error.hint:
        print(f"next: {error.hint}", file=sys.stderr)


async def _main(config: Config) -> None:
    service = Service(config)
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, service.stop, signal.Signals(sig).name)
    await service.run()


def run(file: Path, level: str = "info") -> int:
    """Run the gateway until SIGTERM or SIGINT; return the exit code: 0 ended in order, 1 could not work, 2 bad configuration."""
    try:
        config = load(file)
    except ConfigError as e:
        complain(e)
        return 2
    logs.setup(level)
    try:
        asyncio.run(_main(config))
    except (StoreError, LinkError) as e:
        complain(e)
        return 1
    return 0


def check(file: Path) -> int:
    """Read the configuration and the registry; print what a run would do. Exit code 0, or 2 with the complaint."""
    try:
        c = load(file)
    except ConfigError as e:
        complain(e)
        return 2
    links = ", ".join(link.name for link in c.links)
    outputs = ", ".join(f"{o.name} ({o.describe()})" for o in c.outputs)
    print(f"{c.file}: gateway {c.id}, {len(c.nodes)} nodes, links {links}, outputs {outputs}, store {c.store}")
    return 0

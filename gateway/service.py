"""The gateway as a process: starts store, outputs and links in that order, ends them in reverse, and says so.

READY means that the links listen and the store takes commits; a broker that is away does not delay it, since its data are kept.
"""

from __future__ import annotations

import asyncio
import gc
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from gateway import __version__, followers, logs, reloading, states
from gateway.caretaker import Caretaker
from gateway.clock import Clock, clock_of
from gateway.config import Config, ConfigError, load
from gateway.config.advice import Finding, findings, key_findings
from gateway.core.commands import Desk
from gateway.core.rate import Rates
from gateway.core.value import replace
from gateway.health import Health, Problem
from gateway.http import HttpServer
from gateway.links.link import LinkError
from gateway.metrics import Metrics
from gateway.notify import Notifier, watchdog_s
from gateway.outputs.message import iso
from gateway.parts import Commands, Links, Outputs, Part, Rules
from gateway.pipeline import Pipeline
from gateway.reload import Reloads
from gateway.store.engine import StoreError
from gateway.store.sqlite import SqliteEngine
from gateway.supervise import Kept, Watch, caught
from gateway.taken import Taken
from gateway.trouble import Flood, Rising
from gateway.verbs import complain
from gateway.withheld import Shrunk, areas_of

TICK_S = 0.5
STUCK_S = 20.0
OUTPUT_READY_S = 2.0
GOODBYE_S = 60  # for what is not the outputs' drain: commits that wait, farewells, closing the store
GC_THRESHOLDS = (10_000, 20, 20)
TELL_S = 60.0
DRAIN_STEP_S = 0.5
DRAIN_AWAY_S = 2.0  # an output that is away for so long at the end is not waited for
STEP_TOLD_S = 3600.0
THREADS = 64  # name look-ups and connects of dead brokers wait in threads, and must not keep a live one waiting

log = structlog.get_logger(__name__)


class Service:
    """One gateway. run() returns after stop() has drained it. level: of the log, instead of the configuration's; bad_keys: what is wrong
    with the keys of this configuration, where that is known already; accept: a registry that lacks most of the nodes is meant so.
    parts: what else follows the configuration; health: who may be ill."""

    def __init__(
        self, config: Config, level: str | None = None, bad_keys: list[Finding] | None = None, accept: bool = False
    ) -> None:
        self.config = config
        self._level, self._accept = level, accept
        self._shrunk = Shrunk()
        self.metrics = Metrics()
        self.watch = Watch(self.metrics)
        self.health = Health()
        self._notifier = Notifier()
        self._instance = secrets.token_hex(8)  # of this process: another one under our id is another gateway
        self.parts: list[Part] = []
        self._stopping = asyncio.Event()
        self._reloads = Reloads(
            self.metrics,
            lambda: self.config,
            self._apply,
            self._notifier.say,
            self._line,
            self._reloaded,
            shrunk=self._shrunk,
        )
        self._started = datetime.now(UTC).timestamp()
        self._began = time.monotonic()
        self._did: dict[str, int] = {}  # by the last reload
        self._progress = (0, time.monotonic())
        self._ready = False
        self._bad_keys = key_findings(config) if bad_keys is None else bad_keys
        self._steps, self._stepped_at = 0, float("-inf")
        self._flood = Flood()
        self._commits_failed = Rising()
        self._taken = Taken(self.metrics)
        self._http: HttpServer | None = None

    def stop(self, why: str) -> None:
        """Ask for the end; a second call changes nothing."""
        if not self._stopping.is_set():
            log.info("stopping", why=why)
            # drain_s may be longer than the unit's TimeoutStopSec=, which would end the drain with SIGKILL
            self._notifier.say(
                f"STOPPING=1\nEXTEND_TIMEOUT_USEC={(self.config.gateway.drain_s + GOODBYE_S) * 1_000_000}"
            )
            self._stopping.set()

    def reload(self) -> None:
        """Ask for the configuration to be read again; asked twice while it is being read, it is read twice."""
        self._reloads.want()

    async def run(self) -> None:
        """Work until stop(). Raises StoreError or LinkError when it cannot start."""
        c = self.config
        self._clock: Clock = clock_of(c.gateway.clock)
        self._engine = engine = SqliteEngine(
            c.store, [o.name for o in c.outputs], c.keep, lambda: self._clock.now(), c.id
        )
        self._outputs = outputs = Outputs(c.id, engine, self.metrics, self._info, self.watch)
        self._caretaker = Caretaker(engine, self.metrics, outputs.wake, self._clock.now)
        reloads: Kept | None = None
        links: Links | None = None
        commands: Commands | None = None

        def rejected(body: dict[str, Any]) -> None:
            outputs.reject({**body, "t": iso(self._clock.now())})

        try:
            self.config = c = self._shrunk.look(c, engine.ledger, self._accept, engine.described)
            engine.use_outputs(self._shrunk.outputs(c))
            engine.use_limits(c.keep)
            whole, areas = self._shrunk.whole(c.nodes), self._shrunk.gathered(c)
            rates = Rates(c.gateway.node_burst, c.gateway.node_rate)
            desk = Desk(c.nodes, c.commands.policy, partial(caught, self.metrics, "commands")) if c.commands else None
            self._pipeline = pipeline = Pipeline(
                c.nodes,
                engine,
                self._clock,
                self.metrics,
                outputs.wake,
                rejected,
                followers.build(c.rules, whole, not self._shrunk.rules),
                desk,
                rates,
            )
            self._commands = commands = Commands(pipeline, self.metrics, self.watch)
            self.parts += [commands, Rules(pipeline, c)]
            self._links = links = Links(c.id, pipeline, self._clock, self.metrics, self.watch, rejected)
            self.health.sources += [
                self._own_problems,
                pipeline.problems,
                self._caretaker.problems,
                outputs.problems,
                links.problems,
                commands.problems,
                self._reloads.problems,
                self._shrunk.problems,
                self.watch.problems,
                logs.problems,
            ]
            # first: a number that is another device's now begins with an empty state
            await outputs.keep(c.outputs, whole, areas, self._clock.now(), self._shrunk.places)
            pipeline.introduce()
            await pipeline.settle()
            pipeline.reread()
            await outputs.apply(
                c.outputs, whole, areas, self._clock.now(), kept=True, links=c.links, absent=self._shrunk.absent
            )
            if c.http is not None:
                self._http = self._server(c)
                links.places["http"] = await self._http.start()
            await links.apply(c.links)
            for part in self.parts:
                await part.apply(c)
            await commands.up(OUTPUT_READY_S)
            await self._outputs_up()
            self.metrics.outputs = outputs.states()
            await self._shrunk.keep(self._shrunk.was)
            self._ready = True
            gc.collect()
            gc.freeze()  # the registry lives as long as we do: the collector need not walk over it
            log.info("ready", version=__version__, gateway=c.id, nodes=len(c.nodes), links=links.places,
                     outputs={o.name: "connected" if o.connected else "untried" if o.untried else "waiting" for o in outputs})  # fmt: skip
            await asyncio.to_thread(sys.stderr.flush)  # whoever waits for READY finds in the log where we listen
            self._notifier.say("READY=1\nSTATUS=" + self._sound())
            reloads = self.watch.keep("reload", self._reloads.run)
            await self._work()
            await reloads.stop()
            await self._end()
        finally:
            self._ready = False
            if reloads is not None:
                await reloads.stop()
            if self._http is not None:
                await self._http.close()
            await outputs.cancel()
            if commands is not None:
                await commands.cancel()
            if links is not None:
                await links.close()
            engine.close()
        log.info("stopped", **self.metrics.snapshot())

    async def _outputs_up(self) -> None:
        """Give the brokers a moment, so that READY usually means published too."""
        deadline = time.monotonic() + OUTPUT_READY_S
        while (
            not all(o.connected or o.untried for o in self._outputs)
            and time.monotonic() < deadline
            and not self._stopping.is_set()
        ):
            await asyncio.sleep(0.02)

    async def _work(self) -> None:
        """The loop that proves that we work: presence, watchdog, housekeeping, and what is told of it."""
        every = watchdog_s()
        fed = time.monotonic()
        codes: list[str] = []
        while not self._stopping.is_set():
            try:
                async with asyncio.timeout(TICK_S):
                    await self._stopping.wait()
            except TimeoutError:
                pass
            self.watch.step("presence", self._pipeline.check_presence)
            self.watch.step("what is due", self._pipeline.tick)
            now = time.monotonic()
            self.watch.step("counters", partial(self._count, now))
            moves = self._moves(now)  # looked at in every turn, watchdog or not: health rests on it too
            if every is not None and now - fed >= min(every, TICK_S * 2) and moves and self.watch.alive:
                self._notifier.say("WATCHDOG=1")
                fed = now
            self.watch.step("health", lambda now=now: self._tell(codes))
            # a clock that was set ahead must not make history old: whoever set it gets an hour to notice
            self.watch.step(
                "housekeeping", lambda now=now: self._caretaker.tick(now, now - self._stepped_at > STEP_TOLD_S)
            )

    def _count(self, now: float) -> None:
        """Bring what is derived from counters up to date."""
        if self.metrics.totals["clock_steps"] != self._steps:
            self._steps, self._stepped_at = self.metrics.totals["clock_steps"], now
        self._flood.tick(sum(self.metrics.refused.values()), now)
        self._commits_failed.tick(self.metrics.refused["store_failed"], now)
        self._taken.tick(now)
        self.metrics.outputs = self._outputs.states()
        if lines := logs.dropped():
            self.metrics.totals["log_dropped"] = lines
        self.metrics.gauges.update(
            pending=self._pipeline.pending, spool_newest=self._engine.newest(), store_waiting=self._engine.waiting,
            notify_dropped=self._notifier.dropped,
        )  # fmt: skip

    def _tell(self, codes: list[str]) -> None:
        """Say what is wrong to who started us, the log and the outputs. codes: what was wrong the last time; brought up to date."""
        problems = self.health.problems()
        now_wrong = [p.code for p in problems]
        self._notifier.again()
        self._notifier.status(self.health.line(problems, self._sound()), ",".join(now_wrong))
        changed = codes != now_wrong
        codes[:] = now_wrong
        if changed:
            log.log(30 if problems else 20, "health", status=self.health.status(problems),
                    problems=[p.text for p in problems])  # fmt: skip
        self._outputs.tell("health", self._health_document(), TELL_S, changed)

    def _moves(self, now: float) -> bool:
        """True while the writer either has nothing to do or gets on with it."""
        if not self._engine.waiting or self._engine.transactions != self._progress[0]:
            self._progress = (self._engine.transactions, now)
        return now - self._progress[1] < STUCK_S

    # reload

    async def _apply(self, c: Config) -> None:
        """Put in force what has changed. Raises ConfigError or LinkError, and then nothing has."""
        before, began = self.config, time.monotonic()
        bad_keys = await asyncio.to_thread(key_findings, c)
        for key in ("id", "store", "clock"):
            if getattr(c.gateway, key) != getattr(before.gateway, key):
                raise ConfigError(
                    f"{c.file}: gateway.{key} has changed, which a running gateway cannot follow",
                    "restart the gateway, or put the old value back and reload again",
                )
        if (c.commands is None) != (before.commands is None):
            raise ConfigError(
                f"{c.file}: [commands] has {'gone' if c.commands is None else 'come'}, which a running gateway cannot follow",
                "restart the gateway, or put the table back as it was and reload again",
            )
        changed_keys = await self._pipeline.changed_keys(c.nodes)
        if changed_keys:
            text, hint = states.tell(changed_keys)
            raise ConfigError(f"{c.gateway.registry}: {text}", hint)
        server = self._http
        place = self._links.places.get("http")
        if c.http != before.http:
            server = self._server(c) if c.http is not None else None
            place = await server.start() if server is not None else None
        try:
            await self._links.apply(c.links)
        except LinkError:
            if server is not None and server is not self._http:
                await server.close()
            raise
        # from here on nothing may fail
        if server is not self._http:
            if self._http is not None:
                await self._http.close()
            self._http = server
        if place is None:
            self._links.places.pop("http", None)
        else:
            self._links.places["http"] = place
        logs.apply(replace(c.log, level=self._level or c.log.level))
        self._pipeline.limit(c.gateway.node_burst, c.gateway.node_rate)
        self._engine.use_outputs(o.name for o in c.outputs)
        self._engine.use_limits(c.keep)
        confirmed = bool(self._shrunk.missing) or self._shrunk.rules
        self._shrunk.end()
        self._pipeline.leave(c.nodes)
        await self._outputs.apply(c.outputs, c.nodes, areas_of(c, c.nodes), self._clock.now(), links=c.links)
        changed = await self._pipeline.use(c.nodes)
        if confirmed and (c.rules, c.nodes) == (
            before.rules,
            before.nodes,
        ):  # they were built for the nodes that were withheld, too
            self._pipeline.refollow(followers.build(c.rules, c.nodes))
        self.config = c
        self._bad_keys = bad_keys
        for part in (*(f for f in self._pipeline.followers if isinstance(f, Part)), *self.parts):
            await part.apply(c)
        self.metrics.totals["reloads"] += 1
        self._did = {"nodes": len(c.nodes), "changed": changed, "gone": len(before.nodes.keys() - c.nodes.keys())}
        log.info("reloaded", nodes=len(c.nodes), changed_nodes=changed, links=self._links.places,
                 outputs=[o.name for o in c.outputs], seconds=round(time.monotonic() - began, 3))  # fmt: skip

    def _reloaded(self, began: float, mistakes: list[tuple[str, str]]) -> None:
        reloading.report(began, mistakes, self.config.store, self._did)

    # what is told

    def _line(self) -> str:
        return self.health.line(self.health.problems(), self._sound())

    def _sound(self) -> str:
        where = ", ".join(f"{k} on {v}" for k, v in self._links.places.items())
        return f"{len(self.config.nodes)} nodes; {where}"

    def _own_problems(self) -> Iterator[Problem]:
        now = time.monotonic()
        if now - self._progress[1] >= STUCK_S:
            yield Problem("store_stuck", f"the store has not committed for {now - self._progress[1]:.0f} s",
                          "look at the disk (dmesg); the watchdog will restart the gateway", "failing")  # fmt: skip
        told = self._engine.full or self._engine.moved[0]  # which is told by its name
        if self._commits_failed.recent(now) and not told:
            yield Problem("store_failed", "the store refuses commits, so no frame is acknowledged",
                          "look at free disk space (df) and the log above; nodes keep their frames", "failing")  # fmt: skip
        yield from self._clock.problems()
        yield from self._pipeline.clock_problems()
        if self._bad_keys:
            more = f" (and {len(self._bad_keys) - 1} more)" if self._bad_keys[1:] else ""
            yield Problem(self._bad_keys[0].code, self._bad_keys[0].text + more,
                          "citymote gateway check names all of them; " + self._bad_keys[0].hint)  # fmt: skip
        if now - self._stepped_at < STEP_TOLD_S:
            yield Problem("clock_stepped", "the clock was set while the gateway ran",
                          "look at the host's time service (timedatectl), with clock = \"forwarder\" at the receivers'")  # fmt: skip
        if self._flood.up(now):
            yield Problem("flood", f"{self._flood.per_s:.0f} frames a second are refused",
                          "citymote_refused in /metrics says why; reject messages and the log name nodes and links")  # fmt: skip

    def _health_document(self) -> dict[str, Any]:
        problems = self.health.problems()
        told = self._clock.now()
        return {
            "status": self.health.status(problems),
            "t": iso(told),
            "until": iso(told + 3 * TELL_S),
            "uptime": int(time.monotonic() - self._began),
            "problems": [{"code": p.code, "level": p.level, "text": p.text, "next": p.next} for p in problems],
            "outputs": {name: {"connected": up, "behind": n} for name, (up, n) in self._outputs.states().items()},
            "pending": self._pipeline.pending,
        }

    def _server(self, c: Config) -> HttpServer:
        assert c.http is not None

        def health() -> tuple[bool, dict[str, Any]]:
            document = self._health_document()
            return document["status"] != "failing", document

        def ready() -> tuple[bool, dict[str, Any]]:
            good = (
                self._ready and not self._stopping.is_set() and self.health.status(self.health.problems()) != "failing"
            )
            return good, {"ready": good}

        return HttpServer(c.http, self.metrics, health, ready)

    async def _end(self) -> None:
        await self._links.stop()
        await self._pipeline.settle()
        self._taken.tell(time.monotonic())
        self._outputs.may_end()
        outputs = {o.name: o for o in self._outputs}
        drains = {asyncio.create_task(o.drain(), name=f"drain-{name}"): name for name, o in outputs.items()}
        waiting, began = set(drains), time.monotonic()
        gone: dict[str, float] = {}
        while waiting and time.monotonic() - began < self.config.gateway.drain_s:
            _, waiting = await asyncio.wait(waiting, timeout=DRAIN_STEP_S)
            self._notifier.say("WATCHDOG=1")  # a drain may last longer than the watchdog waits
            now = time.monotonic()
            for task in list(waiting):  # who is away takes nothing, however long it is waited for
                name = drains[task]
                if outputs[name].connected or outputs[name].untried:
                    gone.pop(name, None)
                elif now - gone.setdefault(name, now) >= DRAIN_AWAY_S:
                    waiting.discard(task)
        late = [task for task in drains if not task.done()]
        for task in late:
            task.cancel()
            name = drains[task]
            behind = self._engine.newest() - outputs[name].cursor
            if not behind:
                continue  # only its cursor was not written down yet: at most SPAN events come twice
            log.warning(
                "not_drained",
                output=name,
                events=behind,
                away=not outputs[name].connected,
                next="they are kept and will be sent after the next start",
            )
        ended = [*await asyncio.gather(*drains, return_exceptions=True)]
        ended += await asyncio.gather(*(o.farewell() for o in outputs.values()), return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):  # cancelled ones were said above
                caught(self.metrics, "the end", error)

    def _info(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "instance": self._instance,
            "started": iso(self._started),
            "nodes": len(self.config.nodes),
            "counters": self.metrics.snapshot(),
            "store": self._caretaker.info(),
        }


async def _main(config: Config, level: str | None, bad_keys: list[Finding], accept: bool) -> None:
    service = Service(config, level, bad_keys, accept)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, "away"))
    # not loop.add_signal_handler(): the closing loop would give SIGHUP its default back, which kills a process that has ended in order
    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, lambda n, _frame: loop.call_soon_threadsafe(service.stop, signal.Signals(n).name))
    signal.signal(signal.SIGHUP, lambda _n, _frame: loop.call_soon_threadsafe(service.reload))
    try:
        await service.run()
    finally:
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(sig, signal.SIG_IGN)


def _may_pass(e: ConfigError) -> bool:
    """True when a file could not be read for a reason that is not in the configuration: a disk that fails, too many open files, a mount that is late."""
    return isinstance(e.__cause__, OSError) and not isinstance(e.__cause__, (FileNotFoundError, IsADirectoryError))


def run(file: Path, level: str | None = None, accept: bool = False) -> int:
    """Run the gateway until SIGTERM or SIGINT; return the exit code: 0 ended in order, 1 could not work (again later), 2 bad
    configuration (again only when it has been corrected)."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # one that comes before we listen must not kill us
    gc.set_threshold(*GC_THRESHOLDS)  # a registry of 25,000 nodes is walked over again and again while it is read
    try:
        config = load(file)
    except ConfigError as e:
        complain(e)
        return 1 if all(map(_may_pass, (e, *e.more))) else 2
    logs.setup(replace(config.log, level=level or config.log.level))
    bad_keys = key_findings(config)
    for f in findings(config, bad_keys):
        log.warning("configuration_doubtful", code=f.code, text=f.text, next=f.hint)
    try:
        asyncio.run(_main(config, level, bad_keys, accept))
    except (StoreError, LinkError) as e:
        complain(e)
        return 1
    return 0

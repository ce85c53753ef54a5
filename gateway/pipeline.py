"""From a reception to a committed decision and its answer: puts the rooms together and holds the order between them.

    intake (parse .. derive) -> commit (copies, disk) -> downlinks (answer)      beside them: presence, reread, order_desk

Decide in memory, wait a moment for copies through other receivers (LoRa), commit in one transaction, and only then answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import structlog

from gateway.clock import Clock
from gateway.commit import Commits
from gateway.core.authorise import Policy
from gateway.core.commands import Desk
from gateway.core.decide import introduced, news_of
from gateway.core.follow import Follower
from gateway.core.model import Decision, Event, Node, Reception
from gateway.core.rate import Rates
from gateway.core.registry import strictest
from gateway.derivation import Derivation
from gateway.downlinks import Downlinks, Due
from gateway.health import Problem
from gateway.intake import Intake
from gateway.links.link import Link
from gateway.metrics import Metrics
from gateway.order_desk import OrderDesk
from gateway.presence import Presence
from gateway.reread import Reread
from gateway.states import ChangedKey, States, changed_keys
from gateway.store.engine import Engine, Write
from gateway.work import Work

INTRODUCED_AT_ONCE = 500  # nodes, in one commit

log = structlog.get_logger(__name__)


class Pipeline:
    """deliver() is what links call; everything runs in one event loop. committed() is called with the spool grown;
    rejected() with a public description of every refusal."""

    def __init__(
        self,
        nodes: Mapping[int, Node],
        engine: Engine,
        clock: Clock,
        metrics: Metrics,
        committed: Callable[[], None],
        rejected: Callable[[dict[str, Any]], None],
        followers: Sequence[Follower] = (),
        desk: Desk | None = None,
        rates: Rates | None = None,
    ) -> None:
        self._engine, self._clock, self._metrics, self._grown = engine, clock, metrics, committed
        self._states = states = States(nodes, engine, desk.as_configured if desk is not None else lambda node: node)
        self._derivation = derivation = Derivation(engine, metrics, followers, desk)
        self._commits = commits = Commits(engine, states, metrics)
        self._orders = orders = OrderDesk(desk, states, commits, clock, metrics)
        orders.wipe = engine.wipe
        self.downlinks = orders.downlinks = Downlinks(engine, clock, metrics, orders.unsent)
        rates = Rates(1000, 1) if rates is None else rates
        self._intake = Intake(states, engine, clock, metrics, rates, derivation, orders, commits.put, rejected)
        self._presence = Presence(states, engine, derivation, commits, clock)
        self._reread = Reread(states, engine, derivation, commits, metrics)
        commits.committed, commits.answer = self._committed, self._answer
        commits.finished, commits.forget = self._finished, self._forget
        self._intake.witnesses.floor = self._presence.newest
        self._intake.shift_s = self._shift_s
        self.downlinks.knows_time = self._knows_time
        orders.time.at_nodes, orders.time.passed, orders.time.elapsed = self._at_nodes, self._passed, clock.elapsed
        clock.on_step = self._stepped

    def attach(self, link: Link, collect_s: float) -> None:
        """Make a link known; collect_s is how long its frames wait for copies."""
        self.downlinks.links[link.name] = link
        self._commits.collect_s[link.name] = collect_s

    def detach(self, name: str) -> None:
        """A link is gone."""
        self.downlinks.links.pop(name, None)
        self._commits.collect_s.pop(name, None)

    # frames

    def deliver(self, rx: Reception) -> asyncio.Future[None] | None:
        """Take one reception; the future resolves when it is committed and answered. None: refused, or long done."""
        return self._intake.deliver(rx)

    @property
    def pending(self) -> int:
        """Decisions that are not committed and answered yet."""
        return self._intake.pending

    def problems(self) -> Iterator[Problem]:
        """Return under whose names frames are forged, and whose keys are not those that they were."""
        yield from self._intake.problems()
        yield from self._states.problems(self._clock.now())

    def flush(self) -> None:
        """Wait for no further copies: hand what was decided to the store."""
        self._commits.flush()

    def _committed(self, writes: list[Write]) -> None:
        for write in writes:
            self._derivation.notebook.committed(write.notes)
        self._grown()
        self._orders.committed(writes)

    def _answer(self, w: Work) -> None:
        event, heard = w.decision.event, w.heard
        if event is not None:
            self._metrics.totals["committed"] += 1
            self._metrics.totals["rows"] += len(event.times)
            if w.decision.state.replay.too_old(event.counter):
                self._metrics.totals["below_floor"] += 1
            self._metrics.heard.add(w.node.id)
            log.debug(  # a line for every frame would be 650 MB a day with 25,000 nodes: taken.py tells once a minute
                "uplink_committed", node=w.node.name, counter=w.decision.counter, kind=event.kind, rows=len(event.times),
                link=event.link, copies=heard.copies if heard else 1,
            )  # fmt: skip
            self._intake.committed(w)
            self._presence.watch(w.node.id, w.decision.state)
            if event.kind == "status" and w.decision.state.schemas:
                self.reread(w.node.id)
        answer = w.decision.answer
        if answer is None or heard is None:
            return
        node = w.node.under(w.decision.state.epoch)
        self.downlinks.answer(Due(node, w.decision.counter, answer, heard.best, w.offer, w.kind))

    def _finished(self, _work: Work) -> None:
        self._intake.pending -= 1

    def _forget(self) -> None:
        self._states.forget()
        self._intake.forget()
        self._derivation.reload()

    # time

    def _shift_s(self, now: float) -> float:
        witnesses = self._intake.witnesses
        shift_s = witnesses.shift_s(now)
        return 0.0 if shift_s and self._clock.is_set and not witnesses.former else shift_s

    def _knows_time(self) -> bool:
        return not self._intake.witnesses.doubt(self._clock.now()) or self._clock.is_set

    def _at_nodes(self, now: float) -> float | None:
        """Return the time that nodes go by when the host's clock shows `now`; None while no one knows it."""
        shift_s = self._shift_s(now)
        return now + shift_s if shift_s or self._knows_time() else None

    def _passed(self, now: float) -> float:
        """Return a time that has passed for sure: the host's clock alone may have been set wrong for a moment, a time service is believed."""
        passed = now + min(self._shift_s(now), 0.0)
        return passed if self._clock.is_kept else min(passed, self._engine.believed())

    def clock_problems(self) -> Iterable[Problem]:
        """Return what nodes' frames say of the gateway's own clock."""
        now = self._clock.now()
        doubt = self._intake.witnesses.doubt(now)
        if not doubt or self._clock.judges_alone:
            return
        told = (
            "they are given the time, since the clock was set" if self._clock.is_set else "nodes are not given the time"
        )
        why = {
            "unset": "the clock shows a time that is long over, so it was not set since the start",
            "behind": "the clock is behind: frames of most nodes are stamped ahead of it",
            "ahead": "the clock is ahead: frames of most nodes are stamped months before it",
        }[doubt]
        yield Problem(
            f"clock_{doubt}",
            f"{why}; {told}",
            "set the host's clock (timedatectl), or use gateway.clock forwarder where receivers know the time",
        )

    def _stepped(self, seconds: float) -> None:
        """The host's clock was set: what is counted from receive times starts anew, what was sent stays as long ago as it was."""
        self._metrics.totals["clock_steps"] += 1
        log.warning("clock_stepped", seconds=round(seconds, 1), next="look at the host's time service (timedatectl)")
        self._intake.stepped(seconds)
        self.downlinks.stepped(seconds)
        self._presence.stepped()
        self._derivation.stepped(seconds)

    def tick(self) -> None:
        """Let the followers do what is due by now; on a full disk it stays due."""
        if self._engine.full:
            return
        self._orders.commit(self._derivation.tick(self._clock.now()))
        self._orders.tick()

    def check_presence(self, limit: int = 1000) -> None:
        """Declare nodes offline whose time is up; costs only as much as there is to do."""
        self._presence.check(limit)

    def reread(self, number: int | None = None) -> None:
        """Try once more to read frames kept because of an unknown schema: a node's, when it announces what it sends; all, at the start."""
        self._reread.want(number)

    # commands

    def ask(self, requester: str, node: str, body: bytes) -> str:
        """Take a request of someone the broker vouches for (OrderDesk.ask)."""
        return self._orders.ask(requester, node, body)

    @property
    def answered(self) -> Callable[[Event], None]:
        """Gets every committed step of a command."""
        return self._orders.answered

    @answered.setter
    def answered(self, to: Callable[[Event], None]) -> None:
        self._orders.answered = to

    # configuration

    def introduce(self) -> None:
        """Publish metadata of nodes whose registry entry is new or changed (start-up only: O(nodes))."""
        nodes = list(self._states.nodes.values())
        for i in range(0, len(nodes), INTRODUCED_AT_ONCE):
            self._introduce(nodes[i : i + INTRODUCED_AT_ONCE])

    def _introduce(self, nodes: Sequence[Node]) -> None:
        now, states = self._clock.now(), self._states
        before, fresh = states.described([n.id for n in nodes]), self._engine.fresh()
        states.compare(nodes, before)
        decided: list[tuple[int, Decision]] = []
        for n in nodes:
            node, last = states.known(n.id), before.get(n.id)
            news = news_of(node, last or fresh)
            if news is not None:
                state = fresh if last is None else states.state(n.id)
                decided.append((n.id, introduced(node, state, now, *news)))
        if decided:
            self._commits.commit([Write(number, d.state, d.event) for number, d in decided], [])
            for number, d in decided:  # held by now: the newest state stays in memory until it is on disk
                states.keep(number, d.state)

    def leave(self, nodes: Mapping[int, Node]) -> None:
        """Know no node any more that another registry lacks, or has another device for: what was decided of it goes to the store, and nothing is decided behind that.

        Its state is read from there when it returns, since its alarms have ended in the store by then.
        """
        self.flush()
        stay = {n: node for n, node in self._states.nodes.items() if n in nodes and not _replaced(node, nodes[n])}
        for number in self._states.nodes.keys() - stay.keys():
            self._states.drop(number)
        self._states.nodes = stay

    async def changed_keys(self, nodes: Mapping[int, Node]) -> list[ChangedKey]:
        """Return what another registry gives a new key under an epoch that a former key has used."""
        states, found = self._states, []
        news = [n for n in nodes.values() if (old := states.nodes.get(n.id)) is None or old.secrets != n.secrets]
        for i in range(0, len(news), INTRODUCED_AT_ONCE):
            part = news[i : i + INTRODUCED_AT_ONCE]
            found += changed_keys(part, states.described([n.id for n in part]))
            await asyncio.sleep(0)
        return found

    async def use(self, nodes: Mapping[int, Node]) -> int:
        """Use another registry; return how many entries are new or changed. Frames that are decided keep the entry they had."""
        changed = [node for number, node in nodes.items() if self._states.nodes.get(number) != node]
        self._states.nodes = nodes
        for i in range(0, len(changed), INTRODUCED_AT_ONCE):
            part = changed[i : i + INTRODUCED_AT_ONCE]
            self._introduce(part)
            for node in part:
                self._presence.changed(node.id, self._states.state(node.id))
            await asyncio.sleep(0)
        return len(changed)

    def configure(self, policy: Policy, nodes: Mapping[int, Node]) -> None:
        """Use another policy of commands. Whether there are commands at all is decided at the start."""
        self._orders.configure(policy, nodes)

    def refollow(self, followers: Sequence[Follower]) -> None:
        """Replace the followers; each continues from the notes under its name."""
        self._derivation.use(followers)

    def limit(self, burst: int, per_s: float) -> None:
        """Change what one node may bring."""
        self._intake.rates.burst, self._intake.rates.per_s = burst, per_s

    @property
    def followers(self) -> Sequence[Follower]:
        """Who follows decisions."""
        return self._derivation.followers

    async def settle(self) -> None:
        """Flush and wait until every decision is committed (or has failed) and answered."""
        self.flush()
        while self._commits.in_flight or self._reread.task is not None:
            if self._reread.task is not None:
                await asyncio.wait([self._reread.task])
                self._reread.settled()
            if self._commits.in_flight:
                await asyncio.wait(self._commits.in_flight)
            await asyncio.sleep(0)  # let the callbacks of those futures run


def _replaced(old: Node, new: Node) -> bool:
    """True when a number may be another device's now, or its key another's (store/ledger_registry.py decides): its state is read from the store again.

    So it is when more may see the node: which rows were taken before is noted there, and none may be decided in between."""
    other_key = new.key not in (old.key, old.next_key) or new.epoch not in (old.epoch, old.next_epoch)
    renamed = old.name != new.name and old.secrets != new.secrets
    return other_key or renamed or strictest(old.visibility, new.visibility) != new.visibility

"""From a reception to a committed decision and its answer: the rim's side of `decide`.

Order of things: decide in memory, wait a moment for copies through other receivers (LoRa), commit in one transaction, and only
then answer. A failed commit forgets every state decided since, so that nothing is acknowledged that is not on disk.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import structlog
from motewire.frame import ALARM, MAX_FRAME, max_frame

from gateway import crypto
from gateway.clock import Clock
from gateway.core import downlink
from gateway.core.authorise import Policy
from gateway.core.commands import Desk, Offer
from gateway.core.decide import decide, goes_offline, introduce, offline_at, reread
from gateway.core.dedupe import Heard, Recent
from gateway.core.follow import Follow, Follower
from gateway.core.lockout import Lockout
from gateway.core.model import Decision, Event, Node, NodeState, Reception, Refusal
from gateway.core.rate import Rates
from gateway.core.receive import Header, parse
from gateway.downlinks import Downlinks, Due
from gateway.links.link import Link
from gateway.metrics import Metrics
from gateway.notebook import Notebook
from gateway.store.engine import Engine, RawFrame, StoreError, Write

MAX_PENDING = 20_000
ALARM_RESERVE = 1_000  # places beyond MAX_PENDING that only alarms may take
MAX_STATES = 4096
INTRODUCED_AT_ONCE = 500  # nodes, in one commit
RESUME_S = 1.0
REREAD = 64  # frames in one transaction

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Work:
    """A decided frame on its way to the disk and back to the node."""

    node: Node
    header: Header
    decision: Decision
    done: asyncio.Future[None]
    heard: Heard[_Work | None] | None = None
    more: tuple[Event, ...] = ()
    notes: Mapping[str, bytes | None] = field(default_factory=dict)
    offer: Offer | None = None


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
        self._nodes, self._engine, self._clock, self._metrics = nodes, engine, clock, metrics
        self._committed, self._rejected = committed, rejected
        self._desk = desk
        self._followers = followers if desk is None else (*followers, desk)
        self.answered: Callable[[Event], None] = lambda _event: None  # gets every committed step of a command
        self._listening: dict[int, Reception] = {}  # nodes that are always there (WiFi), and how they were heard last
        self._notebook = Notebook(engine)
        self._reload()
        self._loop = asyncio.get_running_loop()
        self.downlinks = Downlinks(engine, clock, metrics, self._unsent)
        self._collect_s: dict[str, float] = {}
        self._recent: Recent[_Work | None] = Recent()
        self._lockout = Lockout()
        self._rates = Rates(1000, 20) if rates is None else rates
        self._began = clock.now()
        self._presumed = 0.0  # nobody counts as silent for longer than since here: the clock was set
        self._states: OrderedDict[int, NodeState] = OrderedDict()
        self._busy: dict[int, int] = {}  # nodes with decisions that are not committed yet
        self._collecting: list[_Work] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._in_flight: set[asyncio.Future[int]] = set()
        self._pending = 0
        self._generation = 0
        self._deadlines: list[tuple[float, int]] = []
        self._watched: set[int] = set()
        self._quiet_until = 0.0  # nobody is declared offline before this
        self._rereads: list[int | None] = []
        self._rereading: asyncio.Task[None] | None = None
        for number, state in engine.online():
            self._watch(number, state)
        clock.on_step = self._stepped

    def attach(self, link: Link, collect_s: float) -> None:
        """Make a link known; collect_s is how long its frames wait for copies."""
        self.downlinks.links[link.name] = link
        self._collect_s[link.name] = collect_s

    @property
    def pending(self) -> int:
        """Decisions that are not committed and answered yet."""
        return self._pending

    # frames

    def deliver(self, rx: Reception) -> asyncio.Future[None] | None:
        """Take one reception; the future resolves when it is committed and answered. None: refused, or long done."""
        heard = self._recent.copy_of(rx)
        if heard is not None:
            self._metrics.totals["copies"] += 1
            return heard.work.done if heard.work is not None else None
        self._metrics.frames[rx.link] += 1
        if self._pending >= MAX_PENDING + ALARM_RESERVE:
            self._refuse(rx, Refusal("overload"))
            return None
        work = self._decide(rx)
        if isinstance(work, Refusal):
            self._refuse(rx, work)
            if work.reason not in ("overload", "rate_limited"):  # these are to be tried again when they come again
                self._recent.enter(rx, None)
            return None
        work.heard = self._recent.enter(rx, work)
        self._pending += 1
        self._hold(work.node.id)
        self._collecting.append(work)
        wait = self._collect_s.get(rx.link, 0.0)
        due = self._loop.time() + wait
        if self._timer is None or due < self._timer_due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._timer_due = self._loop.call_later(wait, self.flush), due
        return work.done

    def _decide(self, rx: Reception) -> _Work | Refusal:
        header = parse(rx.data)
        if isinstance(header, Refusal):
            return header
        node = self._node(header.node)
        if node is None:
            return Refusal("unknown_node", header.node)
        alarm = header.kind == ALARM
        if self._engine.full and not alarm:
            return Refusal("disk_full", node.id)  # not answered: the node keeps it
        if self._pending >= MAX_PENDING and not alarm:
            return Refusal("overload", node.id)
        if not self._lockout.may_try(node.id, header.is_long, rx.received):
            return Refusal("locked_out", node.id)
        decision = decide(node, self._state(node.id), header, rx, crypto.opener)
        if decision.refusal is not None:
            if decision.refusal.reason == "bad_tag":
                self._lockout.failed(node.id, header.is_long, rx.received)
            if decision.event is None and decision.answer is None:
                return decision.refusal
        # charged once it is authentic, so that nobody spends another's; and repeats, which anybody can record and send, apart
        if not self._rates.take(node.id, "repeat" if decision.event is None else "alarm" if alarm else "", rx.received):
            return Refusal("rate_limited", node.id)
        if decision.refusal is not None:
            self._refuse(rx, decision.refusal, kept=decision.event is not None)
        self._keep(node.id, decision.state)
        follow, offer = Follow(), None
        # what is older than the replay state may be a repeat, which only the store can tell: nothing follows from it
        if not decision.state.replay.too_old(decision.counter):
            if decision.event is not None:
                follow = self._follow(node, decision.event)
            if rx.radio is None:
                self._listening[node.id] = rx
            else:
                self._listening.pop(node.id, None)
            if decision.answer is not None and self._desk is not None:
                limit = MAX_FRAME if rx.radio is None else max_frame(rx.radio.sf)
                offer = self._offer(self._desk, node, decision.state, limit, rx.received)
                if offer is not None:
                    follow = _joined([follow, offer.follow])
        return _Work(node, header, decision, self._loop.create_future(), None, follow.events, follow.notes, offer)

    def _follow(self, node: Node, event: Event) -> Follow:
        return self._noted([f.follow(node, event) for f in self._followers])

    def _noted(self, follows: Sequence[Follow]) -> Follow:
        joined = _joined(follows)
        self._notebook.add(joined.notes)
        self._metrics.refused.update(joined.refused)
        return joined

    def _reload(self) -> None:
        self._notebook.forget()
        for f in self._followers:
            f.load(self._notebook.of(f.name))

    # commands

    def _node(self, number: int) -> Node | None:
        """Return a node of the registry, as it is configured now."""
        node = self._nodes.get(number)
        return node if node is None or self._desk is None else self._desk.as_configured(node)

    def _configured(self, number: int) -> Node:
        node = self._node(number)
        assert node is not None
        return node

    def _offer(self, desk: Desk, node: Node, state: NodeState, limit: int, now: float) -> Offer | None:
        node = node.under(state.epoch)
        return desk.offer(node, limit - downlink.overhead(node), now, (state.epoch, state.replay.next - 1))

    def ask(self, requester: str, node: str, body: bytes) -> str:
        """Take a request of someone the broker vouches for; it is answered on the node's ack topic once it is committed.

        Returns how it was judged (gateway.core.commands.Desk.request), which is counted.
        """
        assert self._desk is not None
        follow, judged = self._desk.request(requester, node, body, self._clock.now())
        if judged in ("accepted", "again"):
            self._metrics.totals[f"commands_{judged}"] += 1
        else:
            self._metrics.refused[f"command_{judged}"] += 1
        log.info("command_asked", requester=requester, node=node, judged=judged)
        self._commit_follow(follow, self._push)
        return judged

    def _commit_follow(self, follow: Follow, then: Callable[[], None] | None = None) -> None:
        if follow.events or follow.notes:
            self._commit([Write(0, None, None, None, follow.events, follow.notes)], [], then)

    def _push(self) -> None:
        """Send what is due to the nodes that listen all the time; counted as sent, and committed, before it leaves."""
        if self._desk is None:
            return
        now = self._clock.now()
        for number in self._desk.waiting():
            rx, node = self._listening.get(number), self._node(number)
            if rx is None or node is None or number in self._busy:
                continue
            state = self._state(number)
            offer = self._offer(self._desk, node, state, MAX_FRAME, now)
            if offer is None:
                continue
            state = replace(state, down=state.down + 1)
            self._keep(number, state)
            write = Write(number, state, None, None, offer.follow.events, offer.follow.notes)
            self._commit([write], [], partial(self.downlinks.push, node.under(state.epoch), state.down, rx, offer))

    def _unsent(self, offer: Offer, why: str) -> None:
        assert self._desk is not None
        self._metrics.totals["commands_held"] += 1
        self._commit_follow(self._desk.unsent(offer.key, why))

    def tick(self) -> None:
        """Let the followers do what is due by now; on a full disk it stays due."""
        if self._engine.full:
            return
        now = self._clock.now()
        follow = self._noted([f.tick(now) for f in self._followers])
        self._commit_follow(follow)
        if self._desk is not None:
            self._push()
            self._metrics.gauges["commands_open"] = self._desk.open

    def _refuse(self, rx: Reception, refusal: Refusal, kept: bool = False) -> None:
        self._metrics.refused[refusal.reason] += 1
        node = self._nodes.get(refusal.node) if refusal.node is not None else None
        log.info(
            "uplink_refused", reason=refusal.reason, node=refusal.node, link=rx.link, detail=refusal.detail or None
        )
        body: dict[str, Any] = {"reason": refusal.reason, "link": rx.link}
        if node is not None:
            body["node"] = node.name
        elif refusal.node is not None:
            body["node_id"] = refusal.node
        self._rejected(body)
        if refusal.keep and not kept and not self._engine.full:
            self._engine.quarantine(rx.data, refusal.reason, rx.received)

    def flush(self) -> None:
        """Wait for no further copies: hand what was decided to the store."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        works, self._collecting = self._collecting, []
        if works:
            self._commit([self._write(w) for w in works], works)

    def _write(self, w: _Work) -> Write:
        event, rx = w.decision.event, w.heard.best if w.heard else None
        if event is None or rx is None or w.heard is None:
            return Write(w.node.id, w.decision.state, None, None, w.more, w.notes)
        if w.heard.copies > 1:
            event = replace(event, receiver=rx.receiver, rssi=rx.rssi, snr=rx.snr, copies=w.heard.copies)
        reason = w.decision.refusal.reason if w.decision.refusal else ""
        raw = RawFrame(
            w.node.id,
            event.epoch,
            event.counter,
            w.header.kind,
            rx.data,
            event.received,
            rx.link,
            rx.receiver,
            rx.rssi,
            rx.snr,
            reason,
        )
        return Write(w.node.id, w.decision.state, event, raw, w.more, w.notes)

    def _commit(
        self, writes: list[Write], works: list[_Work], then: Callable[[], None] | None = None
    ) -> asyncio.Future[int]:
        """Hand writes to the store; `then` is called once they are on disk, and not when they never get there."""
        generation = self._generation
        if not works:  # decisions without a frame: their states must stay in memory until they are on disk all the same
            for w in writes:
                self._hold(w.node)
        future = self._engine.commit(writes)
        self._in_flight.add(future)
        future.add_done_callback(lambda f: self._after(f, generation, writes, works, then))
        return future

    def _after(
        self,
        future: asyncio.Future[int],
        generation: int,
        writes: list[Write],
        works: list[_Work],
        then: Callable[[], None] | None,
    ) -> None:
        self._in_flight.discard(future)
        if not works:
            for write in writes:
                self._release(write.node)
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._failed(error, generation, len(works))
        else:
            for write in writes:
                self._notebook.committed(write.notes)
            self._committed()
            if self._desk is not None:
                for e in (e for w in writes for e in w.more if e.command is not None):
                    self.answered(e)
        for w in works:
            if error is None:
                self._answer(w)
            self._pending -= 1
            self._release(w.node.id)
            if not w.done.done():
                w.done.set_result(None)
        if error is None and then is not None:
            then()

    def _failed(self, error: BaseException, generation: int, frames: int) -> None:
        self._metrics.refused["store_failed"] += frames
        if generation != self._generation:
            return  # decided on the same dead state as the one that failed first
        self._generation += 1
        # what waits for copies was decided on that state too: it goes the same way, the nodes will resend
        works, self._collecting = self._collecting, []
        self._states.clear()
        self._recent = Recent()
        self._reload()
        log.error("commit_failed", error=str(error), next=getattr(error, "hint", "") or "look at the log above")
        for w in works:
            self._metrics.refused["store_failed"] += 1
            self._pending -= 1
            self._release(w.node.id)
            w.done.set_result(None)
        self._resume()

    def _resume(self) -> None:
        def after(f: asyncio.Future[int]) -> None:
            if not f.cancelled() and f.exception() is not None:
                self._loop.call_later(RESUME_S, self._resume)

        self._engine.resume().add_done_callback(after)

    # answers

    def _answer(self, w: _Work) -> None:
        event, heard = w.decision.event, w.heard
        if event is not None:
            self._metrics.totals["committed"] += 1
            self._metrics.totals["rows"] += len(event.times)
            if w.decision.state.replay.too_old(event.counter):
                self._metrics.totals["below_floor"] += 1
            log.info(
                "uplink_committed", node=w.node.name, counter=w.decision.counter, kind=event.kind, rows=len(event.times),
                link=event.link, copies=heard.copies if heard else 1,
            )  # fmt: skip
            self._watch(w.node.id, w.decision.state)
            if event.kind == "status" and w.decision.state.schemas:
                self.reread(w.node.id)
        answer = w.decision.answer
        if answer is None or heard is None:
            return
        node = w.node.under(w.decision.state.epoch)
        self.downlinks.answer(Due(node, w.decision.counter, answer, heard.best, w.offer))

    # states and presence

    def _state(self, number: int) -> NodeState:
        state = self._states.get(number)
        if state is None:
            state = self._engine.load(number) or self._engine.fresh()
        return state

    def _keep(self, number: int, state: NodeState) -> None:
        self._states[number] = state
        self._states.move_to_end(number)
        if len(self._states) > MAX_STATES:
            for old in self._states:
                if old not in self._busy:  # its newest state is on disk
                    del self._states[old]
                    break

    def _hold(self, number: int) -> None:
        self._busy[number] = self._busy.get(number, 0) + 1

    def _release(self, number: int) -> None:
        self._busy[number] -= 1
        if not self._busy[number]:
            del self._busy[number]

    def _watch(self, number: int, state: NodeState) -> None:
        if state.online and number not in self._watched and number in self._nodes:
            self._watched.add(number)
            heapq.heappush(self._deadlines, (self._offline_at(number, state), number))

    def _offline_at(self, number: int, state: NodeState) -> float:
        """When a silent node counts as offline; a clock that was set makes nobody silent. Heard in what is now the future means that it
        was before the clock was set, so that says nothing."""
        now = self._clock.now()
        heard = state.heard if state.heard <= now else min(self._began, now)
        return offline_at(self._configured(number), replace(state, heard=max(heard, self._presumed)))

    def _stepped(self, seconds: float) -> None:
        """The host's clock was set: what is counted from receive times starts anew, what was sent stays as long ago as it was."""
        now = self._clock.now()
        self._metrics.totals["clock_steps"] += 1
        log.warning("clock_stepped", seconds=round(seconds, 1), next="look at the host's time service (timedatectl)")
        self._presumed = self._began = now
        self._recent, self._lockout = Recent(), Lockout()
        self.downlinks.stepped(seconds)
        watched, self._watched, self._deadlines = self._watched, set(), []
        for number in watched:
            if (
                number in self._nodes
            ):  # heard in what is now the future, or long ago by the new clock: both mean just now
                self._watched.add(number)
                self._deadlines.append((self._offline_at(number, NodeState()), number))
        heapq.heapify(self._deadlines)

    def check_presence(self, limit: int = 1000) -> None:
        """Declare nodes offline whose time is up; costs only as much as there is to do."""
        now = self._clock.now()
        if self._engine.full:  # nodes are not heard: let each have its turn when they are again
            self._quiet_until = now + max((n.interval_s for n in self._nodes.values()), default=0)
        if now < self._quiet_until:
            return
        writes: list[Write] = []
        while self._deadlines and self._deadlines[0][0] <= now and len(writes) < limit:
            _, number = heapq.heappop(self._deadlines)
            self._watched.discard(number)
            if number not in self._nodes:
                continue  # it has left the registry
            state = self._state(number)
            if not state.online or number in self._busy:
                self._watch(number, replace(state, heard=max(state.heard, now)))
                continue
            if self._offline_at(number, state) > now:
                self._watch(number, state)
                continue
            decision = goes_offline(self._configured(number), state, now)
            self._keep(number, decision.state)
            writes.append(self._silent(number, decision))
            log.info("node_offline", node=self._nodes[number].name)
        if writes:
            self._commit(writes, [])

    def _silent(self, number: int, decision: Decision) -> Write:
        assert decision.event is not None
        follow = self._follow(self._nodes[number], decision.event)
        return Write(number, decision.state, decision.event, None, follow.events, follow.notes)

    def reread(self, number: int | None = None) -> None:
        """Try once more to read frames kept because of an unknown schema: a node's, when it announces what it sends; all, at the start."""
        if number not in self._rereads:
            self._rereads.append(number)
        if self._rereading is None or self._rereading.done():
            self._rereading = asyncio.create_task(self._reread(), name="reread")

    async def _reread(self) -> None:
        while self._rereads:
            number, after = self._rereads[0], (0, 0, 0)
            try:
                while frames := self._engine.unread(after, REREAD, number):
                    writes = [w for raw in frames if (w := self._read_again(raw)) is not None]
                    if writes:
                        await self._commit(writes, [])
                        self._metrics.totals["reread"] += len(writes)
                        log.info("frames_reread", frames=len(writes), nodes=len({w.node for w in writes}))
                    after = (frames[-1].node, frames[-1].epoch, frames[-1].counter)
            except StoreError:
                await asyncio.sleep(RESUME_S)  # not committed: they are still unread, and tried again
            else:
                self._rereads.pop(0)

    def _read_again(self, raw: RawFrame) -> Write | None:
        node, header = self._nodes.get(raw.node), parse(raw.data)
        if node is None or isinstance(header, Refusal):
            return None
        rx = Reception(raw.data, raw.received, raw.link, raw.receiver, raw.rssi, raw.snr)
        decision = reread(node, self._state(node.id), header, rx, raw.epoch, raw.counter, crypto.opener)
        if decision is None or decision.event is None:
            return None
        self._keep(node.id, decision.state)
        follow = self._follow(node, decision.event)
        return Write(node.id, decision.state, decision.event, raw, follow.events, follow.notes, again=True)

    def introduce(self) -> None:
        """Publish metadata of nodes whose registry entry is new or changed (start-up only: O(nodes))."""
        nodes = list(self._nodes.values())
        for i in range(0, len(nodes), INTRODUCED_AT_ONCE):
            self._introduce(nodes[i : i + INTRODUCED_AT_ONCE])

    def _introduce(self, nodes: Sequence[Node]) -> None:
        now = self._clock.now()
        decided = [
            (n.id, d) for n in nodes if (d := introduce(self._configured(n.id), self._state(n.id), now)) is not None
        ]
        if decided:
            self._commit([Write(number, d.state, d.event) for number, d in decided], [])
            for number, d in decided:  # held by now: the newest state stays in memory until it is on disk
                self._keep(number, d.state)

    async def use(self, nodes: Mapping[int, Node]) -> int:
        """Go on with another registry; return how many entries are new or changed. Frames that are decided keep the entry they had."""
        changed = [node for number, node in nodes.items() if self._nodes.get(number) != node]
        self._nodes = nodes
        for i in range(0, len(changed), INTRODUCED_AT_ONCE):
            self._introduce(changed[i : i + INTRODUCED_AT_ONCE])
            await asyncio.sleep(0)
        return len(changed)

    def detach(self, name: str) -> None:
        """A link is gone."""
        self.downlinks.links.pop(name, None)
        self._collect_s.pop(name, None)

    def configure(self, policy: Policy, nodes: Mapping[int, Node]) -> None:
        """Go on with another policy of commands. Whether there are commands at all is decided at the start."""
        if self._desk is not None:
            self._desk.configure(nodes, policy)

    def refollow(self, followers: Sequence[Follower]) -> None:
        """Let others follow from now on; each goes on from the notes under its name, those on their way to the disk among them."""
        self._followers = followers if self._desk is None else (*followers, self._desk)
        for f in followers:
            f.load(self._notebook.of(f.name))

    def limit(self, burst: int, per_s: float) -> None:
        """Change what one node may bring."""
        self._rates.burst, self._rates.per_s = burst, per_s

    @property
    def followers(self) -> Sequence[Follower]:
        """Who follows decisions."""
        return self._followers

    async def settle(self) -> None:
        """Flush and wait until every decision is committed (or has failed) and answered."""
        self.flush()
        while self._in_flight or self._rereading is not None:
            if self._rereading is not None:
                await asyncio.wait([self._rereading])
                self._rereading = None
            if self._in_flight:
                await asyncio.wait(self._in_flight)
            await asyncio.sleep(0)  # let the callbacks of those futures run


def _joined(follows: Sequence[Follow]) -> Follow:
    if len(follows) == 1:
        return follows[0]
    notes: dict[str, bytes | None] = {}
    refused: dict[str, int] = {}
    for f in follows:
        notes.update(f.notes)
        for reason, n in f.refused.items():
            refused[reason] = refused.get(reason, 0) + n
    return Follow(tuple(e for f in follows for e in f.events), notes, refused)


__all__ = ["Pipeline", "StoreError"]

"""Empties what an output leaves behind at its broker when it is taken out: every retained topic that follows from the facts under any
registry entry and any shape it ever had. The mark says first that nothing is known, so that an output that comes back publishes everything
again, and is emptied last: a broker that remembers an older time, after a power cut, shows it by the mark. What other outputs publish at this
broker is spared (`siblings.py`), and so is what may be another gateway's by now and is (`turn.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from gateway.config import MqttOutputConfig
from gateway.core.current import NOTHING
from gateway.core.model import Node
from gateway.metrics import Metrics
from gateway.mqtt_session import MqttError, MqttSession, NotSubscribed
from gateway.outputs.births import PAGE
from gateway.outputs.flight import Flight
from gateway.outputs.former import Former
from gateway.outputs.mark import Mark, mark_of, mark_topic
from gateway.outputs.message import Message, json
from gateway.outputs.mqtt import MqttOutput
from gateway.outputs.reading import Name, Reader, Unread, advice, crowd
from gateway.outputs.resync import Resync
from gateway.outputs.retained import Tree
from gateway.outputs.siblings import ask, shares
from gateway.outputs.turn import Doubt, Judge, look, name_of
from gateway.store.engine import Engine, StoreError
from gateway.store.ledger import Known

BOUND_S = 900.0
RETRY_S = 10.0
WAIT_S = 2.0
AFTER_S = 2400.0  # a broker may lose what it has not saved: mosquitto saves every 1800 s (autosave_interval), and what it reads at its start may be as old
LOOK_RETRY_S = 60.0, 3600.0  # until a broker that is away then is tried again: doubled each time
LOOK_BOUND_S = 86400.0
ROUNDS = 8  # times that one output is emptied without a start between them

log = structlog.get_logger(__name__)


Others = Callable[[], Sequence[MqttOutput]]
Nodes = Callable[[], Mapping[int, Node]]
Failed = Callable[[MqttError | None], None]


async def leave(
    config: MqttOutputConfig,
    key: str,
    gateway: str,
    engine: Engine,
    metrics: Metrics,
    nodes: Nodes,
    others: Others,
    failed: Failed,
    borrowed: bool = False,
) -> None:
    """Empty what an output that was taken out has left at its broker, and look again AFTER_S later, and at once where it was emptied before
    this start: a broker that remembers an older time by then is emptied again.

    nodes: the registry now; others: the outputs that there are now, of whatever address; failed: gets why the last try failed, None when it
    did not; borrowed: it is not the output's own login, which may have other rights.
    """
    try:
        for n in range(ROUNDS):
            _, place = engine.ledger.places().get(key, (0, None))
            if place is None or place.now is not None:
                return
            if (n or not place.empty) and not await vacate(
                config, key, gateway, engine, metrics, nodes, others, failed, borrowed
            ):
                return
            for wait in (0.0, AFTER_S) if place.empty and not n else (AFTER_S,):
                await asyncio.sleep(wait)
                more = await _look(config, key, gateway, engine, metrics, others)
                if more is None:
                    return
                if more:
                    break
            else:
                await engine.ledger.looked(key)
                return
            log.warning("output_remembered", output=config.name, key=key, next="nothing: its broker remembers an older time, and is emptied again")  # fmt: skip
            await engine.ledger.looked(key, again=True)
    except StoreError as e:  # looked at again after the next start
        log.warning("ledger_not_kept", output=config.name, error=str(e), next=e.hint or "look at the disk")


async def vacate(
    config: MqttOutputConfig,
    key: str,
    gateway: str,
    engine: Engine,
    metrics: Metrics,
    nodes: Nodes,
    others: Others,
    failed: Failed,
    borrowed: bool = False,
) -> bool:
    """Empty an output's topics, trying again for BOUND_S while its broker is away; True when nothing is left there."""
    try:
        async with asyncio.timeout(BOUND_S):
            while True:
                try:
                    n = await _once(config, key, gateway, engine, metrics, nodes(), others, borrowed)
                except _Unknown as e:
                    log.info("output_vacate_waits", output=config.name, other=str(e), retry_s=WAIT_S)
                    await asyncio.sleep(WAIT_S)
                    continue
                except MqttError as e:
                    failed(e)
                    log.warning("output_left", output=config.name, error=str(e), retry_s=RETRY_S,
                                next=e.hint or "start its broker, so that what it retains of this gateway can be emptied")  # fmt: skip
                    await asyncio.sleep(RETRY_S)
                    continue
                failed(None)
                log.info("output_vacated", output=config.name, topics=n)
                return True
    except TimeoutError:
        log.error("output_left", output=config.name, key=key, next=ADVICE)
        return False


async def _look(
    config: MqttOutputConfig, key: str, gateway: str, engine: Engine, metrics: Metrics, others: Others
) -> bool | None:
    """Return whether the broker remembers an output that was emptied there; None where that cannot be known, or it is back."""
    until, wait = time.monotonic() + LOOK_BOUND_S, LOOK_RETRY_S[0]
    while True:
        try:
            return await _remembers(config, key, gateway, engine, metrics, others)
        except (MqttError, _Unknown) as e:
            log.info("output_look_failed", output=config.name, key=key, error=str(e), retry_s=wait)
            if time.monotonic() + wait > until:
                return None
        await asyncio.sleep(wait)
        wait = min(2 * wait, LOOK_RETRY_S[1])


async def _remembers(
    config: MqttOutputConfig, key: str, gateway: str, engine: Engine, metrics: Metrics, others: Others
) -> bool | None:
    """Read the marks of an output that was emptied, below former ids of ours as well (`former.py`): nothing else is read, and nothing published
    but probes. None: it is back. Raises MqttError and _Unknown.
    """
    ledger = engine.ledger
    _, place = ledger.places().get(key, (0, None))
    if place is None or place.now is not None or not place.past:
        return None
    trees = [Tree(shape, gateway, {}) for _, shape in place.past]
    session = _session(config, gateway)
    await session.connect()
    try:
        reader = await _reader(session, mark_topic(trees[-1], config.name), gateway, metrics)
        former = Former(key, trees[-1], ledger)
        await former.look(reader)
        async with former.watching(reader):
            before = [Tree(tree.shape, old, {}) for old in former.ids for tree in trees]
        found = await _marks(reader, [*before, *trees], config.name)
        # another store's is a gateway's that has our id by now, and one ahead of this store a copy's
        ours = {t for t, m in found.items() if m.store == ledger.life and m.turn <= ledger.turn(key)}
        if not ours and former.unread is not None:
            raise Unread(*former.unread)
        if ours and any(
            o.resync.mark_topic in ours for o in others()
        ):  # it may have moved to another address of this broker
            ours -= {o.mark_topic for o in await _here(session, trees, others())}
        return bool(ours)
    except Unread as e:
        raise MqttError(str(e), e.hint) from e
    finally:
        await session.disconnect()


async def _marks(reader: Reader, trees: Sequence[Tree], output: str) -> dict[str, Mark]:
    """Return the marks of an output under all its shapes. Raises MqttError, Unread."""
    marks = {mark_topic(tree, output): f"{tree.shape.root}/v1/gw/{tree.gateway}/" for tree in trees}
    async with reader.reading(sorted(marks), marks.values(), lambda _topic, payload: mark_of(payload)) as read:
        for part in sorted(read.deaf):
            raise Unread(f"our user may not read {part}#", advice(f"{part}#"))
        return read.of(marks)


def _session(config: MqttOutputConfig, gateway: str) -> MqttSession:
    # a successor of the same name may be at the same broker, which would take one for the other
    return MqttSession(config.broker, f"citymote-{gateway}-out-{config.name}-left")


ADVICE = (
    "put the output back and reload while its broker runs, then take it out again; "
    "when that broker is gone for good: citymote gateway republish --output NAME --forget"
)


class _Unknown(Exception):
    """Whether another output is at the same broker is not known while it is away from its own."""


async def _here(session: MqttSession, left: Sequence[Tree], others: Sequence[MqttOutput]) -> list[Resync]:
    """Return the outputs that are at the broker of `session`, or may be, and share topics with any tree that was left. Raises _Unknown."""
    sharing = [o.resync for o in others if any(shares(tree.shape, o.tree.shape) for tree in left)]
    for o in sharing:
        if o.hears is None:
            raise _Unknown(o.output)
    deaf = [o for o in sharing if not o.hears]  # it may not read there: sparing too much is the lesser evil
    asked = [o for o in sharing if o.hears]
    here, away = await ask(session, asked)
    for o in asked:
        if o not in here and o not in away:  # its connection ended meanwhile
            raise _Unknown(o.output)
    return [*deaf, *here]


async def _once(
    config: MqttOutputConfig,
    key: str,
    gateway: str,
    engine: Engine,
    metrics: Metrics,
    nodes: Mapping[int, Node],
    others: Others,
    borrowed: bool = False,
) -> int:
    ledger = engine.ledger
    place = ledger.places().get(key)
    if place is None or place[1].now is not None or place[1].empty:
        return 0  # it is back, or others have done it
    trees = [Tree(shape, gateway, nodes) for _, shape in place[1].past]
    session = _session(config, gateway)
    flight, n = Flight(config.window, metrics), 0
    await session.connect()
    flight.begin(session)

    async def empty(topics: Callable[[], set[str]]) -> None:
        """Empty what is returned once there is room: what was true before may not be any more."""
        nonlocal n
        await asyncio.wait_for(flight.room(), 30)
        if any(o not in judged for o in others()):  # who has come meanwhile may be here, too: anew
            raise _Unknown("a new one")
        if session.closed.done():
            raise MqttError(str(session.closed.result()))
        for topic in sorted(topics()):
            flight.send(Message(topic, b"", retain=True))
            n += 1

    async def empty_mine(d: Doubt, judge: Judge) -> None:
        def mine() -> set[str]:
            ours, theirs = judge()
            metrics.totals["retained_spared"] += len(theirs & d.topics)
            return ours & d.topics - spared(d.subject, d.name.name)

        await empty(mine)

    async def settled() -> None:
        while len(flight):
            if session.closed.done():
                raise MqttError(str(session.closed.result()))
            await asyncio.sleep(0.01)

    async def stored(job: Awaitable[int]) -> bool:
        await job
        return True

    def spared(subject: str, *names: str) -> set[str]:
        """Return what others here publish of a subject, and of whoever has these names of it now."""
        topics: set[str] = set()
        for o in here:
            for heir in {subject, *o.tree.owners(names)}:
                topics |= o.tree.desired(heir, (ledger.current(heir) or (0, NOTHING))[1]).keys()
        return topics

    try:
        judged = others()
        here = await _here(session, trees, judged)
        last = mark_topic(trees[-1], config.name)
        reader = await _reader(session, last, gateway, metrics)
        own = {t for o in here for t in (*o.tree.own(), o.mark_topic)}
        await empty(lambda: {mark_topic(tree, config.name) for tree in trees} - own - {last})
        if last not in own:
            flight.send(Message(last, json(Mark(ledger.life, -1, -1, ledger.turn(key))), retain=True))
        await empty(lambda: {topic for tree in trees for topic in tree.own()} - own)
        former = Former(key, trees[-1], ledger)
        await former.look(reader)
        crowded: set[str] = set()
        after = ""
        while subjects := ledger.subjects(after, PAGE, -1, -1):
            doubts: dict[tuple[str, Name], set[str]] = {}
            for subject in subjects:
                _, c = ledger.current(subject) or (0, NOTHING)
                known = ledger.known(subject) or Known(None)
                own_name = None if known.now is None or subject.startswith("@") else known.now.name
                topics: set[str] = set()
                for entry in (*(entry for _, entry in known.past), *(() if known.now is None else (known.now,))):
                    for tree in trees:
                        under = tree.under(subject, c, entry)
                        if entry.name == own_name:
                            topics |= under
                        else:
                            doubts.setdefault((subject, name_of(tree, subject, entry.name)), set()).update(under)
                if own_name is not None:
                    await empty(lambda s=subject, t=topics, name=own_name: t - spared(s, name))
            doubtful = [Doubt(*key, frozenset(topics)) for key, topics in doubts.items() if topics]
            async with former.watching(reader):
                deaf, more = await look(
                    reader, doubtful, lambda: former.ids | {gateway}, ledger, trees[-1].owners, empty_mine
                )
            if deaf:
                part = min(deaf)
                raise MqttError(f"our user may not read {part}#", advice(f"{part}#"))
            crowded |= more
            after = subjects[-1]
        if crowded:
            raise crowd(crowded)
        await settled()
        await former.empty(reader, flight.send, settled, stored)
        if former.unread is not None:
            raise MqttError(*former.unread)
        await empty(lambda: {last} - own)
        await settled()
        if borrowed and last not in own and await _marks(reader, trees[-1:], config.name):
            raise MqttError(f"the broker keeps {last}: our user may not publish there", advice(last))
    except TimeoutError as e:
        raise MqttError("no PUBACK for 30 s") from e
    except Unread as e:
        raise MqttError(str(e), e.hint) from e
    finally:
        await session.disconnect()
    await ledger.left(key)
    for o in here:
        o.again()  # what was spared may hold what the other had said last
    return n


async def _reader(session: MqttSession, echo: str, gateway: str, metrics: Metrics) -> Reader:
    try:
        await session.subscribe(echo, 1)
    except NotSubscribed as e:
        raise MqttError(str(e), e.hint) from e
    return Reader(session, echo, gateway, metrics.totals)

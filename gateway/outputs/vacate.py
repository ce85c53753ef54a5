"""Empties what an output leaves behind at its broker when it is taken out: every retained topic that follows from the facts under any
registry entry and any shape it ever had. The mark goes first, so that an output that comes back publishes everything again. What other
outputs publish at this broker is spared (`siblings.py`), and so is what may be another gateway's by now and is (`turn.py`).
"""

from __future__ import annotations

import asyncio
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
from gateway.outputs.mark import mark_topic
from gateway.outputs.message import Message
from gateway.outputs.mqtt import MqttOutput
from gateway.outputs.reading import Name, Reader, Unread, advice, crowd
from gateway.outputs.resync import Resync
from gateway.outputs.retained import Tree, shape_of
from gateway.outputs.siblings import ask, shares
from gateway.outputs.turn import Doubt, Judge, look, name_of
from gateway.store.engine import Engine
from gateway.store.ledger import Known

BOUND_S = 900.0
RETRY_S = 10.0
WAIT_S = 2.0

log = structlog.get_logger(__name__)


Others = Callable[[], Sequence[MqttOutput]]


async def vacate(
    config: MqttOutputConfig,
    key: str,
    gateway: str,
    engine: Engine,
    metrics: Metrics,
    nodes: Mapping[int, Node],
    others: Others,
) -> bool:
    """Empty an output's topics, trying again for BOUND_S while its broker is away; True when nothing is left there.

    others: the outputs that there are now, of whatever address.
    """
    try:
        async with asyncio.timeout(BOUND_S):
            while True:
                try:
                    n = await _once(config, key, gateway, engine, metrics, nodes, others)
                except _Unknown as e:
                    log.info("output_vacate_waits", output=config.name, other=str(e), retry_s=WAIT_S)
                    await asyncio.sleep(WAIT_S)
                    continue
                except MqttError as e:
                    log.warning("output_left", output=config.name, error=str(e), retry_s=RETRY_S,
                                next=e.hint or "start its broker, so that what it retains of this gateway can be emptied")  # fmt: skip
                    await asyncio.sleep(RETRY_S)
                    continue
                log.info("output_vacated", output=config.name, topics=n)
                return True
    except TimeoutError:
        log.error("output_left", output=config.name, key=key, next=ADVICE)
        return False


ADVICE = (
    "put the output back and reload while its broker runs, then take it out again; "
    "when that broker is gone for good: citymote gateway republish --output NAME --forget"
)


class _Unknown(Exception):
    """Whether another output is at the same broker is not known while it is away from its own."""


async def _here(session: MqttSession, c: MqttOutputConfig, others: Sequence[MqttOutput]) -> list[Resync]:
    """Return the outputs that are at the broker of `session`, or may be, and share topics with `c`. Raises _Unknown."""
    mine = shape_of(c, "")
    sharing = [o.resync for o in others if shares(mine, o.tree.shape)]
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
) -> int:
    ledger = engine.ledger
    place = ledger.places().get(key)
    if place is None or place[1].now is not None or place[1].empty:
        return 0  # it is back, or others have done it
    trees = [Tree(shape, gateway, nodes) for _, shape in place[1].past]
    # a successor of the same name may be at the same broker, which would take one for the other
    session = MqttSession(config.broker, f"citymote-{gateway}-out-{config.name}-left")
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
        here = await _here(session, config, judged)
        reader = await _reader(session, mark_topic(trees[-1], config.name), gateway, metrics)
        own = {t for o in here for t in (*o.tree.own(), o.mark_topic)}
        await empty(lambda: {mark_topic(tree, config.name) for tree in trees} - own)
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
                deaf, more = await look(reader, doubtful, lambda: former.ids | {gateway}, ledger, empty_mine)
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

"""Empties what an output leaves behind at its broker when it is taken out: every retained topic that follows from the facts under any
registry entry and any shape it ever had. The mark goes first, so that an output that comes back publishes everything again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from gateway.config import MqttOutputConfig
from gateway.core.current import NOTHING
from gateway.core.model import Node
from gateway.metrics import Metrics
from gateway.mqtt_session import MqttError, MqttSession
from gateway.outputs.flight import Flight
from gateway.outputs.message import Message
from gateway.outputs.resync import PAGE, mark_topic
from gateway.outputs.retained import Tree
from gateway.store.engine import Engine
from gateway.store.ledger import Known

BOUND_S = 900.0
RETRY_S = 10.0

log = structlog.get_logger(__name__)


async def vacate(
    config: MqttOutputConfig, key: str, gateway: str, engine: Engine, metrics: Metrics, nodes: Mapping[int, Node]
) -> bool:
    """Empty an output's topics, trying again for BOUND_S while its broker is away; True when nothing is left there."""
    try:
        async with asyncio.timeout(BOUND_S):
            while True:
                try:
                    n = await _once(config, key, gateway, engine, metrics, nodes)
                except MqttError as e:
                    log.warning("output_left", output=config.name, error=str(e), retry_s=RETRY_S,
                                next="start its broker, so that what it retains of this gateway can be emptied")  # fmt: skip
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


async def _once(
    config: MqttOutputConfig, key: str, gateway: str, engine: Engine, metrics: Metrics, nodes: Mapping[int, Node]
) -> int:
    ledger = engine.ledger
    place = ledger.places().get(key)
    if place is None or place[1].now is not None:
        return 0  # it is back, or others have done it
    trees = [Tree(shape, gateway, nodes) for _, shape in place[1].past]
    session = MqttSession(config.broker, f"citymote-{gateway}-out-{config.name}")
    flight, n = Flight(config.window, metrics), 0
    await session.connect()
    flight.begin(session)

    async def empty(topics: set[str]) -> None:
        nonlocal n
        for topic in sorted(topics):
            if session.closed.done():
                raise MqttError(str(session.closed.result()))
            await asyncio.wait_for(flight.room(), 30)
            flight.send(Message(topic, b"", retain=True))
            n += 1

    try:
        await empty({mark_topic(tree, config.name) for tree in trees})
        await empty({topic for tree in trees for topic in tree.own()})
        after = ""
        while subjects := ledger.subjects(after, PAGE, -1, -1):
            for subject in subjects:
                _, c = ledger.current(subject) or (0, NOTHING)
                known = ledger.known(subject) or Known(None)
                entries = [entry for _, entry in known.past] + ([known.now] if known.now is not None else [])
                await empty({t for tree in trees for entry in entries for t in tree.under(subject, c, entry)})
            after = subjects[-1]
        while len(flight):
            if session.closed.done():
                raise MqttError(str(session.closed.result()))
            await asyncio.sleep(0.01)
    except TimeoutError as e:
        raise MqttError("no PUBACK for 30 s") from e
    finally:
        await session.disconnect()
    await ledger.left(key)
    return n

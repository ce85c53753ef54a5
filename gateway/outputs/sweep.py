"""After a store was set back or exchanged: finds at the broker what was published from events that this store does not know.

A node's key has one authority, so what is retained below the names of our nodes is ours. Only such topics are looked at, a few nodes at
a time, and emptied when the facts do not ask for them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence

import structlog

from gateway.core.current import NOTHING
from gateway.mqtt_session import MqttError, MqttSession, NotSubscribed
from gateway.outputs.message import Message
from gateway.outputs.ngsi_models import TYPES, urn
from gateway.outputs.retained import Tree
from gateway.store.ledger import Ledger

AT_ONCE = 50  # subjects
ECHO_S = 10.0
OURS = (
    "state",
    "meta",
    "q",
    "agg",
    "alert",
    "lot",
    "balance",
)  # below a node or area; others may ask for commands there

log = structlog.get_logger(__name__)


async def sweep(
    session: MqttSession,
    tree: Tree,
    ledger: Ledger,
    publish: Callable[[Message], None],
    heard: Callable[[str, bytes, bool], bool],
    others: Callable[[], Sequence[Tree]] = tuple,
) -> None:
    """Empty retained topics of our subjects that are not desired. Raises MqttError. A broker that does not answer is left as it is.

    others: the trees of this gateway's other outputs that are at this broker, or may be; what they publish is spared.
    """
    found: dict[str, bytes] = {}
    echo = asyncio.Event()
    topic = f"{tree.shape.root}/v1/gw/{tree.gateway}/mark/sweep"
    nonce = secrets.token_hex(8).encode()

    def kept(at: str, payload: bytes) -> None:
        if not heard(at, payload, True):
            found[at] = payload

    def live(at: str, payload: bytes) -> None:
        if at == topic and payload == nonce:
            echo.set()
        else:
            heard(at, payload, False)

    before = session.on_retained, session.on_message
    session.on_retained, session.on_message = kept, live
    emptied = 0
    try:
        await session.subscribe(topic, 1)
        subjects = [str(n) for n in tree.nodes] + _areas(ledger)
        for i in range(0, len(subjects), AT_ONCE):
            part = subjects[i : i + AT_ONCE]
            filters = [f for subject in part for f in _filters(tree, subject)]
            if i == 0:
                filters.append(f"{tree.shape.root}/v1/ngsi-ld/Alert/+")  # a node's name stands inside of the level here
            try:
                await session.subscribe([(f, 0) for f in filters])
            except NotSubscribed as e:
                log.warning("sweep_refused", topics=filters[0], error=str(e), next=e.hint)
                return
            echo.clear()
            session.publish(topic, nonce, 1)
            try:
                async with asyncio.timeout(ECHO_S):
                    await echo.wait()
            except TimeoutError:
                log.warning("sweep_unanswered", topic=topic, next="let the gateway's user read what it publishes")
                return
            await session.unsubscribe(filters)
            emptied += await _empty(tree, ledger, part, found, publish, others())
            found = {t: p for t, p in found.items() if "/ngsi-ld/Alert/" in t}
    finally:
        session.on_retained, session.on_message = before
        if session.closed.done():
            raise MqttError("connection lost")
        await session.unsubscribe([topic])
    log.info("swept", subjects=len(subjects), emptied=emptied)


def _areas(ledger: Ledger) -> list[str]:
    return [s for s in ledger.subjects("@", 10_000, -1, -1) if s.startswith("@")]


def _filters(tree: Tree, subject: str) -> list[str]:
    root = f"{tree.shape.root}/v1"
    if subject.startswith("@"):
        return [f"{root}/area/{subject[1:]}/#", f"{root}/ngsi-ld/OnStreetParking/{subject[1:]}"]
    name = tree.nodes[int(subject)].name
    return [
        f"{root}/node/{name}/#",
        f"{tree.shape.discovery}/device/{name}/config",
        *(f"{root}/ngsi-ld/{kind}/{name}" for kind in TYPES if kind not in ("Alert", "OnStreetParking")),
    ]


async def _empty(
    tree: Tree,
    ledger: Ledger,
    subjects: list[str],
    found: dict[str, bytes],
    publish: Callable[[Message], None],
    others: Sequence[Tree],
) -> int:
    n = 0
    for subject in subjects:
        mine = _of(tree, subject, found)
        if not mine:
            continue
        _, c = ledger.current(subject) or (0, NOTHING)
        desired = {topic for t in (tree, *others) for topic in t.desired(subject, c)}
        for topic in mine - desired:
            publish(Message(topic, b"", retain=True))
            n += 1
        await asyncio.sleep(0)
    return n


def _of(tree: Tree, subject: str, found: dict[str, bytes]) -> set[str]:
    exact = set(_filters(tree, subject))
    prefix = next(iter(f.removesuffix("#") for f in exact if f.endswith("#")))
    mine = {t for t in found if t in exact or t.startswith(prefix) and t[len(prefix) :].partition("/")[0] in OURS}
    if not subject.startswith("@"):
        device = f'"{urn("Device", tree.nodes[int(subject)].name)}"'.encode()
        mine |= {t for t, payload in found.items() if "/ngsi-ld/Alert/" in t and device in payload}
    return mine

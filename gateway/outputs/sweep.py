"""After a store was set back or exchanged: finds at the broker what was published from events that this store does not know.

A node's key has one authority, so what is retained below the names of our nodes is ours, but for what another gateway has put its name to.
Names that our registry does not know are ours where we have put our name to them: their nodes came after the copy of the store was made.
Only such topics are looked at, a few names at a time, and emptied when the facts do not ask for them.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Iterable, Sequence, Set
from itertools import islice

import structlog

from gateway.config.table import NAME
from gateway.core.current import NOTHING
from gateway.outputs.message import Message
from gateway.outputs.ngsi_models import TYPES, urn
from gateway.outputs.owner import Claim, claim, ours
from gateway.outputs.reading import Reader, Unread, advice, crowd
from gateway.outputs.retained import Tree
from gateway.outputs.turn import Gateways
from gateway.store.ledger import Ledger

AT_ONCE = 16  # names
OURS = (
    "state",
    "meta",
    "q",
    "agg",
    "alert",
    "lot",
    "balance",
)  # below a node or area; others may ask for commands there

MANY = 4  # nodes that an alert is looked for under: ours has one

_DEVICE = re.compile(b'"' + re.escape(urn("Device", "").encode()) + rb'([a-z0-9_-]{1,32})"')

log = structlog.get_logger(__name__)

Publish = Callable[[Message], None]


async def sweep(
    reader: Reader,
    tree: Tree,
    gateways: Gateways,
    ledger: Ledger,
    publish: Publish,
    others: Callable[[], Sequence[Tree]] = tuple,
) -> None:
    """Empty retained topics of our subjects that are not desired. Raises MqttError, and Unread: what is behind that is left as it is.

    gateways: returns ids of this gateway. others: the trees of this gateway's other outputs that are at this broker, or may be; what they publish
    is spared.
    """
    names = {_below(tree, s): s for s in [*map(str, tree.nodes), *_areas(ledger)]}
    found, more = await _unknown(reader, tree, gateways, names)
    emptied, crowded = await _sweep(
        reader, tree, gateways, ledger, publish, others, [*names.items(), *((b, "") for b in found)]
    )
    log.info("swept", subjects=len(names), unknown=len(found), emptied=emptied)
    if more or crowded:
        raise crowd(crowded[:1] or [f"{tree.shape.root}/v1/"])


async def _sweep(
    reader: Reader,
    tree: Tree,
    gateways: Gateways,
    ledger: Ledger,
    publish: Publish,
    others: Callable[[], Sequence[Tree]],
    names: Sequence[tuple[str, str]],
) -> tuple[int, list[str]]:
    """Return how many were emptied, and the names that hold more than is kept. names: (topics below which it publishes, subject or "")."""
    n, crowded = 0, list[str]()
    at = f"{tree.shape.root}/v1/ngsi-ld/Alert/"  # a node's name stands inside of the level here
    async with reader.reading(
        [f"{at}+"], _parts(tree), lambda topic, p: _alert(p) if topic.startswith(at) else None
    ) as alerts:
        of_node: dict[str, list[str]] = {}
        for topic, (_, nodes) in alerts.found.items():
            for name in nodes:
                of_node.setdefault(name, []).append(topic)
        if alerts.excess:
            crowded.append(at)
        for i in range(0, len(names), AT_ONCE):
            part = names[i : i + AT_ONCE]
            filters = [f for below, _ in part for f in _filters(tree, below)]
            async with reader.reading(filters, _parts(tree)) as read:
                for below, subject in part:
                    filters = _filters(tree, below)
                    mine = read.of(filters)
                    mine = {t: c for t, c in mine.items() if not t.startswith(below) or _leaf(t, below) in OURS}
                    if "/v1/node/" in below:
                        mine |= {t: alerts.found[t][0] for t in of_node.get(_name(below), ()) if t in alerts.found}
                    whole = read.is_whole(filters) and read.deaf.isdisjoint(_parts(tree))
                    if not read.is_whole(filters):
                        crowded.append(below)
                    _, c = ledger.current(subject) or (0, NOTHING)
                    desired = (
                        {topic for t in (tree, *others()) for topic in t.desired(subject, c)} if subject else set[str]()
                    )
                    for topic in sorted(_empty(mine, gateways(), subject, whole) - desired):
                        publish(Message(topic, b"", retain=True))
                        n += 1
                    await asyncio.sleep(0)
    return n, crowded


def _alert(payload: bytes) -> tuple[Claim, tuple[str, ...]]:
    """Return whose an alert is, and the nodes it may be of."""
    return claim(payload), tuple({m.decode() for m in islice(_DEVICE.findall(payload), MANY)})


def _empty(found: dict[str, Claim], gateways: Set[str], subject: str, whole: bool) -> set[str]:
    """Return what is ours. What comes with no name of a gateway is, whenever it came: this store does not know all that it published."""
    if subject.startswith("@") or not subject:
        return ours(found, gateways, math.inf, whole)
    return {t for t, c in found.items() if c.gateway in (None, *gateways)}


async def _unknown(reader: Reader, tree: Tree, gateways: Gateways, names: Iterable[str]) -> tuple[list[str], bool]:
    """Return what begins the topics of names that we have published, and that nothing is known of; and whether there are more."""
    root, known = f"{tree.shape.root}/v1", set(names)

    def below(topic: str) -> str:
        kind, _, rest = topic.removeprefix(f"{root}/").partition("/")
        name = rest.partition("/")[0]
        if topic.startswith(f"{tree.shape.discovery}/device/"):
            kind, name = "node", topic.removeprefix(f"{tree.shape.discovery}/device/").partition("/")[0]
        elif kind == "ngsi-ld":
            kind, name = "node", topic.rpartition("/")[2]
        return f"{root}/{kind}/{name}/"

    def keep(topic: str, payload: bytes) -> Claim | None:
        found = below(topic)  # a name of ours is short: a filter of a longer one may be none
        if NAME.fullmatch(found.split("/")[-2]) is None or found in known:
            return None
        its = claim(payload)
        return its if its.gateway in gateways() else None

    filters = [f"{root}/node/+/meta", f"{root}/node/+/alert/+", f"{root}/area/+/#", f"{root}/ngsi-ld/Device/+",
               f"{tree.shape.discovery}/device/+/config"]  # fmt: skip
    async with reader.reading(filters, _parts(tree), keep) as read:
        for part in read.deaf & {f"{root}/node/"}:
            raise Unread(f"our user may not read {part}#", advice(f"{part}#"))
        return sorted({below(topic) for topic in read.found}), read.excess > 0


def _areas(ledger: Ledger) -> list[str]:
    return [s for s in ledger.subjects("@", 10_000, -1, -1) if s.startswith("@")]


def _parts(tree: Tree) -> tuple[str, ...]:
    root = f"{tree.shape.root}/v1"
    return f"{root}/node/", f"{root}/area/", f"{root}/ngsi-ld/", f"{tree.shape.discovery}/device/"


def _below(tree: Tree, subject: str) -> str:
    root = f"{tree.shape.root}/v1"
    return f"{root}/area/{subject[1:]}/" if subject.startswith("@") else f"{root}/node/{tree.nodes[int(subject)].name}/"


def _name(below: str) -> str:
    return below.rstrip("/").rpartition("/")[2]


def _leaf(topic: str, below: str) -> str:
    return topic[len(below) :].partition("/")[0]


def _filters(tree: Tree, below: str) -> list[str]:
    root, name = f"{tree.shape.root}/v1", _name(below)
    if "/v1/area/" in below:
        return [f"{below}#", f"{root}/ngsi-ld/OnStreetParking/{name}"]
    kinds = (kind for kind in TYPES if kind not in ("Alert", "OnStreetParking"))
    return [
        f"{below}#",
        f"{tree.shape.discovery}/device/{name}/config",
        *(f"{root}/ngsi-ld/{kind}/{name}" for kind in kinds),
    ]

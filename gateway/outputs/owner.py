"""Whose is what a broker retains below a name: a node that has left may live in another gateway at the same broker and root by now.

Only what a gateway retains says whose a name is: what it publishes in passing (events, packs, answers, revisions) is ours as often as a bystander's.

A payload names the gateway that published it: `gw` (native), `dataProvider` (NGSI-LD), the availability topic (discovery). What names none
(values, which come by the second, and everything of gateways of before) is judged by its time: a receipt later than all that our
ledger knows of the subject is somebody else's. Names are judged, not single topics: who has one of them has the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from gateway.core.current import Current

PROVIDER = "dataProvider"
SLACK_S = 1.0  # payloads have milliseconds at most
LONGEST = 1 << 17  # bytes of a payload that is looked into
LONGEST_ID = 64  # characters that are kept of who published it: no id has as many

PASSING = re.compile(r"/v1/(?:node|area)/[^/]+/(?:(?:event|ack|cmd|senml|senml-cbor)$|.+/revised$)")
_TIME = re.compile(rb'"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z)"')
_AVAILABLE = re.compile(r"/v1/gw/([^/]+)/state$")


class Claim(NamedTuple):
    """What a payload says of its origin. gateway: None where it names none; at: newest receipt, or time at all, that it speaks of (Unix s)."""

    gateway: str | None = None
    at: float | None = None


class _Body(msgspec.Struct):
    gw: Any = None
    dataProvider: Any = None
    availability: Any = None
    rx: Any = None


_decode = msgspec.json.Decoder(_Body).decode


def claim(payload: bytes) -> Claim:
    """Return what a retained payload says of its origin; nothing for what is none of a gateway's, whoever wrote it."""
    if not payload.startswith(b"{") or len(payload) > LONGEST:
        return Claim()
    try:
        body = _decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Claim()
    if isinstance(body.rx, str):
        return Claim(_gateway(body), _unix(body.rx))
    times = (_unix(t.decode()) for t in _TIME.findall(payload))
    return Claim(_gateway(body), max((t for t in times if t is not None), default=None))


def standing(topic: str, payload: bytes) -> Claim | None:
    """Return what is said of its origin on a topic that gateways retain; None on one that they publish in passing, where nothing is claimed."""
    return None if PASSING.search(topic) else claim(payload)


def _gateway(body: _Body) -> str | None:
    provider = body.dataProvider
    if isinstance(provider, dict):
        provider = provider.get("value")
    for said in (body.gw, provider):
        if isinstance(said, str):
            return said[:LONGEST_ID]
    for entry in body.availability if isinstance(body.availability, list) else ():
        topic = entry.get("topic") if isinstance(entry, dict) else None
        if isinstance(topic, str) and (found := _AVAILABLE.search(topic)):
            return found[1][:LONGEST_ID]
    return None


def _unix(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def ours(claims: Mapping[str, Claim], gateways: Set[str], newest: float, whole: bool = True) -> set[str]:
    """Return the topics of a name that this gateway may empty: those that name it, and the others where no sign is of another gateway.

    claims: of what the broker retains below the name, by topic. gateways: our id, and those that we had. newest: receipt of the newest that
    our ledger knows of the subject (Unix s). whole: False where not all could be read, so that another gateway's may be among it.
    """
    named = {topic for topic, c in claims.items() if c.gateway in gateways}
    rest = [c for topic, c in claims.items() if topic not in named]
    late = any(c.at is not None and c.at > newest + SLACK_S for c in rest)
    return named if not whole or late or any(c.gateway is not None for c in rest) else set(claims)


def newest(c: Current) -> float:
    """Return the receipt of the newest that is known of a subject, of former devices, too (Unix s); 0 when nothing is."""
    return max((t for device in c.devices() for t in _times(device)), default=0.0)


def _times(c: Current) -> Iterator[float]:
    yield c.changed_at  # what is over may stand at a broker yet
    if c.device is not None:
        yield max(c.device.at, c.device.online_at, c.device.heard or 0.0)
    for facts in (c.values, c.alerts, c.aggregates, c.areas):
        yield from (fact.received for fact in facts.values())

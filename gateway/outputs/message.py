"""What every format produces, and the spelling they share: topics, times, JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from gateway.config.filter import Filter
from gateway.core.model import Node
from gateway.core.value import replace


class Message(NamedTuple):
    """An MQTT message. newest: time that a retained payload stands for, so that older ones are not sent after a restart."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    newest: float | None = None


BETWEEN = ":"  # no name contains it, so that no two alerts have one id


@dataclass(frozen=True, slots=True)
class Known:
    """What a format knows beside the event: its gateway, the registry, the destination's filter, Home Assistant's topic prefix, and what stands
    between node and rule in the id of an alert."""

    gateway: str = "gw-1"
    nodes: Mapping[int, Node] = field(default_factory=dict)
    filter: Filter = field(default_factory=Filter)
    discovery: str = "homeassistant"
    between: str = BETWEEN

    def with_nodes(self, nodes: Mapping[int, Node]) -> Known:
        """Return the same with another registry."""
        return replace(self, nodes=nodes)


NOTHING = Known()


@lru_cache(maxsize=256)  # a report's messages share a handful of times
def iso(t: float) -> str:
    """Return RFC 3339 UTC with Z; milliseconds only when there are any."""
    d = datetime.fromtimestamp(t, UTC)
    return d.strftime("%Y-%m-%dT%H:%M:%S") + (f".{d.microsecond // 1000:03d}Z" if d.microsecond >= 1000 else "Z")


json = msgspec.json.Encoder().encode


def node_topic(root: str, node: str, *levels: str) -> str:
    """Return <root>/v1/node/<node>/..."""
    return "/".join((root, "v1", "node", node, *levels))


def drop_none(**values: Any) -> dict[str, Any]:
    """Return the values that are there."""
    return {k: v for k, v in values.items() if v is not None}

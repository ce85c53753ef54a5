"""Which outputs of this gateway are at the broker of a connection: one broker has many addresses (a name, a number, a port without TLS).

A probe on the topic of an output's mark reaches it when it is there. Who is, publishes below the same root, and is spared.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from typing import Protocol, TypeVar

from gateway.core.shape import Shape
from gateway.mqtt_session import MqttSession
from gateway.outputs.mark import probe

DISCOVERY = "homeassistant"
HEARD_S = 3.0  # for a probe to reach another output at the same broker


class Sibling(Protocol):
    """What is asked of an output. hears: whether what is published on its mark's topic reaches it, None while that is not known."""

    @property
    def mark_topic(self) -> str: ...

    @property
    def hears(self) -> bool | None: ...

    def has_heard(self, nonce: str) -> bool: ...


S = TypeVar("S", bound=Sibling)


def shares(mine: Shape, its: Shape) -> bool:
    """True when two outputs may publish on the same topics, if they are at the same broker."""
    return its.root == mine.root or DISCOVERY in its.formats and its.discovery == mine.discovery


async def ask(session: MqttSession, others: Iterable[S]) -> tuple[list[S], list[S]]:
    """Return which outputs are at the broker of `session`, and which are not. Whose connection ended meanwhile is in neither."""
    here, asked = list[S](), dict[str, S]()
    for o in others:
        nonce = secrets.token_hex(8)
        asked[nonce] = o
        session.publish(o.mark_topic, probe(nonce), 1)
    deadline = asyncio.get_running_loop().time() + HEARD_S
    while asked and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.05)
        for nonce in [n for n, o in asked.items() if o.has_heard(n)]:
            here.append(asked.pop(nonce))
    return here, [o for o in asked.values() if o.hears]

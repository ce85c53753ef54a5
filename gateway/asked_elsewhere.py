"""Whether a request is another gateway's business: at one broker and root each gateway hears the requests for all nodes.

A refusal of a node that another gateway has would be a second word about a command which that one carries out. So before a request for a
node that is not ours is refused, it is looked whether the metadata that the broker retains of the node name another gateway, or whether
another one answers the request (a node that the metadata's output may not see). Only then nothing is said.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any

import msgspec

from gateway.mqtt_session import MqttError, MqttSession, NotSubscribed

LOOK_S = 3.0  # a gateway that has the node answers within; who asked for a node that no one has waits so long for the refusal
KEPT = 256  # answers that are remembered
AT_ONCE = 32  # requests that are looked at; what comes beyond them is refused as if we were alone


class Elsewhere:
    """Of one connection. begin() once; heard() gets what arrives, retained or not; True when it was for us."""

    def __init__(self, session: MqttSession, root: str, gateway: str) -> None:
        self._session, self._root, self._gateway = session, root, gateway
        self._open: dict[tuple[str, str], list[asyncio.Future[bool]]] = {}
        self._answers: deque[tuple[str, str]] = deque(maxlen=KEPT)  # of other gateways: one may come before its request
        self._own: deque[tuple[str, str]] = deque(maxlen=KEPT)

    async def begin(self) -> None:
        """Hear all answers. Raises MqttError when the connection has ended; a user who may not read them hears none."""
        with suppress(NotSubscribed):
            await self._session.subscribe(f"{self._root}/v1/cmd/+/+/ack", 1)

    def answering(self, topic: str, ident: str) -> None:
        """We answer a request: what is heard of that is our own."""
        self._own.append((topic, ident))

    async def answered(self, requester: str, node: str, body: bytes) -> bool:
        """True when another gateway has the node, or answers the request. Takes LOOK_S when none does. A broker that refuses or leaves counts as none."""
        ident = _of(body, "id")
        meta = f"{self._root}/v1/node/{node}/meta"
        ack = f"{self._root}/v1/cmd/{requester}/{node}/ack"
        keys = [(meta, "")] + ([(ack, ident)] if isinstance(ident, str) else [])
        if keys[-1] in self._answers:
            return True
        if sum(map(len, self._open.values())) >= 2 * AT_ONCE:
            return False
        found: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        for key in keys:
            self._open.setdefault(key, []).append(found)
        try:
            async with asyncio.timeout(LOOK_S):
                await self._session.subscribe(meta, 1)
                return await found
        except (MqttError, TimeoutError):  # not allowed to read it, or no one's
            return found.done() and not found.cancelled() and found.result()
        finally:
            for key in keys:
                self._open[key].remove(found)
                if not self._open[key]:
                    del self._open[key]
            if keys[0] not in self._open:
                with suppress(MqttError):  # the connection has ended, and its subscriptions with it
                    await self._session.unsubscribe([meta])

    def heard(self, topic: str, payload: bytes) -> bool:
        """Take a message; True when it is an answer or metadata, whoever waits for it."""
        levels = topic.removeprefix(f"{self._root}/v1/").split("/")
        if len(levels) == 3 and levels[0] == "node" and levels[2] == "meta":
            gateway = _of(payload, "gw")
            if isinstance(gateway, str) and gateway != self._gateway:
                self._resolve((topic, ""))
            return True
        if len(levels) == 4 and levels[0] == "cmd" and levels[3] == "ack":
            ident = _of(payload, "id")
            if isinstance(ident, str):
                self._answered((topic, ident))
            return True
        return False

    def _answered(self, key: tuple[str, str]) -> None:
        if key in self._own:
            self._own.remove(key)
            return
        self._answers.append(key)
        self._resolve(key)

    def _resolve(self, key: tuple[str, str]) -> None:
        for found in self._open.get(key, ()):
            if not found.done():
                found.set_result(True)


def _of(body: bytes, key: str) -> Any:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return found.get(key) if isinstance(found, dict) else None

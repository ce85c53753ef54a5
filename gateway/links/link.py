"""The seam between the service and its links."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from gateway.core.model import Reception

Deliver = Callable[[Reception], "asyncio.Future[None] | None"]
"""Hands a frame to the service. The future resolves once the frame is decided, committed and answered; None: nothing to wait for."""

Reject = Callable[[dict[str, Any]], None]
"""Gets the public description of something refused (schemas/reject.json), for gw/<gw>/reject."""


def unheard(_body: dict[str, Any]) -> None:
    """Where no output tells of what is refused: it is counted and logged all the same."""


class LinkError(Exception):
    """A link that cannot work; `hint` says what to do."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


class Link(Protocol):
    """start() opens it (LinkError when that can never work), stop() closes it; send() is best effort, the node resends."""

    name: str

    async def start(self) -> str:
        """Open the link; return where it listens, for the log."""
        ...

    async def stop(self) -> None:
        """Take no more frames. Downlinks may still be sent until close()."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...

    def send(self, to: Reception, node: int, frame: bytes) -> bool:
        """Send a downlink frame in answer to a reception; False when it could not even be tried."""
        ...

"""Home Assistant has started: every node's discovery message is published to it again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from gateway.core.current import NOTHING
from gateway.metrics import Metrics
from gateway.outputs.message import Message
from gateway.outputs.retained import Tree
from gateway.outputs.siblings import DISCOVERY
from gateway.store.ledger import Ledger

PAGE = 200  # subjects read at once
NEVER = 1 << 62
RESEND_S = 0.5, 5.0  # random delay before: it is busy, and we are not the only device


async def births(
    started: asyncio.Event,
    tree: Tree,
    ledger: Ledger,
    metrics: Metrics,
    room: Callable[[], Awaitable[None]],
    publish: Callable[[Message, str], None],
) -> None:
    """Do so whenever `started` is set, until cancelled. Raises MqttError."""
    while True:
        await started.wait()
        await asyncio.sleep(random.uniform(*RESEND_S))
        started.clear()
        after = ""
        while subjects := ledger.subjects(after, PAGE, -1, NEVER):
            for subject in subjects:
                await room()
                _, c = ledger.current(subject) or (0, NOTHING)
                for m in tree.desired(subject, c, (DISCOVERY,)).values():
                    publish(m, subject)
            after = subjects[-1]
        metrics.totals["discovery_resent"] += 1

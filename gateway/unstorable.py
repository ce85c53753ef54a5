"""What becomes of a decision that no store takes: the frame is kept raw, told as `opaque`, counted as `unstorable` and acknowledged.

It would be decided the same way again, so refusing it would only bring it back; and the frames beside it have nothing to do with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from gateway.core.decide import opaque
from gateway.core.value import replace
from gateway.metrics import Metrics
from gateway.store.engine import Engine, Write
from gateway.store.prepare import prepare

REASON = "unstorable"

log = structlog.get_logger(__name__)


def storable(writes: Sequence[Write], engine: Engine, metrics: Metrics) -> list[Write]:
    """Return writes that can be stored, with as much of each as can be."""
    return [_reduced(w, engine, metrics) for w in writes]


def _reduced(w: Write, engine: Engine, metrics: Metrics) -> Write:
    try:
        prepare(w)
        return w
    except (
        Exception
    ) as e:  # Unstorable; anything else is a fault of ours in looking at it, which is this one's all the same
        metrics.refused[REASON] += 1
        log.warning(REASON, node=w.node, counter=w.raw.counter if w.raw else None, what=str(e),
                    next="its bytes are kept (frames or quarantine with this reason); report them, this is a fault of the gateway")  # fmt: skip
    for less in _less(w):
        try:
            prepare(less)
        except Exception:  # the next holds less of what it stumbled over; the first was counted and logged
            continue
        if w.raw is not None and less.raw is None:
            engine.quarantine(w.raw.data, REASON, w.raw.received)
        return less
    return Write(w.node, None)


def _less(w: Write) -> Sequence[Write]:
    """Return what may be stored instead, fullest first."""
    alone = (Write(w.node, w.state, notes=w.notes), Write(w.node, w.state), Write(w.node, None))
    if w.event is None or w.raw is None or w.again:
        return alone
    event, raw = opaque(w.event), replace(w.raw, reason=REASON)
    bare = replace(raw, link="", receiver="", rssi=None, snr=None)
    return (
        replace(w, event=event, raw=raw, more=()),
        replace(w, event=replace(event, link="", receiver="", rssi=None, snr=None), raw=bare, more=(), notes={}),
        *alone,
    )

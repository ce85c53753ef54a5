"""A decided frame on its way from the intake to the disk and back to the node."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.core.command import Offer
from gateway.core.decide import opaque
from gateway.core.dedupe import Heard
from gateway.core.model import Decision, Event, Node
from gateway.core.receive import Header
from gateway.core.value import replace
from gateway.store.engine import RawFrame, Write


@dataclass(slots=True)
class Work:
    """done resolves when the frame is committed and answered, or its commit has failed. more, notes: what was derived
    from it.

    kind: what it was charged as (gateway.core.rate): "alarm", "repeat" for what anyone may have recorded, "" for other
    news. newest: it is newer than everything the node sent before, so it shows how the node listens.
    """

    node: Node
    header: Header
    decision: Decision
    done: asyncio.Future[None]
    heard: Heard[asyncio.Future[None] | None] | None = None
    more: tuple[Event, ...] = ()
    notes: Mapping[str, bytes | None] = field(default_factory=dict)
    offer: Offer | None = None
    kind: str = ""
    newest: bool = False

    def write(self) -> Write:
        """Return what is to be stored of it, with the best of the copies that were heard."""
        event, rx = self.decision.event, self.heard.best if self.heard else None
        if event is None or rx is None or self.heard is None:
            return Write(self.node.id, self.decision.state, None, None, self.more, self.notes)
        if self.heard.copies > 1:
            event = replace(event, receiver=rx.receiver, copies=self.heard.copies)
            if self.kind != "repeat":  # what may be one does not show how strongly the node is heard
                event = replace(event, rssi=rx.rssi, snr=rx.snr)
        reason = self.decision.refusal.reason if self.decision.refusal else ""
        raw = RawFrame(
            node=self.node.id,
            epoch=event.epoch,
            counter=event.counter,
            kind=self.header.kind,
            data=rx.data,
            received=event.received,
            link=rx.link,
            receiver=rx.receiver,
            rssi=rx.rssi,
            snr=rx.snr,
            reason=reason,
        )
        return Write(self.node.id, self.decision.state, event, raw, self.more, self.notes)

    def least(self, reason: str) -> Write:
        """Return what is stored of it instead when write() fails: the state it was decided to, and its bytes, told as `opaque`.

        Nothing of how it was heard is looked at, and nothing that was derived from it is told.
        """
        event = self.decision.event
        if event is None or self.heard is None:
            return Write(self.node.id, self.decision.state, notes=self.notes)
        event = replace(opaque(event), link="", receiver="", copies=1, rssi=None, snr=None)
        raw = RawFrame(
            node=self.node.id,
            epoch=event.epoch,
            counter=event.counter,
            kind=self.header.kind,
            data=self.heard.first.data,
            received=event.received,
            link="",
            receiver="",
            rssi=None,
            snr=None,
            reason=reason,
        )
        return Write(self.node.id, self.decision.state, event, raw, notes=self.notes)

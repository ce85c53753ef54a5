"""What follows from decisions: rules, aggregates, whatever looks at events of many nodes. A follower is pure state and step.

Its events and notes are committed in the transaction of the frame they follow from. In memory it may run ahead of the disk; when a
commit fails the pipeline makes it go back to what is committed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from gateway.core.model import Event, Node


class Follow(msgspec.Struct, frozen=True):
    """Events in the order in which they are to be told, and notes to keep (None removes one).

    refused: reason -> number of rows that nothing could follow from, for the counters.
    """

    events: tuple[Event, ...] = ()
    notes: Mapping[str, bytes | None] = msgspec.field(default_factory=dict)
    refused: Mapping[str, int] = msgspec.field(default_factory=dict)


class Follower(Protocol):
    """One kind of consequence. `name` and a colon begin the keys of its notes, and its own part of every event id it makes."""

    name: str

    def load(self, notes: Mapping[str, bytes]) -> None:
        """Forget everything and go on from the committed notes.

        `notes` stays valid until the next load and shows later notes of this follower too, also those not committed yet: a
        follower may keep them out of memory and look each one up when it is needed. To go through all of them is O(notes).
        """
        ...

    def follow(self, node: Node, event: Event) -> Follow:
        """Take an event that is about to be committed; exactly once for each, late ones too."""
        ...

    def stepped(self, seconds: float) -> None:
        """The clock was set by so much: what is waited for from now on is counted without it."""
        ...

    def tick(self, now: float) -> Follow:
        """Do what is due at Unix time `now` (hours that end, schedules, silence). Called about twice a second: cost must be O(due)."""
        ...

"""A command on its way to a node, what is known of a node beside it, and what is put into a downlink. Pure values; `order_book.py` keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.core import orders
from gateway.core.follow import Follow

ROUNDS = 12  # so often a command is sent at most; one in pieces, every piece
REPEAT_S = (20, 3600)  # pause before it is sent again: doubled every time, up to the second
RESULT_S = 86_400  # after the expiry, for the result of a command that the node has taken
KEEP_S = 30 * 86_400  # an id is known so long after its end
OPEN = ("accepted", "queued", "sent")

Key = tuple[int, int]  # node, number


@dataclass(frozen=True, slots=True)
class Command:
    """One request that was accepted. Times are Unix seconds.

    number: the node's id for it. step: how many events it has had. sends, sent: how often and when last. order: its place among the
    node's commands by first send, 0 before. mark: (epoch, counter) of the newest uplink at the first send; what answers is
    newer. version: the configuration in force then. spare, spared: sends with answers to repeats, and when last: anyone may
    have sent those, so they count no round and delay nothing. pieces: frames it takes, cut for `room` bytes. resets: of the node since it was sent. taken: the node said that it has it. said: the node said how it ended.
    target, visibility, keys: the node's name, circle and keys (fingerprints) when it was asked; "" and () in notes of older gateways.
    """

    number: int
    id: str
    requester: str
    node: int
    name: str
    args: list[Any] | dict[str, Any]
    reason: str
    asked: float
    expires: float
    state: str = "accepted"
    detail: str = ""
    step: int = 0
    sends: int = 0
    sent: float = 0.0
    order: int = 0
    mark: tuple[int, int] = (0, 0)
    version: int | None = None
    pieces: int = 1
    room: int = 0
    resets: int = 0
    taken: bool = False
    said: bool = False
    ended: float = 0.0
    spare: int = 0
    spared: float = 0.0
    target: str = ""
    visibility: str = ""
    keys: tuple[bytes, ...] = ()

    @property
    def rounds(self) -> int:
        """How often it was sent because the node had something new, or listens all the time."""
        return self.sends - self.spare

    @property
    def open(self) -> bool:
        """True until it has ended."""
        return self.state in OPEN

    @property
    def configures(self) -> bool:
        """True for what travels as configuration and is answered by its version."""
        return self.name in orders.CONFIG

    def ready(self, now: float, repeat: bool = False, at_nodes: float | None = None) -> bool:
        """True when it may be sent (again) now. repeat: with the answer to a repeat, which is done less readily. at_nodes: the time
        that nodes go by, where it is another."""
        if self.taken or (now if at_nodes is None else at_nodes) >= self.expires or self.rounds >= ROUNDS * self.pieces:
            return False
        if repeat and (self.spared <= now < self.spared + REPEAT_S[0] or self.sent <= now < self.sent + REPEAT_S[0]):
            return False
        return self.rounds % self.pieces > 0 or not self.rounds or not self.sent <= now < self.again_at

    @property
    def again_at(self) -> float:
        """When the pause after the last send ends."""
        rounds = self.rounds // self.pieces
        return self.sent + min(REPEAT_S[0] << max(rounds - 1, 0), REPEAT_S[1])

    @property
    def due(self) -> float:
        """When the clock changes something about it."""
        if not self.open:
            return self.ended + KEEP_S
        if self.taken:
            return self.expires + RESULT_S
        return min(self.expires, self.again_at) if self.rounds >= ROUNDS * self.pieces else self.expires


@dataclass(frozen=True, slots=True)
class Book:
    """What is known of a node beside its commands. last: highest number given. order: commands first sent so far. reported: version of its
    configuration. config, confirmed, since: number, version and (epoch, counter) of the last configuration it confirmed.
    interval_s: report interval it confirmed while the registry said `registry_s`. fail_safe: of its valve, as confirmed.
    keys: of the board that all this is about (fingerprints). leak: id of the closing that was ordered for the leak that is up, "" for none.
    """

    last: int = 0
    order: int = 0
    reported: int | None = None
    config: int = 0
    confirmed: int | None = None
    since: tuple[int, int] = (0, 0)
    interval_s: int = 0
    registry_s: int = 0
    fail_safe: str = ""
    keys: tuple[bytes, ...] = ()
    leak: str = ""


@dataclass(frozen=True, slots=True)
class Offer:
    """What to put into a downlink, counted as sent (repeat: with the answer to a repeat). Nothing may leave before `follow` is committed."""

    key: Key
    items: Mapping[int, Any]
    priority: int
    follow: Follow
    repeat: bool = False

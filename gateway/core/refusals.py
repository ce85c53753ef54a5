"""Typed refusals of the decoder. `reason` is the metric label; the text is for a human and never quotes payload bytes."""

from __future__ import annotations

from typing import ClassVar


class Unreadable(Exception):
    """An authentic payload that cannot be turned into readings; its frame is kept raw."""

    reason: ClassVar[str] = "unreadable"


class Malformed(Unreadable):
    """The bytes break the wire contract."""

    reason = "malformed"


class Full(Malformed):
    """More than is kept of one node: what it sent before takes up its places."""


class UnknownSchema(Unreadable):
    """A report names a column set that neither the registry nor the node has told us, or that the node announced otherwise than it sends
    (why: what does not fit). It is read again when the node announces anew."""

    reason = "unknown_schema"

    def __init__(self, number: int, why: str = "") -> None:
        super().__init__(f"schema {number}: {why}" if why else f"schema {number}")
        self.number = number

"""What can be wrong with bytes. `reason` is the label under which a refusal is counted."""


class WireError(Exception):
    """Bytes that break the wire contract, or values that cannot be put into it."""

    reason = "wire_error"


class Truncated(WireError):
    """The bytes end before the item does."""

    reason = "truncated"


class TooLong(WireError):
    """More bytes, rows, columns or nesting than the contract allows."""

    reason = "too_long"


class BadVersion(WireError):
    """Bits 7-6 of the first byte name a version that this code does not speak."""

    reason = "bad_version"


class BadTag(WireError):
    """The authentication tag does not fit: forged, damaged, or sealed with another key or counter."""

    reason = "bad_tag"


class Malformed(WireError):
    """Well-known place, impossible content."""

    reason = "malformed"


class Full(WireError):
    """What is to be written does not fit into the space the caller gave."""

    reason = "full"

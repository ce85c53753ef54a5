"""What can go wrong on a node and is acted upon; `reason` is the label under which it is counted."""


class MoteError(Exception):
    """Base of the node's own errors."""

    reason = "mote_error"


class NeedsKey(MoteError):
    """The key or both copies of its frame counter are gone: sealing could repeat a nonce, so the node refuses (G2)."""

    reason = "needs_key"


class BadConfig(MoteError):
    """A configuration value is missing, of the wrong type or out of range; the text names the key."""

    reason = "bad_config"


class Corrupt(MoteError):
    """Stored bytes fail their CRC."""

    reason = "corrupt"


class NoSpace(OSError):
    """Flash is full, and there is nothing left in the outbox that may be evicted. An OSError, as every flash that refuses (errno ENOSPC)."""

    reason = "no_space"


class LowSupply(MoteError):
    """The supply is too low to write flash safely: the node sleeps until it has recovered. No crash."""

    reason = "low_supply"


class LinkDown(MoteError):
    """The bearer is away (no access point, no broker); the frame stays in the outbox."""

    reason = "link_down"


class Refused(MoteError):
    """A command that makes no sense here; the text says why, in few words."""

    reason = "refused"


class Planned(MoteError):
    """The node ends because it was told to (a new configuration, a command): the next boot is no crash."""

    reason = "planned"

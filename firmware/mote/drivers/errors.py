"""What a driver raises besides OSError (nobody answers on the bus). `reason` is the label in counters and logs."""


class DriverError(Exception):
    """The chip answered, but not with a reading."""

    reason = "driver"


class BadChecksum(DriverError):
    """Every answer within the time allowed was damaged."""

    reason = "checksum"


class NoAnswer(DriverError):
    """The chip stayed silent, or busy, past its bound."""

    reason = "no_answer"


class WrongChip(DriverError):
    """Another chip lives at this address."""

    reason = "wrong_chip"


class NoEcho(DriverError):
    """Nothing in range to measure."""

    reason = "no_echo"


class OutOfRange(DriverError):
    """The chip says itself that its value is no measurement (overflow, skipped, dead input)."""

    reason = "out_of_range"

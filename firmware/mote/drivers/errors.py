"""What a driver raises besides OSError (nobody answers on the bus). `reason` is the label in counters and logs."""


class DriverError(Exception):
    """The chip answered, but not with a reading."""

    reason = "driver"
    world = False  # True: the sensor is well and says how the world is, so it is read again at the next sample


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
    world = True


class OutOfRange(DriverError):
    """The chip says itself that its value is no measurement (skipped, dead input)."""

    reason = "out_of_range"


class Beyond(OutOfRange):
    """The world is beyond what the chip can measure (a magnet held to the node, a shaken bin), which may end at any moment."""

    world = True

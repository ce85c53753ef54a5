"""What stands for a sensor that cannot be built beside others that can: wrong pins in the board file, options that its driver refuses."""

from mote import log
from mote.config import note_problem
from mote.drivers import DRIVERS
from mote.files import read_json


def instead(name, config, error):
    """Return an Absent for driver `name`, which could not be built for this error; raise that where a good configuration is waiting (mote.config)."""
    if config.probation and read_json(config.good) is not None:
        raise error
    log.error("%s is left out: %s", name, error)
    note_problem(str(error))
    module, cls = DRIVERS[name].split(":")
    return Absent(getattr(__import__("mote.drivers." + module, None, None, (cls,)), cls).CHANNELS)


class Absent:
    """A driver with these channels that no reading comes from: the sampler reports its fault."""

    def __init__(self, channels):
        self.CHANNELS = channels

    async def read_into(self, out):
        raise OSError(19)  # ENODEV, what the esp32 port raises when no chip answers

    def set_temperature(self, tenths):
        """Of a sensor that compensates (bin fill)."""

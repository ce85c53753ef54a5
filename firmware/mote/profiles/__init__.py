"""What a node measures. A profile is one file: which sensors, which columns, which statistics, which rules."""

from mote import nobody
from mote.stats import MEAN, NAMES


class Profile:
    """Base of all profiles. Class data:

    SCHEMA: number in motewire.schemas (None: the ids are sent). KEYS: quantity keys of the columns, in schema order.
    HOWS: {key: "mean" | "last" | "min" | "max"}, mean when absent. ALARMS: default rules (configuration entries) for quantities
    the configuration does not speak of.
    """

    SCHEMA = None
    KEYS = ()
    HOWS = {}
    ALARMS = ()
    # poll(): where there is one, called every 20 s while the node is awake
    alarms = None  # mote.alarms.Alarms, set by the node
    samples = 1  # how many sample_s the sample at hand is the mean of

    def __init__(self, board, config, keep, bare=False):
        """board: mote.hal.board.Board. config: complete configuration. keep: function(name) -> mote.twice.Twice. bare: without sensors.

        commands: {name: coroutine function(args) -> detail text or None} beyond those of mote.control; build() may add to it.
        """
        from motewire.quantities import ids_of

        self.ids = ids_of(self.KEYS)
        self.hows = [NAMES[self.HOWS[key]] if key in self.HOWS else MEAN for key in self.KEYS]
        self.raised = nobody  # function(code, t, quantity id, value, limit), set by the node
        self.now = nobody  # function() -> t2000, set by the node
        self.commands = {}
        self.sensors = [] if bare else self.build(board, config, keep)

    def build(self, board, config, keep):
        """Return the list of mote.sampler.Sensor."""
        raise NotImplementedError

    def save(self, put):
        """Tell put(int) what load() needs after a deep sleep: all that a profile keeps in RAM between samples."""

    def load(self, get):
        """Go on after a deep sleep."""

    def stepped(self):
        """The clock jumped."""

    def say_again(self, t, quantity):
        """Raise what is up of the profile's own on this quantity: a clear has ended it at the gateway."""

    def rhythm(self, config):
        """Return (sample_s, row_s) of this configuration; row_s 0 means event rows."""
        return config["sample_s"], config["row_s"] or config["sample_s"]

    def derive(self, values, present):
        """Fill computed columns of one sample in place; return the mask. Called per sample: allocates nothing."""
        return present

    def row(self, t, row, present):
        """Last look at a row before it is staged; return the mask."""
        return present

    def aside(self, row, present):
        """As derive(), of a reading out of turn whose row leaves at once."""
        return self.derive(row, present)

    def keep(self):
        """What was measured is about to leave the node in an alarm: store what must never be told lower. Raises OSError."""

    def alarm_specs(self, config):
        """The configuration's rules, and the defaults for quantities it does not mention."""
        specs = list(config["alarms"])
        named = [spec.get("q") for spec in specs]
        specs.extend([spec for spec in self.ALARMS if spec["q"] not in named])
        return specs


def chip(name, bus, config, **defaults):
    """Build a driver; the configuration's sensors.<name> gives its options (over `defaults`) and, as "unit", its bus.

    bus: function(unit or None) -> bus. Raises BadConfig.
    """
    from mote.drivers import open_driver
    from mote.errors import BadConfig

    options = dict(defaults)
    given = config["sensors"].get(name) or {}
    if not isinstance(given, dict):
        raise BadConfig("sensors.%s: a table of options" % name)
    options.update(given)
    unit = options.pop("unit", None)
    try:
        return open_driver(name, bus(unit), options)
    except BadConfig:
        raise
    except KeyError as e:
        raise BadConfig("board.json: %s without %s" % (name, e))
    except (TypeError, ValueError, OSError) as e:
        raise BadConfig("sensors.%s: %s" % (name, e))


def one_of(name, bus, config, **defaults):
    """chip() for one sensor among others: where it cannot be built, a driver that fails at every reading, so that the others continue and its fault is reported. Raises
    BadConfig: there is a good configuration to go back to."""
    from mote import borrow
    from mote.errors import BadConfig

    try:
        return chip(name, bus, config, **defaults)
    except BadConfig as e:
        return borrow("mote.profiles.absent", "instead", name, config, e)

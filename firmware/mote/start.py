"""The way from power-on to a node that runs, for main.py: what can be wrong on it, and what is done about it."""

import gc
from time import sleep_ms

from micropython import const
from mote import let_go, log, supervisor
from mote import config as configuration
from mote.errors import BadConfig, LowSupply, NeedsKey
from mote.hal import reset
from mote.hal import watchdog as dog
from mote.identity import Identity, is_provisioned

# motewire.codes; private copies cost no RAM, tests/wire/test_registry.py compares them
_LADDER_ALL = const(3)

_TICK_MS = const(100)
_HOLD = const(100)  # ticks the bench pin is held down for a factory reset, and as many in which it is let go
_WDT_S = const(120)
_VISIT_MS = const(30000)  # a board that was never provisioned waits so long for a technician


def gesture(board):
    """True when the bench pin is grounded at power-on, held for ten seconds and let go within the next ten. Whoever leaves it grounded wants
    the REPL, nothing else. The LED blinks, faster when it is time to let go."""
    if not supervisor.bench or not reset.powered_on():
        return False
    led = board.led if board.has_led() else None
    for i in range(2 * _HOLD):
        if led is not None:
            led(i & 1 if i >= _HOLD else i >> 2 & 1)
        sleep_ms(_TICK_MS)
        if not board.bench():
            return i >= _HOLD
    return False


def configure(board, nvs):
    """Return the mote.config.Config in force, or None when no file is usable. Sets log level, who may use the REPL, the gesture's reset."""
    supervisor.bench = board.bench()
    provisioned = is_provisioned(nvs)
    supervisor.allow_repl(supervisor.bench or not provisioned)
    if gesture(board):
        log.warning("factory reset by hand")
        from mote.restore import factory_reset

        factory_reset(supervisor.rtc, nvs)
        supervisor.climb("forgive")
    supervisor.bench = board.bench()
    try:
        config = configuration.Config(rtc=supervisor.rtc, nvs=nvs)
    except BadConfig as e:
        log.error("no usable configuration: %s", e)
        configuration.note_problem(str(e))
        supervisor.allow_repl(supervisor.bench or not provisioned)
        config = None
    else:
        if config.given_up:
            supervisor.climb("forgive")
        log.level = config["log"]
        supervisor.allow_repl(supervisor.bench or not provisioned or config["repl"] == 1)
    if not provisioned and not supervisor.bench:
        log.error("this board has no key; next: ctrl-C and provision it")
        sleep_ms(_VISIT_MS)
    return config


def watchdog(config):
    """Start the watchdog of the configuration; None when it wants none."""
    seconds = config["wdt_s"] if config is not None else _WDT_S
    return dog.start(1000 * seconds) if seconds else None


def identity(nvs):
    """Return the mote.identity.Identity. Raises NeedsKey."""
    return Identity(nvs)


def may_be_whole(config):
    """False when only a safe node can run: no usable configuration, or a ladder climbed to its end."""
    return config is not None and supervisor.level <= _LADDER_ALL


def last_resort(error):
    """A whole node could not be built: raise the error again as long as leaving something out may help; else keep its words."""
    if isinstance(error, (LowSupply, NeedsKey)) or supervisor.level < _LADDER_ALL:
        raise error
    supervisor.keep_words(error)


def safe_node(config, board, nvs, who, guard):
    """Return the mote.safe.SafeNode. Raises BadConfig: no link can be built from any file."""
    from mote.safe import SafeNode

    if config is None:
        from mote.restore import Rescued

        config = Rescued(rtc=supervisor.rtc, nvs=nvs)
    return SafeNode(config, board, nvs, who, guard)


_PARTS = (
    "_sleeper", "alarms", "batcher", "clock", "control", "downlink", "health", "link", "outbox", "power", "sampler", "sealer",
    "supervisor",
)  # fmt: skip
_ONCE = ("__init__", "_go_on", "_knows", "_scan", "_scan_segment", "_woke", "build")


def settle(node):
    """It is built: let go of what only building needs."""
    for name in ("mote.links", "mote.drivers"):
        let_go(name)
    lean(node)
    gc.threshold(8192)
    gc.collect()


def lean(node):
    """Forget how to make what there is one of until the next boot: the node, its parts and drivers (4 kB). Overwritten and not deleted, for
    a deleted entry of a class keeps its value."""
    made = [node] + [getattr(node, name) for name in _PARTS if getattr(node, name, None) is not None]
    profile = getattr(node, "profile", None)
    if profile is not None:
        made.append(profile)
        for sensor in profile.sensors:
            made += [sensor, sensor.driver]
    for it in made:
        for name in _ONCE:
            if hasattr(type(it), name):
                setattr(type(it), name, None)

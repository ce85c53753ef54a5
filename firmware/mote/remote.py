"""What a node lets itself be told: configuration, commands, restarts. Thin: what does the work (mote.change, mote.commands) is in memory only
while there is some. A safe node has a Remote; a whole node a Control, which also raises rates.
"""

import asyncio
import gc

from micropython import const
from mote import borrow, let_go, log, supervisor
from mote.config import note_problem
from mote.errors import BadConfig, Planned
from mote.hal import clock as board_clock

_STATUS_PROBLEM = const(22)  # motewire.codes; a private copy costs no RAM, tests/wire/test_registry.py compares them
_RESTART_MS = const(5000)  # time for an answer to leave; what does not leave waits on flash
COMMANDS = "/commands.json"
# what a change needs in turn; named here so that nothing of it stays when memory ends in the middle
_PASSING = (
    "mote.change",
    "mote.pieces",
    "mote.settings",
    "mote.proof",
    "mote.rules",
    "motewire.codes",
    "motewire.quantities",
)


class Remote:
    """node: config, nvs, clock, health, uplink, supervisor, board."""

    whole = False

    def __init__(self, node):
        self.node = node
        self._ending = None
        self._commands = None  # mote.commands.Commands, while one is being executed
        self.refused = 0  # configurations
        self.holds = 0  # what else keeps the node awake

    @property
    def busy(self):
        """True while a command is executed or the end of this boot is near: no time to sleep deeply."""
        return self._commands is not None or self._ending is not None or self.holds > 0

    def start(self):
        """Begin to work, from the node's run(). Raises OSError."""
        self.node.supervisor.checks.append(self.check)
        try:
            with open(COMMANDS):
                pass
        except OSError:
            return  # never had a command
        self._load().boot()
        self._unload()

    # --- the end of this boot

    def restart(self):
        """End this boot as planned, in some seconds."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())

    async def _end(self):
        await asyncio.sleep_ms(_RESTART_MS)
        try:
            self.close()
        except OSError as e:  # a flash that refuses must not keep the node from restarting
            log.error("close: %s", e)
        self.node.supervisor.fail(Planned())

    def close(self):
        """Bring what is open to flash."""

    def check(self):
        """Now and then: is the configuration overdue, the chance of what was left out due? Raises OSError."""
        config = self.node.config
        if supervisor.chance_due:
            log.info("a day of good work: everything gets another chance")
            self.restart()
        elif config.overdue() and config.give_up(getattr(self.node.link, "trouble", "") or "no answer"):
            self.restart()

    # --- configuration

    def on_config(self, value):
        """Take downlink key 4; what is wrong with it, or has no room here, is reported and changes nothing. Raises BadConfig, OSError."""
        before = self.node.config.values
        try:
            gc.collect()
            return borrow("mote.change", "take", self, value)
        except MemoryError:
            pass
        finally:
            for name in _PASSING:
                let_go(name)
        gc.collect()
        if self.node.config.values is not before:  # it is stored, and half in effect
            self.restart()
            return
        self.refused += 1
        why = "no memory for this configuration"
        note_problem(why)
        try:
            self.node.health.send([(_STATUS_PROBLEM, why)])
            self.node.uplink.fresh(True)
        except MemoryError:
            log.error("no memory to say so")  # the note is told at the next boot
        raise BadConfig("no memory")

    # --- commands

    def _load(self):
        from mote.commands import Commands

        return Commands(self)

    def _unload(self):
        for name in ("mote.commands", "mote.actions"):
            let_go(name)

    def on_command(self, command, expiry):
        """Take downlink keys 5 and 10. Raises OSError."""
        if self._commands is None:
            self._commands = self._load()
            asyncio.create_task(self._execute())
        self._commands.take(command, expiry)

    async def _execute(self):
        try:
            await self._commands.run()  # pyright: ignore[reportOptionalMemberAccess]
        except OSError as e:  # its state is not written down; it is said to be interrupted after the next reset
            log.error("commands: %s", e)
        self._commands = None
        self._unload()


class Control(Remote):
    """Of a whole node (mote.app.Node), which also has profile, sampler, batcher, alarms and retune()."""

    whole = True

    def __init__(self, node):
        super().__init__(node)
        self.until = 0  # uptime at which a commanded emergency ends
        self.raised = False  # rates are
        self._soon = False

    def close(self):
        self.node.batcher.close()

    def save(self, put):
        """Tell put(int) what load() needs after a deep sleep."""
        put(self.until)

    def load(self, get):
        """Go on after a deep sleep; rates that were raised are raised again at the next look."""
        self.until = get()

    def check(self):
        super().check()
        self.boost()

    def boost(self):
        """Raise the rates while a command or a rule asks for it, let them return after it."""
        want = self.node.alarms.boosting or board_clock.uptime_s() < self.until
        if want != self.raised:
            self.raised = want
            log.info("rates %s", "raised" if want else "as configured")
            self.node.config.rates(want)
            self.node.retune()

    def boost_soon(self):
        """A rule asks for it, in the middle of a sample."""
        if not self._soon:
            self._soon = True
            asyncio.create_task(self._boost())

    async def _boost(self):
        self._soon = False
        self.boost()

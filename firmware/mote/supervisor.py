"""Comes back from everything: crash counter before set-up, a ladder of what is left out, watchdog fed by progress only.

begin() runs in boot.py, failed() in the launcher's (main.py) last except. The counter lives in RTC memory, so a power cut begins afresh, and
is cleared by healthy() once the node has worked for ten minutes (an ack is no proof: a sensor may hang a minute later).
"""

import asyncio
import io
import sys

from micropython import const
from mote import log
from mote.errors import LowSupply, NeedsKey
from mote.files import remove
from mote.hal import clock, reset
from mote.hal.rtc import CRASHES, ENTERED, RtcMemory

_CRASH_FILE = "/crash.txt"
_TICK_S = const(20)
_HEALTHY_S = const(600)
_TEXT = const(160)
_NEEDS_KEY_MS = const(3600000)  # how long a node without a key or counter sleeps; what it staged waits on flash

_LOW_SUPPLY_MS = const(600000)

# the ladder: what a node leaves out after so many crashes in a row
NORMAL = const(0)
SHED_ONE = const(1)  # the sensor that was entered last
SHED_ALL = const(2)  # all sensors: uplink and diagnostics only
_ONE_AT = const(3)
_ALL_AT = const(6)

rtc: RtcMemory = None  # pyright: ignore[reportAssignmentType]  (begin() makes it)
level = NORMAL
bench = False  # the bench pin is grounded: a failure ends at the REPL, for a technician


def begin():
    """Count this boot as a crash until healthy() says otherwise; return the level of the ladder."""
    global rtc, level
    rtc = RtcMemory()
    n = rtc.buf[CRASHES]
    level = SHED_ALL if n >= _ALL_AT else SHED_ONE if n >= _ONE_AT else NORMAL
    if not rtc.woke:  # the end of a sleep that the node chose is no start
        rtc.buf[CRASHES] = min(n + 1, 255)
        rtc.save()
    return level


def healthy():
    """This boot works: the next reset is the first again."""
    if rtc.buf[CRASHES]:
        rtc.buf[CRASHES] = 0
        rtc.save()


def shed_index():
    """Place of the sensor to leave out at SHED_ONE, or -1."""
    return rtc.buf[ENTERED] - 1


def failed(error):
    """Keep the last words of an exception and reset; ever later when it happens again and again. Returns only at the bench."""
    sys.print_exception(error)
    if isinstance(error, LowSupply):  # no crash, and nothing is written
        if rtc is not None:
            healthy()
        reset.restart(_LOW_SUPPLY_MS)
    try:
        text = io.StringIO()
        sys.print_exception(error, text)  # pyright: ignore[reportArgumentType]
        lines = text.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
        lines = lines.strip().split("\n")
        where = lines[-2].strip() if len(lines) > 1 else ""
        with open(_CRASH_FILE, "w") as f:
            f.write((lines[-1] + " | " + where)[:_TEXT])
    except OSError:
        pass  # a full or broken flash must not keep the node from restarting
    if bench:
        return
    if isinstance(error, NeedsKey):
        log.error("nothing can be sealed; next: provision this node with a new key and the next epoch, then reset it")
        if rtc is not None:
            healthy()  # no crash: after provisioning it starts with all its sensors
        reset.restart(_NEEDS_KEY_MS)
    n = rtc.buf[CRASHES] if rtc is not None else 0
    reset.restart(0 if n < _ONE_AT else 1000 << min(n, 10))


def last_words():
    """Return the text that failed() kept in the boot before, or ""."""
    try:
        with open(_CRASH_FILE) as f:
            return f.read(_TEXT)
    except (OSError, ValueError):
        return ""


def forget_words():
    """The last words are in the outbox: remove them."""
    remove(_CRASH_FILE)


def prove_slot():
    """The gateway answered: the update slot this boot runs from may stay (slots.py in the flash root). Raises OSError."""
    slots = sys.modules.get("slots")
    if slots is not None:
        slots.prove()


def _trial_overdue(uptime_s):
    slots = sys.modules.get("slots")
    return slots is not None and slots.overdue(uptime_s)


class Supervisor:
    """Keeps the node's tasks going and the watchdog quiet as long as every one of them makes progress."""

    def __init__(self, watchdog):
        """watchdog: object with feed(), or None."""
        self._watchdog = watchdog
        self._marks = {}  # name -> [uptime of the last progress, longest silence in s]
        self._tasks = []
        self._failed = asyncio.Event()
        self._error = RuntimeError("no task")
        self.restarts = 0
        self.checks = []  # functions() called at every tick

    def watch(self, name, silence_s):
        """Expect progress(name) at least every silence_s seconds from now on."""
        self._marks[name] = [clock.uptime_s(), silence_s]

    def progress(self, name):
        """Task `name` did something useful."""
        self._marks[name][0] = clock.uptime_s()

    def keep(self, name, start):
        """Run coroutine function `start` for ever: OSError (bus, link) restarts it after 1, 2, 4 .. 60 s, anything else is a bug."""
        task = asyncio.create_task(self._keep(name, start))
        self._tasks.append(task)
        return task

    async def _keep(self, name, start):
        pause = 1
        while True:
            began = clock.uptime_s()
            try:
                await start()
                raise RuntimeError(name + " ended")
            except OSError as e:
                log.warning("%s: %s", name, e)
            except Exception as e:
                self._error = e
                self._failed.set()
                return
            self.restarts += 1
            if clock.uptime_s() - began > 300:
                pause = 1
            await asyncio.sleep(pause)
            pause = min(2 * pause, 60)

    def fail(self, error):
        """End run() with this error."""
        self._error = error
        self._failed.set()

    async def run(self):
        """Feed the watchdog while all goes well; raises the error of the first task that had a bug."""
        tick = asyncio.create_task(self._tick())
        try:
            await self._failed.wait()
        finally:
            tick.cancel()
        raise self._error

    async def _tick(self):
        while True:
            try:
                self._step()
            except Exception as e:
                self._error = e
                self._failed.set()
                return
            await asyncio.sleep(_TICK_S)

    def _step(self):
        now = clock.uptime_s()
        if now >= _HEALTHY_S:
            healthy()
        if _trial_overdue(now):
            raise RuntimeError("no answer on trial")
        for check in self.checks:
            check()
        for name in self._marks:
            mark = self._marks[name]
            if now - mark[0] > mark[1]:
                log.error("%s stands still", name)
                return
        if self._watchdog is not None:
            self._watchdog.feed()

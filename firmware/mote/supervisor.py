"""Comes back from everything: crash counter before set-up, a ladder of what is left out, watchdog fed by progress only.

begin() runs in boot.py, ended() in the launcher's (main.py) last except. mote.ladder says what the counter means and what is left out.
"""

import asyncio
import gc
import sys

import micropython
from micropython import const
from mote import borrow, log
from mote.errors import LowSupply, NeedsKey, Planned
from mote.hal import clock, reset
from mote.hal.nvs import Nvs
from mote.hal.rtc import CRASHES, ENTERED, TRIES, RtcMemory

PATIENCE = const(3)  # crashes before anything is left out
TRIAL = const(0x80)  # in RTC byte CRASHES: the next boot is on trial
_WORK_S = const(600)  # a boot that worked so long was no brown-out
_DECAY_S = const(21600)
_CHANCE_S = const(86400)
_TICK_S = const(20)
_RESERVE = const(1536)
_NEEDS_KEY_MS = const(3600000)  # how long a node without a key or counter sleeps; what it staged waits on flash

_LOW_SUPPLY_MS = const(600000)

rtc: RtcMemory = None  # pyright: ignore[reportAssignmentType]  (begin() makes it)
nvs: Nvs = None  # pyright: ignore[reportAssignmentType]
level = 0  # LADDER_* of motewire.codes
trial = False  # this boot tries everything again; `rung` is what held
returned = False  # the ladder was left: to be said once
suspicious = False  # the boot before ended badly: the sampler looks who takes the memory
suspect = 0  # index + 1 of the sensor that keeps most memory; it is blamed for a MemoryError
good_s = 0  # seconds of work on this rung; a node that sleeps keeps it over the sleep
chance_due = False  # a day of good work on a rung: time to try everything again
bench = False  # the bench pin is grounded: a failure ends at the REPL, for a technician
repl = False  # ctrl-C ends at the REPL
_reserve = None  # memory for the last words
rung = 0  # count at which this boot began
kept = 0  # the NVS int "ladder"


def climb(what, *args):
    """Call a function of mote.ladder."""
    return borrow("mote.ladder", what, *args)


def begin():
    """Count this boot as a crash until the node says otherwise; return the level of the ladder. Called once per boot, before all else."""
    micropython.kbd_intr(-1)  # noise on the serial line is no ctrl-C; allow_repl() gives it back
    global _reserve
    _reserve = bytearray(_RESERVE)
    climb("begin")
    return level


def worked(seconds, uptime_s):
    """This boot did `seconds` more of good work: the count goes down, and after a day comes the chance of what was left out."""
    if uptime_s >= _WORK_S and kept >> 16 & 15:
        climb("proven")
    _credit(seconds)


def _credit(seconds):
    global good_s, chance_due, rung
    before = good_s // _DECAY_S
    good_s += seconds
    buf = rtc.buf
    if trial:
        if good_s >= _CHANCE_S and buf[CRASHES]:
            climb("clear", 0)
        return
    if level and good_s >= _CHANCE_S:
        chance_due = True
    now = good_s // _DECAY_S
    if not now:
        return
    if not level:  # the first six hours take this boot's own count back, every further six one of before
        rung = max(0, rung - max(0, now - max(before, 1)))
    if buf[CRASHES] > rung:  # on a rung that holds, a crash next week begins here, not one higher
        buf[CRASHES] = rung
        rtc.save()


def planned():
    """What ends this boot is wanted (a deep sleep, a restart for a new configuration): it counts nothing."""
    if rtc is None:
        return
    buf = rtc.buf
    if trial and buf[CRASHES]:
        buf[CRASHES] |= TRIAL  # goes on
    elif chance_due and rung >= PATIENCE:
        buf[CRASHES] = rung | TRIAL
    elif not trial:
        buf[CRASHES] = min(buf[CRASHES], rung)
    if buf[TRIES]:
        buf[TRIES] -= 1
    rtc.save()


def allow_repl(allowed):
    """Let ctrl-C and a failure end at the REPL, or not."""
    global repl
    repl = allowed
    micropython.kbd_intr(3 if allowed else -1)


def keep_words(error):
    """Write down an exception for the status frames of the next boot."""
    global _reserve
    _reserve = None
    try:
        borrow("mote.words", "keep", error)
    except MemoryError:
        _last_word(error)


def _last_word(error):
    """No memory to say more."""
    try:
        with open("/crash.txt", "w") as f:
            f.write(error.__class__.__name__)
    except (OSError, MemoryError):
        pass  # the reset that follows matters more


def ended(error):
    """main() is over: start again. Returns only where a technician may have the REPL."""
    if isinstance(error, KeyboardInterrupt) or isinstance(error, Planned):
        if isinstance(error, KeyboardInterrupt) and repl:
            return
        planned()
        reset.restart()
    failed(error)


def failed(error):
    """Keep the last words of an exception and reset; ever later when it happens again and again. Returns only at the bench."""
    asyncio.new_event_loop()  # lets go of every task and of what it holds: there may be no memory left for the last words
    gc.collect()
    if rtc is not None and isinstance(error, MemoryError) and suspect:
        rtc.buf[ENTERED] = suspect
        rtc.save()
    sys.print_exception(error)
    if isinstance(error, LowSupply):  # no crash, and nothing is written
        planned()
        reset.restart(_LOW_SUPPLY_MS)
    keep_words(error)
    if bench:
        return
    if isinstance(error, NeedsKey):
        log.error("nothing can be sealed; next: provision this node with a new key and the next epoch, then reset it")
        planned()  # no crash: after provisioning it starts with all its sensors
        reset.restart(_NEEDS_KEY_MS)
    n = rung if rtc is not None else 0
    reset.restart(0 if n + 1 < PATIENCE else 1000 << min(n + 1, 10))


def prove_slot():
    """The gateway answered: the update slot this boot runs from may stay (slots.py in the flash root). Raises OSError."""
    slots = sys.modules.get("slots")
    if slots is not None:
        slots.prove()


def slot():
    """Return the name of the update slot this boot runs from, "" for the root."""
    slots = sys.modules.get("slots")
    return slots.name if slots is not None else ""


def _trial_overdue(uptime_s):
    slots = sys.modules.get("slots")
    return slots is not None and slots.overdue(uptime_s)


def save(put):
    """Tell put(int) what load() needs after a deep sleep: how long this rung has worked."""
    put(good_s)


def load(get, slept_s):
    """Go on after a deep sleep of so many seconds; it was good work, too."""
    global good_s
    good_s = get()
    _credit(slept_s)


class Supervisor:
    """Keeps the node's tasks going and the watchdog quiet as long as every one of them makes progress."""

    def __init__(self, watchdog):
        """watchdog: object with feed(), or None."""
        self._watchdog = watchdog
        self._marks = {}  # name -> [uptime of the last progress, longest silence in s]
        self._tasks = []
        self._failed = asyncio.Event()
        self._error = RuntimeError("no task")
        self._seen = clock.uptime_s()
        self.restarts = 0
        self.checks = []  # functions() called at every tick

    def woke(self):
        """Uptime jumped: the boot goes on from one that slept."""
        self._seen = clock.uptime_s()

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
                self.fail(e)
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
                self.fail(e)
                return
            await asyncio.sleep(_TICK_S)

    def _step(self):
        now = clock.uptime_s()
        passed, self._seen = now - self._seen, now
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
        if rtc is not None:
            worked(passed, now)

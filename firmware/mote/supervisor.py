"""Comes back from everything: crash counter before set-up, a ladder of what is left out. The watchdog: mote.tasks.

begin() runs in boot.py, ended() in the launcher's (main.py) last except. mote.ladder says what the counter means and what is left out.
"""

import gc
import sys

import micropython
from micropython import const
from mote import borrow, log
from mote.errors import LowSupply, NeedsKey, Planned
from mote.hal import reset
from mote.hal.nvs import Nvs
from mote.hal.rtc import CRASHES, ENTERED, TRIES, RtcMemory

PATIENCE = const(3)  # crashes before anything is left out
TRIAL = const(0x80)  # in RTC byte CRASHES: the next boot is on trial
_WORK_S = const(
    300
)  # a boot that worked so long was no brown-out: every sensor was read, and the hello sent if there was time on air
_DECAY_S = const(21600)
_CHANCE_S = const(86400)
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
    global _reserve, rtc, nvs
    _reserve = bytearray(_RESERVE)
    rtc, nvs = RtcMemory(), Nvs()
    plain = False
    if rtc.woke:
        try:
            from mote import nap  # let go by main()

            plain = nap.plain()
        except Exception as e:  # this boot is counted all the same
            sys.print_exception(e)
    if not plain:
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
    import asyncio

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
    """The gateway answered: the update slot this boot runs from may stay (slots.py in the flash root), and the supply has borne the radio, so that the power-ons
    before were no brown-outs. Raises OSError."""
    if kept >> 16 & 15:
        climb("proven")
    slots = sys.modules.get("slots")
    if slots is not None:
        slots.prove()


def slot():
    """Return the name of the update slot this boot runs from, "" for the root."""
    slots = sys.modules.get("slots")
    return slots.name if slots is not None else ""


def trial_overdue(uptime_s):
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

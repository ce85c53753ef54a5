"""The node's virtual clock: integer microseconds of scenario time, and the events that wait on it.

Nothing in the VM ever sleeps. Whoever waits calls advance(); whatever happens later is an event. `horizon` is how far
this VM may run before it must ask the world (lock-step); a VM without a world has no horizon.
"""

TICKS_MAX = (1 << 30) - 1  # esp32: 30-bit ticks, always a small int
EPOCH_2000 = 946684800
BEAT_US = 60_000_000
NEVER = 1 << 60

now = 0  # us since the scenario began
boot = 0  # when this boot began
rtc_off = 0  # the RTC shows (now + rtc_off) us since 2000-01-01
ticks_base = TICKS_MAX + 1 - 600_000  # ms: ticks wrap ten minutes after every boot, so that each run meets it
horizon = NEVER
cut_at = NEVER  # the power goes here: not one instruction later
beat = NEVER  # when to tell the world how far this VM has come
listening = 0  # how many ears are open (radio receiving, sockets waited on)
free_horizon = NEVER  # the horizon of a VM that listens to nothing
ear_horizon = NEVER  # up to here the world has promised silence
ask = None  # function(target_us): sets horizon, may post events
final = None  # function(kind, arg): tells the world and never returns
on_beat = None

_events = []  # [time, callback, argument] sorted by time, first come first served
_NONE = object()


class Deadlock(Exception):
    """The program waits for ever and nothing is scheduled."""


def at(t, callback, arg=_NONE):
    """Call callback(arg), or callback(), at time t (us); return a handle for cancel()."""
    event = [t, callback, arg]
    i = len(_events)
    while i and _events[i - 1][0] > t:
        i -= 1
    _events.insert(i, event)
    return event


def cancel(event):
    """Forget an event; harmless when it has happened."""
    for i in range(len(_events)):
        if _events[i] is event:
            del _events[i]
            return


def idle():
    """True when nothing is scheduled and nobody outside can wake this VM."""
    return not _events and ask is None


def spend(us):
    """Charge `us` of busy time without running events (inside a bus or flash transfer, where re-entry would be wrong)."""
    global now
    now += us
    if now >= cut_at:
        final("X", 0)


def advance(target, stop=None):
    """Move to `target` (us), running events; with stop(), return True as soon as it is true."""
    global now, beat
    while now < target:
        nxt = target
        if _events and _events[0][0] < nxt:
            nxt = _events[0][0]
        if nxt > horizon:
            ask(nxt)
            if _events and _events[0][0] < nxt:
                nxt = _events[0][0]
            if nxt > horizon:
                nxt = horizon
        if nxt >= cut_at:
            now = cut_at
            final("X", 0)
        if nxt > now:
            now = nxt
        if now >= beat:
            on_beat()
            beat = now + BEAT_US
        while _events and _events[0][0] <= now:
            event = _events.pop(0)
            if event[2] is _NONE:
                event[1]()
            else:
                event[1](event[2])
        if stop is not None and stop():
            return True
    return False


def sync():
    """Let everything that happened up to now arrive (a non-blocking look at a socket)."""
    if now > horizon and ask is not None:
        ask(now)
    while _events and _events[0][0] <= now:
        event = _events.pop(0)
        if event[2] is _NONE:
            event[1]()
        else:
            event[1](event[2])


def ear(opened):
    """Count an ear opened (True) or closed: while one is open the VM runs only as far as the world grants."""
    global listening, horizon
    listening += 1 if opened else -1
    horizon = ear_horizon if listening else free_horizon


def granted(t):
    """The world lets this VM run to t (us) as long as it opens no new ear and says nothing that could be answered."""
    global horizon, free_horizon, ear_horizon
    if listening:
        ear_horizon = t
    else:
        free_horizon = t
    horizon = t


def spoke():
    """This VM said something, or changed what it listens to: from now on an answer may come at any time."""
    global horizon, ear_horizon
    if ask is not None:
        ear_horizon = now
        if listening:
            horizon = now


def ticks_ms():
    return (ticks_base + (now - boot) // 1000) & TICKS_MAX


def rtc_us():
    """Microseconds since 2000-01-01 on the node's own clock (starts at 0 at power-on, as on the chip)."""
    return now + rtc_off

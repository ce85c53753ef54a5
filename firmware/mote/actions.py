"""What the commands do. Loaded while one is executed. Each action is a coroutine function(control, args) -> detail text or None."""

import asyncio
from array import array

from micropython import const
from mote import log, supervisor
from mote.errors import Refused
from mote.hal import clock as board_clock
from motewire.batch import MAX_VALUE

_EMERGENCY_S = const(3600)
_EIO = const(5)
_LATE_S = const(60)  # a clock that was set back by less gives no time twice


def number(args, default, low, high):
    """Return the only argument, an int of low..high. Raises Refused."""
    if len(args) > 1:
        raise Refused("arguments")
    v = args[0] if args else default
    if isinstance(v, bool) or not isinstance(v, int) or not low <= v <= high:
        raise Refused("arguments")
    return v


# --- of any node


async def reboot(control, args):
    if args:
        raise Refused("arguments")
    control.restart()


async def factory_reset(control, args):
    from mote.restore import factory_reset as reset

    if args:
        raise Refused("arguments")
    if not reset(supervisor.rtc, control.node.nvs):
        raise Refused("no factory config")
    supervisor.climb("enter", False)
    control.restart()


async def safe_mode(control, args):
    """1 or nothing: no sensors for a day; 0: back."""
    supervisor.climb("enter", number(args, 1, 0, 1) == 1)
    control.restart()


async def identify(control, args):
    """Blink for so many seconds (30)."""
    seconds = number(args, 30, 1, 3600)
    board = control.node.board
    if not board.has_led():
        raise Refused("no LED")
    control.holds += 1
    asyncio.create_task(_blink(control, 2 * seconds))


async def _blink(control, times):
    led = control.node.board.led
    try:
        for _ in range(times):
            led(True)
            await asyncio.sleep_ms(100)
            led(False)
            await asyncio.sleep_ms(400)
    finally:
        led(False)
        control.holds -= 1


# --- of a whole node


async def emergency(control, args):
    """Raise rates for so many seconds (an hour); 0: let them return."""
    control.until = board_clock.uptime_s() + number(args, _EMERGENCY_S, 0, 604800)
    control.boost()


async def _read_aside(sampler, index, row=None):
    """Read sensor `index` out of turn, its own readings stopped meanwhile; put the values into `row`, return their mask.

    Raises what the driver raises, TimeoutError.
    """
    s = sampler._sensors[index]
    while s.began >= 0:
        await asyncio.sleep_ms(200)
    polled = s.task is not None
    if polled:
        s.task.cancel()
        s.task = None
    out = array("i", bytes(4 * len(s.columns)))
    try:
        await asyncio.wait_for(getattr(s.driver, "read_aside", s.driver.read_into)(out), s.deadline_s)
    finally:
        if polled and s.task is None:
            sampler._spawn(index)
    if row is None:
        return 0
    present = 0
    for i in range(len(s.columns)):
        c = s.columns[i]
        if c >= 0 and -MAX_VALUE <= out[i] <= MAX_VALUE:
            row[c] = out[i]
            present |= 1 << c
    return sampler._profile.aside(row, present)


async def _time_aside(sampler):
    """Return a time for a row out of turn, once it has come: no other row has it, also none of a boot to come."""
    now = t = sampler._clock.now()
    if 0 <= sampler._aside_t - t < _LATE_S:
        t = sampler._aside_t + 1
    if sampler.row_s:
        sampler._aside_t = t = max(t, t - t % sampler.row_s + sampler._lap + 1)
    else:
        sampler._last_t = t = max(t, sampler._last_t + 1)
    if t > now:
        await asyncio.sleep(t - now)
    return t


async def _read(node, row=None):
    """Read every sensor that is not left out; return (sensors read, ids of those that failed, mask of the values in row)."""
    good, bad, present = 0, [], 0
    for i in range(len(node.profile.sensors)):
        s = node.profile.sensors[i]
        if s.shed:
            continue
        try:
            present |= await _read_aside(node.sampler, i, row)
            good += 1
        except Exception as e:
            log.warning("%s: %s", s.name, repr(e))
            bad.extend([node.ids[c] for c in s.columns if c >= 0])
    if not good and not bad:
        raise Refused("no sensors")
    return good, " ".join([str(q) for q in bad]), present


async def selftest(control, args):
    """Read every sensor once: "ok 2", or "ok 1 failed 4 5 6" (quantity ids)."""
    if args:
        raise Refused("arguments")
    good, bad, _ = await _read(control.node)
    return "ok %d failed %s" % (good, bad) if bad else "ok %d" % good


async def read_now(control, args):
    """Read all sensors now; the row goes out at once, as a report of its own. The detail names what failed."""
    node = control.node
    if args:
        raise Refused("arguments")
    if not node.clock.quality:
        raise Refused("no time")
    row = array("i", bytes(4 * len(node.ids)))
    _, bad, present = await _read(node, row)
    if not present:
        raise OSError(_EIO)
    t = await _time_aside(node.sampler)
    node.batcher.close()
    node.batcher.append(t, row, present)
    node.batcher.close()
    node.uplink.fresh(True)
    return "failed " + bad if bad else None


ANY = {"reboot": reboot, "factory_reset": factory_reset, "safe_mode": safe_mode, "identify": identify}
WHOLE = {"emergency": emergency, "selftest": selftest, "read_now": read_now}

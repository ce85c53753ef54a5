"""Duty-cycled mode: when nothing is due for a while the node sleeps deeply, and the boot that follows goes on where this one stopped.

The engine is the one that is always on; it is asked what comes next. What it holds in RAM goes into an image in RTC memory that is
believed once: after anything but the sleep it was made for the node starts as after a reset, from flash. So a counter can never repeat.
"""

import asyncio
from array import array

from micropython import const
from mote import VERSION, log, supervisor
from mote.crc import crc16
from mote.errors import Corrupt
from mote.hal import clock as board_clock
from mote.hal import reset
from mote.rest import sure
from mote.sleeper_times import early_s, start_s

_LOOK_MS = const(200)
_LEAST_S = const(8)  # a start costs seconds of full current: shorter is not worth it
_MOST_S = const(21600)
_NAP = const(8)  # place in the image, see mote.nap
_MOST_NUMBERS = const(161)  # IMAGE_BYTES of mote.hal.rtc, less length and CRC


def _label(config):
    """A number that differs when an image of before must not be believed: other firmware, other configuration, another rung of the ladder."""
    text = "%s %d %d %s" % (
        VERSION,
        supervisor.level,  # what is left out: other rules, other sensors
        config["version"],
        [config[key] for key in ("profile", "sample_s", "row_s", "report_s")],
    )
    data = text.encode()
    return crc16(data, len(data))


def fits(rtc, config):
    """True when this boot follows a deep sleep under the same firmware and configuration."""
    return rtc.woke and len(rtc.image) >= 20 and array("i", rtc.image)[0] == _label(config)


class Sleeper:
    """parts: objects with save(put) and load(get), in this order; in the image each behind its length. due: function() -> seconds until something is due, 0 when at work. look: function()
    -> True when there is something to do that nothing was waiting for. plan: function(places of the parts in the image) -> what mote.nap needs, or nothing.

    rtc, clock, power, link, config: of the node.
    """

    def __init__(self, rtc, clock, power, link, parts, due, look, plan, config):
        self._rtc, self._clock, self._power, self._link = rtc, clock, power, link
        self._parts, self._due, self._look, self._plan, self._config = parts, due, look, plan, config
        self._label = _label(config)
        self._planned = 0  # when this boot was to begin, by the clock
        self._start_s = 2  # what a start takes, as measured

    def resume(self):
        """Load the image of the sleep that ended now. Raises Corrupt for a part that reads more or less than it wrote: what would follow from it is
        unknown, and the next boot has everything from flash."""
        numbers = array("i", self._rtc.image)
        self._rtc.image = None
        at = -1

        def get():
            nonlocal at
            at += 1
            if at >= len(numbers):
                raise Corrupt
            return numbers[at]

        get()
        self._planned, self._start_s = get() & 0xFFFFFFFF, get()
        uptime, slept_at = get(), get() & 0xFFFFFFFF  # a time is beyond 31 bits from 2068 on
        slept_s = max(0, board_clock.now() - slept_at)
        board_clock.go_on(uptime + slept_s)
        self._power.slept(slept_s)
        supervisor.load(get, slept_s)
        self._config.unanswered(get() + slept_s, get() == 1)
        get()  # where what mote.nap needs begins
        for part in self._parts:
            end = at + 2 + get()
            part.load(get)
            if at + 1 != end:
                raise Corrupt
        self._start_s = start_s(self._start_s, self._clock.now() - self._planned)

    async def run(self):
        """Sleep whenever there is time for it."""
        while True:
            await asyncio.sleep_ms(_LOOK_MS)
            left = min(self._due(), _MOST_S)
            if left >= _LEAST_S and not self._look():
                self.sleep(left)

    def sleep(self, left):
        """Sleep so that the node is at work again in `left` seconds. Never returns on a board."""
        clock = self._clock
        nap = max(1, left - early_s(self._start_s, left, sure(clock)))
        numbers = array("i", (self._label, clock.now() + nap, self._start_s, board_clock.uptime_s(), board_clock.now()))
        supervisor.save(numbers.append)
        numbers.append(self._config.unanswered_s())
        numbers.append(self._config.proved)
        numbers.append(0)
        starts = []
        for part in self._parts:
            numbers.append(0)
            starts.append(len(numbers))
            part.save(numbers.append)
            numbers[starts[-1] - 1] = len(numbers) - starts[-1]
        rows = self._plan(starts)
        if rows and len(numbers) + len(rows) <= _MOST_NUMBERS:
            numbers[_NAP] = len(numbers)
            numbers.extend(array("i", rows))
        supervisor.planned()
        clock.keep(-1, True)
        self._power.keep()
        log.debug("sleeping %d s", nap)
        self._link.rest()
        self._rtc.sleep(bytes(numbers))
        reset.sleep(1000 * clock.board_s(nap), self._link.hold_pin)

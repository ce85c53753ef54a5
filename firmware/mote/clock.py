"""What time it is, and how well the node knows: 0 not at all, 1 kept over a reset, 2 set by the gateway."""

from asyncio import Event
from micropython import const
from motewire import EPOCH_2000
from mote.hal import clock as board_clock
from mote.hal.rtc import QUALITY

NONE = const(0)
KEPT = const(1)
SET = const(2)
_FIRST = const(757382400)  # 2024-01-01 as t2000; nothing of ours is older
_LAST = const(0x3FFFFFFF)
_SLACK_S = const(2)  # a downlink over SF12 is that late; smaller differences are not corrected


class Clock:
    """now() is t2000. `ready` is set once the time is known. stepped: list of functions(step_s), called after a step."""

    def __init__(self, rtc):
        self._rtc = rtc
        self.ready = Event()
        self.stepped = []
        kept = not rtc.fresh and rtc.buf[QUALITY] >= KEPT and _FIRST <= board_clock.now() <= _LAST
        self.quality = KEPT if kept else NONE
        if kept:
            self.ready.set()

    def now(self):
        """Seconds since 2000-01-01; meaningless while quality is 0."""
        return board_clock.now()

    def set_unix(self, unix_s):
        """Take the gateway's time. Returns the step made in seconds (0: it was right). Raises ValueError (out of range)."""
        t = unix_s - EPOCH_2000
        if not _FIRST <= t <= _LAST:
            raise ValueError("time")
        step = t - board_clock.now()
        first = self.quality == NONE
        if first or not -_SLACK_S <= step <= _SLACK_S:
            board_clock.set(t)
        else:
            step = 0
        if self.quality != SET:
            self.quality = SET
            self._rtc.buf[QUALITY] = SET
            self._rtc.save()
        if step:
            for told in self.stepped:
                told(step)
        self.ready.set()
        return step

"""Where the energy goes, and when there is too little of it: seconds by state since power-on, and the lowest supply for flash writes.

The four counts are what an energy model multiplies with currents. They live in RTC memory in tenths of a second, so that a short wake counts too.
"""

from struct import pack_into, unpack_from

from micropython import const
from mote.errors import LowSupply
from mote.hal import clock as board_clock
from mote.hal.rtc import LOW, POWER_AT

NOT_THERE_MV = const(1500)  # no chip of the board would run: there is no battery, the supply is another one
_LOOKS = const(7)
_RELEASE_MV = const(100)  # so much above the limit after it was refused: no flutter


class Power:
    """rtc: mote.hal.rtc.RtcMemory. board: battery_mv() in mV or None; limits["flash_write_min_mv"]. slept_s: of the sleep that ended now.

    radio_ms, sensor_ms: functions() -> ms of this boot.
    """

    def __init__(self, rtc, board, radio_ms, sensor_ms):
        self._rtc, self._board = rtc, board
        self._radio_ms, self._sensor_ms = radio_ms, sensor_ms
        self._least = board.limits.get("flash_write_min_mv", 0)
        self._before = list(unpack_from(">4I", rtc.buf, POWER_AT))

    @property
    def refused(self):
        """How often since power-on the supply was too low to write, up to 127."""
        return self._rtc.buf[LOW] + 1 >> 1

    def _tenths(self):
        asleep, awake, radio, sensor = self._before
        return (
            asleep, awake + board_clock.awake_ms() // 100, radio + self._radio_ms() // 100, sensor + self._sensor_ms() // 100
        )  # fmt: skip

    def seconds(self):
        """Return seconds (asleep, awake, radio on, sensors at work) since power-on. The last two lie within the second."""
        return [n // 10 for n in self._tenths()]

    def slept(self, seconds):
        """The boot before this one slept so long."""
        self._before[0] += 10 * seconds

    def keep(self):
        """Write the counts to the image of RTC memory; the caller saves it."""
        pack_into(">4I", self._rtc.buf, POWER_AT, *self._tenths())

    def unwatched(self):
        """Why nothing guards flash writes though the board has a divider and a limit, or "". An ESP32 without calibration in its eFuse reads 0 mV."""
        mv = self._board.battery_mv() if self._least else None
        return "" if mv is None or mv >= NOT_THERE_MV else "supply %d mV: unwatched" % mv

    def check(self):
        """Raise LowSupply when the supply is too low to write flash (a write that browns out tears what is there): the median of several readings,
        for an ADC is off by tenths of a volt now and then, and a refusal costs ten minutes."""
        mv = self._board.battery_mv() if self._least else None
        if mv is None or mv < NOT_THERE_MV:
            return
        buf = self._rtc.buf  # odd: refused at the moment
        least = self._least + (_RELEASE_MV if buf[LOW] & 1 else 0)
        if mv < least or buf[LOW] & 1:
            mv = sorted([self._board.battery_mv() for _ in range(_LOOKS)])[_LOOKS // 2]
        if mv < least:
            if not buf[LOW] & 1 and buf[LOW] < 254:
                buf[LOW] += 1
                self._rtc.save()
            raise LowSupply("%d mV" % mv)
        if buf[LOW] & 1:
            buf[LOW] += 1
            self._rtc.save()

"""The ladder of what a node leaves out. Loaded when it is climbed or left, and let go again: its state is mote.supervisor's.

What the counter means: boots that ended although nobody wanted it, less one for every six hours of work (an ack or ten minutes are
no proof: a leak may take hours). Three climb the ladder: one sensor after the other is left out, then the configuration's options, then all
sensors, then the node itself (mote.safe). A rung that holds is kept; after a day of work on it the node starts on trial with
everything, and one more crash brings it back to the rung that held. A power cut counts nothing and begins such a trial, but six
power-ons in a row without five minutes of work or an answer of the gateway look like a brown-out and count like crashes. The counter lives in RTC memory, the rung also in
NVS ("ladder": rung, RTC byte SHED << 8, such power-ons << 16, "said to have left something out" << 20).

RTC byte SHED: low half the sensor (index + 1) that was left out first, high half how many sensors there are (0: the
profile was never built).
"""

from micropython import const
from mote import log
from mote import supervisor as s
from mote.hal.rtc import CRASHES, ENTERED, SHED
from mote.supervisor import PATIENCE, TRIAL

# motewire.codes; private copies cost no RAM, tests/wire/test_registry.py compares them
_LADDER_ALL = const(3)
_LADDER_NORMAL = const(0)
_LADDER_ONE = const(1)
_LADDER_OPTIONS = const(2)
_LADDER_SAFE = const(4)

_OPTIONS_TRIES = const(2)
_ALL_TRIES = const(3)
_MOST = const(60)
_BROWN_OUTS = const(6)
_STARTS = const(15)


def begin():
    """Count this boot as a crash until the node says otherwise; sets the level and what goes with it."""
    rtc = s.rtc
    s.kept = kept = s.nvs.get("ladder") or 0
    buf = rtc.buf
    s.suspect = s.good_s = 0
    s.chance_due = s.trial = False
    if rtc.fresh:
        buf[CRASHES], buf[SHED] = kept & 63, kept >> 8 & 255
        starts = kept >> 16 & 15
        if starts >= _BROWN_OUTS:
            buf[CRASHES] = min(buf[CRASHES] + 1, _MOST)
        if starts < PATIENCE and buf[CRASHES] >= PATIENCE:
            buf[CRASHES] |= TRIAL
        keep(kept & 0x10FFFF | min(starts + 1, _STARTS) << 16)
    if buf[CRASHES] & TRIAL:
        s.trial = True
        buf[CRASHES] &= 0x7F
        s.rung = buf[CRASHES]
        s.level = _LADDER_NORMAL
    else:
        s.rung = buf[CRASHES]
        if s.rung < PATIENCE:
            buf[SHED] &= 0xF0
        elif not buf[SHED] & 15:
            buf[SHED] |= buf[ENTERED] & 15 or 1
        s.level = level_of(s.rung, buf[SHED] >> 4)
        buf[CRASHES] = min(s.rung + 1, _MOST)
    s.suspicious = s.rung > 0
    remember()
    s.returned = s.level == _LADDER_NORMAL and s.kept >> 20 > 0
    rtc.save()


def level_of(n, sensors):
    """Rung of the ladder after n crashes: every sensor gets one try at being left out, none when nobody knows how many there are."""
    n -= PATIENCE
    if n < 0:
        return _LADDER_NORMAL
    if n < sensors:
        return _LADDER_ONE
    n -= sensors
    if n < _OPTIONS_TRIES:
        return _LADDER_OPTIONS
    return _LADDER_ALL if n < _OPTIONS_TRIES + _ALL_TRIES else _LADDER_SAFE


def keep(value):
    """Bring the NVS int up to date; a flash that refuses must not keep the node from starting."""
    if value != s.kept:
        s.kept = value
        try:
            s.nvs.put("ladder", value)
        except OSError as e:
            log.error("ladder: %s", e)


def remember():
    """Keep the rung that is in force, for the boot after a power cut."""
    kept = s.kept
    rung = s.rung if s.rung >= PATIENCE or kept >> 16 & 15 > _BROWN_OUTS else 0
    shed = s.rtc.buf[SHED]
    keep(kept & 0x1F0000 | rung | (shed if rung else shed & 0xF0) << 8)


def clear(n):
    """The counter is n from now on."""
    buf = s.rtc.buf
    s.rung = buf[CRASHES] = n
    buf[SHED] = buf[SHED] & 0xF0 | (1 if n else 0)
    remember()
    s.rtc.save()


def told():
    """The level is in a status frame: remember that it was not 0, until it is."""
    s.returned = False
    keep(s.kept & 0xFFFFF | (1 << 20 if s.level else 0))


def proven():
    """Five minutes of work, or an answer of the gateway: the power-ons before were no brown-outs."""
    keep(s.kept & 0x10FFFF)


def enter(safe):
    """From the next boot on: leave out all sensors for a day (True), or nothing (False). A planned restart must follow."""
    s.trial = s.chance_due = False
    clear(PATIENCE + (s.rtc.buf[SHED] >> 4) + _OPTIONS_TRIES if safe else 0)


def forgive():
    """The configuration was to blame and is gone: everything gets its chance now."""
    s.level, s.trial = _LADDER_NORMAL, False
    clear(0)
    s.rtc.buf[CRASHES] = 1
    s.rtc.save()


def shed_index(sensors):
    """Place of the sensor to leave out at _LADDER_ONE, of so many; -1: none. Tells the ladder how many there are, too."""
    buf = s.rtc.buf
    if sensors and buf[SHED] >> 4 != min(sensors, 15):
        buf[SHED] = buf[SHED] & 15 | min(sensors, 15) << 4
        remember()
        s.rtc.save()
    if s.level != _LADDER_ONE or not sensors:
        return -1
    return ((buf[SHED] & 15) - 1 + s.rung - PATIENCE) % sensors

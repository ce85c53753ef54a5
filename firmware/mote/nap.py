"""A boot out of deep sleep that has a row to add and nothing else to do: it is added to RTC memory, and the board sleeps again.

The node is not built. What it would do with such a row is done here on the image that it left (mote.sleeper, mote.napping): the register is read at
the row's instant, kept in NVS, the row put behind those that are held (mote.held). Whatever is not as usual is left to the node, and the
image as it was: another time, more pulses than a limit allows, a report, the end of an hour (leaks), a low supply, a technician.
"""

from array import array
from struct import pack_into, unpack_from

from micropython import const
from mote import supervisor
from mote.crc import crc16
from mote.hal import clock, reset
from mote.hal.rtc import CLOCK_AT, CRASHES, LOW, POWER_AT, PULSES_AT, SHED
from time import sleep_ms

# the image: see Sleeper.sleep()
_PLANNED = const(1)
_START = const(2)
_UPTIME = const(3)
_SLEPT_AT = const(4)
_GOOD = const(5)
_UNANSWERED = const(6)
_NAP = const(8)
_NUMBERS = const(19)  # of mote.napping.plan()
_ROWS = const(3)
_UNTIL = const(0)
# of the parts: Sampler.save(), Batcher.save(), WaterMeter.save()
_LAST_T = const(0)
_ROW_T = const(1)
_LAP = const(2)
_SLOT = const(3)
_NEWEST = const(0)
_AHEAD = const(0)
_LOOKED = const(2)
_FLOW_TOTAL = const(3)
_FLOW_SINCE = const(4)
_FLOW_T = const(5)
_FLOW_VOLUME = const(6)
_SAVED = const(7)
_STORED = const(8)
_HOUR = const(9)

_HOUR_S = const(3600)
_NEAR_S = const(15)  # a row further off is not what this boot is about
_LATE_S = const(59)
_LEAST_S = const(8)  # mote.sleeper: nothing is worth a shorter sleep
_MOST_S = const(21600)
_RELEASE_MV = const(100)  # mote.power
_NOT_THERE_MV = const(1500)
_MODULUS = const(1 << 24)
_LAST_VALUE = const(1 << 27)
_INFO = const(9)  # of mote.held


def plain():
    """What mote.ladder would do with the wake of a node that has nothing to forgive, which most boots of one that sleeps are; False when it must."""
    s = supervisor
    buf = s.rtc.buf
    kept = s.nvs.get("ladder") or 0
    if buf[CRASHES] or buf[SHED] & 15 or kept != buf[SHED] << 8:
        return False
    s.kept = kept
    s.suspect = s.good_s = s.rung = s.level = 0
    s.chance_due = s.trial = s.suspicious = s.returned = False
    buf[CRASHES] = 1
    s.rtc.save()
    return True


def row_only():
    """Add the row that is due and sleep; return when this boot has more to do. Raises OSError (NVS)."""
    rtc = supervisor.rtc
    if (
        rtc is None
        or not rtc.woke
        or reset.cause() != reset.DEEPSLEEP
        or supervisor.rung
        or supervisor.level
        or supervisor.trial
    ):
        return
    image = array("i", rtc.image or b"")
    at = image[_NAP] if len(image) > _NAP else 0
    if not at or len(image) < at + _NUMBERS:
        return
    (
        until, row_s, report_s, rows, sure, wdt_s, bench, battery, divider, least_mv, hold, sampler, batcher, meter, _, tenths, start, fine_s, enough,
    ) = image[at : at + _NUMBERS]  # fmt: skip
    buf = rtc.buf
    _, ref, base, ppm = unpack_from(">IIIi", buf, CLOCK_AT)
    raw = clock.now()
    passed = raw - ref
    now = base + passed - clock.won(passed, ppm)
    slept_s = max(0, raw - (image[_SLEPT_AT] & 0xFFFFFFFF))
    uptime = image[_UPTIME] + slept_s
    last = image[sampler + _ROW_T] & 0xFFFFFFFF
    t = max(last, now - _LATE_S) // row_s * row_s + row_s
    left = t - now
    if (
        t - last != row_s or left > _NEAR_S or uptime + left + _LEAST_S >= until or t % report_s < row_s or rows < 1
        or t // _HOUR_S != image[meter + _HOUR] or t <= image[sampler + _LAST_T] & 0xFFFFFFFF
        or image[sampler + _SLOT] & 0xFFFFFFFF != last or image[meter + _FLOW_T] & 0xFFFFFFFF != last
    ):  # fmt: skip
        return
    if bench >= 0 or least_mv:
        from mote.hal import pads

        if bench >= 0 and pads.grounded(bench):
            return
        if least_mv and battery >= 0:
            mv = pads.millivolts(battery, divider)
            if buf[LOW] & 1 or _NOT_THERE_MV <= mv < least_mv + _RELEASE_MV:
                return
    if wdt_s:
        from mote.hal import watchdog

        watchdog.start(1000 * wdt_s)
    from mote.hal.ulp_run import MOST, Running

    counter = Running()
    total, seen = unpack_from(">II", buf, PULSES_AT)
    if seen // _MODULUS != counter.life:
        return
    if left > 0:
        sleep_ms(1000 * left)
    value = counter.value()
    total += (value - seen) % _MODULUS
    ahead = image[meter + _AHEAD]
    volume = start + total * tenths
    # mote.drivers.pulse: the flow under way is whole, and the next one begins
    whole = uptime + left - image[meter + _FLOW_SINCE] >= fine_s or total - image[meter + _FLOW_TOTAL] >= enough
    if (
        not ahead
        or total - image[meter + (_FLOW_TOTAL if whole else _LOOKED)] >= ahead
        or volume >= _LAST_VALUE
        or volume < image[meter + _FLOW_VOLUME]
    ):
        return
    flow = ((volume - image[meter + _FLOW_VOLUME]) * 360 + row_s // 2) // row_s
    section = bytearray(rtc.rows())
    if len(section) < _INFO:
        return
    # from here on this boot is a nap
    if total != image[meter + _SAVED]:
        supervisor.nvs.put("pulses", total)
    row = bytearray(16)
    pack_into(">IHii", row, 0, t, 3, volume, flow)
    pack_into(">H", row, 14, crc16(row, 14))
    section.extend(row)
    pack_into(">II", buf, PULSES_AT, total, value + _MODULUS * counter.life)
    awake_ms = clock.awake_ms()
    asleep, awake = unpack_from(">II", buf, POWER_AT)
    pack_into(">II", buf, POWER_AT, asleep + 10 * slept_s, awake + awake_ms // 100)
    rtc.put_rows(section)
    woke_s = clock.now() - raw
    uptime += woke_s
    now += woke_s
    if whole:
        image[meter + _LOOKED] = image[meter + _FLOW_TOTAL] = total
        image[meter + _FLOW_SINCE] = uptime
    for place, n in (
        (sampler + _LAST_T, t), (sampler + _ROW_T, t), (sampler + _SLOT, t), (batcher + _NEWEST, t),
        (meter + _FLOW_T, t), (meter + _FLOW_VOLUME, volume),
        (meter + _SAVED, total), (meter + _STORED, -1), (at + _ROWS, rows - 1),
        (_GOOD, min(image[_GOOD] + slept_s + woke_s, 0x3FFFFFFF)), (_UNANSWERED, min(image[_UNANSWERED] + slept_s + woke_s, 0x3FFFFFFF)),
    ):  # fmt: skip
        image[place] = n
    from mote.sleeper_times import early_s, start_s

    image[_START] = start_s(image[_START], now - woke_s - (image[_PLANNED] & 0xFFFFFFFF))
    left = min(t + row_s - now, until - uptime, _MOST_S)
    nap = max(1, left - early_s(image[_START], left, sure))
    image[_PLANNED], image[_UPTIME], image[_SLEPT_AT] = now + nap, uptime, clock.now()
    counter.wake_at(max(1, min(image[meter + _LOOKED] + ahead - total, MOST)))
    supervisor.planned()
    rtc.sleep(bytes(image))
    counted = nap
    for _ in range(3):
        counted = nap + clock.won(counted, ppm)
    reset.sleep(1000 * counted, None if hold < 0 else hold)

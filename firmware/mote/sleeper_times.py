"""How early a sleep ends, so that the board is at work in time: what a start takes, and what its clock may be off."""

from micropython import const

_SURE_SHIFT = const(10)  # 0.1 % of the sleep too early once it is known how fast the clock runs
_UNSURE_SHIFT = const(6)  # 1.6 % before


def start_s(before, late):
    """How long a start takes, s, when the one at hand was `late` behind what was planned: longer at once, shorter by and by."""
    if not 0 <= late < 30:
        return before
    return late if late > before else max(1, (3 * before + late + 1) // 4)


def early_s(start, left, sure):
    """By how many seconds a sleep ends early when something is due in `left`; start: of start_s(); sure: mote.clock.Clock.sure."""
    return start + (left >> (_SURE_SHIFT if sure else _UNSURE_SHIFT))

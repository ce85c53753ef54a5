"""Gives rows a time that were taken before the node knew it (mote.batcher parks them)."""

from micropython import const
from mote import log
from motewire import cbor

# motewire.codes; private copies cost no RAM, tests/wire/test_registry.py compares them
_EXT_TIME = const(1)
_TIME_ESTIMATED = const(1)

ESTIMATED = {_EXT_TIME: _TIME_ESTIMATED}


def date(batcher, staging, born, now):
    """Seal what was parked. born: t2000 at which the power came on. Returns the number of rows.

    Rows of an earlier power-on ended before this one began, nobody knows how long: they are dated as late as possible and
    marked as estimated. With `now` (seconds since power-on) instead of `born` nobody told the time: sealed with their age, also marked.
    """
    rows = 0
    begins = born
    stamp = cbor.AGE if now else cbor.ABSOLUTE
    parked = staging.leftovers(False)
    shifts = {}
    for cycle, stage in reversed(parked):  # a cycle's last file comes first
        if cycle in shifts:
            continue
        if cycle != staging.cycle:  # its last row, or what is left of it, came before the power-on that followed
            held, last = count(staging, cycle, stage)
            if not held:
                continue  # the power went before its first row: the file before it knows
            begins -= last + 1
        shifts[cycle] = begins
    # sealed oldest first: after a cut what is left is dated anew, later than all this, and stays behind it
    for cycle, stage in parked:
        ext = None if cycle == staging.cycle and not now else ESTIMATED
        rows += batcher.take_up(cycle, stage, shifts.get(cycle, begins), ext, stamp, now)
        batcher.parked -= 1
    log.info("%d rows dated", rows)
    return rows


def count(staging, cycle, stage):
    """Return (rows, time of the last one) of a parked file."""
    rows = last = 0
    try:
        f = staging.open_leftover(cycle, stage)
    except ValueError:
        return 0, 0
    while f.next_row():
        rows, last = rows + 1, f.t
    f.close()
    return rows, last

"""Rows of staging files (mote.staging) that no open batch holds: of before this boot, and of before the node knew the time
(mote.batcher parks them). Borrowed: a node that sleeps has neither at most wakes.
"""

from micropython import const
from mote import borrow, log
from mote.errors import NoSpace
from mote.hal.clock import FIRST
from motewire import cbor
from motewire.batch import Batch

# motewire.codes; private copies cost no RAM, tests/wire/test_registry.py compares them
_EXT_TIME = const(1)
_TIME_ESTIMATED = const(1)

_MARK_SHIFT = const(10)  # mote.app

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
            last = count(batcher, cycle, stage)[1]
            if last < 0:
                continue  # the power went before its first row: the file before it knows
            begins -= last + 1
        shifts[cycle] = begins
    # sealed oldest first: after a cut what is left is dated anew, later than all this, and stays behind it
    for cycle, stage in parked:
        ext = None if cycle == staging.cycle and not now else ESTIMATED
        n = take_up(batcher, cycle, stage, shifts.get(cycle, begins), ext, stamp, now)
        if n < 0:
            break
        rows += n
        batcher.parked -= 1
    log.info("%d rows dated", rows)
    return rows


def opened(batcher, cycle, stage, shift=0):
    """Return the Staged rows of a leftover, whose head is put right where it can be; None when it cannot be read. Raises OSError."""
    staging = batcher._staging
    try:
        return staging.open_leftover(cycle, stage, shift)
    except ValueError:
        if not borrow("mote.rotten", "staged", batcher._outbox, staging._name(cycle, stage)):
            return None
    return staging.open_leftover(cycle, stage, shift)


def count(batcher, cycle, stage):
    """Return (rows, rotten ones too; time of the last one, -1: none) of a leftover."""
    f = opened(batcher, cycle, stage)
    if f is None:
        staging = batcher._staging
        return borrow("mote.rotten", "unreadable", staging, staging._name(cycle, stage)), -1
    last = -1
    while f.next_row():
        last = f.t
    f.close()
    return f.place, last


def forget_oldest(batcher):
    """Too many files without a time: the oldest goes, and its rows are counted."""
    staging = batcher._staging
    cycle, stage = staging.leftovers(False)[0]
    rows = count(batcher, cycle, stage)[0]
    staging.drop(cycle, stage)
    batcher.parked -= 1
    batcher._lost(rows)


def recover(batcher):
    """Seal what was staged before this boot. Returns the number of rows.

    A file whose frame is already in the outbox is only removed. Rows may need several frames when the link's limit
    became smaller; each record says up to which row it goes.
    """
    outbox, staging = batcher._outbox, batcher._staging
    if outbox.rotten:
        borrow("mote.rotten", "settle", outbox, staging)
    rows = 0
    for cycle, stage in staging.leftovers():
        n = take_up(batcher, cycle, stage)
        if n < 0:
            break
        rows += n
    for cycle, stage in staging.leftovers(False):  # dated and sealed, and then the power went
        done = outbox.sealed_rows(stage)
        if done and count(batcher, cycle, stage)[0] <= done:
            staging.drop(cycle, stage)
            batcher.parked -= 1
    staging.skip_to(outbox.last_stage + 1)
    if rows:
        batcher._closed()
    return rows


def take_up(batcher, cycle, stage, shift=0, ext=None, stamp=cbor.ABSOLUTE, now=0):
    """Seal the rows of a file that are in no frame yet, then remove it; return how many. Those that cannot be read are counted as lost. -1: flash is full and
    nothing may be evicted; what is in no frame stays where it is."""
    staging = batcher._staging
    done = batcher._outbox.sealed_rows(stage)
    f = opened(batcher, cycle, stage, shift)
    rows = 0
    if f is None:  # 0 when it was cut while its head was written: it never held a row
        lost = max(0, count(batcher, cycle, stage)[0] - done)
    else:
        batch = Batch(f.ids, f.schema, f.interval_s, batcher._batch.rows_max)
        before = done  # the place of the row before
        try:
            while f.next_row():
                if f.place <= done:
                    continue
                rows += 1
                if batch.rows == batch.rows_max:
                    batcher._seal(batch, stage, before, ext, stamp, now)
                    batcher._outbox._stages[stage] = before
                    batch.clear()
                batch.append(f.t, f.values, f.present)
                if batch.rows > 1 and not batcher._fits(batch, ext):
                    batch.pop()
                    batcher._seal(batch, stage, before, ext, stamp, now)
                    batcher._outbox._stages[stage] = before
                    batch.clear()
                    batch.append(f.t, f.values, f.present)
                before = f.place
            if batch.rows:
                batcher._seal(batch, stage, f.place, ext, stamp, now)
        except NoSpace as e:
            log.error("rows stay staged: %s", e)
            return -1
        finally:
            f.close()
        lost = max(0, f.place - done) - rows
    if lost:
        batcher._lost(lost)
    staging.drop(cycle, stage)
    return rows


def stepped(node, step_s, board_step_s):
    """The node's clock was set: the open batch ends, what waited for the time is dated, the grid of samples is laid anew. Raises OSError, NeedsKey."""
    log.info("clock set by %d s", step_s)
    node.batcher.close()
    if hasattr(node.link, "duty"):
        node.link.duty.shift(board_step_s)
    node.batcher.date(node.clock.born)
    now = node.clock.now()
    highest = _highest(node, now, now - step_s)
    if highest > now and not node.events:
        node.nvs.put("laps", node.sampler.set_back(highest, node.profile.rhythm(node.config)[1]))
    if node._sampling:
        node.sampler.stepped(step_s)
        if now - step_s >= FIRST:
            node.profile.stepped()
        node._start_sampler()


def _highest(node, now, before):
    """Up to when rows may have been, for a clock that was set from `before` to `now`; where the power was off in between, as far as flash knows."""
    if before >= FIRST:
        return before
    t = node._rows_mark << _MARK_SHIFT
    return t + (1 << _MARK_SHIFT) + node.config["report_s"] if now < t else 0

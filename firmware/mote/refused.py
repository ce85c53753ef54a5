"""Rows that flash refuses to stage, or to keep as they are. Borrowed: only a full flash, or one that fails, needs this."""

from array import array
from mote import borrow, log
from mote.hal.clock import FIRST


def again(batcher, t, values, present):
    """Staging refused this row, which no batch holds any more. A torn row may be in the file and nothing may follow it: what is open is sealed or left there,
    which evicts, and the row is tried in a file of its own. Raises OSError when it is refused again, NeedsKey."""
    batch = batcher._batch
    if batch.rows:
        try:
            batcher.close()
        except OSError as e:
            log.error("rows stay staged: %s", e)
            leave(batcher)
    else:
        batcher._staging.end()
    borrow("mote.leaving", "with_room", batcher._outbox, _add, batcher._staging, t, values, present)
    batch.append(t, values, present)


def _add(staging, t, values, present):
    try:
        staging.add(t, values, present)
    except OSError:
        staging.end()
        raise


def leave(batcher):
    """The open batch ends without a frame: its rows stay on flash, to be dated or for the next start. Those that flash does not take, even after evicting, are
    counted as lost."""
    batch, staging = batcher._batch, batcher._staging
    cycle, stage, rows = 0 if batch.t0 >= FIRST else staging.cycle, staging.stage, batch.rows
    try:
        staging.park()
    except OSError as e:
        log.error("%d rows: %s", rows, e)
    kept = _kept(batcher, cycle, stage)
    if kept < rows:
        try:
            borrow("mote.leaving", "with_room", batcher._outbox, _rest, batcher, kept)
        except OSError as e:
            log.error("%d rows have no room: %s", rows - kept, e)
            batcher._lost(rows - kept)
    batch.clear()
    batcher.parked = len(staging.leftovers(False))


def _kept(batcher, cycle, stage):
    try:
        return borrow("mote.dating", "count", batcher, cycle, stage)[0]
    except OSError:
        return 0  # nothing came to flash


def _rest(batcher, first):
    """Stage the rows of the open batch from `first` on in a file of their own."""
    batch, staging = batcher._batch, batcher._staging
    n, t = len(batch.ids), batch.t0
    try:
        for i in range(batch.rows):
            t += batch._steps[i]
            if i >= first:
                staging.add(t, array("i", batch._values[i * n : i * n + n]), batch._present[i])
        staging.flush()
    except OSError:
        staging.end()
        raise
    staging.park()

"""Rows become frames: staged on flash, encoded into one batch, sealed once, handed to the outbox.

The batch closes when the next row would not fit the frame (trial encode, not a row count), on a wall-clock multiple of
report_s, on a clock step and on demand. A batch of rows without a time is not sealed when it closes: its staging file is parked
until date() is told when the power came on.
"""

from micropython import const
from mote import borrow, log, nobody
from mote.hal.clock import FIRST
from motewire import cbor
from motewire.batch import Batch
from motewire.errors import Full
from motewire.frame import REPORT

_PARKED_MAX = const(64)  # files; days of rows of a node that nobody tells the time
_LAPS = const(60)  # a row may lie so many seconds beside the grid (mote.sampler)
_EXT_BYTES = const(4)  # of what says that a time is estimated


class Batcher:
    """One open batch of a node.

    ids, schema, interval_s (0: events), report_s: what and how often. sealer, outbox, staging: see their modules.
    newest: time of the last row, 0: none since boot. closed: function() called when a frame entered the outbox. lost: function(rows) called when parked rows had to go.
    append(), close(), date() raise OSError (flash), NeedsKey.
    """

    def __init__(self, ids, schema, interval_s, report_s, rows_max, sealer, outbox, staging, closed, lost=nobody):
        self.ids = tuple(ids)
        self.report_s = report_s
        self.rows_taken = 0
        self.newest = 0
        self._batch = Batch(ids, schema, interval_s, rows_max)
        self._sealer, self._outbox, self._staging, self._closed, self._lost = sealer, outbox, staging, closed, lost
        self.parked = len(staging.leftovers(False))

    @property
    def rows(self):
        """Rows in the open batch."""
        return self._batch.rows

    def append(self, t, values, present):
        """Take a row at t2000 (`present`: mask of columns with a value); when this returns the row survives a power cut."""
        batch = self._batch
        if batch.rows == batch.rows_max or batch.rows and not batch.interval_s and t < self.newest:
            self.close()
        batch.append(t, values, present)
        if batch.rows > 1 and not self._fits(batch):
            batch.pop()
            self.close()
            batch.append(t, values, present)
        self.newest = t
        try:
            self._staging.add(t, values, present)
        except OSError:
            batch.pop()
            borrow("mote.refused", "again", self, t, values, present)
        self.rows_taken += 1
        if batch.interval_s and t % self.report_s < min(batch.interval_s, _LAPS):
            try:
                self.close()
            except OSError as e:  # the row is staged, and the batch stays open
                log.error("close: %s", e)

    def _fits(self, batch, ext=None):
        """Trial encode; rows without a time leave room for what says so."""
        s = self._sealer
        try:
            batch.encode(s.buf, s.head_max, s.room - _EXT_BYTES if ext or batch.t0 < FIRST else s.room)
        except Full:
            return False
        return True

    def close(self):
        """Seal the open batch into the outbox, or park it when it has no time; nothing happens when it is empty."""
        batch = self._batch
        if not batch.rows:
            return
        if batch.t0 < FIRST:
            try:
                self._staging.flush()
            except OSError:
                borrow("mote.refused", "leave", self)
                return
            self._staging.park()
            batch.clear()
            self.parked += 1
            if self.parked > _PARKED_MAX:
                borrow("mote.dating", "forget_oldest", self)
            return
        self._seal(batch, self._staging.stage, batch.rows)
        batch.clear()
        try:
            self._staging.end()
        except OSError as e:  # the next start removes it: its rows are in a frame
            log.error("staging: %s", e)
        self._closed()

    def _seal(self, batch, stage, upto, ext=None, stamp=cbor.ABSOLUTE, now=0):
        s = self._sealer
        at = s.begin(REPORT)
        n = s.finish(batch.encode(s.buf, at, s.room, ext, stamp, now))
        self._outbox.append(REPORT, s.counter, s.buf, n, batch.rows, stage, upto)

    def save(self, put):
        """Tell put(int) what load() needs; rows stay where the staging holds them."""
        put(self.newest)
        put(self._batch.rows)
        self._staging.save(put)

    def load(self, get):
        """Go on with the batch that was open before a deep sleep; mote.rest.divide() follows."""
        self.newest = get() & 0xFFFFFFFF
        self.tried = get()
        for rows in self._staging.resume(get):
            while rows.next_row():
                self._batch.append(rows.t, rows.values, rows.present)
            rows.close()
        if self._batch.rows < self.tried:  # RTC memory or flash did not keep them
            self._lost(self.tried - self._batch.rows)

    def set_interval(self, interval_s, report_s):
        """Change the rhythm from now on; rows at hand are sealed first."""
        self.close()
        self._batch.interval_s, self.report_s = interval_s, report_s
        self._staging.set_interval(interval_s)

    def recover(self):
        """Seal what was staged before this boot, see mote.dating; call once, before the first append. Returns the number of rows."""
        return borrow("mote.dating", "recover", self)

    def date(self, born, now=0):
        """Seal what was parked, see mote.dating. Returns the number of rows."""
        rows = borrow("mote.dating", "date", self, self._staging, born, now) if self.parked else 0
        if rows:
            self._closed()
        return rows

"""Rows become frames: staged on flash, encoded into one batch, sealed once, handed to the outbox.

The batch closes when the next row would not fit the frame (trial encode, not a row count), on a wall-clock multiple of
report_s, on a clock step and on demand.
"""

from motewire.batch import Batch
from motewire.errors import Full
from motewire.frame import REPORT


class Batcher:
    """One open batch of a node.

    ids, schema, interval_s (0: events), report_s: what and how often. sealer, outbox, staging: see their modules.
    closed: function() called when a frame entered the outbox. append() and close() raise OSError (flash), NeedsKey.
    """

    def __init__(self, ids, schema, interval_s, report_s, rows_max, sealer, outbox, staging, closed):
        self.ids = tuple(ids)
        self.report_s = report_s
        self.rows_taken = 0
        self._t = 0
        self._batch = Batch(ids, schema, interval_s, rows_max)
        self._sealer, self._outbox, self._staging, self._closed = sealer, outbox, staging, closed

    @property
    def rows(self):
        """Rows in the open batch."""
        return self._batch.rows

    def append(self, t, values, present):
        """Take a row at t2000 (`present`: mask of columns with a value); when this returns the row survives a power cut."""
        batch = self._batch
        if batch.rows == batch.rows_max or batch.rows and not batch.interval_s and t < self._t:
            self.close()
        batch.append(t, values, present)
        if batch.rows > 1 and not self._fits(batch):
            batch.pop()
            self.close()
            batch.append(t, values, present)
        self._t = t
        try:
            self._staging.add(t, values, present)
        except OSError:  # a torn row may be in the file: nothing may follow it
            batch.pop()
            if batch.rows:
                self.close()
            else:
                self._staging.end()
            raise
        self.rows_taken += 1
        if batch.interval_s and t % self.report_s == 0:
            self.close()

    def _fits(self, batch):
        s = self._sealer
        try:
            batch.encode(s.buf, s.head_max, s.room)
        except Full:
            return False
        return True

    def close(self):
        """Seal the open batch into the outbox; nothing happens when it is empty."""
        batch = self._batch
        if not batch.rows:
            return
        self._seal(batch, self._staging.stage, batch.rows)
        self._staging.end()
        batch.clear()
        self._closed()

    def _seal(self, batch, stage, upto):
        s = self._sealer
        at = s.begin(REPORT)
        n = s.finish(batch.encode(s.buf, at, s.room))
        self._outbox.append(REPORT, s.counter, s.buf, n, batch.rows, stage, upto)

    def set_interval(self, interval_s, report_s):
        """Change the rhythm from now on; rows at hand are sealed first."""
        self.close()
        self._batch.interval_s, self.report_s = interval_s, report_s
        self._staging.set_interval(interval_s)

    def recover(self):
        """Seal what was staged before this boot; call once, before the first append. Returns the number of rows.

        A file whose frame is already in the outbox is only removed. Rows may need several frames when the link's limit
        became smaller; each record says up to which row it goes.
        """
        outbox, staging = self._outbox, self._staging
        rows = 0
        for stage in staging.leftovers():
            done = outbox.sealed_rows(stage)
            rows += self._take_up(stage, done)
            staging.drop(stage)
        staging.skip_to(outbox.last_stage + 1)
        if rows:
            self._closed()
        return rows

    def _take_up(self, stage, done):
        try:
            f = self._staging.open_leftover(stage)
        except ValueError:
            return 0  # cut while its head was written: it never held a row
        batch = Batch(f.ids, f.schema, f.interval_s, self._batch.rows_max)
        count = 0
        try:
            while f.next_row():
                count += 1
                if count <= done:
                    continue
                if batch.rows == batch.rows_max:
                    self._seal(batch, stage, count - 1)
                    batch.clear()
                batch.append(f.t, f.values, f.present)
                if batch.rows > 1 and not self._fits(batch):
                    batch.pop()
                    self._seal(batch, stage, count - 1)
                    batch.clear()
                    batch.append(f.t, f.values, f.present)
            if batch.rows:
                self._seal(batch, stage, count)
        finally:
            f.close()
        return count - done

"""Staging with rows held in RTC memory and flushed in blocks: a littlefs append rewrites a block, whether it brings one row or thirty.

What is held survives every reset and deep sleep; a power cut takes it (the unflushed window, `stage_every` rows). RTC section: staging id u32,
cycle u32, length of the head u8, head, rows.
"""

import io
from struct import pack, unpack_from

from mote import borrow, log
from mote.errors import Corrupt
from mote.files import remove
from mote.hal.rtc import ROWS_BYTES
from mote.staging import Staged, Staging

_INFO = 9
_ROW = 6  # mote.staging


class HeldStaging(Staging):
    """As Staging, but add() brings rows to flash `every` rows at a time, or when RTC memory is full.

    rtc: mote.hal.rtc.RtcMemory. woke: the rows there belong to the batch that resume() goes on with; else they are brought to
    flash now, and found among the leftovers. outbox: evicts its oldest bulk when flash is full; rows that have no room even so are counted there as lost.
    """

    def __init__(self, root, ids, schema, interval_s, cycle, every, rtc, woke, outbox):
        super().__init__(root, ids, schema, interval_s, cycle, every)
        self._rtc, self._outbox = rtc, outbox
        rtc.wide()
        self._section = bytearray(rtc.rows())
        if self._section and not woke:
            stage, cycle = unpack_from(">II", self._section)
            self._path = self._name(cycle, stage)
            self.stage = max(self.stage, stage)
            rows = (len(self._section) - self._rows_at()) // (_ROW + 4 * self._section[_INFO + 2] + 2)
            try:
                self.park()
            except OSError as e:
                log.error("%d rows: %s", rows, e)
                outbox._on_lost(rows)

    def _begin(self, cycle):
        self._path = self._name(cycle, self.stage)
        self._section = bytearray(pack(">IIB", self.stage, cycle, len(self._head)))
        self._section.extend(self._head)

    def _store(self, row):
        self._section.extend(row)
        self._waiting += 1
        if self._waiting >= self._every or len(self._section) + len(row) > ROWS_BYTES - 6:
            self.flush()
        else:
            self._rtc.put_rows(self._section)

    def ready(self):
        """Be ready for rows with a time that mote.nap adds to RTC memory; return how many until they must be flushed."""
        if not self._path:
            self._begin(0)
            self._rtc.put_rows(self._section)
        room = (ROWS_BYTES - 6 - len(self._section)) // len(self._buf)
        return min(room, self._every - self._waiting) - 1

    def _rows_at(self):
        return _INFO + self._section[_INFO - 1]

    def flush(self):
        """Bring what is held to flash, in one append; while flash is full the outbox evicts. Raises OSError, NoSpace."""
        section = self._section
        if not section or len(section) == self._rows_at():
            return
        at = self._rows_at()
        try:
            self._bring(at)
        except OSError:
            borrow("mote.leaving", "with_room", self._outbox, self._bring, at)
        self._section = section[:at]
        self._waiting = 0
        self._rtc.put_rows(self._section)

    def _bring(self, at):
        section = self._section
        with open(self._path, "ab") as f:
            if not f.tell():
                f.write(section[_INFO:at])
            f.write(section[at:])

    def _forget(self):
        self._section = bytearray()
        self._waiting = 0
        self._path = ""
        self.stage += 1
        self._rtc.put_rows(b"")

    def end(self):
        """The batch is in the outbox: forget its rows, here and on flash."""
        path = self._path
        self._forget()
        if path:
            remove(path)

    def park(self):
        """Leave the rows to be dated (or taken up), on flash. Raises OSError, NoSpace: they are forgotten."""
        try:
            self.flush()
        finally:
            self._forget()

    def save(self, put):
        """Tell put(int) what resume() needs."""
        put(self.stage)

    def resume(self, get):
        """After a deep sleep: go on with the batch that was open. Returns its rows in one or two Staged, those on flash first. Raises Corrupt: the rows are
        another batch's, which the next boot brings to flash."""
        self.stage = get()
        section = self._section
        if len(section) < _INFO:
            return []
        if unpack_from(">I", section)[0] != self.stage:
            raise Corrupt
        self._path = self._name(unpack_from(">I", section, 4)[0], self.stage)
        at = self._rows_at()
        self._waiting = (len(section) - at) // len(self._buf)
        parts = [Staged(io.BytesIO(bytes(section[_INFO:])))]
        try:
            parts.insert(0, Staged(open(self._path, "rb")))
        except OSError:
            pass  # nothing was flushed yet
        return parts

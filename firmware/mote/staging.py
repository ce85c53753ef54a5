"""Rows on flash before they are sealed: a power cut loses no row that was staged (G1).

One file per batch, named by a staging id that only grows. The outbox record of the sealed frame carries that id and how
many of its rows it holds, so that after a cut between "frame stored" and "staging file removed" no row is sealed again.
Rows taken before the node knows the time count from power-on; their file is named <id>.<cycle> (which power-on) and waits to be dated.
"""

import os
from array import array
from struct import pack_into, unpack, unpack_from
from micropython import const
from mote.crc import crc16
from mote.files import make_dir, remove
from mote.hal.clock import FIRST

_MAGIC = const(0x5302)
_HEAD = const(8)  # magic u16, columns u8, schema u8 (255: none), interval u32; then ids u16, then CRC
_ROW = const(6)  # t u32, present u16; then values i32, then CRC
_NO_SCHEMA = const(255)


def _split(name):
    """Return (staging id, cycle or 0) of a file name, or (0, 0)."""
    stage, _, cycle = name.partition(".")
    if not stage.isdigit() or cycle and not cycle.isdigit():
        return 0, 0
    return int(stage), int(cycle or 0)


class Staged:
    """What a staging file holds: ids (quantities), schema, interval_s; rows are read with next_row(), `shift` added to their time."""

    def __init__(self, f, shift=0):
        """f: the open file. Raises OSError, or ValueError when not even its head is whole."""
        self._shift = shift
        self._last = -1
        self.place = 0  # of the row in the file, from 1, rotten ones too
        self._f = f
        head = self._f.read(_HEAD)
        if len(head) < _HEAD:
            raise ValueError
        magic, n, schema, self.interval_s = unpack(">HBBI", head)
        tail = self._f.read(2 * n + 2)
        whole = head + tail
        if (
            magic != _MAGIC
            or len(tail) != 2 * n + 2
            or crc16(whole, len(whole) - 2) != unpack_from(">H", tail, 2 * n)[0]
        ):
            raise ValueError
        self.schema = None if schema == _NO_SCHEMA else schema
        self.ids = unpack(">%dH" % n, tail[: 2 * n])
        self.values = array("i", bytes(4 * n))
        self._buf = bytearray(_ROW + 4 * n + 2)

    def next_row(self):
        """Read a row into self.t, self.values, self.present; False at the end.

        A torn or rotten row is left out, and so is one that stands there twice (a flush that a reset interrupted). `place` counts the rotten ones.
        """
        buf = self._buf
        n = len(buf) - 2
        while True:
            if self._f.readinto(buf) != len(buf):
                return False
            if crc16(buf, n) == buf[n] << 8 | buf[n + 1]:
                t, self.present = unpack_from(">IH", buf)
                if t > self._last:
                    break
            else:
                self.place += 1
        self._last = t
        self.place += 1
        self.t = t + self._shift
        for c in range(len(self.values)):
            self.values[c] = unpack_from(">i", buf, _ROW + 4 * c)[0]
        return True

    def close(self):
        self._f.close()


class Staging:
    """The staging file of the open batch. add() allocates nothing once the file is open."""

    def __init__(self, root, ids, schema, interval_s, cycle=1, every=1):
        """cycle: number of this power-on, from 1. every: flush to flash after so many rows (1: a row that add() took is on flash)."""
        make_dir(root)
        self._root, self.cycle, self._every = root, cycle, every
        self._waiting = 0
        self._head = bytearray(_HEAD + 2 * len(ids) + 2)
        pack_into(">HBBI", self._head, 0, _MAGIC, len(ids), _NO_SCHEMA if schema is None else schema, interval_s)
        for i in range(len(ids)):
            pack_into(">H", self._head, _HEAD + 2 * i, ids[i])
        self.set_interval(interval_s)
        self._buf = bytearray(_ROW + 4 * len(ids) + 2)
        self._n = len(ids)
        self._f = None  # an open file
        self._path = ""
        self.stage = 0  # id of the open file, or of the next one
        for name in os.listdir(root):
            self.stage = max(self.stage, _split(name)[0])
        self.stage += 1

    def leftovers(self, dated=True):
        """Return (cycle, id) of the files that are not open, oldest first: with rows that have a time (cycle 0), or those without."""
        found = []
        for name in os.listdir(self._root):
            stage, cycle = _split(name)
            if 0 < stage < self.stage and (cycle == 0) == dated:
                found.append((cycle, stage))
        return sorted(found)

    def _name(self, cycle, stage):
        return "%s/%d.%d" % (self._root, stage, cycle) if cycle else "%s/%d" % (self._root, stage)

    def open_leftover(self, cycle, stage, shift=0):
        """Return the Staged rows of a leftover, their times moved by `shift`. Raises OSError, ValueError."""
        f = open(self._name(cycle, stage), "rb")
        try:
            return Staged(f, shift)
        except ValueError:
            f.close()
            raise

    def drop(self, cycle, stage):
        """Forget a leftover."""
        remove(self._name(cycle, stage))

    def set_interval(self, interval_s):
        """Change the nominal interval of files to come."""
        head = self._head
        n = len(head) - 2
        pack_into(">I", head, 4, interval_s)
        pack_into(">H", head, n, crc16(head, n))

    def skip_to(self, stage):
        """Give files to come an id of at least `stage` (ids that the outbox knows must not come again)."""
        self.stage = max(self.stage, stage)

    def add(self, t, values, present):
        """Take a row. Raises OSError."""
        if not self._path:
            self._begin(self.cycle if t < FIRST else 0)
        buf = self._buf
        pack_into(">I", buf, 0, t)
        pack_into(">H", buf, 4, present)
        at = _ROW
        for c in range(self._n):
            pack_into(">i", buf, at, values[c] if present >> c & 1 else 0)
            at += 4
        pack_into(">H", buf, at, crc16(buf, at))
        self._store(buf)

    def _begin(self, cycle):
        """The first row of a batch comes."""
        self._path = self._name(cycle, self.stage)
        self._f = open(self._path, "wb")
        self._f.write(self._head)

    def _store(self, row):
        self._f.write(row)  # pyright: ignore[reportOptionalMemberAccess]  (_begin() opened it)
        self._waiting += 1
        if self._waiting >= self._every:
            self.flush()

    def flush(self):
        """Bring waiting rows to flash."""
        self._waiting = 0
        if self._f is not None:
            self._f.flush()

    def end(self):
        """The batch is in the outbox: remove its file, the next row begins another."""
        path = self._path
        try:
            self.park()
        finally:
            if path:
                remove(path)

    def park(self):
        """Close the file and leave it to be dated; the next row begins another."""
        f, self._f = self._f, None
        self._waiting = 0
        self._path = ""
        self.stage += 1
        if f is not None:
            f.close()

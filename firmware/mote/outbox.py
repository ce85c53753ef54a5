"""Sealed frames on flash until the gateway says that it has committed them.

Segments of up to 4 KiB, appended to and flushed frame by frame, one series for alarms and one for everything else. A
frame leaves the index when an ack covers it, a segment's file when none of its frames is left: nothing is rewritten. What was
acked inside a segment that still lives comes back after a reset; the next ack names it again and it goes. No ack would ever name what was dropped, so
its record is marked, and so is that of what rotted and was counted (mote.rotten). Record: magic, kind, length u16, counter u32, staging id u32, rows sealed so far u16, rows u8, 0; the frame; CRC-32. A dropped one's
0 is another number, which the CRC does not count; firmware of before takes it for damaged.
"""

import os
from array import array
from binascii import crc32
from struct import pack, pack_into, unpack_from
from micropython import const
from motewire.frame import ALARM
from mote import borrow, nobody
from mote.errors import Corrupt, NoSpace
from mote.files import make_dir, remove

_MAGIC = const(0xC5)
_HEAD = const(16)
_MARK = const(15)  # in the head; mote.leaving writes it
_DROPPED = const(0xA5)
_SEGMENT = const(4096)  # one littlefs block
_ENOSPC = const(28)

# states of a frame
FRESH = const(0)  # not sent since boot
SENT = const(1)
MISSING = const(2)  # sent, and the gateway says that it lacks it


class Outbox:
    """Frames in the order they were appended. Index 0 is the oldest; indices shift when frames leave.

    root: folder. on_lost: function(rows) called at every eviction. cap_bytes: of flash for frames. cap: frames in the index (19 bytes of RAM each).
    counters, kinds, rows, states, times (uptime seconds of the last send) are arrays over 0..depth-1.
    """

    def __init__(self, root, cap_bytes, cap, on_lost=nobody):
        make_dir(root)
        self._root, self._cap_bytes, self._cap, self._on_lost = root, cap_bytes, cap, on_lost
        self.counters = array("i", bytes(4 * cap))
        self.times = array("i", bytes(4 * cap))
        self._segment = array("i", bytes(4 * cap))
        self._offset = array("H", bytes(2 * cap))
        self._size = array("H", bytes(2 * cap))
        self.kinds = bytearray(cap)
        self.rows = bytearray(cap)
        self.states = bytearray(cap)
        self.depth = 0
        self.bytes = 0
        self.rows_lost = 0  # evicted since this object was made; the owner keeps the total
        self.rotten = []  # records found at start that are lost, until settle() (mote.rotten)
        self.last_stage = 0
        self._stages = {}  # of frames found at start: staging id -> rows sealed; -tag -> 1 when the newest alarm of it is a raise
        self._live = {}  # segment number -> frames in the index
        self._used = {}  # segment number -> bytes of its file
        self._head = bytearray(_HEAD)
        self._open: list = [None, None]  # (segment number, file or None) of bulk, of alarms
        self._next = 1
        self._scan()

    def _name(self, segment, alarm):
        return "%s/%d.%s" % (self._root, segment, "a" if alarm else "b")

    def _scan(self):
        found = []
        for name in os.listdir(self._root):
            number, dot, ending = name.partition(".")
            if number.isdigit() and ending in ("a", "b"):
                found.append((int(number), ending == "a"))
        for segment, alarm in sorted(found):
            self._next = segment + 1
            self._scan_segment(segment, alarm)

    def _scan_segment(self, segment, alarm):
        count = at = 0
        whole = False
        rotten = len(self.rotten)
        f = open(self._name(segment, alarm), "rb")
        try:
            while self.depth < self._cap:
                head = f.read(_HEAD)
                if not head:
                    whole = len(self.rotten) == rotten
                    break
                size = head[2] << 8 | head[3] if len(head) == _HEAD and head[0] == _MAGIC else _SEGMENT
                frame = f.read(size + 4)
                dropped = len(head) == _HEAD and head[_MARK] == _DROPPED
                if dropped:
                    head = head[:_MARK] + b"\0"
                if len(frame) < size + 4 or crc32(frame[:size], crc32(head)) != unpack_from(">I", frame, size)[0]:
                    f.close()  # it may be written
                    at, torn = borrow("mote.rotten", "look", self, segment, alarm, at)
                    rotten = -1
                    if torn:
                        break
                    f = open(self._name(segment, alarm), "rb")
                    f.seek(at)
                    continue
                at, here = at + _HEAD + size + 4, at
                kind = head[1]
                counter, stage, upto, rows = unpack_from(">IIHB", head, 4)
                if not dropped and not self._knows(counter):
                    self._put(segment, here, size, kind, counter, rows)
                    count += 1
                if kind == ALARM:
                    if not dropped:
                        self._stages[-rows] = upto
                elif stage:
                    self.last_stage = max(self.last_stage, stage)
                    self._stages[stage] = max(self._stages.get(stage, 0), upto)
        finally:
            f.close()
        if count:
            self._live[segment] = count
            self._used[segment] = at
            self.bytes += at
            # the next frame is appended to the newest segment, unless its end is torn or anything in it was wrong
            self._open[alarm] = (segment, None) if whole else None
        elif self.depth < self._cap and (not self.rotten or self.rotten[-1][0] != segment):
            remove(self._name(segment, alarm))

    def _knows(self, counter):
        for i in range(self.depth):
            if self.counters[i] == counter:
                return True
        return False

    def _put(self, segment, at, size, kind, counter, rows):
        i = self.depth
        self.counters[i], self.kinds[i], self.rows[i] = counter, kind, min(rows, 255)
        self._segment[i], self._offset[i], self._size[i] = segment, at, size
        self.states[i] = FRESH
        self.times[i] = 0
        self.depth = i + 1

    def sealed_rows(self, stage):
        """How many rows of this staging id are in frames found at start; of a tag's negative: 1 when the last alarm of it there is a raise."""
        return self._stages.get(stage, 0)

    def append(self, kind, counter, buf, n, rows=0, stage=0, upto=0):
        """Store frame buf[0:n]; when this returns it survives a power cut. Evicts the oldest bulk when there is no room.

        rows: in the frame, or the tag of an alarm; stage, upto: where they were staged (alarms: 0, and 1 for a raise). Raises NoSpace, OSError.
        """
        need = _HEAD + n + 4
        while self.depth == self._cap or self.bytes + need > self._cap_bytes:
            self._evict()
        alarm = kind == ALARM
        for _ in range(8):
            try:
                segment, at = self._write(alarm, kind, counter, buf, n, rows, stage, upto)
                break
            except OSError as e:
                self._abandon(alarm)
                if e.errno != _ENOSPC:
                    raise
            self._evict()
        else:
            raise NoSpace(_ENOSPC)
        self._put(segment, at, n, kind, counter, rows)
        self._live[segment] = self._live.get(segment, 0) + 1
        self.bytes += need
        self._used[segment] = at + need
        self.last_stage = max(self.last_stage, stage)

    def _write(self, alarm, kind, counter, buf, n, rows, stage, upto):
        current = self._open[alarm]
        if current is not None and self._used.get(current[0], 0) + _HEAD + n + 4 > _SEGMENT:
            self._close(current)
            current = None
        if current is None:
            segment = self._next
            self._next += 1
            current = self._open[alarm] = (segment, open(self._name(segment, alarm), "wb"))
        elif current[1] is None:
            current = self._open[alarm] = (current[0], open(self._name(current[0], alarm), "ab"))
        segment, f = current
        head = self._head
        pack_into(">BBHIIHBB", head, 0, _MAGIC, kind, n, counter, stage, upto, min(rows, 255), 0)
        view = memoryview(buf)[:n]
        f.write(head)
        f.write(view)
        f.write(pack(">I", crc32(view, crc32(head))))
        f.flush()
        return segment, self._used.get(segment, 0)

    def _close(self, current):
        if current[1] is not None:
            current[1].close()

    def _abandon(self, alarm):
        """After a failed write the file's end is unknown: never append to it again."""
        current, self._open[alarm] = self._open[alarm], None
        if current is not None:
            try:
                self._close(current)
            except OSError:
                pass  # what was flushed before is on flash; the rest was refused to the caller
            if current[0] not in self._live:
                remove(self._name(current[0], alarm))

    def _evict(self):
        borrow("mote.leaving", "evict", self)

    def _rows_of(self, i):
        return 0 if self.kinds[i] == ALARM else self.rows[i]

    def _move(self, i, to):
        if i != to:
            self.counters[to], self.times[to] = self.counters[i], self.times[i]
            self._segment[to], self._offset[to], self._size[to] = self._segment[i], self._offset[i], self._size[i]
            self.kinds[to], self.rows[to], self.states[to] = self.kinds[i], self.rows[i], self.states[i]

    def _free(self, segment):
        """Remove a segment's file; it may be one that is open for appending."""
        for alarm in (False, True):
            current = self._open[alarm]
            if current is not None and current[0] == segment:
                self._close(current)
                self._open[alarm] = None
        for alarm in (False, True):
            remove(self._name(segment, alarm))
        self.bytes -= self._used.pop(segment, 0)
        self._live.pop(segment, None)

    def ack(self, ack):
        """Drop the frames that `ack` covers, mark those it misses; return how many left. Raises OSError."""
        keep = 0
        for i in range(self.depth):
            c = self.counters[i]
            if ack.covers(c):
                self._live[self._segment[i]] -= 1
            else:
                if self.states[i] == SENT and ack.is_missing(c):
                    self.states[i] = MISSING
                self._move(i, keep)
                keep += 1
        gone = self.depth - keep
        self.depth = keep
        if gone:
            for segment in [s for s in self._live if not self._live[s]]:
                self._free(segment)
        return gone

    def index_of(self, counter):
        """Return the index of the frame with this counter, or -1."""
        for i in range(self.depth):
            if self.counters[i] == counter:
                return i
        return -1

    def read_into(self, i, buf):
        """Read frame i into buf; return its length. Raises OSError, Corrupt (flash changed its mind: drop() it)."""
        size = self._size[i]
        with open(self._name(self._segment[i], self.kinds[i] == ALARM), "rb") as f:
            f.seek(self._offset[i])
            head = f.read(_HEAD)
            view = memoryview(buf)[:size]
            got = f.readinto(view)
            tail = f.read(4)
        if got != size or len(tail) != 4 or crc32(view, crc32(head)) != unpack_from(">I", tail)[0]:
            raise Corrupt
        return size

    def drop(self, i):
        """Forget frame i, which cannot be read or says nothing any more; its rows count as lost."""
        borrow("mote.leaving", "drop", self, i)

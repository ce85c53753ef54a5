"""Frames that waited on flash when a node starts. Borrowed: after most wakes there are none."""

from binascii import crc32
from struct import unpack_from
from micropython import const
from motewire.frame import ALARM
from mote.files import remove

# mote.outbox, mote.leaving; private copies cost no RAM
_MAGIC = const(0xC5)
_HEAD = const(16)
_MARK = const(15)  # in the head
_DROPPED = const(0xA5)


def scan(outbox, found):
    """Take the frames of these segments, (number, of alarms) sorted, into the index. Files that hold none are removed."""
    for segment, alarm in found:
        outbox._next = segment + 1
        _scan_segment(outbox, segment, alarm)


def _scan_segment(outbox, segment, alarm):
    count = at = 0
    whole = False
    damaged = outbox.damaged
    with open(outbox._name(segment, alarm), "rb") as f:
        while outbox.depth < outbox._cap:
            head = f.read(_HEAD)
            if len(head) < _HEAD or head[0] != _MAGIC:
                whole = not head and outbox.damaged == damaged
                break
            size = head[2] << 8 | head[3]
            frame = f.read(size + 4)
            if len(frame) < size + 4:
                break  # the power went here
            at, here = at + _HEAD + size + 4, at
            dropped = head[_MARK] == _DROPPED
            if dropped:
                head = head[:_MARK] + b"\0"
            if crc32(frame[:size], crc32(head)) != unpack_from(">I", frame, size)[0]:
                outbox.damaged += 1  # torn, or rotten: what follows may still be whole
                continue
            kind = head[1]
            counter, stage, upto, rows = unpack_from(">IIHB", head, 4)
            if not dropped and not _knows(outbox, counter):
                outbox._put(segment, here, size, kind, counter, rows)
                count += 1
            if kind == ALARM:
                if not dropped:
                    outbox._stages[-rows] = upto
            elif stage:
                outbox.last_stage = max(outbox.last_stage, stage)
                outbox._stages[stage] = max(outbox._stages.get(stage, 0), upto)
    if count:
        outbox._live[segment] = count
        outbox._used[segment] = at
        outbox.bytes += at
        # the next frame is appended to the newest segment, unless its end is torn
        outbox._open[alarm] = (segment, None) if whole else None
    elif outbox.depth < outbox._cap:
        remove(outbox._name(segment, alarm))


def _knows(outbox, counter):
    for i in range(outbox.depth):
        if outbox.counters[i] == counter:
            return True
    return False

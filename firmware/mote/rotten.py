"""Records of an outbox (mote.outbox) that do not check out, and staged rows that were lost with them. Borrowed: only flash that rots, or a write that the
power cut, needs this.
"""

from binascii import crc32
from struct import unpack_from
from micropython import const
from mote import borrow, log
from mote.crc import crc16

# of a record, see mote.outbox
_MAGIC = const(0xC5)
_HEAD = const(16)
_MARK = const(15)
_DROPPED = const(0xA5)
_AROUND = const(20)  # head and CRC

# of a staging file, see mote.staging
_STAGED = const(8)
_STAGED_MAGIC = b"\x53\x02"


def _marked(head):
    """True for the mark of a dropped record, also with one bit wrong."""
    wrong = head[_MARK] ^ _DROPPED
    return not wrong & (wrong - 1)


def _end(data, at, head):
    """Where the record at `at` with this head ends, when it is whole; else 0."""
    end = at + _AROUND + (head[2] << 8 | head[3])
    if head[0] != _MAGIC or end > len(data):
        return 0
    return end if crc32(data[at + _HEAD : end - 4], crc32(head)) == unpack_from(">I", data, end - 4)[0] else 0


def _behind(data, at):
    """Where the next whole record behind `at` begins; the end of the data when there is none."""
    while True:
        at = data.find(bytes((_MAGIC,)), at + 1)
        if at < 0 or at + _AROUND > len(data):
            return len(data)
        head = bytearray(data[at : at + _HEAD])
        if _marked(head):
            head[_MARK] = 0
        if _end(data, at, head):
            return at


def _mended(data, at):
    """The head of a record in which one bit is wrong, as it was; None when more is wrong than that."""
    head = bytearray(data[at : at + _HEAD])
    mark = _DROPPED if _marked(head) else 0
    head[_MARK] = 0
    for bit in range(-1, 8 * _MARK):  # -1: only the mark is wrong
        if bit >= 0:
            head[bit >> 3] ^= 1 << (bit & 7)
        if _end(data, at, head):
            head[_MARK] = mark
            return head
        if bit >= 0:
            head[bit >> 3] ^= 1 << (bit & 7)
    return None


def look(outbox, segment, alarm, at):
    """The record at `at` does not check out: return where the scan continues (`at`: the record was put right), and whether the end of a write is missing
    there and nothing else. What is lost is noted in outbox.rotten for settle(). Raises OSError."""
    name = outbox._name(segment, alarm)
    with open(name, "rb") as f:
        data = f.read()
    size = len(data)
    if size - at < _HEAD:
        return size, True  # the power went
    head = _mended(data, at)
    if head is not None:
        try:
            if _write(name, at, head):
                return at, False
        except OSError:
            pass  # no room for it: its rows are known, and lost
    following = _behind(data, at)
    if head is None:
        head = data[at : at + _HEAD]
    end = at + _AROUND + (head[2] << 8 | head[3])
    if head[0] == _MAGIC and end > size == following:
        return size, True  # it says more than there is, and would not be whole with another length: the power went
    upto = stage = 0
    if head[0] == _MAGIC or end == following:
        stage, upto, rows = unpack_from(">IHB", head, 8)
    else:
        rows = 1  # an estimate: this was one record at least
    if head[0] == _MAGIC and end < following and data[end] == _MAGIC:
        following = end  # what stands there is rotten, too
    if following - at < _HEAD:
        return following, False
    if not _marked(data[at : at + _HEAD]):
        outbox.rotten.append((segment, at, alarm, stage, upto, 0 if alarm else rows))
    return following, False


def _write(name, at, data):
    """Write over what is there; return False when flash does not keep it. Raises OSError."""
    with open(name, "r+b") as f:
        f.seek(at)
        f.write(data)
    with open(name, "rb") as f:
        f.seek(at)
        return f.read(len(data)) == data


def _mark(outbox, segment, at, alarm):
    if segment in outbox._live:  # making room may have taken it
        _write(outbox._name(segment, alarm), at + _MARK, bytes((_DROPPED,)))


def settle(outbox, staging):
    """Count the rows of what look() found, once: from here on they are marked, or their file is gone. Rows that are still staged come again and are not lost.
    Raises OSError."""
    found, outbox.rotten = outbox.rotten, ()
    waiting = [stage for dated in (True, False) for _, stage in staging.leftovers(dated)]
    rows = 0
    for segment, at, alarm, stage, upto, n in found:
        if segment in outbox._live:
            try:
                borrow("mote.leaving", "with_room", outbox, _mark, outbox, segment, at, alarm)
            except OSError as e:  # counted once it can be marked
                log.error("a record that rotted: %s", e)
                continue
        else:
            outbox._free(segment)
        if stage in waiting:
            n = min(n, max(0, outbox.sealed_rows(stage) - upto + n))
        rows += n
    if rows:
        outbox.rows_lost += rows
        outbox._on_lost(rows)


def staged(outbox, name):
    """Put right a staging file in whose head one bit is wrong; return False when more is wrong than that. Raises OSError, NoSpace."""
    with open(name, "rb") as f:
        head = bytearray(f.read(_STAGED + 2 * 255 + 2))
    if len(head) < _STAGED + 2:
        return False
    for bit in range(8 * (_STAGED + 2 * head[2] + 2)):
        if bit >> 3 >= len(head):
            break
        head[bit >> 3] ^= 1 << (bit & 7)
        n = _STAGED + 2 * head[2]
        if head[:2] == _STAGED_MAGIC and n + 2 <= len(head) and crc16(head, n) == head[n] << 8 | head[n + 1]:
            return borrow("mote.leaving", "with_room", outbox, _write, name, 0, head[: n + 2])
        head[bit >> 3] ^= 1 << (bit & 7)
    return False


def unreadable(staging, name):
    """Rows of a staging file whose head is rotten: by its size, as rows of the columns that this node has. 0 for one that was cut while its head was
    written."""
    with open(name, "rb") as f:
        size = f.seek(0, 2)
    return max(0, size - len(staging._head)) // len(staging._buf)

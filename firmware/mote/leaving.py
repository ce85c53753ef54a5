"""Frames that leave an outbox (mote.outbox) before any ack names them. Borrowed: only an alarm, full flash or flash that rots needs this."""

from micropython import const
from mote.errors import NoSpace
from motewire.frame import ALARM

_MARK = const(15)  # in the head of a record (mote.outbox)
_DROPPED = const(0xA5)

_ENOSPC = const(28)
_FLAPPING = const(4)  # alarm frames of one tag that may wait


def thin(outbox, tag):
    """An alarm of `tag` (1..255, the `rows` of its frames) is about to come: of those that wait the newest goes when there are four with it. So the
    first, which says when it began, and the latest are always there, and an alarm that comes and goes through an outage pushes no measurements out.
    Returns what void() wants once the alarm is stored: a power cut before that must leave the latest."""
    gone = []
    while True:
        found, newest = 0, -1
        for i in range(outbox.depth):
            if outbox.kinds[i] == ALARM and outbox.rows[i] == tag:
                found, newest = found + 1, i
        if found < _FLAPPING:
            return gone
        gone.append(_leave(outbox, newest))


def _leave(outbox, i):
    """Take frame i out of the index; return where its record is."""
    segment, at, alarm = outbox._segment[i], outbox._offset[i], outbox.kinds[i] == ALARM
    for j in range(i + 1, outbox.depth):
        outbox._move(j, j - 1)
    outbox.depth -= 1
    outbox._live[segment] -= 1
    return segment, at, alarm


def void(outbox, gone):
    """Mark what has left the index, so that it is not taken up again at the next start."""
    for segment, at, alarm in gone:
        living = outbox._live.get(segment)
        if living == 0:
            outbox._free(segment)
        elif living:
            current = outbox._open[alarm]
            if current is not None and current[0] == segment:
                outbox._close(current)  # it would write what it knows of the file over this
                outbox._open[alarm] = (segment, None)
            try:
                with open(outbox._name(segment, alarm), "r+b") as f:
                    f.seek(at + _MARK)
                    f.write(bytes((_DROPPED,)))
            except OSError:
                pass  # no room for it: it comes back after a power cut, as it would have without the mark


def drop(outbox, i):
    """Forget frame i, which cannot be read or says nothing any more; its rows count as lost."""
    lost = outbox._rows_of(i)
    gone = _leave(outbox, i)
    outbox.rows_lost += lost
    if lost:
        outbox._on_lost(lost)
    void(outbox, (gone,))


def evict(outbox):
    """Drop the oldest bulk segment (the oldest alarms only when there is no bulk) and count its rows."""
    if not outbox.depth:
        raise NoSpace(_ENOSPC)
    victim = 0
    for i in range(outbox.depth):
        if outbox.kinds[i] != ALARM:
            victim = i
            break
    segment = outbox._segment[victim]
    lost = keep = 0
    for i in range(outbox.depth):
        if outbox._segment[i] == segment:
            lost += outbox._rows_of(i)
        else:
            outbox._move(i, keep)
            keep += 1
    outbox.depth = keep
    outbox._free(segment)
    outbox.rows_lost += lost
    if lost:
        outbox._on_lost(lost)


def with_room(outbox, write, *args):
    """Return write(*args), tried again while flash is full and there are frames to evict. Raises OSError, NoSpace."""
    while True:
        try:
            return write(*args)
        except OSError as e:
            if e.errno != _ENOSPC:
                raise
        evict(outbox)

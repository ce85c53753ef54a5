"""Flash that is full: rows find room by evicting the oldest bulk, or are counted; no start and no row ends in an exception that is not expected."""

import os

import nodekit as kit
from cryptolib import aes
from mote import borrow
from mote.batcher import Batcher
from mote.counter import Counter
from mote.held import HeldStaging
from mote.outbox import Outbox
from mote.sealer import Sealer
from mote.staging import Staging

IDS = (4, 5, 6)
T0 = 757442400


class Rtc:
    """Rows in RTC memory, which a reset does not touch."""

    def __init__(self):
        self.held = b""

    def wide(self):
        pass

    def rows(self):
        return self.held

    def put_rows(self, rows):
        self.held = bytes(rows)


class Ceiling:
    """A number that needs no flash."""

    value = 0
    doubt = False

    def get(self):
        return self.value

    def put(self, value):
        self.value = value


class Rig:
    def __init__(self, ceiling, every=1, rtc=None, cycle=1, lost=None):
        self.lost = [] if lost is None else lost
        self.sealer = Sealer(aes(kit.KEY, 1), kit.NODE, 0, Counter(ceiling), 222)
        self.outbox = Outbox("/d/out", 64 * 1024, 64, self.lost.append)
        if rtc is None:
            staging = Staging("/d/stage", IDS, None, 60, cycle, every)
        else:
            staging = HeldStaging("/d/stage", IDS, None, 60, cycle, every, rtc, False, self.outbox)
        self.batcher = Batcher(IDS, None, 60, 6000, 12, self.sealer, self.outbox, staging, int, self.lost.append)
        self.batcher.recover()

    def fill(self, rows, start, taken):
        for i in range(rows):
            t = start + 60 * i
            try:
                self.batcher.append(t, [len(taken), t * 7919 % 90001, t * 104729 % 90007], 7)
            except OSError:
                self.lost.append(1)  # as Node.take_row
            taken.append(len(taken))

    def values(self):
        gateway, buf = kit.Gateway(), bytearray(256)
        for i in range(self.outbox.depth):
            gateway.take(bytes(buf[: self.outbox.read_into(i, buf)]))
        return sorted([v[4] for _, v in gateway.rows()])


def stuff(leave):
    """Fill the flash up to `leave` free blocks."""
    with open("/d/filler", "wb") as f:
        try:
            while os.statvfs("/d")[3] > leave:
                f.write(b"\xa5" * 512)
                f.flush()
        except OSError:
            pass


def judge(rig, taken, case):
    values = rig.values()
    assert len(values) == len(set(values)), ("doubled", case, values)
    assert len(values) + sum(rig.lost) == len(taken), (case, len(values), rig.lost, len(taken))


def end(rig):
    try:
        rig.batcher.close()
    except OSError:
        borrow("mote.refused", "leave", rig.batcher)


def life(waiting, leave, every, held, undated, blocks=64):
    """waiting: rows in the outbox before flash is full; leave: free blocks then."""
    disk = kit.Disk(blocks=blocks)
    disk.mount()
    ceiling, taken, rtc, case = Ceiling(), [], Rtc() if held else None, (waiting, leave, every, held, undated)
    rig = Rig(ceiling, every, rtc)
    rig.fill(waiting, T0, taken)
    rig.batcher.close()
    later = 60 if undated else T0 + 60 * waiting
    rig.fill(5, later, taken)
    lost = rig.lost
    if rig.outbox._open[0]:
        rig.outbox._close(rig.outbox._open[0])
        rig.outbox._open[0] = None
    stuff(leave)
    for boot in range(3):
        if every > 1 and not held:
            end(rig)  # a restart that was planned: rows that no flush brought to flash are lost else, as designed
        rig = None
        disk.mount()
        rig = Rig(ceiling, every, rtc, lost=lost)
        rig.fill(90, later + 9000 * (boot + 1), taken)
        assert not undated or rig.batcher.parked == len(rig.batcher._staging.leftovers(False))
    end(rig)
    rig = None
    disk.mount()
    os.remove("/d/filler")
    rig = Rig(ceiling, 1, rtc, 1, lost)
    rig.batcher.date(T0 + 100000)
    judge(rig, taken, case)
    rig = None
    disk.umount()
    return sum(lost)


def lives(held, undated):
    lost = 0
    for waiting in (0, 60):
        for leave in (0, 1, 2, 3, 5):
            for every in (1, 4) if not held else (7, 40):
                lost += life(waiting, leave, every, held, undated)
    assert lost, "it was full"


def test_rows_of_a_node_on_mains_are_delivered_or_counted_when_flash_is_full():
    lives(False, False)


def test_rows_without_a_time_are_delivered_or_counted_when_flash_is_full():
    lives(False, True)


def test_rows_held_in_rtc_memory_are_delivered_or_counted_when_flash_is_full():
    lives(True, False)


def test_rows_held_without_a_time_are_delivered_or_counted_when_flash_is_full():
    lives(True, True)


def test_what_is_newest_finds_room_while_older_bulk_can_go():
    for held in (False, True):
        disk = kit.Disk(blocks=64)
        disk.mount()
        ceiling, taken, rtc = Ceiling(), [], Rtc() if held else None
        rig = Rig(ceiling, 40 if held else 1, rtc)
        rig.fill(240, T0, taken)
        rig.batcher.close()
        if held:
            rig.fill(11, T0 + 60 * 240, taken)
        rig = None
        disk.mount()
        stuff(0)
        with open("/d/rest", "wb") as f:  # what statvfs does not see
            try:
                while True:
                    f.write(b"\xa5" * 32)
                    f.flush()
            except OSError:
                pass
        rig = Rig(ceiling, 40 if held else 1, rtc)
        if not held:
            for i in range(11):
                rig.batcher.append(T0 + 60 * (240 + i), [len(taken), i * 7919 % 90001, i], 7)
                taken.append(len(taken))
            rig.batcher.close()
        assert rig.values()[-11:] == taken[-11:], (held, rig.values()[-11:], rig.lost)
        assert rig.lost, "older rows went"
        judge(rig, taken, held)
        rig = None
        disk.umount()

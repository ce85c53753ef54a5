"""Flash that rots: a record or a staged row that does not check out takes nothing with it, and what is lost is counted once."""

import os

import nodekit as kit
from cryptolib import aes
from mote import borrow
from mote.batcher import Batcher
from mote.counter import Counter
from mote.outbox import Outbox
from mote.sealer import Sealer
from mote.staging import Staging
from mote.twice import Twice
from motewire.frame import ALARM, REPORT

IDS = (4, 5, 6)
T0 = 757442400
SIZE = 50  # of a record with a frame of 30 bytes


class Rig:
    """The storing half of a node on the flash at /d; lost: what it counted, one number a time."""

    def __init__(self, nvs, cycle=1):
        self.lost = []
        self.sealer = Sealer(
            aes(kit.KEY, 1), kit.NODE, 0, Counter(Twice(nvs, "ceiling", "/d/ceiling.bin", b"mark")), 222
        )
        self.outbox = Outbox("/d/out", 64 * 1024, 64, self.lost.append)
        staging = Staging("/d/stage", IDS, None, 60, cycle)
        self.batcher = Batcher(
            IDS, None, 60, 6000, 12, self.sealer, self.outbox, staging, lambda: None, self.lost.append
        )
        self.batcher.recover()

    def fill(self, rows, start=T0):
        for i in range(rows):
            self.batcher.append(start + 60 * i, [i, 2, 3], 7)

    def seen(self):
        """First values of the rows in the outbox, and the gateway that has them."""
        gateway, buf = kit.Gateway(), bytearray(256)
        for i in range(self.outbox.depth):
            gateway.take(bytes(buf[: self.outbox.read_into(i, buf)]))
        return sorted([v[4] for _, v in gateway.rows()]), gateway


def write(name, data):
    with open(name, "wb") as f:
        f.write(data)


def read(name):
    with open(name, "rb") as f:
        return f.read()


def clear(disk, folder="/d/out"):
    """Power on, with nothing in a folder."""
    disk.mount()
    for name in os.listdir(folder):
        os.remove(folder + "/" + name)


def start(lost):
    """A start, without sensors: what waits and was counted."""
    out = Outbox("/d/out", 16384, 64, lost.append)
    if out.rotten:
        borrow("mote.rotten", "settle", out, Staging("/d/stage", IDS, None, 60))
    return out


def five(kind=REPORT):
    """A segment of five frames of five rows; return its name and bytes."""
    disk = kit.Disk(blocks=96)
    disk.mount()
    out = Outbox("/d/out", 16384, 64)
    for c in range(1, 6):
        out.append(kind, c, bytes([c]) * 30, 30, 5, c, 5)
    out._close(out._open[kind == ALARM])
    name = "/d/out/" + os.listdir("/d/out")[0]
    return disk, name, read(name)


def whole(out):
    """Counters of what waits; every frame can be read."""
    buf = bytearray(64)
    for i in range(out.depth):
        assert out.read_into(i, buf) == 30 and buf[:30] == bytes([out.counters[i]]) * 30
    return list(out.counters[: out.depth])


def test_one_wrong_bit_in_the_head_of_a_record_loses_nothing():
    disk, name, data = five()
    for record in (0, 2, 4):
        for bit in range(128):
            rotten = bytearray(data)
            rotten[record * SIZE + (bit >> 3)] ^= 1 << (bit & 7)
            write(name, rotten)
            lost = []
            for _ in range(2):
                out = start(lost)
                assert whole(out) == [1, 2, 3, 4, 5] and not lost, (record, bit, whole(out), lost)
                assert out.sealed_rows(record + 1) == 5
    out = None
    disk.umount()


def test_a_record_that_is_lost_is_counted_once_and_takes_no_other_with_it():
    disk, name, data = five()
    for record in (0, 2, 4):
        for bit in range(8 * 16, 8 * SIZE, 5):
            rotten = bytearray(data)
            rotten[record * SIZE + (bit >> 3)] ^= 1 << (bit & 7)
            write(name, rotten)
            lost = []
            for _ in range(3):
                out = start(lost)
                assert whole(out) == [c for c in range(1, 6) if c != record + 1], (record, bit, whole(out))
                assert lost == [5], (record, bit, lost)
            out.append(REPORT, 9, bytes([9]) * 30, 30, 5)
            out = None
            assert whole(start(lost))[-1] == 9 and lost == [5]
            clear(disk)
    out = None
    disk.umount()


def test_a_head_beyond_repair_hides_none_of_what_stands_behind_it():
    disk, name, data = five()
    for record in (0, 2, 4):
        for bit in range(0, 120, 3):
            rotten = bytearray(data)
            for b in (bit, (bit + 17) % 120):
                rotten[record * SIZE + (b >> 3)] ^= 1 << (b & 7)
            write(name, rotten)
            lost = []
            for _ in range(3):
                out = start(lost)
                assert whole(out) == [c for c in range(1, 6) if c != record + 1], (record, bit, whole(out))
                assert len(lost) == 1 or record == 4 and not lost, (record, bit, lost)
    rotten = bytearray(data)
    rotten[SIZE : 3 * SIZE] = bytes(2 * SIZE)
    write(name, rotten)
    assert whole(start([])) == [1, 4, 5]
    out = None
    disk.umount()


def test_a_segment_of_which_nothing_is_left_goes_and_is_counted():
    disk, name, data = five()
    rotten = bytearray(data)
    for record in range(5):
        rotten[record * SIZE + 20] ^= 9
    write(name, rotten)
    lost = []
    for _ in range(3):
        assert not start(lost).depth and lost == [25] and not os.listdir("/d/out"), lost
    disk.umount()


def test_alarms_that_rot_are_no_rows():
    disk, name, data = five(ALARM)
    for at in (20, SIZE - 1):
        rotten = bytearray(data)
        rotten[at] ^= 1
        write(name, rotten)
        lost = []
        assert whole(start(lost)) == [2, 3, 4, 5] and not lost
    disk.umount()


def test_what_the_power_cut_short_is_no_damage_and_nothing_is_written_behind_it():
    disk, name, data = five()
    for n in range(4 * SIZE + 1, 5 * SIZE):
        write(name, data[:n])
        lost = []
        for _ in range(2):
            out = start(lost)
            assert whole(out) == [1, 2, 3, 4] and not lost and not out.rotten, (n, lost)
        out.append(REPORT, 9, bytes([9]) * 30, 30, 5)
        out = None
        assert read(name) == data[:n]
        clear(disk)
    disk.umount()


def test_rows_of_a_frame_that_rotted_while_they_are_still_staged_come_again_and_are_not_lost():
    disk = kit.Disk()
    disk.mount()
    nvs = kit.Store(ceiling=0)
    rig = Rig(nvs)
    rig.fill(7)
    staged = read("/d/stage/1")
    rig.batcher.close()
    rig.outbox._close(rig.outbox._open[0])
    data = bytearray(read("/d/out/1.b"))
    data[25] ^= 1
    rig = None
    for more in (False, True):  # its segment lives on or does not
        clear(disk)
        write("/d/out/1.b", data)
        write("/d/stage/1", staged)
        if more:
            os.remove("/d/out/1.b")
            out = Outbox("/d/out", 16384, 64)
            out.append(0, 999, bytes(30), 30)  # a status
            out._close(out._open[0])
            out = None
            (name,) = os.listdir("/d/out")
            tail = read("/d/out/" + name)
            clear(disk)
            write("/d/out/1.b", bytes(data) + tail)
        for _ in range(3):
            rig = Rig(nvs)
            i = rig.outbox.index_of(999)
            if i >= 0:
                rig.outbox._move(rig.outbox.depth - 1, i)
                rig.outbox.depth -= 1
            assert rig.seen()[0] == list(range(7)) and not rig.lost, (more, rig.seen()[0], rig.lost)
            rig = None
    disk.umount()


def test_one_wrong_bit_in_the_head_of_a_staging_file_loses_no_row():
    disk = kit.Disk(blocks=96)
    disk.mount()
    nvs = kit.Store(ceiling=0)
    for start, name in ((T0, "/d/stage/1"), (60, "/d/stage/1.1")):
        for bit in range(0, 8 * 16):
            if bit:
                clear(disk)
            rig = Rig(nvs)
            rig.batcher._staging.stage = 1
            rig.fill(4, start)
            rig.batcher._staging.park()
            rig = None
            data = bytearray(read(name))
            data[bit >> 3] ^= 1 << (bit & 7)
            write(name, data)
            rig = Rig(nvs, 2)
            rig.batcher.date(T0 + 9000)
            assert rig.seen()[0] == [0, 1, 2, 3] and not rig.lost and not os.listdir("/d/stage"), (bit, rig.lost)
            rig = None
        clear(disk)
    disk.umount()


def test_rows_behind_a_head_beyond_repair_are_counted_once():
    disk = kit.Disk()
    disk.mount()
    nvs = kit.Store(ceiling=0)
    for start, name in ((T0, "/d/stage/1"), (60, "/d/stage/1.1")):
        for forget in (False, True):
            rig = Rig(nvs)
            rig.batcher._staging.stage = 1
            rig.fill(4, start)
            rig.batcher._staging.park()
            data = bytearray(read(name))
            data[0] ^= 3
            data[9] ^= 3
            rig = None
            disk.mount()
            write(name, data)
            rig = Rig(nvs, 2)
            if forget and start < T0:
                borrow("mote.dating", "forget_oldest", rig.batcher)
            rig.batcher.date(T0 + 9000)
            assert rig.lost == [4] and not rig.seen()[0] and not os.listdir("/d/stage"), (name, rig.lost)
            assert not rig.batcher.parked and not Rig(nvs).lost
            rig = None
            disk.mount()
            write(name, data[:13])
            rig = Rig(nvs, 2)
            rig.batcher.date(T0 + 9000)
            assert not rig.lost and not os.listdir("/d/stage"), "cut while its head was written: no row"
    rig = None
    disk.umount()


def test_a_staged_row_that_rotted_is_counted_once_wherever_the_power_goes():
    disk = kit.Disk()
    disk.mount()
    nvs = kit.Store(ceiling=0)
    rig = Rig(nvs)
    rig.fill(7)
    rig.batcher._staging.park()
    rig = None
    data = read("/d/stage/1")
    for row in range(7):
        rotten = bytearray(data)
        rotten[16 + 20 * row + 3] ^= 4
        write("/d/stage/1", rotten)
        rig = Rig(nvs)
        left = [i for i in range(7) if i != row]
        assert rig.seen()[0] == left and rig.lost == [1], (row, rig.lost)
        rig = None
        write("/d/stage/1", rotten)  # as after a cut before it was removed
        rig = Rig(nvs)
        assert rig.seen()[0] == left and not rig.lost, (row, rig.lost)
        rig = None
        write("/d/stage/1", data)  # rotten when it was sealed, or rotten since: no row twice, none left out
        rig = Rig(nvs)
        assert rig.seen()[0] == left and not rig.lost
        rig = None
        clear(disk)
    disk.umount()

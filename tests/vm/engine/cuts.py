"""G1 on the node: the power goes at every single flash operation, and no row that append() took is lost or doubled."""

import nodekit as kit
from cryptolib import aes
from mote import borrow
from mote.batcher import Batcher
from mote.counter import Counter
from mote.outbox import Outbox
from mote.sealer import Sealer
from mote.staging import Staging
from mote.twice import Twice
from motewire import messages
from motewire.frame import ALARM

IDS = (4, 5, 6)
T0 = 757442400  # an instant the node may believe in


class Rig:
    """The storing half of a node on the flash at /d."""

    def __init__(self, nvs, max_frame=51, closed=lambda: None):
        self.sealer = Sealer(
            aes(kit.KEY, 1), kit.NODE, 0, Counter(Twice(nvs, "ceiling", "/d/ceiling.bin", b"mark")), max_frame
        )
        self.outbox = Outbox("/d/out", 64 * 1024, 64)
        self.batcher = Batcher(
            IDS, None, 60, 600, 12, self.sealer, self.outbox, Staging("/d/stage", IDS, None, 60), closed
        )
        self.taken = self.batcher.recover()

    def deliver(self, gateway):
        """Every frame at hand reaches the gateway."""
        buf = bytearray(256)
        for i in range(self.outbox.depth):
            n = self.outbox.read_into(i, buf)
            gateway.take(bytes(buf[:n]))

    def alarm(self, t):
        at = self.sealer.begin(ALARM)
        n = self.sealer.finish(messages.put_alarm(self.sealer.buf, at, 2, t, 6, 200, 180))
        self.outbox.append(ALARM, self.sealer.counter, self.sealer.buf, n)


def value(t, c):
    return (t * 7919 + c * 104729) % 900


def play(nvs, gateway, persisted, start=T0, rows=26):
    """A while in the life of a node: rows, batches that fill up, an alarm, deliveries and acks. persisted: what append() took."""
    rig = Rig(nvs)
    for i in range(rows):
        t = start + 60 * i
        rig.batcher.append(t, [value(t, c) for c in range(3)], 7)
        persisted.append(t)
        if i == 9:
            rig.alarm(t)
        if i in (13, 20):
            rig.deliver(gateway)
            rig.outbox.ack(messages.Ack({1: max(gateway.frames) + 1}))
    return rig


def judge(gateway, persisted, cut):
    rows = gateway.rows()
    times = [t for t, _ in rows]
    assert len(set(times)) == len(times), ("doubled", cut, sorted(times))
    missing = [t for t in persisted if t not in times]
    assert not missing, ("lost", cut, missing)
    for t, v in rows:
        assert v == {IDS[c]: value(t, c) for c in range(3)}, (cut, t, v)


def every_cut(tear, again=False):
    disk = kit.Disk()
    factory = bytes(disk.data)
    disk.mount()
    nvs = kit.Store(ceiling=0)
    whole = kit.Gateway()
    play(nvs, whole, [])
    total = disk.flash.ops
    assert total > 100, total
    done = 0
    for cut in range(total):
        disk.umount()
        disk.data[:] = factory
        disk.mount()
        nvs, gateway, persisted = kit.Store(ceiling=0), kit.Gateway(), []
        disk.flash.budget, disk.flash.tear = cut, tear
        try:
            play(nvs, gateway, persisted)
        except kit.Cut:
            done += 1
        disk.mount()
        rig = Rig(nvs)
        if again:  # and once more while taking up what was left
            disk.flash.budget = 3
            try:
                rig.batcher.append(T0 - 6000, [value(T0 - 6000, c) for c in range(3)], 7)
                persisted.append(T0 - 6000)
            except kit.Cut:
                pass
            rig = None
            disk.mount()
            rig = Rig(nvs)
        rig.deliver(gateway)
        judge(gateway, persisted, cut)
        rig = None
    disk.umount()
    print("cut points", done, "of", total)
    assert done >= total * 9 // 10


def test_no_row_is_lost_or_doubled_when_the_power_goes_before_a_flash_operation():
    every_cut(False)


def test_no_row_is_lost_or_doubled_when_the_power_tears_a_flash_write():
    every_cut(True)


def test_a_second_cut_right_after_the_first_changes_nothing():
    every_cut(False, True)


def test_recovery_that_is_cut_itself_loses_and_doubles_nothing():
    disk = kit.Disk()
    disk.mount()
    nvs, gateway, persisted = kit.Store(ceiling=0), kit.Gateway(), []
    rig = Rig(nvs, max_frame=222)
    for i in range(9):
        t = T0 + 60 * i
        rig.batcher.append(t, [value(t, c) for c in range(3)], 7)
        persisted.append(t)
    rig = None
    image = bytes(disk.data)
    kept = dict(nvs.values)
    cut = 0
    while True:
        disk.umount()
        disk.data[:] = image
        disk.mount()
        nvs.values, gateway = dict(kept), kit.Gateway()
        disk.flash.budget = cut
        try:
            Rig(nvs, max_frame=51)  # the frames became smaller: the rows need several
            finished = True
        except kit.Cut:
            finished = False
        disk.mount()
        rig = Rig(nvs, max_frame=51)
        rig.deliver(gateway)
        judge(gateway, persisted, cut)
        rig = None
        assert len(gateway.frames) > 1
        if finished:
            break
        cut += 1
    disk.umount()
    print("cut points", cut)
    assert cut > 8


def test_an_ack_that_is_cut_anywhere_leaves_frames_that_are_whole():
    disk = kit.Disk()
    disk.mount()
    nvs, gateway, persisted = kit.Store(ceiling=0), kit.Gateway(), []
    play(nvs, gateway, persisted)
    Rig(nvs)  # takes up the open batch
    image = bytes(disk.data)
    for cut in range(40):
        disk.umount()
        disk.data[:] = image
        disk.mount()
        rig = Rig(nvs)
        rig.deliver(gateway)
        disk.flash.budget = cut
        try:
            rig.outbox.ack(messages.Ack({1: max(gateway.frames) + 1}))
        except kit.Cut:
            pass
        rig = None
        disk.mount()
        Rig(nvs).deliver(gateway)  # Gateway.take() refuses a counter with another plaintext
        judge(gateway, persisted, cut)
    disk.umount()


def test_rows_staged_when_the_counter_was_lost_wait_for_a_fresh_one_and_come_out():
    from mote.errors import NeedsKey

    disk = kit.Disk()
    disk.mount()
    gateway, persisted = kit.Gateway(), []
    rig = Rig(kit.Store(ceiling=0))
    for t in range(T0 + 60, T0 + 180, 60):
        rig.batcher.append(t, [value(t, c) for c in range(3)], 7)
        persisted.append(t)
    rig = None
    disk.mount()
    for _ in range(3):
        try:
            Rig(kit.Store())
        except NeedsKey:
            pass
        else:
            raise AssertionError("sealed without a counter")
    rig = Rig(kit.Store(ceiling=0))
    assert rig.taken == len(persisted), (rig.taken, rig.outbox.depth)
    rig.deliver(gateway)
    judge(gateway, persisted, "no counter")
    rig = None
    disk.umount()


class Flapping:
    """Alarms of three rules that come and go while now and then somebody hears them. A model of what waits, beside the outbox."""

    def __init__(self):
        self.out = Outbox("/d/out", 64 * 1024, 64)
        self.waits = []  # (counter, tag)
        self.told, self.newest = set(), {}  # counters that the gateway has; of each tag the newest that was stored
        self.dropped = set()  # and that is on flash

    def alarm(self, counter, tag):
        gone = borrow("mote.leaving", "thin", self.out, tag)
        of_tag = [w for w in self.waits if w[1] == tag]
        self.out.append(ALARM, counter, bytes((counter,)) * 200, 200, tag, 0, counter & 1)
        self.newest[tag] = counter
        self.waits.append((counter, tag))
        if len(of_tag) == 4:
            self.waits.remove(of_tag[-1])
        borrow("mote.leaving", "void", self.out, gone)
        if len(of_tag) == 4:
            self.dropped.add(of_tag[-1][0])

    def ack(self, counters):
        self.told.update(counters)
        self.waits = [w for w in self.waits if w[0] not in counters]
        for c in counters:
            self.out.ack(messages.Ack({1: c + 1, 8: c}))

    def play(self):
        for c in range(1, 60):
            self.alarm(c, (128, 192, 128, 129)[c & 3])
            assert list(self.out.counters[: self.out.depth]) == [w[0] for w in self.waits]
            if c in (17, 43):
                self.ack({w[0] for w in self.waits[1:7]})

    def judge(self, cut):
        """After the next start."""
        out = Outbox("/d/out", 64 * 1024, 64)
        found = list(out.counters[: out.depth])
        assert not self.dropped & set(found), ("back", cut, found)
        assert not [w for w in self.waits if w[0] not in found], ("lost", cut, found, self.waits)
        assert not [c for c in self.newest.values() if c not in found and c not in self.told], ("newest", cut, found)
        for tag in (128, 192, 129):
            borrow("mote.leaving", "void", out, borrow("mote.leaving", "thin", out, tag))
            assert sum([out.kinds[i] == ALARM and out.rows[i] == tag for i in range(out.depth)]) < 4


def test_what_was_dropped_stays_dropped_wherever_the_power_goes_and_the_newest_alarm_is_never_missing():
    disk = kit.Disk()
    factory = bytes(disk.data)
    disk.mount()
    rig = Flapping()
    rig.play()
    total = getattr(disk.flash, "ops", 0)
    assert len(rig.dropped) > 20 and total > 300, (rig.dropped, total)
    rig.judge("none")
    rig = None
    for cut in range(0, total, 7):
        disk.umount()
        disk.data[:] = factory
        disk.mount()
        rig = Flapping()
        disk.flash.budget, disk.flash.tear = cut, bool(cut & 1)
        try:
            rig.play()
        except kit.Cut:
            pass
        rig.out = None
        disk.mount()
        rig.judge(cut)
        rig = None
    disk.umount()


def test_rows_of_a_frame_that_was_dropped_are_lost_once_not_at_every_start():
    disk = kit.Disk()
    disk.mount()
    lost = []
    out = Outbox("/d/out", 64 * 1024, 64, lost.append)
    for c in range(1, 6):
        out.append(0, c, bytes(50), 50, 5, c, 5)
    out.drop(1)
    for _ in range(3):
        out = Outbox("/d/out", 64 * 1024, 64, lost.append)
        assert list(out.counters[: out.depth]) == [1, 3, 4, 5] and lost == [5], lost
        assert not out.rotten and out.last_stage == 5 and out.sealed_rows(2) == 5, "its rows are not sealed again"
    out.append(0, 6, bytes(50), 50, 5)
    out = Outbox("/d/out", 64 * 1024, 64)
    assert list(out.counters[: out.depth]) == [1, 3, 4, 5, 6]
    out = None
    disk.umount()

"""G2: a (key, counter) pair never seals two plaintexts, whatever happens to power, NVS and flash."""

import os
import random

import nodekit as kit
from cryptolib import aes
from mote.counter import BLOCK, Counter
from mote.errors import NeedsKey
from mote.identity import Identity
from mote.sealer import Sealer
from mote.twice import Twice
from motewire import frame

used = {}


class Watched(Sealer):
    """Logs every (counter, plaintext) pair at the moment of sealing."""

    def finish(self, end):
        plain = bytes(self.buf[self._head : end])
        assert used.setdefault(self.counter, plain) == plain, "counter %d sealed two plaintexts" % self.counter
        return super().finish(end)


def boot(nvs):
    return Watched(aes(kit.KEY, 1), kit.NODE, 0, Counter(Twice(nvs, "ceiling", "/d/ceiling.bin", b"mark")), 222)


def seal_some(sealer, n, salt):
    for i in range(n):
        at = sealer.begin(frame.REPORT)
        sealer.buf[at] = i & 255
        sealer.buf[at + 1] = salt >> 8 & 255
        sealer.buf[at + 2] = salt & 255
        sealer.finish(at + 3)


def test_a_counter_is_never_used_twice_over_resets_at_any_place_of_a_block():
    used.clear()
    disk = kit.Disk(blocks=20)
    disk.mount()
    nvs = kit.Store(ceiling=0)
    for n in (1, 63, 64, 65, 0, 2, 128, 1, 1, 1):
        seal_some(boot(nvs), n, len(used))
    disk.umount()
    assert len(used) == 326


def test_a_counter_is_never_used_twice_when_the_power_goes_anywhere_in_a_reservation():
    used.clear()
    disk = kit.Disk(blocks=20)
    disk.mount()
    nvs = kit.Store(ceiling=0)
    rnd = random.getrandbits
    cuts = 0
    for turn in range(80):
        disk.mount()
        sealer = boot(nvs)
        disk.flash.budget = rnd(3)
        disk.flash.tear = bool(rnd(1))
        nvs.budget = rnd(2)
        try:
            seal_some(sealer, 1 + rnd(5), turn)
        except kit.Cut:
            cuts += 1
        nvs.budget = -1
    disk.umount()
    assert cuts > 40, cuts


def test_erased_nvs_costs_counters_but_never_repeats_one():
    used.clear()
    disk = kit.Disk(blocks=20)
    disk.mount()
    nvs = kit.Store(ceiling=0)
    seal_some(boot(nvs), 100, 1)
    nvs.values.clear()
    sealer = boot(nvs)
    assert sealer._counter.next > 128
    seal_some(sealer, 100, 2)
    disk.umount()


def test_a_lost_file_costs_counters_but_never_repeats_one():
    import os

    used.clear()
    disk = kit.Disk(blocks=20)
    disk.mount()
    nvs = kit.Store(ceiling=0)
    seal_some(boot(nvs), 70, 1)
    os.remove("/d/ceiling.bin")
    seal_some(boot(nvs), 70, 2)
    with open("/d/ceiling.bin", "wb") as f:
        f.write(b"mark\0\0\0\0\0\0\0\0")
    seal_some(boot(nvs), 70, 3)
    disk.umount()


def test_without_both_copies_the_node_refuses_and_says_that_it_needs_a_key():
    disk = kit.Disk(blocks=20)
    disk.mount()
    nvs = kit.Store()
    try:
        boot(nvs)
    except NeedsKey as e:
        assert e.reason == "needs_key"
    else:
        raise AssertionError
    disk.umount()


def test_a_copy_of_another_keys_life_is_not_believed():
    disk = kit.Disk(blocks=20)
    disk.mount()
    Twice(kit.Store(), "ceiling", "/d/ceiling.bin", b"old!").put(6400)
    assert Twice(kit.Store(), "ceiling", "/d/ceiling.bin", b"mark").get() is None
    disk.umount()


def test_the_block_is_reserved_before_its_first_counter_is_used():
    disk = kit.Disk(blocks=20)
    disk.mount()
    nvs = kit.Store(ceiling=0)
    counter = Counter(Twice(nvs, "ceiling", "/d/ceiling.bin", b"mark"))
    for _ in range(3 * BLOCK):
        c = counter.take()
        assert nvs.get("ceiling") > c
    disk.umount()


def test_the_key_survives_erased_nvs_and_is_lost_only_with_both_copies():
    import os

    disk = kit.Disk(blocks=20)
    disk.mount()
    nvs = kit.Store(key=kit.KEY, epoch=5)
    first = Identity(nvs, "/d/identity")
    nvs.values.clear()
    again = Identity(nvs, "/d/identity")
    assert again.key == kit.KEY and again.epoch == 5 and again.mark == first.mark
    nvs.values.clear()
    os.remove("/d/identity")
    try:
        Identity(nvs, "/d/identity")
    except NeedsKey:
        pass
    else:
        raise AssertionError
    disk.umount()


def test_the_whole_counter_travels_in_the_first_frames_and_every_64th():
    disk = kit.Disk(blocks=20)
    disk.mount()
    sealer = boot(kit.Store(ceiling=0))
    long = []
    used.clear()
    for i in range(70):
        at = sealer.begin(frame.REPORT)
        sealer.buf[at] = i
        n = sealer.finish(at + 1)
        kind, node, counter, is_long, slot, end = frame.parse_header(bytes(sealer.buf[:n]))
        if is_long:
            long.append(counter)
    assert long == [1, 2, 3, 64], long
    disk.umount()


NEXT = bytes(range(50, 66))


class Keyed(Watched):
    """Logs by (key, epoch, counter)."""

    def __init__(self, identity, nvs):
        counter = Counter(Twice(nvs, "ceiling", "/d/ceiling.bin", identity.mark))
        super().__init__(aes(identity.key, 1), kit.NODE, identity.epoch, counter, 222)
        self.key = identity.key

    def finish(self, end):
        plain = bytes(self.buf[self._head : end])
        name = (self.key, self._epoch, self.counter)
        assert used.setdefault(name, plain) == plain, "%s sealed two plaintexts" % repr(name[1:])
        return Sealer.finish(self, end)


class Metered(kit.Store):
    """NVS whose commits draw on the same budget as the flash: one line of operations to cut."""

    def __init__(self, disk, **values):
        super().__init__(**values)
        self.disk = disk

    def put(self, key, value):
        if self.disk.flash._cut():
            raise kit.Cut
        self.values[key] = value

    put_blob = put


def change(disk, nvs, salt):
    """A boot that is offered the next key, seals, changes, seals again."""
    identity = Identity(nvs, "/d/identity")
    seal_some(Keyed(identity, nvs), 3, salt)
    identity.offer(NEXT, 1)
    if identity.pending is not None:
        seal_some(Keyed(identity, nvs), 2, salt + 1)
        identity.change()
        assert identity.pending is None
    seal_some(Keyed(identity, nvs), 3, salt + 2)


def every_cut_of_a_change(tear):
    disk = kit.Disk(blocks=24)
    factory = [bytes(disk.data[i : i + 512]) for i in range(0, len(disk.data), 512)]  # no second stretch of the heap
    cut = changed = 0
    finished = False
    while not finished:
        disk.umount()
        for i in range(len(factory)):
            disk.data[512 * i : 512 * i + 512] = factory[i]
        disk.mount()
        used.clear()
        nvs = Metered(disk, key=kit.KEY, epoch=0, ceiling=0)
        disk.flash.budget, disk.flash.tear = cut, tear
        try:
            change(disk, nvs, 10)
            finished = True
        except kit.Cut:
            pass
        for again in (4, 9, -1):  # and cut in the boots that follow, then let be
            disk.mount()
            disk.flash.budget, disk.flash.tear = again, tear
            try:
                before = Identity(nvs, "/d/identity")
                changed += before.epoch
                assert (before.key, before.epoch) in ((kit.KEY, 0), (NEXT, 1))
                seal_some(Keyed(before, nvs), 1, 1000 + 10 * cut + again)
                if again < 0:
                    change(disk, nvs, 2000 + 10 * cut)
                    after = Identity(nvs, "/d/identity")
                    assert after.key == NEXT and after.epoch == 1 and after.pending is None
                    assert nvs.values["key"] == NEXT and nvs.values["epoch"] == 1
            except kit.Cut:
                pass
        cut += 1
    disk.umount()
    print("cut points", cut)
    assert cut > 30 and changed > 10, (cut, changed)


def test_a_change_of_keys_cut_anywhere_neither_loses_the_node_nor_repeats_a_counter():
    every_cut_of_a_change(False)


def test_a_change_of_keys_torn_anywhere_neither_loses_the_node_nor_repeats_a_counter():
    every_cut_of_a_change(True)


def test_a_new_key_counts_from_one_both_ways_and_an_old_one_never_comes_back():
    used.clear()
    disk = kit.Disk(blocks=24)
    disk.mount()
    nvs = kit.Store(key=kit.KEY, epoch=0, ceiling=0, down=77)
    identity = Identity(nvs, "/d/identity")
    seal_some(Keyed(identity, nvs), 200, 1)
    assert not identity.offer(NEXT, 0) and identity.pending is None
    assert identity.offer(NEXT, 1) and not identity.offer(kit.KEY, 1)
    os.remove("/d/identity.next")
    assert Identity(nvs, "/d/identity").pending == (NEXT, 1), "from NVS"
    identity.change()
    assert Counter(Twice(nvs, "ceiling", "/d/ceiling.bin", identity.mark)).take() == 1
    assert Twice(nvs, "down", "/d/down.bin", identity.mark).get() == 0
    nvs.values["key"], nvs.values["epoch"], nvs.values["ceiling"] = kit.KEY, 0, 0
    try:
        Identity(nvs, "/d/identity")
    except NeedsKey:
        pass
    else:
        raise AssertionError("a key that was given up is believed")
    disk.umount()

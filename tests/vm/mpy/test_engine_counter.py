"""G2: a (key, counter) pair never seals two plaintexts, whatever happens to power, NVS and flash."""

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

"""A node that does not know the time: rows are taken from the first minute on, and dated when somebody tells it."""

import os

import nodekit as kit
import sim_clock
from cryptolib import aes
from mote.batcher import Batcher
from mote.counter import Counter
from mote.outbox import Outbox
from mote.sampler import Sensor
from mote.sealer import Sealer
from mote.staging import Staging
from mote.twice import Twice

FIRST = 757382400
IDS = (4, 5, 6)


def sensors():
    def value():
        return 100 + sim_clock.now // 60000000

    return [
        Sensor("dust", kit.Scripted(("pm1", "pm25", "pm10"), value)),
        Sensor("climate", kit.Scripted(("temperature", "humidity", "pressure"), value)),
    ]


class Late(kit.Gateway):
    """A gateway that nobody hears until `from_us`; it may tell the time or not."""

    def __init__(self, tells=True):
        super().__init__()
        self.reports = []  # (unix at receipt, payload)
        if tells:
            self.clock = lambda: kit.UNIX + sim_clock.now // 1000000

    def take(self, frame):
        kind, counter, payload = super().take(frame)
        if kind == 0 and self.copies[counter] == 1:
            self.reports.append((kit.UNIX + sim_clock.now // 1000000, payload))
        return kind, counter, payload


async def test_rows_from_before_the_time_was_known_get_their_right_time():
    kit.clean()
    began = kit.UNIX + sim_clock.now // 1000000
    gw = Late()
    link = kit.Link(gw)
    link.quiet = True
    node = kit.make_node(link, sensors())
    await kit.run_for(node, 2 * 3600)
    assert not node.clock.quality and not gw.frames and node.batcher.parked, node.batcher.parked
    again = kit.make_node(link, sensors())  # a reset without a power cut: the clock of the board runs on
    link.quiet = False
    again.clock.now()
    await kit.run_for(again, 2 * 3600)
    assert again.clock.quality == 2 and not again.batcher.parked
    rows = sorted(gw.rows())
    times = [t for t, _ in rows]
    assert len(times) == len(set(times))
    first = began - 946684800
    assert times[0] - first <= 600 and times[-1] - first >= 4 * 3600 - 4000, (first, times[0], times[-1])
    gaps = [times[i + 1] - times[i] for i in range(len(times) - 1)]
    assert max(gaps) <= 900 and len(rows) >= 33, gaps
    for t, v in rows:
        truth = 100 + (t - first) // 60 - 2
        assert -2 <= v[4] - truth <= 2, (t - first, v[4], truth)
    assert all(len(p) == 5 for _, p in gw.reports), "nothing is estimated"


async def test_a_gateway_that_never_tells_the_time_gets_ages_that_are_marked():
    kit.clean()
    began = kit.UNIX + sim_clock.now // 1000000
    gw = Late(tells=False)
    node = kit.make_node(kit.Link(gw), sensors(), health_s=3600)
    await kit.run_for(node, 6 * 3600)
    assert not node.clock.quality and len(gw.reports) >= 4, len(gw.reports)
    seen = []
    for at, report in gw.reports:
        assert report[1] < 0 and report[5] == {1: 1}, report
        first = at + 1 + report[1]
        assert abs((first - began) % 300 - 0) <= 40 or abs((first - began) % 300 - 300) <= 40, (first - began) % 300
        seen.append(first)
    assert seen == sorted(seen)


class Thrifty(Late):
    """Tells the time as the gateway does: to a status, or to a frame with the whole counter."""

    def take(self, frame):
        from motewire.frame import STATUS, parse_header

        kind, _, _, is_long, _, _ = parse_header(frame)
        asks = kind == STATUS or is_long
        self.clock = (lambda: kit.UNIX + sim_clock.now // 1000000) if asks else None
        return super().take(frame)


async def test_an_answer_to_a_frame_of_before_the_power_cut_dates_no_rows_by_their_age():
    import machine

    kit.clean()
    kit.known_time()
    gw = Thrifty()
    link = kit.Link(gw)
    node = kit.make_node(link, sensors(), alarms=[{"q": "pm10", "above": 99}])
    await kit.run_for(node, 4 * 3600)
    link.quiet = True
    node.raise_alarm(2, node.clock.now(), 6, 150, 99, 128)
    machine.fill_rtc(b"")
    sim_clock.rtc_off = -sim_clock.now
    node = kit.make_node(link, sensors(), alarms=[{"q": "pm10", "above": 9999}])
    await kit.run_for(node, 4 * 3600)
    assert not node.clock.quality and node.batcher.parked
    link.quiet = False
    for _ in range(2):  # alarms overtake the hello
        node.raise_alarm(2, node.clock.now(), 6, 150, 99, 128)
    await kit.run_for(node, 2 * 3600)
    late = [r for at, r in gw.reports if r[1] < 0]
    assert node.clock.quality == 2 and not late, late


class Rig:
    def __init__(self, nvs, cycle):
        self.sealer = Sealer(
            aes(kit.KEY, 1), kit.NODE, 0, Counter(Twice(nvs, "ceiling", "/d/ceiling.bin", b"mark")), 222
        )
        self.outbox = Outbox("/d/out", 64 * 1024, 64)
        self.lost = 0
        self.batcher = Batcher(
            IDS, None, 60, 600, 12, self.sealer, self.outbox,
            Staging("/d/stage", IDS, None, 60, cycle), lambda: None, self.count,
        )  # fmt: skip
        self.batcher.recover()

    def count(self, rows):
        self.lost += rows

    def rows(self, gateway):
        buf = bytearray(256)
        for i in range(self.outbox.depth):
            n = self.outbox.read_into(i, buf)
            gateway.take(bytes(buf[:n]))
        return gateway


def fill(rig, count, start=60):
    for i in range(count):
        t = start + 60 * i
        rig.batcher.append(t, [t % 777, 2, 3], 7)
    rig.batcher.close()


def test_power_ons_that_never_learnt_the_time_lie_one_after_the_other_and_are_marked():
    disk = kit.Disk()
    disk.mount()
    nvs = kit.Store(ceiling=0)
    for cycle in (1, 2):
        fill(Rig(nvs, cycle), 5)
        disk.mount()
    rig = Rig(nvs, 3)
    fill(rig, 4)
    born = FIRST + 5000000
    rig.batcher.date(born)
    gateway = rig.rows(kit.Gateway())
    reports = gateway.frames_of(0)
    starts = [r[1] - 946684800 for r in sorted(reports, key=lambda r: r[1])]
    assert starts == [born - 301 - 301 + 60, born - 301 + 60, born + 60], starts
    assert [len(r) for r in sorted(reports, key=lambda r: r[1])] == [6, 6, 5]
    assert not rig.batcher.parked
    rig = None
    disk.umount()


def test_a_file_that_was_cut_before_its_first_row_does_not_date_the_rows_before_it():
    disk = kit.Disk()
    disk.mount()
    nvs = kit.Store(ceiling=0)
    rig = Rig(nvs, 1)
    fill(rig, 5)
    rig.batcher.append(360, [1, 2, 3], 7)
    disk.mount()
    newest = max([int(name.split(".")[0]) for name in os.listdir("/d/stage")])
    path = f"/d/stage/{newest}.1"
    with open(path, "rb") as f:
        whole = f.read()
    with open(path, "wb") as f:
        f.write(whole[:-20])
    rig = Rig(nvs, 2)
    born = FIRST + 5000000
    rig.batcher.date(born)
    (report,) = rig.rows(kit.Gateway()).frames_of(0)
    assert report[1] - 946684800 == born - 301 + 60, (
        "a row that was lost counted, and one that was kept came after the power-on"
    )
    assert not rig.batcher.parked
    rig = None
    disk.umount()


def test_dating_that_is_cut_at_any_flash_operation_loses_and_doubles_nothing():
    disk = kit.Disk()
    disk.mount()
    nvs = kit.Store(ceiling=0)
    fill(Rig(nvs, 1), 14)
    disk.mount()
    image, kept = bytes(disk.data), dict(nvs.values)
    cut = 0
    while True:
        disk.umount()
        disk.data[:] = image
        disk.mount()
        nvs.values = dict(kept)
        rig = Rig(nvs, 1)
        disk.flash.budget = cut
        try:
            rig.batcher.date(FIRST + 1000000)
            finished = True
        except kit.Cut:
            finished = False
        rig = None
        disk.mount()
        rig = Rig(nvs, 2)
        rig.batcher.date(FIRST + 2000000)
        rows = [v[4] for _, v in rig.rows(kit.Gateway()).rows()]
        assert sorted(rows) == sorted([(60 + 60 * i) % 777 for i in range(14)]), (cut, rows)
        rig = None
        if finished:
            break
        cut += 1
    disk.umount()
    assert cut >= 8, cut


def test_dating_that_is_cut_keeps_the_rows_of_two_power_ons_in_the_order_they_were_taken():
    disk = kit.Disk()
    disk.mount()
    nvs = kit.Store(ceiling=0)
    fill(Rig(nvs, 1), 7)
    disk.mount()
    fill(Rig(nvs, 2), 7, 480)
    disk.mount()
    image, kept = bytes(disk.data), dict(nvs.values)
    cut = 0
    while True:
        disk.umount()
        disk.data[:] = image
        disk.mount()
        nvs.values = dict(kept)
        rig = Rig(nvs, 2)
        disk.flash.budget = cut
        try:
            rig.batcher.date(FIRST + 1000000)
            finished = True
        except kit.Cut:
            finished = False
        rig = None
        disk.mount()
        rig = Rig(nvs, 3)
        rig.batcher.date(FIRST + 2000000)
        rows = sorted([(t, v[4]) for t, v in rig.rows(kit.Gateway()).rows()])
        taken = [(60 + 60 * i) % 777 for i in range(7)] + [(480 + 60 * i) % 777 for i in range(7)]
        assert [v for _, v in rows] == taken, (cut, rows)
        assert len({t for t, _ in rows}) == len(rows), "each has a time of its own"
        rig = None
        if finished:
            break
        cut += 1
    disk.umount()
    assert cut >= 8, cut


def test_a_node_that_is_never_told_the_time_forgets_the_oldest_and_counts_it():
    disk = kit.Disk(blocks=200)
    disk.mount()
    rig = Rig(kit.Store(ceiling=0), 1)
    for i in range(70):
        fill(rig, 2, 60 + 600 * i)
    assert rig.batcher.parked == 64 and rig.lost == 12, (rig.batcher.parked, rig.lost)
    rig = None
    disk.umount()


async def test_an_alarm_without_time_carries_its_age():
    kit.clean()
    gw = Late(tells=False)
    node = kit.make_node(kit.Link(gw), sensors(), alarms=[{"q": "pm10", "above": 99}])
    await kit.run_for(node, 900)
    alarms = gw.frames_of(1)
    assert alarms and alarms[0][1] < 0 and alarms[0][1] > -30 and alarms[0][-1] == {1: 1}, alarms

# ruff: noqa: B905, ASYNC230
"""The uplink on a scripted link: lost frames, a gateway that is away, alarms first, downlinks of all kinds (G3)."""

import asyncio

import nodekit as kit
import sim
from cryptolib import aes
from mote.sampler import Sensor
from motewire.codes import DOWN_CONFIG, DOWN_TIME

truth = {}


def dust():
    tick = [0]

    def value():
        tick[0] += 1
        return 100 + tick[0] * 37 % 11

    return Sensor("dust", kit.Scripted(("pm1", "pm25", "pm10"), value))


def watched(node):
    """Log every row that append() took, as the simulator's truth probe does."""
    truth.clear()
    real = node.batcher.append

    def append(t, values, present):
        real(t, values, present)
        truth[t] = {node.ids[c]: values[c] for c in range(len(node.ids)) if present >> c & 1}

    node.batcher.append = append


def delivered_all(gw, node):
    rows = gw.rows()
    times = [t for t, _ in rows]
    assert len(set(times)) == len(times), "doubled"
    got = dict(rows)
    waiting = node.batcher.rows
    lost = [t for t in truth if t not in got]
    assert len(lost) <= waiting, (len(lost), waiting)
    for t in got:
        assert got[t] == truth[t], (t, got[t], truth[t])
    return len(rows)


def build(link, **config):
    kit.clean()
    kit.known_time()
    return kit.make_node(link, [dust()], **config)


async def test_nothing_is_lost_when_a_third_of_all_frames_is():
    gw = kit.Gateway()
    gw.clock = kit.unix_now
    link = kit.Link(gw)
    link.up_loss = link.down_loss = 33
    node = build(link)
    watched(node)
    task = asyncio.create_task(node.run())
    await asyncio.sleep(2 * 86400)
    link.up_loss = link.down_loss = 0
    await asyncio.sleep(6 * 3600)
    assert not task.done()
    n = delivered_all(gw, node)
    assert n > 500, n
    assert node.outbox.depth <= 4
    frames = len(gw.frames)
    copies = len(link.log)
    assert copies < 2.5 * frames, (
        copies,
        frames,
    )  # 9/4 if nothing but a frame's own ack ended it: a third is lost both ways


async def test_a_day_without_a_gateway_is_made_up_for_within_the_hour():
    gw = kit.Gateway()
    gw.clock = kit.unix_now
    link = kit.Link(gw, max_frame=115)
    node = build(link)
    watched(node)
    task = asyncio.create_task(node.run())
    await asyncio.sleep(3 * 3600)
    link.quiet = True
    before = len(link.log)
    await asyncio.sleep(86400)
    tries = len(link.log) - before
    assert tries < 120, tries  # backed off
    waiting = node.outbox.depth
    assert waiting >= 24
    link.quiet = False
    await asyncio.sleep(3600)
    assert not task.done()
    assert node.outbox.depth < 6, node.outbox.depth
    delivered_all(gw, node)


async def test_an_alarm_overtakes_a_backlog():
    gw = kit.Gateway()
    gw.clock = kit.unix_now
    link = kit.Link(gw)
    sensor = dust()
    kit.clean()
    kit.known_time()
    node = kit.make_node(link, [sensor], alarms=[{"q": "pm10", "above": 500, "clear": 300}])
    task = asyncio.create_task(node.run())
    await asyncio.sleep(7200)
    link.quiet = True
    await asyncio.sleep(12 * 3600)
    sensor.driver.value = lambda: 600
    await asyncio.sleep(1800)
    assert node.outbox.depth > 10
    link.quiet = False
    mark = len(link.log)
    await asyncio.sleep(3600)
    first = [k for _, k, c, _ in link.log[mark:] if c > 0]
    assert 1 in first[:2], first[:5]
    alarms = [gw.frames[c][1] for c in gw.frames if gw.frames[c][0] == 1]
    assert len(alarms) == 1, alarms
    sensor.driver.value = lambda: 100
    at = sim.now_us() // 1000
    await asyncio.sleep(120)
    alarms = [(t, c) for t, k, c, _ in link.log if k == 1 and t > at]
    assert alarms and alarms[0][0] - at < 75000, (alarms, at)  # the sample's minute, and a few seconds
    assert not task.done()


async def test_two_alarms_and_a_radio_that_complains_at_once_do_not_keep_each_other_going():
    """Each was sent without a pause because the other one was waited for, and nothing else of the node ran any more."""
    gw = kit.Gateway()
    gw.clock = kit.unix_now
    link = kit.Link(gw)
    node = build(link)
    task = asyncio.create_task(node.run())
    await asyncio.sleep(3600)
    tries = []
    send = link.send

    async def complain(buf, n, kind, listen):
        tries.append(kind)
        if len(tries) > 500:
            raise RuntimeError("without end")
        raise OSError(5)

    link.send = complain
    for q in (4, 5, 6):
        node.raise_alarm(2, node.clock.now(), q, 9, 8)
    await asyncio.sleep(1800)
    assert not task.done() and 3 <= len(tries) < 40, len(tries)
    assert tries[:3] == [1, 1, 1], "each is tried at once"
    link.send = send
    await asyncio.sleep(1800)
    assert len(gw.frames_of(1)) == 3 and not task.done()


async def test_downlinks_that_are_forged_cut_replayed_or_foreign_are_refused_and_counted():
    gw = kit.Gateway()
    gw.clock = kit.unix_now
    node = build(kit.Link(gw))
    task = asyncio.create_task(node.run())
    await asyncio.sleep(3 * 3600)
    down = node.downlink
    depth, quality, t0 = node.outbox.depth, node.clock.quality, node.clock.now()
    good = gw.seal({DOWN_TIME: kit.unix_now() + 84000})
    for cut in range(len(good)):
        assert not down.handle(bytearray(good[:cut]))
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit >> 3] ^= 0x80 >> (bit & 7)
        assert not down.handle(bad)
    assert not down.handle(kit.Gateway(key=bytes(16)).seal({1: 9999}, 500))
    assert not down.handle(gw.seal({1: 9999}, 501, node=0x0108))
    uplink = bytearray(40)
    uplink[0] = 0x40
    assert not down.handle(uplink)
    assert node.clock.now() - t0 < 2 and node.outbox.depth == depth and quality == node.clock.quality
    refused = dict(down.refused)
    assert (
        refused["bad_tag"] > 100 and refused["truncated"] > 5 and refused["foreign"] >= 2 and refused["bad_version"]
    ), refused
    assert down.handle(bytearray(good))
    assert node.clock.now() - t0 > 80000
    assert not down.handle(bytearray(good))  # the very same again
    assert down.refused["replayed"] == refused.get("replayed", 0) + 1
    short = gw.seal({DOWN_TIME: kit.unix_now()}, gw.down, long_counter=False)
    assert not down.handle(short)
    node2_floor = node._keep("down").get()
    assert node2_floor == gw.down + 1, "the floor of a downlink that set the time is stored before it is acted upon"
    assert not task.done()


async def test_a_replay_after_a_power_cut_is_refused_when_it_could_do_harm():
    gw = kit.Gateway()
    gw.clock = kit.unix_now
    node = build(kit.Link(gw))
    task = asyncio.create_task(node.run())
    await asyncio.sleep(600)
    old = gw.seal({DOWN_TIME: kit.unix_now() + 500000})
    assert node.downlink.handle(bytearray(old))
    task.cancel()
    node.sampler.stop()
    for t in node.supervisor._tasks:
        t.cancel()
    await asyncio.sleep(1)
    import machine

    machine.fill_rtc(b"")
    again = kit.make_node(kit.Link(gw), [dust()])
    assert not again.downlink.handle(bytearray(old))
    assert again.clock.quality == 0


async def test_the_interval_changes_without_a_reboot_and_survives_one():
    gw = kit.Gateway()
    gw.clock = kit.unix_now
    link = kit.Link(gw)
    node = build(link)
    watched(node)
    task = asyncio.create_task(node.run())
    await asyncio.sleep(3 * 3600)
    gw.extra = {DOWN_CONFIG: {1: 30, 2: 60, 3: 600}, 99: "later", 98: True}
    await asyncio.sleep(2 * 3600 + 1800)
    rows = gw.rows()
    late = [b[0] - a[0] for a, b in zip(rows, rows[1:])][-10:]
    assert late == [60] * 10, late
    assert node.downlink.unknown >= 2
    delivered_all(gw, node)
    assert not task.done()
    import json

    with open("/config.json") as f:
        kept = json.load(f)
    assert kept["sample_s"] == 30 and kept["row_s"] == 60 and kept["version"] == 1
    with open("/config.good") as f:
        assert json.load(f)["version"] == 1  # proven by an ack since
    gw.extra = {DOWN_CONFIG: {1: 7, 2: 60}}  # does not fit together
    await asyncio.sleep(3 * 3600)
    assert node.config["sample_s"] == 30 and node.downlink.refused["bad_value"] == 1


async def test_a_clock_step_closes_the_batch_and_no_row_is_doubled():
    gw = kit.Gateway()
    gw.clock = kit.unix_now
    link = kit.Link(gw)
    node = build(link)
    watched(node)
    task = asyncio.create_task(node.run())
    await asyncio.sleep(1000)
    for step in (40, -40, 7200, -100):
        await asyncio.sleep(700)
        assert node.downlink.handle(gw.seal({DOWN_TIME: kit.unix_now() + step}))
        assert node.batcher.rows == 0
    await asyncio.sleep(5 * 3600)
    assert not task.done()
    delivered_all(gw, node)


async def test_status_frames_fit_51_bytes_and_come_at_boot_and_every_six_hours():
    gw = kit.Gateway()
    gw.clock = kit.unix_now
    link = kit.Link(gw)
    node = build(link)
    longest = [0]
    send = link.send

    async def watch(buf, n, kind, listen):
        if kind == 2:
            longest[0] = max(longest[0], n)
        await send(buf, n, kind, listen)

    link.send = watch
    with open("/crash.txt", "w") as f:
        f.write("ValueError: something of the boot before | File x")
    task = asyncio.create_task(node.run())
    await asyncio.sleep(13 * 3600)
    from motewire import cbor

    items = {}
    count = 0
    for k, plain in gw.frames.values():
        if k == 2:
            count += 1
            items.update(cbor.read(plain, 0, len(plain)))
    assert longest[0] <= 51, longest
    assert count >= 4, count
    assert items[14].startswith("ValueError: something")
    assert items[3] >= 1 and items[5] == "0.1.0" and items[6] > 1000 and items[8] == 2 and items[11] == []
    assert items[9] == -90 and items[10] == 20
    assert not task.done()


class TwoKeys:
    """A gateway that offers the next key with every answer and takes both keys until the new one has proven itself."""

    def __init__(self):
        self.old, self.new = kit.Gateway(), kit.Gateway(bytes(range(60, 76)), epoch=1)
        self.old.clock = self.new.clock = kit.unix_now
        self.now = self.old
        self.down = 0

    def take(self, frame):
        if frame[0] & 3 == 1:
            self.now = self.new
        assert frame[0] & 3 == self.now.epoch, "a frame of the old key after the new one was proven"
        return self.now.take(frame)

    def ack(self):
        if self.now is self.old:
            self.old.extra = {9: [1, self.new.key]}
        return self.now.ack()

    def rows(self):
        return self.old.rows() + self.new.rows()


async def test_the_key_changes_when_nothing_waits_and_no_row_is_lost_or_doubled_over_it():
    gw = TwoKeys()
    link = kit.Link(gw)
    link.up_loss = link.down_loss = 40
    node = build(link)
    watched(node)
    task = asyncio.create_task(node.run())
    change, depths = node._identity.change, []

    def seen():
        depths.append(node.outbox.depth)
        change()

    node._identity.change = seen
    link.quiet = True
    await asyncio.sleep(3 * 3600)
    assert node.outbox.depth
    assert node.downlink.handle(gw.old.seal({1: 1, 9: [1, gw.new.key]}))
    assert not depths and node._identity.pending is not None and node._identity.epoch == 0, "frames of the old key wait"
    link.quiet = False
    await asyncio.sleep(12 * 3600)
    assert depths == [0], depths
    assert node._identity.epoch == 1 and gw.now is gw.new and min(gw.new.frames) == 1
    assert not node.downlink.handle(gw.old.seal({DOWN_TIME: kit.unix_now() + 84000})), "the old key is over"
    assert not node.downlink.handle(kit.Gateway().seal({9: [2, bytes(16)]}))
    for wrong in ([2, b"short"], [2], "x", [-1, bytes(16)]):
        assert node.downlink.handle(gw.new.seal({9: wrong}))
    assert node.downlink.handle(gw.new.seal({9: [1, bytes(16)]})) and node._identity.pending is None
    assert node.downlink.refused["bad_value"] == 4
    link.up_loss = link.down_loss = 0
    await asyncio.sleep(4 * 3600)
    assert not task.done()
    assert delivered_all(gw, node) > 100
    assert node.downlink.refused["bad_value"] == 4


async def test_frames_of_a_key_that_is_gone_are_dropped_and_counted():
    gw = kit.Gateway()
    gw.clock = kit.unix_now
    link = kit.Link(gw)
    node = build(link)
    task = asyncio.create_task(node.run())
    await asyncio.sleep(2 * 3600)
    link.quiet = True
    await asyncio.sleep(5 * 3600)
    waiting = [node.outbox.counters[i] for i in range(node.outbox.depth)]
    rows = sum(node.outbox.rows[: node.outbox.depth])
    assert len(waiting) > 2 and rows > 10, (waiting, rows)
    node.sealer.rekey(aes(bytes(range(60, 76)), 1), 1, node.sealer._counter)  # as after a fresh provisioning
    mark = len(link.log)
    await asyncio.sleep(7200)
    assert not task.done()
    assert node.rows_lost == rows, (node.rows_lost, rows)
    assert not [c for _, _, c, _ in link.log[mark:] if c in waiting], "none of them may cost time on air"
    assert not set(waiting) & set(node.outbox.counters[: node.outbox.depth])

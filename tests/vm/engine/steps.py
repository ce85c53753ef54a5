"""A gateway whose clock is wrong, and right again: what steps of the node's clock do to rows and events."""

import asyncio
import random

import nodekit as kit
import sim_clock
from mote.sampler import Sensor

EPOCH = 946684800
ROW_S = 300


def true():
    """Unix seconds of a world that began at kit.UNIX."""
    return kit.UNIX + sim_clock.now // 1000000


class Count(kit.Scripted):
    """Every reading is another number, so that a row is known by its values."""

    def __init__(self, channels):
        self.n = 0
        super().__init__(channels, self._next)

    def _next(self):
        self.n += 1
        return 3 * self.n


class Wrong(kit.Gateway):
    """A gateway that is off_s ahead of the truth."""

    def __init__(self):
        super().__init__()
        self.off_s = 0
        self.clock = lambda: true() + self.off_s


class Taken:
    """Rows as the sampler hands them over: [(true t2000, values)]. Over the resets of a life."""

    def __init__(self):
        self.rows = []

    def watch(self, node):
        take = node.take_row

        def record(t, values, present):
            self.rows.append((true() - EPOCH, t, [values[i] for i in range(len(values)) if present >> i & 1]))
            take(t, values, present)

        node.take_row = record


def arrived(gw):
    """[(t2000, [values])] in the order of frames."""
    return [(t, [v[q] for q in sorted(v)]) for t, v in gw.rows()]


def dust():
    return [Sensor("dust", Count(("pm1", "pm25", "pm10")))]


async def fresh(gw, row_s=ROW_S):
    kit.clean()
    kit.known_time(0 + EPOCH)
    sim_clock.rtc_off = -sim_clock.now
    link = kit.Link(gw)
    node = kit.make_node(link, dust(), sample_s=60, row_s=row_s, report_s=1800, health_s=3600)
    return link, node


async def end(task, node):
    """As a reset: nothing of this boot continues."""
    task.cancel()
    node.sampler.stop()
    for t in node.supervisor._tasks:
        t.cancel()
    await asyncio.sleep_ms(0)


async def test_a_gateway_that_was_ahead_and_is_right_again_costs_no_row():
    for ahead in (1200, 3000, 3500, 3700, 20000):
        gw, taken = Wrong(), Taken()
        gw.off_s = ahead
        link, node = await fresh(gw)
        taken.watch(node)
        task = asyncio.create_task(node.run())
        await asyncio.sleep(4 * 3600)
        gw.off_s = 0
        while node.clock.now() > true() - EPOCH + 30:
            await asyncio.sleep(20)
        right = true() - EPOCH
        await asyncio.sleep(5 * 3600)  # an hour for what is still open
        assert not task.done()
        mine = [(t, stamp) for t, stamp, _ in taken.rows if right + ROW_S < t <= right + 4 * 3600]
        assert len(mine) >= 47, (ahead, len(mine))
        assert all(-2 <= t - stamp <= 60 or -60 <= t - stamp <= 2 for t, stamp in mine), (ahead, mine)
        rows = arrived(gw)
        for t, stamp, values in taken.rows:
            if t < right + 4 * 3600:
                assert (stamp, values) in rows, (ahead, stamp, values)
        stamps = [t for t, _ in rows]
        assert len(stamps) == len(set(stamps)), "rows are told apart by their time"
        assert node.sampler.empty_rows <= 1 and node.rows_lost == 0
        await end(task, node)


async def boot(gw, link, taken, power):
    """The node of the next boot, running; power: the power was cut."""
    import machine

    if power:
        machine.fill_rtc(b"")
        sim_clock.rtc_off = -sim_clock.now
    node = kit.make_node(link, dust(), sample_s=60, row_s=ROW_S, report_s=1800, health_s=3600)
    taken.watch(node)
    return node, asyncio.create_task(node.run())


async def test_a_restart_within_a_step_back_repeats_no_time_of_a_row():
    """Rows of a node are told apart by their time, and the gateway keeps one of two."""
    for power in (False, True):
        for when in ("before a row", "after rows", "twice"):
            gw, taken = Wrong(), Taken()
            gw.off_s = 3000
            link, node = await fresh(gw)
            taken.watch(node)
            task = asyncio.create_task(node.run())
            await asyncio.sleep(2 * 3600)
            if when == "before a row":  # the step finds a node that has no row of its own yet
                await end(task, node)
                while (true() - EPOCH) % ROW_S != 20:
                    await asyncio.sleep(1)
                node, task = await boot(gw, link, taken, False)
                await asyncio.sleep(10)
            gw.off_s = 0
            assert node.downlink.handle(gw.seal({3: true()}))
            for _ in range(2 if when == "twice" else 1):
                await asyncio.sleep(700)
                await end(task, node)
                node, task = await boot(gw, link, taken, power)
            await asyncio.sleep(3 * 3600)
            assert not task.done()
            await end(task, node)
            stamps = sorted([t for t, _ in arrived(gw)])
            twice = [t for t in stamps if stamps.count(t) > 1]
            assert not twice, (power, when, twice)
            assert len(stamps) >= 5 * 3600 // ROW_S - 7, (power, when, len(stamps))
            late = [(t, stamp) for t, stamp, _ in taken.rows[-20:] if abs(t - stamp) > 62]
            assert not late, (power, when, late)
            # an hour behind the highest time there has been the rows lie on the grid again
            assert all(stamp % ROW_S == 0 for _, stamp, _ in taken.rows[-5:]), (power, when, taken.rows[-5:])


async def test_a_reset_while_the_clock_is_slewed_back_repeats_no_row():
    for error in (-20, -15, -8):
        gw, taken = Wrong(), Taken()
        link, node = await fresh(gw)
        taken.watch(node)
        task = asyncio.create_task(node.run())
        await asyncio.sleep(1800)
        while node.clock.now() % ROW_S != ROW_S - 2:
            await asyncio.sleep_ms(100)
        count = len(taken.rows)
        gw.off_s += error
        assert node.downlink.handle(gw.seal({3: true() + gw.off_s}))
        while len(taken.rows) == count:
            await asyncio.sleep_ms(100)
        await end(task, node)
        node, task = await boot(gw, link, taken, False)
        await asyncio.sleep(2 * 3600)
        assert not task.done()
        assert abs(node.clock.now() - (true() + gw.off_s - EPOCH)) <= 2, "and it is right in the end"
        await end(task, node)
        stamps = [t for _, t, _ in taken.rows]
        assert len(stamps) == len(set(stamps)) and len(stamps) >= 25, (
            error,
            [t for t in stamps if stamps.count(t) > 1],
        )


async def test_a_gateway_that_is_set_back_while_the_power_is_off_gets_rows_that_it_has_not():
    for ahead in (4000, 8000, 50000):
        gw, taken = Wrong(), Taken()
        gw.off_s = ahead
        link, node = await fresh(gw)
        taken.watch(node)
        task = asyncio.create_task(node.run())
        await asyncio.sleep(5 * 3600)
        await end(task, node)
        gw.off_s = 0
        for _ in range(2):
            node, task = await boot(gw, link, taken, True)
            await asyncio.sleep(3 * 3600)
            assert not task.done()
            await end(task, node)
        stamps = sorted([t for t, _ in arrived(gw)])
        twice = [t for t in stamps if stamps.count(t) > 1]
        assert not twice and len(stamps) >= 10 * 3600 // ROW_S - 7, (ahead, twice, len(stamps))


async def test_events_after_a_step_back_have_their_own_time():
    kit.clean()
    sim_clock.rtc_off = -sim_clock.now
    gw = Wrong()
    gw.off_s = 3000
    state = [0]
    bay = Sensor("qmc5883l", kit.Scripted(("occupied",), lambda: state[0]))
    node = kit.make_node(kit.Link(gw), [bay], "parking", sample_s=5, report_s=3600, health_s=600)
    task = asyncio.create_task(node.run())
    for _ in range(4):
        await asyncio.sleep(1800)
        state[0] ^= 1
    gw.off_s = 0
    while node.clock.now() > true() - EPOCH + 30:
        await asyncio.sleep(20)
    changes = []
    for _ in range(6):
        await asyncio.sleep(450)
        state[0] ^= 1
        changes.append((true() - EPOCH, state[0]))
        await asyncio.sleep(30)
    await asyncio.sleep(1800)
    assert not task.done()
    rows = [(t, v) for t, v in gw.rows()]
    for t, value in changes:
        assert [1 for stamp, v in rows if 0 <= stamp - t <= 10 and list(v.values()) == [value]], (t, value, rows)
    task.cancel()
    node.sampler.stop()


async def test_samples_before_a_step_are_in_the_row_after_it():
    for step in (7200, -50, -7200):
        gw, taken = Wrong(), Taken()
        link, node = await fresh(gw)
        taken.watch(node)
        task = asyncio.create_task(node.run())
        while not node.clock.quality or node.clock.now() % ROW_S != 290:
            await asyncio.sleep(1)
        node.profile.sensors[0].driver.error = OSError(19)  # nothing more comes
        count = len(taken.rows)
        assert node.downlink.handle(gw.seal({3: true() + step}))
        await asyncio.sleep(2 * ROW_S)
        assert len(taken.rows) == count + 1, (step, taken.rows[count:])
        await end(task, node)


async def test_a_node_that_falls_asleep_after_a_step_back_has_no_slot_in_the_future():
    """What it takes along into its sleep is where it continues: it would sample no more until that time has come."""
    gw = Wrong()
    gw.off_s = 50000
    link, node = await fresh(gw)
    task = asyncio.create_task(node.run())
    await asyncio.sleep(7200)
    assert node.downlink.handle(gw.seal({3: true()}))
    numbers = []
    node.sampler.save(numbers.append)
    sensors = node.profile.sensors
    numbers = iter(numbers)
    node.sampler.load(lambda: next(numbers))
    slots = [s.slot for s in sensors]
    assert max(slots) <= node.clock.now(), (slots, node.clock.now())
    assert node.sampler.row_t <= node.clock.now()
    await end(task, node)


async def life(seed):
    """A life of steps, drift, silence and resets; what was taken arrives with the values it had, or is counted."""
    random.seed(seed)
    gw, taken = Wrong(), Taken()
    row_s = (300, 900)[seed % 2]
    link, node = await fresh(gw, row_s)
    taken.watch(node)
    task = asyncio.create_task(node.run())
    began = true()
    story = []
    resets = 0
    for _ in range(12):
        what = random.choice(("step", "step", "far", "right", "drift", "reset", "quiet"))
        if what == "step":
            gw.off_s = random.choice((-1, 1)) * random.choice((15, 70, 299, 301, 2000, 3599, 3601, 40000))
        elif what == "far":
            gw.off_s = random.choice((-1, 1)) * random.choice((90000, 300000, 5000000))
        elif what == "right":
            gw.off_s = 0
        elif what == "drift":
            sim_clock.rtc_off += random.choice((-1, 1)) * 1000000 * random.randint(1, 90)
        elif what == "quiet":
            link.quiet = not link.quiet
        elif what == "reset" and resets < 2:  # a third would climb the ladder, and leave the sensor out
            resets += 1
            await end(task, node)
            node = kit.make_node(link, dust(), sample_s=60, row_s=row_s, report_s=1800, health_s=3600)
            node.profile.sensors[0].driver.n = 100000 * resets
            taken.watch(node)
            task = asyncio.create_task(node.run())
        story.append((what, gw.off_s, true() - began))
        await asyncio.sleep(random.choice((30, 400, 1700, 4000, 9000)))
        assert not task.done(), story
    link.quiet = False
    gw.off_s = 0
    await asyncio.sleep(5 * 3600)
    assert not task.done(), story
    right = true() - EPOCH
    assert abs(node.clock.now() - right) <= 4, (story, node.clock.now() - right)
    await asyncio.sleep(2 * 3600)
    gone = {}
    for t, values in arrived(gw):
        gone[t, tuple(values)] = gone.get((t, tuple(values)), 0) + 1
    assert max(gone.values()) == 1, "doubled"
    stamps = [t for t, _ in arrived(gw)]
    twice = [t for t in stamps if stamps.count(t) > 1]
    assert not twice, (seed, story, twice)
    lost = [r for r in taken.rows if (r[1], tuple(r[2])) not in gone and r[0] < right + 3600]
    assert len(lost) <= node.rows_lost, (seed, story, lost, node.rows_lost)
    last = [r[0] - r[1] for r in taken.rows if r[0] > right]
    assert len(last) >= 7200 // row_s - 1, (seed, story, len(last))
    assert min(last) >= -62 and max(last) <= 62, (seed, story, last)
    # a row each row's length, but where a step or a reset fell into it
    least = (true() - began) // row_s - 2 * len(story) - 2
    assert len(taken.rows) >= least, (seed, story, len(taken.rows), least)
    await end(task, node)


async def test_no_sequence_of_steps_drifts_and_resets_loses_a_row_uncounted():
    for seed in range(4):
        await life(seed)


async def test_no_other_sequence_of_steps_drifts_and_resets_does_either():
    for seed in range(4, 8):
        await life(seed)


async def test_a_node_of_the_years_2034_2068_and_2105_works_as_today():
    for first in ((1 << 30) - 1200, (1 << 31) - 1200, 0xFFFFFFFF - EPOCH - 86400):
        gw = Wrong()
        gw.off_s = first + EPOCH - true()
        link, node = await fresh(gw)
        await kit.run_for(node, 3 * 3600)
        rows = arrived(gw)
        assert len(rows) >= 30 and rows[-1][0] > first + 7200, (first, len(rows))
        assert all(t % ROW_S == 0 for t, _ in rows if t > first), first
        assert node.clock.quality == 2 and node.rows_lost == 0

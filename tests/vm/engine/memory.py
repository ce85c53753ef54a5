# ruff: noqa: UP031
"""G6: bounded memory. The path of a sample and of a row allocates nothing, and thirty days leave no trace on the heap."""

import asyncio
import gc

import micropython
import nodekit as kit
from mote.sampler import Sensor

DAYS = 30


class Forgetful(kit.Gateway):
    """Remembers only what it needs for an ack."""

    def take(self, frame):
        result = super().take(frame)
        for c in list(self.frames):
            if c < result[1] - 70:
                del self.frames[c], self.copies[c]
        return result


def sensors():
    tick = [0]

    def value():
        tick[0] = (tick[0] + 37) % 101
        return 100 + tick[0]

    return [
        Sensor("dust", kit.Scripted(("pm1", "pm25", "pm10"), value)),
        Sensor("climate", kit.Scripted(("temperature", "humidity", "pressure"), value)),
    ]


def locked(call, *args):
    """Call with the heap locked: any allocation raises MemoryError."""
    a = b = c = None
    if args:
        a = args[0]
        b = args[1] if len(args) > 1 else None
        c = args[2] if len(args) > 2 else None
    micropython.heap_lock()
    try:
        if c is not None:
            call(a, b, c)
        elif b is not None:
            call(a, b)
        elif a is not None:
            call(a)
        else:
            call()
    finally:
        micropython.heap_unlock()


async def test_the_path_of_a_sample_and_a_row_allocates_nothing():
    kit.clean()
    kit.known_time()
    node = kit.make_node(
        kit.Link(kit.Gateway()),
        sensors(),
        stage_every=240,
        report_s=86400,
        alarms=[{"q": "pm10", "above": 500, "clear": 300}],
    )
    sampler, batcher = node.sampler, node.batcher
    sampler.row_s, sampler.sample_s = 300, 60
    first, second = node.profile.sensors
    t = node.clock.now() // 300 * 300 + 300
    for i in range(3):
        first.out[i] = second.out[i] = 100 + i
    sampler._took(first, t)
    sampler._took(second, t)
    sampler.finish_row(t)  # opens the staging file
    for row in range(30):
        t += 300
        for _ in range(5):
            for i in range(3):
                first.out[i] += row * 7 % 5 - 2
                second.out[i] -= row * 3 % 7 - 3
            locked(sampler._took, first, t)
            locked(sampler._took, second, t)
        locked(sampler.finish_row, t)
    assert batcher.rows == 31
    s = node.sealer
    locked(batcher._batch.encode, s.buf, s.head_max, s.room)


async def test_what_a_sample_costs_with_its_driver_and_task_is_small():
    kit.clean()
    gw = Forgetful()
    gw.clock = kit.unix_now
    kit.known_time()
    node = kit.make_node(kit.Link(gw), sensors())
    task = asyncio.create_task(node.run())
    await asyncio.sleep(7200)
    before = node.sampler.samples
    gc.collect()
    gc.disable()
    a = gc.mem_alloc()
    await asyncio.sleep(1200)
    used = gc.mem_alloc() - a
    gc.enable()
    per = used // (node.sampler.samples - before)
    print("bytes of garbage per sample (64-bit):", per)
    assert per < 1024, per
    assert not task.done()


async def test_the_heap_is_flat_over_thirty_days():
    kit.clean()
    gw = Forgetful()
    gw.clock = kit.unix_now
    kit.known_time()
    link = kit.Link(gw)
    link.up_loss = link.down_loss = 5
    node = kit.make_node(link, sensors())
    task = asyncio.create_task(node.run())
    levels = []
    for day in range(DAYS):
        await asyncio.sleep(86400)
        assert not task.done()
        del link.log[:]
        gc.collect()
        if day in (1, DAYS - 1):
            levels.append(gc.mem_alloc())
    print("heap after 2 and %d days:" % DAYS, levels, "rows", node.batcher.rows_taken)
    assert node.batcher.rows_taken > 288 * DAYS - 20
    assert levels[1] - levels[0] < 4096, levels

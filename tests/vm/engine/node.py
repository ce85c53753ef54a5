"""The whole node on a scripted link: samples, rows, acks, losses, power cuts, downlinks."""

import nodekit as kit
from mote.sampler import Sensor
from mote.status import faulty_ids


def sensors():
    tick = [0]

    def value():
        tick[0] += 1
        return 100 + tick[0] % 7

    return [
        Sensor("dust", kit.Scripted(("pm1", "pm25", "pm10"), value)),
        Sensor("climate", kit.Scripted(("temperature", "humidity", "pressure"), value)),
    ]


async def test_a_node_without_time_says_hello_and_samples_once_it_has_been_told():
    kit.clean()
    gw = kit.Gateway()
    gw.clock = lambda: kit.UNIX + 5000
    node = kit.make_node(kit.Link(gw), sensors())
    await kit.run_for(node, 3 * 3600)
    kinds = [k for k, _ in [gw.frames[c] for c in sorted(gw.frames)]]
    assert kinds[0] == 2, kinds
    rows = gw.rows()
    assert 24 <= len(rows) <= 36, len(rows)
    assert all(t % 300 == 0 for t, _ in rows)
    assert all(len(v) == 6 for _, v in rows)
    assert node.clock.quality == 2


class Hanging(kit.Scripted):
    async def read_into(self, out):
        self.reads += 1
        import asyncio

        await asyncio.sleep(100000)


async def play(bad):
    kit.clean()
    kit.known_time()
    gw = kit.Gateway()
    gw.clock = kit.unix_now
    dust = Sensor("dust", bad)
    climate = sensors()[1]
    node = kit.make_node(kit.Link(gw), [dust, climate])
    await kit.run_for(node, 6 * 3600)
    rows = gw.rows()
    assert len(rows) >= 60, len(rows)
    assert all(len(v) == 3 for _, v in rows), "the other sensor's columns, gaps for the rest"
    assert [p[0] for p in gw.frames_of(1)] == [4], "one fault"
    assert faulty_ids(node) == [4, 5, 6]
    return bad


async def test_a_driver_that_hangs_is_ended_counted_and_backed_off_while_the_rest_goes_on():
    bad = await play(Hanging(("pm1", "pm25", "pm10"), None))
    assert 5 < bad.reads < 30, bad.reads


async def test_a_driver_that_raises_anything_is_counted_and_backed_off_while_the_rest_goes_on():
    for error in (OSError(19), ValueError("bug"), MemoryError(), ZeroDivisionError()):
        bad = kit.Scripted(("pm1", "pm25", "pm10"), None)
        bad.error = error
        await play(bad)
        assert 5 < bad.reads < 40, bad.reads


async def test_a_state_of_the_world_is_read_at_every_sample_and_its_end_is_seen_at_once():
    from mote.drivers.errors import Beyond, NoEcho

    for error in (NoEcho(), Beyond()):  # an empty or overfull bin, a magnet held to the node: the sensor is well
        kit.clean()
        kit.known_time()
        gw = kit.Gateway()
        gw.clock = kit.unix_now
        dust, climate = sensors()
        dust.driver.error = error
        node = kit.make_node(kit.Link(gw), [dust, climate])
        import asyncio

        task = asyncio.create_task(node.run())
        await asyncio.sleep(24 * 3600)
        reads = dust.driver.reads
        assert reads >= 24 * 60 - 2, reads
        assert faulty_ids(node) == [4, 5, 6], "and it is reported"
        dust.driver.error = None
        await asyncio.sleep(120)
        assert faulty_ids(node) == [], "read within two samples"
        task.cancel()


async def test_a_sensor_that_comes_back_is_said_to_and_its_columns_return():
    kit.clean()
    kit.known_time()
    gw = kit.Gateway()
    gw.clock = kit.unix_now
    dust, climate = sensors()
    dust.driver.error = OSError(19)
    node = kit.make_node(kit.Link(gw), [dust, climate])
    import asyncio

    task = asyncio.create_task(node.run())
    await asyncio.sleep(3 * 3600)
    dust.driver.error = None
    await asyncio.sleep(3 * 3600)
    assert [p[0] for p in gw.frames_of(1)] == [4, 1]
    assert len(gw.rows()[-1][1]) == 6 and faulty_ids(node) == []
    assert not task.done()


async def test_at_the_top_of_the_ladder_no_sensor_is_read_and_the_node_still_answers():
    kit.clean()
    kit.known_time()
    from mote import supervisor
    from motewire.codes import LADDER_ALL

    gw = kit.Gateway()
    gw.clock = kit.unix_now
    for _ in range(5):
        supervisor.begin()
    both = sensors()
    node = kit.make_node(kit.Link(gw), both)
    assert supervisor.level == LADDER_ALL
    await kit.run_for(node, 13 * 3600)
    assert both[0].driver.reads == 0 and gw.rows() == []
    said = {}
    for p in gw.frames_of(2):
        said.update(p)
    assert said[19] == [3, 4, 5, 6, 1, 2, 3] and sorted(said[11]) == [1, 2, 3, 4, 5, 6], said
    assert supervisor.rtc.buf[2] == 5, "the rung holds: what ends it later begins there"
    assert node.downlink.handle(gw.seal({5: [7, "selftest"]}))
    import asyncio

    await asyncio.sleep(60)
    assert node.control._commands is None
    from mote.files import read_json

    assert read_json("/commands.json")["seen"] == [[7, "selftest", 5, "no sensors"]], "it answers what it can"

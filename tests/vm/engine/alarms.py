"""Alarms that come and go: what waits for a gateway that is away, and what a restart leaves of what was raised."""

import asyncio

import nodekit as kit
import sim_clock
from mote.sampler import Sensor
from motewire import cbor
from motewire.frame import ALARM


def swinging(minutes):
    """Dust that is above every limit for so many minutes, and below for as many."""
    return [
        Sensor("dust", kit.Scripted(("pm1", "pm25", "pm10"), lambda: 400 * (sim_clock.now // (60000000 * minutes) & 1)))
    ]


async def test_an_alarm_that_comes_and_goes_for_twelve_hours_without_a_gateway_costs_no_row():
    for minutes, rule in ((1, {}), (7, {"least_s": 60}), (1, {"least_s": 0})):
        kit.clean()
        kit.known_time()
        gw = kit.Gateway()
        gw.clock = kit.unix_now
        link = kit.Link(gw)
        spec = {"q": "pm10", "above": 50}
        spec.update(rule)
        node = kit.make_node(link, swinging(minutes), alarms=[spec], report_s=1800, outbox_frames=48)
        task = asyncio.create_task(node.run())
        await asyncio.sleep(2 * 3600)
        link.quiet = True
        most = 0
        for _ in range(12 * 6):
            await asyncio.sleep(600)
            most = max(most, node.outbox.kinds[: node.outbox.depth].count(bytes((ALARM,))))
        waiting = [node.outbox.counters[i] for i in range(node.outbox.depth) if node.outbox.kinds[i] == ALARM]
        link.quiet = False
        while not node.outbox.depth or node.outbox.kinds[: node.outbox.depth].count(bytes((ALARM,))):
            await asyncio.sleep(20)
            assert not task.done()
        assert 2 <= most <= 4 and len(waiting) <= 4, (minutes, rule, most)
        first = cbor.read(gw.frames[waiting[0]][1], 0, len(gw.frames[waiting[0]][1]))
        assert first[1] < kit.UNIX + sim_clock.now // 1000000 - 11 * 3600, "when it began"
        assert (gw.frames_of(ALARM)[-1][0] == 2) == node.alarms.rules[0].active, "and how it is now"
        await asyncio.sleep(2 * 3600)
        assert node.rows_lost == 0 and len(gw.rows()) >= 14 * 12 - 3, len(gw.rows())
        task.cancel()
        node.sampler.stop()
        for t in node.supervisor._tasks:
            t.cancel()
        await asyncio.sleep_ms(0)


async def test_what_was_raised_is_cleared_after_a_power_cut_a_reset_and_a_restart_under_other_rules():
    for rules in ([{"q": "pm10", "above": 50}], [{"q": "pm10", "above": 120}], [], [{"q": "temperature", "above": 80}]):
        kit.clean()
        kit.known_time()
        gw = kit.Gateway()
        gw.clock = kit.unix_now
        dust = [400]
        sensors = [Sensor("dust", kit.Scripted(("pm1", "pm25", "pm10"), lambda dust=dust: dust[0]))]
        node = kit.make_node(kit.Link(gw), sensors, alarms=[{"q": "pm10", "above": 50}])
        await kit.run_for(node, 1800)
        assert [p[0] for p in gw.frames_of(ALARM)] == [2]
        dust[0] = 0
        import machine

        machine.fill_rtc(b"")
        sensors = [Sensor("dust", kit.Scripted(("pm1", "pm25", "pm10"), lambda dust=dust: dust[0]))]
        node = kit.make_node(kit.Link(gw), sensors, alarms=rules)
        await kit.run_for(node, 1800)
        assert [p[0] for p in gw.frames_of(ALARM)] == [2, 1], (rules, gw.frames_of(ALARM))


async def test_frames_that_wait_stay_what_they_are_when_rules_are_put_before_theirs():
    """Of one rule four frames wait. The fourth is the latest of pm10, not of whatever rule has its place today."""
    pm10 = {"q": "pm10", "above": 50, "least_s": 0, "hold": 1}
    for restart in (True, False):
        kit.clean()
        kit.known_time()
        gw = kit.Gateway()
        gw.clock = kit.unix_now
        link = kit.Link(gw)
        dust, warm = [0], [200]

        def sensors(dust=dust, warm=warm):
            return [
                Sensor("dust", kit.Scripted(("pm1", "pm25", "pm10"), lambda: dust[0])),
                Sensor("climate", kit.Scripted(("temperature",), lambda: warm[0])),
            ]

        node = kit.make_node(link, sensors(), alarms=[pm10])
        task = asyncio.create_task(node.run())
        await asyncio.sleep(600)
        link.quiet = True
        for v in (400, 0, 400, 0):
            dust[0] = v
            await asyncio.sleep(120)
        assert node.outbox.kinds[: node.outbox.depth].count(bytes((ALARM,))) == 4
        rules = [{"q": "temperature", "above": 40}, pm10]
        if restart:
            task.cancel()
            node.sampler.stop()
            for t in node.supervisor._tasks:
                t.cancel()
            await asyncio.sleep_ms(0)
            node = kit.make_node(link, sensors(), alarms=rules)
            task = asyncio.create_task(node.run())
            await asyncio.sleep(120)
        else:
            from mote.rules import rules_from

            node.alarms.replace(rules_from(rules, node.ids), node.clock.now())
        warm[0] = 500
        await asyncio.sleep(120)
        link.quiet = False
        while node.outbox.kinds[: node.outbox.depth].count(bytes((ALARM,))):
            await asyncio.sleep(20)
            assert not task.done()
        assert gw.up() == {(1, 2)}, (restart, gw.frames_of(ALARM))
        task.cancel()
        node.sampler.stop()
        for t in node.supervisor._tasks:
            t.cancel()
        await asyncio.sleep_ms(0)


async def test_a_clear_by_other_rules_leaves_the_fault_of_a_sensor_up():
    kit.clean()
    kit.known_time()
    gw = kit.Gateway()
    gw.clock = kit.unix_now
    climate = Sensor("climate", kit.Scripted(("temperature",), lambda: 500))
    node = kit.make_node(kit.Link(gw), [climate], alarms=[{"q": "temperature", "above": 40}])
    task = asyncio.create_task(node.run())
    await asyncio.sleep(300)
    climate.driver.error = OSError(19)
    await asyncio.sleep(1200)
    assert gw.up() == {(1, 2), (1, 4)}, gw.frames_of(ALARM)
    node.alarms.replace([], node.clock.now())
    await asyncio.sleep(600)
    assert gw.up() == {(1, 4)}, gw.frames_of(ALARM)
    climate.driver.error = None
    await asyncio.sleep(3 * 3600)
    assert gw.up() == set() and not task.done(), gw.frames_of(ALARM)
    task.cancel()
    node.sampler.stop()


async def test_an_alarm_that_was_stored_when_the_power_went_is_ended_though_the_node_had_not_marked_it_as_up():
    from array import array

    for later in (0, 400):
        for rules in ([{"q": "pm10", "above": 50}], []):
            kit.clean()
            kit.known_time()
            gw = kit.Gateway()
            gw.clock = kit.unix_now
            dust = [400]

            def sensors(dust=dust):
                return [Sensor("dust", kit.Scripted(("pm1", "pm25", "pm10"), lambda: dust[0]))]

            node = kit.make_node(kit.Link(gw), sensors(), alarms=[{"q": "pm10", "above": 50}])

            def cut(*_):
                raise kit.Cut

            node.alarms._active.set = cut
            try:
                node.check(node.clock.now(), array("i", (400, 400, 400, 0, 0, 0)), 7)
            except kit.Cut:
                assert node.outbox.kinds[: node.outbox.depth].count(bytes((ALARM,))) == 1
            else:
                raise AssertionError("nothing was raised")
            import machine

            machine.fill_rtc(b"")
            dust[0] = later
            node = kit.make_node(kit.Link(gw), sensors(), alarms=rules)
            task = asyncio.create_task(node.run())
            await asyncio.sleep(1800)
            assert gw.up() == ({(6, 2)} if later and rules else set()), (later, rules, gw.frames_of(ALARM))
            dust[0] = 0
            await asyncio.sleep(1800)
            assert gw.up() == set() and not task.done(), (later, rules, gw.frames_of(ALARM))
            said = len(gw.frames_of(ALARM))
            task.cancel()
            node.sampler.stop()
            for t in node.supervisor._tasks:
                t.cancel()
            await asyncio.sleep_ms(0)
            await kit.run_for(kit.make_node(kit.Link(gw), sensors(), alarms=rules), 1800)
            assert len(gw.frames_of(ALARM)) == said, "and once"


async def test_a_fault_that_was_stored_when_the_power_went_is_ended_when_the_sensor_works():
    kit.clean()
    kit.known_time()
    gw = kit.Gateway()
    gw.clock = kit.unix_now

    def sensors():
        return [Sensor("climate", kit.Scripted(("temperature",), lambda: 200))]

    node = kit.make_node(kit.Link(gw), sensors())
    fresh = node.uplink.fresh

    def cut(hurry=False):
        raise kit.Cut

    node.uplink.fresh = cut
    try:
        node.fault(node.profile.sensors[0], node.clock.now(), True)
    except kit.Cut:
        node.uplink.fresh = fresh
    else:
        raise AssertionError("nothing was raised")
    node = kit.make_node(kit.Link(gw), sensors())
    await kit.run_for(node, 1800)
    assert [p[0] for p in gw.frames_of(ALARM)] == [4, 1], gw.frames_of(ALARM)


async def test_alarms_that_were_thinned_out_while_nobody_listened_do_not_come_back_with_the_power():
    import machine

    kit.clean()
    kit.known_time()
    gw = kit.Gateway()
    gw.clock = kit.unix_now
    link = kit.Link(gw)
    link.quiet = True
    node = kit.make_node(link, swinging(1), alarms=[{"q": "pm10", "above": 50, "least_s": 0}])
    await kit.run_for(node, 2 * 3600)
    before = [node.outbox.counters[i] for i in range(node.outbox.depth) if node.outbox.kinds[i] == ALARM]
    assert len(before) == 4
    machine.fill_rtc(b"")
    link.quiet = False
    node = kit.make_node(
        link, [Sensor("dust", kit.Scripted(("pm1", "pm25", "pm10"), lambda: 0))], alarms=[{"q": "pm10", "above": 50}]
    )
    await kit.run_for(node, 3600)
    assert set(before) <= {c for c in gw.frames if gw.frames[c][0] == ALARM} and len(gw.frames_of(ALARM)) <= 6, (
        gw.frames_of(ALARM)
    )
    assert gw.up() == set()

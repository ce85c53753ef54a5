"""Alarms that come and go: what waits for a gateway that is away, and what a restart leaves of what was raised."""

import asyncio

import nodekit as kit
import sim_clock
from mote import borrow
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

            borrow("mote.former", "replace", node.alarms, rules_from(rules, node.ids), node.clock.now())
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
    borrow("mote.former", "replace", node.alarms, [], node.clock.now())
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


BIN = ("distance", "fill_level", "temperature", "tilt")


def bin_of(fill, dead=()):
    """Sensors of a bin: one a column; those of `dead` columns fail."""
    out = []
    for i in range(len(BIN)):
        value = (900, fill, 200, 2)[i]
        s = Sensor(BIN[i], kit.Scripted((BIN[i],), lambda value=value: value))
        s.driver.error = OSError(19) if BIN[i] in dead else None
        out.append(s)
    return out


def make_bin(gw, sensors, *alarms):
    from mote import supervisor
    from mote.profiles.bin_fill import BinFill

    if supervisor.rtc is not None:
        supervisor.planned()  # the boot before did not crash
    BinFill.derive = lambda self, values, present: present
    return kit.make_node(kit.Link(gw), sensors, "bin_fill", alarms=list(alarms))


FULL = {"q": "fill_level", "above": 50}


def dust_of(dead):
    s = Sensor("dust", kit.Scripted(("pm1", "pm25", "pm10"), lambda: 10))
    s.driver.error = OSError(19) if dead else None
    return [s]


def make_dust(gw):
    from mote import supervisor

    if supervisor.rtc is not None:
        supervisor.planned()
    return kit.make_node(kit.Link(gw), dust_of(False), alarms=[])


async def full_bin(gw):
    """A bin that is full, and whose accelerometer failed, has said so."""
    from mote import supervisor

    kit.clean()
    supervisor.rtc = None  # what it knows is of the boots before
    kit.known_time()
    gw.clock = kit.unix_now
    node = make_bin(gw, bin_of(90, ("tilt",)), FULL)
    await kit.run_for(node, 1800)
    assert gw.up() == {(18, 2), (19, 4)}, gw.frames_of(ALARM)


async def test_what_is_up_under_one_profile_is_ended_under_the_next_and_said_again_when_that_is_taken_back():
    import machine

    for cut in (False, True):
        for dead in (False, True):
            gw = kit.Gateway()
            await full_bin(gw)
            if cut:
                machine.fill_rtc(b"")
            await kit.run_for(kit.make_node(kit.Link(gw), dust_of(dead), alarms=[]), 1800)
            assert gw.up() == ({(4, 4)} if dead else set()), (cut, dead, gw.frames_of(ALARM))
            node = make_bin(gw, bin_of(90, ("tilt",)), FULL)
            await kit.run_for(node, 1800)
            assert gw.up() == {(18, 2), (19, 4)}, (cut, dead, gw.frames_of(ALARM))
            node = make_bin(gw, bin_of(0))
            await kit.run_for(node, 1800)
            said = len(gw.frames_of(ALARM))
            assert gw.up() == set(), gw.frames_of(ALARM)
            await kit.run_for(make_bin(gw, bin_of(0)), 1800)
            assert len(gw.frames_of(ALARM)) == said, "and once"


async def test_the_end_of_what_was_up_under_another_profile_is_told_though_the_power_goes_in_between():
    for budget in range(4):
        gw = kit.Gateway()
        await full_bin(gw)
        node = make_dust(gw)
        append, left = node.outbox.append, [budget]

        def stop(*args, append=append, left=left):
            if args[0] == ALARM:
                if not left[0]:
                    raise kit.Cut
                left[0] -= 1
            append(*args)

        node.outbox.append = stop
        keep = type(node._faults).keep
        if budget == 3:
            type(node._faults).keep = stop_all
        from mote import former

        try:
            former.clear(node)
        except kit.Cut:
            pass
        type(node._faults).keep = keep
        await kit.run_for(make_dust(gw), 1800)
        assert gw.up() == set(), (budget, gw.frames_of(ALARM))


def stop_all(*_):
    raise kit.Cut


async def test_what_a_rule_or_a_sensor_had_up_that_was_taken_out_is_ended_though_nothing_is_read():
    gw = kit.Gateway()
    await full_bin(gw)
    dead = [s for s in bin_of(0, BIN) if s.name != "tilt"]
    await kit.run_for(make_bin(gw, dead, {"q": "fill_level", "below": 1}), 120)
    assert not {(18, 2), (19, 4)} & gw.up(), gw.frames_of(ALARM)


async def test_a_leak_is_ended_when_the_meter_becomes_something_else():
    from mote import supervisor

    kit.clean()
    kit.known_time()
    gw = kit.Gateway()
    gw.clock = kit.unix_now
    node = kit.make_node(kit.Link(gw), None, "water_meter")
    supervisor.nvs.put("leak", 26 << 1 | 1)
    node.raise_alarm(2, node.clock.now(), 14, 20, 10)
    await kit.run_for(node, 300)
    assert gw.up() == {(14, 2)}
    for _ in range(2):
        await kit.run_for(kit.make_node(kit.Link(gw), dust_of(False), alarms=[]), 300)
        assert gw.up() == set() and [p[0] for p in gw.frames_of(ALARM)] == [2, 1], gw.frames_of(ALARM)

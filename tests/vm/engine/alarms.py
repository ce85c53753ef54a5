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

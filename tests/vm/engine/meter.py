# ruff: noqa: B905
"""An awake water meter: what its counter, register, flow and leaks are worth whatever the rhythm is and whoever asks in between."""

import asyncio
import json

import esp32
import machine
import nodekit as kit
import sim
import sim_hw
from motewire.quantities import ids_of

VOLUME, FLOW = ids_of(("water_volume", "water_flow"))
EPOCH = 946684800


class World:
    """A meter behind the pulse input, and a node that looks at it. rate: pulses a second from now on."""

    def __init__(self):
        kit.clean()
        kit.known_time()
        self.gw = kit.Gateway()
        self.gw.clock = kit.unix_now
        self._rate, self._since, self._pulses = 0.0, sim.now_us(), 0.0
        self._real = sim_hw.sense
        sim_hw.sense = lambda name: self.pulses() if name == "water_pulses" else self._real(name)
        self.task = None

    def pulses(self):
        return self._pulses + (sim.now_us() - self._since) / 1e6 * self._rate

    def rate(self, pulses_a_second):
        self._pulses, self._since, self._rate = self.pulses(), sim.now_us(), pulses_a_second

    def add(self, pulses):
        self._pulses += pulses

    def power_on(self, **config):
        """Everything but flash is new, and the hardware counter is 0."""
        esp32.PCNT._units.clear()
        machine.fill_rtc(b"")
        kit.known_time(kit.unix_now())
        sim.attach_pulse(34, sim_hw._make("pulse"))
        values = {"node": kit.NODE, "profile": "water_meter", "hello_s": 2, "jitter_s": 2, "wdt_s": 0}
        values.update(config)
        with open("/config.json", "w") as f:
            json.dump(values, f)
        self.node = kit.make_node(kit.Link(self.gw), None, "water_meter", written=True)
        self.task = asyncio.create_task(self.node.run())
        return self.node

    async def power_off(self):
        self.task.cancel()
        self.node.sampler.stop()
        for t in self.node.supervisor._tasks:
            t.cancel()
        await asyncio.sleep_ms(0)

    async def until(self, seconds, of):
        """Wait for `seconds` past a multiple of `of`."""
        left = (seconds - kit.unix_now()) % of
        while left > 3600:
            await asyncio.sleep(3600)
            left -= 3600
        await asyncio.sleep(left)
        assert not self.task.done()

    def told(self):
        """[(code, t2000, quantity, value)] of alarms."""
        return [
            (p[0], p[1] - EPOCH if p[1] > EPOCH else p[1], p[2], p[3] if len(p) > 3 else None)
            for p in self.gw.frames_of(1)
        ]

    async def ask(self, number, name):
        assert self.node.downlink.handle(self.gw.seal({5: [number, name]}))
        await asyncio.sleep(3)

    async def close(self):
        await self.power_off()
        sim_hw.sense = self._real


async def test_no_pulse_is_lost_between_samples_that_are_further_apart_than_the_counter_goes():
    """0.8 l/s in pulses of 0.1 l: 172,800 in six hours, and the counter holds 32,766."""
    w = World()
    w.rate(8.0)
    node = w.power_on(sensors={"pulse": {"litres_per_pulse": 0.1}}, sample_s=21600, row_s=21600, report_s=21600)
    await w.until(5, 21600)
    await w.until(0, 7200)
    assert abs(node.profile.sensors[0].driver.total - w.pulses()) < 21 * 8, "between samples too"
    await w.until(5, 21600)
    await w.until(0, 21600)
    await w.until(300, 21600)
    rows = [(t, v[VOLUME]) for t, v in w.gw.rows()]
    assert [(b[0] - a[0], abs(b[1] - a[1] - 172800) <= 16) for a, b in zip(rows, rows[1:])] == [(21600, True)], rows
    await w.power_off()
    w.power_on(sample_s=21600, row_s=21600, report_s=21600, sensors={"pulse": {"litres_per_pulse": 0.1}})
    assert w.node.profile.sensors[0].driver.total > w.pulses() - 21 * 8 - 10, (
        "what was counted between two samples is kept"
    )
    await w.close()


async def test_no_register_that_left_the_node_is_taken_back_by_a_power_cut():
    """A row by read_now, and the value of an alarm: seven pulses since the register was kept last."""
    for rule, command in (([], "read_now"), ([{"q": "water_volume", "above": 5, "clear": 0}], "")):
        w = World()
        w.power_on(alarms=rule, report_s=900)
        await w.until(5, 300)
        w.add(7)
        await w.until(65, 300)
        if command:
            await w.ask(44, command)
        await w.until(135, 300)
        left = [v[VOLUME] for _, v in w.gw.rows()] + [value for _, _, q, value in w.told() if q == VOLUME]
        assert max(left) == 70, left
        await w.power_off()
        w.power_on(alarms=rule, report_s=300)
        await w.until(15, 300)
        await asyncio.sleep(10)
        rows = [v[VOLUME] for _, v in w.gw.rows()]
        assert rows[-1] >= max(left), (left, rows)
        await w.close()


async def test_a_flow_is_judged_over_a_time_that_a_pulse_is_not_all_of():
    """100 l a pulse, one an hour: three readings out of turn, a pulse, the sample two seconds later."""
    w = World()
    rule = {"q": "water_flow", "above": 8000, "least_s": 0, "step": 90000}
    w.power_on(sensors={"pulse": {"litres_per_pulse": 100}}, alarms=[rule], report_s=300)
    await w.until(200, 300)
    await w.until(100, 300)
    for number in (44, 45, 46):
        await w.ask(number, "read_now")
    await w.until(118, 300)
    w.add(1)
    await w.until(30, 300)
    rows = [(t % 300, v[VOLUME], v.get(FLOW)) for t, v in w.gw.rows()]
    assert rows[-1] == (0, 1000, 1200), rows
    assert not w.told(), w.told()
    w.rate(0.075)  # 27,000 l/h
    await w.until(0, 1800)
    assert [a[0] for a in w.told()] == [2], w.told()
    for number in range(47, 57):  # a second without a pulse is no pause
        await w.until(57, 60)
        await w.ask(number, "read_now")
    assert [a[0] for a in w.told() if a[0] == 1] == [], w.told()
    flows = [v[FLOW] for t, v in w.gw.rows() if FLOW in v and t > w.told()[0][1] + 300]
    assert flows and min(flows) >= 24000 and max(flows) <= 30000, flows
    w.rate(0.0)
    await w.until(0, 1800)
    assert [a[0] for a in w.told()][-1] == 1, w.told()
    await w.close()


async def test_a_constant_flow_just_over_its_limit_is_told_once_however_coarse_the_pulses_are():
    """A minute has one pulse of 100 l or two: 6000 or 12,000 l/h of 9000."""
    for rate, ups in ((0.025, 1), (0.0225 * 8 / 9, 0)):
        w = World()
        rule = {"q": "water_flow", "above": 8000, "hold": 3, "least_s": 0}
        w.rate(rate)
        w.power_on(sensors={"pulse": {"litres_per_pulse": 100}}, alarms=[rule], report_s=900)
        await w.until(0, 3600)
        await asyncio.sleep(3600)
        assert [a[0] for a in w.told()] == [2] * ups, (rate, w.told())
        await w.close()


async def test_a_reading_out_of_turn_takes_nothing_from_what_alarms_see():
    """4000 l/h for 20 s out of every minute are 1333 in it. A reading at second 50 would leave the next sample ten seconds."""
    w = World()
    rule = {"q": "water_flow", "above": 1200, "clear": 1000, "least_s": 0, "hold": 5}
    w.power_on(alarms=[rule], report_s=900)
    await w.until(0, 300)
    for number in range(60, 68):
        await w.until(20, 60)
        w.rate(4000 / 3600)
        await w.until(40, 60)
        w.rate(0.0)
        await w.until(58, 60)
        await w.ask(number, "selftest" if number & 1 else "read_now")
    assert [a[0] for a in w.told()] == [2], w.told()
    await w.close()


async def test_a_leak_is_told_in_time_whatever_the_rhythm_of_rows_is():
    for sample_s, row_s in ((60, 3500), (2400, 2400), (1800, 5400), (86400, 86400)):
        w = World()
        w.rate(0.025)  # 90 l/h
        leak = {"leak": {"hours": 6, "litres": 1}}
        node = w.power_on(sensors=leak, sample_s=sample_s, row_s=row_s, report_s=row_s, hello_s=2)
        began = kit.unix_now()
        for _ in range(16):
            await asyncio.sleep(1800)
            if node.profile._leaking:
                break
        assert 5.4 <= (kit.unix_now() - began) / 3600 <= 7.6, (sample_s, row_s, (kit.unix_now() - began) / 3600)
        w.rate(0.0)
        for _ in range(6):
            await asyncio.sleep(1800)
        assert not node.profile._leaking, (sample_s, row_s)
        await w.close()


async def test_a_pause_of_two_hours_is_no_leak_whatever_the_rhythm_of_rows_is():
    for sample_s, row_s in ((2400, 2400), (7200, 7200), (21600, 21600)):
        w = World()
        leak = {"leak": {"hours": 6, "litres": 1}}
        node = w.power_on(sensors=leak, sample_s=sample_s, row_s=row_s, report_s=row_s, hello_s=2)
        for _ in range(2):
            w.rate(0.025)
            for _ in range(8):
                await asyncio.sleep(1800)
                assert not node.profile._leaking, (sample_s, row_s)
            w.rate(0.0)
            for _ in range(4):
                await asyncio.sleep(1800)
        assert not node.profile._leaking, (sample_s, row_s)
        await w.close()


async def test_a_start_just_before_the_hour_ends_no_leak():
    """A pulse of 10 l every 417 s: the minute before the hour has none."""
    w = World()
    w.rate(0.0024)
    how = {"sensors": {"leak": {"hours": 2, "litres": 1}, "pulse": {"litres_per_pulse": 10}}}
    w.power_on(**how)
    await w.until(5, 3600)
    for _ in range(3):
        await asyncio.sleep(3600)
    assert w.node.profile._leaking
    for _ in range(2):
        await w.until(3500, 3600)
        await w.power_off()
        await asyncio.sleep(30)
        w.power_on(**how)
        await w.until(100, 3600)
        assert w.node.profile._leaking
    await w.close()

# ruff: noqa: C419, ASYNC230
"""The five profiles on the chip models: what the sensors feel arrives as rows in the registry's scale."""

import asyncio
import json

import esp32
import machine
import nodekit as kit
import sim
import sim_hw
from mote.status import faulty_ids
from motewire.quantities import ids_of


def fit(kind, where, name):
    chip = sim_hw._make(name)
    if kind == "i2c":
        sim.attach_i2c(0, where, chip)
    elif kind == "uart":
        sim.attach_uart(where, chip)
    elif kind == "i2s":
        sim.attach_i2s(where, chip)
    else:
        sim.attach_pulse(where, chip)
    return chip


async def play(profile, hours, **config):
    gw = kit.Gateway()
    if kit.unix_now() < kit.UNIX:
        kit.known_time()
    gw.clock = kit.unix_now
    node = kit.make_node(kit.Link(gw), None, profile, hello_s=1, jitter_s=2, **config)
    await kit.run_for(node, int(hours * 3600))
    node.batcher.close()
    for i in range(node.outbox.depth):
        n = node.outbox.read_into(i, node.uplink._buf)
        gw.take(bytes(node.uplink._buf[:n]))
    return node, gw.rows()


def column(rows, key):
    q = ids_of((key,))[0]
    return [v[q] for _, v in rows if q in v]


async def test_air_quality_reports_dust_and_climate():
    kit.clean()
    sim.values.update({"pm1": 7, "pm25": 12, "pm10": 19, "temperature": 21.5, "humidity": 48.0, "pressure": 1013.2})
    fit("uart", 2, "pms5003")
    fit("i2c", 0x76, "bme280")
    node, rows = await play("air_quality", 2.1)
    assert len(rows) >= 24, len(rows)
    assert all(abs(v - 12) <= 1 for v in column(rows, "pm25"))
    assert all(abs(v - 215) <= 2 for v in column(rows, "temperature"))
    assert all(abs(v - 132) <= 3 for v in column(rows, "pressure"))
    assert len(column(rows, "pm10")) >= len(rows) - 1
    assert all([s.faults == 0 for s in node.profile.sensors])


async def test_air_quality_lets_the_laser_sleep_when_it_samples_slowly():
    kit.clean()
    sim.values.update({"pm1": 7, "pm25": 12, "pm10": 19, "temperature": 21.5, "humidity": 48.0, "pressure": 1013.2})
    fit("uart", 2, "pms5003")
    fit("i2c", 0x76, "bme280")
    node, rows = await play("air_quality", 2.1, sample_s=300)
    assert len(column(rows, "pm25")) >= 23


async def test_a_sensor_that_falls_silent_leaves_gaps_and_raises_a_fault_once():
    kit.clean()
    sim.values.update({"pm1": 7, "pm25": 12, "pm10": 19, "temperature": 21.5, "humidity": 48.0, "pressure": 1013.2})
    dust = fit("uart", 2, "pms5003")
    fit("i2c", 0x76, "bme280")
    dust.fault = "silent"
    gw = kit.Gateway()
    gw.clock = kit.unix_now
    kit.known_time()
    node = kit.make_node(kit.Link(gw), None, "air_quality", hello_s=1, jitter_s=2)
    await kit.run_for(node, 3600 * 3)
    alarms = [p for k, p in gw.frames.values() if k == 1]
    assert len(alarms) == 1, alarms
    assert faulty_ids(node) == [4, 5, 6]
    rows = gw.rows()
    assert len(rows) >= 24
    assert column(rows, "temperature") and not column(rows, "pm25")
    reads = node.profile.sensors[0].faults
    assert reads < 30, reads  # backed off


async def test_noise_reports_levels():
    kit.clean()
    sim.values.update({"laeq": 62.0})
    fit("i2s", 0, "inmp441")
    node, rows = await play("noise", 1.1)
    from mote import log

    assert len(rows) >= 12, (len(rows), log.tail(20), [(s.faults, s.slot) for s in node.profile.sensors])
    assert all(abs(v - 620) < 25 for v in column(rows, "laeq")), column(rows, "laeq")


async def test_a_water_register_never_falls_over_reboots():
    kit.clean()
    sim.values.update({"water_flow": 360.0, "water_pulses": 0.0})
    start = sim.now_us()
    real = sim_hw.sense
    sim_hw.sense = lambda name: (sim.now_us() - start) / 10e6 if name == "water_pulses" else real(name)
    try:
        sim.attach_pulse(34, sim_hw._make("pulse"))
        node, rows = await play("water_meter", 2.1)
        volumes = column(rows, "water_volume")
        assert volumes == sorted(volumes) and len(volumes) >= 24
        assert all(abs(v - 360) < 40 for v in column(rows, "water_flow")[1:]), column(rows, "water_flow")
        esp32.PCNT._units.clear()  # a reset forgets the hardware counter
        machine.fill_rtc(b"")
        node, more = await play("water_meter", 1.1)
        again = column([row for row in more if row[0] > rows[-1][0]], "water_volume")
        assert again[0] >= volumes[-1], (again[0], volumes[-1])
        assert again[0] - volumes[-1] < 600
    finally:
        sim_hw.sense = real


async def test_a_leak_is_found_and_ends_over_power_cuts_and_a_gateway_that_is_wrong_for_an_hour():
    kit.clean()
    kit.known_time()
    flow = [0.1]  # pulses a second
    last = [sim.now_us(), 0.0]
    real = sim_hw.sense

    def pulses():
        last[1] += (sim.now_us() - last[0]) / 1e6 * flow[0]
        last[0] = sim.now_us()
        return last[1]

    sim_hw.sense = lambda name: pulses() if name == "water_pulses" else real(name)
    gw = kit.Gateway()
    gw.clock = kit.unix_now
    leak = {"leak": {"hours": 6, "litres": 1}}

    async def hours(n):
        """A boot of so long, and the power goes."""
        esp32.PCNT._units.clear()
        sim.attach_pulse(34, sim_hw._make("pulse"))
        with open("/config.json", "w") as f:
            json.dump(
                {
                    "node": kit.NODE,
                    "profile": "water_meter",
                    "sensors": leak,
                    "health_s": 3600,
                    "hello_s": 2,
                    "wdt_s": 0,
                },
                f,
            )
        node = kit.make_node(kit.Link(gw), None, "water_meter", written=True)
        task = asyncio.create_task(node.run())
        for _ in range(int(n * 2)):
            await asyncio.sleep(1800)
            assert not task.done()
        task.cancel()
        node.sampler.stop()
        for t in node.supervisor._tasks:
            t.cancel()
        await asyncio.sleep_ms(0)
        now = kit.unix_now()
        machine.fill_rtc(b"")
        kit.known_time(now + 600)
        return node

    try:
        await hours(4.5)
        assert not gw.frames_of(1)
        gw.clock = lambda: kit.unix_now() + (30000 if len(gw.frames) % 9 < 3 else 0)  # wrong now and then
        await hours(4.5)
        gw.clock = kit.unix_now
        await hours(3)
        assert [p[0] for p in gw.frames_of(1)] == [2], gw.frames_of(1)
        flow[0] = 0
        await hours(3)
        assert [p[0] for p in gw.frames_of(1)] == [2, 1], gw.frames_of(1)
        await hours(1)
        assert not esp32._store["citymote"].get("leak")
    finally:
        sim_hw.sense = real


async def test_a_leak_and_a_rule_on_the_register_end_each_for_itself():
    """At the gateway a clear ends every alarm of its quantity, whoever raised it."""
    flow = [0.1]  # pulses a second, 360 l/h
    last = [sim.now_us(), 0.0]
    real = sim_hw.sense

    def pulses():
        last[1] += (sim.now_us() - last[0]) / 1e6 * flow[0]
        last[0] = sim.now_us()
        return last[1]

    sim_hw.sense = lambda name: pulses() if name == "water_pulses" else real(name)
    volume = ids_of(("water_volume",))[0]
    try:
        for rule, leaks, ended in (
            ({"q": "water_volume", "below": 1800, "clear": 1800}, {(volume, 2)}, set()),
            ({"q": "water_volume", "above": 1800, "clear": 1000}, {(volume, 2)}, {(volume, 2)}),
        ):
            kit.clean()
            kit.known_time()
            gw = kit.Gateway()
            gw.clock = kit.unix_now
            flow[0], last[0], last[1] = 0.1, sim.now_us(), 0.0
            esp32.PCNT._units.clear()
            sim.attach_pulse(34, sim_hw._make("pulse"))
            with open("/config.json", "w") as f:
                leak = {"leak": {"hours": 2, "litres": 1}}
                json.dump(
                    {
                        "node": kit.NODE,
                        "profile": "water_meter",
                        "sensors": leak,
                        "alarms": [rule],
                        "hello_s": 2,
                        "wdt_s": 0,
                    },
                    f,
                )
            node = kit.make_node(kit.Link(gw), None, "water_meter", written=True)
            task = asyncio.create_task(node.run())
            await asyncio.sleep(7 * 3600)
            assert node.profile._leaking and not task.done()
            assert gw.up() == leaks, (rule, gw.frames_of(1))
            meter = node.profile.sensors[0]
            broken = kit.Scripted(meter.channels, None)
            broken.error = OSError(19)
            meter.driver.read_into = broken.read_into
            await asyncio.sleep(1200)
            assert gw.up() == leaks | {(volume, 4)}, (rule, gw.frames_of(1))
            del meter.driver.read_into
            await asyncio.sleep(3600)
            assert gw.up() == leaks and not meter.failures, (rule, gw.frames_of(1))
            flow[0] = 0
            await asyncio.sleep(4 * 3600)
            assert not node.profile._leaking and not task.done()
            assert gw.up() == ended, (rule, gw.frames_of(1))
            task.cancel()
            node.sampler.stop()
            for t in node.supervisor._tasks:
                t.cancel()
            await asyncio.sleep_ms(0)
    finally:
        sim_hw.sense = real


async def test_a_leak_of_more_hours_than_are_remembered_is_found_after_as_many_as_are():
    """A restart now and then must not put it off without end."""
    kit.clean()
    kit.known_time()
    real = sim_hw.sense
    sim_hw.sense = lambda name: sim.now_us() / 1e7 if name == "water_pulses" else real(name)
    hour = (kit.UNIX - 946684800) // 3600
    esp32._store["citymote"]["leak"] = hour << 9 | 254 << 1
    try:
        gw = kit.Gateway()
        gw.clock = kit.unix_now
        esp32.PCNT._units.clear()
        sim.attach_pulse(34, sim_hw._make("pulse"))
        with open("/config.json", "w") as f:
            leak = {"leak": {"hours": 300, "litres": 1}}
            json.dump({"node": kit.NODE, "profile": "water_meter", "sensors": leak, "hello_s": 2, "wdt_s": 0}, f)
        await kit.run_for(kit.make_node(kit.Link(gw), None, "water_meter", written=True), 3 * 3600)
        assert [p[0] for p in gw.frames_of(1)] == [2], gw.frames_of(1)
    finally:
        sim_hw.sense = real


async def test_a_bay_that_was_started_under_a_car_is_right_after_the_command():
    kit.clean()
    kit.known_time()
    sim.values.update({"occupied": 1.0})
    fit("i2c", 0x0D, "qmc5883l")
    gw = kit.Gateway()
    gw.clock = kit.unix_now
    node = kit.make_node(kit.Link(gw), None, "parking", hello_s=1, jitter_s=2, sample_s=5)
    task = asyncio.create_task(node.run())
    await asyncio.sleep(600)
    sim.values["occupied"] = 0.0
    await asyncio.sleep(600)
    assert [v[17] for _, v in gw.rows()] == [0, 1], "inverted: the car's field is its baseline"
    assert node.downlink.handle(gw.seal({5: [7, "set_free"]}))
    await asyncio.sleep(120)
    sim.values["occupied"] = 1.0
    await asyncio.sleep(300)
    sim.values["occupied"] = 0.0
    await asyncio.sleep(300)
    assert [v[17] for _, v in gw.rows()][2:] == [0, 1, 0], gw.rows()
    with open("/bay.json") as f:
        assert json.load(f)["occupied"] == 0
    task.cancel()
    node.sampler.stop()


async def test_parking_sends_an_event_soon_after_a_car_came():
    kit.clean()
    sim.values.update({"occupied": 0.0})
    fit("i2c", 0x0D, "qmc5883l")
    gw = kit.Gateway()
    gw.clock = kit.unix_now
    kit.known_time()
    link = kit.Link(gw)
    node = kit.make_node(link, None, "parking", hello_s=1, jitter_s=2, sample_s=5)
    task = asyncio.create_task(node.run())
    await asyncio.sleep(600)
    sim.values["occupied"] = 1.0
    came = kit.unix_now() - 946684800
    await asyncio.sleep(60)
    rows = gw.rows()
    assert [v[17] for _, v in rows] == [0, 1], rows
    assert 0 <= rows[1][0] - came <= 15, (rows, came)
    sim.values["occupied"] = 0.0
    await asyncio.sleep(600)
    assert [v[17] for _, v in gw.rows()] == [0, 1, 0]
    assert not task.done()
    task.cancel()
    node.sampler.stop()


async def test_a_bin_reports_fill_from_its_geometry():
    kit.clean()
    sim.values.update({"distance": 700.0, "tilt": 3.0, "temperature": 20.0, "humidity": 50.0, "pressure": 1010.0})
    fit("uart", 2, "a02yyuw")
    fit("i2c", 0x18, "lis3dh")
    fit("i2c", 0x76, "bme280")
    node, rows = await play("bin_fill", 2.1, sample_s=300, row_s=900)
    assert len(rows) >= 8, rows
    assert all(abs(v - 50) <= 2 for v in column(rows, "fill_level")), rows
    assert all(abs(v - 3) <= 1 for v in column(rows, "tilt"))
    assert len(column(rows, "temperature")) >= 8

"""The ladder: what a node leaves out after crashes, what it keeps, when what was left out gets another chance. Never the REPL."""

import asyncio
import gc

import esp32
import machine
import micropython
import nodekit as kit
import sim
from mote import supervisor, words
from mote.errors import Planned
from mote.hal.rtc import CRASHES, ENTERED
from mote.leak import Scales
from mote.sampler import Sensor

HALF_AN_HOUR, HOURS, DAY = 1800, 3600, 86400


def fresh():
    machine.fill_rtc(b"")
    esp32._store.clear()
    esp32._store["citymote"] = {}


def boot(sensors=2, entered=0, works=0):
    """One boot: level and sensor left out; a sensor is entered, the node works for so many seconds."""
    level = supervisor.begin()
    index = supervisor.climb("shed_index", 0 if level >= 3 else sensors)
    if entered:
        supervisor.rtc.buf[ENTERED] = entered
        supervisor.rtc.save()
    t = 0
    while t < works:
        t += 20
        supervisor.worked(20, t)
    return level, index


def test_every_rung_is_climbed_in_its_order_and_every_sensor_gets_its_turn():
    fresh()
    rungs = [boot(3, entered=2) for _ in range(13)]
    assert rungs == [(0, -1)] * 3 + [
        (1, 1),
        (1, 2),
        (1, 0),
        (2, -1),
        (2, -1),
        (3, -1),
        (3, -1),
        (3, -1),
        (4, -1),
        (4, -1),
    ], rungs


def test_a_profile_that_was_never_built_goes_straight_to_its_options():
    fresh()
    levels = [supervisor.begin() for _ in range(9)]
    assert levels == [0, 0, 0, 2, 2, 3, 3, 3, 4], levels


def test_the_counter_stands_before_anything_is_set_up():
    fresh()
    supervisor.begin()
    assert machine.RTC().memory()[CRASHES] == 1


def test_a_crash_every_half_hour_climbs_and_one_every_seven_hours_does_not():
    fresh()
    assert [boot(works=HALF_AN_HOUR)[0] for _ in range(5)] == [0, 0, 0, 1, 1]
    fresh()
    assert [boot(works=5 * HOURS)[0] for _ in range(4)] == [0, 0, 0, 1]
    fresh()
    assert [boot(works=7 * HOURS)[0] for _ in range(9)] == [0] * 9


def climbed(sensors=2):
    """A node that found its rung: the second sensor is left out."""
    fresh()
    for _ in range(3):
        boot(sensors, entered=2)
    assert boot(sensors) == (1, 1)


def test_a_rung_that_holds_is_kept():
    climbed()
    for _ in range(4):
        boot(works=7 * HOURS)
    assert boot(works=7 * HOURS) == (1, 0), "the boot of climbed() did not hold; the next rung did, four times"
    assert boot(works=7 * HOURS) == (1, 0)


def test_after_a_day_of_work_everything_gets_a_chance_and_one_crash_brings_back_what_held():
    climbed()
    supervisor.climb("told")
    supervisor.worked(DAY, DAY)
    assert supervisor.chance_due
    supervisor.planned()
    assert boot() == (0, -1) and supervisor.trial and supervisor.returned
    supervisor.planned()  # a new configuration: the trial goes on
    assert boot() == (0, -1) and supervisor.trial
    assert boot() == (1, 1), "it crashed"
    supervisor.worked(DAY, DAY)
    supervisor.planned()
    assert boot(works=DAY + 40) == (0, -1)
    for _ in range(2):
        assert boot() == (0, -1), "the trial was passed: all is forgotten"
    assert esp32._store["citymote"]["ladder"] & 0x0FFF == 0


def nap(seconds):
    """A deep sleep and the boot after it, which works for some seconds; its level."""
    kept = []
    supervisor.save(kept.append)
    supervisor.planned()
    level = supervisor.begin()
    numbers = iter(kept)
    supervisor.load(lambda: next(numbers), seconds)
    supervisor.worked(4, 100000)
    return level


def test_a_crash_now_and_then_never_climbs_on_a_node_that_sleeps():
    fresh()
    for _ in range(8):
        assert boot() == boot() == (0, -1), "it crashed twice, some days ago"
        for _ in range(40):
            assert nap(HOURS) == 0


def test_crashes_between_short_sleeps_climb():
    fresh()
    levels = []
    for _ in range(5):
        levels.append(boot()[0])
        for _ in range(4):
            assert nap(300) == levels[-1]
    assert levels == [0, 0, 0, 1, 1], levels


def test_a_rung_that_holds_over_sleeps_is_kept_and_a_day_of_them_brings_the_chance():
    climbed()
    for _ in range(23):
        assert nap(HOURS) == 1 and not supervisor.chance_due
    assert nap(HOURS) == 1 and supervisor.chance_due
    supervisor.planned()
    assert boot() == (0, -1) and supervisor.trial
    for _ in range(12):
        assert nap(HOURS) == 0 and supervisor.trial
    assert boot() == (1, 1), "it crashed on trial: back to what held"


def test_planned_ends_count_nothing():
    fresh()
    for _ in range(20):
        assert boot() == (0, -1)
        supervisor.planned()
    for _ in range(3):
        boot(entered=2)
    for _ in range(20):
        assert boot() == (1, 1)
        supervisor.planned()


def cut():
    machine.fill_rtc(b"")


def test_a_power_cut_is_a_trial_of_everything_and_does_not_forget_what_held():
    climbed()
    supervisor.worked(DAY // 2, DAY // 2)
    cut()
    assert boot() == (0, -1) and supervisor.trial
    assert boot()[0] == 1, "one crash"
    for _ in range(30):  # a lamp post: power at night only, and nothing ever crashes again
        cut()
        assert boot(works=8 * HOURS) == (0, -1)


def test_power_ons_in_a_row_without_work_are_brown_outs_and_climb():
    fresh()
    levels = []
    for _ in range(16):
        cut()
        levels.append(boot()[0])
    assert levels == [0] * 8 + [1, 1, 2, 2, 3, 3, 3, 4], levels
    fresh()
    for _ in range(40):
        cut()
        assert boot(works=660)[0] == 0, "ten minutes of work are no brown-out"


def test_a_flash_that_refuses_does_not_stop_the_count():
    fresh()
    real = esp32.NVS.commit

    def refuse(self):
        raise OSError(5)

    esp32.NVS.commit = refuse
    try:
        assert [supervisor.begin() for _ in range(5)] == [0, 0, 0, 2, 2]
    finally:
        esp32.NVS.commit = real


def test_safe_mode_lasts_a_day_or_until_it_is_called_off():
    fresh()
    boot()
    supervisor.climb("enter", True)
    supervisor.planned()
    assert boot()[0] == 3
    supervisor.climb("enter", False)
    supervisor.planned()
    assert boot() == (0, -1) and not supervisor.trial


class Leaky(kit.Scripted):
    """Keeps a little more with every reading; takes its time, so that the other one reads meanwhile."""

    def __init__(self, channels, keeps, ms):
        kit.Scripted.__init__(self, channels, lambda: 5)
        self.keeps, self.ms, self.kept = keeps, ms, []

    async def read_into(self, out):
        await asyncio.sleep_ms(self.ms)
        if self.keeps:
            self.kept.append(bytearray(self.keeps))
        out[0] = 1


async def test_the_sensor_that_keeps_memory_is_found_though_both_read_at_once_and_is_blamed_for_the_memory_error():
    for leaky in (0, 1):
        fresh()
        supervisor.begin()
        both = [Sensor("a", Leaky(("pm1",), 0, 700)), Sensor("b", Leaky(("pm25",), 0, 300))]
        both[leaky].driver.keeps = 128
        scales = Scales(2)

        async def poll(i, scales=scales, both=both):
            while True:
                await scales.read(i, both[i])
                await asyncio.sleep(60)

        tasks = [asyncio.create_task(poll(0)), asyncio.create_task(poll(1))]
        await asyncio.sleep(1800)
        for task in tasks:
            task.cancel()
        assert supervisor.suspect == leaky + 1, (supervisor.suspect, scales.kept)
        assert 2 * scales.kept[1 - leaky] < scales.kept[leaky], scales.kept
        supervisor.rtc.buf[ENTERED] = 2 - leaky  # what was entered last is innocent
        try:
            supervisor.ended(MemoryError("memory allocation failed"))
        except sim.Reset:
            pass
        assert machine.RTC().memory()[ENTERED] == leaky + 1
        words.forget()
    gc.collect()


def test_ctrl_c_in_the_field_is_a_reset_that_counts_nothing():
    fresh()
    supervisor.begin()
    assert micropython.interrupt_char == -1, "noise on the line is not even seen"
    try:
        supervisor.ended(KeyboardInterrupt())
    except sim.Reset as e:
        assert (e.kind, e.arg) == ("R", "hard")
    else:
        raise AssertionError("the REPL")
    assert machine.RTC().memory()[CRASHES] == 0
    supervisor.allow_repl(True)
    assert micropython.interrupt_char == 3
    supervisor.ended(KeyboardInterrupt())
    supervisor.allow_repl(False)


def test_a_planned_end_resets_at_once_and_leaves_no_words():
    fresh()
    supervisor.begin()
    try:
        supervisor.ended(Planned())
    except sim.Reset as e:
        assert (e.kind, e.arg) == ("R", "hard")
    assert words.last() == "" and machine.RTC().memory()[CRASHES] == 0


def test_last_words_begin_with_the_place():
    fresh()
    supervisor.begin()
    try:
        raise ValueError("broken sensor")
    except ValueError as e:
        words.keep(e)
    text = words.last()
    place, rest = text.split(" ", 1)
    assert place.split(":")[0] == "test_engine_ladder" and int(place.split(":")[1]) > 200, text
    assert rest == "ValueError: broken sensor"
    words.forget()

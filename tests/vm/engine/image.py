"""The image of a sleeping node in RTC memory: each part reads what it wrote, whatever its state, and what does not match is believed by nobody."""

import random
from array import array

import nodekit as kit
import sim
from mote.errors import Corrupt
from mote.sampler import Sensor

KEYS = {
    "air_quality": ("pm1", "pm25", "pm10", "temperature", "humidity", "pressure"),
    "bin_fill": ("distance", "fill_level", "temperature", "tilt"),
}
RULES = {
    "air_quality": [{"q": "pm10", "above": 50}, {"q": "pm10", "above": 80, "hold": 3}, {"q": "pm10", "above": 120}, {"q": "pm10", "below": 5}],
    "bin_fill": [{"q": "fill_level", "above": 50}, {"q": "fill_level", "above": 80}, {"q": "tilt", "above": 30}, {"q": "tilt", "above": 60}],
    "water_meter": [{"q": "water_flow", "above": 500}, {"q": "water_flow", "above": 900}, {"q": "water_volume", "above": 10000}],
}  # fmt: skip


class Asleep(kit.Link):
    hold_pin = None

    def rest(self):
        pass


def build(profile, rules, first=True):
    sensors = None
    if profile in KEYS:
        keys = KEYS[profile]
        sensors = [Sensor("a", kit.Scripted(keys[:2], lambda: 1)), Sensor("b", kit.Scripted(keys[2:], lambda: 2))]
    return kit.make_node(
        Asleep(kit.Gateway()),
        sensors,
        profile,
        None if first else 1,
        mode="sleep",
        sample_s=300,
        row_s=900,
        alarms=rules,
    )


def stir(node):
    """Bring all that is kept over a sleep into some state that it may have."""
    r, now = random.randint, node.clock.now()
    for _ in range(r(0, 3)):
        row = array("i", [r(-9, 900) for _ in node.ids])
        for _ in range(r(1, 4)):
            for c in range(len(node.ids)):
                node.sampler._stats.add(c, row[c])
        if r(0, 1):
            node.batcher.append(now // 900 * 900 + 900 * node.batcher.rows, row, r(1, (1 << len(row)) - 1))
    for rule in node.alarms.rules:
        rule.run, rule.active, rule.changed_t = r(0, 5), bool(r(0, 1)), r(0, now)
        if rule.active:
            rule.told, rule.told_t = r(-90, 9000), r(0, now)
    for rule in node.alarms.rules:
        node.alarms._keep(rule.bit)
    node.alarms._look()
    for s in node.sampler._sensors:
        s.slot, s.failures, s.faults, s.skip, s.works, s.beyond = (
            r(0, now),
            r(0, 9),
            r(0, 9),
            r(0, 32),
            bool(r(0, 1)),
            r(0, 3),
        )
    node.sampler.row_t, node.sampler._lap = r(0, now), r(0, 59)
    node.uplink._failures, node.uplink._retry_at, node.uplink._probe = r(0, 16), r(0, 9999), r(0, 99)
    for _ in range(r(0, 3)):
        node.sealer._counter.take()
    if r(0, 1):
        node.raise_alarm(2, now, node.ids[0], r(-9, 900), 5, 128)
    node.health._last, node.control.until = r(0, 9999), r(0, 9999)


def written(node):
    """What each part would write now."""
    out = []
    for part in node._sleeper._parts:
        numbers = array("i")
        part.save(numbers.append)
        if part is node.uplink:
            numbers[7] = 0  # an uptime: now
        out.append((type(part).__name__, list(numbers)))
    return out


def asleep(node):
    try:
        node._sleeper.sleep(600)
    except sim.Reset:
        return
    raise AssertionError("awake")


def rules(alarms):
    return [(a.run, a.active, a.changed_t) + ((a.told, a.told_t) if a.active else ()) for a in alarms.rules]


def test_what_every_part_reads_after_a_sleep_is_what_it_wrote_whatever_its_state():
    random.seed(5)
    for profile in RULES:
        for _ in range(12):
            kit.clean()
            kit.known_time()
            some = [spec for spec in RULES[profile] if random.randint(0, 3)]
            node = build(profile, some)
            stir(node)
            wrote, was, boosting, held = written(node), rules(node.alarms), node.alarms.boosting, node.batcher.rows
            asleep(node)
            node = build(profile, some, False)
            assert node.woke and rules(node.alarms) == was and node.alarms.boosting == boosting, (
                was,
                rules(node.alarms),
            )
            assert node.batcher.rows == held
            got = written(node)
            assert got == wrote, (profile, some, [(wrote[i], got[i]) for i in range(len(got)) if wrote[i] != got[i]])


def test_the_image_has_room_for_every_rule_that_a_configuration_may_have():
    for profile in RULES:
        kit.clean()
        kit.known_time()
        node = build(profile, (RULES[profile] * 5)[: 15 - (profile == "bin_fill")])
        for rule in node.alarms.rules:
            rule.active = True
        asleep(node)


def test_a_part_that_reads_more_or_less_than_it_wrote_ends_the_boot_and_the_next_one_has_its_rows_from_flash():
    parts = 9
    for place in range(parts):
        for more in (-1, 1, 900):
            kit.clean()
            kit.known_time()
            node = build("bin_fill", RULES["bin_fill"])
            assert len(node._sleeper._parts) == parts
            t = node.clock.now() // 3600 * 3600 + 900
            for i in range(3):
                node.batcher.append(t + 900 * i, array("i", (900, 10, 200, 2)), 15)
            part = type(node._sleeper._parts[place])
            load = part.load
            if more < 0 and place == parts - 1:
                continue  # a bin keeps nothing

            def wrong(self, get, load=load, more=more):
                if more > 0:
                    load(self, get)
                for _ in range(more):
                    get()

            asleep(node)
            part.load = wrong
            try:
                node = build("bin_fill", RULES["bin_fill"], False)
            except Exception as e:
                assert isinstance(e, Corrupt), repr(e)
            else:
                raise AssertionError("believed")
            finally:
                part.load = load
            node = build("bin_fill", RULES["bin_fill"], False)
            assert not node.woke and node.batcher.recover() == 3


def test_an_image_of_another_rung_of_the_ladder_is_not_believed():
    """There it has other rules and sensors."""
    from mote import supervisor

    kit.clean()
    kit.known_time()
    node = build("bin_fill", RULES["bin_fill"])
    node.batcher.append(node.clock.now() // 3600 * 3600 + 900, array("i", (900, 10, 200, 2)), 15)
    asleep(node)
    begin = supervisor.begin

    def higher():
        begin()
        supervisor.level = 2

    supervisor.begin = higher
    try:
        node = build("bin_fill", RULES["bin_fill"], False)
    finally:
        supervisor.begin, supervisor.level = begin, 0
    assert not node.woke and node.batcher.recover() == 1


def test_rows_that_rtc_memory_did_not_keep_over_a_sleep_are_counted():
    import machine

    kit.clean()
    kit.known_time()
    node = build("bin_fill", [])
    t = node.clock.now() // 3600 * 3600 + 900
    for i in range(2):
        node.batcher.append(t + 900 * i, array("i", (900, 10, 200, 2)), 15)
    asleep(node)
    memory = bytearray(machine.RTC().memory())
    memory[310] ^= 1
    machine.fill_rtc(bytes(memory))
    node = build("bin_fill", [], False)
    assert node.woke and node.batcher.rows == 0 and node.rows_lost == 2, (node.woke, node.batcher.rows, node.rows_lost)

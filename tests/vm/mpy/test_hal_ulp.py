"""The sleeping node's pulse counter: its machine code, and what it counts on the coprocessor's stand-in."""

import random

import esp32
import machine
import micropython
import sim
import sim_hw
import sim_ulp
from chips.pulse import PulseChip
from machine import mem32
from mote.errors import BadConfig
from mote.hal import reset
from mote.hal.ulp import Asm, Counter, image, pad, program
from mote.hal.ulp_run import MOST

BASE = 0x50000000


class Line:
    """A pin that a test moves: [(from_us, level), ...]."""

    def __init__(self, level=0):
        self.steps = [(0, level)]

    def to(self, level):
        self.steps.append((sim.now_us(), level))

    def level(self, t):
        value = 0
        for at, level in self.steps:
            if at <= t:
                value = level
        return value

    def next_edge(self, t, until):
        for at, _ in self.steps:
            if t < at <= until:
                return at
        return None

    def pulse(self, high_ms=60, low_ms=60):
        self.to(1)
        sim.advance_ms(high_ms)
        self.to(0)
        sim.advance_ms(low_ms)


def board(pin=34, chip="esp32", line=None, **how):
    """A board after power-on; return its line and counter."""
    sim_hw.chip = chip
    sim_hw.pulse.clear()
    line = line or Line()
    sim.attach_pulse(pin, line)
    sim.reboot(machine.PWRON_RESET)
    return line, Counter(pin, chip, **how)


def sleep(ms, pin=34, chip="esp32", cause=machine.DEEPSLEEP_RESET, **how):
    """Deep sleep (or a reset of another cause) and the counter of the next boot."""
    try:
        if cause == machine.DEEPSLEEP_RESET:
            machine.deepsleep(ms)
        machine.reset()
    except sim.Reset:
        pass
    sim.reboot(cause, ms)
    return Counter(pin, chip, **how)


def test_the_s3_encodings_are_those_of_the_public_assemblers():
    """Words of micropython-esp32-ulp's listing of all opcodes (cpu esp32s2, the S3's format); the ESP32's are judged by test_ulp_judge.py."""
    for want, name, args in (
        ("230d8810", "reg_wr", (1, 0x23 << 2, 1, 2, 3)), ("21030421", "reg_rd", (3, 0x21 << 2, 2, 1)), ("07000040", "wait", (7,)),
        ("8b010068", "st", (3, 2, 0)), ("89210068", "st", (1, 2, 8)), ("060000d0", "ld", (2, 1, 0)), ("092000d0", "ld", (1, 2, 8)),
        ("06000070", "alu", (0, 2, 1, 0)), ("06004070", "alu", (2, 2, 1, 0)), ("06000074", "alui", (0, 2, 1, 0)), ("06004074", "alui", (2, 2, 1, 0)),
        ("01008074", "alui", (4, 1, 0, 0)), ("0600c074", "alui", (6, 2, 1, 0)), ("01000080", "jump_below", (1, 0)), ("05000480", "jump_below", (5, 1)),
        ("06002070", "alu", (1, 2, 1, 0)), ("01000090", "wake", ()), ("000000b0", "halt", ()),
    ):  # fmt: skip
        a = Asm(True)
        getattr(a, name)(*args)
        assert bytes(a.code).hex() == want, (name, args, bytes(a.code).hex())


def test_every_rtc_pin_counts_and_no_other_is_taken():
    pins = {"esp32": (0, 2, 4, 12, 13, 14, 15, 25, 26, 27, 32, 33, 34, 35, 36, 37, 38, 39), "esp32s3": tuple(range(22))}
    for chip in pins:
        for pin in range(49):
            if pin in pins[chip]:
                line, c = board(pin, chip)
                for _ in range(3):
                    line.pulse()
                assert c.value() == 3, (chip, pin, c.value())
                assert len(image(program(pin, chip, 3), 0, 0)) < 2040
                continue
            for function in (Counter, pad):
                try:
                    function(pin, chip)
                    raise AssertionError((chip, pin))
                except BadConfig as e:
                    assert str(pin) in str(e) and chip in str(e)


def test_a_chip_without_this_coprocessor_is_refused_by_name():
    for chip in ("esp32c3", "esp32s2", "esp32c6"):
        try:
            Counter(4, chip)
            raise AssertionError
        except BadConfig as e:
            assert chip in str(e)


def test_what_stands_at_the_start_is_no_pulse():
    for level in (0, 1):
        line, c = board(line=Line(level))
        sim.advance_ms(1000)
        assert c.value() == 0
        line.to(0)
        sim.advance_ms(1000)
        assert c.value() == 0
        line.pulse()
        assert c.value() == 1


def test_a_level_counts_after_three_samples_in_a_row():
    line, c = board()
    for _ in range(50):
        line.to(1)
        sim.advance_ms(19)  # two samples at most
        line.to(0)
        sim.advance_ms(40)
    assert c.value() == 0
    for _ in range(50):
        line.pulse(41, 41)
    assert c.value() == 50
    line.to(1)
    sim.advance_ms(41)
    for _ in range(50):
        line.to(0)
        sim.advance_ms(19)
        line.to(1)
        sim.advance_ms(40)
    assert c.value() == 51
    line, c = board(period_us=2000, samples=1)
    for _ in range(50):
        line.pulse(5, 5)
    assert c.value() == 50


def test_counts_carry_and_wrap():
    line, c = board()
    for edges in (0x7FFE, 0xFFFE, 0x1FFFE, 0x1FFFFFE, 0x3FFFFFFE, 0x7FFFFFFE):
        mem32[BASE] = edges & 0xFFFF
        mem32[BASE + 4] = edges >> 15 & 0xFFFF
        before = c.value()
        assert before == (edges - 1 >> 1) % c.modulus
        for n in range(1, 4):
            line.pulse()
            assert c.value() == (before + n) % c.modulus, (hex(edges), n)
    assert c.modulus == 1 << 24


def test_a_reader_between_the_two_stores_is_right():
    """The high word lags behind by one carry: whoever looks then, or ends the run there, sees the same count."""
    line, c = board()
    for edges in (0x8000, 0x10000, 0x18000, 0x1FF8000):
        mem32[BASE], mem32[BASE + 4] = edges & 0xFFFF, (edges >> 15) - 1
        assert c.value() == edges - 1 >> 1
        sim.advance_ms(20)
        assert mem32[BASE + 4] & 0xFFFF == edges >> 15
        assert c.value() == edges - 1 >> 1


def test_a_run_that_ends_after_any_instruction_costs_no_count():
    """What a reset in the middle of a run does on an S3."""
    for chip, pin in (("esp32", 34), ("esp32s3", 16)):
        line, c = board(pin, chip)
        bit = 1 << (10 + 16 if chip == "esp32s3" else 14 + 4)
        steps = len(program(pin, chip, 3)) // 4
        mem32[BASE], mem32[BASE + 4] = 0x7FFE, 0
        sim_ulp.running = False
        level, want = 0, c.value()
        for limit in range(1, steps + 1):
            for _ in range(2):
                level ^= 1
                try:
                    sim_ulp.one_run(level * bit, limit)
                except sim_ulp.UlpError as e:
                    assert "never halts" in str(e)
                for _ in range(4):
                    sim_ulp.one_run(level * bit)
                want += level
                assert c.value() == want, (chip, limit, level)
        for limit in range(1, steps + 1):  # cut in the run that accepts, and seen at once
            level ^= 1
            sim_ulp.one_run(level * bit)
            sim_ulp.one_run(level * bit)
            try:
                sim_ulp.one_run(level * bit, limit)
            except sim_ulp.UlpError:
                pass
            assert c.value() in (want, want + level), (chip, limit)
            sim_ulp.one_run(level * bit)
            want += level
            assert c.value() == want, (chip, limit)
    sim_hw.chip = "esp32"


def test_the_count_goes_on_through_every_reset_but_power_on():
    line, c = board()
    for _ in range(7):
        line.pulse()
    life = c.life
    assert c.fresh and c.value() == 7
    for cause in (machine.DEEPSLEEP_RESET, machine.WDT_RESET, machine.HARD_RESET, machine.SOFT_RESET):
        c = sleep(1000, cause=cause)
        assert not c.fresh and c.life == life and c.value() == 7
        line.pulse()
        line.pulse()
        assert c.value() == 9, cause
        mem32[BASE] = 16  # 7 again
    sim.reboot(machine.PWRON_RESET)
    c = Counter(34)
    assert c.fresh and c.value() == 0


def test_after_power_on_nothing_is_believed_however_whole_it_looks():
    """A brown-out may leave the words in place, but nobody counted meanwhile."""
    line, c = board()
    line.pulse()
    state = sim_ulp.saved()
    life = c.life
    sim.reboot(machine.PWRON_RESET)
    sim_ulp.load(state)
    c = Counter(34)
    assert c.fresh and c.value() == 0 and c.life == (life + 1) % 64


def test_another_program_or_damage_begins_a_new_life():
    line, c = board()
    line.pulse()
    life = c.life
    for how in ({"samples": 4}, {"samples": 3}):
        c = sleep(1000, **how)
        assert c.fresh and c.value() == 0 and c.life == (life + 1) % 64
        life = c.life
        line.pulse(100, 100)
    c = sleep(1000, period_us=5000)
    assert not c.fresh and c.value() == 1, "the period is no part of the program"
    mem32[BASE + 44] ^= 1 << 20
    c = sleep(1000)
    assert c.fresh and c.life == (life + 1) % 64


def test_pulses_in_deep_sleep_are_counted():
    start = sim.now_us() + 300000
    sim.values["water_pulses"] = lambda t: max(0, t - start) / 200000  # five a second
    line, c = board(line=PulseChip(sim.sense, sim.now_us))
    c = sleep(3600000)
    assert (sim.now_us() - start) // 200000 - 1 <= c.value() <= (sim.now_us() - start) // 200000 and c.value() > 18000


def nap(ms):
    """Deep sleep; return how long it lasted, ms."""
    try:
        machine.deepsleep(ms)
    except sim.Reset as e:
        return e.arg


def test_a_count_wakes_the_node_from_deep_sleep_and_no_sooner():
    for chip, pin in (("esp32", 34), ("esp32s3", 16)):
        start = sim.now_us() + 400000
        sim.values["water_pulses"] = lambda t, start=start: max(0, t - start) / 2000000  # one in two seconds
        line, c = board(pin, chip, PulseChip(sim.sense, sim.now_us))
        for ahead in (1, 2, 34, 1000):
            sim.advance_ms(700)
            before = c.value()
            c.wake_at(ahead)
            ms = nap(3600000)
            assert 2000 * (ahead - 1) - 700 < ms < 2000 * ahead + 100, (chip, ahead, ms)
            sim.reboot(machine.DEEPSLEEP_RESET, ms)
            c = Counter(pin, chip)
            assert before + ahead == c.value(), (chip, ahead, before, c.value())
        assert nap(3600000) == 3600000, "a start takes it back"
    sim_hw.chip = "esp32"


def test_a_count_that_came_before_the_sleep_began_wakes_at_once():
    line, c = board()
    c.wake_at(2)
    for _ in range(3):
        line.pulse()
    assert nap(60000) < 30


def test_a_target_lies_ahead_wherever_the_count_stands():
    line, c = board()
    for edges in (2, 3, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF):
        for ahead in (1, 2, MOST):
            mem32[BASE], mem32[BASE + 4] = edges, edges >> 15
            c.wake_at(ahead)
            want = edges + 2 * ahead - 1 | 1
            assert mem32[BASE + 16] == want & 0xFFFF and (edges - want) & 0xFFFF >= 0x8000, (edges, ahead)
            assert (want - 1 >> 1) - (edges - 1 >> 1) == ahead


def test_no_count_ends_the_pause_of_a_crash_loop():
    line, c = board()
    c.wake_at(1)
    line.pulse()
    try:
        reset.restart(60000)
    except sim.Reset as e:
        assert e.arg == 60000, e.arg


def test_ext0_and_the_counter_exclude_each_other():
    sim.reboot(machine.PWRON_RESET)
    esp32.wake_on_ext0(machine.Pin(4), 1)
    try:
        Counter(34)
        raise AssertionError
    except ValueError:
        pass
    sim.reboot(machine.PWRON_RESET)
    Counter(34)
    try:
        esp32.wake_on_ext0(machine.Pin(4), 1)
        raise AssertionError
    except ValueError:
        pass


def test_a_look_allocates_nothing():
    line, c = board()
    micropython.heap_lock()
    try:
        v = c.value()
    finally:
        micropython.heap_unlock()
    assert v == 0


class Reed:
    """A meter whose pulses come at random, 150 ms to two minutes apart; only the last minutes are remembered."""

    def __init__(self):
        self.points = [(sim.now_us(), 0)]
        self.at = 0

    def pulses(self, t):
        points = self.points
        while points[-1][0] <= t:
            dt = random.choice((150000, 200000, 900000, 20000000, 120000000)) + random.randrange(50000)
            points.append((points[-1][0] + dt, points[-1][1] + 1))
        i = self.at if self.at < len(points) and points[self.at][0] <= t else 0
        while points[i + 1][0] <= t:
            i += 1
        self.at = i
        t0, n = points[i]
        return n + (t - t0) / (points[i + 1][0] - t0)

    def forget(self):
        while len(self.points) > 3 and self.points[2][0] < sim.now_us() - 1000000:
            self.points.pop(0)
        self.at = 0


def test_a_thousand_deep_sleeps_miss_no_pulse_and_count_none_twice():
    """Pulses at random, also while the reed bounces up to 15 ms at every edge."""
    for seed, fault in ((1, None), (2, "bounce")):
        random.seed(seed)
        reed = Reed()
        sim.values["water_pulses"] = reed.pulses
        chip = PulseChip(sim.sense, sim.now_us)
        chip.fault = fault
        line, c = board(line=chip)
        first = int(reed.pulses(sim.now_us()))
        for n in range(1000):
            cause = machine.WDT_RESET if random.random() < 0.05 else machine.DEEPSLEEP_RESET
            c = sleep(random.randrange(200000), cause=cause)
            now = sim.now_us()
            got, after = c.value(), int(reed.pulses(now)) - first
            settled = int(reed.pulses(now - 60000)) - first  # the last one may still be bouncing
            assert settled <= got <= after, (n, settled, got, after)
            reed.forget()
        assert not c.fresh and got > 3000, got

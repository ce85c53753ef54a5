"""The ULP coprocessor's stand-in: machine code executed, memory kept, time skipped only where nothing can change."""

import random
import struct

import esp32
import machine
import sim
import sim_hw
import sim_ulp
from chips.pulse import PulseChip
from machine import mem8, mem16, mem32
from mote.hal.ulp import Asm, image, program

BASE = 0x50000000
ADD, SUB, AND, OR, MOVE, LSH, RSH = range(7)


def board(pin=34, chip="esp32", meter=None):
    sim_hw.chip = chip
    sim_hw.pulse.clear()
    if meter is not None:
        sim.attach_pulse(pin, meter)
    sim_ulp.power_on()
    sim_ulp.wire()


def load(code, words=4, at=0):
    body = bytes(4 * words) + bytes(code)
    esp32.ULP().load_binary(at, struct.pack("<IHHHH", 0x00706C75, 12, len(body), 0, 0) + body)


def execute(chip, write, inputs=0):
    """Assemble with `write(asm)`, end with HALT, run once; return R0..R3 at the end and the four words before the code."""
    board(chip=chip)
    a = Asm(chip == "esp32s3")
    write(a)
    a.halt()
    load(a.code)
    sim_ulp.entry = 4
    sim_ulp.one_run(inputs)
    return list(sim_ulp._regs)[:4], [mem32[BASE + 4 * i] for i in range(4)]


def test_arithmetic_has_sixteen_bits():
    def write(a):
        a.alui(MOVE, 0, 0, 0xFFFF)
        a.alui(ADD, 1, 0, 2)
        a.alui(SUB, 2, 1, 3)
        a.alui(MOVE, 3, 0, 0x0F0F)
        a.alu(AND, 0, 0, 3)
        a.alui(OR, 0, 0, 0x3000)
        a.alui(LSH, 3, 3, 4)
        a.alui(RSH, 1, 3, 8)

    for chip in ("esp32", "esp32s3"):
        assert execute(chip, write)[0] == [0x3F0F, 0xF0, 0xFFFE, 0xF0F0], chip


def test_registers_move_and_subtract():
    def write(a):
        a.alui(MOVE, 0, 0, 1234)
        a.alu(MOVE, 1, 0, 0)
        a.alui(MOVE, 2, 0, 4)
        a.alu(SUB, 3, 1, 2)
        a.alu(OR, 2, 2, 3)

    for chip in ("esp32", "esp32s3"):
        assert execute(chip, write)[0] == [1234, 1234, 1230 | 4, 1230], chip


def test_a_store_leaves_the_program_counter_in_the_high_half_on_the_esp32_only():
    def write(a):
        a.alui(MOVE, 3, 0, 1)
        a.alui(MOVE, 0, 0, 0xBEEF)
        a.st(0, 3, 1)  # the third instruction, word 6: address register R3
        a.ld(2, 3, 1)

    regs, words = execute("esp32", write)
    assert words[2] == (6 << 5 | 3) << 16 | 0xBEEF and regs[2] == 0xBEEF, [hex(w) for w in words]
    regs, words = execute("esp32s3", write)
    assert words[2] == 0xBEEF and regs[2] == 0xBEEF


def test_a_jump_is_taken_only_below_its_limit():
    def write(a):
        a.alui(MOVE, 1, 0, 0)
        a.alui(MOVE, 0, 0, 5)
        a.jump_below(5, 2)
        a.alui(ADD, 1, 1, 1)
        a.jump_below(6, 2)
        a.alui(ADD, 1, 1, 2)
        a.jump_below(0xFFFF, 3)
        a.alui(ADD, 1, 1, 4)
        a.alui(ADD, 1, 1, 8)

    for chip in ("esp32", "esp32s3"):
        assert execute(chip, write)[0][1] == 1, chip


def test_a_pin_reads_only_through_a_routed_pad_without_its_reset_pull():
    class Line:
        def next_edge(self, t, until):
            return None

    def read(chip, pin, reg, steps):
        board(pin, chip, Line())
        a = Asm(chip == "esp32s3")
        for peripheral, register, high, low, value in steps:
            a.reg_wr(peripheral, register, high, low, value)
        a.reg_rd(1, 0x24, 31, 31 - 15)
        a.halt()
        load(a.code)
        sim_ulp.entry = 4
        sim_ulp.one_run(1 << 31 | 1 << 24 | 1 << 18)
        return sim_ulp._regs[0]

    sensor = [(1, 0x80, 26, 26, 1), (1, 0x80, 21, 21, 1)]
    assert read("esp32", 34, 0x80, sensor) == 1 << 18 - 16
    assert read("esp32", 34, 0x80, sensor[:1]) == 0 and read("esp32", 34, 0x80, sensor[1:]) == 0
    touch = [(1, 0xB0, 19, 19, 1), (1, 0xB0, 13, 13, 1)]  # GPIO 27, pulled down after reset
    assert read("esp32", 27, 0xB0, touch) == 0
    assert read("esp32", 27, 0xB0, touch + [(1, 0xB0, 28, 27, 0)]) == 1 << 31 - 16
    pad14 = [(1, 0xBC, 19, 19, 1), (1, 0xBC, 13, 13, 1), (1, 0xBC, 28, 27, 0)]
    assert read("esp32s3", 14, 0xBC, pad14) == 0, "the S3's pads need a clock"
    assert read("esp32s3", 14, 0xBC, pad14 + [(2, 0x104, 31, 31, 1)]) == 1 << 24 - 16


def test_what_is_not_modelled_is_refused_by_name():
    board()
    for word, name in (
        (0x50000000, "0x50000000"), (0x80800000 | 1 << 22, "0x80c00000"), (0x00000000, "0x00000000"), (0x92000000, "0x92000000"),
        (0x84000000, "0x84000000"),
    ):  # fmt: skip
        load(struct.pack("<II", word, 0xB0000000))
        sim_ulp.entry = 4
        try:
            sim_ulp.one_run(0)
            raise AssertionError(name)
        except sim_ulp.UlpError as e:
            assert name in str(e), e
    load(struct.pack("<I", 0x80000000 | 4 << 2))  # JUMP to itself
    try:
        sim_ulp.one_run(0)
        raise AssertionError
    except sim_ulp.UlpError as e:
        assert "never halts" in str(e)


def test_wake_ends_a_deep_sleep_at_its_run_and_nothing_when_awake():
    board()
    load(struct.pack("<II", 0x90000001, 0xB0000000))
    esp32.wake_on_ulp(True)
    esp32.ULP().set_wakeup_period(0, 7000)
    esp32.ULP().run(16)
    sim.advance_ms(1000)
    for may, slept in ((True, 7), (False, 60000)):
        esp32.wake_on_ulp(may)
        try:
            machine.deepsleep(60000)
            raise AssertionError
        except sim.Reset as e:
            assert e.kind == "Z" and (e.arg == slept if not may else 1 <= e.arg <= slept), e.arg
    sim_ulp.power_on()


def test_loading_checks_the_header_and_the_room_as_esp_idf_does():
    ulp = esp32.ULP()
    assert ulp.RESERVE_MEM == 2040
    good = struct.pack("<IHHHHI", 0x00706C75, 12, 4, 0, 8, 0xB0000000)
    for data, at, code in (
        (good[:8], 0, 0x104), (good + b"\0", 0, 0x104), (good + bytes(4), 0, 0x104), (b"elf\0" + good[4:], 0, 0x106), (good, 508, 0x104), (good, 511, 0x102),
    ):  # fmt: skip
        try:
            ulp.load_binary(at, data)
            raise AssertionError(code)
        except OSError as e:
            assert e.errno == code, (e.errno, code)
    for i in range(4):
        mem32[BASE + 8 + 4 * i] = 0x11111111
    ulp.load_binary(2, good)
    assert [mem32[BASE + 8 + 4 * i] for i in range(4)] == [0xB0000000, 0, 0, 0x11111111]
    try:
        ulp.set_wakeup_period(5, 1000)
        raise AssertionError
    except OSError as e:
        assert e.errno == 0x102


def test_memory_is_read_by_word_half_and_byte_and_nothing_else_exists():
    mem32[BASE + 100] = 0xDDCCBBAA
    assert mem32[BASE + 100] == 0xDDCCBBAA and mem16[BASE + 102] == 0xDDCC and mem8[BASE + 101] == 0xBB
    mem8[BASE + 103] = 0x11
    mem16[BASE + 100] = 0x2233
    assert mem32[BASE + 100] == 0x11CC2233
    for address in (BASE + 2, BASE - 4, BASE + 2040, 0x3FF48424):
        try:
            mem32[address]
            raise AssertionError(address)
        except ValueError:
            pass


def start(period=10000, pin=34):
    ulp = esp32.ULP()
    code = program(pin, sim_hw.chip, 3)
    ulp.load_binary(0, image(code, machine.Pin(pin).value(), 0))
    esp32.wake_on_ulp(True)
    ulp.set_wakeup_period(0, period)
    ulp.run(20)  # behind the program's words


def test_memory_and_program_outlive_everything_but_power():
    sim.values["water_pulses"] = lambda t: t / 1e6
    board(meter=PulseChip(sim.sense, sim.now_us))
    start()
    sim.advance_ms(10500)
    before = mem16[BASE]
    assert before > 15, before
    for cause in (machine.DEEPSLEEP_RESET, machine.WDT_RESET, machine.HARD_RESET, machine.SOFT_RESET):
        sim_ulp.last_look("R")
        sim.reboot(cause)
        sim.advance_ms(5000)
        assert mem16[BASE] >= before + 10, cause
        before = mem16[BASE]
    sim.reboot(machine.PWRON_RESET)
    noise = [mem32[BASE + 4 * i] for i in range(510)]
    assert len(set(noise)) > 400
    sim.advance_ms(5000)
    assert noise == [mem32[BASE + 4 * i] for i in range(510)]


def test_in_deep_sleep_it_runs_only_if_it_may_wake_the_chip():
    sim.values["water_pulses"] = lambda t: t / 1e6
    for kept in (True, False):
        board(meter=PulseChip(sim.sense, sim.now_us))
        start()
        esp32.wake_on_ulp(kept)
        sim.advance_ms(100)
        try:
            machine.deepsleep(60000)
            raise AssertionError
        except sim.Reset as e:
            assert (e.kind, e.arg) == ("Z", 60000)
        before = mem16[BASE]
        sim.reboot(machine.DEEPSLEEP_RESET, 60000)
        assert (mem16[BASE] - before > 100) == kept
    esp32.wake_on_ulp(False)


def test_what_it_keeps_can_be_carried_to_another_boot():
    sim.values["water_pulses"] = lambda t: t / 1e6
    board(meter=PulseChip(sim.sense, sim.now_us))
    start()
    sim.advance_ms(5000)
    state = sim_ulp.last_look("Z")
    sim_ulp.power_on()
    sim.advance_ms(100000)
    sim_ulp.load(state)
    assert mem16[BASE] >= 2 + 2 * 100, "what came meanwhile is caught up"


class Random:
    """Pulses as wild as a line can be: any length from 1 ms, in bursts, over a quiet ground."""

    def __init__(self, seed):
        random.seed(seed)
        self.edges = []
        t = sim.now_us()
        for _ in range(300):
            t += random.choice((1000, 7000, 11000, 23000, 35000, 60000, 300000, 4000000)) + random.randrange(9000)
            self.edges.append(t)

    def level(self, t):
        n = 0
        for e in self.edges:
            n += e <= t
        return n & 1

    def next_edge(self, t, until):
        for e in self.edges:
            if e > t:
                return e if e <= until else None


def test_leaving_out_idle_runs_changes_nothing():
    for seed in range(6):
        chip = ("esp32", "esp32s3")[seed & 1]
        pin = (34, 16)[seed & 1]
        line = Random(seed)
        board(pin, chip, line)
        start(5000 + 1000 * seed, pin)
        first, end = sim_ulp.due, line.edges[-1] + 1000000
        sim.advance_ms((end - sim.now_us()) // 1000)
        lazy = [mem32[BASE + 4 * i] for i in range(4)]
        board(pin, chip, line)
        esp32.ULP().load_binary(0, image(program(pin, chip, 3), 0, 0))
        bit = 10 + pin if chip == "esp32s3" else 14 + 4
        runs, changed, t = 0, 0, first
        while t <= sim.now_us():
            changed += sim_ulp.one_run(line.level(t) << bit) & 1
            runs += 1
            t += sim_ulp.period
        assert lazy == [mem32[BASE + 4 * i] for i in range(4)], (seed, lazy)
        assert changed < runs // 3 and lazy[0] & 0xFFFF > 50
    sim_hw.chip = "esp32"

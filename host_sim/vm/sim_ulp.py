"""The ULP coprocessor (FSM) of ESP32 and ESP32-S3: RTC slow memory, and an interpreter of the machine code in it.

Instruction formats and effects: ESP-IDF, ulp_fsm/include/esp32{,s3}/ulp.h and "ULP instruction set". A run begins with the RTC peripherals' registers at
their reset values and noise in R0..R3, as after a pause in deep sleep, so it is a function of memory and pins alone. That makes time cheap:
when a run changed no word, all runs before the next edge of a pin would change none either, and are left out (host_sim/DECISIONS.md).
Not modelled, refused by name: conditional absolute jumps, the stage counter's jumps, ADC, I2C, TSENS, SLEEP.
"""

import struct
from array import array

import sim_clock as _c
import sim_hw as _hw

BASE = 0x50000000
RESERVE = 2040  # bytes: CONFIG_ULP_COPROC_RESERVE_MEM of the esp32 port

_VIPER = """
@micropython.viper
def run(mem: ptr32, words: int, regs: ptr32, io: ptr32, pads: ptr32, inputs: int, s3: int, pc: int, limit: int) -> int:
    i = 0
    while i < 1024:
        io[i] = 0
        i += 1
    i = 0
    while pads[i]:
        io[pads[i]] = pads[i + 2] & (1 << 28)  # RDE is set at reset in pads that have it
        i += 4
    i = 0
    while i < 4:
        regs[i] = 0xA5C3 ^ (0x1111 * i)
        i += 1
    steps = 0
    result = 0
    while steps < limit:
        steps += 1
        if pc >= words:
            regs[7] = pc
            return -1
        w = mem[pc]
        op = (w >> 28) & 15
        nxt = pc + 1
        if op == 7:
            sub = (w >> 26) & 3 if s3 else (w >> 25) & 7
            sel = (w >> 21) & 15
            if sub > 1 or sel > 6:
                regs[7] = pc
                return -1
            a = regs[(w >> 2) & 3]
            b = (w >> 4) & 0xFFFF if sub else regs[(w >> 4) & 3]
            if sel > 4 and b > 15:  # undefined on the chip
                regs[7] = pc
                return -1
            if sel == 0:
                a = a + b
            elif sel == 1:
                a = a - b
            elif sel == 2:
                a = a & b
            elif sel == 3:
                a = a | b
            elif sel == 4:
                if sub:
                    a = b
            elif sel == 5:
                a = a << b
            else:
                a = a >> b
            regs[w & 3] = a & 0xFFFF
        elif op == 13 or op == 6:
            at = (regs[(w >> 2) & 3] + ((w >> 10) & 0x7FF)) & 0x7FF
            if at >= words:
                regs[7] = pc
                return -1
            old = mem[at]
            if op == 13:
                regs[w & 3] = (old >> 16 if s3 and (w >> 27) & 1 else old) & 0xFFFF
            else:
                v = regs[w & 3]
                if (w >> 25) & 7 != 4 or s3 and (w >> 7) & 3 != 3:
                    regs[7] = pc
                    return -1
                if not s3:
                    v = v | (((pc << 5) | ((w >> 2) & 3)) << 16)
                elif (w >> 6) & 1:
                    v = (old & 0xFFFF) | (v << 16)
                else:
                    v = ((old >> 16) << 16) | v
                if v != old:
                    mem[at] = v
                    result |= 1
        elif op == 8:
            if s3:
                sub = (w >> 26) & 3
                absolute = 1
                cmp = (w >> 16) & 3
                off = (w >> 18) & 127
                sign = (w >> 25) & 1
            else:
                sub = (w >> 25) & 7
                absolute = 0
                cmp = (w >> 16) & 1
                off = (w >> 17) & 127
                sign = (w >> 24) & 1
            if sub == absolute:
                if (w >> 22) & 7:
                    regs[7] = pc
                    return -1
                nxt = regs[w & 3] if (w >> 21) & 1 else (w >> 2) & 0x7FF
            elif sub > 1 or cmp == 3:
                regs[7] = pc
                return -1
            else:
                imm = w & 0xFFFF
                r0 = regs[0]
                taken = 0
                if cmp == 0:
                    if r0 < imm:
                        taken = 1
                elif cmp == 2:
                    if r0 == imm:
                        taken = 1
                elif s3:
                    if r0 > imm:
                        taken = 1
                elif r0 >= imm:
                    taken = 1
                if taken:
                    nxt = pc - off if sign else pc + off
        elif op == 1 or op == 2:
            low = (w >> 18) & 31
            width = ((w >> 23) & 31) - low + 1
            at = w & 0x3FF
            if width < 1 or width > 16 or op == 1 and width > 8:
                regs[7] = pc
                return -1
            mask = (1 << width) - 1
            if op == 1:
                io[at] = (io[at] & ~(mask << low)) | ((((w >> 10) & 255) & mask) << low)
            else:
                v = io[at]
                if at == 0x109:
                    v = 0
                    if not s3 or (io[0x241] >> 31) & 1:
                        i = 0
                        while pads[i]:
                            v2 = io[pads[i]]
                            if v2 & pads[i + 1] == pads[i + 1] and not v2 & pads[i + 2]:
                                v |= inputs & pads[i + 3]
                            i += 4
                regs[0] = (v >> low) & mask
        elif op == 4:
            pass
        elif op == 9 and w & 0xFFFFFFE == 0:
            result |= (w & 1) << 1
        elif op == 11:
            return result
        else:
            regs[7] = pc
            return -1
        pc = nxt
    return -2
"""


class UlpError(Exception):
    """The program does what this model cannot, or never halts."""


words = array("I", bytes(RESERVE))
running = False
entry = 0
period = 10000  # us
due = 0  # when the next run starts
used = 0  # words that someone wrote
touched = False  # in this boot: the world must hear of it
keep_in_sleep = False  # esp32.wake_on_ulp
_regs = array("I", bytes(32))
_io = array("I", bytes(4096))
_pads = array("I", [0])
_inputs = []  # [bit of RTC_GPIO_IN, chip]
_s3 = 0

_space = {}
try:
    exec("import micropython\n" + _VIPER, _space)
except SyntaxError:  # a VM without native emitter: the same text as bytecode, some 30 times slower
    exec(_VIPER.replace("@micropython.viper\n", ""), _space)
_run = _space["run"]


def _pad_rows(chip):
    """(GPIO, register / 4 with RTC_IO's 1 << 8, needed bits MUX_SEL and FUN_IE, pulls that must be off, bit of RTC_GPIO_IN)."""
    if chip == "esp32s3":
        return [(n, 0x121 + n, 1 << 19 | 1 << 13, 3 << 27, 1 << 10 + n) for n in range(22)]
    rows = []
    ungrouped = (
        (36, 0x7C, 27, 19),
        (37, 0x7C, 26, 14),
        (38, 0x7C, 25, 9),
        (39, 0x7C, 24, 4),
        (34, 0x80, 26, 21),
        (35, 0x80, 15, 10),
    )
    for gpio, reg, mux, ie in ungrouped:
        rows.append((gpio, 0x100 | reg >> 2, 1 << mux | 1 << ie, 0, 1 << 14 + len(rows)))
    for gpio, reg, mux, ie, rue in (
        (25, 0x84, 17, 11, 27),
        (26, 0x88, 17, 11, 27),
        (33, 0x8C, 18, 11, 27),
        (32, 0x8C, 17, 5, 22),
    ):
        rows.append((gpio, 0x100 | reg >> 2, 1 << mux | 1 << ie, 3 << rue, 1 << 14 + len(rows)))
    for i, gpio in enumerate((4, 0, 2, 15, 13, 12, 14, 27)):
        rows.append((gpio, 0x100 | 0x94 + 4 * i >> 2, 1 << 19 | 1 << 13, 3 << 27, 1 << 14 + len(rows)))
    return rows


def wire():
    """Look at the board: which chip, which pulse lines hang on RTC pins."""
    global _pads, _inputs, _s3
    _s3 = 1 if _hw.chip == "esp32s3" else 0
    flat, _inputs = [], []
    for gpio, reg, need, off, bit in _pad_rows(_hw.chip):
        chip = _hw.pulse.get(gpio)
        if hasattr(chip, "next_edge"):
            flat += (reg, need, off, bit)
            _inputs.append((bit, chip))
    _pads = array("I", flat + [0])


def power_on():
    """What the memory holds after power-on: noise."""
    global running, used, touched
    x = 0x2545F491 ^ _c.now & 0xFFFFFF
    for i in range(len(words)):
        x = x * 1103515245 + 12345 & 0x7FFFFFFF
        words[i] = x ^ x << 7 & 0xFFFFFFFF
    running, used, touched = False, 0, False


def saved():
    """Everything that outlives this boot, as plain data for the world."""
    return {"words": bytes(memoryview(words)[:used]).hex(), "on": running, "entry": entry, "period": period, "due": due}


def load(state):
    """Take over what saved() of an earlier boot told."""
    global running, entry, period, due, used
    data = bytes.fromhex(state["words"])
    used = len(data) // 4
    for i in range(used):
        words[i] = struct.unpack_from("<I", data, 4 * i)[0]
    running, entry, period, due = state["on"], state["entry"], state["period"], state["due"]


def one_run(inputs, limit=100000):
    """Execute one run with these bits of RTC_GPIO_IN; return 1 when it changed a word, 2 when it said WAKE, 3 for both.

    limit: of instructions; a run that takes more is an UlpError (and a way to see what a reset in the middle of a run leaves behind).
    """
    result = _run(words, len(words), _regs, _io, _pads, inputs, _s3, entry, limit)
    if result < 0:
        pc = _regs[7]
        what = "never halts" if result == -2 else "ran out of memory" if pc >= len(words) else "0x%08x" % words[pc]
        raise UlpError("ULP program at word %d: %s (not modelled)" % (pc, what))
    return result


def catch_up(now, sleeping=False):
    """Bring the coprocessor to `now` (us): every run in which something can change. sleeping: stop behind the first run that says WAKE, and
    return when it was; awake the instruction does nothing (nobody enables its interrupt)."""
    global due
    while running and due <= now:
        inputs = 0
        for bit, chip in _inputs:
            if chip.level(due):
                inputs |= bit
        t = due
        due += period
        result = one_run(inputs)
        if sleeping and result & 2:
            return t
        if result & 1:
            continue
        edge = None
        for _, chip in _inputs:
            e = chip.next_edge(t, now)
            if e is not None and (edge is None or e < edge):
                edge = e
        if edge is None:
            edge = now + 1
        if edge > due:
            due += (edge - due + period - 1) // period * period
    return None


def wakes_in(us):
    """How many us from now the coprocessor wakes the chip from a deep sleep of that length, or None. Nothing is changed: the boot that follows
    sees the same runs again."""
    global due
    if not running or not keep_in_sleep:
        return None
    catch_up(_c.now)
    before, at = bytes(memoryview(words)[:used]), due
    woken = catch_up(_c.now + us, True)
    due = at
    for i in range(used):
        words[i] = struct.unpack_from("<I", before, 4 * i)[0]
    return None if woken is None else max(0, woken - _c.now)


def start(at):
    """esp32.ULP.run(): the timer starts anew."""
    global running, entry, due, touched
    catch_up(_c.now)
    wire()
    running, entry, due, touched = True, at, _c.now + period, True


def set_period(us):
    global period, touched
    catch_up(_c.now)
    period, touched = us, True


def store(index, value):
    """A write from the processor."""
    global used, touched
    words[index] = value & 0xFFFFFFFF
    used, touched = max(used, index + 1), True


def last_look(kind):
    """The boot ends (`kind` as in protocol.py): return what the world must keep, or None when this boot changed nothing."""
    global running
    if not touched and not running:
        return None
    catch_up(_c.now)
    if kind == "Z" and not keep_in_sleep:
        running = False  # nobody keeps its power domain
    return saved()


class Memory:
    """machine.mem32 and its like: RTC slow memory as far as it is the ULP's. What else a board has there does not exist here."""

    def __init__(self, size):
        self._size = size

    def _index(self, address):
        if address % self._size:
            raise ValueError("address %08x is not aligned to %d bytes" % (address, self._size))
        if not BASE <= address <= BASE + RESERVE - self._size:
            raise ValueError("address %08x is not simulated" % address)
        catch_up(_c.now)
        return address - BASE >> 2

    def __getitem__(self, address):
        word = words[self._index(address)]
        return word >> 8 * (address & 3) & (1 << 8 * self._size) - 1

    def __setitem__(self, address, value):
        i = self._index(address)
        shift, mask = 8 * (address & 3), (1 << 8 * self._size) - 1
        store(i, words[i] & ~(mask << shift) | (value & mask) << shift)

"""Pulses counted by the ULP coprocessor (FSM) of an ESP32 or ESP32-S3: awake, asleep and through every reset but power-on.

The program is made here, word by word. Read for it: ESP-IDF's ulp_fsm/include/esp32{,s3}/ulp.h (instruction formats), "ULP instruction set",
rtc_io_periph.c and rtc_io_reg.h (which GPIO is which RTC GPIO, pad registers; of equal pads some, the others by their even spacing). The same is in the
ESP32 and ESP32-S3 technical reference manuals, chapters "ULP Coprocessor" and "IO MUX and GPIO Matrix", which were not at hand. Never run on a board.
The S3 differs in the places of sub-opcodes and in the pads; the ESP32-S2 and RISC-V chips are refused.
"""

import machine
from machine import mem32
from micropython import const
from mote.errors import BadConfig
from mote.hal.ulp_run import LIVES, PERIOD_US, Running

# Words in RTC slow memory, 16 bits each. EDGES counts accepted level changes, so its lowest bit is the accepted level, and one store
# takes over level and count together. HIGH is edges >> 15: it overlaps EDGES by one bit, which tells a reader (and the next run) of a
# carry that has not happened yet. RUN: samples in a row unlike the accepted level. LIFE: which counting this is. TARGET: what EDGES must
# have reached, modulo 2**16, for the program to wake the chip; only the processor writes it, so nothing can be lost between the two.
_EDGES = const(0)
_HIGH = const(1)
_RUN = const(2)
_LIFE = const(3)
_TARGET = const(4)
_CODE = const(5)
_BASE = const(0x50000000)  # RTC slow memory on the data bus
_RTC_IO = const(1)  # peripherals of REG_RD and REG_WR
_SENS = const(2)
_GPIO_IN = const(0x24)  # RTC_GPIO_IN_REG, both chips
_CLOCKS = const(0x104)  # SENS_SAR_PERI_CLK_GATE_CONF_REG of the S3: bit 31 clocks the pads
_ADD = const(0)
_SUB = const(1)
_AND = const(2)
_MOVE = const(4)
_RSH = const(6)

# GPIO, pad register, bits MUX_SEL, FUN_IE, RUE (RDE is the bit above; 0: a pad without pulls); the row's number is the RTC GPIO
_ESP32 = (
    (36, 0x7C, 27, 19, 0), (37, 0x7C, 26, 14, 0), (38, 0x7C, 25, 9, 0), (39, 0x7C, 24, 4, 0), (34, 0x80, 26, 21, 0),
    (35, 0x80, 15, 10, 0), (25, 0x84, 17, 11, 27), (26, 0x88, 17, 11, 27), (33, 0x8C, 18, 11, 27), (32, 0x8C, 17, 5, 22),
    (4, 0x94, 19, 13, 27), (0, 0x98, 19, 13, 27), (2, 0x9C, 19, 13, 27), (15, 0xA0, 19, 13, 27), (13, 0xA4, 19, 13, 27),
    (12, 0xA8, 19, 13, 27), (14, 0xAC, 19, 13, 27), (27, 0xB0, 19, 13, 27),
)  # fmt: skip


class Asm:
    """Instructions of one chip's ULP FSM, appended to `code` (little-endian words); r, s, t are register numbers."""

    def __init__(self, s3):
        self._s3 = s3
        self._sub = 10 if s3 else 9  # the sub-opcode of ALU and branch sits one bit higher on the S3
        self.code = bytearray()

    def _put(self, hi, lo):
        self.code.extend(bytes((lo & 255, lo >> 8, hi & 255, hi >> 8)))

    def here(self):
        """Return the number of instructions so far."""
        return len(self.code) // 4

    def reg_wr(self, peripheral, reg, high, low, value):
        """Register bits high..low = value (8 bits at most); reg is the offset in the peripheral."""
        lo = reg >> 2 | peripheral << 8 | (value & 63) << 10
        self._put(1 << 12 | high << 7 | low << 2 | value >> 6, lo)

    def reg_rd(self, peripheral, reg, high, low):
        """R0 = register bits high..low."""
        self._put(2 << 12 | high << 7 | low << 2, reg >> 2 | peripheral << 8)

    def wait(self, cycles):
        self._put(4 << 12, cycles)

    def ld(self, r, s, offset):
        """r = low half of the word at s + offset (words)."""
        self._put(13 << 12 | offset >> 6, r | s << 2 | (offset & 63) << 10)

    def st(self, r, s, offset):
        """Low half of the word at s + offset = r; the ESP32 puts the program counter into the high half."""
        self._put(6 << 12 | 4 << 9 | offset >> 6, r | s << 2 | (3 << 7 if self._s3 else 0) | (offset & 63) << 10)

    def alu(self, op, r, s, t):
        """r = s op t, of registers."""
        self._put(7 << 12 | op << 5, r | s << 2 | t << 4)

    def alui(self, op, r, s, value):
        """r = s op value (MOVE: r = value)."""
        self._put(7 << 12 | 1 << self._sub | op << 5 | value >> 12, r | s << 2 | (value & 0xFFF) << 4)

    def jump_below(self, limit, forward):
        """Go `forward` instructions on from here if R0 < limit."""
        hi = forward << 2 if self._s3 else (1 << 9 | forward << 1)
        self._put(8 << 12 | hi, limit)

    def wake(self):
        """Wake the chip from deep sleep (WAKE); nothing happens when it is awake."""
        self._put(9 << 12, 1)

    def halt(self):
        """End this run; the timer starts the next one."""
        self._put(11 << 12, 0)


def pad(pin, chip):
    """Return (RTC GPIO, pad register, MUX_SEL, FUN_IE, RUE) of a GPIO. Raises BadConfig."""
    if chip == "esp32s3":
        if 0 <= pin <= 21:
            return pin, 0x84 + 4 * pin, 19, 13, 27
    elif chip == "esp32":
        for n in range(len(_ESP32)):
            if _ESP32[n][0] == pin:
                return (n,) + _ESP32[n][1:]
    else:
        raise BadConfig("board.json: chip %s cannot count pulses in deep sleep" % chip)
    raise BadConfig("board.json: pulse pin %d is no RTC GPIO of the %s" % (pin, chip))


def program(pin, chip, samples):
    """Return the code: one run samples the pin; `samples` in a row unlike the accepted level (1..255) are a level change. While the count is
    at the target or beyond every run wakes the chip, so that no wake is lost to a chip that is just about to sleep.

    It routes the pad anew in every run, because the RTC peripherals are without power between two runs in deep sleep.
    """
    n, reg, mux, ie, rue = pad(pin, chip)
    s3 = chip == "esp32s3"
    a = Asm(s3)
    if s3:
        a.reg_wr(_SENS, _CLOCKS, 31, 31, 1)
    a.reg_wr(_RTC_IO, reg, mux, mux, 1)
    a.reg_wr(_RTC_IO, reg, ie, ie, 1)
    if rue:
        a.reg_wr(_RTC_IO, reg, rue + 1, rue, 0)  # some pads start with a pull; the meter has its own outside
    a.wait(16)
    bit = (10 if s3 else 14) + n
    a.reg_rd(_RTC_IO, _GPIO_IN, bit, bit)
    a.alui(_MOVE, 3, 0, 0)
    a.ld(1, 3, _EDGES)
    a.alu(_ADD, 0, 0, 1)
    a.alui(_AND, 0, 0, 1)  # 0: the level is the accepted one
    a.jump_below(1, 7)  # to "store", with R0 = 0
    a.ld(0, 3, _RUN)
    a.alui(_ADD, 0, 0, 1)
    a.jump_below(samples, 4)  # to "store"
    a.alui(_ADD, 1, 1, 1)
    a.st(1, 3, _EDGES)
    a.alui(_MOVE, 0, 0, 0)
    a.st(0, 3, _RUN)  # "store"
    a.alui(_RSH, 0, 1, 15)
    a.ld(2, 3, _HIGH)
    a.alu(_ADD, 0, 0, 2)
    a.alui(_AND, 0, 0, 1)  # 1: the carry into HIGH is due
    a.jump_below(1, 3)
    a.alui(_ADD, 2, 2, 1)
    a.st(2, 3, _HIGH)
    a.ld(2, 3, _TARGET)
    a.alu(_SUB, 0, 1, 2)
    a.jump_below(0x8000, 2)  # to "wake"
    a.halt()
    a.wake()
    a.halt()
    return a.code


def image(code, level, life):
    """Return the binary for esp32.ULP.load_binary: header (ESP-IDF, ulp_load_binary), the words, the code.

    level: of the pin now; what stands at the start is no pulse.
    """
    size = 4 * _CODE + len(code)
    words = bytearray(4 * _CODE)
    words[4 * _EDGES] = 2 - level
    words[4 * _LIFE] = life
    words[4 * _TARGET + 1] = 0x80  # a far one
    return b"ulp\0" + bytes((12, 0, size & 255, size >> 8, 0, 0, 0, 0)) + words + code


class Counter(Running):
    """Rising edges of GPIO `pin`, debounced: a level counts once `samples` samples in a row, `period_us` apart, show it.

    So a pulse and the pause after it must each last (samples + 1) * period_us; bounces up to (samples - 1) * period_us are not seen.
    `fresh`: the counting began anew at this start (power-on, or another program). `life` (0..63) differs between two countings that
    follow one another. Raises BadConfig: the chip has no such coprocessor or the pin no RTC function. ValueError: ext0 wakes the node.
    """

    def __init__(self, pin, chip="esp32", period_us=PERIOD_US, samples=3):
        code = program(pin, chip, samples)
        self.pin = pin
        self.fresh = machine.reset_cause() == machine.PWRON_RESET or not _loaded(code)
        self.life = mem32[_BASE + 4 * _LIFE] % LIVES
        if self.fresh:
            from esp32 import ULP

            self.life = (self.life + 1) % LIVES
            ULP().load_binary(0, image(code, machine.Pin(pin, machine.Pin.IN).value(), self.life))
        self._run(period_us)


def _loaded(code):
    """True when this very program stands in RTC slow memory: its text is its version."""
    for i in range(0, len(code), 4):
        word = mem32[_BASE + 4 * _CODE + i]
        if word & 0xFFFF != code[i] | code[i + 1] << 8 or word >> 16 & 0xFFFF != code[i + 2] | code[i + 3] << 8:
            return False
    return True

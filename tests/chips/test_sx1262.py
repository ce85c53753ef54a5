"""The SX1262 at its pins: SX1261/2 datasheet rev. 2.1, chapter 13. No driver here: every byte is the datasheet's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

import pytest

from host_sim.chips.sx126x import Transceiver
from host_sim.chips.sx1262 import SX1262
from host_sim.lora import time_on_air_us

RC, XOSC, FS, RX, TX = 2, 3, 4, 5, 6
TCXO_US = 1000
CONFIGURED = ("9700000040", "8a01", "8636419999", "8b07040100", "8c000800070100", "8f0000", "0802030203" + "00000000")


@dataclass
class Bench:
    """A chip, the clock it lives by, and what its antenna and DIO1 saw."""

    us: int = 0
    events: list[tuple[int, int, Callable[[], None]]] = field(default_factory=list)
    said: list[tuple[object, ...]] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)
    dio: int = 0
    trouble: str | None = None
    tcxo_us: int | None = TCXO_US

    def __post_init__(self) -> None:
        self.chip = SX1262(
            lambda: self.us, self._at, self._cancel, self, lambda kind: kind == self.trouble, self.tcxo_us
        )
        self.pass_us(5000)

    def _at(self, t: int, what: Callable[[], None]) -> tuple[int, int, Callable[[], None]]:
        event = (t, next(self.numbers), what)
        self.events.append(event)
        return event

    def _cancel(self, event: tuple[int, int, Callable[[], None]]) -> None:
        if event in self.events:
            self.events.remove(event)

    def send(self, modulation: object, dbm: int, payload: bytes) -> None:
        self.said.append(("send", modulation, dbm, bytes(payload)))

    def listen(self, modulation: object) -> None:
        self.said.append(("listen", modulation))

    def deaf(self) -> None:
        self.said.append(("deaf",))

    def dio1(self, level: int) -> None:
        self.dio = level

    def pass_us(self, us: int) -> None:
        end = self.us + us
        while due := [e for e in self.events if e[0] <= end]:
            event = min(due)
            self.events.remove(event)
            self.us = max(self.us, event[0])
            event[2]()
        self.us = end

    def do(self, text: str) -> str:
        """One command in hex, once BUSY is low; what MISO said. NSS has been high for a while before."""
        for _ in range(20000):
            if not self.chip.busy():
                break
            self.pass_us(1)
        self.chip.nss(0)
        back = self.chip.exchange(bytes.fromhex(text))
        self.chip.nss(1)
        return bytes(back).hex()

    def ready(self) -> Bench:
        for text in ("070000", *CONFIGURED):
            self.do(text)
        return self

    def mode(self) -> int:
        return int(self.do("1200" * 2)[2:4], 16) >> 4 & 7

    def errors(self) -> int:
        return int(self.do("17000000")[4:8], 16)

    def irq(self) -> int:
        return int(self.do("12000000")[4:8], 16)


def test_after_reset_it_is_in_standby_rc_and_its_registers_hold_what_the_datasheet_says() -> None:
    bench = Bench()
    assert bench.do("12000000")[2:4] == "22", "STBY_RC, no error of a command"
    assert bench.do("1d0740000000")[8:] == "1424", "LoRa sync word of a private network (table 12-1)"
    assert bench.do("1d08ac0000")[8:] == "94", "RX gain"


def test_without_its_supply_a_tcxo_does_not_start_and_the_chip_says_so() -> None:
    bench = Bench()
    assert bench.errors() == 0x20 and bench.chip.uncalibrated
    bench.do("070000")
    assert bench.errors() == 0
    bench.do("8001")
    assert bench.mode() == RC and bench.errors() == 0x20, "STBY_XOSC needs the oscillator"


@pytest.mark.parametrize(("steps", "mode", "error"), [("000040", XOSC, 0), ("00003f", RC, 0x20), ("ffffff", XOSC, 0)])
def test_a_tcxo_starts_when_it_is_given_its_time(steps: str, mode: int, error: int) -> None:
    bench = Bench()
    bench.do("9702" + steps)
    bench.do("070000")
    bench.do("8001")
    before = bench.us
    bench.pass_us(max(0, bench.chip.quiet_in_us() or 0))
    assert bench.us - before == int(steps, 16) * 15625 // 1000, "BUSY for as long as it was told"
    assert (bench.mode(), bench.errors()) == (mode, error)


def test_a_crystal_needs_nobody() -> None:
    bench = Bench(tcxo_us=None)
    assert bench.errors() == 0 and not bench.chip.uncalibrated
    bench.do("8001")
    assert bench.mode() == XOSC


def test_calibration_works_once_the_tcxo_has_its_supply() -> None:
    bench = Bench()
    bench.do("897f")
    assert bench.chip.uncalibrated and bench.errors() == 0x20
    bench.do("9702000040")
    bench.do("070000")
    bench.do("897f")
    busy = bench.chip.quiet_in_us() or 0
    assert busy >= 3500 and not bench.chip.uncalibrated and bench.errors() == 0 and bench.mode() == RC


def test_asleep_busy_is_high_until_nss_falls_and_the_first_command_is_not_heard() -> None:
    bench = Bench().ready()
    bench.do("8404")
    assert bench.chip.busy() and bench.chip.mode == 0
    bench.pass_us(1_000_000)
    assert bench.chip.busy()
    bench.chip.nss(0)
    bench.chip.exchange(b"\x80\x01")
    bench.chip.nss(1)
    assert bench.chip.busy() and bench.mode() == RC
    assert bench.chip.complaints == ["8001 while BUSY is high"]
    assert bench.chip.freq == 868_099_999 and bench.chip.buffer == bytes(256), "a warm start keeps all but the buffer"


def test_a_cold_start_forgets_everything() -> None:
    bench = Bench().ready()
    bench.do("8400")
    bench.chip.nss(0)
    bench.chip.nss(1)
    assert bench.mode() == RC and bench.chip.freq == 0 and bench.errors() == 0x20


def test_it_sleeps_from_standby_only() -> None:
    bench = Bench().ready()
    bench.do("82000000")
    bench.do("8404")
    assert bench.chip.mode == RX and bench.do("c000")[2:] == f"{RX << 4 | 5 << 1:02x}", "failed to execute"
    assert bench.chip.complaints == ["set_sleep in mode 5", "SetSleep in mode 5"]


@pytest.mark.parametrize(
    ("sf", "bw", "ldro", "size"), [(7, 125_000, 0, 51), (9, 125_000, 0, 115), (12, 125_000, 1, 51), (10, 250_000, 0, 1)]
)
def test_a_frame_is_as_long_on_the_air_as_semtech_says_and_ends_with_tx_done(
    sf: int, bw: int, ldro: int, size: int
) -> None:
    bench = Bench().ready()
    bench.do(f"8b{sf:02x}{4 if bw == 125_000 else 5:02x}01{ldro:02x}")
    bench.do(f"8c000800{size:02x}0100")
    bench.do("0e00" + "5a" * size)
    bench.do("95020200" + "01")
    bench.do("8e1602")
    bench.do("83000000")
    bench.pass_us(bench.chip.quiet_in_us() or 0)
    began = bench.us
    assert bench.said == [("send", (868_099_999, sf, bw, 5, 8, 0x12), 14, b"\x5a" * size)]
    air = time_on_air_us(sf, size, bw=bw)
    bench.pass_us(air - 10)
    assert bench.chip.mode == TX and not bench.dio
    bench.pass_us(20)
    assert bench.chip.mode == RC and bench.dio == 1 and bench.us - began == air + 10
    assert bench.irq() == 1 and bench.do("12000000")[2:4] == "2c", "TX done"
    bench.do("020001")
    assert bench.irq() == 0 and bench.dio == 0 and not bench.chip.complaints


def test_nothing_is_reported_that_the_mask_does_not_let_through() -> None:
    bench = Bench().ready()
    bench.do("08" + "0000" * 4)
    bench.do("83000000")
    bench.pass_us(1_000_000)
    assert bench.chip.mode == RC and bench.irq() == 0 and not bench.dio


def test_a_transmission_ends_at_its_timeout() -> None:
    bench = Bench().ready()
    bench.do("83000100")  # 256 steps of 15.625 us: 4 ms, the frame takes longer
    bench.pass_us(6000)
    assert bench.irq() == 0x200 and bench.chip.mode == RC


def heard(bench: Bench, at_us: int, payload: bytes, *, whole: bool = True) -> None:
    """A frame comes from at_us of now on."""
    chip = bench.chip
    bench.pass_us(at_us + 49 * chip.symbol_us() // 4)
    chip.locked()
    bench.pass_us(chip.air_us(len(payload)) - 49 * chip.symbol_us() // 4)
    if whole:
        chip.arrived(payload, -101, -31)
    else:
        chip.broken()


def test_a_packet_is_in_the_buffer_where_the_base_says_with_its_strength() -> None:
    bench = Bench().ready()
    bench.do("8f0080")
    bench.do("82004e20")  # 312.5 ms
    heard(bench, 100_000, b"hello")
    assert bench.dio == 1 and bench.irq() == 2 and bench.chip.mode == RC
    assert bench.do("13000000")[4:] == "0580" and bench.do("1e80" + "00" * 6)[6:] == b"hello".hex()
    assert bench.do("1400000000")[4:8] == f"{202:02x}{-31 & 255:02x}", "-101 dBm in half dB, -7.75 dB in quarters"
    assert bench.said[-1] == ("deaf",)


def test_a_broken_packet_is_a_packet_with_a_crc_error() -> None:
    bench = Bench().ready()
    bench.do("08" + "0242" + "0242" + "00000000")
    bench.do("82004e20")
    heard(bench, 10_000, b"hello", whole=False)
    assert bench.irq() == 0x42 and bench.chip.mode == RC


@pytest.mark.parametrize(
    ("at_ms", "stop_on_preamble", "packet"), [(291, False, True), (294, False, False), (294, True, True)]
)
def test_the_timer_of_a_window_is_stopped_by_the_header_or_if_told_so_by_the_preamble(
    at_ms: int, stop_on_preamble: bool, packet: bool
) -> None:
    bench = Bench().ready()
    bench.do(f"9f{stop_on_preamble:02x}")
    bench.do("82004e20")  # 312.5 ms; a header takes 20.25 symbols of 1.024 ms
    heard(bench, 1000 * at_ms, b"hello")
    assert bench.irq() == (2 if packet else 0x200)


def test_a_window_without_a_frame_ends_at_its_timeout() -> None:
    bench = Bench().ready()
    bench.do("82000040")  # 1 ms
    assert bench.mode() == RX
    bench.pass_us(2000)
    assert bench.irq() == 0x200 and bench.mode() == RC and bench.said[-1] == ("deaf",)


def test_a_receiver_without_a_timeout_waits_for_one_packet_and_a_continuous_one_for_more() -> None:
    for command, mode in (("82000000", RC), ("82ffffff", RX)):
        bench = Bench().ready()
        bench.do(command)
        heard(bench, 100_000_000, b"one")
        assert bench.irq() == 2 and bench.chip.mode == mode
        bench.do("020002")
        heard(bench, 1000, b"two")
        assert (bench.irq() == 2) == (mode == RX)


def test_after_a_packet_it_goes_where_the_fallback_says() -> None:
    for text, mode in (("9320", RC), ("9330", XOSC), ("9340", FS)):
        bench = Bench().ready()
        bench.do(text)
        bench.do("83000000")
        bench.pass_us(1_000_000)
        assert bench.mode() == mode


def test_what_no_command_is_is_refused() -> None:
    bench = Bench()
    for text in ("4200", "8000" + "00", "86", "d1"):
        bench.do(text)
        assert bench.do("c000")[2:] == f"{RC << 4 | 4 << 1:02x}", text
    assert len(bench.chip.complaints) == 4
    bench.do("8000")
    assert bench.do("c000")[2:] == f"{RC << 4 | 1 << 1:02x}"


def test_settings_before_the_packet_type_while_it_sends_and_out_of_range_are_complained_of() -> None:
    bench = Bench()
    bench.do("8b07040100")
    assert "packet type" in bench.chip.complaints[-1]
    bench.ready()
    bench.do("8b0704" + "00" + "00")  # 4/4 is no coding rate of the chip
    assert "SetModulationParams" in bench.chip.complaints[-1]
    bench.ready().do("83000000")
    bench.do("8636419999")
    assert "set_frequency in mode 6" in bench.chip.complaints


def test_each_fault_of_the_chip() -> None:
    assert set(Transceiver.FAULTS) == {"busy", "absent", "status", "lost_tx_done", "lost_edge", "stuck_receive"}
    bench = Bench().ready()
    bench.trouble = "busy"
    bench.pass_us(10_000_000)
    assert bench.chip.busy()
    bench.trouble = "absent"
    assert not bench.chip.busy() and bench.do("12000000") == "ffffffff"
    bench.trouble = "status"
    bench.do("83000000")
    assert bench.mode() == RC and bench.errors() == 0x20 and not bench.said
    bench.do("070000")
    for trouble, irq, dio in (("lost_tx_done", 0, 0), ("lost_edge", 1, 0), (None, 1, 1)):
        bench.trouble = trouble
        bench.do("83000000")
        bench.pass_us(1_000_000)
        assert (bench.irq(), bench.dio) == (irq, dio), trouble
        bench.do("020001")
    bench.trouble = "stuck_receive"
    bench.do("82000040")
    bench.pass_us(1_000_000)
    assert bench.mode() == RX and bench.irq() == 0
    bench.trouble = None
    bench.do("8000")
    assert bench.mode() == RC


def test_the_reset_line_ends_whatever_it_does() -> None:
    bench = Bench().ready()
    bench.do("82000000")
    bench.chip.reset(0)
    bench.chip.reset(1)
    assert bench.chip.busy() and bench.mode() == RC and bench.said[-1] == ("deaf",) and bench.chip.freq == 0

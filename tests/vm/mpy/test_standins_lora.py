"""What a LoRa modem does for its caller: over the stand-in of micropython-lib's `lora`, and over the driver itself on a model of its chip.

Where the two differ one of these fails. The driver was read in lora 0.2.0, lora-async 0.1.1, lora-sx126x 0.1.6.
"""

import asyncio
import struct

import machine
import sim
import sim_clock
import sim_hw
import sim_link
import sim_radio
from mote.hal import radio
from mote.links.lora_link import _within as within

SPI = {"sck": 18, "mosi": 23, "miso": 19}
SYMBOL_US = 1024  # SF7, 125 kHz


def modem(sf=7, **spec):
    """A modem as the firmware makes it, on a chip that has just got its power; what it says to the air in `said`."""
    sim_radio.fresh()
    said.clear()
    sim_link.speak = lambda op, rest: said.append((sim_clock.now, op, rest))
    return made_again(sf, **spec)


def made_again(sf=7, **spec):
    return radio.make(dict(sim_radio.spec, **spec), SPI, sf)


said = []


def frame(at_ms, data, rssi=-97, snr=-12, broken=False):
    """Somebody sends from at_ms (of this moment) on: preamble, header, payload."""
    start = sim_clock.now + 1000 * at_ms
    sim_clock.at(start + 49 * sim_radio.chip.symbol_us() // 4, sim_radio.on_lock, b"")
    end = start + sim_radio.chip.air_us(len(data))
    if broken:
        sim_clock.at(end, sim_radio.on_broken, b"")
    else:
        sim_clock.at(end, sim_radio.on_packet, struct.pack("<hh", rssi, snr) + data)
    return end


def raises(error, call, *args):
    try:
        call(*args)
    except error as e:
        return str(e)
    raise AssertionError(error)


async def araises(error, coro):
    try:
        await coro
    except error as e:
        return str(e)
    raise AssertionError(error)


def test_time_on_air_agrees_with_semtech():
    for sf, size, us in ((7, 51, 102656), (9, 115, 615424), (12, 51, 2465792)):
        assert modem(sf).get_time_on_air_us(size) == us


def test_a_modem_is_made_in_standby_and_takes_tens_of_milliseconds():
    t = sim.now_us()
    made = modem()
    took = sim.now_us() - t
    assert made.is_idle() and sim_radio.power() == "standby"
    assert 21_000 <= took <= 45_000, took  # reset 6 ms, TCXO 15 ms, calibrations


async def test_a_frame_is_on_the_air_as_it_was_configured():
    made = modem(9)
    made.configure({"freq_khz": 868300})
    assert not made.is_idle() or sim_radio.power() == "standby"
    end = await made.send(memoryview(b"sixteen bytes...")[:7])
    ((at, op, text),) = [s for s in said if s[1] == "T"]
    power = sim_radio.spec["power_dbm"]
    assert text == "868300000 9 125000 5 8 18 %d %s" % (power, b"sixteen".hex()), text
    now = sim_clock.ticks_ms()
    air_ms = made.get_time_on_air_us(7) // 1000
    assert 0 <= now - end <= 3, "the ticks of TX_DONE"
    assert air_ms <= (sim.now_us() - at) // 1000 <= air_ms + 3


async def test_a_window_without_a_frame_ends_at_the_chips_timeout_and_counts_as_a_crc_error():
    made = modem()
    t = sim.now_us()
    assert await made.recv(timeout_ms=300) is None
    assert 300_000 <= sim.now_us() - t < 306_000, sim.now_us() - t
    assert made.crc_errors == 1 and sim_radio.power() == "standby"


async def test_a_packet_brings_its_strength_and_the_time_of_its_end():
    made = modem()
    end = frame(100, b"hello", -101, -31)
    got = await made.recv(timeout_ms=300)
    assert bytes(got) == b"hello" and (got.rssi, got.snr, got.crc_error) == (-101, -31, False)
    late = sim_clock.ticks_ms() - got.ticks_ms
    assert 0 <= late <= 3 and 0 <= sim.now_us() - end < 5_000
    assert made.crc_errors == 0 and sim_radio.power() == "standby"


async def test_the_header_must_have_come_before_the_window_ends():
    header_ms = 81 * SYMBOL_US // 4000 + 1
    for at_ms, heard in (
        (300 - header_ms - 5, True),
        (300 - header_ms + 3, False),
        (300 - 49 * SYMBOL_US // 4000 - 3, False),
    ):
        made = modem()
        frame(at_ms, b"late")
        got = await made.recv(timeout_ms=300)
        assert (got is not None) == heard, at_ms


async def test_a_broken_packet_is_counted_and_the_window_goes_on():
    made = modem()
    frame(20, b"broken", broken=True)
    end = frame(90, b"whole")
    got = await made.recv(timeout_ms=300)
    assert bytes(got) == b"whole" and made.crc_errors == 1
    assert sim.now_us() - end < 5_000


async def test_a_broken_packet_does_not_lengthen_the_window():
    made = modem()
    frame(20, b"broken", broken=True)
    t = sim.now_us()
    assert await made.recv(timeout_ms=300) is None
    assert sim.now_us() - t < 310_000 and made.crc_errors == 2


async def test_a_reception_that_was_given_up_goes_on_until_the_modem_is_told_to_stop():
    made = modem()
    await araises(asyncio.TimeoutError, within(made.recv(5000), 100))
    assert sim_radio.power() == "receive"
    assert "Receiving" in raises(RuntimeError, made.configure, {"freq_khz": 868300})
    made.sleep()
    assert sim_radio.power() == "sleep"
    made.configure({"freq_khz": 868300})


async def test_sending_ends_a_reception_and_it_goes_on_afterwards():
    made = modem()
    task = asyncio.create_task(made.recv(2000))
    await asyncio.sleep_ms(100)
    await made.send(b"in between")
    end = frame(200, b"answer")
    got = await task
    assert bytes(got) == b"answer" and sim.now_us() - end < 1_005_000


async def test_sleep_and_what_wakes():
    made = modem()
    made.sleep()
    assert sim_radio.power() == "sleep" and made.is_idle() and sim_radio.power() == "sleep"
    made.sleep()
    assert sim_radio.power() == "sleep"
    made.configure({"freq_khz": 868500})
    assert sim_radio.power() == "standby"
    made.sleep()
    await made.send(b"awake again")
    assert [s[2].split(" ")[0] for s in said if s[1] == "T"] == ["868500000"]
    made.standby()
    assert sim_radio.power() == "standby"


def test_what_configure_refuses():
    made = modem()
    assert "sf" in raises(ValueError, made.configure, {"sf": 13})
    made = modem()
    assert "sf" in raises(ValueError, made.configure, {"sf": 5})
    made = modem()
    assert "coding_rate" in raises(ValueError, made.configure, {"coding_rate": 9})
    made = modem()
    raises(KeyError, made.configure, {"bw": "126"})
    made = modem()
    assert "freq_khz" in raises(ValueError, made.configure, {"freq_khz": 0})
    made.configure({"output_power": 30, "sf": 6, "coding_rate": 8, "bw": "62.5"})  # the power is cut off at 22 dBm


async def test_the_longest_packet_is_255_bytes():
    made = modem()
    await made.send(bytes(255))
    await araises(ValueError, made.send(bytes(256)))


def test_an_oscillator_that_starts_late_is_an_error_of_the_chip_and_longer_start_time_mends_it():
    sim_radio.fresh()
    before, sim_radio.chip.tcxo_us = sim_radio.chip.tcxo_us, 3000
    try:
        made = modem()
        assert "OpError 0x20" in raises(RuntimeError, made.sleep)
        made = modem(tcxo_start_us=5000)
        made.sleep()
        assert sim_radio.power() == "sleep"
    finally:
        sim_radio.chip.tcxo_us = before


def test_a_modem_with_a_tcxo_is_calibrated_once_that_has_its_power():
    made = modem()
    assert made.is_idle() and not sim_radio.chip.uncalibrated & 0x7E


def test_a_chip_that_is_busy_for_ever_is_an_error_after_milliseconds_and_a_reset_ends_it():
    made = modem()
    sim_radio.trouble = "busy"
    t = sim.now_us()
    assert "BUSY timeout" in raises(RuntimeError, made.configure, {"freq_khz": 868300})
    assert 7_000 <= sim.now_us() - t < 60_000, sim.now_us() - t
    made_again().sleep()
    assert sim_radio.power() == "sleep" and sim_radio.trouble is None


def test_a_planned_stuck_busy_is_met_before_a_reset_ends_it():
    """A node that sleeps makes its modem only to send, and resets the chip with it: the fault would be over before anyone has met it."""
    modem()
    now, before = sim.now_us(), sim_hw.faults
    sim_hw.faults = [["radio", "busy", now, now + 3600000000]]
    try:
        assert "BUSY timeout" in raises(RuntimeError, made_again)
        made_again().sleep()
        assert sim_radio.power() == "sleep", "the second reset ends it"
    finally:
        sim_hw.faults = before


def test_without_a_reset_line_a_busy_chip_stays_busy():
    modem()
    sim_radio.trouble = "busy"
    table = {k: v for k, v in sim_radio.spec.items() if k != "reset"}
    assert "BUSY timeout" in raises(RuntimeError, radio.make, table, SPI, 7)


async def test_a_chip_that_is_not_there_is_an_error_at_once():
    modem()
    sim_radio.trouble = "absent"
    assert "OpError 0xffff" in raises(RuntimeError, made_again)
    made = modem()
    sim_radio.trouble = "absent"
    for call in (made.sleep, lambda: made.configure({"freq_khz": 868300})):
        assert "OpError 0xffff" in raises(RuntimeError, call)
    await araises(RuntimeError, made.send(b"nobody"))
    assert not [s for s in said if s[1] == "T"]


async def test_an_oscillator_that_is_dead_stops_sending_and_listening_but_not_sleep():
    made = modem()
    made.sleep()
    sim_radio.trouble = "status"
    assert "OpError 0x20" in await araises(RuntimeError, made.send(b"x"))
    assert not [s for s in said if s[1] == "T"]
    sim_radio.trouble = None
    made = modem()
    sim_radio.trouble = "status"
    assert await within(made.recv(300), 5000) is None
    assert "OpError 0x20" in raises(RuntimeError, made.sleep)
    assert sim_radio.power() == "standby", "a chip with an error is not put to sleep"


async def test_a_lost_edge_of_dio1_costs_fifty_milliseconds():
    made = modem()
    sim_radio.trouble = "lost_edge"
    t = sim.now_us()
    end = await made.send(b"quiet")
    took_ms = (sim.now_us() - t) // 1000
    air_ms = made.get_time_on_air_us(5) // 1000
    assert air_ms + 45 <= took_ms <= air_ms + 65, took_ms
    assert sim_clock.ticks_ms() - end <= 3, "when it was noticed, not when it was"
    frame(100, b"also quiet")
    t = sim.now_us()
    assert bytes(await made.recv(timeout_ms=600)) == b"also quiet"
    assert sim.now_us() - t < 1_010_000


async def test_tx_done_that_is_lost_is_waited_for_without_end():
    made = modem()
    sim_radio.trouble = "lost_tx_done"
    await araises(asyncio.TimeoutError, within(made.send(b"gone"), 5000))
    made.sleep()
    assert sim_radio.power() == "sleep"


async def test_a_receiver_that_hangs_is_waited_for_without_end():
    made = modem()
    sim_radio.trouble = "stuck_receive"
    frame(50, b"not heard")
    await araises(asyncio.TimeoutError, within(made.recv(300), 5000))
    assert sim_radio.power() == "receive"
    sim_radio.trouble = None
    made.sleep()
    assert sim_radio.power() == "sleep"


async def test_a_continuous_receiver_gives_one_packet_after_the_other():
    made = modem()
    frame(100, b"one")
    frame(400, b"two")
    heard = []
    async for packet in made.recv_continuous():
        heard.append(bytes(packet))
        if len(heard) == 2:
            break
    assert heard == [b"one", b"two"] and sim_radio.power() == "receive"
    made.sleep()


def test_a_radio_fails_when_its_hardware_is_said_to_and_only_then():
    met = []
    hit, sim_hw.hit = sim_hw.hit, met.append
    modem()
    t = sim.now_us()
    second = 1000000
    sim_hw.faults = (
        ("radio", "busy", t + second, t + 9 * second),
        ("radio", "status", t + 20 * second, t + 21 * second),
        ("bme280", "silent", t, t + 99 * second),
    )
    try:
        made = made_again()
        made.sleep()
        sim.advance_ms(2000)
        for _ in range(2):
            assert "BUSY" in raises(RuntimeError, made.sleep)
            sim.advance_ms(500)
        made_again().sleep()  # reset
        sim.advance_ms(17000)
        assert "OpError" in raises(RuntimeError, lambda: made_again().sleep())
        sim.advance_ms(2000)
        made_again().sleep()
        assert met.count("busy") >= 2 and met.count("status") == 1, met
    finally:
        sim_hw.hit, sim_hw.faults = hit, ()


def test_the_pads_of_the_board_are_as_they_were_when_a_modem_was_made():
    made = modem()
    made.sleep()
    cs = machine.Pin(sim_radio.spec["cs"])
    assert cs.value() == 1

"""The LoRa link on the radio of a board: window, foreign frames, duty cycle; the supervisor's watchdog and restarts.

Runs over the stand-in of micropython-lib's `lora`, and over the driver itself when there is one (README.md).
"""

import asyncio
import struct

import esp32
import machine
import nodekit as kit
import sim
import sim_clock
import sim_link
import sim_radio
from mote import supervisor, words
from mote.duty import Duty
from mote.hal import radio
from mote.hal.rtc import RtcMemory
from mote.links.lora_link import LoraLink
from mote.tasks import Supervisor
from mote.uplink import Uplink as _Uplink


def Uplink(link, outbox):
    return _Uplink(outbox, link, 0, 0, 10_000, 10_000, lambda: None, lambda frame: True)


SPI = {"sck": 18, "mosi": 23, "miso": 19}


class Air:
    """Hears what the radio says; answer(at_ms after the end of the uplink, bytes)."""

    def __init__(self):
        self.sent = []
        self.answers = []
        self.listened = []

    def speak(self, op, rest):
        now = sim_clock.now
        if op == "T":
            fields = rest.split(" ")
            frame = bytes.fromhex(fields[-1])
            us = sim_radio.chip.air_us(len(frame))
            self.sent.append((now, int(fields[0]), us))
            for after_ms, data in self.answers:
                sim_clock.at(now + us + 1000 * after_ms, self._begin, data)
        elif op == "L":
            self.began = now
        elif op == "U":
            self.listened.append((self.began, now))

    def _begin(self, data):
        chip = sim_radio.chip
        if sim_radio.power() == "receive":
            sim_clock.at(sim_clock.now + 49 * chip.symbol_us() // 4, sim_radio.on_lock, b"")
            packet = struct.pack("<hh", -97, -12) + data
            sim_clock.at(sim_clock.now + chip.air_us(len(data)), sim_radio.on_packet, packet)


def link(sf=7, allowed=True):
    machine.fill_rtc(b"")
    nvs = kit.Store()
    rtc = RtcMemory()
    built = []

    def make():
        built.append(sim_clock.now)
        return radio.make(sim_radio.spec, SPI, sf)

    made = LoraLink(make, (), sf, [868100, 868300, 868500], [1], Duty(rtc, nvs, lambda: sim_clock.now // 1000000, [1]))
    made.built = built
    sim_radio.fresh()
    air = Air()
    sim_link.speak = air.speak
    made.heard = []

    def take(frame, rssi, snr):
        made.heard.append((bytes(frame), rssi, snr))
        return frame[0] != 0xFF

    made.on_frame = take
    return made, air


async def test_an_answer_one_second_after_the_uplink_is_heard_at_every_spreading_factor():
    for sf in (7, 8, 9, 10, 11, 12):
        made, air = link(sf)
        air.answers = [(1000, b"\x01" * 30)]
        await made.send(bytearray(51), 40, 2, True)
        assert made.heard == [(b"\x01" * 30, -97, -12)], sf
        assert made._modem.is_idle() and sim_radio.power() == "sleep"


async def test_the_window_is_short_when_nobody_answers():
    for sf, most in ((7, 500), (12, 7000)):
        made, air = link(sf)
        await made.send(bytearray(51), 40, 2, True)
        began, ended = air.listened[-1]
        assert ended - began < most * 1000, (sf, ended - began)
        start, _, us = air.sent[0]
        assert start + us + 850_000 <= began <= start + us + 1_000_000, (sf, began - start - us)


async def test_a_foreign_frame_in_the_window_does_not_end_it():
    made, air = link()
    air.answers = [(910, b"\xff" * 8), (1000, b"\x01" * 8)]
    await made.send(bytearray(51), 40, 2, True)
    assert [h[0][0] for h in made.heard] == [0xFF, 1] and made.foreign == 1


async def test_a_frame_that_wants_no_ack_is_not_followed_by_a_window():
    made, air = link()
    await made.send(bytearray(51), 40, 0, False)
    assert air.listened == []


class Backlog:
    """An outbox of reports of one length that no one acknowledges."""

    def __init__(self, frames, n):
        self.depth, self._n = frames, n
        self.counters = [4 * i + 1 for i in range(frames)]  # none of them is answered by rule
        self.kinds, self.states, self.times = bytearray(frames), bytearray(frames), [0] * frames

    def read_into(self, i, buf):
        return self._n

    def index_of(self, counter):
        return self.counters.index(counter)


async def test_a_frame_of_a_backlog_waits_until_the_gateway_may_have_answered_the_one_before():
    """Out of order each frame is answered, and while the gateway sends it hears nothing on any channel."""
    for sf in (7, 9, 12):
        made, air = link(sf)
        uplink = Uplink(made, Backlog(6, 40))
        task = asyncio.create_task(uplink.run())
        while len(air.sent) < 6:
            await asyncio.sleep(1)
        task.cancel()
        longest = made._air_ms(36)  # header 7, tag 4, an ack with 8 bytes of missing counters, time
        for i in range(5):
            before, _, us = air.sent[i]
            gap = air.sent[i + 1][0] - before - us
            assert gap >= 1000 * (1000 + longest), (sf, gap)


async def test_channels_are_random_and_the_ledger_stops_what_is_too_much():
    made, air = link()
    sent = 0
    while not made.ready_in_ms(51, False):
        await made.send(bytearray(51), 51, 0, False)
        sent += 1
    assert sent == 3600 // 103, sent  # the allowance after a power cut
    assert len({f for _, f, _ in air.sent}) == 3
    try:
        await made.send(bytearray(51), 51, 0, False)
    except OSError:
        pass
    else:
        raise AssertionError
    assert len(air.sent) == sent


def test_time_on_air_is_the_drivers():
    for sf in range(7, 13):
        made, _ = link(sf)
        modem = radio.make(sim_radio.spec, SPI, sf)
        for n in range(1, 256):
            assert made._air_ms(n) == (modem.get_time_on_air_us(n) + 999) // 1000, (sf, n)


async def test_the_radio_is_made_to_send_and_sleeps_afterwards():
    made, air = link()
    assert made.built == [], "a boot that sends nothing leaves the radio alone"
    await made.send(bytearray(51), 40, 2, True)
    assert len(made.built) == 1 and sim_radio.power() == "sleep"
    await made.send(bytearray(51), 40, 0, False)
    assert len(made.built) == 1 and sim_radio.power() == "sleep"


async def test_every_complaint_of_the_radio_is_an_error_of_the_link_and_the_modem_is_made_anew():
    for trouble in ("busy", "status", "absent", "lost_tx_done"):
        made, air = link()
        await made.send(bytearray(51), 40, 0, False)
        for again in range(1 if trouble == "busy" else 3):  # a stuck BUSY ends with the reset that making it anew is
            sim_radio.trouble = trouble
            try:
                await made.send(bytearray(51), 40, 0, True)
                raise AssertionError(trouble)
            except (OSError, asyncio.TimeoutError):
                pass
            assert made.faults == again + 1, (trouble, made.faults)
        sim_radio.trouble = None
        before = len(air.sent)
        await made.send(bytearray(51), 40, 0, False)
        assert len(air.sent) == before + 1 and len(made.built) >= 2, trouble
        assert sim_radio.power() == "sleep", trouble


async def test_a_radio_that_fails_while_it_listens_or_falls_asleep_is_made_anew():
    for at_ms in (5, 400, 1100):  # sending, waiting, the window
        made, air = link()

        async def break_it(at_ms=at_ms):
            await asyncio.sleep_ms(at_ms)
            sim_radio.trouble = "status"

        task = asyncio.create_task(break_it())
        try:
            await made.send(bytearray(51), 40, 2, True)
        except OSError:
            pass
        await task
        sim_radio.trouble = None
        await made.send(bytearray(51), 40, 2, True)
        assert sim_radio.power() == "sleep", at_ms


async def test_a_window_that_never_ends_is_an_error_of_the_link_and_the_modem_is_made_anew():
    for sf in (7, 9):
        made, air = link(sf)
        sim_radio.trouble = "stuck_receive"
        began = sim_clock.now
        try:
            await made.send(bytearray(51), 40, 2, True)
            raise AssertionError(sf)
        except asyncio.TimeoutError:
            pass
        assert (sim_clock.now - began) < 25000000, (sf, sim_clock.now - began)
        sim_radio.trouble = None
        assert sim_radio.power() == "sleep" or not made.asleep
        air.answers = [(1000, b"\x40answer")]
        await made.send(bytearray(51), 40, 2, True)
        assert made.heard and len(made.built) == 2 and sim_radio.power() == "sleep", sf


def too_long():
    raise AssertionError("the link still waits")


async def test_a_send_that_never_ends_is_given_up_whenever_its_time_is_over():
    """asyncio.wait_for() loses a cancellation that comes while it takes back what it waited for, and the driver looks at the chip every 10 ms."""
    for n in range(30, 51):
        made, _ = link()
        sim_radio.trouble = "lost_tx_done"
        guard = sim_clock.at(sim_clock.now + 60_000_000, too_long)
        began = sim_clock.now
        try:
            await made.send(bytearray(51), n, 2, True)
            raise AssertionError(n)
        except asyncio.TimeoutError:
            pass
        assert sim_clock.now - began < 5_000_000, n
        sim_clock.cancel(guard)
        sim_radio.trouble = None
        await made.send(bytearray(51), n, 2, True)
        assert sim_radio.power() == "sleep", n


async def test_a_link_that_is_cancelled_at_any_time_leaves_no_task_and_a_radio_that_sleeps():
    for at_ms in (0, 3, 30, 80, 500, 1050, 1200):
        made, _ = link()
        task = asyncio.create_task(made.send(bytearray(51), 40, 2, True))
        await asyncio.sleep_ms(at_ms)
        task.cancel()
        try:
            await task
            raise AssertionError(at_ms)
        except asyncio.CancelledError:
            pass
        await asyncio.sleep(20)
        assert sim_radio.power() == "sleep", at_ms
        await made.send(bytearray(51), 40, 2, True)


async def test_what_a_radio_refused_to_send_costs_no_airtime():
    made, air = link()
    sim_radio.trouble = "absent"
    before = made.duty.budget_ms(0, False)
    for _ in range(200):
        try:
            await made.send(bytearray(51), 51, 0, False)
        except OSError:
            pass
    assert made.duty.budget_ms(0, False) == before and made.airtime_ms == 0


def test_a_radio_that_was_never_put_to_sleep_since_power_on_is_before_the_board_sleeps():
    made, air = link()
    made.rest()
    assert len(made.built) == 1 and sim_radio.power() == "sleep"
    made.rest()
    assert len(made.built) == 1
    made, air = link()
    made.asleep = True  # this boot follows a deep sleep, before which it was
    made.rest()
    assert made.built == []
    made, air = link()
    sim_radio.trouble = "absent"
    made.rest()  # the board sleeps all the same
    sim_radio.trouble = None


async def test_the_watchdog_is_fed_by_progress_only():
    fed = []

    class Dog:
        def feed(self):
            fed.append(sim.now_us())

    machine.fill_rtc(b"")
    supervisor.begin()
    s = Supervisor(Dog())
    s.watch("work", 100)

    async def work():
        for _ in range(10):
            s.progress("work")
            await asyncio.sleep(30)
        await asyncio.sleep(100000)

    s.keep("work", work)
    t = sim.now_us()
    run = asyncio.create_task(s.run())
    await asyncio.sleep(2000)
    assert 300_000_000 < fed[-1] - t < 420_000_000, (fed[-1] - t) // 1000000
    run.cancel()


async def test_a_bus_error_restarts_a_task_and_a_bug_ends_the_node():
    machine.fill_rtc(b"")
    supervisor.begin()
    s = Supervisor(None)
    runs = []

    async def flaky():
        runs.append(sim.now_us() // 1000000)
        if len(runs) < 6:
            raise OSError(5)
        raise ValueError("a bug")

    s.keep("flaky", flaky)
    try:
        await s.run()
    except ValueError:
        pass
    else:
        raise AssertionError
    gaps = [runs[i + 1] - runs[i] for i in range(5)]
    assert gaps == [1, 2, 4, 8, 16], gaps


def test_last_words_are_kept_and_the_node_sleeps_longer_every_time():
    machine.fill_rtc(b"")
    esp32._store.clear()
    kinds = []
    for _ in range(6):
        supervisor.begin()
        try:
            supervisor.failed(ValueError("broken sensor"))
        except sim.Reset as e:
            kinds.append((e.kind, e.arg))
        assert words.last().startswith("ValueError: broken sensor")
    assert kinds == [("R", "hard"), ("R", "hard"), ("Z", 8000), ("Z", 16000), ("Z", 32000), ("Z", 64000)], kinds
    words.forget()
    assert words.last() == ""


def test_at_the_bench_a_failure_ends_at_the_repl():
    machine.fill_rtc(b"")
    supervisor.begin()
    supervisor.bench = True
    try:
        supervisor.failed(ValueError("x"))
    finally:
        supervisor.bench = False

"""Hardware stand-ins: counters, non-volatile storage, streams, resets, as the esp32 port documents them."""

import asyncio
import esp32
import machine
import sim


class Meter:
    pulses = 0

    def count(self):
        return self.pulses


def test_pcnt_is_a_signed_16_bit_register_without_limits():
    meter = Meter()
    sim.attach_pulse(6, meter)
    unit = esp32.PCNT(2, pin=machine.Pin(6), rising=esp32.PCNT.INCREMENT)
    unit.start()
    meter.pulses = 32767
    assert unit.value() == 32767
    meter.pulses = 32768
    assert unit.value() == -32768
    meter.pulses = 65536 + 7
    assert unit.value() == 7


def test_pcnt_resets_to_zero_at_its_limit():
    meter = Meter()
    sim.attach_pulse(4, meter)
    unit = esp32.PCNT(0, pin=machine.Pin(4), rising=esp32.PCNT.INCREMENT, max=32767)
    unit.start()
    meter.pulses = 32766
    assert unit.value() == 32766
    meter.pulses = 32768
    assert unit.value() == 1  # 32767 became 0
    meter.pulses = 32768 + 3
    assert unit.value(0) == 4
    assert unit.value() == 0


def test_pcnt_counts_nothing_while_stopped():
    meter = Meter()
    sim.attach_pulse(5, meter)
    unit = esp32.PCNT(1, pin=5, rising=esp32.PCNT.INCREMENT)
    meter.pulses = 10
    assert unit.value() == 0
    unit.start()
    meter.pulses = 12
    assert unit.value() == 2


def test_nvs_without_commit_is_not_seen_by_another_handle():
    a = esp32.NVS("citymote")
    a.set_i32("ceiling", 64)
    assert a.get_i32("ceiling") == 64
    try:
        esp32.NVS("citymote").get_i32("ceiling")
        raise AssertionError
    except OSError as e:
        assert e.errno == -4354
    a.commit()
    assert esp32.NVS("citymote").get_i32("ceiling") == 64


def test_nvs_blob_keeps_its_bytes():
    a = esp32.NVS("citymote")
    a.set_blob("key", bytes(range(16)))
    a.commit()
    buf = bytearray(16)
    assert esp32.NVS("citymote").get_blob("key", buf) == 16
    assert buf == bytes(range(16))


def test_reset_rises_as_sim_reset():
    try:
        machine.reset()
    except sim.Reset as e:
        assert e.kind == "R" and e.arg == "hard"
    else:
        raise AssertionError


def test_watchdog_bites_a_task_that_does_not_feed():
    async def dawdle():
        await asyncio.sleep(5)

    machine.WDT(timeout=2000)
    try:
        asyncio.run(dawdle())
    except sim.Reset as e:
        assert e.arg == "wdt"
    else:
        raise AssertionError


class Line:
    """32-byte frames every second at 9600 baud."""

    def __init__(self, now_us):
        self._now = now_us
        self._sent = 0
        self._start = now_us()

    def _at(self, n):
        return self._start + 1000000 * (n // 32 + 1) + 1042 * (n % 32 + 1)

    def produce(self):
        out = bytearray()
        while self._at(self._sent) <= self._now():
            out.append(self._sent % 32)
            self._sent += 1
        return bytes(out)

    def next_us(self):
        return self._at(self._sent)

    def receive(self, data):
        pass


async def test_uart_gives_whole_frames_to_a_stream_reader():
    sim.attach_uart(2, Line(sim.now_us))
    reader = asyncio.StreamReader(machine.UART(2, 9600))
    for _ in range(3):
        assert bytes(await reader.readexactly(32)) == bytes(range(32))


async def test_a_uart_gives_what_has_come_at_the_next_tick_of_the_port_not_only_whole_frames():
    """machine_uart.c sets the threshold of the FIFO to one byte while timeout_char is 0; whoever waits is woken at ticks of 10 ms."""
    for phase in range(10):  # of the first byte, to the tick: another one may come while the task that was woken runs
        sim.advance_ms(10 + phase - sim.now_us() // 1000 % 10)
        sim.attach_uart(2, Line(sim.now_us))
        uart = machine.UART(2, 9600)
        sim.advance_ms(1005)
        assert uart.any() == 4, uart.any()
        reader, got, after = asyncio.StreamReader(uart), [], []
        while sum(got) < 32:
            got.append(len(await reader.read(64)))
            after.append(sim.now_us() % 10000)
        assert max(got) <= 11 and max(after[1:]) < 1000, (phase, got, after)


async def test_i2s_holds_stereo_frames_of_8_bytes_and_wakes_a_reader_for_256_of_them():
    i2s = machine.I2S(1, mode=machine.I2S.RX, bits=32, format=machine.I2S.MONO, rate=48000, ibuf=32768)
    began, buf = sim.now_us(), bytearray(4 * 8192)
    n = await asyncio.StreamReader(i2s).readinto(buf)
    assert n == 4 * 256 and 5_333 <= sim.now_us() - began < 6_000, (n, sim.now_us() - began)
    sim.advance_ms(85)
    assert i2s.readinto(buf) == 4 * 3840 and i2s.lost == 0
    sim.advance_ms(96)
    assert i2s.readinto(buf) == 4 * 4096 and i2s.lost == 512, i2s.lost
    try:
        machine.I2S(1, mode=machine.I2S.RX, bits=32, format=machine.I2S.MONO, rate=48000, ibuf=4095)
        raise AssertionError
    except ValueError:
        pass


def test_pins_that_a_chip_lacks_or_cannot_drive_are_refused_and_an_i2c_bus_on_them_is_the_end():
    Pin = machine.Pin
    for number, mode, words in (
        (24, Pin.IN, "invalid pin"),
        (40, Pin.IN, "invalid pin"),
        (36, Pin.OUT, "only be input"),
        (39, Pin.OPEN_DRAIN, "only be input"),
    ):
        try:
            Pin(number, mode)
            raise AssertionError(number)
        except ValueError as e:
            assert words in str(e), e
    assert Pin(36, Pin.IN).value() == 0
    try:
        machine.I2C(0, scl=Pin(36), sda=Pin(21))
        raise AssertionError("ESP-IDF 5.5.2 aborts")
    except sim.Reset as e:
        assert e.kind == "R"


def test_power_cut_stops_a_flash_write():
    sim.power_cut_in(50)
    try:
        with open("/cut.bin", "wb") as f:
            f.write(bytes(2000))
    except sim.Reset as e:
        assert e.kind == "X"
    else:
        raise AssertionError
    finally:
        sim.no_power_cut()


def test_an_adc_is_off_now_and_then_when_its_board_is_said_to_be_noisy():
    import machine
    import sim_hw

    sim.attach_analog(35, lambda: 2.0)
    read = machine.ADC(machine.Pin(35), atten=machine.ADC.ATTN_11DB).read_uv
    quiet = [read() for _ in range(500)]
    sim_hw.faults = (("adc", "noise", 0, 1 << 60),)
    try:
        noisy = []
        for _ in range(500):
            sim.advance_ms(17)
            noisy.append(read())
    finally:
        sim_hw.faults = ()
    assert set(quiet) == {2000000}
    off = len([v for v in noisy if v < 1900000])
    assert 20 <= off <= 100, off

"""Sleep, holds, lost storage and power that goes in the middle of a flash operation, as the esp32 port documents them."""

import asyncio

import esp32
import machine
import sim
import sim_clock
import sim_flash
import sim_hw
from machine import Pin


def ends(function, *args):
    try:
        function(*args)
    except sim.Reset as e:
        return e.kind, e.arg
    raise AssertionError("returned")


def test_deep_sleep_without_a_time_is_for_ever():
    assert ends(machine.deepsleep, 5000) == ("Z", 5000)
    for forever in (ends(machine.deepsleep), ends(machine.deepsleep, 0)):
        assert forever[0] == "Z" and forever[1] > 1000 * 365 * 86400 * 1000, "more than a thousand years"


def test_the_cause_of_a_wake_is_told():
    sim.reboot(machine.PWRON_RESET)
    assert machine.reset_cause() == machine.PWRON_RESET and machine.wake_reason() == 0
    sim.reboot(machine.DEEPSLEEP_RESET, 1000)
    assert machine.reset_cause() == machine.DEEPSLEEP_RESET and machine.wake_reason() == machine.TIMER_WAKE
    sim.reboot(machine.WDT_RESET)
    assert machine.wake_reason() == 0
    machine.lightsleep(10)
    assert machine.reset_cause() == machine.WDT_RESET and machine.wake_reason() == machine.TIMER_WAKE


def test_light_sleep_keeps_time_and_stops_the_watchdog():
    machine.WDT(timeout=2000)
    t = sim.now_us()
    machine.lightsleep(60000)
    assert sim.now_us() - t == 60000000
    sim.advance_ms(1900)
    assert ends(sim.advance_ms, 200) == ("R", "wdt")
    try:
        machine.lightsleep()
        raise AssertionError
    except sim.Deadlock:
        pass


def test_wake_pins_are_checked_as_the_port_checks_them():
    sim.reboot(machine.PWRON_RESET)
    esp32.wake_on_ext0(Pin(33), esp32.WAKEUP_ANY_HIGH)
    esp32.wake_on_ext1((Pin(2), 4), esp32.WAKEUP_ANY_HIGH)
    for function in (esp32.wake_on_ulp, esp32.wake_on_touch):
        try:
            function(True)
            raise AssertionError
        except ValueError as e:
            assert "no resources" in str(e)
    esp32.wake_on_ext0(None)
    esp32.wake_on_ulp(True)
    for function, pin in ((esp32.wake_on_ext0, 33), (esp32.wake_on_ext1, (5,))):
        try:
            function(pin)
            raise AssertionError
        except ValueError as e:
            assert str(e) == ("no resources" if pin == 33 else "invalid pin")


def test_a_held_pad_keeps_its_level_until_it_is_released():
    sim.reboot(machine.PWRON_RESET)
    pin = Pin(25, Pin.OUT, value=1, hold=True)
    pin.value(0)
    assert pin.value() == 1
    pin.init(hold=False)
    assert pin.value() == 0, "what was asked meanwhile comes now"


def test_held_rtc_pads_outlive_deep_sleep_and_digital_ones_only_on_demand():
    for demand in (False, True):
        sim.reboot(machine.PWRON_RESET)
        Pin(25, Pin.OUT, value=1, hold=True)  # RTC GPIO
        Pin(5, Pin.OUT, value=1, hold=True)  # digital: the radio's chip select
        Pin(26, Pin.OUT, value=1)
        if demand:
            esp32.gpio_deep_sleep_hold(True)
        ends(machine.deepsleep, 1000)
        sim.reboot(machine.DEEPSLEEP_RESET, 1000)
        assert [Pin(n).value() for n in (25, 5, 26)] == [1, demand, 0], demand
        Pin(25, Pin.OUT, value=0)
        assert Pin(25).value() == 1
        Pin(25, Pin.OUT, hold=False)
        assert Pin(25).value() == 0
        sim.reboot(machine.PWRON_RESET)
        assert Pin(5).value() == 0 and not sim_hw.held


def test_power_on_empties_what_the_rtc_domain_kept():
    machine.RTC().memory(b"kept")
    sim.reboot(machine.WDT_RESET)
    assert machine.RTC().memory() == b"kept"
    sim.reboot(machine.PWRON_RESET)
    assert machine.RTC().memory() == b""
    assert machine.RTC().datetime()[0] == 2000
    try:
        machine.RTC().memory(bytes(2049))
        raise AssertionError
    except ValueError:
        machine.RTC().memory(bytes(2048))


def test_nvs_can_be_erased_under_the_firmware():
    nvs = esp32.NVS("citymote")
    nvs.set_i32("ceiling", 64)
    nvs.commit()
    sim.erase_nvs()
    for handle in (nvs, esp32.NVS("citymote")):
        try:
            handle.get_i32("ceiling")
            raise AssertionError
        except OSError as e:
            assert e.errno == -4354
    nvs.set_i32("ceiling", 1)
    nvs.commit()
    assert esp32.NVS("citymote").get_i32("ceiling") == 1


class Image:
    """A flash image in RAM."""

    def __init__(self, size):
        self.data = bytearray(b"\x55" * size)
        self._at = 0

    def seek(self, at):
        self._at = at

    def readinto(self, buf):
        buf[:] = self.data[self._at : self._at + len(buf)]

    def write(self, data):
        self.data[self._at : self._at + len(data)] = data


def test_a_power_cut_leaves_a_flash_operation_half_done():
    image = Image(3 * 4096)
    flash = sim_flash.Flash(image, 3 * 4096)
    try:
        for us in (0, 100, 410, 820, 1600):
            image.data[:] = b"\x55" * len(image.data)
            sim.power_cut_in(us)
            # 20 + 1024 * 400 / 256 us
            want = 1024 * us // 1620
            try:
                flash.writeblocks(1, bytes(1024), 512)
                raise AssertionError
            except sim.Reset as e:
                assert e.kind == "X"
            assert image.data.count(b"\0") == want, (us, want)
            assert bytes(image.data[4096 + 512 : 4096 + 512 + want]) == bytes(want)
        image.data[:] = b"\x55" * len(image.data)
        sim.power_cut_in(1)
        flash.readblocks(0, bytearray(4096))  # takes 206 us
        assert ends(flash.writeblocks, 1, bytes(1024)) == ("X", 0)
        assert image.data.count(b"\0") == 0
        sim.power_cut_in(22500)
        image.data[:] = b"\x55" * len(image.data)
        assert ends(flash.ioctl, 6, 2) == ("X", 0)
        assert image.data.count(b"\xff") == 2048 and image.data[8192 + 2047] == 0xFF and image.data[8192 + 2048] == 0x55
        sim.no_power_cut()
        flash.ioctl(6, 2)
        assert image.data.count(b"\xff") == 4096
    finally:
        sim.no_power_cut()


def test_a_file_system_survives_a_torn_operation_at_any_time():
    with open("/torn.bin", "wb") as f:
        f.write(b"old" * 300)
    for us in range(1000, 200000, 7001):
        sim.power_cut_in(us)
        try:
            with open("/torn.new", "wb") as f:
                f.write(b"new" * 300)
            sim.advance_ms(1000)
            raise AssertionError("no cut")
        except sim.Reset as e:
            assert e.kind == "X"
        finally:
            sim.no_power_cut()
        with open("/torn.bin", "rb") as f:
            assert f.read() == b"old" * 300, us


async def test_asyncio_tasks_wait_through_a_light_sleep():
    async def later():
        await asyncio.sleep_ms(50)
        return sim_clock.now

    start = sim_clock.now
    task = asyncio.create_task(later())
    await asyncio.sleep_ms(0)
    machine.lightsleep(500)
    assert await task - start >= 500000

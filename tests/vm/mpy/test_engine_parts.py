"""Statistics, duty ledger, RTC memory: each on its own."""

import json
import os
from array import array

import machine
import network
import nodekit as kit
import sim
import sim_hw
from mote import duty as duty_module
from mote.duty import Duty, sub_band
from mote.errors import BadConfig, LinkDown, LowSupply
from mote.files import make_dir
from mote.hal.board import Board
from mote.hal.rtc import RtcMemory
from mote.hal.wlan import Wlan
from mote.power import Power
from mote.profiles import chip
from mote.stats import LAST, MAX, MEAN, MIN, Stats


def test_a_row_is_the_rounded_mean_the_last_the_smallest_and_the_largest():
    s = Stats((MEAN, LAST, MIN, MAX, MEAN))
    for v in (3, -7, 9):
        for c in range(4):
            s.add(c, v)
    out = array("i", bytes(20))
    assert s.row_into(out) == 0b01111
    assert list(out)[:4] == [2, 9, -7, 9]
    s.clear()
    s.add(4, -3)
    s.add(4, -4)
    assert s.row_into(out) == 0b10000 and out[4] == -3  # half up


def test_a_mean_of_large_values_stays_small_inside():
    s = Stats((MEAN,))
    for i in range(3600):
        s.add(0, 100_000_000 + i % 7)
    assert s._acc[0] < 1 << 20
    out = array("i", bytes(4))
    s.row_into(out)
    assert out[0] == 100_000_003


def test_the_duty_ledger_never_lets_an_hour_exceed_its_share():
    machine.fill_rtc(b"")
    nvs, now = kit.Store(), [1000]
    rtc = RtcMemory()
    d = Duty(rtc, nvs, lambda: now[0], [1])
    sent = []
    while now[0] < 1000 + 6 * 3600:
        if d.budget_ms(0, False) >= 2466:
            d.spend(0, 2466)
            sent.append(now[0])
        now[0] += 7
    for t in sent:
        hour = sum([2466 for x in sent if t - 3600 < x <= t])
        assert hour <= 36000 * 60 // 100, (t, hour)
    later = [t for t in sent if t > 1000 + 2 * 3600]
    assert len(later) * 2466 > 4 * 36000 * 50 // 100, "the budget is used"
    assert d.budget_ms(0, True) - d.budget_ms(0, False) == 36000 * 20 // 100, "alarms have a reserve"


def test_a_hundred_resets_do_not_renew_the_budget():
    machine.fill_rtc(b"")
    nvs, now = kit.Store(), [5000]
    spent = 0
    for boot in range(100):
        if boot == 50:
            now[0] += 1800
        d = Duty(RtcMemory(), nvs, lambda: now[0], [1])
        while d.budget_ms(0, True) >= 100:
            d.spend(0, 100)
            spent += 100
        now[0] += 5
    assert spent <= 36000 * 80 // 100, spent


def test_any_number_of_power_cuts_in_an_hour_stays_legal():
    nvs, now = kit.Store(), [10_000]
    machine.fill_rtc(b"")
    d = Duty(RtcMemory(), nvs, lambda: now[0], [1])
    now[0] += 4000
    assert d.budget_ms(0, True) == 36000 * 80 // 100
    spent = 0
    while d.budget_ms(0, True) >= 50:
        d.spend(0, 50)
        spent += 50
    for _ in range(60):
        machine.fill_rtc(b"")
        d = Duty(RtcMemory(), nvs, lambda: now[0], [1])
        while d.budget_ms(0, True) >= 50:
            d.spend(0, 50)
            spent += 50
        now[0] += 50
    assert 36000 * 80 // 100 < spent <= 36000, spent
    now[0] += 8000
    d = Duty(RtcMemory(), nvs, lambda: now[0], [1])
    assert d.budget_ms(0, True) == 36000 * 80 // 100
    assert nvs.get("airstarts") == 0


def test_a_clock_step_neither_forgets_nor_prolongs_what_was_sent():
    machine.fill_rtc(b"")
    nvs, now = kit.Store(airstarts=0), [5]
    d = Duty(RtcMemory(), nvs, lambda: now[0], [1, 0])
    d.spend(0, 3000)
    for step in (820_000_000, -4000, 90):
        now[0] += step
        d.shift(step)
        assert d.used_ms(0) == 3000 and d.used_ms(1) == 0, step
    now[0] += 3800
    assert d.budget_ms(0, True) == 36000 * 80 // 100


def test_channels_outside_the_bands_are_not_ours():
    assert sub_band(868100) == sub_band(868500) != sub_band(867100)
    for khz in (868650, 869300, 864000, 870001, 433000):
        assert sub_band(khz) < 0
    assert duty_module.SUB_BANDS[sub_band(869525)][2] == 360000


def test_rtc_memory_that_is_noise_counts_as_power_on():
    machine.fill_rtc(bytes(range(256)) + bytes(20))
    assert RtcMemory().fresh
    m = RtcMemory()
    m.buf[2] = 7
    m.save()
    n = RtcMemory()
    assert not n.fresh and n.buf[2] == 7
    data = bytearray(machine.RTC().memory())
    data[50] ^= 4
    machine.fill_rtc(bytes(data))
    assert RtcMemory().fresh
    assert sim.now_us() >= 0


class Supply:
    """A board whose ADC is off by `mv` in every `every`-th reading."""

    limits = {"flash_write_min_mv": 3300}

    def __init__(self, true_mv, mv, every):
        self.true_mv, self._mv, self._every, self._n = true_mv, mv, every, 0

    def battery_mv(self):
        self._n += 1
        return self.true_mv + (self._mv if self._n % self._every == 0 else 0)


def test_one_bad_reading_of_the_supply_costs_nothing_and_a_low_supply_is_seen_at_once():
    machine.fill_rtc(b"")
    for every in (1000, 7, 3):
        p = Power(RtcMemory(), Supply(3900, -700, every), lambda: 0, lambda: 0)
        for _ in range(2000):
            p.check()
        assert p.refused == 0
    board = Supply(3250, 200, 5)
    p = Power(RtcMemory(), board, lambda: 0, lambda: 0)
    seen = 0
    for mv in (3250, 3290, 3390, 3450):  # released 100 mV above
        board.true_mv = mv
        for _ in range(5):
            try:
                p.check()
            except LowSupply:
                seen += 1
    assert p.refused == 1 and 8 <= seen <= 15, (p.refused, seen)


async def test_a_station_is_given_the_time_that_it_takes_to_start():
    """What is asked at once says "wrong password" until it is switched off, on some chips."""
    w = Wlan("city", "simulated", "mote-1")
    began = sim.now_us()
    await w.join(20)
    assert w.connected() and sim.now_us() - began < 6000000
    network.WLAN(network.STA_IF).active(False)
    await w.join(20)
    assert w.connected(), "and again, the station being the same"


async def test_a_wrong_name_or_password_is_told_from_an_access_point_that_is_away():
    """The port's codes, which it repeats while it goes on trying."""
    for ssid, password, why in (
        ("town", "simulated", "no access point"),
        ("city", "Simulated", "wrong password"),
        ("city", "", "wrong password"),
    ):
        network.WLAN(network.STA_IF).active(False)
        w = Wlan(ssid, password, "mote-1")
        try:
            await w.join(20)
            raise AssertionError(ssid, password)
        except LinkDown as e:
            assert why in str(e), e
        assert not w.connected()
    w = Wlan("city", "simulated", "mote-1")
    await w.join(20)
    assert w.connected()


async def test_an_access_point_that_has_just_gone_has_no_strength_and_ends_nothing():
    w = Wlan("city", "simulated", "mote-1")
    await w.join(20)
    assert w.rssi() == -61
    now = sim.now_us()
    sim_hw.wifi_down = ((now, now + 60000000),)
    try:
        assert w.connected() and w.rssi() is None, "the station has not noticed yet"
        sim.advance_ms(10000)
        assert not w.connected() and w.rssi() is None
    finally:
        sim_hw.wifi_down = ()


def test_a_divider_is_taken_as_it_is_written():
    for divider, mv in ((2.01, 6030), (1.15, 3450), (2, 6000), (4.255, 12765)):
        sim.attach_analog(35, lambda: 3.0)
        assert Board({"battery": {"pin": 35, "divider": divider}}).battery_mv() == mv, divider


def test_what_a_configuration_cannot_be_built_from_is_refused_where_it_is_written():
    from mote.settings import check

    base = {"node": 1, "profile": "water_meter"}
    check(base | {"sensors": {"lis3dh": {"up": "z"}, "pulse": {"start_l": 1.5}, "leak": None}})
    for wrong, named in (
        ({"sensors": {"leak": {"hours": "24"}}}, "sensors.leak.hours"),
        ({"sensors": {"leak": 5}}, "sensors.leak "),
        ({"sensors": {"bme280": {"addr": "x"}}}, "sensors.bme280.addr"),
        ({"channels_khz": ["868100"]}, "channels_khz"),
        ({"channels_khz": [868100, None]}, "channels_khz"),
        ({"wifi": {"ssid": 5}}, "wifi.ssid"),
        ({"wifi": {"port": "1883"}}, "wifi.port"),
    ):
        try:
            check(base | wrong)
            raise AssertionError(wrong)
        except BadConfig as e:
            assert named in str(e), e


def test_options_that_say_what_a_value_means_are_not_left_out():
    """A register at another number of litres a pulse is no register: rather none at all."""
    from mote.config import Config

    with open("/config.json", "w") as f:
        json.dump({"node": 1, "profile": "water_meter", "sensors": {"pulse": {"litres_per_pulse": 10}, "leak": {"hours": 3}},
                   "alarms": [{"q": "water_flow", "above": 9}]}, f)  # fmt: skip
    c = Config()
    c.strip()
    assert c["sensors"] == {"pulse": {"litres_per_pulse": 10}} and c["alarms"] == []


class Sleeps:
    """RTC memory of a boot that ends a deep sleep, or does not."""

    def __init__(self, woke):
        self.woke, self.fresh, self.buf = woke, False, bytearray(8)

    def save(self):
        pass


def put(path, text):
    make_dir("/out")
    with open(path, "w") as f:
        f.write(text)


def test_a_wake_takes_the_proven_values_and_judges_what_is_not_them():
    from mote import config
    from mote.config import RUN, Config

    text = '{"node": 1, "profile": "water_meter", "mode": "sleep", "sensors": {"pulse": {"litres_per_pulse": 0.1}}%s}'
    put("/config.json", text % "")
    judged, calls = config._settings, []

    def settings_of(what, *args):
        calls.append(what)
        return judged(what, *args)

    def boot(woke):
        del calls[:]
        return Config(rtc=Sleeps(woke))

    config._settings = settings_of
    try:
        c = boot(False)
        assert "config.run" not in os.listdir("/out"), "what is not proven is judged at every wake"
        c.proven()
        again = boot(True)
        assert calls == [] and again.values == c.values and not again.probation and not again.fallback
        for spoilt in (text % ', "row_s": 600', "{", text % ', "row_s": 0.5'):
            put("/config.json", spoilt)
            other = boot(True)
            assert calls == ["load"] and (other["row_s"] == 600 and other.probation or other.fallback), spoilt
            put("/config.json", text % "")
            boot(False).proven()
        kept = open(RUN).read()
        for rotten in (kept.replace("300", "900"), kept[:-9], "", "7\n[]", "x", kept.replace("\n", "")):
            put(RUN, rotten)
            c = boot(True)
            assert calls == ["load"] and c["row_s"] == 300 and c["sensors"]["pulse"]["litres_per_pulse"] == 0.1, rotten
        c.proven()
        os.remove("/config.good")
        assert boot(True).probation and calls == ["load"], "the good one counts, too"
        boot(True).proven()
        assert boot(True)["row_s"] == 300 and calls == []
        boot(False)
        boot(True)
        assert calls == ["load"], (
            "another firmware has other defaults: a start judges anew, and so does the wake behind it"
        )
    finally:
        config._settings = judged


def test_a_flash_that_is_full_costs_no_proof():
    from mote import proof
    from mote.config import RUN, Config

    put("/config.json", '{"node": 1, "profile": "water_meter", "mode": "sleep"}')
    c, whole = Config(rtc=Sleeps(False)), proof.write_whole

    def full(path, data):
        if path == RUN:
            raise OSError(28)
        whole(path, data)

    proof.write_whole = full
    try:
        c.proven()
    finally:
        proof.write_whole = whole
    assert c.proved and "config.run" not in os.listdir("/out") and not Config(rtc=Sleeps(True)).probation


def test_options_of_a_chip_that_are_no_table_are_refused_by_name():
    for wrong in (5, "x", [1], True):
        try:
            chip("bme280", lambda unit: None, {"sensors": {"bme280": wrong}})
            raise AssertionError(wrong)
        except BadConfig as e:
            assert "sensors.bme280" in str(e)

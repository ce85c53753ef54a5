"""Statistics, alarm rules, configuration, duty ledger: each on its own."""

import json
import os
from array import array

import machine
import nodekit as kit
import sim
from mote import duty as duty_module
from mote.alarms import Alarms, Mask, rules_from
from mote.config import Config, check
from mote.duty import Duty, sub_band
from mote.errors import BadConfig
from mote.hal.rtc import RtcMemory
from mote.stats import LAST, MAX, MEAN, MIN, Stats


def refused(call, *args):
    try:
        call(*args)
    except BadConfig as e:
        return str(e)
    raise AssertionError("not refused")


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


def test_an_alarm_is_raised_once_and_cleared_once():
    told = []
    rules = rules_from(
        [{"q": "pm10", "above": 180, "clear": 150, "hold": 2}, {"q": "temperature", "below": -5.5}], (6, 1)
    )
    nvs = kit.Store()
    alarms = Alarms(rules, lambda *a: told.append(a), Mask(nvs, "alarms", "x"))
    row = array("i", (0, 0))
    for t, pm, temp in (
        (1, 190, 0),
        (2, 170, 0),
        (3, 200, 0),
        (4, 201, -55),
        (5, 160, -56),
        (6, 181, -60),
        (7, 150, -55),
    ):
        row[0], row[1] = pm, temp
        alarms.check(t, row, 3)
    assert told == [(2, 4, 6, 201, 180), (3, 5, 1, -56, -55), (1, 7, 6, 150, 180), (1, 7, 1, -55, -55)], told


def test_an_alarm_raised_before_a_reset_is_cleared_after_it():
    specs = [{"q": "pm10", "above": 180, "clear": 150}]
    nvs, told = kit.Store(), []
    row = array("i", (200,))
    Alarms(rules_from(specs, (6,)), lambda *a: told.append(a), Mask(nvs, "alarms", repr(specs))).check(1, row, 1)
    again = Alarms(rules_from(specs, (6,)), lambda *a: told.append(a), Mask(nvs, "alarms", repr(specs)))
    again.check(2, row, 1)
    row[0] = 100
    again.check(3, row, 1)
    assert [t[0] for t in told] == [2, 1], told


def test_alarm_rules_that_make_no_sense_are_refused_by_name():
    for spec in ({"q": "pm10"}, {"q": "pm10", "above": 1, "below": 2}, {"q": "nonsense", "above": 1}, {"q": "o3", "above": 1},
                 {"q": "pm10", "above": 1, "clear": 2}, {"q": "pm10", "above": 1, "hold": 0}):  # fmt: skip
        assert "alarms" in refused(rules_from, [spec], (6,)), spec


def test_a_configuration_is_checked_key_by_key():
    good = {"node": 1, "profile": "noise"}
    full = check(good)
    assert full["row_s"] == 300 and full["sf"] == 7 and full["jitter_s"] == 300
    for key, value in (
        ("node", "1"),
        ("node", 0),
        ("sf", 6),
        ("sf", 7.5),
        ("row_s", 61),
        ("report_s", 301),
        ("alarms", {}),
        ("node", True),
    ):
        bad = dict(good)
        bad[key] = value
        text = refused(check, bad)
        assert key in text or "multiple" in text, text
    assert "profile" in refused(check, {"node": 1})


def test_a_broken_configuration_falls_back_to_the_last_good_one():
    path, good = "/c.json", "/c.good"
    with open(path, "w") as f:
        json.dump({"node": 5, "profile": "noise", "row_s": 600, "report_s": 3600, "future": 1}, f)
    c = Config(path, good)
    assert not c.fallback
    c.proven()
    with open(path, "w") as f:
        f.write('{"node": 5, "prof')
    c = Config(path, good)
    assert c.fallback and c["row_s"] == 600 and c["future"] == 1 and "JSON" in c.problem
    os.remove(good)
    refused(Config, path, good)
    os.remove(path)


def test_the_duty_ledger_never_lets_an_hour_exceed_its_share():
    machine._state["rtc"] = b""
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
    machine._state["rtc"] = b""
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
    machine._state["rtc"] = b""
    d = Duty(RtcMemory(), nvs, lambda: now[0], [1])
    now[0] += 4000
    assert d.budget_ms(0, True) == 36000 * 80 // 100
    spent = 0
    while d.budget_ms(0, True) >= 50:
        d.spend(0, 50)
        spent += 50
    for _ in range(60):
        machine._state["rtc"] = b""
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
    machine._state["rtc"] = b""
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
    machine._state["rtc"] = bytes(range(256)) + bytes(20)
    assert RtcMemory().fresh
    m = RtcMemory()
    m.buf[2] = 7
    m.save()
    n = RtcMemory()
    assert not n.fresh and n.buf[2] == 7
    data = bytearray(machine._state["rtc"])
    data[50] ^= 4
    machine._state["rtc"] = bytes(data)
    assert RtcMemory().fresh
    assert sim.now_us() >= 0

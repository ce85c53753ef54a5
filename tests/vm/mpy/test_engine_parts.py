"""Statistics, alarm rules, configuration, duty ledger, outbox: each on its own."""

import json
import os
from array import array

import machine
import nodekit as kit
import sim
from mote import duty as duty_module, nobody
from mote.alarms import Alarms, Mask, rules_from
from mote.config import Config, check
from mote.duty import Duty, sub_band
from mote.errors import BadConfig, Corrupt
from mote.hal.rtc import RtcMemory
from mote.outbox import FRESH, MISSING, SENT, Outbox
from mote.staging import Staging
from mote.stats import LAST, MAX, MEAN, MIN, Stats
from motewire import messages
from motewire.frame import ALARM, REPORT


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


def box(**kwargs):
    disk = kit.Disk(blocks=64)
    disk.mount()
    return disk, Outbox("/d/out", kwargs.get("cap_bytes", 16384), kwargs.get("cap", 64), kwargs.get("on_lost", nobody))


def put(out, counter, kind=REPORT, n=50, rows=5):
    out.append(kind, counter, bytes([counter & 255]) * n, n, rows)


def test_the_outbox_keeps_frames_over_a_restart_byte_for_byte():
    disk, out = box()
    for c in range(1, 40):
        put(out, c, n=20 + c)
    out = Outbox("/d/out", 16384, 64)
    assert list(out.counters[: out.depth]) == list(range(1, 40))
    buf = bytearray(256)
    for i in range(out.depth):
        n = out.read_into(i, buf)
        assert buf[:n] == bytes([i + 1]) * (21 + i)
    out = None
    disk.umount()


def test_acks_drop_ranges_and_mark_what_is_missing():
    disk, out = box()
    for c in range(10, 30):
        put(out, c)
        out.states[out.depth - 1] = SENT
    assert out.ack(messages.Ack({1: 25, 2: b"\x28", 8: 12})) == 11  # [12, 25) but 22 and 20
    left = list(out.counters[: out.depth])
    assert left == [10, 11, 20, 22, 25, 26, 27, 28, 29], left
    assert [out.states[i] for i in range(4)] == [SENT, SENT, MISSING, MISSING]
    assert out.ack(messages.Ack({1: 30})) == 9
    assert out.depth == 0 and out.bytes == 0 and os.listdir("/d/out") == []
    out = None
    disk.umount()


def test_a_full_outbox_evicts_the_oldest_bulk_and_counts_its_rows_but_keeps_alarms():
    told = []
    disk, out = box(cap_bytes=9000, on_lost=told.append)
    put(out, 1, ALARM, rows=0)
    for c in range(2, 200):
        put(out, c, n=100)
    kept = list(out.counters[: out.depth])
    assert kept[0] == 1 and kept[-1] == 199
    assert sorted(kept) == kept and kept[1:] == list(range(kept[1], 200)), "oldest first"
    assert sum(told) == out.rows_lost == 5 * (198 - len(kept) + 1)
    assert out.bytes <= 9000
    out = None
    disk.umount()


def test_a_full_flash_evicts_too():
    disk, out = box(cap_bytes=1 << 20, cap=600)
    for c in range(1, 500):
        put(out, c, n=200)
    assert out.rows_lost > 0 and out.counters[out.depth - 1] == 499
    out = Outbox("/d/out", 1 << 20, 600)
    assert out.counters[out.depth - 1] == 499
    out = None
    disk.umount()


def test_a_frame_that_rots_on_flash_is_noticed():
    disk, out = box()
    put(out, 1)
    put(out, 2)
    name = "/d/out/" + os.listdir("/d/out")[0]
    with open(name, "rb") as f:
        data = bytearray(f.read())
    data[30] ^= 1
    with open(name, "wb") as f:
        f.write(data)
    try:
        out.read_into(0, bytearray(256))
    except Corrupt:
        pass
    else:
        raise AssertionError
    out.drop(0)
    assert out.depth == 1 and out.rows_lost == 5 and out.states[0] == FRESH
    out = None
    disk.umount()


def flip(name, at):
    with open(name, "rb") as f:
        data = bytearray(f.read())
    data[at] ^= 0x10
    with open(name, "wb") as f:
        f.write(data)


def test_a_frame_that_rotted_before_a_restart_is_never_offered_and_the_rest_is():
    disk, out = box()
    for c in range(1, 6):
        put(out, c, n=30)
    out = None
    flip("/d/out/" + os.listdir("/d/out")[0], 2 * 50 + 20)
    out = Outbox("/d/out", 16384, 64)
    assert list(out.counters[: out.depth]) == [1, 2, 4, 5] and out.damaged == 1
    out = None
    disk.umount()


def test_a_staged_row_that_rotted_is_left_out_and_the_rest_taken_up():
    disk = kit.Disk()
    disk.mount()
    staging = Staging("/d/stage", (4, 5), None, 60)
    for i in range(5):
        staging.add(1000 + 60 * i, [i, -i], 3)
    staging = None
    size = 4 + 2 + 8 + 2
    flip("/d/stage/1", 8 + 4 + 2 + size + 7)
    f = Staging("/d/stage", (4, 5), None, 60).open_leftover(1)
    rows = []
    while f.next_row():
        rows.append((f.t, f.values[0], f.values[1]))
    f.close()
    assert rows == [(1000, 0, 0), (1120, 2, -2), (1180, 3, -3), (1240, 4, -4)], rows
    f = None
    disk.umount()


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

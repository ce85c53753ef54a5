"""Alarm rules and the configuration they come from: what is told when, what is refused, what survives a change."""

import json
import os
from array import array

import nodekit as kit
from mote import borrow, config
from mote.alarms import Alarms, Mask
from mote.rules import rules_from
from mote.config import Config
from mote.errors import BadConfig
from mote.settings import check, emergency_of, proposed


def refused(call, *args):
    try:
        call(*args)
    except BadConfig as e:
        return str(e)
    raise AssertionError("not refused")


def test_an_alarm_is_raised_once_and_cleared_once():
    told = []
    rules = rules_from(
        [
            {"q": "pm10", "above": 180, "clear": 150, "hold": 2, "least_s": 0},
            {"q": "temperature", "below": -5.5, "clear": -5.5, "least_s": 0},
        ],
        (6, 1),
    )
    nvs = kit.Store()
    alarms = Alarms(rules, lambda *a: told.append(a[:5]), Mask(nvs, "alarms", "x"), (6, 1))
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
    specs = [{"q": "pm10", "above": 180, "clear": 150, "least_s": 0}]
    nvs, told = kit.Store(), []
    row = array("i", (200,))
    Alarms(rules_from(specs, (6,)), lambda *a: told.append(a[:5]), Mask(nvs, "alarms", "x"), (6,)).check(1, row, 1)
    again = Alarms(rules_from(specs, (6,)), lambda *a: told.append(a[:5]), Mask(nvs, "alarms", "x"), (6,))
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
    c = Config(path, good, factory="/c.factory")
    assert not c.fallback
    c.proven()
    with open(path, "w") as f:
        f.write('{"node": 5, "prof')
    c = Config(path, good, factory="/c.factory")
    assert c.fallback and c["row_s"] == 600 and c["future"] == 1 and "JSON" in config.problem()
    with open(path, "w") as f:
        json.dump({"node": 5, "profile": "noise", "row_s": 900, "report_s": 3600}, f)
    Config(path, good, factory="/c.factory").proven()
    with open(path, "w") as f:
        f.write("{")
    assert Config(path, good, factory="/c.factory")["row_s"] == 900, "the last that was proven, not the first"
    os.remove(good)
    assert Config(path, good, factory="/c.factory")["row_s"] == 600, "the first one that was proven is the factory's"
    os.remove("/c.factory")
    refused(Config, path, good)
    os.remove(path)


def told_of(specs, ids, samples):
    """Run one column's samples (t, v) through rules; return what was told and the Alarms."""
    told = []
    alarms = Alarms(rules_from(specs, ids), lambda *a: told.append(a[:5]), Mask(kit.Store(), "alarms", "x"), ids)
    row = array("i", (0,) * len(ids))
    for t, v in samples:
        row[0] = v
        alarms.check(t, row, 1)
    return told, alarms


def test_an_alarm_that_gets_worse_is_told_again_by_steps_and_not_too_often():
    told, _ = told_of(
        [{"q": "pm10", "above": 100, "clear": 80, "step": 30, "update_s": 300}], (6,),
        [(0, 110), (60, 139), (120, 145), (300, 145), (360, 150), (660, 400), (700, 900), (961, 900), (1400, 850), (2000, 80)],
    )  # fmt: skip
    assert [(c, t, v) for c, t, _, v, _ in told] == [
        (2, 0, 110),
        (2, 300, 145),
        (2, 660, 400),
        (2, 961, 900),
        (1, 2000, 80),
    ], told


def test_the_usual_step_is_a_tenth_of_the_limit_and_at_least_the_hysteresis():
    assert [
        r.worse
        for r in rules_from(
            [{"q": "pm10", "above": 400}, {"q": "pm10", "above": 100, "clear": 60}, {"q": "temperature", "below": 0}],
            (6, 1),
        )
    ] == [40, 40, 5]
    assert rules_from([{"q": "temperature", "above": 40, "step": 0.5}], (1,))[0].worse == 5
    for wrong in ({"step": 0}, {"update_s": 0}, {"step": "x"}, {"above": "much"}):
        spec = {"q": "pm10", "above": 100}
        spec.update(wrong)
        assert "alarms" in refused(rules_from, [spec], (6,)), wrong


def test_what_was_told_is_remembered_over_a_deep_sleep():
    """Else a sensor that stays far above its limit would send an update at every wake."""
    specs = [{"q": "pm10", "above": 100, "clear": 80}, {"q": "pm10", "above": 900}]
    nvs, told, row, image = kit.Store(), [], array("i", (400,)), []
    for wake in range(5):
        alarms = Alarms(rules_from(specs, (6,)), lambda *a: told.append(a[:5]), Mask(nvs, "alarms", "x"), (6, 1))
        if image:
            numbers = iter(image)
            alarms.load(lambda numbers=numbers: next(numbers))
        alarms.check(1000 + 3600 * wake, row, 1)
        image = []
        alarms.save(image.append)
    assert len(told) == 1, told
    row[0] = 500
    alarms.check(90000, row, 1)
    assert len(told) == 2


def test_several_rules_of_one_place_are_told_once_each_over_deep_sleeps():
    """The Mask knows only that something above is up; which rules are must be in the image, which is read to its end."""
    specs = [{"q": "pm10", "above": limit, "clear": limit - 20, "step": 999, "least_s": 0} for limit in (800, 100, 300)]
    nvs, told, row, image = kit.Store(), [], array("i", (0,)), []
    for wake, v in enumerate((50, 120, 120, 320, 310, 900, 880, 290, 275, 90, 75, 75)):
        alarms = Alarms(rules_from(specs, (6,)), lambda *a: told.append((a[0], a[4])), Mask(nvs, "alarms", "x"), (6,))
        if image:
            numbers = iter(image)
            alarms.load(lambda numbers=numbers: next(numbers))
            assert list(numbers) == []
        row[0] = v
        alarms.check(1000 + 3600 * wake, row, 1)
        image = []
        alarms.save(image.append)
    assert told == [(2, 100), (2, 300), (2, 800), (1, 800), (1, 300), (1, 100)], told


def test_below_rules_are_updated_downwards():
    told, _ = told_of(
        [{"q": "temperature", "below": 0, "clear": 0, "step": 2, "update_s": 1, "least_s": 0}],
        (1,),
        [(0, -1), (10, -15), (20, -21), (30, -10), (40, 0)],
    )
    assert [(c, v) for c, _, _, v, _ in told] == [(3, -1), (3, -21), (1, 0)], told


def test_a_rule_may_ask_for_raised_rates_while_it_is_up():
    told, alarms = told_of([{"q": "pm10", "above": 100, "clear": 80, "boost": True, "least_s": 0}], (6,), [(0, 90)])
    row = array("i", (101,))
    assert not alarms.boosting
    alarms.check(1, row, 1)
    assert alarms.boosting
    row[0] = 80
    alarms.check(2, row, 1)
    assert not alarms.boosting and len(told) == 2


def test_other_rules_keep_what_is_up_say_a_new_limit_and_clear_what_has_no_rule_any_more():
    nvs, told = kit.Store(), []
    ids = (6, 5, 1)
    old = [{"q": "pm10", "above": 100, "clear": 80}, {"q": "pm25", "above": 50}, {"q": "temperature", "below": 0}]
    alarms = Alarms(rules_from(old, ids), lambda *a: told.append(a[:5]), Mask(nvs, "alarms", "x"), ids)
    row = array("i", (150, 60, -10))
    alarms.check(1, row, 7)
    assert len(told) == 3
    del told[:]
    new = [{"q": "temperature", "below": 0}, {"q": "pm10", "above": 120, "clear": 90}]
    borrow("mote.former", "replace", alarms, rules_from(new, ids), 5)
    assert told == [(2, 5, 6, None, 120), (1, 5, 5, None, 50)], told
    row[0] = 100
    alarms.check(6, row, 7)
    assert len(told) == 2, "still above 90: up, and nothing new"
    del told[:]
    again = Alarms(
        rules_from(new, ids), lambda *a: told.append(a[:5]), Mask(nvs, "alarms", "x"), ids
    )  # after a power cut
    row[0], row[2] = 90, 5
    again.check(907, row, 7)
    assert [t[:3] for t in told] == [(1, 907, 1), (1, 907, 6)], told


def test_what_cannot_be_is_refused_key_by_key():
    good = {"node": 1, "profile": "noise"}
    for key, value in (
        ("alarms", [5]),
        ("repl", 2),
        ("prove_s", 30),
        ("prove_s", 0x3FFFFFFF),  # a wrong configuration would be on trial for 34 years
        ("wdt_s", 1),  # fed every 20 s, and a collection or a flash erase may come between
        ("wdt_s", 59),
        ("ack_age_s", 10),
        ("emergency_row_s", 7),
        ("emergency_sample_s", True),
        ("log", "1"),
    ):
        bad = dict(good)
        bad[key] = value
        assert key in refused(check, bad), key


def test_what_would_make_a_node_unreachable_is_not_changed_from_afar():
    kit_files = {"node": 1, "profile": "noise"}

    class C:
        source, fallback, values = "/far.json", False, check(kit_files)

    with open("/far.json", "w") as f:
        f.write('{"node": 1, "profile": "noise"}')
    for key, value in (("repl", 1), ("wdt_s", 0), ("node", 2), ("version", 7)):
        assert key in refused(lambda change: proposed(C, change), {key: value}), key
    assert proposed(C, {"log": 3})[1]["log"] == 3


def test_raised_rates_fit_together_for_every_sensible_rhythm():
    for sample in (1, 5, 15, 60, 300):
        for rows in (1, 2, 5):
            for reports in (1, 2, 12):
                report = max(10, sample * rows * reports)
                if report % (sample * rows):
                    continue
                full = check(
                    {
                        "node": 1,
                        "profile": "air_quality",
                        "sample_s": sample,
                        "row_s": sample * rows,
                        "report_s": report,
                    }
                )
                e = emergency_of(full)
                assert e["sample_s"] <= sample and e["row_s"] <= full["row_s"], (full, e)
    assert emergency_of(check({"node": 1, "profile": "noise"})) == {"sample_s": 15, "row_s": 60, "report_s": 300}
    events = check({"node": 1, "profile": "parking", "row_s": 0, "sample_s": 10})
    assert emergency_of(events)["row_s"] == 0


def test_a_rule_without_a_clear_ends_a_distance_away_from_its_limit_and_within_what_can_be():
    for spec, clear in (
        ({"q": "pm10", "above": 50}, 45),
        ({"q": "pm10", "above": 1}, 1),
        ({"q": "temperature", "above": 30}, 295),
        ({"q": "temperature", "below": -10}, -95),
        ({"q": "humidity", "below": 99}, 995),
        ({"q": "humidity", "above": 1}, 5),
        ({"q": "pressure", "below": 980}, -190),
        ({"q": "pm10", "above": 50, "clear": 49}, 49),
    ):
        ids = {"pm10": 6, "temperature": 1, "humidity": 2, "pressure": 3}[spec["q"]]
        assert rules_from([spec], (ids,))[0].clear == clear, (spec, rules_from([spec], (ids,))[0].clear)
    for q, ids, limit in (("occupied", 17, 0), ("fill_level", 18, 100), ("fill_level", 18, 0), ("tilt", 19, 0)):
        for way in ("above", "below"):
            rule = rules_from([{"q": q, way: limit}], (ids,))[0]
            most = {17: 1, 18: 100, 19: 180}[ids]
            assert 0 <= rule.clear <= most, (q, way, limit, rule.clear)


def test_a_value_that_swings_across_everything_changes_the_alarm_twice_an_hour_at_most():
    for period in (60, 300, 420, 1000):
        told, _ = told_of(
            [{"q": "pm10", "above": 50}], (6,), [(t, 90 if t // period & 1 else 10) for t in range(60, 6 * 3600, 60)]
        )
        raised = [t for c, t, _, _, _ in told if c == 2]
        assert len(raised) <= 12 and raised[0] <= 2 * period, (period, raised)
        codes = [c for c, _, _, _, _ in told]
        assert all(codes[i] != codes[i + 1] for i in range(len(codes) - 1)), codes
    told, _ = told_of(
        [{"q": "pm10", "above": 50, "least_s": 0}], (6,), [(t, 90 * (t // 60 & 1)) for t in range(60, 3600, 60)]
    )
    assert len(told) == 59
    assert "least_s" in refused(rules_from, [{"q": "pm10", "above": 50, "least_s": -1}], (6,))


def test_a_clock_that_is_set_does_not_hold_an_alarm_back():
    told, _ = told_of([{"q": "pm10", "above": 50}], (6,), [(100000, 90), (5000, 10), (5060, 90), (9000, 90)])
    assert [(c, t) for c, t, _, _, _ in told] == [(2, 100000), (1, 5000), (2, 9000)], told


def test_what_was_raised_under_rules_that_a_restart_took_away_is_cleared():
    ids = (6, 5, 1)
    for new, want in (
        ([], [(1, 9, 6), (1, 9, 1)]),
        ([{"q": "pm10", "above": 500}], [(1, 9, 1), (1, 9, 6)]),
        ([{"q": "temperature", "above": 60}, {"q": "pm10", "above": 100, "step": 200}], [(1, 9, 1)]),
    ):
        nvs, told = kit.Store(), []
        old = [{"q": "pm10", "above": 100}, {"q": "pm10", "above": 140}, {"q": "temperature", "below": 0}]
        row = array("i", (150, 60, -10))
        Alarms(rules_from(old, ids), lambda *a, told=told: told.append(a), Mask(nvs, "alarms", "x"), ids).check(
            1, row, 7
        )
        assert len(told) == 3
        del told[:]
        again = Alarms(rules_from(new, ids), lambda *a, told=told: told.append(a[:3]), Mask(nvs, "alarms", "x"), ids)
        again.check(9, row, 7)
        again.check(2000, row, 7)
        assert sorted(told) == sorted(want), (new, told)
        Alarms(rules_from(new, ids), lambda *a, told=told: told.append(a[:3]), Mask(nvs, "alarms", "x"), ids).check(
            3000, row, 7
        )
        assert len(told) == len(want), "and once"


def test_a_clear_of_one_rule_leaves_the_others_of_its_quantity_up():
    """At the gateway a clear ends every alarm of the quantity, so the node asks for the rest (mote.app)."""
    told = []
    specs = [{"q": "pm10", "above": 50, "least_s": 0}, {"q": "pm10", "above": 80, "least_s": 0}]

    def raised(code, t, quantity, value, limit, tag):
        told.append((code, limit))
        if code == 1:
            alarms.say_again(t, quantity)

    alarms = Alarms(rules_from(specs, (6,)), raised, Mask(kit.Store(), "alarms", "x"), (6,))
    for t, v in ((1, 90), (2, 60), (3, 20)):
        alarms.check(t, array("i", (v,)), 1)
    assert told == [(2, 50), (2, 80), (1, 80), (2, 50), (1, 50)], told


def test_what_has_no_rule_any_more_counts_as_up_until_its_clear_is_stored():
    """The power may go, or the flash refuse, between the two: a clear that was marked as said and never was leaves the alarm up at the gateway."""
    ids = (6, 5)
    row = array("i", (150, 60))
    for live in (False, True):
        nvs, told, cut = kit.Store(), [], [False]

        def store(*a, told=told, cut=cut):
            if cut[0]:
                raise kit.Cut
            told.append(a[:3])

        def start(specs, store=store, nvs=nvs):
            return Alarms(rules_from(specs, ids), store, Mask(nvs, "alarms", "x"), ids)

        alarms = start([{"q": "pm10", "above": 100}])
        alarms.check(1, row, 3)
        if not live:
            start([])  # and the power goes before the first sample
            alarms = start([])
        cut[0] = True
        try:
            if live:
                borrow("mote.former", "replace", alarms, [], 2)
            else:
                alarms.check(2, row, 3)
        except kit.Cut:
            pass
        else:
            raise AssertionError("nothing was said")
        cut[0] = False
        for t in (3, 4):
            start([]).check(t, row, 3)
        assert told == [(2, 1, 6), (1, 3, 6)], (live, told)


def test_other_rules_that_come_before_the_first_sample_do_not_hide_what_has_to_be_cleared():
    ids = (6, 5)
    nvs, told, row = kit.Store(), [], array("i", (150, 60))

    def start(specs):
        return Alarms(rules_from(specs, ids), lambda *a: told.append(a[:3]), Mask(nvs, "alarms", "x"), ids)

    start([{"q": "pm10", "above": 100}]).check(1, row, 3)
    alarms = start([])
    borrow("mote.former", "replace", alarms, rules_from([{"q": "pm10", "above": 500}], ids), 2)
    assert told == [(2, 1, 6), (1, 2, 6)], told
    alarms.check(3, row, 3)
    start([]).check(4, row, 3)
    assert len(told) == 2, told


def test_alarms_are_tagged_by_quantity_and_direction_whatever_rules_stand_beside_them():
    ids = (6, 5, 1)
    tags = {}
    rules = [{"q": q, way: limit, "least_s": 0} for q in ("pm10", "pm25", "temperature") for way, limit in (("above", 60), ("below", 0))]  # fmt: skip
    for order in (rules, rules[::-1], rules[3:] + rules[:3], rules[1::2] + rules[::2]):
        told = []
        alarms = Alarms(
            rules_from(order, ids), lambda *a, told=told: told.append(a), Mask(kit.Store(), "alarms", "x"), ids
        )
        for t, row in ((1, (2000, 2000, 2000)), (2, (30, 30, 300)), (3, (-2000, -2000, -2000)), (4, (30, 30, 300))):
            alarms.check(t, array("i", row), 7)
        assert len(told) == 12
        for _, _, quantity, _, limit, tag in told:
            key = quantity, limit > 0
            assert tags.setdefault(key, tag) == tag and 0 < tag < 256, (order, key, tag, tags)
    assert len(set(tags.values())) == 6, tags

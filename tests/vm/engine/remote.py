# ruff: noqa: B905, ASYNC230, UP031
"""A node that is changed and commanded from afar: numbers, rules, pieces, commands; raised rates; the way back when it was wrong."""

import asyncio
import json

import esp32
import kit_remote as far
import machine
import nodekit as kit
from mote import supervisor
from mote.alarms import Rule
from mote.errors import Planned
from motewire.frame import ALARM, REPORT, STATUS


async def test_numbers_of_key_4_take_effect_without_a_restart_and_survive_one():
    gw, node, task = await far.running()
    assert node.downlink.handle(gw.seal({4: {1: 30, 2: 60, 3: 600, 4: 3600, 5: 700, 6: 7, 9: 3, 11: 900, 12: 50000}}))
    await asyncio.sleep(1800)
    assert not task.done() and node.config["version"] == 1
    u = node.uplink
    assert (u.jitter_s, u._ack_age_s, u._backoff_s) == (7, 700, 900)
    rows = gw.rows()
    assert [b[0] - a[0] for a, b in zip(rows, rows[1:])][-5:] == [60] * 5
    assert far.said(gw, 15) == [0, 1], "the version in force is said at once"
    with open("/config.json") as f:
        kept = json.load(f)
    assert kept["health_s"] == 3600 and kept["prove_s"] == 50000 and kept["log"] == 3
    assert far.read("/config.good")["version"] == 1
    again = far.reboot(node, task, gw)
    assert again.config["row_s"] == 60


async def test_a_mode_that_a_profile_cannot_have_is_refused():
    gw, node, task = await far.running()
    node.profile.rhythm = lambda config: (config["sample_s"], 0)
    assert node.downlink.handle(gw.seal({4: {17: [1, 0, 1, b'{"mode": "sleep"}']}}))
    assert node.control.refused == 1 and node.config["mode"] == "always" and not task.done()


async def test_a_downlink_that_finds_no_memory_is_refused_and_may_come_again():
    from mote import config, downlink, remote

    gw, node, task = await far.running()

    def full(*args):
        raise MemoryError

    before = node.config.values
    real = downlink.borrow
    for module in (downlink, remote, config):
        module.borrow = full
        try:
            assert node.downlink.handle(gw.seal({4: {1: 30}}))
        finally:
            module.borrow = real
        assert node.config.values is before and node.config["sample_s"] == 60 and not task.done()
    assert node.downlink.refused == {"memory": 1, "bad_value": 2} and node.control.refused == 2
    assert config.problem() == "no memory for this configuration"
    assert node.downlink.handle(gw.seal({4: {1: 30}}))
    assert node.config["sample_s"] == 30 and not task.done()


async def test_what_does_not_fit_changes_nothing_and_is_reported():
    gw, node, task = await far.running()
    before = far.read("/config.json")
    for wrong in ({1: 7}, {7: 13}, {16: [17, 2, 1]}, {16: [6, 2, 100, 120]}, {5: 3}):
        assert node.downlink.handle(gw.seal({4: wrong})), wrong
    await asyncio.sleep(120)
    assert far.read("/config.json") == before and node.config["version"] == 0
    assert node.downlink.refused["bad_value"] == 5 == node.control.refused
    problems = far.said(gw, 22)
    assert len(problems) == 5 and "row_s" in problems[0] and "sf" in problems[1], problems
    assert node.downlink.handle(gw.seal({4: {1: "30"}})) and node.downlink.refused["bad_value"] == 6
    assert not task.done()


async def test_another_profile_is_refused_with_rules_that_it_cannot_have():
    """The starts under it would fail one after the other, until the node goes back to where it was."""
    from mote.change import judge
    from mote.errors import BadConfig

    gw, node, task = await far.running(alarms=[{"q": "pm10", "above": 500}, {"q": "temperature", "above": 40}])
    values = dict(node.config.values)
    values["profile"] = "bin_fill"
    for rules, word in (
        (None, "pm10"),
        ([{"q": "laeq", "above": 60}], "laeq"),
        ([{"q": "fill_level", "above": 60, "clears": 50}], "clears"),
        ([{"q": "fill_level", "above": 60, "clear": 70}], "clear"),
        ([{"q": "fill_level", "above": 60, "hold": 0}], "hold"),
        ([{"q": "fill_level", "above": limit} for limit in range(40, 54)], "more than"),
    ):
        if rules is not None:
            values["alarms"] = rules
        try:
            judge(node.control, values)
        except BadConfig as e:
            assert word in str(e), (rules, e)
        else:
            raise AssertionError(rules)
    before = far.read("/config.json")
    assert node.downlink.handle(gw.seal({4: {17: [9, 0, 1, b'{"profile": "bin_fill"}']}})), "a piece"
    await asyncio.sleep(60)
    assert far.read("/config.json") == before and node.control.refused == 1, node.downlink.refused
    assert any("pm10" in p for p in far.said(gw, 22)), far.said(gw, 22)
    for rules in ([], [{"q": "fill_level", "above": 60}], [{"q": "temperature", "above": 40}]):
        values["alarms"] = rules
        judge(node.control, values)
    assert node.profile.ids[0] == 4 and not task.done()
    far.stop(node, task)


async def test_a_new_rule_with_a_key_that_none_has_is_refused_and_a_stored_one_is_taken_as_it_is():
    """A misspelt key would leave its default in force, and the sender would believe otherwise."""
    from mote.change import judge
    from mote.errors import BadConfig

    stored = {"q": "pm10", "above": 500, "since": "2026"}
    gw, node, task = await far.running(alarms=[stored])
    assert node.alarms.rules[0].limit == 500
    values = dict(node.config.values)
    values["log"] = 3
    judge(node.control, values)
    for key in ("clears", "hold_s", "Boost", "least"):
        values["alarms"] = [{"q": "pm25", "above": 50}, {"q": "pm10", "above": 60, key: 5}]
        try:
            judge(node.control, values)
        except BadConfig as e:
            assert key in str(e) and "pm10" in str(e), e
        else:
            raise AssertionError(key)
    whole = {"q": "pm10", "above": 60, "clear": 40, "hold": 2, "step": 5, "update_s": 60, "least_s": 0, "boost": True}
    values["alarms"] = [whole, {"q": "temperature", "below": 0}]
    judge(node.control, values)
    far.stop(node, task)


async def test_a_threshold_changes_and_an_alarm_that_is_up_stays_up_and_is_cleared_by_the_new_rule():
    gw, node, task = await far.running(alarms=[{"q": "pm10", "above": 500, "clear": 300}])
    far.dust = 600
    await asyncio.sleep(120)
    assert [a[0] for a in gw.frames_of(ALARM)] == [2]
    assert node.downlink.handle(gw.seal({4: {16: [6, 2, 550, 400]}}))
    await asyncio.sleep(60)
    assert far.read("/config.json")["alarms"] == [{"q": "pm10", "above": 550, "clear": 400}]
    assert [(a[0], a[2], a[4]) for a in gw.frames_of(ALARM)] == [(2, 6, 500), (2, 6, 550)], (
        "an update says the new limit"
    )
    far.dust = 450
    await asyncio.sleep(120)
    assert len(gw.frames_of(ALARM)) == 2
    far.dust = 350
    await asyncio.sleep(900)  # least_s
    assert [a[0] for a in gw.frames_of(ALARM)] == [2, 2, 1]
    assert node.downlink.handle(gw.seal({4: {16: [6, 2]}}))
    await asyncio.sleep(20)
    assert far.read("/config.json")["alarms"] == [] and not task.done()


async def test_a_larger_change_comes_in_pieces_in_any_order_also_over_a_reset_and_ends_in_a_planned_restart():
    gw, node, task = await far.running()
    text = json.dumps(
        {"outbox_frames": 300, "report_s": 1800, "alarms": [{"q": "pm10", "above": 50, "clear": 40}], "later": {"x": 1}}
    ).encode()
    parts = [text[i : i + 20] for i in range(0, len(text), 20)]
    order = list(range(len(parts)))
    order.reverse()
    for i in order[:3]:
        assert node.downlink.handle(gw.seal({4: {17: [77, i, len(parts), parts[i]]}}))
    node = far.reboot(node, task, gw)
    task = asyncio.create_task(node.run())
    await asyncio.sleep(60)
    for i in order[1:-1]:
        assert node.downlink.handle(gw.seal({4: {17: [77, i, len(parts), parts[i]]}}))
    assert node.config["version"] == 0
    rows = node.batcher.rows
    assert node.downlink.handle(gw.seal({4: {17: [77, 0, len(parts), parts[0]]}}))
    await asyncio.sleep(30)
    assert task.done()
    try:
        await task
    except Planned:
        pass
    assert node.batcher.rows == 0 <= rows, "what was open is sealed"
    node = far.reboot(node, task, gw)
    assert node.config["outbox_frames"] == 300 and node.config["version"] == 1 and node.config["later"] == {"x": 1}
    assert node.alarms.rules[0].limit == 50
    assert supervisor.level == 0 and supervisor.rtc.buf[2] <= 2, "no crash is counted"


async def test_wrong_pieces_are_refused_counted_and_leave_nothing_behind():
    gw, node, task = await far.running()

    def piece(*v):
        assert node.downlink.handle(gw.seal({4: {17: list(v)}}))

    piece(1, 0, 2, b'{"log')
    piece(1, 1, 3, b'":0}')  # another count
    assert node.control.refused == 1
    piece(2, 0, 2, b'{"log')
    piece(2, 0, 2, b'{"lag')  # other bytes
    assert node.control.refused == 2
    for text in (
        b"{",
        b"[1]",
        b'{"node": 9}',
        b'{"version": 9}',
        b'{"profile": "zebra"}',
        b'{"link": "pigeon"}',
        b'{"channels_khz": ["868100"]}',
        b'{"wifi": {"ssid": 5}}',
        b'{"alarms": [{"q": "o3", "above": 1}]}',
    ):
        piece(3, 0, 1, text)
    assert node.control.refused == 11
    for i in range(6):
        piece(4, i, 9, b" " * 400)
    assert node.control.refused == 12 and node.config["version"] == 0
    piece(5, 0, 2, b'{"lo')
    piece(6, 0, 2, b'{"log"')  # another transaction drops the first
    piece(6, 1, 2, b": 3}")
    assert node.config["log"] == 3 and node.config["version"] == 1
    piece(7, 0, 2, b'{"log"')
    await asyncio.sleep(2 * 86400)
    piece(7, 1, 2, b": 0}")  # too late: the first half is stale
    assert node.config["log"] == 3 and not task.done()


async def test_a_configuration_without_an_answer_is_given_up_after_its_time_and_its_version_is_never_used_again():
    gw, node, task = await far.running()
    assert far.read("/config.good").get("version", 0) == 0
    link = node.link
    assert node.downlink.handle(gw.seal({4: {1: 30, 2: 60, 3: 600, 12: 7200}}))
    link.quiet = True
    await asyncio.sleep(7100)
    assert not task.done() and node.config["version"] == 1
    await asyncio.sleep(200)
    assert task.done()
    node = far.reboot(node, task, gw)
    assert node.config["version"] == 0 and node.config["sample_s"] == 60 and not node.config.probation
    link.quiet = False
    task = asyncio.create_task(node.run())
    await asyncio.sleep(600)
    assert "1: no answer" in far.said(gw, 22)
    assert node.downlink.handle(gw.seal({4: {1: 30}}))
    assert node.config["version"] == 2


async def test_an_answer_before_the_restart_proves_nothing_of_what_the_restart_puts_into_effect():
    """The "done" leaves over the old link; with it a link that reaches no one was kept as the good one, and the node stayed silent."""
    gw, node, task = await far.running()
    before = far.read("/config.good")
    assert node.downlink.handle(gw.seal({4: {17: [1, 0, 1, b'{"channels_khz": [865100], "prove_s": 7200}']}}))
    assert node.config["version"] == 1 and node.config.probation
    assert node.downlink.handle(gw.seal({4: {1: 30}}))  # and one that takes effect at once
    assert node.config["version"] == 2 and node.config["sample_s"] == 30
    for _ in range(200):
        await asyncio.sleep_ms(100)
        if task.done():
            break
    assert task.done() and 1 in far.said(gw, 15), "it was reported, and answered"
    assert far.read("/config.good") == before
    node = far.reboot(node, task, gw)
    assert node.config["version"] == 2 and node.config.probation
    node.link.quiet = True
    task = asyncio.create_task(node.run())
    await asyncio.sleep(7400)
    assert task.done()
    node = far.reboot(node, task, gw)
    assert node.config["version"] == 0 and node.config["channels_khz"] == [868100, 868300, 868500]


async def test_a_configuration_that_is_answered_is_not_given_up_when_the_gateway_goes_away_later():
    gw, node, task = await far.running()
    assert node.downlink.handle(gw.seal({4: {1: 30, 12: 7200}}))
    await asyncio.sleep(1200)
    node.link.quiet = True
    await asyncio.sleep(86400)
    assert not task.done() and node.config["version"] == 1


# --- commands


async def test_each_command_is_executed_once_however_often_it_is_sent():
    gw, node, task = await far.running()
    reads = far.sensor.reads
    for _ in range(3):
        assert node.downlink.handle(gw.seal({5: [41, "selftest"]}))
        await asyncio.sleep(30)
    states = [s for s in far.said(gw, 20) if s[0] == 41]
    assert states == [[41, 1], [41, 2, "ok 2"], [41, 2, "ok 2"], [41, 2, "ok 2"]], states
    assert far.sensor.reads - reads <= 4
    node = far.reboot(node, task, gw)
    reads = far.sensor.reads
    assert node.downlink.handle(gw.seal({5: [41, "selftest"]}))
    assert far.sensor.reads == reads and node.control._commands._waiting == []


async def test_a_reboot_is_done_once_and_said_to_be_done_after_it():
    gw, node, task = await far.running()
    assert node.downlink.handle(gw.seal({5: [42, "reboot"]}))
    await asyncio.sleep(10)
    assert task.done()
    node = far.reboot(node, task, gw)
    task = asyncio.create_task(node.run())
    await asyncio.sleep(60)
    assert [s for s in far.said(gw, 20) if s[0] == 42] == [[42, 1], [42, 2]]
    assert node.downlink.handle(gw.seal({5: [42, "reboot"]}))
    await asyncio.sleep(60)
    assert not task.done(), "not again"
    assert far.said(gw, 20)[-1] == [42, 2]


async def test_a_command_that_was_cut_off_is_said_to_have_failed():
    gw, node, task = await far.running()
    far.sensor.pause = 10
    assert node.downlink.handle(gw.seal({5: [43, "selftest"]}))
    node = far.reboot(node, task, gw)  # the power goes
    far.sensor.pause = 0
    task = asyncio.create_task(node.run())
    await asyncio.sleep(60)
    assert far.said(gw, 20)[-1] == [43, 3, "interrupted"]


async def test_expired_unknown_and_senseless_commands_are_refused_and_said_so():
    gw, node, task = await far.running()
    now = kit.unix_now()
    for frame in (
        {5: [1, "selftest"], 10: now - 1}, {5: [2, "fly"]}, {5: [3, "emergency", "soon"]}, {5: [4, "reboot", 1]}, {5: [5, "selftest"], 10: now + 600},
        {5: [6, "identify"]}, {5: [7, "selftest"], 10: "never"},
    ):  # fmt: skip
        assert node.downlink.handle(gw.seal(frame))
        await asyncio.sleep(15)
    last = {}
    for s in far.said(gw, 20):
        last[s[0]] = s[1:]
    assert last == {
        1: [4],
        2: [5, "unknown"],
        3: [5, "arguments"],
        4: [5, "arguments"],
        5: [2, "ok 2"],
        6: [5, "no LED"],
    }, last
    assert not task.done()


async def test_a_node_without_time_refuses_a_command_that_expires():
    gw, node, task = await far.running(known=False)
    gw.clock = None
    assert node.clock.quality == 0
    assert node.downlink.handle(gw.seal({5: [8, "selftest"], 10: 1767225600}))
    await asyncio.sleep(60)
    assert far.said(gw, 20)[-1] == [8, 5, "no time"]


async def test_read_now_sends_a_row_of_its_own_at_once_and_the_regular_ones_go_on():
    gw, node, task = await far.running()
    await asyncio.sleep(3700 - kit.unix_now() % 3600)
    before = len(gw.rows())
    assert node.downlink.handle(gw.seal({5: [44, "read_now"]}))
    at = kit.unix_now() - 946684800
    await asyncio.sleep(30)
    new = gw.rows()[before:]
    assert new and abs(new[-1][0] - at) <= 3 and len(new[-1][1]) == 6, (at, new)
    assert far.said(gw, 20)[-1] == [44, 2]
    await asyncio.sleep(2 * 3600)
    times = [t for t, _ in gw.rows()]
    grid = [t for t in times if t % 300 == 0]
    assert len(set(times)) == len(times) and grid[-12:] == list(range(grid[-12], grid[-1] + 300, 300))


async def test_rows_that_are_asked_for_in_one_second_and_at_a_rows_instant_have_a_time_of_their_own():
    for lap in (0, 7):
        gw, node, task = await far.running()
        node.sampler._lap = lap
        append, early = node.batcher.append, []

        def taken(t, values, present, node=node, append=append, early=early):
            if t > node.clock.now():
                early.append(t)
            append(t, values, present)

        node.batcher.append = taken
        ident = 50
        for ahead in (400, 303, 302, 301, 300, 299):
            await asyncio.sleep(600 - kit.unix_now() % 300 + 300 - ahead)
            for _ in range(3):
                ident += 1
                assert node.downlink.handle(gw.seal({5: [ident, "read_now"]}))
            await asyncio.sleep(60)
            told = [s for s in far.said(gw, 20) if s[1] == 2]
            assert len(told) == ident - 50, told
        times = [t for t, _ in gw.rows()]
        assert len(set(times)) == len(times), sorted(t for t in times if times.count(t) > 1)
        aside = [t for t in times if t % 300 not in (0, lap)]
        assert len(aside) == 18 and not early, (lap, aside, early)
        far.stop(node, task)
        await asyncio.sleep_ms(0)


async def test_the_selftest_names_what_failed_and_its_reading_disturbs_nobody():
    gw, node, task = await far.running()
    far.sensor.error = OSError(19)
    assert node.downlink.handle(gw.seal({5: [45, "selftest"]}))
    await asyncio.sleep(30)
    assert far.said(gw, 20)[-1] == [45, 2, "ok 1 failed 4 5 6"]
    far.sensor.error = None
    reads = far.sensor.reads
    await asyncio.sleep(3600)
    assert 58 <= far.sensor.reads - reads <= 62, "read once a minute, by one task"


async def test_an_emergency_raises_the_rates_and_they_return_by_themselves():
    gw, node, task = await far.running()
    assert node.downlink.handle(gw.seal({5: [46, "emergency", 1800]}))
    await asyncio.sleep(1500)
    rows = [t for t, _ in gw.rows()]
    assert [b - a for a, b in zip(rows, rows[1:])][-6:] == [60] * 6
    await asyncio.sleep(2 * 3600)
    rows = [t for t, _ in gw.rows()]
    assert [b - a for a, b in zip(rows, rows[1:])][-6:] == [300] * 6
    assert node.config["sample_s"] == 60 and not task.done()


async def test_a_node_that_is_busy_or_has_its_rates_raised_does_not_sleep():
    gw, node, task = await far.running()
    node.board._spec["led"] = {"pin": 2}

    async def sleepy():
        for _ in range(300):
            if node._due_in() > 0:
                return True
            await asyncio.sleep(1)
        return False

    assert await sleepy()
    assert node.downlink.handle(gw.seal({5: [60, "identify", 600]}))
    await asyncio.sleep(20)
    assert not await sleepy(), "the LED blinks"
    await asyncio.sleep(300)
    assert await sleepy()
    assert node.downlink.handle(gw.seal({5: [61, "emergency", 900]}))
    await asyncio.sleep(20)
    assert not await sleepy(), "rates are raised"
    await asyncio.sleep(900)
    assert await sleepy() and not task.done()


async def test_a_rule_with_boost_raises_the_rates_while_it_is_up():
    gw, node, task = await far.running(
        alarms=[{"q": "pm10", "above": 500, "clear": 300, "boost": True}],
        emergency_sample_s=10,
        emergency_row_s=30,
        emergency_report_s=120,
    )
    far.dust = 600
    await asyncio.sleep(1800)
    rows = [t for t, _ in gw.rows()]
    assert [b - a for a, b in zip(rows, rows[1:])][-6:] == [30] * 6
    far.dust = 100
    await asyncio.sleep(2 * 3600)
    rows = [t for t, _ in gw.rows()]
    assert [b - a for a, b in zip(rows, rows[1:])][-6:] == [300] * 6
    assert len(rows) == len(set(rows)) and not task.done()


async def test_a_profile_may_add_commands():
    gw, node, task = await far.running()
    done = []

    async def valve(args):
        done.append(args)
        if args == ["jam"]:
            raise OSError(5)
        return "closed"

    node.profile.commands["valve"] = valve
    assert node.downlink.handle(gw.seal({5: [47, "valve", "close"]}))
    assert node.downlink.handle(gw.seal({5: [48, "valve", "jam"]}))
    await asyncio.sleep(20)
    assert done == [["close"], ["jam"]]
    states = far.said(gw, 20)
    assert [47, 2, "closed"] in states and states[-1][:2] == [48, 3], states


async def test_a_factory_reset_forgets_configuration_and_calibration_and_nothing_that_must_not_be_lost():
    gw, node, task = await far.running()
    assert node.downlink.handle(gw.seal({4: {1: 30, 2: 60, 3: 600}}))
    await asyncio.sleep(1200)
    with open("/bay.json", "w") as f:
        f.write("{}")
    node._keep("pulses").put(123456)
    node.link.quiet = True
    await asyncio.sleep(1800)
    kept = dict(esp32._store["citymote"])
    waiting = node.outbox.depth
    assert waiting > 2
    assert node.downlink.handle(gw.seal({5: [49, "factory_reset"]}))
    await asyncio.sleep(20)
    assert task.done()
    gone = node._keep("ceiling").get()
    node.link.quiet = False
    node = far.reboot(node, task, gw)
    assert node.config["sample_s"] == 60 and node.config["row_s"] == 300 and node.config["version"] == 2
    assert far.read("/bay.json") is None and node.outbox.depth >= waiting
    now = esp32._store["citymote"]
    for key in ("key", "epoch", "pulses", "lost"):
        assert now.get(key) == kept.get(key), key
    assert now["ceiling"] >= gone and now["down"] >= kept["down"] and node._keep("pulses").get() == 123456


async def test_safe_mode_leaves_out_the_sensors_answers_and_comes_back():
    gw, node, task = await far.running()
    assert node.downlink.handle(gw.seal({5: [50, "safe_mode"]}))
    await asyncio.sleep(20)
    assert task.done()
    node = far.reboot(node, task, gw)
    task = asyncio.create_task(node.run())
    reads = far.sensor.reads
    await asyncio.sleep(3600)
    assert far.sensor.reads == reads and supervisor.level == 3 and far.said(gw, 19)[-1][0] == 3
    assert node.downlink.handle(gw.seal({5: [51, "safe_mode", 0]}))
    await asyncio.sleep(20)
    node = far.reboot(node, task, gw)
    task = asyncio.create_task(node.run())
    await asyncio.sleep(600)
    assert far.said(gw, 19)[-1] == [0] and far.sensor.reads > reads and far.said(gw, 20)[-1] == [51, 2]


async def test_a_day_in_safe_mode_ends_by_itself():
    gw, node, task = await far.running()
    assert node.downlink.handle(gw.seal({5: [52, "safe_mode"]}))
    await asyncio.sleep(20)
    node = far.reboot(node, task, gw)
    task = asyncio.create_task(node.run())
    await asyncio.sleep(86400 + 120)
    assert task.done()
    node = far.reboot(node, task, gw)
    assert supervisor.level == 0 and supervisor.trial and node.profile.sensors


async def test_an_ack_with_a_malformed_bitmap_is_dropped_whole():
    gw, node, task = await far.running()
    node.link.quiet = True
    await asyncio.sleep(3 * 3600)
    waiting = node.outbox.depth
    assert waiting
    for bad in ({1: 9999, 2: b"\x01\x00"}, {1: 9999, 2: 5}, {1: 9999, 8: -1}, {1: 9999, 2: bytes(9)}):
        assert node.downlink.handle(gw.seal(bad))
        assert node.outbox.depth == waiting, bad
    assert node.downlink.refused["bad_value"] == 4
    assert node.downlink.handle(gw.seal({1: 9999}))
    assert node.outbox.depth == 0


# --- memory, status


class Hoarder(kit.Scripted):
    """A driver that keeps half a kB of every reading."""

    async def read_into(self, out):
        await super().read_into(out)
        self.hoard = (self.hoard if self.reads > 1 else None), bytearray(512)


async def test_a_driver_that_eats_the_memory_is_the_one_that_is_shed():
    from mote.sampler import Sensor

    kit.clean()
    kit.known_time()
    gw = kit.Gateway()
    gw.clock = kit.unix_now
    node = task = None
    asyncio.new_event_loop = lambda: None  # the loop of the boot that ends is this test's, too
    ends = []
    for _ in range(4):
        hoarder = Hoarder(("pm1", "pm25", "pm10"), lambda: 5)
        climate = kit.Scripted(("temperature", "humidity", "pressure"), lambda: 5)
        node = kit.make_node(kit.Link(gw), [Sensor("climate", climate), Sensor("dust", hoarder)], sample_s=10)
        if supervisor.level:
            break
        task = asyncio.create_task(node.run())
        for _ in range(40):
            await asyncio.sleep(600)
            if task.done():
                break
        assert task.done(), "it has to run out of memory"
        try:
            await task
        except MemoryError as e:
            ends.append(supervisor.suspect)
            hoarder.hoard = None
            try:
                supervisor.ended(e)
            except BaseException:
                pass
        far.stop(node, None)
        node = task = None
        import gc

        gc.collect()
    assert ends == [0, 2, 2], ends  # the first boot had no reason to look
    assert supervisor.level == 1 and [s.name for s in node.profile.sensors if s.shed] == ["dust"]
    await kit.run_for(node, 3600)
    assert all(len(v) == 3 and 1 in v for _, v in gw.rows()[-5:])


async def test_every_status_frame_fits_51_bytes_at_its_worst():
    gw, node, task = await far.running(node=0xFFFFFF)
    sizes = []
    append = node.outbox.append

    def watch(kind, counter, buf, n, *rest):
        sizes.append(n)
        append(kind, counter, buf, n, *rest)

    node.outbox.append = watch
    big = 0xFFFFFFFF
    from motewire import codes

    values = [big, -big - 1, "x" * 200, "č" * 100, [big] * 40, [4] + [65535] * 16, [big, 5, "x" * 20]]
    values += [{900: [1, 2, 3, 4, 5]}, {900: [65535] * 16}]
    for name in dir(codes):
        if not name.startswith("STATUS_"):
            continue
        key = getattr(codes, name)
        del sizes[:]
        for value in values:
            node.health.send([(key, value)])
        assert len(sizes) >= 8 and max(sizes) <= 51, (name, sizes)
    del sizes[:]
    supervisor.level = 3
    node.power, node.clock.drift_ppm, node.slot = far.Power(), -49999, "b"
    with open("/crash.txt", "w") as f:
        f.write("app:123 " + "E" * 150)
    with open("/problem.txt", "w") as f:
        f.write("č" * 49)
    node.health.boot()
    node.health.report()
    supervisor.level = 0
    assert max(sizes) <= 51 and len(sizes) > 4, sizes
    said = {}
    for n in gw.frames_of(STATUS):
        said.update(n)
    assert not task.done()


async def test_health_of_a_day_says_all_once_and_the_important_every_time():
    gw, node, task = await far.running()
    node.power, node.clock.drift_ppm = far.Power(), -123
    await asyncio.sleep(600)
    before = list(gw.frames)
    await asyncio.sleep(2 * 86400)
    frames = [gw.frames[c][1] for c in sorted(gw.frames) if c not in before and gw.frames[c][0] == STATUS]
    size = sum([len(p) + 15 for p in frames])
    print("status: %d frames, %d B in two days" % (len(frames), size))
    from motewire import cbor

    counts = {}
    for p in frames:
        for key in cbor.read(p, 0, len(p)):
            counts[key] = counts.get(key, 0) + 1
    assert counts[1] == counts[7] >= 7, counts
    for key in (2, 3, 5, 8, 11, 13, 15, 16, 17, 18, 23):
        assert 1 <= counts[key] <= 3, (key, counts)
    assert len(gw.frames_of(REPORT)) > 40 and size < 700, size


async def test_a_supply_that_cannot_be_measured_is_told_at_every_boot_for_nothing_guards_writes_then():
    """An ESP32 without calibration in its eFuse reads 0 mV: mote/power.py writes without a limit."""
    from mote import status

    gw, node, task = await far.running()
    node.power._least = 3300
    for mv, words in ((0, "supply 0 mV: unwatched"), (1400, "supply 1400 mV: unwatched"), (3700, None), (None, None)):
        node.board.battery_mv = lambda mv=mv: mv
        assert dict(status.boot_items(node)).get(22) == words, mv
        node.power.check()
    node.power._least = 0
    node.board.battery_mv = lambda: 0
    assert 22 not in dict(status.boot_items(node)), "nobody asked for a guard"


async def test_a_node_that_slept_says_what_matters_and_the_rest_once_a_day():
    """What was said before a sleep is not kept over it; that is no reason to say all of it at every report."""
    gw, node, task = await far.running()
    node.health.report()
    node.woke = True
    sent = []
    node.health.send = sent.append

    def keys():
        del sent[:]
        node.health._said = {}
        node.health.report()
        return sorted([key for key, _ in sent[0]])

    assert keys() == [1, 7], "no battery on this board"
    node.board.battery_mv = lambda: 3712
    assert keys() == [1, 7, 12]
    node.board.battery_mv = lambda: 0
    assert keys() == [1, 7], "an ADC without calibration measures nothing: no value is said"
    del node.board.battery_mv
    far.sensor.error = OSError(19)
    await asyncio.sleep(300)
    assert keys() == [1, 7, 11], "a sensor that fails matters"
    await asyncio.sleep(86400)
    assert len(keys()) > 10 and not task.done()


def test_a_rule_is_stepped_without_allocating():
    import micropython

    rule = Rule(0, 6, True, 100, 80, 1, 10, 60)
    rule.step(90, 1)
    micropython.heap_lock()
    try:
        for i in range(200):
            rule.step(90 + i, 800000000 + i)
    finally:
        micropython.heap_unlock()
    assert rule.active and machine is not None

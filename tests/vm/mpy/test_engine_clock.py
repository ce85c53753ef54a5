"""The clock: where the time comes from, what is slewed and what steps, and a board whose clock runs wrong."""

import machine
import nodekit as kit
import sim
import sim_clock
from mote.clock import CRYSTAL, KEPT, NONE, RC, SET, Clock
from mote.hal.rtc import RtcMemory

T2000 = 946684800


def fresh(most=CRYSTAL):
    machine.fill_rtc(b"")
    sim_clock.rtc_off = -sim_clock.now
    return Clock(RtcMemory(), most)


def true():
    """Unix seconds of a world that began at kit.UNIX."""
    return kit.UNIX + sim_clock.now // 1000000


def pass_s(seconds, ppm=0):
    """Let time pass on a board whose clock is ppm fast."""
    sim.advance_ms(1000 * seconds)
    sim_clock.rtc_off += seconds * ppm


def test_time_that_nobody_told_counts_from_power_on_and_then_has_a_birth():
    c = fresh()
    pass_s(500)
    assert c.quality == NONE and 499 <= c.now() <= 501
    steps = []
    c.stepped.append(lambda *s: steps.append(s))
    assert c.set_unix(true()) > 700000000
    assert c.quality == SET and c.now() == true() - T2000
    assert abs(c.born - (true() - T2000 - 500)) <= 1
    assert len(steps) == 1 and steps[0][0] == steps[0][1]
    again = Clock(RtcMemory())
    assert again.quality == SET - 1 == KEPT and again.born == c.born


def test_noise_instead_of_a_time_is_refused():
    c = fresh()
    for t in (0, 946684800, T2000 + 757382399, 0xFFFFFFFF):
        try:
            c.set_unix(t)
        except ValueError:
            assert c.quality == NONE
        else:
            raise AssertionError(t)


def test_two_seconds_are_left_twenty_are_slewed_and_more_is_a_step():
    c = fresh()
    c.set_unix(true())
    steps = []
    c.stepped.append(lambda *s: steps.append(s))
    c.set_unix(true() + 2)
    pass_s(60)
    assert c.now() == true() - T2000 and not steps
    for error in (12, -12):
        c.set_unix(c.now() + T2000 + error)
        before = c.now()
        last = before
        for _ in range(120):
            pass_s(1)
            now = c.now()
            assert 0 <= now - last <= 2, "never back, never a slot left out"
            last = now
        assert last - before == 120 + error, (last - before, error)
    assert not steps
    c.set_unix(c.now() + T2000 + 300)
    assert steps == [(300, 300)] and c.now() == true() - T2000 + 300
    c.set_unix(c.now() + T2000 - 300)
    assert len(steps) == 2 and steps[1][0] == -300


def worst(ppm, every_s, days, told):
    """Largest error in s, from the third day on, of a board that is told the time every every_s."""
    c = fresh(RC if abs(ppm) > 200 else CRYSTAL)
    c.set_unix(true())
    most = 0
    for i in range(days * 86400 // every_s):
        pass_s(every_s, ppm)
        if i * every_s > 3 * 86400:
            most = max(most, abs(c.now() - (true() - T2000)))
        c.set_unix(true() - told[i % len(told)])
    return most, c.drift_ppm


def test_a_slow_or_fast_clock_is_measured_and_corrected():
    for ppm in (-9000, -1500, -300, 0, 40, 700, 5000, 20000):
        most, drift = worst(ppm, 14400, 12, (0, 1, 2, 1))
        assert most <= 6, (ppm, most, drift)
        assert abs(drift - ppm) <= 160 + abs(ppm) // 50, (ppm, drift)


def test_without_drift_a_late_downlink_teaches_none():
    most, drift = worst(0, 3600, 10, (0, 2, 1, 2, 0))
    assert most <= 3 and abs(drift) < 80, (most, drift)


def test_the_anchor_survives_a_reset():
    c = fresh(RC)
    c.set_unix(true())
    for _ in range(12):
        pass_s(14400, 3000)
        c.set_unix(true())
    d = Clock(RtcMemory(), RC)
    assert d.drift_ppm == c.drift_ppm and abs(d.now() - c.now()) <= 1
    pass_s(14400, 3000)
    assert abs(d.now() - (true() - T2000)) <= 4, d.now() - (true() - T2000)
    assert abs(d.board_s(10000) - 10030) <= 2


def test_noise_in_rtc_memory_is_no_drift():
    machine.fill_rtc(bytes(range(250)) * 2)
    c = Clock(RtcMemory())
    assert c.quality == NONE and not c.born


STEPS = (21, -21, 45, 300, -3000, 3590, -3590, 20000, -80000)


def test_drift_is_never_learnt_from_a_step():
    """A gateway that is wrong once, for an exchange or for hours, and right again."""
    for most, ppm in ((CRYSTAL, 0), (CRYSTAL, 30), (RC, 0), (RC, 4000), (RC, -60000)):
        for step in STEPS:
            for wrong in (1, 5):
                c = fresh(most)
                c.set_unix(true())
                for _ in range(6):
                    pass_s(7200, ppm)
                    c.set_unix(true())
                before = c.drift_ppm
                for _ in range(wrong):
                    pass_s(7200, ppm)
                    c.set_unix(true() + step)
                    assert abs(c.drift_ppm - before) <= 300 + abs(before) // 10, (most, ppm, step, before, c.drift_ppm)
                for _ in range(3):
                    pass_s(7200, ppm)
                    c.set_unix(true())
                    assert abs(c.drift_ppm - before) <= 300 + abs(before) // 10, (most, ppm, step, before, c.drift_ppm)
                pass_s(7200, ppm)
                assert abs(c.now() - (true() - T2000)) <= 6, (most, ppm, step, c.now() - (true() - T2000))


def test_drift_is_bounded_by_the_oscillator():
    """A crystal is not off by a tenth of a per cent, however often somebody says so; an RC oscillator is by up to ten per cent."""
    for rate in (900, -900, 20000):
        c = fresh()
        c.set_unix(true())
        for _ in range(12):
            pass_s(14400, rate)
            c.set_unix(true())
        assert c.drift_ppm == 0, (rate, c.drift_ppm)
    for ppm in (-99000, -60000, 30000, 55000, 100000):
        c = fresh(RC)
        c.set_unix(true())
        for _ in range(6):
            pass_s(7200, ppm)
            c.set_unix(true())
        pass_s(7200, ppm)
        assert abs(c.now() - (true() - T2000)) <= 10, (ppm, c.drift_ppm, c.now() - (true() - T2000))
        assert abs(c.board_s(20000) - (20000 + ppm * 20000 // 1000000)) <= 20, (ppm, c.board_s(20000))
    for _ in range(6):
        pass_s(7200, 150000)
        c.set_unix(true())
    assert abs(c.drift_ppm) <= RC


def test_drift_is_unlearnt_when_the_oscillator_has_changed_or_sleeps_no_more():
    c = fresh(RC)
    c.set_unix(true())
    for ppm in (40000, 0, -9000, 0):
        for _ in range(4):
            pass_s(7200, ppm)
            c.set_unix(true())
        assert abs(c.drift_ppm - ppm) <= 700 + abs(ppm) // 20, (ppm, c.drift_ppm)
    for _ in range(3):
        pass_s(7200, 40000)
        c.set_unix(true())
    assert abs(c.drift_ppm) > 30000
    before = c.now()
    d = Clock(RtcMemory())
    assert d.drift_ppm == 0 and abs(d.now() - before) <= 1
    pass_s(86400, 20)
    assert abs(d.now() - (true() - T2000)) <= 4


def test_time_is_asked_for_early_where_deep_sleep_counts_on_an_rc_oscillator():
    """10 and 130 minutes after it was set; with these two a clock that is 6 % off is right within seconds for the six hours that follow."""
    assert fresh().asks_in() >= 1 << 28
    for ppm in (-60000, -30000, -8000, 0, 15000, 55000):
        c = fresh(RC)
        assert c.asks_in() >= 1 << 28, "it never heard the time: the hello asks for it"
        pass_s(3000, ppm)
        c.set_unix(true() - 1)
        asks = []
        since = true()
        for _ in range(400):
            if c.asks_in() == 0:
                asks.append((true() - since) // 60)
                c.asked()
                c.keep()
                c = Clock(RtcMemory(), RC)
                assert c.asks_in() > 0, "once, whether or not it is answered"
                c.set_unix(true() - (len(asks) & 1))
            pass_s(60, ppm)
        assert len(asks) == 2 and 9 <= asks[0] <= 11 and 110 <= asks[1] <= 145, (ppm, asks)
        assert abs(c.now() - (true() - T2000)) <= 24, (ppm, c.drift_ppm, c.now() - (true() - T2000))


def test_a_sleeper_in_doubt_about_its_drift_asks_again_and_is_right_within_hours():
    """A gateway whose clock runs 1 % fast for a day, and right again: its rate was learnt, and is unlearnt before the next reports."""
    c = fresh(RC)
    c.set_unix(true())
    fast = [0]
    asks, last, worst_late = 0, 0, 0
    for minute in range(60 * 72):
        pass_s(60, -30000)
        if 600 < minute < 2000:
            fast[0] += 1  # ten hours in; 0.6 s a minute
        ahead = fast[0] * 6 // 10 if minute < 2000 else 0
        if c.asks_in() == 0 or minute - last >= 360:
            asks += minute - last < 360
            c.asked()
            assert c.asks_in() > 0, "once"
            last = minute
            c.set_unix(true() + ahead)
        if minute > 2000 + 720:
            worst_late = max(worst_late, abs(c.now() - (true() - T2000)))
    assert worst_late <= 90, worst_late
    assert asks <= 16, asks


def test_a_jump_of_more_than_a_day_needs_a_second_witness():
    for jump in (90000, -90000, 40 * 86400, -700 * 86400, 1200000000):
        c = fresh()
        c.set_unix(true())
        pass_s(4000)
        assert c.set_unix(true() + jump) == 0 and abs(c.now() - (true() - T2000)) <= 1, "said once"
        assert 0 < c.asks_in() <= 700
        assert c.set_unix(true() + jump) == 0, "the same exchange again"
        pass_s(200)
        assert c.set_unix(true()) == 0 and c.asks_in() >= 1 << 28, "the time as it was is a witness against"
        assert c.set_unix(true() + jump) == 0
        pass_s(700)
        assert c.set_unix(true() + jump + (50000 if jump > 0 else -50000)) == 0, "another story"
        assert c.set_unix(true() + jump) == 0
        pass_s(700)
        assert c.asks_in() == 0
        c.asked()
        c = Clock(RtcMemory())
        assert c.asks_in() >= 1 << 28 and abs(c.now() - (true() - T2000)) <= 1
        step = c.set_unix(true() + jump)
        assert abs(step - jump) <= 1 and abs(c.now() - (true() - T2000 + jump)) <= 1
        pass_s(300)
        assert c.set_unix(true()) == 0, "and back likewise"
        pass_s(650)
        assert abs(c.set_unix(true()) + jump) <= 1 and abs(c.now() - (true() - T2000)) <= 1


def test_a_clock_that_knows_nothing_believes_the_first_who_tells_it():
    c = fresh()
    pass_s(10)
    assert c.set_unix(true() + 86400 * 3000) and c.quality == SET


def test_the_clock_lasts_as_long_as_the_times_of_the_wire():
    """2**30 s since 2000 are over in 2034, 2**31 in 2068; the wire's 32 bits of Unix seconds in 2106."""
    for last in (1 << 30, 1 << 31, 0xFFFFFFFE - T2000):
        for back in (3, 4000):
            c = fresh()
            assert c.set_unix(T2000 + last - back) and c.now() == last - back, (last, back)
            pass_s(1)
            d = Clock(RtcMemory())
            assert d.quality == KEPT and d.now() == last - back + 1, (last, d.now())
            assert d.set_unix(T2000 + last - back + 2) == 0
            pass_s(4000)
            assert d.now() == last - back + 4001


def test_a_slow_clock_wins_what_a_fast_one_loses_and_a_second_is_never_none():
    """Rounded downwards, a clock that is slow by any ppm slept 0 s in the place of one, which never ends."""
    from mote.hal import clock as board_clock
    from mote.hal import reset

    c = fresh(RC)
    for ppm in (1, 20, 999, 2000, 7811, 20000, 66666, 111111):
        for seconds in (0, 1, 2, 3, 7, 60, 127, 128, 900, 3599, 21600, 1209600):
            assert board_clock.won(seconds, -ppm) == -board_clock.won(seconds, ppm), (seconds, ppm)
            for sign in (1, -1):
                c.drift_ppm = sign * ppm
                if seconds:
                    assert c.board_s(seconds) >= max(1, seconds * 8 // 9), (seconds, sign * ppm)
    try:
        reset.sleep(0)
    except sim.Reset as e:
        assert e.kind == "Z" and e.arg < 1000, "it wakes again"
    else:
        raise AssertionError("it did not sleep")

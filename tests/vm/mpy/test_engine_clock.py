"""The clock: where the time comes from, what is slewed and what steps, and a board whose clock runs wrong."""

import machine
import nodekit as kit
import sim
import sim_clock
from mote.clock import KEPT, NONE, SET, Clock
from mote.hal.rtc import RtcMemory

T2000 = 946684800


def fresh():
    machine.fill_rtc(b"")
    sim_clock.rtc_off = -sim_clock.now
    return Clock(RtcMemory())


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
    c = fresh()
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
        assert most <= 5, (ppm, most, drift)
        assert abs(drift - ppm) <= 160 + abs(ppm) // 50, (ppm, drift)


def test_without_drift_a_late_downlink_teaches_none():
    most, drift = worst(0, 3600, 10, (0, 2, 1, 2, 0))
    assert most <= 3 and abs(drift) < 80, (most, drift)


def test_the_anchor_survives_a_reset():
    c = fresh()
    c.set_unix(true())
    for _ in range(12):
        pass_s(14400, 3000)
        c.set_unix(true())
    rtc = RtcMemory()
    d = Clock(rtc)
    assert d.drift_ppm == c.drift_ppm and abs(d.now() - c.now()) <= 1
    pass_s(14400, 3000)
    assert abs(d.now() - (true() - T2000)) <= 4, d.now() - (true() - T2000)
    assert abs(d.board_s(10000) - 10030) <= 2


def test_noise_in_rtc_memory_is_no_drift():
    machine.fill_rtc(bytes(range(250)) * 2)
    c = Clock(RtcMemory())
    assert c.quality == NONE and not c.born

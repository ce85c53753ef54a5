"""A water meter asleep: it wakes for rows only, at once when a limit is exceeded, and its rows and alarms are as true as if it looked every minute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from host_sim import series
from host_sim.series import Series
from tests.vm import test_engine_sleep as asleep

HW = {"pulse": {"34": "pulse"}, "analog": {"35": "pin_volts"}}
CONFIG = asleep.CONFIG | {"profile": "water_meter", "sample_s": 60, "row_s": 300, "report_s": 3600}
WATCH = """
import sim
sim.values["pin_volts"] = %r
import sim_clock
from mote import app, counter, nap
from motewire import batch
taken, rows, alarms, napped = [], [], [], []
def append(self, t, values, present, old=batch.Batch.append):
    old(self, t, values, present)
    rows.append([t, values[0], values[1], present])
batch.Batch.append = append
def take(self, old=counter.Counter.take):
    taken.append(old(self))
    return taken[-1]
counter.Counter.take = take
def raise_alarm(self, code, t, quantity, value, limit, tag=0, old=app.Node.raise_alarm):
    old(self, code, t, quantity, value, limit, tag)
    alarms.append([code, sim_clock.now, value])
app.Node.raise_alarm = raise_alarm
def row_only(old=nap.row_only):
    napped.append(1)
    old()
    napped.pop()
nap.row_only = row_only
"""
RUN = asleep.run_vm
NO_NAPS = "from mote import rest\nrest.Rest.plan = lambda self, places: ()\n"
ABOVE, CLEARED, FAULT = 2, 1, 4
T0 = 1_000_000_000  # us of power-on, 2026-02-28T00:16:40
MIDNIGHT = 825_552_000  # t2000 at virtual time 0


class Meter(asleep.Board):
    """flow: [(seconds since power-on, pulses a second from there on), ...]."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, flow: Sequence[tuple[float, float]], **config: Any
    ):
        super().__init__(folder, **CONFIG | config)
        self.files["/config.good"] = self.files["/config.json"]  # the gateway has answered under it
        monkeypatch.setattr(asleep, "HW", HW)
        monkeypatch.setattr(asleep, "WATCH", WATCH)
        self.kept: dict[str, Any] | None = None
        self.boots: list[float] = []  # s since power-on
        self.naps = 0  # boots that built no node
        self.seen: dict[int, tuple[int, int]] = {}  # rows: (volume, flow) by time
        self.more = ""
        self.columns = 1  # bits of what every row has
        self.alarms: list[tuple[int, float, int]] = []
        points, n = [(0.0, 0.0)], 0.0
        for (at, rate), (until, _) in zip(flow, [*flow[1:], (90_000.0, 0.0)], strict=True):
            points.append((T0 / 1e6 + at, n))
            n += rate * (until - at)
        points.append((T0 / 1e6 + 90_000.0, n))
        self.points = points
        series.write(folder / "world.bin", {"water_pulses": Series(points)})

        def run_vm(script: str, **how: Any) -> Any:
            if self.kept is not None:
                how["kept"] = {"ulp": self.kept}
            how["heap"] = "160wK"  # what is printed needs a stretch
            return RUN(script, world=str(folder / "world.bin"), **how)

        monkeypatch.setattr(asleep, "run_vm", run_vm)

    def play(self, seconds: float) -> None:
        """Boot after boot until so many seconds since power-on."""
        while self.now < T0 + seconds * 1e6:
            self.boots.append((self.now - T0) / 1e6)
            cause = asleep.DEEPSLEEP if self.kept else asleep.POWER_ON
            told = "[sys.modules['sim_ulp'].saved(), alarms, len(napped)]"
            found = self.boot(cause, seconds=40_000, more=self.more, tell=told)
            assert found["end"][0] == "Z" and not found["crash"], found
            self.kept, alarms, napped = found["told"]
            self.naps += napped
            for t, volume, flow, present in found["rows"]:
                assert present & self.columns and self.seen.setdefault(t, (volume, flow)) == (volume, flow), (
                    "a row is what it was"
                )
            self.alarms += [(code, (at - T0) / 1e6, value) for code, at, value in alarms]

    def pulses(self, us: float) -> float:
        t, points = us / 1e6, self.points
        (t0, v0), (t1, v1) = next((a, b) for a, b in zip(points, points[1:], strict=False) if a[0] <= t < b[0])
        return v0 + (v1 - v0) * (t - t0) / (t1 - t0)


FLOW = [(25, 0.02), (3000, 0.0), (4325, 0.15), (4900, 0.3), (5000, 0.0), (6025, 0.02)]


def test_it_wakes_for_rows_which_are_right_to_the_pulse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m = Meter(tmp_path, monkeypatch, FLOW)
    m.play(9300)
    rows = sorted(m.seen.items())
    assert [t for t, _ in rows] == list(range(rows[0][0], rows[0][0] + 300 * len(rows), 300)) and len(rows) >= 28
    for t, (volume, _) in rows:
        us = (t - MIDNIGHT) * 1e6
        assert t % 300 == 0 and int(m.pulses(us - 90_000)) <= volume // 10 <= int(m.pulses(us + 1_500_000)), (t, volume)
    for (_, before), (_, row) in zip(rows, rows[1:], strict=False):
        assert row[1] == ((row[0] - before[0]) * 360 + 150) // 300, "a row's flow is what the register gained in it"
    late = [at for at in m.boots if at > 3700]  # no ack comes: until then it wakes to send again
    assert len(late) < 5600 / 300 + 8, late
    assert m.naps >= 12 and not m.alarms


def test_a_nap_leaves_behind_what_the_node_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaks = {"pulse": {}, "leak": {"hours": 2, "litres": 1}}
    played = []
    for name, more in (("naps", ""), ("node", NO_NAPS)):
        (tmp_path / name).mkdir()
        m = Meter(tmp_path / name, monkeypatch, [(25, 0.02)], sensors=leaks)
        m.more = more
        m.play(11_900)
        nvs = m.nvs["citymote"]
        alarms = [(code, round(at / 3), value) for code, at, value in m.alarms]
        played.append((alarms, nvs["ceiling"], nvs["leak"], m.taken, m.seen))
        assert (m.naps > 12) == (name == "naps"), m.naps
    naps, node = played
    both = naps[-1].keys() & node[-1].keys()
    assert naps[:-1] == node[:-1] and {t: naps[-1][t] for t in both} == {t: node[-1][t] for t in both}
    assert len(both) >= 12 * 3, "what RTC memory still holds no one has seen"
    assert [code for code, _, _ in naps[0]] == [ABOVE], "the leak is told all the same"


@pytest.mark.parametrize("cause", ["supply", "bench", "watchdog"])
def test_what_is_not_as_usual_is_left_to_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str) -> None:
    m = Meter(tmp_path, monkeypatch, [(25, 0.02)])
    m.play(5700)
    assert m.naps, "or this test would show nothing"
    before, m.naps = len(m.seen), 0
    if cause == "supply":
        m.volts = 1.66  # below the limit and what it takes above it after a refusal
    elif cause == "bench":
        m.more = "sim.sim_hw.digital[13] = lambda: 0\n"
    else:
        m.rtc = m.rtc[:14] + "00" + m.rtc[16:]  # its image was used
    m.play(m.boots[-1] + 301)
    assert not m.naps and len(m.seen) > before


def test_rows_of_naps_that_one_frame_does_not_take_leave_in_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SF12: 51 bytes."""
    wild = [(25 + 150 * n, (0.001, 0.08, 0.02, 0.05, 0.0)[n % 5]) for n in range(100)]
    m = Meter(tmp_path, monkeypatch, wild, sf=12, report_s=14_400)
    m.play(13_500)
    assert m.naps > 20
    assert len(m.taken) == len(set(m.taken)) and len(m.taken) >= 5, m.taken
    rows = sorted(m.seen)
    assert rows == list(range(rows[0], rows[0] + 300 * len(rows), 300)) and len(rows) >= 40


def test_a_burst_is_told_within_seconds_of_what_a_limit_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3000 l/h allow 50 l in a minute, and ten pulses a second bring them in five."""
    rule = {"q": "water_flow", "above": 3000, "clear": 1000, "hold": 1}
    m = Meter(tmp_path, monkeypatch, [(0, 0.01), (4010, 10.0), (4150, 0.0)], alarms=[rule])
    m.play(5000)
    raised = [at for code, at, _ in m.alarms if code == ABOVE]
    assert raised and 5 <= raised[0] - 4010 < 12, m.alarms
    assert m.alarms[0][2] > 3000
    ended = [at for code, at, _ in m.alarms if code == CLEARED]
    assert len(m.alarms) == 2 and 900 <= ended[0] - raised[0] < 980, "cleared a look after least_s"


def test_a_burst_that_must_hold_is_told_when_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.7 l/s are 2520 l/h, over the default's 2000 for 30 samples of a minute; what is under it begins anew. The first
    look may be as late as a tenth of that, 100 l."""
    m = Meter(tmp_path, monkeypatch, [(0, 0.0), (600, 0.7), (1500, 0.1), (1620, 0.7), (3900, 0.0)])
    m.play(4600)
    assert [code for code, _, _ in m.alarms] == [ABOVE, CLEARED], m.alarms
    assert 28.5 * 60 < m.alarms[0][1] - 1620 < 34 * 60, m.alarms


@pytest.mark.parametrize(
    "rule",
    [{"q": "water_flow", "below": 1, "hold": 2}, {"q": "water_volume", "above": 10_000}],
    ids=["below", "volume"],
)
def test_a_rule_that_the_counter_cannot_judge_is_looked_at_every_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: dict[str, Any]
) -> None:
    m = Meter(tmp_path, monkeypatch, [(0, 0.0)], alarms=[rule])
    m.play(1500)
    late = [at for at in m.boots if at > 600]
    assert len(late) >= 14, late


def test_a_register_that_outgrows_the_wire_is_a_fault_that_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2**27 tenths of a litre end 42.8 l after the start: gaps from there on, which say nothing by themselves."""
    sensors = {"pulse": {"start_l": 13_421_730}, "leak": {}}
    m = Meter(tmp_path, monkeypatch, [(25, 0.02)], sensors=sensors)
    m.columns = 3
    m.play(6500)
    told = [(code, at) for code, at, _ in m.alarms]
    assert [code for code, _ in told] == [FAULT], told
    assert 25 + 42.8 / 0.02 <= told[0][1] < 25 + 42.8 / 0.02 + 400, told


@pytest.mark.parametrize(("row_s", "hours"), [(28_800, 10), (2400, 4)])
def test_a_leak_is_told_in_time_though_rows_are_rare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row_s: int, hours: int
) -> None:
    """Between two rows the node wakes at every hour; what else could wake it is hours away. Then nothing flows."""
    end = 3600 * (hours + 2)
    m = Meter(
        tmp_path, monkeypatch, [(25, 0.025), (end, 0.0)], sensors={"leak": {"hours": hours, "litres": 1}},
        sample_s=row_s, row_s=row_s, report_s=3 * row_s, backoff_s=86_400, health_s=432_000,
    )  # fmt: skip
    m.play(end + 9000)
    assert [code for code, _, _ in m.alarms] == [ABOVE, CLEARED], m.alarms
    assert hours - 0.5 <= m.alarms[0][1] / 3600 <= hours + 1.5 and m.alarms[1][1] < end + 2 * 3600 + 60, m.alarms
    assert len(m.boots) < 70, m.boots


@pytest.mark.parametrize("how", ["boost", "emergency"])
def test_raised_rates_clear_nothing_that_has_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """1500 l/h without a change, 375 in what fifteen seconds are of a minute. Awake, for that is what rates that are raised mean."""
    rule = {"q": "water_flow", "above": 1000, "clear": 500, "boost": how == "boost", "least_s": 0, "step": 9000}
    m = Meter(tmp_path, monkeypatch, [(25, 0.025), (1200, 1500 / 3600), (3900, 0.0)], alarms=[rule])
    if how == "emergency":
        m.more = """
from mote import remote
def check(self, old=remote.Control.check):
    if self.until == 0 and sim_clock.now > 2_000_000_000:
        self.until = 10**6 if sim_clock.now < 3_000_000_000 else 1
    if sim_clock.now > 3_000_000_000:
        self.until = 1
    old(self)
remote.Control.check = check
"""
    m.play(5200)
    assert [code for code, _, _ in m.alarms] == [ABOVE, CLEARED], m.alarms
    assert 1200 < m.alarms[0][1] < 1330 and 3900 < m.alarms[1][1] < 4300, m.alarms
    if how == "boost":
        assert len([t for t in m.seen if (t - MIDNIGHT) % 300]) > 20, "rates were raised"


def test_a_single_pulse_of_100_litres_is_no_flow_and_a_flow_of_them_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One a quarter of an hour, 400 l/h; then one in two minutes, 3000, which most minutes do not see."""
    m = Meter(
        tmp_path, monkeypatch, [(0, 1 / 900), (4500, 1 / 120), (9000, 0.0)],
        alarms=[{"q": "water_flow", "above": 2000, "clear": 1000}], sensors={"pulse": {"litres_per_pulse": 100}},
    )  # fmt: skip
    m.play(10_800)
    assert [code for code, _, _ in m.alarms] == [ABOVE, CLEARED], m.alarms
    assert 4500 < m.alarms[0][1] < 5100 and 9000 < m.alarms[1][1] < 9900, m.alarms
    assert m.naps > 5


def test_a_flow_whose_pulses_are_rarer_than_rows_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1000 l in twenty minutes are 3000 l/h, and no row has two of them."""
    m = Meter(
        tmp_path, monkeypatch, [(0, 0.0), (1000, 1 / 1200)],
        alarms=[{"q": "water_flow", "above": 2000, "clear": 1000}], sensors={"pulse": {"litres_per_pulse": 1000}},
    )  # fmt: skip
    m.play(9000)
    assert [code for code, _, _ in m.alarms] == [ABOVE] and m.naps > 5, m.alarms

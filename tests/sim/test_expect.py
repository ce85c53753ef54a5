"""What a scenario expects, what it says when that is missing, and when a flash wears out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from host_sim import expect, provision, wear
from host_sim.collect import Books
from host_sim.fleet import Fleet
from host_sim.node import NodeStats
from host_sim.probe import HEALTH_S, Probe, patience, window
from host_sim.protocol import EPOCH_2000
from host_sim.result import promised, unsampled
from host_sim.scenario import CutSpec, Expect, Group, load, unix
from host_sim.truth import Truth

END = 100_000
PM1, PM10, HUMIDITY = 4, 6, 2
BOTH = [SimpleNamespace(spec=SimpleNamespace(name=f"aq-0{i}"), group=Group("aq", "air_quality", 2)) for i in (1, 2)]


def unmet(delivered=(), happened=None, books=None, **demands) -> list[str]:
    rows = dict.fromkeys(delivered, 1)
    return expect.unmet(Expect(**demands), BOTH[:1], books or Books(), rows, END, happened or {})  # type: ignore[arg-type]


def test_nothing_expected_is_met():
    assert unmet() == []


@pytest.mark.parametrize(
    "ladders, met",
    [
        ([], False),
        ([(1, (PM1, PM10))], True),
        ([(2, (PM1, PM10, HUMIDITY)), (1, (PM10, PM1))], True),
        ([(1, (PM1, PM10)), (2, (PM1, PM10, HUMIDITY))], False),
        ([(1, (PM1,))], False),
        ([(1, (PM1, PM10)), (0, ())], False),
    ],
)
def test_the_newest_ladder_status_must_leave_out_exactly_what_is_expected(ladders, met):
    books = Books(ladders={"aq-01": ladders} if ladders else {})
    found = unmet(books=books, shed={"aq-01": ("pm1", "pm10")})
    assert (found == []) == met
    assert met or ("aq-01" in found[0] and "expected [pm1, pm10]" in found[0])


def test_a_node_that_should_leave_out_nothing_must_not():
    assert unmet(shed={"aq": ()}) == []
    assert unmet(shed={"aq": ()}, books=Books(ladders={"aq-01": [(1, (PM1,))]})) != []


def test_last_words_faults_and_resets_must_have_been_seen():
    demands = {"exceptions": {"aq-01": ("IndexError",)}, "faults": {"aq-01": ("pm1",)}, "resets": {"aq": ("wdt",)}}
    assert len(unmet(**demands)) == 3
    books = Books(exceptions={"aq-01": ["IndexError: x"]}, faults={"aq-01": {"pm1"}})
    assert unmet(books=books, happened={"aq-01": {"wdt": 1}}, **demands) == []
    other = Books(exceptions={"aq-02": ["IndexError: x"]}, faults={"aq-02": {"pm1"}})
    assert len(unmet(books=other, happened={"aq-02": {"wdt": 1}, "aq-01": {"hard": 2}}, **demands)) == 3


@pytest.mark.parametrize("t, met", [(END - 7201, False), (END - 7200, True), (END - 1, True), (END, False)])
def test_only_what_was_taken_lately_shows_that_a_node_still_delivers(t, met):
    found = unmet(delivered=[("aq-01", "pm1", t), ("aq-02", "pm1", END - 1)], delivers={"aq": ("pm1",)})
    assert (found == []) == met


def test_a_reading_that_was_persisted_with_two_values_is_lost_whichever_arrives():
    truth = Truth(2_000_000_000)
    for raw in (5, 5, 6):
        truth.add("aq-01", 825_000_000, [(PM1, raw)])
    key = next(iter(truth.readings))
    assert truth.missing({key: 6}) == [key] and truth.missing({key: 5}) == [key] and truth.missing({}) == [key]


def test_the_wear_budget_is_that_of_the_blocks_that_are_free_in_the_worst_case():
    # 256 blocks of 4 KiB, 24 of them static, 64 full of frames: 168 * 100,000 erases over 7,305 days
    assert wear.budget(1 << 20, 256) == pytest.approx(168 * 100_000 / 7305)
    assert wear.budget(2 << 20, 256) > 2 * wear.budget(1 << 20, 256)
    assert wear.per_day(24, 43_200_000_000) == 48.0 and wear.per_day(0, 0) == 0.0


def test_the_default_of_the_outbox_is_the_firmwares():
    config = (Path(__file__).parents[2] / "firmware" / "motewire" / "config.py").read_text()
    assert f'"outbox_kb": (int, 16, 4096, {wear.OUTBOX_KB})' in config


def test_a_fleet_that_does_not_sample_or_is_bitten_is_said_to_though_all_it_took_arrived(tmp_path):
    """Else a fleet that hardly measures passes, for nothing it took is lost."""
    plan = replace(load("lossy"), expect=Expect())
    members = provision.nodes(plan, hours=24, count=None, seed=1, folder=tmp_path)
    end = 24 * provision.HOUR_US

    def said(plan=plan, cuts=0, resets=None, **rows):
        nodes = []
        for m in members:
            stats = NodeStats(cuts=cuts, resets=dict(resets or {}))
            nodes.append(SimpleNamespace(spec=m.spec, stats=stats))
        full = {m.spec.name: {"bin_fill": 96, "parking": 24}.get(m.group.profile, 288) for m in members}
        fleet = cast(Fleet, SimpleNamespace(nodes=nodes))
        return unsampled(plan, members, fleet, full | {k.replace("_", "-"): v for k, v in rows.items()}, end)

    assert said() == []
    assert said(bay_01=3) == ["bay-01: 3 rows, at least 20 are due"], "events have a heartbeat"
    assert said(aq_01=278) == ["aq-01: 278 rows, at least 279 are due"] and said(aq_01=280) == []
    assert said(aq_01=222, resets={"hard": 29}) == [], "rows may be missing at every reset"
    assert len(said(aq_01=220, resets={"hard": 29})) == 1
    assert said(resets={"wdt": 2})[0] == "aq-01: 2 bites of the watchdog"
    allowed = replace(plan, expect=Expect(resets={m.spec.name: ("wdt",) for m in members}))
    assert said(allowed, resets={"wdt": 2}) == []
    shed = replace(plan, expect=Expect(shed={"aq": ("pm10",)}))
    assert said(shed, aq_01=142) == [] and said(shed, aq_01=140) == ["aq-01: 140 rows, at least 141 are due"]


@pytest.mark.parametrize(
    ("group", "minutes", "due"),
    [
        (Group("aq", "air_quality", 1, row_s=60), 10, 0.8),
        (Group("aq", "air_quality", 1, row_s=300), 10, 0.5),
        (Group("aq", "air_quality", 1, row_s=300), 35, 0.83),
        (Group("aq", "air_quality", 1, row_s=300, config={"stage_every": 3}), 35, 0.85),
        (Group("bin", "bin_fill", 1, row_s=300, report_s=900, config={"mode": "sleep"}), 35, 0.85),
        (Group("bin", "bin_fill", 1, row_s=300, report_s=3600, config={"mode": "sleep"}), 35, 0.0),
        (Group("aq", "air_quality", 1, row_s=300), 5, 0.0),
    ],
)
def test_power_that_goes_every_few_minutes_leaves_what_was_written_before(tmp_path, group, minutes, due):
    """A share of all rows, so that a node that brings none fails, and one that brings what it can passes."""
    cut = CutSpec(("aq", "bin")[group.name == "bin" :][:1], minutes / 60, 0.02, minutes / 60)
    plan = replace(
        load("lossy"), expect=Expect(), groups=(group,), cuts=(cut,), losses=(), receivers=load("lossy").receivers
    )
    member = provision.nodes(plan, hours=24, count=None, seed=1, folder=tmp_path)[0]
    all_rows = 86_400 / group.row_s
    assert abs(promised(member, group.row_s, 24 * provision.HOUR_US) / all_rows - due) < 0.05


def test_how_long_a_node_may_be_wrong_about_the_time_depends_on_its_status_and_its_oscillator():
    hour = 3_600_000_000
    assert patience(Group("aq", "air_quality", 1)) == (hour // 2, 6.5 * hour)
    assert patience(Group("aq", "air_quality", 1, config={"health_s": 3600})) == (hour // 2, 1.5 * hour)
    assert patience(Group("bin", "bin_fill", 1, report_s=7200, config={"mode": "sleep"})) == (3 * hour, 11 * hour)
    settings = (Path(__file__).parents[2] / "firmware" / "motewire" / "config.py").read_text()
    assert f'"health_s": (int, 600, 432000, {HEALTH_S})' in settings


def test_a_node_in_trouble_that_no_one_expects_is_named():
    books = Books(
        ladders={"aq-01": [(1, (PM1, PM10)), (0, ())]},
        exceptions={"aq-02": ["TypeError water_meter:68"]},
        active_alarms={"aq-01/pm1-fault": {}, "aq-01/pm10-above": {}, "aq-011/pm1-fault": {}},
    )

    def said(**expected) -> list[str]:
        return expect.unforeseen(Expect(**expected), BOTH, books)  # type: ignore[arg-type]

    assert said() == [
        "aq-01: left out pm1, pm10",
        "aq-01: a sensor does not work at the end: pm1-fault",
        "aq-02: 1 boot ended with an error: TypeError water_meter:68",
    ]
    assert said(shed={"aq-01": ()}) == said()[2:] and said(exceptions={"aq": ("TypeError",)}) == []
    assert expect.unforeseen(Expect(), BOTH, Books()) == []  # type: ignore[arg-type]


def test_what_a_node_says_is_wrong_with_its_configuration_is_named_unless_it_was_given_another():
    books = Books(status={"aq-01": {"config_problem": "alarms: this profile has no pm10"}})
    found = expect.unforeseen(Expect(), BOTH, books)  # type: ignore[arg-type]
    assert found == ["aq-01: says of its configuration: alarms: this profile has no pm10"]
    assert expect.unforeseen(Expect(), BOTH, books, {"aq-01"}) == []  # type: ignore[arg-type]


def probe_of(**group: Any) -> tuple[Probe, Any]:
    plan = replace(load("district"), groups=(Group("bin", "bin_fill", 1, row_s=900, report_s=3600, **group),))
    spec = SimpleNamespace(name="bin-01", power_on=0, cuts=())
    return Probe(plan, [SimpleNamespace(spec=spec, group=plan.groups[0])], 24 * 3_600_000_000), SimpleNamespace(
        spec=spec, now=0
    )  # type: ignore[list-item]


def test_what_a_power_cut_takes_is_told_apart_from_what_is_lost():
    probe, node = probe_of(config={"mode": "sleep"})
    t = unix(load("district").head.start) - EPOCH_2000
    for n in range(3):
        probe.taken(node, t + 900 * n, [(1, n), (2, n)], held=True)
    probe.taken(node, t + 900, [(1, 1), (2, 1)], held=True)  # read again by a wake
    assert not probe.truth.readings and probe.rows == {"bin-01": 3}
    probe.power_cut(node)
    assert probe.with_power == 6 and not probe.truth.readings
    probe.taken(node, t + 2700, [(1, 3)], held=True)
    probe.persisted(node)
    assert len(probe.truth.readings) == 1
    probe.taken(node, t + 3600, [(1, 4)], held=True)
    probe.taken(node, t + 3600, [(1, 4)], held=False)  # found on flash after all
    probe.power_cut(node)
    assert len(probe.truth.readings) == 2 and probe.with_power == 6
    probe.taken(node, t + 4500, [(1, 5)], held=True)
    probe.close()
    assert len(probe.truth.readings) == 3, "held for ever is lost"


def test_rows_beyond_what_a_configuration_leaves_unwritten_are_lost_with_a_power_cut():
    assert window(Group("b", "bin_fill", 1, row_s=900, report_s=3600, config={"mode": "sleep"})) == 4
    assert window(Group("b", "bin_fill", 1, config={"stage_every": 3})) == 3 and window(Group("b", "bin_fill", 1)) == 1
    probe, node = probe_of(config={"stage_every": 2})
    t = unix(load("district").head.start) - EPOCH_2000
    for n in range(5):
        probe.taken(node, t + 900 * n, [(1, n)], held=True)
    probe.power_cut(node)
    assert len(probe.truth.readings) == 3 and probe.with_power == 2

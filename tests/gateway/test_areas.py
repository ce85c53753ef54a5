"""Free places of car parks and the balance of shafts."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.model import Node
from gateway.outputs import FORMATS
from tests.gateway.town import NO_DEFAULTS, T0, D, H, Town, config

BAYS = NO_DEFAULTS + '[area.market]\nkind = "lot"\nnodes = ["bay-*"]\ncapacity = 5\nvisibility = "open"\n'
GATES = (
    NO_DEFAULTS
    + '[area.garage]\nkind = "gate-lot"\nentries = ["gate-1:count"]\nexits = ["gate-1:count-1", "gate-2:count"]\ncapacity = 10\n'
    "reset_hour = 4\nreset_to = 1\n"
)
SHAFT = (
    NO_DEFAULTS
    + '[aggregates]\nregister = ["water_volume"]\n[area.zone-3]\nkind = "balance"\ninflow = ["shaft"]\noutflow = ["wm-*"]\n'
    '[rule.loss]\nquantity = "balance"\naggregate = "balance"\narea = "zone-3"\nabove = 50\nclear = 20\nhold = 2\n'
)


def lots(town: Town, area: str) -> list[dict[str, Any]]:
    return [dict(e.area.body) for e in town.events if e.area and e.area.area == area and e.area.name == "lot"]


def bays(folder: Path) -> Town:
    nodes = [Node(i, f"bay-{i}", b"", profile="parking", interval_s=3600) for i in range(1, 5)]
    return Town(folder, BAYS, [*nodes, Node(9, "aq-1", b"")])


def test_free_places_follow_every_change_and_nothing_else(tmp_path: Path) -> None:
    town = bays(tmp_path)
    town.row("bay-1", T0, occupied=1)
    town.row("bay-2", T0 + 1, occupied=0)
    town.row("bay-2", T0 + 3600, occupied=0)  # the heartbeat
    town.row("aq-1", T0 + 3600, temperature=1)
    town.restart()
    town.row("bay-1", T0 + 4000, occupied=0)
    town.row("bay-1", T0 + 3900, occupied=1, received=T0 + 5000)  # late
    expected = [
        {"capacity": 5, "occupied": 1, "free": 0, "unknown": 4},
        {"capacity": 5, "occupied": 1, "free": 1, "unknown": 3},
        {"capacity": 5, "occupied": 0, "free": 2, "unknown": 3},
    ]
    assert lots(town, "market") == expected
    (m,) = FORMATS["native"](town.events[-1], "city")
    assert (m.topic, m.retain) == ("city/v1/area/market/lot", True)
    assert json.loads(m.payload)["free"] == 2 and town.events[-1].visibility == "open"


@pytest.mark.parametrize("columns", [{"confidence": [1]}, {"temperature": [1], "count": [1]}, {"occupied-1": [1]}])
def test_other_quantities_of_a_bay_are_no_occupancy(tmp_path: Path, columns: dict[str, list[int]]) -> None:
    town = bays(tmp_path)
    town.send("bay-1", [T0], columns)
    assert lots(town, "market") == []


def test_a_doubtful_state_of_a_bay_is_no_occupancy(tmp_path: Path) -> None:
    town = bays(tmp_path)
    town.row("bay-1", T0, occupied=0)
    town.send("bay-1", [T0 + 60], {"occupied": [1]}, suspect=(0,))
    assert lots(town, "market") == [{"capacity": 5, "occupied": 0, "free": 1, "unknown": 4}]


def test_a_bay_that_has_left_the_registry_is_counted_no_more_at_once(tmp_path: Path) -> None:
    rule = '[rule.full]\nquantity = "occupied"\naggregate = "lot"\narea = "market"\nabove = 1.5\nclear = 1.2\n'
    nodes = [Node(i, f"bay-{i}", b"", profile="parking", interval_s=3600) for i in range(1, 4)]
    town = Town(tmp_path, BAYS + rule, nodes)
    town.row("bay-1", T0, occupied=1)
    town.row("bay-2", T0 + 1, occupied=1)
    town.row("bay-3", T0 + 2, occupied=0)
    town.tick(T0 + 10)
    assert town.alarms() == [("raised", "full")]
    told = len(town.events)
    town.restart()
    town.tick(T0 + 20)
    assert len(town.events) == told, "nothing is another than before"
    gone = town.nodes.pop("bay-2")
    town.restart()
    town.tick(T0 + 30)
    assert lots(town, "market")[-1] == {"capacity": 5, "occupied": 1, "free": 1, "unknown": 3}
    assert town.alarms()[-1] == ("cleared", "full"), "rules look at it as at any other change"
    assert [e.area.t for e in town.events if e.area and e.area.name == "lot"][-1] == T0 + 30
    (m,) = [m for e in town.events if e.area and e.area.name == "lot" for m in FORMATS["native"](e, "city")][-1:]
    assert (m.topic, m.retain) == ("city/v1/area/market/lot", True)
    town.nodes["bay-2"] = gone
    town.restart()
    town.tick(T0 + 40)
    assert lots(town, "market")[-1] == {"capacity": 5, "occupied": 1, "free": 1, "unknown": 3}, (
        "unknown until it is heard"
    )
    town.latest.clear()
    town.row("bay-2", T0 + 50, occupied=0)
    assert lots(town, "market")[-1] == {"capacity": 5, "occupied": 1, "free": 2, "unknown": 2}


def test_a_car_park_without_any_bay_left_or_with_another_capacity_is_told_anew(tmp_path: Path) -> None:
    town = bays(tmp_path)
    town.row("bay-1", T0, occupied=1)
    town.tick(T0 + 1)
    town.restart(config(tmp_path, BAYS.replace("capacity = 5", "capacity = 9"), list(town.nodes.values())))
    town.tick(T0 + 2)
    assert lots(town, "market")[-1] == {"capacity": 9, "occupied": 1, "free": 0, "unknown": 8}
    town.config = config(tmp_path, BAYS, list(town.nodes.values()))
    for name in [n for n in town.nodes if n.startswith("bay")]:
        town.nodes.pop(name)
    town.restart()
    town.tick(T0 + 3)
    assert lots(town, "market")[-1] == {"capacity": 5, "occupied": 0, "free": 0, "unknown": 5}


@given(st.lists(st.tuples(st.sampled_from("rgct"), st.integers(1, 4), st.booleans()), max_size=24))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whoever_comes_and_goes_the_count_is_that_of_the_bays_that_are_there(
    tmp_path: Path, steps: list[tuple[str, int, bool]]
) -> None:
    town = bays(tmp_path)
    everyone = dict(town.nodes)
    truth: dict[str, int] = {}
    for n, (what, number, occupied) in enumerate(steps, 1):
        name, now = f"bay-{number}", T0 + 60 * n
        if what == "r" and name in town.nodes:
            town.row(name, now, occupied=int(occupied))
            truth[name] = int(occupied)
        elif what == "g" and name in town.nodes:
            town.nodes.pop(name)
            truth.pop(name, None)
        elif what == "c":
            town.nodes[name] = everyone[name]
        town.restart()
        town.tick(now + 1)
        if lots(town, "market"):
            shown = lots(town, "market")[-1]
            assert (shown["occupied"], shown["unknown"]) == (sum(truth.values()), 5 - len(truth))
        else:
            assert not truth


def test_a_bay_of_a_time_when_the_hosts_clock_was_ahead_is_counted_again(tmp_path: Path) -> None:
    town = bays(tmp_path)
    town.row("bay-1", T0 + 3650 * D, occupied=1)
    town.restart()
    town.latest.clear()
    town.row("bay-1", T0, occupied=0)
    assert lots(town, "market")[-1]["occupied"] == 0


def test_a_balance_is_stamped_with_the_end_of_its_hour(tmp_path: Path) -> None:
    town = shaft(tmp_path)
    for h in range(3):
        for name in ("shaft", *METERS):
            town.row(name, T0 + h * H, water_volume=100.0 * h)
    assert {(e.area.t, e.area.body["start"]) for e in town.events if e.area} == {(T0 + H, T0), (T0 + 2 * H, T0 + H)}


def test_a_silent_bay_is_unknown_until_it_is_heard(tmp_path: Path) -> None:
    town = bays(tmp_path)
    town.row("bay-1", T0, occupied=1)
    town.follow(town.event("bay-1", T0 + 3 * H, "offline", online=False))
    assert lots(town, "market")[-1] == {"capacity": 5, "occupied": 0, "free": 0, "unknown": 5}
    town.row("bay-1", T0 + 4 * H, occupied=1)
    assert lots(town, "market")[-1]["unknown"] == 4


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 20), st.integers(0, 1)), max_size=40))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_lot_is_what_the_newest_row_of_each_bay_says(tmp_path: Path, rows: list[tuple[int, int, int]]) -> None:
    town = bays(tmp_path)
    newest: dict[int, tuple[int, int]] = {}
    for i, (bay, minute, occupied) in enumerate(rows):
        t = T0 + 60 * minute
        town.row(f"bay-{bay}", t, occupied=occupied, received=T0 + 3600 + i)
        if bay not in newest or t > newest[bay][0]:
            newest[bay] = (t, occupied)
        if i % 7 == 3:
            town.restart()
    if rows:
        last = lots(town, "market")[-1]
        assert last["occupied"] == sum(o for _, o in newest.values())
        assert last["free"] == len(newest) - last["occupied"] and last["unknown"] == 5 - len(newest)


def gates(folder: Path) -> Town:
    return Town(folder, GATES, [Node(1, "gate-1", b"", interval_s=600), Node(2, "gate-2", b"", interval_s=600)])


def test_a_lot_with_gates_counts_in_and_out_and_late_rows_too(tmp_path: Path) -> None:
    town = gates(tmp_path)
    noon = T0 + 12 * H
    town.send("gate-1", [noon, noon + 600], {"count": [3, 2], "count-1": [0, 1]})
    town.restart()
    town.row("gate-2", noon + 900, count=1)
    assert lots(town, "garage")[-1] == {"capacity": 10, "occupied": 4, "free": 6, "unknown": 0, "drift": 0}
    town.row("gate-2", noon + 300, count=2, received=noon + 5000)
    assert lots(town, "garage")[-1]["occupied"] == 2


def test_what_no_order_of_cars_explains_is_drift_once_all_gates_have_reported_past_it(tmp_path: Path) -> None:
    town = gates(tmp_path)
    noon = T0 + 12 * H
    town.row("gate-2", noon, count=4)  # one car was there: three are not explained, but gate-1 has not reported yet
    assert lots(town, "garage")[-1] == {"capacity": 10, "occupied": 0, "free": 10, "unknown": 0, "drift": 0}
    town.restart()
    town.row("gate-1", noon, count=0)
    assert lots(town, "garage")[-1] == {"capacity": 10, "occupied": 0, "free": 10, "unknown": 0, "drift": 3}
    town.row("gate-1", noon + 600, count=12)
    assert (lots(town, "garage")[-1]["occupied"], lots(town, "garage")[-1]["drift"]) == (10, 3)
    town.row("gate-2", noon + 600, count=0)
    assert lots(town, "garage")[-1] == {"capacity": 10, "occupied": 10, "free": 0, "unknown": 0, "drift": 1}


def test_a_gate_that_has_gone_silent_is_not_waited_for(tmp_path: Path) -> None:
    town = gates(tmp_path)
    noon = T0 + 12 * H
    town.row("gate-1", noon, count=0)
    for i in range(1, 6):
        town.row("gate-2", noon + 600 * i, count=4 if i == 1 else 0)
    assert lots(town, "garage")[-1] == {"capacity": 10, "occupied": 0, "free": 10, "unknown": 0, "drift": 3}


LANES = (
    NO_DEFAULTS
    + '[area.lot]\nkind = "gate-lot"\ncapacity = 10\nentries = ["gate-in:count"]\nexits = ["gate-out:count"]\n'
)


def lanes(folder: Path, interval_s: int = 600) -> Town:
    nodes = [Node(i, n, b"", profile="counter", interval_s=interval_s) for i, n in ((1, "gate-in"), (2, "gate-out"))]
    return Town(folder, LANES, nodes)


def test_an_exit_that_is_reported_before_its_entry_leaves_the_count_right(tmp_path: Path) -> None:
    town = lanes(tmp_path)
    for i in range(5):
        begin = T0 + 600 * i
        town.row("gate-out", begin + 200, count=1, received=begin + 205.0)
        town.row("gate-in", begin + 100, count=1, received=begin + 590.0)
        if i == 2:
            town.restart()
    assert {(x["occupied"], x["drift"]) for x in lots(town, "lot")} <= {(0, 0), (1, 0)}
    assert lots(town, "lot")[-1]["occupied"] == 0


def test_an_empty_and_a_full_lot_count_whichever_gate_reports_first(tmp_path: Path) -> None:
    town = lanes(tmp_path)
    town.row("gate-out", T0 + 500, count=3, received=T0 + 505.0)
    town.row("gate-in", T0 + 400, count=3, received=T0 + 600.0)
    assert (lots(town, "lot")[-1]["occupied"], lots(town, "lot")[-1]["drift"]) == (0, 0)
    town.row("gate-in", T0 + 1000, count=12, received=T0 + 1005.0)
    assert lots(town, "lot")[-1]["occupied"] == 10, "never more than its places"
    town.row("gate-out", T0 + 990, count=8, received=T0 + 1200.0)
    assert (lots(town, "lot")[-1]["occupied"], lots(town, "lot")[-1]["drift"]) == (4, 0)


@pytest.mark.parametrize("beside", [0, 5, 100])
def test_rows_of_a_gate_that_come_again_count_once(tmp_path: Path, beside: int) -> None:
    town = lanes(tmp_path)
    times = [T0 + 600 * i for i in range(1, 7)]
    town.send("gate-in", times, {"count": [1, 0, 2, 0, 1, 0]})
    town.restart()
    town.send("gate-in", [t + beside for t in times[:5]], {"count": [1, 0, 2, 0, 1]}, received=times[-1] + 10.0)
    town.row("gate-in", times[2], count=2, received=times[-1] + 20.0)
    assert lots(town, "lot")[-1]["occupied"] == 4


def test_rows_from_before_the_quiet_hour_that_come_behind_it_take_back_its_drift(tmp_path: Path) -> None:
    town = Town(
        tmp_path,
        LANES + "reset_hour = 4\n",
        [Node(1, "gate-in", b"", interval_s=600), Node(2, "gate-out", b"", interval_s=600)],
    )
    evening = T0 + 20 * H
    town.row("gate-in", evening, count=5)
    town.row("gate-in", evening + 10 * H, count=1)  # behind 4 h; the five are taken for drift
    assert lots(town, "lot")[-1]["drift"] == -5
    town.row("gate-out", evening + 600, count=5, received=evening + 10 * H + 60.0)
    assert (lots(town, "lot")[-1]["occupied"], lots(town, "lot")[-1]["drift"]) == (1, 0)


def test_counts_of_a_time_when_the_hosts_clock_was_ahead_stop_nothing(tmp_path: Path) -> None:
    town = lanes(tmp_path)
    town.row("gate-in", T0 + 3650 * D, count=2)
    town.restart()
    town.row("gate-in", T0 + 600, count=3)
    town.row("gate-out", T0 + 600, count=1)
    assert lots(town, "lot")[-1]["occupied"] == 4


@given(seed=st.integers(0, 1 << 32), order=st.sampled_from(["in turn", "any"]))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cars_that_really_passed_make_no_drift_in_any_order_of_reports(tmp_path: Path, seed: int, order: str) -> None:
    """True cars, rows of three lengths, frames of one to six rows, interleaved (or shuffled), some sent twice."""
    random = Random(seed)
    town = lanes(tmp_path, 3600)
    inside, passed = 0, {"gate-in": [], "gate-out": []}  # type: ignore[var-annotated]
    for second in range(0, 6 * H, 20):
        if random.random() < 0.12:
            gate = (
                random.choice(["gate-in", "gate-out"]) if 0 < inside < 10 else "gate-in" if not inside else "gate-out"
            )
            inside += 1 if gate == "gate-in" else -1
            passed[gate].append(T0 + second)
    frames: list[tuple[str, list[int], list[int]]] = []
    for gate, cars in passed.items():
        step = random.choice([60, 300, 600])
        offset = random.randrange(step)
        ends = list(range(T0 + offset, T0 + 6 * H + step + 1, step))
        counts = [sum(e - step < t <= e for t in cars) for e in ends]
        size = random.randrange(1 if order == "in turn" else 2, 7)
        mine = [(gate, ends[i : i + size], counts[i : i + size]) for i in range(0, len(ends), size)]
        mine = [f for f in mine for _ in range(2 if random.random() < 0.1 else 1)]
        frames += mine
    if order == "any":
        random.shuffle(frames)
    else:  # each gate in its own order, the gates as chance has it
        lanes_ = [[f for f in frames if f[0] == g] for g in passed]
        frames = []
        while any(lanes_):
            left = [x for x in lanes_ if x]
            first = min(x[0][1][-1] for x in left)  # no gate is hours behind the other
            frames.append(random.choice([x for x in left if x[0][1][-1] <= first + 900]).pop(0))
    for i, (gate, ends, counts) in enumerate(frames):
        town.send(gate, ends, {"count": counts}, received=T0 + 7 * H)
        if i % 11 == 5:
            town.restart()
    told = lots(town, "lot")
    assert all(0 <= x["occupied"] <= 10 for x in told)
    if order == "in turn":
        assert {x["drift"] for x in told} <= {0}
    if told:
        assert (told[-1]["occupied"], told[-1]["drift"]) == (inside, 0)
    assert max(map(len, town.store.values()), default=0) < 16_000


def test_drift_is_corrected_in_the_quiet_hour_and_history_from_before_it_stays_history(tmp_path: Path) -> None:
    town = gates(tmp_path)
    noon = T0 + 12 * H
    town.row("gate-1", noon, count=6)
    assert lots(town, "garage")[-1]["occupied"] == 7
    town.row("gate-1", noon + D, count=1)  # 4 h lies between: one car was there
    assert lots(town, "garage")[-1] == {"capacity": 10, "occupied": 2, "free": 8, "unknown": 0, "drift": -6}
    town.restart()
    town.row("gate-2", noon + 1200, count=5, received=noon + D + 600)
    assert (lots(town, "garage")[-1]["occupied"], lots(town, "garage")[-1]["drift"]) == (2, -1)


METERS = ("wm-1", "wm-2", "wm-3")


def shaft(folder: Path, circle: str = "restricted") -> Town:
    nodes = [
        Node(i, n, b"", profile="water_meter", interval_s=3600, visibility="personal")
        for i, n in enumerate(("shaft", *METERS), 1)
    ]
    return Town(folder, SHAFT.replace('outflow = ["wm-*"]\n', f'outflow = ["wm-*"]\nvisibility = "{circle}"\n'), nodes)


def balances(town: Town) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for e in town.events:
        if e.area and e.area.name == "balance" and e.kind == "area":
            start = e.area.body["start"]
            assert start not in found or e.area.body["revision"] > found[start]["revision"]
            found[start] = dict(e.area.body)
    return found


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_balance_is_inflow_less_what_the_meters_used_in_any_order(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    town = shaft(tmp_path)
    use = {n: [random.randrange(0, 100) for _ in range(12)] for n in METERS}
    lost = [random.randrange(0, 100) for _ in range(12)]
    use["shaft"] = [sum(use[n][h] for n in METERS) + lost[h] for h in range(12)]
    rows = [(name, h, sum(use[name][:h])) for name in use for h in range(13)]
    if random.random() < 0.5:
        rows.sort(key=lambda r: r[1])
    else:
        random.shuffle(rows)
    for i, (name, h, volume) in enumerate(rows):
        town.row(name, T0 + h * H, water_volume=volume, received=T0 + 13 * H + i)
        if i == 20:
            town.restart()
    town.until(T0 + 14 * H, T0 + 18 * H)
    found = balances(town)
    for h in range(12):
        body = found[T0 + h * H]
        assert (body["balance"], body["capture"]) == (lost[h], 100.0)
        assert body["inflow"] == use["shaft"][h]


@pytest.mark.parametrize("circle", ["personal", "restricted"])
def test_a_missing_meter_leaves_the_balance_open_until_it_is_heard(tmp_path: Path, circle: str) -> None:
    town = shaft(tmp_path, circle)
    for h in range(5):
        for name in ("shaft", *METERS):
            if name != "wm-3" or h < 2:
                town.row(name, T0 + h * H, water_volume=100.0 * h * (3 if name == "shaft" else 1))
    told = balances(town)
    assert told[T0]["balance"] == 0 and told[T0]["revision"] == 1
    if circle == "personal":
        assert "balance" not in told[T0 + H] and told[T0 + H]["capture"] == 75.0 and told[T0 + H]["outflow"] == 200
    else:
        assert T0 + H not in told, "the rest would be one household's"
    for h in range(2, 5):
        town.row("wm-3", T0 + h * H, water_volume=100.0 * h, received=T0 + 4 * H + 100)
    late = balances(town)[T0 + H]
    assert late["balance"] == 0 and late["revision"] == (2 if circle == "personal" else 1)


def households(folder: Path, n: int, least: str = "") -> tuple[Town, list[str]]:
    """An open area of n households; the one named h-<i> uses 2^i litres in every hour, so that a sum says whose it is."""
    names = [f"h-{i}" for i in range(n)]
    nodes = [
        Node(
            i, name, b"", profile="water_meter", interval_s=3600, visibility="restricted" if name == "shaft" else circle
        )
        for i, (name, circle) in enumerate(
            [("shaft", ""), *((x, ("personal", "open")[i % 2]) for i, x in enumerate(names))], 1
        )
    ]
    text = SHAFT.replace('outflow = ["wm-*"]\n', f'outflow = ["h-*"]\nvisibility = "open"\n{least}')
    return Town(folder, text, nodes), names


def told_sums(town: Town, start: int) -> list[int]:
    """The outflow of an hour in each of its revisions."""
    areas = [e.area for e in town.events if e.area is not None and e.area.name == "balance" and not e.alarm]
    return [round(a.body["outflow"]) for a in areas if a.body["start"] == start and "outflow" in a.body]


@given(
    st.sampled_from([1, 2, 4, 5, 6, 9, 13]),
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 30)), max_size=200, unique=True),
    st.lists(st.integers(0, 12), max_size=3),
)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_revision_of_a_balance_differs_by_fewer_households_than_may_be_told(
    tmp_path: Path, n: int, late: list[tuple[int, int]], wrong: list[int]
) -> None:
    """late: (household, hour) that come at the end, in this order. wrong: households whose readings fall in the end: their use is taken back."""
    town, names = households(tmp_path, n)
    for h in range(31):
        town.row("shaft", T0 + h * H, water_volume=10_000.0 * h)
        for i, name in enumerate(names):
            if (i, h) not in late:
                town.row(name, T0 + h * H, water_volume=float(h << i))
    for i, h in late:
        if i < n:
            town.row(names[i], T0 + h * H, water_volume=float(h << i), received=T0 + 31 * H)
            town.tick(T0 + 32 * H)
    for i in wrong:
        if i < n:
            town.row(names[i], T0 + 10 * H - 1800, water_volume=float(100 << i), received=T0 + 32 * H)
    town.until(T0 + 32 * H, T0 + 36 * H)
    for h in range(30):
        before = 0
        for total in told_sums(town, T0 + h * H):
            assert total == before or (total ^ before).bit_count() >= min(n, 5), (h, told_sums(town, T0 + h * H))
            before = total
        if not wrong and (n < 6 or not late):
            assert before == (1 << n) - 1, "and in the end all are in it"


def test_a_household_that_is_silent_leaves_the_others_balance_open_for_a_day(tmp_path: Path) -> None:
    town, names = households(tmp_path, 7)
    for h in range(30):
        for i, name in enumerate(("shaft", *names)):
            if name != "h-6" or h < 2:
                town.row(name, T0 + h * H, water_volume=float(10_000 * h if name == "shaft" else h << (i - 1)))
        assert bool(told_sums(town, T0 + H)) == (h >= 26), h
    assert told_sums(town, T0 + H) == [0b111111] and told_sums(town, T0) == [0b1111111]
    for h in range(2, 30):
        town.row("h-6", T0 + h * H, water_volume=float(h << 6), received=T0 + 30 * H)
    town.until(T0 + 30 * H, T0 + 32 * H)
    assert told_sums(town, T0 + H) == [0b111111] and told_sums(town, T0 + 10 * H) == [0b1111111]


def test_how_many_households_are_enough_is_configured(tmp_path: Path) -> None:
    town, names = households(tmp_path, 3, "least = 1\n")
    for h in range(3):
        for i, name in enumerate(("shaft", *names)):
            if name != "h-2" or h < 1:
                town.row(name, T0 + h * H, water_volume=float(10_000 * h if name == "shaft" else h << (i - 1)))
    assert told_sums(town, T0) == [0b011]


def test_a_loss_in_two_hours_is_an_alarm_of_the_area(tmp_path: Path) -> None:
    town = shaft(tmp_path)
    inflow = [0, 100, 260, 420, 520, 620]
    for h, v in enumerate(inflow):
        for name in ("shaft", *METERS):
            town.row(name, T0 + h * H, water_volume=float(v) if name == "shaft" else 30.0 * h)
        if h == 2:
            town.restart()
    assert town.alarms() == [("raised", "loss"), ("cleared", "loss")]
    raised = next(e for e in town.events if e.alarm is not None)
    topics = {m.topic: m for m in FORMATS["native"](raised, "city")}
    assert set(topics) == {"city/v1/area/zone-3/event", "city/v1/area/zone-3/alert/loss"}
    body = json.loads(topics["city/v1/area/zone-3/alert/loss"].payload)
    assert (body["value"], body["limit"], body["unit"], body["quantity"]) == (70, 50, "l", "balance")
    assert raised.visibility == "restricted" and not raised.node
    cleared = [e for e in town.events if e.alarm is not None][1]
    assert [m.payload for m in FORMATS["native"](cleared, "city") if m.retain] == [b""]


def test_an_older_hour_that_is_told_late_raises_nothing(tmp_path: Path) -> None:
    nodes = list(shaft(tmp_path).nodes.values())
    town = Town(tmp_path, SHAFT + "fresh_s = 86400\n", nodes)
    for h in range(6):
        for name in ("shaft", *METERS):
            if name != "wm-3" or h > 2:
                town.row(name, T0 + h * H, water_volume=(400.0 if name == "shaft" and h < 3 else 90.0) * h)
    told = len(town.events)
    for h in range(3):
        town.row("wm-3", T0 + h * H, water_volume=30.0 * h, received=T0 + 5 * H + 100 + h)
    town.until(T0 + 5 * H + 100, T0 + 6 * H)
    assert [e.area.latest for e in town.events[told:] if e.area and e.kind == "area"].count(False) >= 2
    assert town.alarms() == []


def test_household_meters_tell_nothing_in_an_open_circle(tmp_path: Path) -> None:
    town = shaft(tmp_path)
    for h in range(30):
        for name in METERS:
            town.row(name, T0 + h * H, water_volume=30.0 * h)
    mine = [e for e in town.events if e.area is None]
    assert mine and {e.visibility for e in mine} == {"personal"}


@pytest.mark.parametrize("kind", ["lot", "balance"])
def test_an_area_only_knows_its_own_nodes(tmp_path: Path, kind: str) -> None:
    town = bays(tmp_path) if kind == "lot" else shaft(tmp_path)
    stranger = next(iter(town.nodes.values()))
    assert town.city.belongs.get("aq-1") is None and town.city.belongs.get(stranger.name)

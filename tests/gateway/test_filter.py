"""What a destination may see: by visibility of node and quantity, profile, quantity and area; personal data only when it says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Filter
from gateway.core.model import Aggregate, AggregateValue, Alarm, Area, Column, Event, Node
from gateway.core.registry import ABOUT, VISIBILITIES, strictest, visibility_of
from gateway.core.value import replace
from gateway.outputs import FORMATS
from gateway.outputs.filter import Sieve
from gateway.outputs.message import Known
from tests.gateway.world import T0

NODE = Node(263, "n-263", bytes(16), profile="air_quality", visibility="open", area=("centre", "harbour"))
METER = Node(264, "n-264", bytes(16), profile="water_meter", visibility="open")
NODES = {n.id: n for n in (NODE, METER)}
AIR = Event(
    "report", "263:0:7", 263, "n-263", "open", T0 + 9.0, 600, 7, rssi=-90, snr=5.0, times=(T0, T0 + 60),
    columns=(Column("pm10", "ug/m3", (5, 8)), Column("battery_voltage", "V", (3.7, None)), Column("q99", "", (1, 2))),
    latest=((0, 1), (1, 0), (2, 1)),
)  # fmt: skip
WATER = replace(
    AIR, id="264:0:7", node=264, name="n-264",
    columns=(Column("water_volume", "l", (10.1, 10.2)), Column("water_flow-1", "l/h", (1, 2)), Column("temperature", "Cel", (9.0, 9.1))),
    latest=((0, 1), (1, 1), (2, 1)),
)  # fmt: skip


def kept(e: Event, f: Filter) -> tuple[list[str], list[str]]:
    """Return the keys of the columns, and of what is newest, that pass."""
    found = Sieve(f).narrow(e, NODES)
    if found is None:
        return [], []
    return [c.key for c in found.columns], [found.columns[c].key for c, _ in found.latest]


def test_personal_quantities_of_an_open_node_do_not_leave_by_default() -> None:
    assert kept(WATER, Filter()) == (["temperature"], ["temperature"])
    everything = Filter(visibility=frozenset(VISIBILITIES))
    assert Sieve(everything).narrow(WATER, NODES) is WATER
    seen = Sieve(Filter()).narrow(WATER, NODES)
    assert seen is not None
    text = b"".join(m.payload for form in FORMATS.values() for m in form(seen, "city", Known(nodes=NODES)))
    assert b"water" not in text and b"temperature" in text


def test_open_data_are_open_quantities_of_open_nodes() -> None:
    only = Filter(visibility=frozenset(["open"]))
    found = Sieve(only).narrow(AIR, NODES)
    assert found is not None and [c.key for c in found.columns] == ["pm10"]  # an unknown quantity is not open
    assert found.rssi is None and found.snr is None and found.latest == ((0, 1),)
    assert Sieve(only).narrow(replace(AIR, visibility="restricted"), NODES) is None


def test_the_registry_of_today_counts_for_events_of_yesterday() -> None:
    now = {263: replace(NODE, visibility="personal")}
    assert Sieve(Filter()).narrow(AIR, now) is None
    gone = Sieve(Filter()).narrow(AIR, {})
    assert gone is AIR, "a node that left the registry keeps the visibility it had"


def test_profiles_areas_and_quantities_choose() -> None:
    sieve = {
        "profile": Filter(profiles=frozenset(["noise"])), "area": Filter(areas=frozenset(["north"])),
        "quantity": Filter(quantities=frozenset(["pm25"])),
    }  # fmt: skip
    assert all(Sieve(f).narrow(AIR, NODES) is None for f in sieve.values())
    assert Sieve(Filter(profiles=frozenset(["air_quality"]))).narrow(AIR, NODES) is AIR
    assert Sieve(Filter(areas=frozenset(["harbour", "north"]))).narrow(AIR, NODES) is AIR
    assert Sieve(Filter(areas=frozenset(["harbour"]))).narrow(WATER, NODES) is None, "a node without an area is in none"
    assert kept(AIR, Filter(quantities=frozenset(["pm10"]))) == (["pm10"], ["pm10"])
    assert kept(WATER, Filter(frozenset(VISIBILITIES), quantities=frozenset(["water_flow"]))) == (
        ["water_flow-1"],
        ["water_flow-1"],
    )


def test_alarms_status_presence_and_metadata_are_narrowed_too() -> None:
    alarm = Alarm("raised", "above", "warning", "water_flow", "l/h", 2100, 2000, T0, T0, ("water_flow-above",))
    base = replace(WATER, columns=(), latest=(), times=(), rssi=None, snr=None)
    assert Sieve(Filter()).narrow(replace(base, kind="alarm", alarm=alarm), NODES) is None
    status = replace(base, kind="status", status={"uptime": 5, "battery_voltage": 370}, online=True)
    assert Sieve(Filter()).narrow(status, NODES) is status
    seen = Sieve(Filter(visibility=frozenset(["open"]))).narrow(status, NODES)
    assert seen is not None and seen.status is None and seen.online is True, (
        "health is not open data, presence of an open node is"
    )
    seen = Sieve(Filter(quantities=frozenset(["battery_voltage"]))).narrow(status, NODES)
    assert seen is not None and seen.status == {"battery_voltage": 370}
    meta = replace(base, kind="meta", meta={"id": 264, "quantities": {"water_volume": "l", "temperature": "Cel"}})
    seen = Sieve(Filter()).narrow(meta, NODES)
    assert seen is not None and seen.meta == {"id": 264, "quantities": {"temperature": "Cel"}}
    assert Sieve(Filter()).narrow(replace(meta, visibility="personal"), NODES) is None


@given(
    st.lists(st.sampled_from([*ABOUT, "pm25-1", "q77"]), max_size=6), st.sampled_from(VISIBILITIES), st.sampled_from(VISIBILITIES),
    st.sets(st.sampled_from(VISIBILITIES), min_size=1), st.sets(st.sampled_from(list(ABOUT)), max_size=4),
)  # fmt: skip
def test_nothing_passes_that_is_not_asked_for_and_nothing_else_is_lost(
    keys: list[str], event: str, node: str, visibility: set[str], quantities: set[str]
) -> None:
    columns = tuple(Column(key, "", (i,)) for i, key in enumerate(keys))
    latest = tuple((i, 0) for i in range(len(keys)))
    e = replace(AIR, visibility=event, times=(T0,), columns=columns, latest=latest)
    f = Filter(frozenset(visibility), quantities=frozenset(quantities))
    found = Sieve(f).narrow(e, {263: replace(NODE, visibility=node)})
    wanted = [
        c for c in columns
        if strictest(event, node, visibility_of(c.key)) in visibility and (not quantities or c.key.split("-")[0] in quantities)
    ]  # fmt: skip
    assert (list(found.columns) if found else []) == wanted
    assert [found.columns[c] for c, _ in found.latest] == wanted if found else not wanted


@pytest.mark.parametrize("key", ["water_volume", "water_volume-1", "water_flow"])
def test_household_water_is_personal(key: str) -> None:
    assert visibility_of(key) == "personal"


def test_aggregates_count_by_their_quantities_and_areas_by_their_own_visibility() -> None:
    values = (
        AggregateValue("laeq", "dB", 51.0, 100),
        AggregateValue("lden", "dB", 55.0, 90),
        AggregateValue("water_volume-used", "l", 5, 100),
    )
    base = replace(AIR, kind="aggregate", columns=(), latest=(), times=(), rssi=None, snr=None)
    e = replace(base, aggregates=(Aggregate("hour", T0, T0 + 3600, 1, True, values),))
    seen = Sieve(Filter(visibility=frozenset(["open"]))).narrow(e, NODES)
    assert seen is not None and [v.quantity for a in seen.aggregates for v in a.values] == ["laeq", "lden"]
    only = replace(e, aggregates=(replace(e.aggregates[0], values=values[2:]),))
    assert Sieve(Filter()).narrow(only, NODES) is None, "what a household used in an hour is personal too"
    lot = replace(base, kind="area", node=0, area=Area("centre", "lot", T0, {"free": 1}))
    assert Sieve(Filter(visibility=frozenset(["open"]))).narrow(lot, NODES) is lot
    assert Sieve(Filter(visibility=frozenset(["open"]))).narrow(replace(lot, visibility="restricted"), NODES) is None
    assert Sieve(Filter(areas=frozenset(["harbour"]))).narrow(lot, NODES) is None
    assert Sieve(Filter(profiles=frozenset(["air_quality"]))).narrow(lot, NODES) is lot
    assert Sieve(Filter(profiles=frozenset(["noise"]))).narrow(lot, NODES) is None


@pytest.mark.parametrize(
    ("quantities", "left"), [({"rssi"}, (-90, None)), ({"snr"}, (None, 5.0)), ({"rssi", "snr"}, (-90, 5.0))]
)
def test_each_number_of_the_reception_counts_by_its_own_name(
    quantities: set[str], left: tuple[int | None, float | None]
) -> None:
    seen = Sieve(Filter(quantities=frozenset(quantities))).narrow(AIR, NODES)
    assert seen is not None and (seen.rssi, seen.snr) == left and seen.columns == ()

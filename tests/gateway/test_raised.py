"""An alarm that is up ends wherever it was seen, whatever becomes of its rule, its area, its node and their circles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config import Filter
from gateway.core.model import Event, Node
from gateway.core.registry import VISIBILITIES, strictest
from gateway.core.value import replace
from gateway.outputs import FORMATS
from gateway.outputs.filter import Sieve
from gateway.outputs.message import Known
from tests.gateway.town import NO_DEFAULTS, T0, D, H, Town, config

SCHOOL = (
    '[rule.school-warning]\nquantity = "pm10"\nabove = 20\nclear = 10\nvisibility = "open"\nseverity = "emergency"\n'
)
ALL = frozenset(VISIBILITIES)
FILTERS = {
    "open": Filter(visibility=frozenset({"open"})),
    "default": Filter(),
    "everything": Filter(visibility=ALL),
    "pm10": Filter(visibility=ALL, quantities=frozenset({"pm10"})),
    "air": Filter(visibility=ALL, profiles=frozenset({"air_quality"})),
    "centre": Filter(visibility=ALL, areas=frozenset({"centre"})),
}


class Trees:
    """What is retained below `alert/` (and as NGSI-LD Alert) at outputs of several filters, each following the town's events."""

    def __init__(self) -> None:
        self.sieves = {name: Sieve(f) for name, f in FILTERS.items()}
        self.trees: dict[str, dict[str, bytes]] = {name: {} for name in FILTERS}
        self.newest: dict[tuple[str, str], float] = {}
        self.seen = 0

    def catch_up(self, town: Town) -> None:
        nodes = {n.id: n for n in town.nodes.values()}
        for e in town.events[self.seen :]:
            self.take(e, nodes)
        self.seen = len(town.events)

    def take(self, e: Event, nodes: dict[int, Node]) -> None:
        for name, sieve in self.sieves.items():
            seen = sieve.narrow(e, nodes)
            if seen is None or seen.alarm is None:
                continue
            for form in ("native", "ngsi-ld"):
                for m in FORMATS[form](seen, "city", Known(nodes=nodes)):
                    if not m.retain or not ("/alert/" in m.topic or "/Alert/" in m.topic):
                        continue
                    if (m.newest or 0) < self.newest.get((name, m.topic), 0):
                        continue  # as outputs do: nothing retained steps back
                    self.newest[name, m.topic] = m.newest or 0
                    if m.payload:
                        self.trees[name][m.topic] = m.payload
                    else:
                        self.trees[name].pop(m.topic, None)

    def native(self, name: str) -> set[str]:
        return {t.removeprefix("city/v1/") for t in self.trees[name] if "/alert/" in t}


def other(town: Town, folder: Path, text: str, nodes: Sequence[Node]) -> None:
    """A reload: other rules, other nodes, the same notes."""
    town.nodes = {n.name: n for n in nodes}
    town.restart(config(folder, text, nodes))


@pytest.fixture
def town(tmp_path: Path) -> Town:
    nodes = [Node(1, "n-1", b"", profile="air_quality", interval_s=600, visibility="open", area=("centre",))]
    return Town(tmp_path, NO_DEFAULTS + SCHOOL, nodes)


def test_a_rule_that_is_taken_out_is_cleared_with_the_words_it_was_raised_with(town: Town, tmp_path: Path) -> None:
    trees = Trees()
    town.row("n-1", T0, pm10=50)
    trees.catch_up(town)
    assert all(trees.native(name) == {"node/n-1/alert/school-warning"} for name in FILTERS)
    raised = town.last_alarm()
    other(town, tmp_path, NO_DEFAULTS, list(town.nodes.values()))
    town.tick(T0 + 10)
    trees.catch_up(town)
    cleared = town.last_alarm()
    assert all(trees.trees[name] == {} for name in FILTERS)
    assert cleared.state == "cleared" and cleared.since == raised.since and cleared.rules == ("school-warning",)
    assert (cleared.quantity, cleared.unit, cleared.severity) == ("pm10", "ug/m3", "emergency")
    assert town.events[-1].visibility == "open"
    town.row("n-1", T0 + 60, pm10=50)
    town.until(T0 + 60, T0 + 3 * H)
    assert len(town.alarms()) == 2


def test_it_ends_without_waiting_for_what_the_clock_may_conclude(tmp_path: Path) -> None:
    text = "[rules]\ndefaults = []\nsettle_s = 86400\n"
    town = Town(tmp_path, text + SCHOOL)
    town.row("n-1", T0, pm10=50)
    other(town, tmp_path, text, list(town.nodes.values()))
    town.tick(T0 + 10)
    assert town.alarms() == [("raised", "school-warning"), ("cleared", "school-warning")]


def test_alarms_of_a_node_that_leaves_are_cleared_under_its_name(town: Town, tmp_path: Path) -> None:
    trees = Trees()
    town.row("n-1", T0, pm10=50)
    town.tick(T0 + 1)
    trees.catch_up(town)
    stays = Node(2, "n-2", b"", profile="noise")
    other(town, tmp_path, NO_DEFAULTS + SCHOOL, [stays])
    town.tick(T0 + 10)
    trees.catch_up(town)
    assert all(trees.trees[name] == {} for name in FILTERS)
    assert (town.events[-1].name, town.events[-1].node) == ("n-1", 1)
    told = len(town.events)
    town.restart(config(tmp_path, NO_DEFAULTS + SCHOOL, [stays]))
    town.until(T0 + 20, T0 + H, 60)
    assert len(town.events) == told, "nothing is cleared twice"


def test_a_node_that_left_while_the_gateway_was_down_is_noticed_at_the_start(town: Town, tmp_path: Path) -> None:
    town.row("n-1", T0, pm10=50)
    town.tick(T0 + 1)
    other(town, tmp_path, NO_DEFAULTS + SCHOOL, [Node(2, "n-2", b"")])
    town.tick(T0 + D)
    assert town.alarms()[-1] == ("cleared", "school-warning")


def test_a_subject_is_listed_with_its_first_alarm_and_not_by_the_clock_after_it(town: Town, tmp_path: Path) -> None:
    town.row("n-1", T0, pm10=50)  # and the process is killed before its next tick
    other(town, tmp_path, NO_DEFAULTS + SCHOOL, [Node(2, "n-2", b"")])
    town.tick(T0 + 10)
    assert town.alarms()[-1] == ("cleared", "school-warning")


def test_faults_of_a_node_that_leaves_are_cleared_too(town: Town, tmp_path: Path) -> None:
    text = "[rules]\nsettle_s = 0\n"
    other(town, tmp_path, text, list(town.nodes.values()))
    town.follow(town.event("n-1", T0, "status", status={"sensor_faults": [4]}))
    town.tick(T0 + 1)
    other(town, tmp_path, text, [Node(2, "n-2", b"")])
    town.tick(T0 + 2)
    assert [s for s, _ in town.alarms()] == ["raised", "cleared"]


def test_a_fault_that_is_no_longer_looked_for_ends(town: Town, tmp_path: Path) -> None:
    text = "[rules]\nsettle_s = 0\n"
    other(town, tmp_path, text, list(town.nodes.values()))
    town.send("n-1", [T0 + 60 * i for i in range(80)], {"temperature": [20.0] * 80})
    assert town.alarms() == [("raised", "stuck-temperature")]
    other(town, tmp_path, text + '[fault]\nstuck = ["pm10"]\n', list(town.nodes.values()))
    town.tick(T0 + 2 * H)
    assert town.alarms()[1:] == [("cleared", "stuck-temperature")] and town.last_alarm().quantity == "temperature"


@pytest.mark.parametrize(
    ("change", "open_after"),
    [
        ({"name": "n-one"}, {"node/n-one/alert/school-warning"}),
        ({"visibility": "personal"}, set()),
        ({"area": ("harbour",)}, {"node/n-1/alert/school-warning"}),
        ({"profile": "weather"}, {"node/n-1/alert/school-warning"}),
    ],
)
def test_an_alarm_follows_its_node_to_another_name_and_circle(
    town: Town, tmp_path: Path, change: dict[str, object], open_after: set[str]
) -> None:
    trees = Trees()
    town.row("n-1", T0, pm10=50)
    trees.catch_up(town)
    node = replace(town.nodes["n-1"], **change)  # type: ignore[arg-type]
    other(town, tmp_path, NO_DEFAULTS + SCHOOL, [node])
    town.tick(T0 + 10)
    trees.catch_up(town)
    topic = f"node/{node.name}/alert/school-warning"
    assert trees.native("open") == open_after and trees.native("everything") == {topic}
    assert trees.native("centre") == ({topic} if "centre" in node.area else set())
    assert trees.native("air") == ({topic} if node.profile == "air_quality" else set())
    assert town.last_alarm().since == T0


def test_what_has_become_personal_is_cleared_without_its_value(town: Town, tmp_path: Path) -> None:
    town.row("n-1", T0, pm10=50)
    node = replace(town.nodes["n-1"], visibility="personal")
    clear = town.row("n-1", T0 + 60, pm10=3)[-1]  # made while it was open, delivered after the reload
    seen = Sieve(FILTERS["open"]).narrow(clear, {1: node})
    assert seen is not None and seen.alarm is not None and seen.alarm.value is None and seen.alarm.text is None
    assert Sieve(FILTERS["everything"]).narrow(clear, {1: node}) is clear


def test_a_rule_that_looks_at_something_else_under_its_old_name_starts_anew(town: Town, tmp_path: Path) -> None:
    town.row("n-1", T0, pm10=50)
    text = NO_DEFAULTS + SCHOOL.replace('"pm10"', '"temperature"')
    other(town, tmp_path, text, list(town.nodes.values()))
    town.tick(T0 + 10)
    assert town.alarms()[1:] == [("cleared", "school-warning")] and town.last_alarm().quantity == "pm10"
    town.row("n-1", T0 + 60, temperature=21)
    assert town.alarms()[-1] == ("raised", "school-warning") and town.last_alarm().quantity == "temperature"


def test_a_rule_that_is_widened_or_narrowed_is_seen_by_who_may_see_it_now(town: Town, tmp_path: Path) -> None:
    trees = Trees()
    town.row("n-1", T0, pm10=50)
    for visibility in ("restricted", "open", "personal"):
        other(town, tmp_path, NO_DEFAULTS + SCHOOL.replace('"open"', f'"{visibility}"'), list(town.nodes.values()))
        town.tick(T0 + 10)
        trees.catch_up(town)
        assert bool(trees.native("open")) == (visibility == "open")
        assert bool(trees.native("default")) == (visibility != "personal")


LOT = '[area.{0}]\nkind = "lot"\nnodes = ["bay-*"]\ncapacity = 3\nvisibility = "open"\n'
FULL = '[rule.{1}]\nquantity = "occupied"\naggregate = "lot"\narea = "{0}"\nabove = 1\n{2}'


@pytest.mark.parametrize(
    "after",
    [
        LOT.format("market") + FULL.format("market", "crowded", ""),  # the rule is another one
        LOT.format("square") + FULL.format("square", "full", ""),  # the area is another one
        LOT.format("market"),  # no rule
        "",  # nothing
    ],
)
def test_an_alarm_of_an_area_ends_under_the_area_it_was_raised_for(tmp_path: Path, after: str) -> None:
    nodes = [Node(i, f"bay-{i}", b"", profile="parking", visibility="open") for i in (1, 2)]
    town = Town(tmp_path, NO_DEFAULTS + LOT.format("market") + FULL.format("market", "full", ""), nodes)
    trees = Trees()
    for n in (1, 2):
        town.row(f"bay-{n}", T0 + n, occupied=1)
    town.tick(T0 + 5)
    trees.catch_up(town)
    assert trees.native("open") == {"area/market/alert/full"}
    other(town, tmp_path, NO_DEFAULTS + after, nodes)
    town.tick(T0 + 10)
    trees.catch_up(town)
    assert all("area/market/alert/full" not in trees.native(name) for name in FILTERS)
    assert not any("/node/market" in t for tree in trees.trees.values() for t in tree)
    assert (town.last_alarm().state, town.last_alarm().quantity) == ("cleared", "occupied")


def test_an_alarm_of_an_area_that_the_clock_ends_is_ended_at_the_area(tmp_path: Path) -> None:
    nodes = [Node(1, "bay-1", b"", profile="parking", visibility="open")]
    rules = LOT.format("market") + FULL.format("market", "full", 'hours = "00:00-02:00"\n').replace(
        "above = 1", "above = 0"
    )
    town = Town(tmp_path, NO_DEFAULTS + rules, nodes)
    trees = Trees()
    town.row("bay-1", T0 + 60, occupied=1)
    town.until(T0 + 60, T0 + 3 * H)
    trees.catch_up(town)
    assert town.alarms() == [("raised", "full"), ("cleared", "full")]
    assert trees.native("open") == set() and town.events[-1].area is not None


def test_one_frame_that_moves_two_areas_makes_two_alarms_of_different_ids(tmp_path: Path) -> None:
    rules = LOT.format("market") + LOT.format("square")
    rules += '[rule.full]\nquantity = "occupied"\naggregate = "lot"\narea = ["market", "square"]\nabove = 0\n'
    town = Town(tmp_path, NO_DEFAULTS + rules, [Node(1, "bay-1", b"", profile="parking")])
    made = town.row("bay-1", T0, occupied=1)
    assert [(e.area.area, e.alarm.state) for e in made if e.alarm and e.area] == [
        ("market", "raised"),
        ("square", "raised"),
    ]
    ids = [e.id for e in made]
    assert len(set(ids)) == len(ids)


def test_two_events_of_one_kind_in_one_frame_have_two_ids(town: Town) -> None:
    made = town.send("n-1", [T0, T0 + 60, T0 + 120], {"pm10": [50, 5, 50]})
    assert [e.alarm.state for e in made if e.alarm] == ["raised", "cleared", "raised"]
    assert [e.id for e in made] == [
        "1:0:1:city:school-warning",
        "1:0:1:city:school-warning:1",
        "1:0:1:city:school-warning:2",
    ]


def raise_all(tmp_path: Path) -> tuple[Town, Trees]:
    """A town in which one alarm of each kind is up: of a rule, of a fault, of an area."""
    nodes = [
        Node(1, "n-1", b"", profile="air_quality", interval_s=600, visibility="open", area=("centre",)),
        Node(2, "bay-1", b"", profile="parking", visibility="open"),
        Node(3, "bay-2", b"", profile="parking", visibility="open"),
    ]
    text = "[rules]\nsettle_s = 0\n" + SCHOOL + LOT.format("market") + FULL.format("market", "full", "")
    town, trees = Town(tmp_path, text, nodes), Trees()
    town.row("n-1", T0, pm10=50)
    town.follow(town.event("n-1", T0 + 1, "status", status={"sensor_faults": [4]}))
    for name in ("bay-1", "bay-2"):
        town.row(name, T0 + 2, occupied=1)
    town.tick(T0 + 5)
    trees.catch_up(town)
    assert len(trees.native("open")) == 3
    return town, trees


def test_without_a_rules_file_every_alarm_of_a_rule_a_fault_and_an_area_ends(tmp_path: Path) -> None:
    town, trees = raise_all(tmp_path)
    town.without_rules()
    town.tick(T0 + 10)
    trees.catch_up(town)
    assert trees.native("open") == trees.native("everything") == set()
    told = len(town.events)
    town.row("n-1", T0 + 60, pm10=50)
    town.tick(T0 + 60)
    town.without_rules()
    town.until(T0 + 60, T0 + 3 * H)
    assert len(town.events) == told, "nothing follows, and what has ended does not end again"


def test_the_rules_file_comes_back_and_alarms_are_raised_anew(tmp_path: Path) -> None:
    town, trees = raise_all(tmp_path)
    up = trees.native("open")
    town.without_rules()
    town.tick(T0 + 10)
    town.restart()
    town.tick(T0 + 20)
    town.row("n-1", T0 + 60, pm10=50)
    town.follow(town.event("n-1", T0 + 61, "status", status={"sensor_faults": [4]}))
    for t, occupied in ((T0 + 62, 0), (T0 + 63, 1)):
        for name in ("bay-1", "bay-2"):
            town.row(name, t, occupied=occupied)
    trees.catch_up(town)
    assert trees.native("open") == up


def test_a_gateway_that_never_had_rules_looks_at_one_note(tmp_path: Path) -> None:
    looked: list[str] = []

    class Notes(dict[str, bytes]):
        def __getitem__(self, key: str) -> bytes:
            looked.append(key)
            return super().__getitem__(key)

        def get(self, key: str, default: object = None) -> object:  # type: ignore[override]
            looked.append(key)
            return super().get(key, default)  # type: ignore[arg-type]

    town = Town(tmp_path, NO_DEFAULTS)
    town.store = Notes()
    town.without_rules()
    for n in range(100):
        town.row("n-1", T0 + 60 * n, pm10=50)
        town.tick(T0 + 60 * n)
    assert looked == ["city:known"] and town.events == [] and dict(town.store) == {}


def test_alarms_noted_before_names_were_remembered_end_by_their_rules_name(town: Town, tmp_path: Path) -> None:
    town.row("n-1", T0, pm10=50)
    state = msgspec.msgpack.decode(town.store["city:1"])
    del state["up"]
    state["rules"]["school-warning"] = state["rules"]["school-warning"][:7]
    town.store["city:1"] = msgspec.msgpack.encode(state)
    town.restart()
    town.row("n-1", T0 + 60, pm10=51)
    assert len(town.alarms()) == 1, "an upgrade ends nothing"
    other(town, tmp_path, NO_DEFAULTS, list(town.nodes.values()))
    town.tick(T0 + 70)
    assert town.alarms()[-1] == ("cleared", "school-warning")


def test_a_failed_commit_makes_the_review_begin_anew(town: Town, tmp_path: Path) -> None:
    town.row("n-1", T0, pm10=50)
    town.tick(T0 + 1)
    other(town, tmp_path, NO_DEFAULTS, [Node(2, "n-2", b"")])
    lost = town.city.tick(T0 + 10)
    assert [e.alarm.state for e in lost.events if e.alarm] == ["cleared"]
    town.city.load(town.store)
    town.tick(T0 + 11)
    assert town.alarms()[-1] == ("cleared", "school-warning")


STEP = st.fixed_dictionaries(
    {
        "rules": st.one_of(st.none(), st.sets(st.sampled_from(["a", "b", "c"]))),
        "rule_visibility": st.sampled_from(VISIBILITIES),
        "quantity": st.sampled_from(["pm10", "temperature"]),
        "nodes": st.sets(st.integers(1, 3)),
        "name": st.sampled_from(["n", "m"]),
        "visibility": st.sampled_from(VISIBILITIES),
        "profile": st.sampled_from(["air_quality", "weather"]),
        "area": st.sampled_from([(), ("centre",), ("harbour", "centre")]),
        "frame_first": st.booleans(),
    }
)


@given(steps=st.lists(STEP, min_size=1, max_size=6))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_any_reloads_each_output_shows_what_is_up_and_nothing_else(
    tmp_path: Path, steps: list[dict[str, object]]
) -> None:
    town, trees = Town(tmp_path, NO_DEFAULTS), Trees()
    now, circle = T0, "open"
    for s in steps:
        # a node that is shown to more than before keeps what began until then to itself: test_other_device.py
        circle = strictest(circle, s["visibility"])  # type: ignore[arg-type]
        nodes = [
            Node(
                i,
                f"{s['name']}-{i}",
                b"",
                profile=s["profile"],
                interval_s=600,
                visibility=circle,
                area=s["area"],
            )  # type: ignore[arg-type]
            for i in sorted(s["nodes"])  # type: ignore[call-overload]
        ]
        text = NO_DEFAULTS + "".join(
            f'[rule.{r}]\nquantity = "{s["quantity"]}"\nabove = 20\nclear = 10\nvisibility = "{s["rule_visibility"]}"\n'
            for r in sorted(s["rules"] or ())  # type: ignore[call-overload]
        )
        other(town, tmp_path, text, nodes)
        if s["rules"] is None:
            town.without_rules()
        for _ in (1, 2):
            now += 60
            if s["frame_first"]:
                for n in nodes:
                    town.row(n.name, now, pm10=50, temperature=50)
                town.tick(now + 5)
            else:
                town.tick(now + 5)
                for n in nodes:
                    town.row(n.name, now + 10, pm10=50, temperature=50)
        trees.catch_up(town)
        for name, f in FILTERS.items():
            expected = {
                f"node/{n.name}/alert/{r}"
                for n in nodes
                for r in s["rules"] or ()  # type: ignore[attr-defined]
                if strictest(n.visibility, s["rule_visibility"]) in f.visibility  # type: ignore[arg-type]
                and (not f.profiles or n.profile in f.profiles)
                and (not f.areas or f.areas.intersection(n.area))
                and (not f.quantities or s["quantity"] in f.quantities)
            }
            assert trees.native(name) == expected, name
    ids = [e.id for e in town.events]
    assert len(set(ids)) == len(ids)

"""Aggregates that the configuration no longer makes are over: what was published of them is emptied wherever it was seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.config import Filter
from gateway.core.current import NOTHING, Current, fold, subject_of
from gateway.core.model import Event, Node
from gateway.core.registry import VISIBILITIES
from gateway.outputs import FORMATS
from gateway.outputs.filter import Sieve
from gateway.outputs.message import Known
from gateway.outputs.records import records
from gateway.outputs.retained import Tree, shape_of
from tests.gateway.test_current import config as output
from tests.gateway.town import NO_DEFAULTS, T0, D, Town, config

FILTERS = {
    "default": Filter(),
    "everything": Filter(visibility=frozenset(VISIBILITIES)),
    "pm10": Filter(visibility=frozenset(VISIBILITIES), quantities=frozenset({"pm10"})),
    "temperature": Filter(visibility=frozenset(VISIBILITIES), quantities=frozenset({"temperature"})),
}
NODES = [Node(n, f"n-{n}", b"", profile="air_quality", interval_s=600, visibility="open") for n in (1, 2)]


def mean(*quantities: str) -> str:
    return NO_DEFAULTS + f"[aggregates]\nmean = {list(quantities)}\n".replace("'", '"')


class Trees:
    """Retained aggregates at outputs of several filters: from what was published event by event, and from the facts."""

    def __init__(self, town: Town) -> None:
        self.town, self.seen = town, 0
        self.live: dict[str, dict[str, bytes]] = {name: {} for name in FILTERS}
        self.emptied: set[tuple[str, str]] = set()
        self.facts: dict[str, Current] = {}

    def catch_up(self) -> dict[str, set[str]]:
        nodes = {n.id: n for n in self.town.nodes.values()}
        for seq, e in enumerate(self.town.events[self.seen :], self.seen + 1):
            subject = subject_of(e)
            assert subject is not None
            self.facts[subject] = fold(self.facts.get(subject, NOTHING), e, seq)
            for name, f in FILTERS.items():
                seen = Sieve(f).narrow(e, nodes)
                for m in FORMATS["native"](seen, "city", Known("gw-1", nodes, f)) if seen is not None else ():
                    if m.retain and m.payload:
                        self.live[name][m.topic] = m.payload
                    elif m.retain:
                        assert m.topic in self.live[name], "only what was published there is emptied"
                        del self.live[name][m.topic]
                        self.emptied.add((name, m.topic))
        self.seen = len(self.town.events)
        for name, f in FILTERS.items():
            tree = Tree(shape_of(output(f), "1"), "gw-1", nodes)
            desired = {t: m.payload for s, c in self.facts.items() for t, m in tree.desired(s, c, ("native",)).items()}
            assert desired == self.live[name], "facts say what the events said"
            over = {t for s, c in self.facts.items() for t in tree.over(s, c, 0)}
            assert {t for n, t in self.emptied if n == name} - desired.keys() <= over, "a broker that was away"
        return {name: {t.removeprefix("city/v1/node/") for t in live} for name, live in self.live.items()}


def two_days(town: Town, begin: int = T0) -> None:
    for n in range(6 * 48):
        t = begin + 600 * (n + 1)
        town.row("n-1", t, pm10=10, temperature=5)
        if "n-2" in town.nodes:
            town.row("n-2", t, pm10=10)
        town.tick(t + 5)


def reload(town: Town, folder: Path, text: str, nodes: Sequence[Node] = NODES) -> list[Event]:
    before = len(town.events)
    town.restart(config(folder, text, nodes))
    town.tick(T0 + 2 * D + 60)
    return town.events[before:]


@pytest.fixture
def town(tmp_path: Path) -> Town:
    town = Town(tmp_path, mean("pm10", "temperature"), NODES)
    two_days(town)
    return town


def test_a_quantity_that_is_aggregated_no_more_ends_what_was_made_of_it_alone(town: Town, tmp_path: Path) -> None:
    trees = Trees(town)
    before = trees.catch_up()
    assert before["everything"] >= {"n-1/agg/hour", "n-2/agg/hour"}
    reload(town, tmp_path, mean("temperature"))
    after = trees.catch_up()
    assert after["everything"] == {t for t in before["everything"] if t.startswith("n-1")}
    assert after["temperature"] == before["temperature"], "what it shows is made as before"
    assert not any(t.startswith("n-2") for t in after["pm10"])


def test_aggregates_that_are_taken_out_whole_end_everywhere_and_once(town: Town, tmp_path: Path) -> None:
    trees = Trees(town)
    assert trees.catch_up()["default"]
    assert reload(town, tmp_path, NO_DEFAULTS)
    assert all(not topics for topics in trees.catch_up().values())
    assert reload(town, tmp_path, NO_DEFAULTS) == []


def test_without_a_rules_file_they_end_too(town: Town) -> None:
    trees = Trees(town)
    assert trees.catch_up()["default"]
    town.without_rules()
    town.tick(T0 + 2 * D + 60)
    assert all(not topics for topics in trees.catch_up().values())
    told = len(town.events)
    town.without_rules()
    town.tick(T0 + 2 * D + 120)
    assert len(town.events) == told


def test_they_come_back_with_the_configuration(town: Town, tmp_path: Path) -> None:
    trees = Trees(town)
    before = trees.catch_up()
    reload(town, tmp_path, NO_DEFAULTS)
    trees.catch_up()
    reload(town, tmp_path, mean("pm10", "temperature"))
    two_days(town, T0 + 2 * D + 600)
    assert trees.catch_up() == before


@pytest.mark.parametrize("older", [False, True])
def test_a_start_with_the_same_configuration_ends_nothing(town: Town, tmp_path: Path, older: bool) -> None:
    assert reload(town, tmp_path, mean("pm10", "temperature")) == []
    if older:
        del town.store["city:plan"]  # as in the store of an older gateway
    assert reload(town, tmp_path, mean("temperature", "pm10")) == []


def test_a_start_with_a_configuration_that_may_be_cut_ends_nothing(town: Town, tmp_path: Path) -> None:
    cut = config(tmp_path, NO_DEFAULTS, NODES)
    before = len(town.events)
    town.restart(cut)
    town.city.whole = False
    town.tick(T0 + 2 * D + 60)
    assert town.events[before:] == []
    town.restart(cut)
    town.tick(T0 + 2 * D + 70)
    assert town.events[before:], "once it is meant"


def test_what_is_over_is_no_measurement(town: Town, tmp_path: Path) -> None:
    over = reload(town, tmp_path, NO_DEFAULTS)
    assert {e.kind for e in over} == {"aggregate"}
    assert [row for e in over for row in records(e, {})] == []
    assert len({e.id for e in town.events}) == len(town.events)


def test_the_noise_of_days_and_the_flow_of_nights_end_by_their_own_quantities(tmp_path: Path) -> None:
    nodes = [
        Node(1, "n-1", b"", profile="noise", interval_s=600, visibility="open"),
        Node(2, "n-2", b"", profile="water", interval_s=600, visibility="open"),
    ]
    noise, text = '[aggregates]\nnoise = ["laeq"]\n', 'energy = ["laeq"]\nregister = ["water_volume"]\n'
    town = Town(tmp_path, NO_DEFAULTS + noise + text, nodes)
    for n in range(6 * 60):
        t = T0 + 600 * (n + 1)
        town.row("n-1", t, laeq=50)
        town.row("n-2", t, water_volume=n)
        town.tick(t + 5)
    trees = Trees(town)
    names = trees.catch_up()["everything"]
    assert names >= {"n-1/agg/hour", "n-1/agg/noise", "n-2/agg/hour", "n-2/agg/night"}
    town.restart(config(tmp_path, NO_DEFAULTS + "[aggregates]\n" + text, nodes))
    town.tick(T0 + 3 * D)
    assert trees.catch_up()["everything"] == names - {"n-1/agg/noise"}
    town.restart(config(tmp_path, NO_DEFAULTS, nodes))
    town.tick(T0 + 3 * D + 10)
    assert trees.catch_up()["everything"] == set()

"""What has to be asked for twice: files that are cut anywhere, short of most or all, or without a line that kept something from some. At a reload
and at a start the rule is one; a start leaves as it was what it is not sure of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.asked import files_of, lacking, stored, was_of
from gateway.config import Config, ConfigError, MqttOutputConfig, load
from gateway.config.seen import begins, count, lines_of
from gateway.core.model import PERSONAL
from gateway.core.registry import VISIBILITIES, strictest
from gateway.core.shape import Entry
from gateway.core.value import replace
from gateway.outputs.mqtt import place_of
from gateway.reload import SURE_S
from gateway.store.ledger import Place
from gateway.withheld import Shrunk, areas_of
from tests.gateway.test_reloads import Lab
from tests.gateway.world import Mote

NODES = "".join(
    f'[[node]]\nid = {263 + n}\nname = "air-{n}"\nkey = "{Mote(263 + n).key.hex()}"\nprofile = "air_quality"\ninterval_s = 60{n}\n'
    f'lat = 45.5{n}\nlon = 13.7\narea = "centre"\nvisibility = "{circle}"\n\n'
    for n, circle in enumerate(("open", "personal", "restricted", "personal"))
)
RULES = (
    '[rules]\ndefaults = ["eaqi"]\n\n[area.park]\nkind = "lot"\nnodes = ["air-0", "air-2"]\ncapacity = 2\nvisibility = "personal"\n\n'
    '[rule.hot]\nquantity = "temperature"\nabove = 30\nclear = 29\narea = ["centre"]\nvisibility = "personal"\n'
    '[rule.cold]\nquantity = "temperature"\nbelow = 1\nclear = 2\nvisibility = "restricted"\n'
)
OUTPUTS = {
    "city": 'root = "town"\nformats = ["native"]\nvisibility = ["open"]\n',
    "portal": 'root = "portal"\nformats = ["ngsi-ld", "native"]\nprofiles = ["air_quality"]\nquantities = ["pm10", "humidity"]\nareas = ["centre"]\n',
}


def outputs(which: dict[str, str]) -> str:
    return "".join(f'[output.{name}]\nkind = "mqtt"\nbroker = "127.0.0.1:1"\n{keys}\n' for name, keys in which.items())


def head(rules: bool = True) -> str:
    line = 'rules = "rules.toml"\n' if rules else ""
    return f'[gateway]\nid = "gw-1"\nregistry = "nodes.toml"\n{line}\n[link.lora]\nkind = "udp-forwarder"\nbind = "127.0.0.1:0"\n\n'


WHOLE = {"nodes.toml": NODES, "rules.toml": RULES, "gateway.toml": head() + outputs(OUTPUTS)}


FILES = (("registry", "nodes.toml"), ("rules", "rules.toml"), ("configuration", "gateway.toml"))
LINES = {kind: lines_of(WHOLE[file].encode()) for kind, file in FILES}


def write(folder: Path, **texts: str) -> Path:
    for name, text in {**WHOLE, **{f"{k}.toml": v for k, v in texts.items()}}.items():
        (folder / name).write_text(text)
    return folder / "gateway.toml"


class Books:
    """The ledger of a gateway that ran with a configuration."""

    def __init__(self, c: Config) -> None:
        self.c, self.note = c, was_of(c, LINES).stored()

    def registry(self) -> dict[int, Entry]:
        return {n: Entry.of(node) for n, node in self.c.nodes.items()}

    def areas(self) -> dict[str, Entry]:
        return areas_of(self.c, self.c.nodes)

    def places(self) -> dict[str, tuple[int, Place]]:
        return {p.key: (1, p) for o in self.c.outputs if isinstance(o, MqttOutputConfig) for p in [place_of(o)]}

    def configured(self) -> bytes | None:
        return self.note


def start(file: Path, before: Config, accept: bool = False) -> tuple[Shrunk, Config]:
    made = Shrunk()
    ledger: Any = Books(before)
    return made, made.look(load(file), ledger, accept)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    import asyncio

    made = Lab(tmp_path)
    write(tmp_path)
    made.config = load(made.file)
    made.reloads._shrunk.was = was_of(made.config, files_of(made.config))
    task = asyncio.create_task(made.reloads.run())
    yield made
    task.cancel()


def narrower(o: MqttOutputConfig, before: MqttOutputConfig) -> bool:
    """True when an output shows nothing that it did not show before, in the same places."""
    f, g = o.filter, before.filter
    same = (o.root, o.formats, o.discovery) == (before.root, before.formats, before.discovery)
    return same and f.visibility <= g.visibility and all(
        not getattr(g, k) or getattr(f, k) and getattr(f, k) <= getattr(g, k) for k in ("profiles", "quantities", "areas")
    )  # fmt: skip


def cuts() -> st.SearchStrategy[tuple[str, int]]:
    return st.sampled_from(sorted(WHOLE)).flatmap(lambda f: st.tuples(st.just(f), st.integers(0, len(WHOLE[f]) - 1)))


@given(cuts(), st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_that_is_cut_anywhere_takes_nothing_away_and_shows_nothing_to_more(
    tmp_path: Path, cut: tuple[str, int], at_line: bool
) -> None:
    file = write(tmp_path)
    before = load(file)
    name, at = cut
    text = WHOLE[name][:at]
    (tmp_path / name).write_text(text[: text.rfind("\n") + 1] if at_line else text)
    try:
        after = load(file)
    except ConfigError:
        return  # refused whole
    # a reload: nothing has changed, or it is asked for twice
    assert after == before or lacking(was_of(before, LINES), after, files_of(after))
    # a start
    shrunk, c = start(file, before)
    whole = shrunk.whole(c.nodes)
    assert {n: Entry.of(node) for n, node in whole.items()} == {n: Entry.of(node) for n, node in before.nodes.items()}
    kept = {o.name: o for o in c.outputs if isinstance(o, MqttOutputConfig)}
    for o in before.outputs:
        assert isinstance(o, MqttOutputConfig)
        assert narrower(kept[o.name], o) if o.name in kept else place_of(o).key in shrunk.places
    assert sorted(shrunk.outputs(c)) == sorted(o.name for o in before.outputs), "what waits for them waits"
    assert before.rules is not None
    now = set() if c.rules is None else set(c.rules.own)
    assert shrunk.rules or now == set(before.rules.own)
    assert shrunk.gathered(c) == areas_of(before, before.nodes)
    for was, is_ in (
        (before.rules.rules, c.rules.rules if c.rules else ()),
        (before.rules.areas, c.rules.areas if c.rules else ()),
    ):
        for x in is_:
            old = next((y.visibility for y in was if y.name == x.name), None)
            assert old is None or x.visibility is not None and strictest(x.visibility, old) == x.visibility
    assert after in (before, c) or bool([*shrunk.problems()])


GONE = {
    "most nodes": {"nodes": NODES[: NODES.index("[[node]]", 10)]},
    "all rules": {"rules": '[rules]\ndefaults = ["eaqi"]\n'},
    "the line of the rules": {"gateway": head(rules=False) + outputs(OUTPUTS)},
    "a filter line": {"gateway": head() + outputs({**OUTPUTS, "city": 'root = "town"\nformats = ["native"]\n'})},
    "a line of profiles": {
        "gateway": head()
        + outputs({**OUTPUTS, "portal": OUTPUTS["portal"].replace('profiles = ["air_quality"]\n', "")})
    },
    "a line of quantities": {
        "gateway": head()
        + outputs({**OUTPUTS, "portal": OUTPUTS["portal"].replace('quantities = ["pm10", "humidity"]\n', "")})
    },
    "a circle of a rule": {
        "rules": RULES.replace('area = ["centre"]\nvisibility = "personal"\n', 'area = ["centre"]\n')
    },
    "a circle of an area": {"rules": RULES.replace('capacity = 2\nvisibility = "personal"\n', "capacity = 2\n")},
    "a circle of a node": {"nodes": NODES.replace('visibility = "personal"\n', "", 1)},
    "the last output": {"gateway": head() + outputs({"city": OUTPUTS["city"]})},
    "the last node": {"nodes": NODES[: NODES.rindex("[[node]]")]},
    "the last rule": {"rules": RULES[: RULES.rindex("[rule.")]},
}


@pytest.mark.parametrize("what", GONE)
async def test_a_reload_that_lacks_something_is_asked_for_twice(lab: Lab, what: str) -> None:
    write(lab.folder, **GONE[what])
    (problem,) = await lab.ask()
    assert "gone from it" in problem and lab.applied == []
    lab.now += SURE_S
    assert await lab.ask() == [] and lab.applied == [load(lab.file)]
    write(lab.folder)
    assert await lab.ask() == [], "what comes back comes at once"


@pytest.mark.parametrize("what", GONE)
def test_a_start_that_lacks_something_says_so_until_it_is_accepted_or_asked_for(tmp_path: Path, what: str) -> None:
    before = load(write(tmp_path))
    file = write(tmp_path, **GONE[what])
    shrunk, c = start(file, before)
    (problem,) = shrunk.problems()
    assert problem.code == "registry_shrunk" and "are gone from it" in problem.text and "--accept" in problem.next
    for o in c.outputs:
        (was,) = (x for x in before.outputs if x.name == o.name)
        assert isinstance(o, MqttOutputConfig) and isinstance(was, MqttOutputConfig) and narrower(o, was)
    assert shrunk.allows(load(file)), "a reload with the files as they are"
    assert not shrunk.allows(before) and not lacking(shrunk.was, before, files_of(load(write(tmp_path))))
    shrunk, c = start(write(tmp_path, **GONE[what]), before, accept=True)
    assert (
        not [*shrunk.problems()] and c == load(file) and not shrunk.missing and not shrunk.places and not shrunk.rules
    )


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("kind", ["nodes", "entries", "outputs"])
def test_a_small_city_that_loses_all_it_had_is_asked(tmp_path: Path, kind: str, n: int) -> None:
    few = {
        "nodes": {"nodes": NODES[: [NODES.index("[[node]]", i) for i in (10, NODES.index("[[node]]", 10) + 1)][n - 1]]},
        "entries": {"rules": "".join(f'[rule.r{i}]\nquantity = "pm10"\nabove = 9{i}\nclear = 8\n' for i in range(n))},
        "outputs": {"gateway": head() + outputs({f"o{i}": f'root = "r{i}"\n' for i in range(n)})},
    }[kind]
    c = load(write(tmp_path, **few))
    was = was_of(c, {})
    empty = {
        "nodes": replace(c, nodes={}),
        "entries": replace(c, rules=None),
        "outputs": replace(c, outputs=()),
    }[kind]
    (found,) = lacking(was, empty, {})
    assert (found.what, found.gone, found.of) == (kind, n, n)
    assert not lacking(was, c, {})


def test_what_is_opened_or_taken_out_in_so_many_words_is_asked_once(tmp_path: Path) -> None:
    before = load(write(tmp_path))
    was = was_of(before, files_of(before))
    for texts in (
        {"nodes": NODES.replace('"personal"', '"open"')},
        {"nodes": NODES[NODES.index("[[node]]", 10) :]},
        {"rules": RULES.replace('"personal"', '"open"')},
        {
            "gateway": head()
            + outputs({**OUTPUTS, "city": OUTPUTS["city"].replace('["open"]', '["open", "restricted"]')})
        },
        {"gateway": head() + outputs({"portal": OUTPUTS["portal"]})},
    ):
        after = load(write(tmp_path, **texts))
        assert after != before and not lacking(was, after, files_of(after))


@given(st.binary(max_size=60), st.binary(max_size=20))
def test_a_beginning_is_known_by_its_lines(text: bytes, more: bytes) -> None:
    lines, whole = lines_of(text), lines_of(text + more)
    assert count(lines) == len([x for x in text.split(b"\n") if x.strip()])
    assert begins(whole, lines) == (
        count(whole) > count(lines) or bool(more.split(b"\n")[0].strip()) and whole != lines
    )
    assert not begins(lines, whole) or not text.endswith(b"\n")


@pytest.mark.parametrize("body", [None, b"", b"\xff" * 9, b"\x81\xa7entries\x05"])
def test_a_store_that_has_noted_nothing_knows_the_nodes(body: bytes | None) -> None:
    was = stored(body, {263: PERSONAL})
    assert was.nodes == {263: PERSONAL} and not was.files and PERSONAL in VISIBILITIES

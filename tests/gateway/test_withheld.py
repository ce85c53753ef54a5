"""What a start with files that are cut leaves as it was: what waits for outputs of every kind, areas, keys, numbers that lost digits; and that
what is compared is what was read, whoever writes the files meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import followers, reload
from gateway.asked import files_of, lacking, stored, was_of
from gateway.config import Config, ConfigError, load
from gateway.config.store import StoreConfig
from gateway.core.city import City
from gateway.core.model import Node, NodeState
from gateway.reload import SURE_S
from gateway.store.sqlite import SqliteEngine
from gateway.withheld import Shrunk
from tests.gateway.test_asked import Books
from tests.gateway.test_reloads import MOTES, Lab
from tests.gateway.test_store import write
from tests.gateway.town import NO_DEFAULTS, T0, Town
from tests.gateway.world import Mote

HEAD = '[gateway]\nid = "gw-1"\nregistry = "nodes.toml"\nrules = "rules.toml"\n\n[link.lora]\nkind = "udp-forwarder"\nbind = "127.0.0.1:0"\n\n'
CITY = '[output.city]\nkind = "mqtt"\nbroker = "127.0.0.1:1"\nroot = "town"\n\n'
ARCHIVE = '[output.archive]\nkind = "files"\nfolder = "archive"\nformats = ["jsonl"]\n\n'
UTILITY = '[output.utility]\nkind = "ngsi-ld-http"\nurl = "http://127.0.0.1:1"\ntenant = "water"\nbatch = 200\n'
KEYS = [Mote(263 + n).key.hex() for n in range(4)]


def entry(n: int, *more: str) -> str:
    lines = (f"id = {263 + n}", f'name = "air-{n}"', f'key = "{KEYS[n]}"', 'area = "park"', *more)
    return "[[node]]\n" + "".join(f"{line}\n" for line in lines) + "\n"


NODES = "".join(entry(n, f"lat = 45.{n}1", "lon = 13.7", "interval_s = 600") for n in range(4))
LIMITS = (
    '[rules]\ndefaults = []\n\n[area.park]\nkind = "lot"\nnodes = ["air-0"]\ncapacity = 120\n\n'
    '[rule.wet]\nquantity = "humidity"\nabove = 95\nclear = 90\n\n[rule.hot]\nquantity = "temperature"\nclear = 28\nabove = 300\n'
)


def written(
    folder: Path, nodes: str = NODES, rules: str = LIMITS, gateway: str = HEAD + CITY + ARCHIVE + UTILITY
) -> Path:
    for name, text in (("nodes", nodes), ("rules", rules), ("gateway", gateway)):
        (folder / f"{name}.toml").write_text(text)
    return folder / "gateway.toml"


class Notes(Books):
    """The ledger of a gateway that ran with these files."""

    def __init__(self, c: Config) -> None:
        super().__init__(c)
        self.note = was_of(c, files_of(c)).stored()


def begin(file: Path, before: Config, known: dict[int, NodeState] | None = None) -> tuple[Shrunk, Config]:
    made, ledger = Shrunk(), Notes(before)
    look: Any = made.look
    return made, look(load(file), ledger, False, lambda _numbers: known or {})


# outputs


@pytest.mark.parametrize("left", [CITY + ARCHIVE, CITY])
def test_an_output_of_any_kind_that_a_cut_file_has_lost_is_withheld_and_named(tmp_path: Path, left: str) -> None:
    before = load(written(tmp_path))
    shrunk, c = begin(written(tmp_path, gateway=HEAD + left), before)
    assert sorted(shrunk.outputs(c)) == ["archive", "city", "utility"]
    (problem,) = shrunk.problems()
    assert problem.code == "registry_shrunk" and "utility" in problem.text
    again = stored(shrunk.was.stored(), {})
    assert again.outputs.keys() == {"archive", "city", "utility"}, "the next start is held against the same"


@given(st.integers(len(HEAD) + len(CITY), len(HEAD + CITY + ARCHIVE + UTILITY) - 1))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_wherever_the_configuration_is_cut_each_output_works_as_it_did_or_waits(tmp_path: Path, at: int) -> None:
    before = load(written(tmp_path))
    try:
        shrunk, c = begin(written(tmp_path, gateway=(HEAD + CITY + ARCHIVE + UTILITY)[:at]), before)
    except ConfigError:
        return
    assert sorted(shrunk.outputs(c)) == sorted(o.name for o in before.outputs)
    assert set(c.outputs) <= set(before.outputs)


def test_an_output_that_lost_its_certificates_waits(tmp_path: Path) -> None:
    """Without `ca_file` it would log in at the same place in plain text."""
    (tmp_path / "ca.pem").write_text("ca")
    city = CITY.rstrip() + '\nusername = "gw-1"\n'
    before = load(written(tmp_path, gateway=HEAD + ARCHIVE + city + 'ca_file = "ca.pem"\n'))
    shrunk, c = begin(written(tmp_path, gateway=HEAD + ARCHIVE + city), before)
    assert [o.name for o in c.outputs] == ["archive"] and sorted(shrunk.outputs(c)) == ["archive", "city"]


async def test_what_waits_for_an_output_that_is_withheld_stays_however_old_it_is(tmp_path: Path) -> None:
    before = load(written(tmp_path))
    shrunk, c = begin(written(tmp_path, gateway=HEAD + CITY), before)
    engine = SqliteEngine(tmp_path / "g.db", ("city",), StoreConfig(spool_hours=1, reserve_mb=0), lambda: float(T0))
    try:
        engine.use_outputs(shrunk.outputs(c))
        for n in range(5):
            await engine.commit([write(n)])
        await engine.ack("city", engine.newest())

        async def left() -> int:
            while await engine.purge(T0 + 10 * 86_400.0):
                pass
            return len(engine.fetch(0, 100))

        assert await left() == 5
        engine.use_outputs(["city"])  # asked for again: it is to go
        await engine.ack("city", engine.newest())
        assert await left() == 0
    finally:
        engine.close()


async def test_other_limits_of_the_store_hold_from_the_next_look(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "g.db", ("city",), StoreConfig(reserve_mb=0, spool_hours=500), lambda: float(T0))
    try:
        await engine.commit([write(1)])
        await engine.ack("city", engine.newest())
        for hours, left in ((500, 1), (1, 0)):
            engine.use_limits(StoreConfig(reserve_mb=0, spool_hours=hours))
            while await engine.purge(T0 + 10 * 86_400.0):
                pass
            assert len(engine.fetch(0, 100)) == left
    finally:
        engine.close()


@pytest.mark.parametrize("last", ["archive", "utility"])
def test_a_start_that_was_meant_keeps_nothing_for_what_has_gone(tmp_path: Path, last: str) -> None:
    gateway = HEAD + CITY + (ARCHIVE if last == "archive" else UTILITY)
    before = load(written(tmp_path, gateway=gateway))
    made = Shrunk()
    ledger: Any = Notes(before)
    c = made.look(load(written(tmp_path, gateway=HEAD + CITY)), ledger, True)
    assert list(made.outputs(c)) == ["city"] and not [*made.problems()]


# what is compared is what was read


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    made = Lab(tmp_path)
    task = asyncio.create_task(made.reloads.run())
    yield made
    assert not task.done()
    task.cancel()


async def test_a_file_that_is_completed_while_it_is_read_is_judged_by_what_was_read(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editor: half of it is there when it is parsed, all of it a moment later."""

    def read(file: Path) -> Config:
        lab.nodes(MOTES[:9])
        made = load(file)
        lab.nodes(MOTES)
        return made

    monkeypatch.setattr(reload, "load", read)
    assert await lab.ask() != [] and lab.applied == []
    monkeypatch.setattr(reload, "load", load)
    assert await lab.ask() == [] and len(lab.config.nodes) == 10


async def test_a_half_read_file_is_not_confirmed_by_a_whole_one_with_the_times_of_before(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cp -p` and `rsync -t` write the old time: twice read in the middle of that, it is two writes all the same."""
    file = lab.folder / "nodes.toml"
    lab.nodes(MOTES)
    times = file.stat()

    def read(path: Path) -> Config:
        lab.nodes(MOTES[:2])
        made = load(path)
        lab.nodes(MOTES)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        return made

    monkeypatch.setattr(reload, "load", read)
    assert await lab.ask() != []
    lab.now += SURE_S
    assert await lab.ask() != [] and lab.applied == []


async def test_a_file_that_was_written_while_it_was_read_confirms_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gateway.config import seen

    lab.nodes(MOTES[:2])
    stamps = [(1, 0, 0, 9), (1, 5, 5, 9)] * 2  # of two files, each before and after it is read
    monkeypatch.setattr(seen, "_stamp", lambda _f: stamps.pop(0))
    assert await lab.ask() != []
    monkeypatch.setattr(seen, "_stamp", lambda _f: (1, 5, 5, 9))
    lab.now += SURE_S
    assert await lab.ask() != [] and lab.applied == []
    lab.now += SURE_S
    assert await lab.ask() == []


def test_a_start_is_held_against_the_lines_that_it_was_made_of(tmp_path: Path) -> None:
    before = load(written(tmp_path))
    c = load(written(tmp_path, nodes=NODES[: NODES.rindex("[[node]]")]))
    written(tmp_path)  # whole again before the store is open
    made, ledger = Shrunk(), Notes(before)
    look: Any = made.look
    look(c, ledger, False)
    assert made.missing.keys() == {266} and [p.code for p in made.problems()] == ["registry_shrunk"]


# a last line that has no end


@pytest.mark.parametrize("more", ["", "\n"])
@pytest.mark.parametrize("tail", ["interval_s = 6", "interval_s = 60", "interv"])
def test_a_last_line_without_its_end_may_be_cut_too(tmp_path: Path, tail: str, more: str) -> None:
    nodes = NODES.rstrip() + more
    before = load(written(tmp_path, nodes=nodes))
    file = written(tmp_path, nodes=nodes[: nodes.rindex("interval_s")] + tail)
    try:
        after = load(file)
    except ConfigError:
        return
    assert lacking(was_of(before, files_of(before)), after, files_of(after))
    shrunk, c = begin(file, before)
    assert 266 not in c.nodes and shrunk.whole(c.nodes)[266].interval_s == 600


@pytest.mark.parametrize("more", ["", "\n", "\n\n"])
def test_the_end_of_a_last_line_may_come_and_go(tmp_path: Path, more: str) -> None:
    for first, then in ((NODES.rstrip(), NODES.rstrip() + more), (NODES.rstrip() + more, NODES.rstrip())):
        before = load(written(tmp_path, nodes=first))
        after = load(written(tmp_path, nodes=then))
        assert not lacking(was_of(before, files_of(before)), after, files_of(after))
        shrunk, c = begin(tmp_path / "gateway.toml", before)
        assert not [*shrunk.problems()] and c == after


# numbers and lines that the last entry has lost


@pytest.mark.parametrize("end", ["above = 30", "above = 3", "above = 300"])
def test_a_rule_that_may_have_lost_digits_concludes_nothing(tmp_path: Path, end: str) -> None:
    before = load(written(tmp_path))
    rules = LIMITS[: LIMITS.rindex("above")] + end
    shrunk, c = begin(written(tmp_path, rules=rules.replace("clear = 28\n", "") if "300" not in end else rules), before)
    assert c.rules is not None
    names = [r.name for r in c.rules.rules]
    assert names == (["wet", "hot"] if "300" in end else ["wet"])
    assert shrunk.rules == ("300" not in end), "alarms that are up stay"


def test_a_cut_rule_is_left_out_and_an_area_keeps_its_capacity(tmp_path: Path) -> None:
    text = LIMITS[LIMITS.index("[rule.") :] + LIMITS[: LIMITS.index("[rule.")].rstrip()
    before = load(written(tmp_path, rules=text))
    file = written(tmp_path, rules=text[:-1])
    assert load(file).rules.areas[0].capacity == 12  # type: ignore[union-attr]
    shrunk, c = begin(file, before)
    assert c.rules is not None and [a.capacity for a in c.rules.areas] == [] and len(c.rules.rules) == 2
    assert shrunk.areas.keys() == {"park"}, "what is published of it stays"


STORE = "[store]\nspool_hours = 240\nrows_days = 4000\n"


@pytest.mark.parametrize("cut", [1, 2, 4, len("rows_days = 4000\n"), len(STORE)])
def test_a_store_drops_nothing_for_a_line_that_is_cut(tmp_path: Path, cut: int) -> None:
    text = HEAD + CITY + STORE
    before = load(written(tmp_path, gateway=text))
    try:
        shrunk, c = begin(written(tmp_path, gateway=text[:-cut]), before)
    except ConfigError:
        return
    assert c.keep == before.keep
    assert cut == 1 or [p.code for p in shrunk.problems()] == ["registry_shrunk"]


PEOPLE = (
    '[commands]\noutput = "city"\n[commands.requester.ana]\nroles = ["water"]\n'
    '[commands.role.water]\ncommands = ["*"]\nnodes = ["w-*"]\nlongest_s = 3600\n'
)


def test_a_role_that_lost_its_limits_may_order_nothing(tmp_path: Path) -> None:
    text = HEAD + CITY + PEOPLE
    before = load(written(tmp_path, gateway=text))
    for left in ('commands = ["*"]\n', 'nodes = ["w-*"]\n', "longest_s = 360"):
        shrunk, c = begin(written(tmp_path, gateway=text[: text.index(left) + len(left)]), before)
        assert c.commands is not None and c.commands.policy.requesters == {} and [*shrunk.problems()]
    _, c = begin(written(tmp_path, gateway=text), before)
    assert c.commands == before.commands


def test_without_the_output_that_people_ask_through_nothing_can_be_asked(tmp_path: Path) -> None:
    """[commands] stands before the output that is cut."""
    text = HEAD + PEOPLE + ARCHIVE + CITY
    before = load(written(tmp_path, gateway=text))
    shrunk, c = begin(written(tmp_path, gateway=text[: text.index("root")]), before)
    assert [o.name for o in c.outputs] == ["archive"] and c.commands is not None and c.asked_through() is None
    assert before.asked_through() is not None and [*shrunk.problems()]


# keys and areas of nodes


def test_a_node_whose_epoch_is_cut_off_is_missing_and_not_forged(tmp_path: Path) -> None:
    """Epochs 0 and 4 share a slot: its frames of 4 would be bad_tag, one after the other."""
    text = NODES + '[[node]]\nid = 300\nname = "late"\nkey = "' + "ab" * 8 + "cd" * 8 + '"\nepoch = 4\n'
    before = load(written(tmp_path, nodes=text))
    state = NodeState(epoch=4).proven(4, before.nodes[300].key)
    known = {300: state}
    shrunk, c = begin(written(tmp_path, nodes=text[: text.rindex("epoch")]), before, known)
    assert 300 not in c.nodes and shrunk.missing.keys() == {300}
    shrunk, c = begin(written(tmp_path, nodes=text), before, known)
    assert 300 in c.nodes and not [*shrunk.problems()]
    shrunk, c = begin(written(tmp_path, nodes=text[: text.rindex("[[node]]")]), before, known)
    assert c.nodes.keys() == {263, 264, 265, 266}, "those that are whole work"


def test_an_epoch_to_come_that_is_cut_off_is_offered_to_no_node(tmp_path: Path) -> None:
    text = NODES + entry(3).replace("266", "300").replace("air-3", "late").replace(KEYS[3], "cd" * 8 + "ab" * 8)
    text += f'epoch = 1\nnext_key = "{"ef" * 8 + "ab" * 8}"\nnext_epoch = 3\n'
    before = load(written(tmp_path, nodes=text))
    shrunk, c = begin(written(tmp_path, nodes=text[: text.rindex("next_epoch")]), before)
    assert load(tmp_path / "gateway.toml").nodes[300].next_epoch == 2, "the default"
    assert 300 not in c.nodes and 300 in shrunk.missing


def test_a_car_park_counts_what_it_counted_while_nodes_are_withheld(tmp_path: Path) -> None:
    """Bays that belong to it by their own line `area` are in no file any more."""
    nodes = NODES.replace('area = "park"\n', 'area = "park"\nprofile = "parking"\n')
    before = load(written(tmp_path, nodes=nodes))
    (tmp_path / "town").mkdir()
    town = Town(tmp_path / "town", LIMITS, list(before.nodes.values()))
    for n in range(4):
        town.row(f"air-{n}", T0 + n, occupied=1)
    town.tick(T0 + 10)
    told = len(town.events)
    shrunk, c = begin(written(tmp_path, nodes=nodes[: nodes.index("[[node]]", 9)]), before)
    assert c.nodes.keys() == {263} and shrunk.missing.keys() == {264, 265, 266}
    (follower,) = followers.build(c.rules, shrunk.whole(c.nodes))
    assert isinstance(follower, City)
    town.city = follower
    follower.load(town.store)
    town.tick(T0 + 20)
    assert [e.area.body for e in town.events[told:] if e.area is not None] == []
    town.row("air-0", T0 + 30, occupied=0)
    assert town.events[-1].area is not None and town.events[-1].area.body["occupied"] == 3


def test_alarms_raised_while_rules_are_withheld_end_with_a_node_that_leaves(tmp_path: Path) -> None:
    node = Node(1, "n-1", b"", profile="air_quality", interval_s=600, visibility="open")
    town = Town(tmp_path, NO_DEFAULTS + '[rule.hot]\nquantity = "temperature"\nabove = 30\nclear = 20\n', [node])
    town.city.whole = False
    town.row("n-1", T0, temperature=40)
    assert town.alarms() == [("raised", "hot")]
    town.nodes = {}
    town.restart()
    town.tick(T0 + 10)
    assert town.alarms() == [("raised", "hot"), ("cleared", "hot")]


def test_the_line_of_an_empty_file_of_rules_that_is_cut_off_ends_no_alarm(tmp_path: Path) -> None:
    head = HEAD[HEAD.index("[link") :] + CITY + '[gateway]\nid = "gw-1"\n'
    before = load(written(tmp_path, rules="", gateway=head + 'rules = "rules.toml"\n'))
    shrunk, c = begin(written(tmp_path, rules="", gateway=head), before)
    assert c.rules is None and shrunk.rules, "what shipped rules have raised stays up"

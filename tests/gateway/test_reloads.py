"""A reload is put in force whole, or refused and visible; no file ends the gateway's ability to reload."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway import reload
from gateway.config import Config, ConfigError, load
from gateway.links.link import LinkError
from gateway.metrics import Metrics
from gateway.reload import SURE_FOR_S, SURE_S, Reloads
from tests.gateway.world import Mote, registry, toml_of

MOTES = [Mote(300 + n) for n in range(10)]


class Lab:
    """Reloads with a configuration on disk. applied: what was put in force. now: seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = toml_of(folder, ("127.0.0.1", 1), MOTES)
        self.config = load(self.file)
        self.metrics, self.said, self.applied = Metrics(), [], []  # type: ignore[var-annotated]
        self.reports: list[list[tuple[str, str]]] = []
        self.now, self.fails = 0.0, None  # type: ignore[var-annotated]
        self.reloads = Reloads(
            self.metrics, lambda: self.config, self._apply, self.said.append, lambda: "3 nodes",
            lambda _began, mistakes: self.reports.append(mistakes), lambda: self.now,
        )  # fmt: skip

    async def _apply(self, c: Config) -> None:
        if self.fails is not None:
            raise self.fails
        self.config = c
        self.applied.append(c)

    async def ask(self) -> list[str]:
        """Ask for a reload and return the problems after it."""
        before = len(self.said)
        self.reloads.want()
        async with asyncio.timeout(60):
            while len(self.said) == before or not self.said[-1].startswith("READY=1"):
                await asyncio.sleep(0.01)
        return [p.text for p in self.reloads.problems()]

    def nodes(self, motes: list[Mote]) -> None:
        (self.folder / "nodes.toml").write_text(registry(motes))


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    made = Lab(tmp_path)
    task = asyncio.create_task(made.reloads.run())
    yield made
    assert not task.done(), "it still serves"
    task.cancel()


async def test_the_log_says_how_a_reload_ended_before_ready_does(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread writes the log; who waits for READY reads it right after."""

    class Log(io.StringIO):
        def flush(self) -> None:
            lab.said.append("flushed")

    monkeypatch.setattr(sys, "stderr", Log())
    for change in (lambda: None, lambda: deep(lab.folder)):
        change()
        await lab.ask()
        assert [s.partition("=")[0] for s in lab.said[-3:]] == ["RELOADING", "flushed", "READY"]


def deep(folder: Path) -> None:
    (folder / "nodes.toml").write_text("a = " + "[" * 5000 + "]" * 5000)


def binary(folder: Path) -> None:
    (folder / "nodes.toml").write_bytes(os.urandom(1000))


def half(folder: Path) -> None:
    file = folder / "nodes.toml"
    file.write_text(file.read_text()[:-30])


def folder_instead(folder: Path) -> None:
    (folder / "nodes.toml").unlink()
    (folder / "nodes.toml").mkdir()


def nothing(folder: Path) -> None:
    (folder / "nodes.toml").unlink()


def deep_rules(folder: Path) -> None:
    (folder / "rules.toml").write_text("a = " + "[" * 5000 + "]" * 5000)
    file = folder / "gateway.toml"
    file.write_text(file.read_text().replace('id = "gw-1"', 'id = "gw-1"\nrules = "rules.toml"'))


def config_itself(folder: Path) -> None:
    (folder / "gateway.toml").write_text("[" * 9000)


@pytest.mark.parametrize("spoil", [deep, binary, half, folder_instead, nothing, deep_rules, config_itself])
async def test_whatever_is_in_a_file_the_old_configuration_stays_and_the_next_reload_works(
    lab: Lab, spoil: Callable[[Path], None]
) -> None:
    kept = {f: f.read_text() for f in lab.folder.iterdir() if f.suffix == ".toml"}
    spoil(lab.folder)
    (problem,) = await lab.ask()
    assert "not in force" in problem and lab.applied == [] and lab.reports[-1]
    assert [s.split("=")[0] for s in lab.said] == ["RELOADING", "READY"]
    assert lab.metrics.totals["reloads_refused"] == 1
    for f, text in kept.items():
        if f.is_dir():
            f.rmdir()
        f.write_text(text)
    assert await lab.ask() == [] and len(lab.applied) == 1 and lab.reports[-1] == []


@pytest.mark.parametrize(
    "error", [LinkError("port taken"), ConfigError("no", "do"), ValueError("of ours 'hunter22'"), RecursionError()]
)
async def test_an_error_while_it_is_put_in_force_is_told_and_the_next_reload_works(lab: Lab, error: Exception) -> None:
    lab.fails = error
    (problem,) = await lab.ask()
    ours = not isinstance(error, (LinkError, ConfigError))
    assert ("in force in part only" in problem) == ours and "hunter22" not in problem
    assert lab.metrics.refused["internal"] == ours and lab.said[-1].startswith("READY=1")
    lab.fails = None
    assert await lab.ask() == []


@pytest.mark.parametrize(
    "error", [ValueError("quotes 'hunter22'"), MemoryError(), AssertionError(), OSError(5, "I/O error")], ids=repr
)
async def test_whatever_a_reader_raises_is_a_refused_reload(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(_file: Path) -> Config:
        raise error

    monkeypatch.setattr(reload, "load", broken)
    (problem,) = await lab.ask()
    assert "not in force" in problem and "hunter22" not in problem and lab.said[-1].startswith("READY=1")
    assert lab.metrics.refused["internal"] == 1
    monkeypatch.setattr(reload, "load", load)
    assert await lab.ask() == []


async def test_a_file_that_never_ends_is_left(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stuck(_file: Path) -> Config:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result(30)
        return lab.config

    monkeypatch.setattr(reload, "READ_S", 0.2)
    monkeypatch.setattr(reload, "load", stuck)
    (problem,) = await lab.ask()
    release.set()
    assert "not read within" in problem
    monkeypatch.setattr(reload, "load", load)
    assert await lab.ask() == []


@pytest.mark.parametrize("left", [0, 1, 4])
async def test_a_reload_that_takes_most_nodes_away_has_to_be_asked_for_twice(lab: Lab, left: int) -> None:
    lab.nodes(MOTES[:left])
    (problem,) = await lab.ask()
    assert f"{10 - left} of 10 nodes are gone" in problem and lab.applied == []
    lab.now += SURE_S - 1
    assert await lab.ask() != [], "an editor may still be at it"
    lab.now += 1
    assert await lab.ask() == [] and len(lab.config.nodes) == left


async def test_the_second_time_counts_only_for_the_same_nodes(lab: Lab) -> None:
    lab.nodes([])
    await lab.ask()
    lab.now += SURE_S
    lab.nodes(MOTES[:1])
    assert await lab.ask() != []
    lab.now += SURE_S
    lab.nodes(MOTES)
    assert await lab.ask() == [] and len(lab.config.nodes) == 10
    lab.nodes([])
    assert await lab.ask() != [], "what was asked for before a sound reload is forgotten"


async def test_the_second_time_counts_for_ten_minutes(lab: Lab) -> None:
    lab.nodes([])
    await lab.ask()
    lab.now += SURE_FOR_S + 1
    assert await lab.ask() != [], "no one who means it waits so long"
    lab.now += SURE_S
    assert await lab.ask() == []


async def test_a_file_that_was_written_again_is_another_write_and_asked_for_anew(lab: Lab) -> None:
    """The first half-written file was mended without a reload; the next one is as empty as the first."""
    whole = (lab.folder / "nodes.toml").read_text()
    lab.nodes([])
    assert await lab.ask() != []
    (lab.folder / "nodes.toml").write_text(whole)
    lab.now += SURE_S
    lab.nodes([])
    assert await lab.ask() != [] and lab.applied == []
    lab.now += SURE_S
    assert await lab.ask() == [], "it has stood there as it is"


async def test_the_second_time_counts_only_for_the_same_files(lab: Lab) -> None:
    text = lab.file.read_text()
    lab.nodes([])
    await lab.ask()
    lab.now += SURE_S
    lab.file.write_text(text + '[output.more]\nkind = "mqtt"\nbroker = "127.0.0.1:1"\nroot = "r"\n')
    assert await lab.ask() != []


async def test_a_node_that_a_missing_line_would_show_to_more_has_to_be_asked_for_twice(lab: Lab) -> None:
    """A registry that is cut before the last line of its last entry: the default circle is wider than the one that was written."""
    text = registry(MOTES[:5]).rpartition("visibility")[0]
    file = lab.folder / "nodes.toml"
    file.write_text(text + 'visibility = "personal"\n')
    assert await lab.ask() == []
    file.write_text(text)
    (problem,) = await lab.ask()
    assert f'{file}: 1 of 1 lines visibility = "personal" are gone from it' in problem
    assert lab.config.nodes[MOTES[4].id].visibility == "personal"
    lab.now += SURE_S
    assert await lab.ask() == [] and lab.config.nodes[MOTES[4].id].visibility == "restricted"


@pytest.mark.parametrize("visibility", ["restricted", "open"])
async def test_a_node_that_is_opened_in_so_many_words_is_opened_at_once(lab: Lab, visibility: str) -> None:
    text = registry(MOTES[:5]).rpartition("visibility")[0]
    for circle in ("personal", visibility):
        (lab.folder / "nodes.toml").write_text(f'{text}visibility = "{circle}"\n')
        assert await lab.ask() == [] and lab.config.nodes[MOTES[4].id].visibility == circle


@pytest.mark.parametrize("left", [5, 8, 10])
async def test_half_of_the_nodes_may_go_at_once(lab: Lab, left: int) -> None:
    lab.nodes(MOTES[10 - left :])
    assert await lab.ask() == [] and len(lab.config.nodes) == left


async def test_few_nodes_may_go_at_once(tmp_path: Path, lab: Lab) -> None:
    lab.nodes(MOTES[5:])
    await lab.ask()
    lab.nodes(MOTES[7:])
    await lab.ask()
    lab.nodes(MOTES[9:])
    assert await lab.ask() == [], "two of three"


RULES = "".join(f'[rule.own-{n}]\nquantity = "pm10"\nabove = {50 + n}\nclear = 40\n' for n in range(5))


@pytest.fixture
async def ruled(lab: Lab) -> Lab:
    """The laboratory with rules of its own in force."""
    text = lab.file.read_text().replace("[link.lora]", 'rules = "rules.toml"\n[link.lora]')
    lab.file.write_text(text)
    (lab.folder / "rules.toml").write_text(RULES)
    assert await lab.ask() == []
    lab.applied.clear()
    return lab


@pytest.mark.parametrize(
    "text", ["", "# nothing yet\n\n", RULES[: RULES.index("[rule.own-2]")]], ids=["empty", "comment", "half"]
)
async def test_a_rules_file_that_is_being_written_takes_no_rules_away(ruled: Lab, text: str) -> None:
    before = ruled.config.rules
    (ruled.folder / "rules.toml").write_text(text)
    (problem,) = await ruled.ask()
    assert f"{ruled.folder}/rules.toml: " in problem and "of 5 entries are gone" in problem
    (ruled.folder / "rules.toml").write_text(RULES)
    assert await ruled.ask() == [] and ruled.config.rules == before
    (ruled.folder / "rules.toml").write_text(text)
    assert await ruled.ask() != []
    ruled.now += SURE_S
    assert await ruled.ask() == [], "asked for again, it is meant"
    assert ruled.config.rules is not None and len(ruled.config.rules.own) == text.count("[rule.")


async def test_one_rule_of_its_own_is_guarded_against_an_empty_file_and_may_go_from_one_that_is_not(ruled: Lab) -> None:
    one = RULES[: RULES.index("[rule.own-1]")]
    ruled.now += SURE_S
    (ruled.folder / "rules.toml").write_text(one)
    await ruled.ask()
    ruled.now += SURE_S
    assert await ruled.ask() == []
    (ruled.folder / "rules.toml").write_text("")
    assert await ruled.ask() != []
    (ruled.folder / "rules.toml").write_text('[rules]\ntime_zone = "Europe/Ljubljana"\n')
    assert await ruled.ask() == []
    ruled.file.write_text(ruled.file.read_text().replace('rules = "rules.toml"', ""))
    (problem,) = await ruled.ask()
    assert "1 of 1 entries" in problem, "a configuration without its line is half a file, too"


async def test_all_that_is_missing_is_named_and_each_has_to_stay_as_it_is(ruled: Lab) -> None:
    outputs = "".join(f'[output.o{n}]\nkind = "mqtt"\nbroker = "127.0.0.1:1"\nroot = "r{n}"\n' for n in range(4))
    text = ruled.file.read_text()
    ruled.file.write_text(text + outputs)
    assert await ruled.ask() == []
    ruled.file.write_text(text)
    ruled.nodes([])
    (ruled.folder / "rules.toml").write_text("")
    await ruled.ask()
    said = [text for text, _ in ruled.reports[-1]]
    assert [s.split("are gone")[0].split(": ")[-1] for s in said] == [
        "10 of 10 nodes ",
        "5 of 5 entries ",
        "4 of 5 outputs ",
    ]
    ruled.now += SURE_S
    (ruled.folder / "rules.toml").write_text(RULES[: RULES.index("[rule.own-1]")])
    assert await ruled.ask() != [], "another file than the one that was asked for"
    ruled.now += SURE_S
    assert await ruled.ask() == []

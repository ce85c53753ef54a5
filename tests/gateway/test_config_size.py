"""Files of 25,000 nodes, sound and with mistakes: work grows with their length, not with its square. Counted, not timed."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from gateway.clock import HostClock
from gateway.config import ConfigError, load, mistakes, table
from gateway.config.nodes import plain_node, read_node
from gateway.config.table import Table
from gateway.core.model import Node
from gateway.metrics import Metrics
from gateway.pipeline import Pipeline
from gateway.store.sqlite import SqliteEngine

LOAD_LINES, FIRST_LINES, SECOND_LINES = 50, 225, 68  # a node
NODE = '[[node]]\nid = {n}\nname = "n-{n}"\nkey = "{key}"\nprofile = "air_quality"\ninterval_s = 600\n'


@contextmanager
def counted() -> Iterator[Callable[[], int]]:
    """Count the lines of Python that run in this thread, and in those that start meanwhile."""
    count = 0

    def trace(_frame: FrameType, what: str, _arg: Any) -> Any:
        nonlocal count
        count += what == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    threading.settrace(trace)
    try:
        yield lambda: count
    finally:
        threading.settrace(None)  # type: ignore[arg-type]
        sys.settrace(before)


def lines_run(folder: Path, nodes: int, wrong: str) -> int:
    """Return how many lines of Python the loader runs for a registry of so many nodes."""
    folder.mkdir()
    text = "".join(NODE.format(n=n, key=f"{n * 2654435761 % 2**128:032x}") for n in range(1000, 1000 + nodes))
    (folder / "nodes.toml").write_text(wrong + text)
    (folder / "gateway.toml").write_text('[gateway]\nid = "g"\n[link.l]\nkind = "udp-forwarder"\nbind = "127.0.0.1:0"\n'
                                         '[output.c]\nkind = "mqtt"\nbroker = "127.0.0.1:1883"\n')  # fmt: skip
    with counted() as count:
        try:
            load(folder / "gateway.toml")
            assert not wrong
        except ConfigError as e:
            assert wrong and "nodes.toml" in str(e)
    return count()


def introduction(folder: Path, nodes: int) -> tuple[int, int]:
    """Return how many lines a first and a second start run from the registry to metadata on the disk, the writer's thread included."""
    folder.mkdir()
    known = {n: Node(n, f"n-{n}", bytes(16), 0, "noise", 600, 45.5, 13.7, "open") for n in range(1000, 1000 + nodes)}

    async def start() -> int:
        with counted() as count:
            engine = SqliteEngine(folder / "g.db", ["city"])
            try:
                await engine.ledger.keep_registry(known, {}, 1.0)
                pipeline = Pipeline(known, engine, HostClock(), Metrics(), lambda: None, lambda _body: None)
                pipeline.introduce()
                await pipeline.settle()
            finally:
                engine.close()
        return count()

    return asyncio.run(start()), asyncio.run(start())


@pytest.mark.parametrize("wrong", ["", "oops\n", "[[node]]\nid = 1\nname =\n", "[[node]]\nid = 1\nnamme = 3\n"])
def test_a_registry_of_four_times_the_length_costs_about_four_times_as_much(tmp_path: Path, wrong: str) -> None:
    few, many = (lines_run(tmp_path / str(n), n, wrong) for n in (200, 800))
    assert many < 4.6 * few, (few, many)


def test_a_text_is_split_once_however_many_nodes_are_wrong(tmp_path: Path) -> None:
    """What a count of lines cannot see: one line that goes through the whole text."""
    table._index.cache_clear()
    lines_run(tmp_path / "x", 300, "".join(f"[[node]]\nid = {n}\nname = {n}\n" for n in range(1, 60)))
    assert table._index.cache_info().misses <= 2


def test_a_long_text_is_not_parsed_again_for_each_of_many_broken_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mistakes, "WORK", 100_000)
    parses: list[int] = []
    monkeypatch.setattr(mistakes, "parse", lambda f, t: (parses.append(len(t)), table.parse(f, t))[1])
    lines_run(tmp_path / "x", 200, "".join(f"[[node]]\nid = {n}\nname =\n" for n in range(1, 60)))
    assert sum(parses) < 200_000 and len(parses) > 2, parses


def test_a_sound_entry_costs_a_few_dozen_lines(tmp_path: Path) -> None:
    """A start with 25,000 nodes has 5 s of CPU for all it does."""
    few, many = (lines_run(tmp_path / str(n), n, "") for n in (200, 800))
    assert (many - few) / 600 <= LOAD_LINES


def test_the_first_start_and_the_second_cost_a_bounded_number_of_lines_a_node(tmp_path: Path) -> None:
    few, many = (introduction(tmp_path / str(n), n) for n in (500, 1500))
    first, second = ((b - a) / 1000 for a, b in zip(few, many, strict=True))
    assert first <= FIRST_LINES and second <= SECOND_LINES, (first, second)


VALUES: dict[str, list[Any]] = {
    "id": [1, 263, 0, -1, 0xFFFF, 0xFFFFFFFE, 0xFFFFFFFF, 2**63, True, 1.0, "1"],
    "key": ["0f" * 16, "0F" * 16, "0f" * 15, "0f" * 16 + "\n", "zz" * 16, 7, ""],
    "name": ["n-1", "", "a" * 32, "a" * 33, "N", "a/b", "a\n", 3, None],
    "epoch": [0, 1, 2**32 - 1, 2**32, -1, True, "0", 1.0],
    "profile": ["noise", "", "Noise", "a b", 1],
    "interval_s": [1, 600, 604800, 604801, 0, False, 60.0],
    "lat": [45.5, 45, 90.0, 90.1, -90.0, float("nan"), float("inf"), True, "1"],
    "lon": [13.7, 13, 180.0, 180.1, float("nan"), False],
    "visibility": ["open", "restricted", "personal", "public", 1],
    "area": ["lot", ["lot", "lot"], [], 3],
    "next_key": ["1f" * 16, "0f" * 16, "x"],
    "next_epoch": [1, 2, 9],
    "nmae": ["x"],
}


def test_what_is_read_the_short_way_is_what_is_read_with_messages() -> None:
    """Every value with every other, in an entry that is right without them; and without a name or a place."""
    whole = {"id": 263, "key": "0f" * 16, "name": "n-1", "lat": 45.5, "lon": 13.7}
    short, pairs = 0, [(key, value) for key, values in VALUES.items() for value in values]
    for first, second in product(pairs, repeat=2):
        for base in (
            whole,
            {key: whole[key] for key in ("id", "key", "name")},
            {key: whole[key] for key in ("id", "key")},
        ):
            entry = base | dict((first, second))
            made = plain_node(entry)
            if made is not None:
                short += 1
                assert made == read_node(Table(Path("nodes.toml"), "", "node", entry))
    assert short > 300

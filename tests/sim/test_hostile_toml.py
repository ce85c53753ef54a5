"""Scenario and board files that are anything: each mistake is an error of the schema with file and key, never a traceback."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from host_sim import boards
from host_sim import compile as mpy
from host_sim.provision import _cuts, _faults
from host_sim.scenario import ScenarioError, load
from host_sim.schema import LARGEST, SchemaError, toml_of
from tests.sim.test_scenario import GOOD

LONG = "9" * 400
HOSTILE: list[tuple[str, str]] = [
    (GOOD.replace("count = 2", f"count = {LONG}"), '"group[1].count"'),
    (GOOD.replace("lat = 45.5", f"lat = {LONG}", 1), '"area.lat"'),
    (GOOD.replace("count = 2", f"count = {'9' * 5000}"), "line 16"),
    (GOOD.replace("lat = 45.5", "lat = inf", 1), '"area.lat"'),
    (GOOD.replace("lat = 45.5", "lat = nan", 1), '"area.lat"'),
    (GOOD.replace("lat = 45.5", "lat = 1e300", 1), '"area.lat"'),
    (GOOD.replace("lat = 45.5", "lat = 91", 1), '"lat"'),
    (GOOD + f"config = {{ a = {'[' * 10_000}{']' * 10_000} }}\n", "nested"),
    (GOOD + f"config.{'a.' * 10_000}b = 1\n", "nested"),
    (GOOD + f"config = {{ a = {'[' * 40}{']' * 40} }}\n", '"group[1].config.a'),
    (GOOD + "config = { a = 2026-01-01 }\n", '"config"'),
    (GOOD.replace("count = 2", "count = 2\0"), "not TOML"),
    (GOOD.replace('name = "aq"', 'name = "../../aq"'), "[[group]] number 1: name"),
    (GOOD.replace('name = "aq"', 'name = ""'), "[[group]] number 1: name"),
    (GOOD + GOOD[GOOD.index("[[group]]") :], "another group"),
    ("scenario = 3\narea = 4\n[[group]]\n", "[scenario] must be a table"),
    ("group = 3\n" + GOOD[: GOOD.index("[[group]]")], "[[group]]"),
    ("group = [3]\n" + GOOD[: GOOD.index("[[group]]")], "[[group]] number 1 must be a table"),
    ("group = []\n" + GOOD[: GOOD.index("[[group]]")], "no [[group]]"),
    ("expect = 3\n" + GOOD, "[expect]"),
    ("requesters = 3\n" + GOOD, "[requesters]"),
    ('requesters = { "a\\n]" = ["b"] }\n' + GOOD, "[requesters]"),
    (GOOD.replace('description = "x"', 'description = "x"\nhours = 1e11'), '"hours"'),
    (GOOD.replace('description = "x"', 'description = "x"\nhours = 0'), '"hours"'),
    (GOOD.replace("2026-03-02", "0001-01-01").replace("Z", "+23:59"), '"start"'),
    (GOOD.replace("2026-03-02T00:00:00Z", "2026-03-02"), '"start"'),
    (GOOD + "row_s = -1\n", '"row_s"'),
]


def refused(file: Path) -> str:
    with pytest.raises(ScenarioError) as e:
        load(str(file))
    text = str(e.value)
    assert str(file) in text and len(text) < 1000
    return text


@pytest.mark.parametrize(("text", "words"), HOSTILE, ids=[str(n) for n in range(len(HOSTILE))])
def test_a_hostile_value_is_named_with_file_and_key(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "s.toml").write_text(text)
    assert words in refused(tmp_path / "s.toml")


def test_what_is_no_file_of_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_bytes(GOOD.encode().replace(b'"x"', b'"\xff"'))
    assert "UTF-8" in refused(file)
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load(str(file)).members(), "a byte order mark is no mistake"
    file.write_bytes(b"#" * (2 << 20))
    assert "larger" in refused(file)
    file.unlink()
    file.mkdir()
    assert "no file" in refused(file)
    file.rmdir()
    os.mkfifo(file)
    assert "no file" in refused(file), "and nothing waits for its writer"
    with pytest.raises(ScenarioError):
        load("nul\0.toml")


KEYS = ["scenario", "area", "group", "receiver", "expect", "command", "power", "loss", "requesters", "lat", "lon", "name", "start",
        "hours", "description", "profile", "count", "eui", "config", "sensors", "alarms", "battery", "drift_ppm", "broken", "node",
        "at_h", "args", "options", "shed", "heap", "way"]  # fmt: skip
SCALARS = st.sampled_from(
    [
        "1",
        "-1",
        "0",
        LONG,
        "inf",
        "-nan",
        "1e308",
        "true",
        '"x"',
        '"air_quality"',
        "2026-03-02T00:00:00Z",
        "2026-01-01",
        "12:00:00",
        '"aa555a0000000001"',
        "[]",
        "{}",
        "[[1]]",
        "[{}]",
        "{ a = 1 }",
    ]  # fmt: skip
)
LINES = st.one_of(
    st.sampled_from(KEYS).map(lambda k: f"[{k}]"),
    st.sampled_from(KEYS).map(lambda k: f"[[{k}]]"),
    st.tuples(st.sampled_from(KEYS), SCALARS).map(lambda kv: f"{kv[0]} = {kv[1]}"),
)


def whole(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


@st.composite
def spoilt(draw: Any) -> str:
    """A good file with some lines in it exchanged, taken away or added, or any lines at all."""
    lines = whole(GOOD) if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(lines)))
        lines[at : at + draw(st.integers(0, 1))] = [draw(LINES)]
    return "\n".join(lines)


@given(text=st.one_of(spoilt(), st.text(max_size=200)))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_scenario_file_is_played_or_refused_by_name(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "s.toml")
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            plan = load(str(file))
            for group, node in plan.members():
                cuts = _cuts(plan, group, node, plan.head.hours, 1)
                assert all(cut.back >= 0 and cut.at < cut.back for cut in cuts)
                _faults(plan, group, node, plan.head.hours)
        except ScenarioError as e:
            assert str(file) in str(e)


@given(text=st.one_of(spoilt(), st.binary(max_size=200).map(lambda b: b.decode("latin-1"))))
@settings(max_examples=200, deadline=None)
def test_any_toml_is_a_table_of_bounded_numbers_or_an_error(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "s.toml")
        file.write_text(text, encoding="utf-8")
        try:
            found = toml_of(file)
        except SchemaError as e:
            assert str(file) in str(e)
            return
        todo: list[Any] = [found]
        while todo:
            value = todo.pop()
            if isinstance(value, dict | list):
                todo += value.values() if isinstance(value, dict) else value
            assert not isinstance(value, int | float) or abs(value) <= LARGEST


@pytest.mark.parametrize("text", [t for t, _ in HOSTILE[:3]] + ["board = 3", "[board]\nchip = 3", "[board]", "\0", "led = 3\n[board]\nchip='x'",
                                  "[board]\nchip='x'\n[heap_kb]\nradio = 'x'", "[board]\nchip = 'x'\nheap_kb = 3"])  # fmt: skip
def test_a_hostile_board_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    monkeypatch.setattr(mpy, "boards_root", lambda: tmp_path)
    with pytest.raises(boards.BoardError, match="mine"):
        boards.wiring("mine")
        boards.heap_kb("mine")

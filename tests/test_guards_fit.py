"""Every row of `make guards` still says something: its text stands once in its file, and the tests that must fail are there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.guards import GUARDS

ROOT = Path(__file__).resolve().parents[1]


def test_the_text_of_every_row_stands_once_in_its_file() -> None:
    texts = {file: (ROOT / file).read_text() for file in {g.file for g in GUARDS}}
    unfit = [f"{g.file}: {g.what}: {n} times" for g in GUARDS if (n := texts[g.file].count(g.before)) != 1]
    assert not unfit and len(GUARDS) > 500


def test_the_tests_of_every_row_are_there_and_no_row_stands_twice() -> None:
    missing = {t for g in GUARDS for t in g.tests if t.startswith("tests/") and not (ROOT / t.split("::")[0]).exists()}
    assert not missing
    assert not [row for row, n in Counter((g.file, g.what, g.before) for g in GUARDS).items() if n > 1]

"""The documents are whole: no line stands twice, as after a merge that took both sides."""

from __future__ import annotations

import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LONG = 60  # characters; shorter lines may stand twice (headings, table heads, code)
ALIKE = 45  # characters by which two neighbouring lines begin alike


def documents() -> list[str]:
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"], cwd=ROOT, capture_output=True, text=True
    )
    return sorted(name for name in done.stdout.split() if (ROOT / name).is_file())


def scars(text: str) -> list[str]:
    """Return the lines that stand twice, and those that begin as the line before."""
    lines = text.splitlines()
    seen: set[str] = set()
    found = []
    for line in lines:
        if len(line) >= LONG and sum(map(str.isalpha, line)) > LONG // 2:
            if line in seen:
                found.append(line)
            seen.add(line)
    return found + [
        b for a, b in pairwise(lines) if len(b) >= ALIKE and not b.startswith("|--") and a[:ALIKE] == b[:ALIKE]
    ]


@pytest.mark.parametrize("name", documents())
def test_no_line_of_a_document_stands_twice(name: str) -> None:
    assert scars((ROOT / name).read_text()) == []


def test_a_scar_is_seen() -> None:
    half = "A node gets another key without a visit: write next_key and next_epoch into its entry and "
    assert scars(f"{half}restart.\n{half}reload.\n") == [f"{half}reload."]
    assert scars(f"{half}\nx\n{half}\n") == [half] and scars("# a\n\n# a\n") == []

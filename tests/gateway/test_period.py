"""Times as operators write them: what is none, or none that there could be readings of, is said in a sentence (exit code 2)."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.outputs.message import iso
from gateway.period import LAST, moment
from tests.gateway.world import REPO

OUT = ["99999999h", "999999999999w", "1969-12-31T23:59:59Z", "0001-01-01T00:00+14:00", "9999-12-31T23:59-12:00"]


@given(st.text(max_size=9) | st.from_regex(r"\A\d{1,30}[mhdw]?\Z") | st.datetimes().map(str) | st.sampled_from(OUT))
@example("9" * 5000 + "d")
@example("9999999999.999")
def test_whatever_is_written_is_a_time_that_can_be_written_again_or_a_sentence(text: str) -> None:
    try:
        t = moment(text)
    except argparse.ArgumentTypeError as e:
        assert "write" in str(e)
    else:
        assert 0 <= t <= LAST and iso(0) <= iso(t) <= iso(LAST)


@pytest.mark.parametrize("text", OUT[:1])
@pytest.mark.parametrize("verb", [["export"], ["replay", "--output", "city"]])
def test_a_time_of_which_there_can_be_nothing_is_a_mistake(verb: list[str], text: str) -> None:
    for period in (["--from", text], ["--from", "1h", "--to", text]):
        command = [sys.executable, "-m", "gateway", verb[0], "--config", "gw.toml", *verb[1:], *period]
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and "write --from 1970-01-01" in done.stderr and "Traceback" not in done.stderr

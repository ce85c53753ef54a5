"""Authentic payloads, datagrams, requests and configuration files of any kind: nothing comes of them but counted refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway.fuzz_gateway import Broken, Gateway, configuration, targets
from tests.gateway.fuzz_seeds import SEEDS, STRATEGIES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    g = Gateway()
    yield g
    g.close()


@pytest.mark.parametrize("target", SEEDS)
def test_every_seed_is_taken_or_refused_by_name(gateway: Gateway, target: str) -> None:
    one = targets(gateway)[target]
    for raw in SEEDS[target]:
        one(raw)


@pytest.mark.parametrize("target", ["payload", "datagram", "request"])
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_comes_is_refused_by_name_and_no_other_node_notices(
    gateway: Gateway, target: str, data: st.DataObject
) -> None:
    targets(gateway)[target](data.draw(STRATEGIES[target]))


@settings(max_examples=150)
@given(data=STRATEGIES["configuration"])
def test_whatever_stands_in_a_file_is_taken_or_refused_with_words(data: bytes) -> None:
    configuration(data)


def test_the_fuzz_sees_a_store_that_refuses_and_an_error_that_is_logged(gateway: Gateway) -> None:
    gateway.metrics.refused["store_failed"] += 1
    with pytest.raises(Broken, match="failed with the store"):
        gateway.payload(b"\x02\xa1\x03\x01")
    gateway.metrics.refused["store_failed"] = 0
    gateway.errors.append({"event": "something"})
    with pytest.raises(Broken, match="something"):
        gateway.datagram(b"\x02{}")


@pytest.mark.soak
@pytest.mark.parametrize("target", SEEDS)
def test_a_coverage_guided_run_of_the_gateway_finds_nothing_but_refusals(target: str, tmp_path: Path) -> None:
    """GATEWAY_FUZZ_S seconds (300) a target; an input that takes longer than 10 s or 2 GiB ends the run too. A finding stays in the folder."""
    pytest.importorskip("atheris", reason="no atheris: pip install -e '.[soak]'")
    seconds = os.environ.get("GATEWAY_FUZZ_S", "300")
    done = subprocess.run(
        [sys.executable, "-m", "tests.gateway.fuzz_gateway_coverage", target, seconds, tmp_path],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'firmware'}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        timeout=int(seconds) + 300,
        check=False,
    )
    tail = done.stderr[-3000:]
    assert done.returncode == 0, tail
    assert "stat::number_of_executed_units" in tail
    print(tail)

"""`citymote bench gateway`: a short run measures everything that it promises, and says what is missing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from gateway.core.decide import decide
from gateway.core.model import Node, NodeState, Reception
from gateway.core.receive import Header, parse
from gateway.crypto import opener
from host_sim.hostile import Stolen
from host_sim.load import Mote
from tools import bench_gateway, bench_hostile, bench_load

CITYMOTE = [sys.executable, "-m", "tools.cli", "bench", "gateway"]
needs_mosquitto = pytest.mark.skipif(
    not (shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")),
    reason="no mosquitto (next: apt-get install mosquitto)",
)
KEYS = {
    "frames_per_s", "cpu_s_per_1000", "cpu_ratio_to_bare", "cpu_ratio_to_bare_min", "p50_ms", "p99_ms", "rss_peak_mib", "messages",
    "share_of_core_at_42_frames_per_s", "bare_cpu_s_per_1000", "ready_s", "first_ready_s", "start", "goals",
}  # fmt: skip


def citymote(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CITYMOTE, *arguments], capture_output=True, text=True, timeout=200)


@pytest.mark.slow
@needs_mosquitto
def test_a_short_run_measures_everything_it_promises() -> None:
    done = citymote(
        "--json", "--frames", "400", "--nodes", "130", "--seconds", "1.5", "--repeats", "2", "--hostile-seconds", "0"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found.keys() >= KEYS
    assert found["ok"] and found["frames"] == 400
    assert found["messages"] == 8 * 400, "five levels, rssi, snr and the SenML pack; presence and metadata came before"
    assert found["paced"]["frames"] == 62 and 35 < found["paced"]["frames_per_s"] < 46
    assert found["counters"]["totals"]["committed"] == 130 + 400 + 62, "warmed up once with each node in use"
    assert found["counters"]["refused"] == {} and found["counters"]["totals"]["downlinks"] > 0
    assert 0 < found["p50_ms"] <= found["p99_ms"] and 0 < found["cpu_ratio_to_bare"] < 20
    assert 0 < found["share_of_core_at_42_frames_per_s"] < 1
    assert 20 < found["rss_start_mib"] <= found["rss_peak_mib"]
    assert set(found["goals"]) == set(bench_gateway.GOALS)
    start = found["start"]
    assert start["second_cpu_s"] > 0 and start["first_cpu_s"] > 0
    assert start["goals"]["first_cpu_s"] == {"at_most": 5.0, "met": start["first_cpu_s"] <= 5.0}


@pytest.mark.slow
@needs_mosquitto
def test_a_stolen_node_is_measured_beside_honest_ones() -> None:
    found = bench_hostile.measure(1.5, 60, lambda *_: None)
    assert found.keys() >= {
        "honest_p99_ratio",
        "rss_peak_mib",
        "messages_per_second",
        "messages_ratio",
        "cpu_us",
        "goals",
    }
    assert (
        found["honest_frames"] > 50 and found["honest_p99_alone_ms"] > 0 and found["honest_messages_per_second"] == 0.9
    )
    reasons = found["refused_as"]
    for kind in (
        "replayed",
        "malformed",
        "bad_tag",
        "unknown_node",
        "wrong_epoch",
        "bad_version",
        "too_short",
        "bad_json",
        "bad_topic",
    ):
        assert reasons[kind].get(kind, 0) >= 55, f"{kind} frames were counted as {reasons[kind]}"
    assert found["cpu_us"].keys() == reasons.keys() >= {"rate_limited"}


def test_the_frames_of_a_stolen_node_are_lawful_and_as_large_as_they_may_be() -> None:
    stolen = Stolen(Mote(300))
    node, state, kinds = Node(300, "n-300", stolen.mote.key), NodeState(), Counter[str]()
    for make in (
        stolen.occurrences,
        stolen.levels,
        stolen.new_quantities,
        stolen.flapping_alarm,
        stolen.odd_alarm,
        stolen.long_status,
    ):
        data = make()
        header = parse(data)
        assert isinstance(header, Header) and len(data) < 1024
        decision = decide(node, state, header, Reception(data, time.time(), "lora", "aa"), opener)
        assert decision.event is not None
        kinds[decision.event.kind] += 1
        if make == stolen.levels:
            assert len(decision.event.times) == 240 and len(decision.event.columns) == 16
    # 3,840 occurrences in one frame are refused, kept raw and charged (core/report.py MAX_EVENTS)
    assert kinds == {"opaque": 1, "report": 2, "alarm": 2, "status": 1}


def test_a_missing_broker_is_said_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_a, **_k: None)
    with pytest.raises(bench_gateway.MosquittoError, match="mosquitto is not installed; next: .*apt-get install"):
        bench_gateway.Mosquitto(tmp_path)


def test_percentiles_and_ids() -> None:
    assert bench_load.percentile([5, 1, 3], 0.5) == 3 and bench_load.percentile([5, 1, 3], 0.99) == 5
    assert bench_load.percentile([], 0.5) == 0.0
    assert bench_load.id_of(b'[{"bn":"x","id":"263:0:2","n":"t"}]') == b"263:0:2" and bench_load.id_of(b"[]") == b""


def test_a_process_costs_what_the_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import time\nt=time.process_time\nwhile t()<0.3: pass\nprint(1,flush=True)\ninput()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as p:  # fmt: skip
        assert p.stdout is not None
        p.stdout.readline()
        assert 0.25 < bench_load.cpu_s(p.pid) < 0.6
        assert bench_load.rss_mib(p.pid) > 3
        p.kill()

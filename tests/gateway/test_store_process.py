"""The real process: killed, its log file taken away, its store deleted; what it gives out then, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from motewire.frame import parse_header

from tests.gateway.conftest import BrokerAddress
from tests.gateway.world import Backend, Concentrator, Mote, Process, frame_of, toml_of


def answers(p: Process, m: Mote, n: int) -> list[int]:
    """Send n status frames; return the downlink counters they are answered under."""
    c, out = Concentrator(p.port), []
    for _ in range(n):
        c.push(m.status({1: 5}, long=True))
        out += [parse_header(frame_of(x))[2] for x in c.pull()]
    assert len(out) == n
    return out


def events(p: Process) -> list[str]:
    return [json.loads(line)["event"] for line in p.log.read_text().splitlines() if line.startswith("{")]


@pytest.mark.parametrize(
    ("ends", "said"), [(("-wal",), "wal_missing"), (("", "-wal", "-shm"), "store_gone"), ((".floor",), "floor_missing")]
)
def test_after_sigkill_and_a_lost_file_no_counter_comes_back_and_it_is_told(
    tmp_path: Path, mosquitto: BrokerAddress, ends: tuple[str, ...], said: str
) -> None:
    m = Mote(263)
    config, backend = toml_of(tmp_path, mosquitto, [m]), Backend(mosquitto)
    p = Process(config)
    store = next(tmp_path.glob("*.db"))
    given = answers(p, m, 5)
    p.process.kill()
    p.process.wait()
    for end in ends:
        Path(f"{store}{end}").unlink(missing_ok=True)
    p = Process(config)
    try:
        again = answers(p, m, 5)
        assert again == sorted(again) and again[0] > given[-1]
        assert said in events(p)
        backend.wait(lambda: any(json.loads(body)["event"] == said for body in backend.on("gw/gw-1/event")))
        assert {f.stat().st_mode & 0o777 for f in tmp_path.glob(f"{store.name}*")} == {0o600}
    finally:
        assert p.stop() == 0

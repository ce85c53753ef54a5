"""The torture of a node: it passes, it has bitten everywhere it says, and it would notice if a promise were broken."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from host_sim import torture as harness
from host_sim import torture_life as life
from host_sim.torture import Job, Result, torture
from host_sim.torture_gateway import Gateway
from tests.tools.test_sim import CITYMOTE
from tests.tools.test_sim import family as descendants

EVERY = int(os.environ.get("TORTURE_EVERY", "32"))


@pytest.fixture(scope="module")
def reduced() -> Result:
    return torture(every=EVERY, second_every=40)


def test_a_node_comes_back_from_a_power_cut_anywhere_with_everything(reduced: Result) -> None:
    assert reduced.ok, json.dumps(reduced.failures, indent=1)
    assert (reduced.lost, reduced.doubled, reduced.counter_reuses, reduced.at_repl) == (0, 0, 0, 0)
    assert reduced.boots == reduced.boots_back_on_uplink == reduced.cut_points > 100
    assert reduced.torn > 30 and reduced.second_cuts > 0


def test_the_life_has_more_than_five_hundred_cut_points_of_every_kind(reduced: Result) -> None:
    """live() itself refuses a life that lacks one of NEEDED."""
    assert reduced.operations > 1000 and len(life.NEEDED) >= 14
    assert reduced.rows > 50


@pytest.mark.slow
def test_one_seed_is_one_life_and_one_set_of_cut_points(tmp_path: Path) -> None:
    """So that the number of a cut point means the same tomorrow."""
    a, b = (torture(only=[(700, False), (701, True)], second_every=0, jobs=jobs).as_dict() for jobs in (1, 2))
    for d in (a, b):
        d.pop("wall_s")
    assert a == b and a["cut_points"] == 2


class Liar(Gateway):
    """Acknowledges what it then forgets: rows are lost without the node's fault."""

    def copy(self) -> Gateway:
        return Liar(self.node, self.keys, self.epoch, self.rekey, dict(self.frames), self.down, self.config)

    def rows(self):
        return [r for r in super().rows() if r[1][0] % 7]


def test_lost_rows_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "Gateway", Liar)
    result = torture(only=[(1500, False)], second_every=0)
    assert not result.ok and result.lost > 0
    assert (
        result.failures[0]["promise"] == "G1" and result.failures[0]["cut"] == 1500 and result.failures[0]["seed"] == 1
    )


def test_a_counter_that_starts_again_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose counter goes back to where it was provisioned: what an erased NVS would do without the copy on flash."""

    def forgetful(self, story, job, image, tally, **how):
        cut = story.cuts[job.index]
        story.cuts[job.index] = harness.Cut(
            cut.index,
            cut.op,
            {"citymote": {"key": life.key(1, 0).hex(), "epoch": 0, "ceiling": 0}},
            cut.gateway,
            cut.rows,
            cut.sealed,
            cut.evicted,
        )
        recover(self, story, job, bytearray(self._factory.image), tally, **how)

    recover = harness.Torturer.recover
    monkeypatch.setattr(harness.Torturer, "recover", forgetful)
    result = torture(only=[(300, False)], second_every=0)
    assert not result.ok and result.counter_reuses > 0
    assert "G2" in {f["promise"] for f in result.failures}


def test_a_node_that_does_not_come_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its flash is blank: no configuration, no way to the gateway."""
    recover = harness.Torturer.recover
    monkeypatch.setattr(harness, "RECOVERY_US", 3_600_000_000)
    monkeypatch.setattr(
        harness.Torturer,
        "recover",
        lambda self, story, job, image, tally, **how: recover(
            self,
            story,
            job,
            bytearray(image).replace(b"citymote", b"citymole").replace(b"config", b"konfig"),
            tally,
            **how,
        ),
    )
    result = torture(only=[(300, False)], second_every=0)
    assert not result.ok and result.boots == 1 and result.boots_back_on_uplink == 0
    assert "G4" in {f["promise"] for f in result.failures}


def test_a_torn_operation_leaves_half_of_it() -> None:
    image = harness.Image(b"\0" * 8192)
    program = harness.Op(0, "x", "p", 1, 16, b"abcdefgh")
    before = image.digest
    data, (digest, _) = harness._at(image, harness.Cut(0, program, {}, Gateway(1, {}), 0, 0, 0), True)
    assert data[4096 + 16 : 4096 + 24] == b"abcd\0\0\0\0" and digest != before == image.digest
    image.apply(program)
    assert image.data[4096 + 16 : 4096 + 24] == b"abcdefgh"
    image.apply(harness.Op(0, "x", "e", 1), half=True)
    assert image.data[4096 : 4096 + 2048] == b"\xff" * 2048 and not any(image.data[4096 + 2048 :])
    assert Job(1, True) == Job(1, True)


def test_the_command_prints_one_document(tmp_path: Path) -> None:
    done = subprocess.run(
        [CITYMOTE, "sim", "torture", "node", "--every", "400", "--json"], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    d = json.loads(done.stdout)
    assert d["ok"] is True and d["lost"] == d["doubled"] == d["counter_reuses"] == d["at_repl"] == 0
    assert d["boots"] == d["boots_back_on_uplink"] == d["cut_points"] > 5
    assert {"seed", "operations", "torn", "second_cuts", "frames", "kinds", "wall_s", "failures"} <= d.keys()


def test_a_cut_point_that_is_none_is_said() -> None:
    for cut, code, words in (("x7", 2, "cut point"), ("999999", 1, "no such cut point")):
        done = subprocess.run(
            [CITYMOTE, "sim", "torture", "node", "--cut", cut], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == code and words in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.slow
def test_ctrl_c_ends_it_and_leaves_nothing_running() -> None:
    run = subprocess.Popen(
        [CITYMOTE, "sim", "torture", "node"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    family: list[int] = []
    while len(family) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
        family = descendants(run.pid)
    assert len(family) >= 4, "two zygotes, each with a node"
    time.sleep(2)
    family = descendants(run.pid)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 130 and "Traceback" not in err, err
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in family) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [pid for pid in family if Path(f"/proc/{pid}").exists()] == []


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2])
def test_every_cut_point(seed: int) -> None:
    result = torture(seed=seed)
    assert result.ok, json.dumps(result.failures, indent=1)
    assert result.cut_points > 2000 and result.boots == result.boots_back_on_uplink == result.cut_points

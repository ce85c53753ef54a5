"""Fleets whose nodes send with micropython-lib's own LoRa driver, on a model of the SX1262's commands."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from host_sim.runner import load, run
from tests.vm import radio
from tests.vm.test_driver_path import driver
from tools.sim import command, verdict


def test_what_is_named_is_what_the_nodes_send_with(tmp_path: Path) -> None:
    """A driver that only complains: no frame is sent, and no node resets for it."""
    (tmp_path / "lora").mkdir()
    for name, text in driver("here").items():
        (tmp_path / "lora" / name).write_text(text)
    plan = load("bad_radio")
    result = run(plan, hours=0.4, nodes=2, driver=tmp_path, keep=tmp_path / "kept")
    assert result.frames == 0 and not result.resets and not result.shed, result
    logs = [p.read_text() for p in (tmp_path / "kept" / "nodes").glob("*/console.log")]
    assert len(logs) == 2 and all("made from here" in text for text in logs)


def test_a_folder_without_a_driver_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["run", "district", "--hours", "0.1", "--driver", str(tmp_path)])
    assert done.exit_code == 1 and "has no lora/" in done.stderr and "next: install lora" in done.stderr, done.output


@pytest.mark.slow
@pytest.mark.skipif(radio.missing() is not None, reason=str(radio.missing()))
def test_a_district_on_the_driver_delivers_what_one_on_the_stand_in_does() -> None:
    folder = Path(os.environ[radio.VARIABLE])
    own, real = (run("district", hours=2, nodes=7, driver=d) for d in (None, folder))
    for result in (own, real):
        assert verdict(result) == 0 and result.sampled == result.delivered > 400, result
    assert (real.sampled, real.frames, real.bytes_on_air) == pytest.approx(
        (own.sampled, own.frames, own.bytes_on_air), rel=0.1
    )
